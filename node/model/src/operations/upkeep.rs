//! Runs that the fleet keeps up: how many copies there are to be, where each is, and what may still run.
//!
//! A copy is made by a part of an operation: the run's own, or one of a later operation that replaces it. So every replacement is an operation
//! like any other, with its record. The copy that counts is the one whose part the record names; any other container of the run is a leftover,
//! on a host that was thought dead. A part that has not ended is moved like other work, under its lease; one that has ended holds none, so a copy on a
//! host that is not heard of may run on there, beside its replacement, until that host asks.
//!
//! Invariants: a copy's part is of its run, or of an operation that replaces this copy; a run that is stopped has no open part.

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;

use super::kind::{OperationKind, RunSpec, Upkeep};
use super::placement::Places;
use super::record::*;
use super::table::{Operations, Submission, SubmitError, clip};
use crate::container::{CopyOf, Origin};

/// Most runs that a group keeps up, and most copies of all of them.
pub const KEPT_MAX: usize = 256;
pub const KEPT_COPIES_MAX: usize = 4_096;
/// Longest pause before a copy is replaced that went down again and again.
pub const REPAIR_PAUSE_MAX_MS: u64 = 60_000;
/// A copy that was up for so long begins with a short pause again.
const SETTLED_MS: u64 = 60_000;

/// Pause before a copy is replaced that went down `failures` times in a row: 1, 2, 4 s and so on.
pub fn repair_pause_ms(failures: u32) -> u64 {
    (1_000 << failures.saturating_sub(1).min(6)).min(REPAIR_PAUSE_MAX_MS)
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CopyState {
    /// Its part has not ended.
    Starting,
    /// It was started by this attempt, and nobody has heard otherwise.
    Up { token: u32, container: String, since: LogTime },
    /// It is to be replaced, not before this moment.
    Down { why: String, not_before: LogTime },
    /// It has done what it was there for, and ended well.
    Completed,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeptCopy {
    pub part: SubKey,
    pub node: NodeId,
    pub state: CopyState,
    /// Times in a row that it went down soon.
    pub failures: u32,
    /// The container that it is to take the place of, while it is not up yet.
    pub previous: Option<Previous>,
}

/// A container that counted as a copy, and may run until its replacement is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Previous {
    pub part: SubKey,
    pub token: u32,
    pub node: NodeId,
}

/// A run that is kept up.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Kept {
    pub run: OperationId,
    pub session: SessionId,
    pub spec: RunSpec,
    pub places: Places,
    pub timeout_ms: u64,
    /// Somebody wants none of it to run for now.
    pub stopped: bool,
    pub copies: Vec<KeptCopy>,
}

/// What is to become of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum UpkeepChange {
    Stop,
    Start,
    /// It is kept no more, and what is left of it goes.
    Release,
}

/// What a node found out about a copy that it has.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum CopyNews {
    /// The container is gone, or can not be started again.
    Lost { why: String },
    /// The container ended with exit code 0.
    Completed,
}

/// What is to become of a container, by its labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Verdict {
    /// Its attempt is under way, as far as the log knows: that is who decides.
    Wait,
    /// It is its owner's: do nothing.
    Leave,
    /// It counts as a copy: it should run.
    Keep,
    /// It counts as a copy, and should not run for now.
    Stop,
    /// Something else has taken its place, or nobody wants it any more.
    Remove,
}

/// Work that another node is to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Move {
    pub sub: SubKey,
    pub from: NodeId,
    pub to: NodeId,
    pub why: String,
}

/// The part of a copy that an operation is to replace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Replaced {
    pub copy: CopyOf,
    pub part: SubKey,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum UpkeepError {
    #[error("there is no run {0} that is kept up")]
    Unknown(OperationId),
}

impl Kept {
    /// Whether a copy could be replaced now, were it not for its node.
    pub fn is_due(&self, copy: usize, now: LogTime) -> bool {
        !self.stopped
            && matches!(self.copies[copy].state, CopyState::Down { not_before, .. } if not_before <= now)
    }

