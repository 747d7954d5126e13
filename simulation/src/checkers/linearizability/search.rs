//! The search: Wing and Gong's with memory, in the form of Lowe's just-in-time linearization.
//!
//! Wing and Gong, "Testing and Verifying Concurrent Objects" (JPDC 17, 1993); Lowe, "Testing for Linearizability" (Concurrency
//! and Computation 29, 2017), section 4. The events are gone through in order of time with the set of all *configurations*
//! that the register can be in: its value, and which of the calls under way have taken effect. A call need not take effect
//! before it ends, so configurations are only worked out when one ends; those in which it can not have taken effect are
//! dropped. None left: no order explains the history. At a quiet point, with no call under way, configurations are values, so
//! long histories cost no more than their parts.
//!
//! A write without a known outcome that nobody read can be left out: whatever order has it still fits without it. One that
//! was read took effect before the first such read ended, so that is its end. A deletion leaves nothing that says whose it is: one of unknown
//! outcome may take effect at any time, and of several the first that began goes first, since they are all alike.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Operation};
use crate::checkers::calls::Moment;
use crate::observation::Serial;

/// Calls under way at once that a configuration has room for.
const UNDER_WAY_MAX: usize = u128::BITS as usize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Valid,
    /// What was seen until then fits no order.
    Invalid {
        at: Moment,
    },
    /// The budget was used up.
    Undecided,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    action: Action,
    began: Moment,
    /// None: it may take effect at any time from then on, or never.
    ended: Option<Moment>,
}

impl Action {
    /// What it leaves when it takes effect on a value; none if it can not.
    fn on(self, value: Option<Serial>) -> Option<Option<Serial>> {
        match self {
            Self::Write(serial) => Some(Some(serial)),
            Self::Read(read) => (read == value).then_some(value),
            Self::Swap { expected, serial } => (expected == value).then_some(Some(serial)),
            // What it found may be a write of unknown outcome that nobody has read: those are left out.
            Self::Delete => Some(None),
            Self::MayDelete => value.is_some().then_some(None),
        }
    }

    fn writes(self) -> Option<Serial> {
        match self {
            Self::Write(serial) | Self::Swap { serial, .. } => Some(serial),
            Self::Read(_) | Self::Delete | Self::MayDelete => None,
        }
    }

    /// What it found, if it took effect.
    fn finds(self) -> Option<Serial> {
        match self {
            Self::Read(found) | Self::Swap { expected: found, .. } => found,
            Self::Write(_) | Self::Delete | Self::MayDelete => None,
        }
    }
}

/// One state that the register can be in. A bit is set for a slot whose call has taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Configuration {
    value: Option<Serial>,
    done: u128,
}

/// Drops what proves nothing and gives every write an end; or says when a read returned what had not begun to be written.
fn spans(operations: &[Operation]) -> Result<Vec<Span>, Moment> {
    let mut writes: BTreeMap<Serial, Moment> = BTreeMap::new();
    for operation in operations {
        if let Some(serial) = operation.action.writes() {
            let earlier = writes.insert(serial, operation.began);
            assert!(
                earlier.is_none(),
                "serial {serial} was written twice: the workload makes each write unique"
            );
        }
    }
    let mut first_found: BTreeMap<Serial, Moment> = BTreeMap::new();
    let mut impossible: Option<Moment> = None;
    loop {
        let mut changed = false;
        for operation in operations {
            let Some(found) = operation.action.finds() else { continue };
            // One of unknown outcome has found something only if it was done, which is known by whoever found what it wrote.
            let written = operation.action.writes().and_then(|serial| first_found.get(&serial).copied());
            let Some(ended) = operation.ended.or(written) else { continue };
            if writes.get(&found).is_none_or(|began| *began > ended) {
                impossible = Some(impossible.map_or(ended, |at| at.min(ended)));
            }
            let first = first_found.entry(found).or_insert(Moment { step: u64::MAX, ..ended });
            changed |= ended < *first;
            *first = ended.min(*first);
        }
        if !changed {
            break;
        }
    }
    if let Some(at) = impossible {
        return Err(at);
    }
    let span = |operation: &Operation| {
        let found = operation.action.writes().and_then(|serial| first_found.get(&serial).copied());
        let ended = operation.ended.or(found);
        let counts = ended.is_some() || operation.action == Action::MayDelete;
        counts.then_some(Span { action: operation.action, began: operation.began, ended })
    };
    Ok(operations.iter().filter_map(span).collect())
}

