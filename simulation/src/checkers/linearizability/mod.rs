//! Linearizability of each register, by search over the orders its calls can have happened in.
//!
//! The oracle decides the same by an argument that holds for unique values only. This one knows nothing but what a register is, so that
//! a mistake in either shows as a difference. Runs at the end, since what became of a write with an unknown outcome is
//! told by later reads. Must never: take "undecided" for a pass.

mod search;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::BTreeMap;

use search::Verdict;

use super::calls::{CallEvent, Calls, Invoked, Moment};
use super::unsafe_at;
use crate::observation::{Call, Checker, Key, Observation, Outcome, Serial, Verified, Violation};

const NAME: &str = "linearizability";
/// Steps of the search for one register: about a second. Ordinary histories take a few steps a call.
const STEPS_MAX: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Serial),
    /// `None`: never written, or deleted.
    Read(Option<Serial>),
    /// A compare-and-set that was done, or of unknown outcome.
    Swap {
        expected: Option<Serial>,
        serial: Serial,
    },
    /// A deletion that found something.
    Delete,
    /// A deletion of unknown outcome.
    MayDelete,
}

/// A call that took effect, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: u32,
    pub(crate) call: u64,
    pub(crate) action: Action,
    pub(crate) began: Moment,
    /// None: the outcome is not known. Not of reads.
    pub(crate) ended: Option<Moment>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Linearizability {
    calls: Calls,
    registers: BTreeMap<Key, Vec<Operation>>,
    /// Changes under way or without a known outcome.
    open: BTreeMap<u64, Invoked>,
    /// What was written at which version, as far as clients were told.
    versions: BTreeMap<Key, BTreeMap<u64, Serial>>,
    /// Compare-and-sets that found another version.
    missed: Vec<(Invoked, u64, Moment)>,
    events: u64,
}

impl Linearizability {
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, invoked: &Invoked, action: Action, ended: Option<Moment>) {
        let Some(key) = key_of(&invoked.what) else { return };
        let Invoked { client, call, began, .. } = *invoked;
        self.events += 1;
        let operations = self.registers.entry(key.clone()).or_default();
        operations.push(Operation { client, call, action, began, ended });
    }

    fn ended(&mut self, invoked: &Invoked, outcome: &Outcome, now: Moment) {
        let Some(key) = key_of(&invoked.what) else { return };
        if !matches!(outcome, Outcome::Unknown(_)) {
            self.open.remove(&invoked.call);
        }
        let mut learn = |version: u64, serial: Serial| {
            self.versions.entry(key.clone()).or_default().insert(version, serial);
        };
        match (&invoked.what, outcome) {
            (Call::Write { serial, .. }, Outcome::Set(version))
            | (Call::Swap { serial, .. }, Outcome::Set(version)) => learn(*version, *serial),
            (_, Outcome::Found { serial, version }) => learn(*version, *serial),
            _ => {}
        }
        match (&invoked.what, outcome) {
            (Call::Write { serial, .. }, Outcome::Written | Outcome::Set(_)) => {
                self.add(invoked, Action::Write(*serial), Some(now));
            }
            (Call::Swap { expected, serial, .. }, Outcome::Set(_)) => {
                self.add(invoked, Action::Swap { expected: *expected, serial: *serial }, Some(now));
            }
            (Call::Swap { .. }, Outcome::Missed { current: None })
            | (Call::Delete { .. }, Outcome::Deleted(None)) => {
                self.add(invoked, Action::Read(None), Some(now));
            }
            (Call::Swap { .. }, Outcome::Missed { current: Some(version) }) => {
                self.missed.push((invoked.clone(), *version, now));
            }
            (Call::Delete { .. }, Outcome::Deleted(Some(_))) => self.add(invoked, Action::Delete, Some(now)),
            (Call::Read { .. }, outcome) if let Some(value) = outcome.value() => {
                self.add(invoked, Action::Read(value), Some(now));
            }
            _ => {}
        }
    }

    /// No more calls complete.
    fn close(&mut self) {
        for invoked in std::mem::take(&mut self.open).into_values() {
            let action = match invoked.what {
                Call::Write { serial, .. } => Action::Write(serial),
                Call::Swap { expected, serial, .. } => Action::Swap { expected, serial },
                Call::Delete { .. } => Action::MayDelete,
                _ => continue,
            };
            self.add(&invoked, action, None);
        }
        // One that found another version has read what was written at it; if nobody was told what that is, it proves nothing.
        for (invoked, version, now) in std::mem::take(&mut self.missed) {
            let known = key_of(&invoked.what).and_then(|key| self.versions.get(key)?.get(&version)).copied();
            if let Some(serial) = known {
                self.add(&invoked, Action::Read(Some(serial)), Some(now));
            }
        }
    }
}

fn changes(what: &Call) -> bool {
    matches!(what, Call::Write { .. } | Call::Swap { .. } | Call::Delete { .. })
}

/// The register that a call is about, if it is one of those that are looked at.
fn key_of(what: &Call) -> Option<&Key> {
    match what {
        Call::Write { key, .. } | Call::Read { key } | Call::Swap { key, .. } | Call::Delete { key } => {
            (!key.is_brief()).then_some(key)
        }
        _ => None,
    }
}

impl Checker for Linearizability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        match self.calls.see(observation) {
            Some((_, CallEvent::Invoked(invoked))) if changes(&invoked.what) => {
                self.open.insert(invoked.call, invoked.clone());
            }
            Some((now, CallEvent::Completed(invoked, outcome))) => self.ended(&invoked, outcome, now),
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        self.close();
        let mut undecided = 0;
        for (key, operations) in &self.registers {
            match search::check(operations, STEPS_MAX) {
                Verdict::Valid => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Invalid { at } => {
                    let witness = witness::minimal(operations, at, STEPS_MAX);
                    let told = witness::tell(&witness);
                    let what = format!("{key}: no order of these calls explains them: {told}");
                    return Err(unsafe_at(NAME, at.at_ns, what));
                }
            }
        }
        let claim = format!("the calls on each of {} registers fit one order", self.registers.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided })
    }
}