    /// What it takes in a message, about.
    pub fn bytes_about(&self) -> usize {
        1_024 + self.spec.container.text_bytes() + self.copies.len() * (TEXT_BYTES_MAX + 128)
    }

    pub fn is_up(&self, copy: usize) -> bool {
        matches!(self.copies[copy].state, CopyState::Up { .. })
    }
}

impl Operations {
    /// Whether there is room for another run of so many copies.
    pub(super) fn check_room_for(&self, run: &RunSpec) -> Result<(), SubmitError> {
        let copies: usize = self.kept.values().map(|kept| kept.copies.len()).sum();
        let full = self.kept.len() >= KEPT_MAX || copies + run.copies as usize > KEPT_COPIES_MAX;
        if run.upkeep == Upkeep::Keep && full { Err(SubmitError::KeptFull) } else { Ok(()) }
    }

    /// Begins the upkeep of an operation that was just recorded, if it asks for it.
    pub(super) fn begin_upkeep(&mut self, id: OperationId) {
        let operation = &self.records[&id];
        let OperationKind::Run(spec) = &operation.kind else { return };
        if spec.upkeep != Upkeep::Keep {
            return;
        }
        let mut copies: Vec<Option<KeptCopy>> = vec![None; spec.copies as usize];
        for (index, sub) in operation.subs.iter().enumerate() {
            let part = SubKey { operation: id, index: index as u32 };
            let copy =
                KeptCopy { part, node: sub.node, state: CopyState::Starting, failures: 0, previous: None };
            copies[sub.work as usize] = Some(copy);
        }
        let kept = Kept {
            run: id,
            session: operation.session.clone(),
            spec: (**spec).clone(),
            places: operation.places.clone(),
            timeout_ms: operation.timeout_ms,
            stopped: false,
            copies: copies.into_iter().map(|copy| copy.expect("a run has a part for each copy")).collect(),
        };
        self.kept.insert(id, kept);
    }

    /// Carries over what became of the parts of an operation to the copies that they are of.
    pub(super) fn note_copies(&mut self, id: OperationId, now: LogTime) {
        let Self { records, kept, .. } = self;
        let Some(operation) = records.get(&id) else { return };
        let OperationKind::Run(spec) = &operation.kind else { return };
        if spec.upkeep == Upkeep::None {
            return;
        }
        for (index, sub) in operation.subs.iter().enumerate() {
            let Some(CopyOf { run, copy }) = spec.copy_of(id, sub.work) else { continue };
            let part = SubKey { operation: id, index: index as u32 };
            let copy = kept.get_mut(&run).and_then(|kept| kept.copies.get_mut(copy as usize));
            let Some(copy) = copy.filter(|c| c.part == part && c.state == CopyState::Starting) else {
                continue;
            };
            copy.node = sub.node;
            match &sub.state {
                SubState::Assigned { .. } | SubState::Running(_) => {}
                SubState::Succeeded { result } => {
                    copy.previous = None;
                    copy.state = CopyState::Up { token: sub.attempts, container: result.clone(), since: now };
                }
                SubState::Failed { error } => copy.go_down(error.clone(), now),
                SubState::Cancelled => copy.go_down("it was cancelled".to_owned(), now),
            }
        }
    }

    /// A node says what became of the container that this attempt made. Whether it is news.
    pub fn copy_news(&mut self, origin: &Origin, node: NodeId, news: CopyNews, now: LogTime) -> bool {
        let Some(CopyOf { run, copy }) = origin.kept else { return false };
        let copy = self.kept.get_mut(&run).and_then(|kept| kept.copies.get_mut(copy as usize));
        let counts = |c: &&mut KeptCopy| {
            c.part == origin.sub
                && c.node == node
                && matches!(c.state, CopyState::Up { token, .. } if token == origin.token)
        };
        let Some(copy) = copy.filter(counts) else { return false };
        match news {
            CopyNews::Lost { why } => copy.go_down(clip(why), now),
            CopyNews::Completed => copy.state = CopyState::Completed,
        }
        true
    }