/// Whether a register, at first never written, can have answered so. At most `steps_max` steps.
pub(crate) fn check(operations: &[Operation], steps_max: u64) -> Verdict {
    match spans(operations) {
        Ok(spans) => Search::new(steps_max).run(&spans),
        Err(at) => Verdict::Invalid { at },
    }
}

struct Search {
    configurations: BTreeSet<Configuration>,
    /// Calls under way.
    slots: Vec<Option<Action>>,
    steps_left: u64,
}

impl Search {
    fn new(steps_max: u64) -> Self {
        let initial = Configuration { value: None, done: 0 };
        Self { configurations: BTreeSet::from([initial]), slots: Vec::new(), steps_left: steps_max }
    }

    fn run(mut self, spans: &[Span]) -> Verdict {
        let edges = spans.iter().enumerate();
        // A write that ends with the read that told of it is closed first; either way the configurations come out the same.
        let mut edges: Vec<(u64, bool, usize)> = edges
            .flat_map(|(i, s)| {
                let end = s.ended.map(|ended| (ended.step, true, i));
                [(s.began.step, false, i)].into_iter().chain(end)
            })
            .collect();
        edges.sort_unstable();
        let mut slot_of = vec![0; spans.len()];
        for (_, is_end, i) in edges {
            if !is_end {
                let Some(slot) = self.begin(spans[i].action) else { return Verdict::Undecided };
                slot_of[i] = slot;
            } else if !self.end(slot_of[i]) {
                return Verdict::Undecided;
            } else if self.configurations.is_empty() {
                return Verdict::Invalid { at: spans[i].ended.expect("it ends here") };
            }
        }
        Verdict::Valid
    }

    /// A call begins: gives back its slot, if there is one left.
    fn begin(&mut self, action: Action) -> Option<usize> {
        let slot = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if slot == UNDER_WAY_MAX {
            return None;
        }
        self.slots.resize(self.slots.len().max(slot + 1), None);
        self.slots[slot] = Some(action);
        if let Action::Read(_) = action {
            let configurations = std::mem::take(&mut self.configurations);
            self.configurations = configurations.into_iter().map(|c| self.read_all(c)).collect();
        }
        Some(slot)
    }

    /// Reads change nothing, so one that can take effect at once loses nothing by it.
    fn read_all(&self, mut configuration: Configuration) -> Configuration {
        for (slot, action) in self.slots.iter().enumerate() {
            if *action == Some(Action::Read(configuration.value)) {
                configuration.done |= 1 << slot;
            }
        }
        configuration
    }

    /// A call ends: only configurations in which it took effect go on. False if the budget is used up.
    fn end(&mut self, slot: usize) -> bool {
        let bit = 1u128 << slot;
        let mut seen = self.configurations.clone();
        let mut to_do: Vec<Configuration> = self.configurations.iter().copied().collect();
        let mut next = BTreeSet::new();
        while let Some(configuration) = to_do.pop() {
            if configuration.done & bit != 0 {
                next.insert(Configuration { done: configuration.done & !bit, ..configuration });
                continue;
            }
            let mut tried_deletion = false;
            for (other, action) in self.slots.iter().enumerate() {
                let Some(action) = *action else { continue };
                if configuration.done & (1 << other) != 0 || matches!(action, Action::Read(_)) {
                    continue;
                }
                let is_second = action == Action::MayDelete && std::mem::replace(&mut tried_deletion, true);
                let Some(value) = action.on(configuration.value).filter(|_| !is_second) else { continue };
                let Some(left) = self.steps_left.checked_sub(1) else { return false };
                self.steps_left = left;
                let written = Configuration { value, done: configuration.done | 1 << other };
                let written = self.read_all(written);
                if seen.insert(written) {
                    to_do.push(written);
                }
            }
        }
        self.slots[slot] = None;
        self.configurations = next;
        true
    }
}