    /// Stops, starts or ends the upkeep of a run.
    pub fn change_upkeep(
        &mut self,
        run: OperationId,
        change: UpkeepChange,
        now: LogTime,
        unix_ms: u64,
    ) -> Result<(), UpkeepError> {
        let kept = self.kept.get_mut(&run).ok_or(UpkeepError::Unknown(run))?;
        match change {
            UpkeepChange::Start => {
                // All begins anew, also what has completed: what ended when it was told to looks the same.
                let again = kept.copies.iter_mut().filter(|copy| match copy.state {
                    CopyState::Completed => true,
                    CopyState::Up { .. } => kept.stopped,
                    CopyState::Starting | CopyState::Down { .. } => false,
                });
                for copy in again {
                    copy.previous = None;
                    copy.state = CopyState::Down { why: "it is started again".to_owned(), not_before: now };
                }
                kept.stopped = false;
                return Ok(());
            }
            UpkeepChange::Stop => kept.stopped = true,
            UpkeepChange::Release => {}
        }
        let parts: Vec<SubKey> = kept.copies.iter().map(|copy| copy.part).collect();
        for part in parts {
            if let Some(sub) = self.sub_mut(part).filter(|sub| !sub.state.is_terminal()) {
                sub.state = SubState::Cancelled;
                sub.ended_unix_ms = Some(unix_ms);
                self.end_if_done(part.operation, now, unix_ms);
            }
        }
        if change == UpkeepChange::Release {
            self.kept.remove(&run);
        }
        Ok(())
    }

    /// Adds an operation that takes the place of a copy. Refused (`None`) if the copy is another's by now, or its part is still under way.
    pub fn repair(
        &mut self,
        id: OperationId,
        now: LogTime,
        submission: Submission,
        replaced: Replaced,
    ) -> Option<Result<OperationId, SubmitError>> {
        let CopyOf { run, copy } = replaced.copy;
        let is_its = matches!(&submission.kind, OperationKind::Run(spec)
            if spec.upkeep == Upkeep::Replaces(replaced.copy) && spec.copies == 1 && submission.parts.len() == 1);
        let kept = self
            .kept
            .get(&run)
            .filter(|kept| !kept.stopped && is_its && kept.session == submission.session)?;
        let known = kept.copies.get(copy as usize).filter(|known| {
            known.part == replaced.part
                && matches!(known.state, CopyState::Up { .. } | CopyState::Down { .. })
        })?;
        let (failures, old) = (known.failures, known.part);
        let previous = match known.state {
            CopyState::Up { token, .. } => Some(Previous { part: known.part, token, node: known.node }),
            _ => known.previous,
        };
        // One that fails again and again would push all others off the record.
        let failed = |operation: &Operation| operation.state() == OperationState::Failed;
        if old.operation != run && self.records.get(&old.operation).is_some_and(failed) {
            self.records.remove(&old.operation);
        }
        let submitted = self.submit(id, now, submission);
        if submitted == Ok(id) {
            let node = self.records[&id].subs[0].node;
            let copy = &mut self.kept.get_mut(&run).expect("found above").copies[copy as usize];
            let part = SubKey { operation: id, index: 0 };
            *copy = KeptCopy { part, node, state: CopyState::Starting, failures, previous };
        }
        Some(submitted)
    }

    /// Gives open parts to other nodes; those that may not go are left. A part that may run once only stays while its lease, and the grace after
    /// it, last. How many went.
    pub fn relocate(&mut self, moves: &[Move], now: LogTime) -> u32 {
        let mut moved = 0;
        for Move { sub: key, from, to, why } in moves {
            let Some(operation) = self.records.get_mut(&key.operation) else { continue };
            let (twice, may_move) = (operation.kind.may_run_twice(), operation.kind.may_move());
            let Some(sub) = operation.subs.get(key.index as usize) else { continue };
            let (is_free, work) = (sub.is_free(twice, now), sub.work);
            // Whoever does the same piece already would do it for two.
            let taken = operation.subs.iter().any(|other| other.work == work && other.node == *to);
            let sub = &mut operation.subs[key.index as usize];
            if !may_move || !is_free || taken || sub.node != *from {
                continue;
            }
            sub.node = *to;
            sub.incarnation = 0;
            sub.why = Some(super::table::clip_why(why.clone()));
            sub.state = SubState::Assigned { not_before: now };
            sub.progress = Progress::default();
            moved += 1;
            self.note_copies(key.operation, now);
        }
        moved
    }

    /// What is to become of a container on `node` with these labels.
    pub fn verdict(&self, origin: &Origin, node: NodeId) -> Verdict {
        let is_its = |sub: &SubOperation| sub.attempts == origin.token;
        let record = self.records.get(&origin.sub.operation);
        let sub = record.and_then(|operation| operation.subs.get(origin.sub.index as usize));
        let Some(CopyOf { run, copy }) = origin.kept else {
            // Of what is no longer on record nothing bad is known.
            return match sub {
                None => Verdict::Leave,
                // Only another attempt makes it a leftover: its node may have come back under another id.
                Some(sub) if !is_its(sub) => Verdict::Remove,
                Some(sub) => match sub.state {
                    SubState::Running(_) => Verdict::Wait,
                    SubState::Succeeded { .. } => Verdict::Leave,
                    SubState::Assigned { .. } | SubState::Failed { .. } | SubState::Cancelled => {
                        Verdict::Remove
                    }
                },
            };
        };
        let kept = self.kept.get(&run);
        let Some((kept, copy)) = kept.and_then(|kept| Some((kept, kept.copies.get(copy as usize)?))) else {
            return Verdict::Remove;
        };
        if copy.part != origin.sub || copy.node != node {
            let waits = copy.previous.is_some_and(|p| {
                (p.part, p.token, p.node) == (origin.sub, origin.token, node)
                    && p.node != copy.node
                    && !kept.stopped
            });
            return if waits { Verdict::Leave } else { Verdict::Remove };
        }
        match &copy.state {
            CopyState::Up { token, .. } if *token == origin.token && !kept.stopped => Verdict::Keep,
            CopyState::Up { token, .. } if *token == origin.token => Verdict::Stop,
            CopyState::Starting
                if sub.is_some_and(|s| {
                    s.node == node && is_its(s) && matches!(s.state, SubState::Running(_))
                }) =>
            {
                Verdict::Wait
            }
            CopyState::Completed => Verdict::Leave,
            _ => Verdict::Remove,
        }
    }

    /// Whether a part has been given up where it was.
    pub fn has_failed(&self, part: SubKey) -> bool {
        let sub = self.records.get(&part.operation).and_then(|of| of.subs.get(part.index as usize));
        sub.is_some_and(|sub| matches!(sub.state, SubState::Failed { .. }))
    }

    /// Runs that are kept up, oldest first.
    pub fn kept(&self) -> impl ExactSizeIterator<Item = &Kept> {
        self.kept.values()
    }

    pub fn kept_run(&self, run: OperationId) -> Option<&Kept> {
        self.kept.get(&run)
    }

    /// Adds one that was read from a snapshot; an error if it breaks an invariant.
    pub(super) fn load_kept(&mut self, kept: Kept) -> Result<(), String> {
        let run = kept.run;
        if kept.session.partition() != run.partition || kept.copies.len() != kept.spec.copies as usize {
            return Err(format!("the run {run} has another's session, or not all of its copies"));
        }
        match self.kept.insert(run, kept) {
            None => Ok(()),
            Some(_) => Err(format!("the run {run} is there twice")),
        }
    }
}

impl KeptCopy {
    fn go_down(&mut self, why: String, now: LogTime) {
        let settled = matches!(self.state, CopyState::Up { since, .. } if now.0 >= since.0 + SETTLED_MS);
        self.failures = if settled { 1 } else { self.failures.saturating_add(1) };
        let not_before = LogTime(now.0 + repair_pause_ms(self.failures));
        self.state = CopyState::Down { why, not_before };
    }
}

#[cfg(test)]
#[path = "upkeep_tests.rs"]
mod tests;
