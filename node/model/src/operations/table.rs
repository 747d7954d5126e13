//! The table of operations and its transitions, all of them total: a bad request is a reply, never a panic.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;

use super::command::{Failure, FailureKind};
use super::kind::{OperationKind, Upkeep, Work};
use super::placement::Places;
use super::record::*;
use super::upkeep::{CopyState, KEPT_COPIES_MAX, KEPT_MAX, Kept, KeptCopy};
use crate::container::SpecError;

/// Most operations of a group that have not ended. Each is in every snapshot and is offered to its nodes.
pub const ACTIVE_MAX: usize = 1_000;
/// Most sub-operations of a group's operations that have not ended: 16 of the largest operations.
pub const ACTIVE_SUBS_MAX: usize = 65_536;
/// Most ended operations that a group keeps, most sub-operations of them, and for how long (log time).
pub const ENDED_MAX: usize = 1_000;
pub const ENDED_SUBS_MAX: usize = 65_536;
pub const ENDED_KEPT_MS: u64 = 24 * 3_600_000;
/// Most bytes of the reason why a node was chosen.
pub const WHY_BYTES_MAX: usize = 160;
/// Most sub-operations of one operation.
pub const SUBS_MAX: usize = 4_096;
/// Most images and sub-operations in a page of a listing; its first operation may have more.
pub const PAGE_PARTS_MAX: usize = 1_024;
/// Longest time an operation may take.
pub const TIMEOUT_MAX_MS: u64 = 24 * 3_600_000;

/// A request for an operation, with the nodes already chosen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Submission {
    pub session: SessionId,
    pub kind: OperationKind,
    pub strategy: Strategy,
    pub places: Places,
    /// Who does what.
    pub parts: Vec<Part>,
    /// See [`Operation::left_out`]; the first ones are kept.
    pub left_out: Vec<LeftOut>,
    pub timeout_ms: u64,
    pub submitted_by: NodeId,
    pub unix_ms: u64,
    pub retry_of: Option<OperationId>,
    /// blake3 of all that was asked for but the time it may take: what makes two requests under one key the same.
    pub asked: [u8; 32],
    /// blake3 of the session and the client's idempotency key in it: a second submission under the same key is the first one.
    pub key: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum SubmitError {
    #[error("an operation needs at least one image or container, and one node")]
    Empty,
    #[error("an operation can have {0} pieces of work of its kind, and {SUBS_MAX} sub-operations at most")]
    TooManySubs(u32),
    #[error("{0}")]
    Container(String),
    #[error("{0}")]
    Build(String),
    #[error("the session's group keeps as many runs up as it can: {KEPT_MAX}, or {KEPT_COPIES_MAX} copies")]
    KeptFull,
    #[error("a timeout is between 1 ms and 24 h")]
    Timeout,
    #[error(
        "{ACTIVE_MAX} operations or {ACTIVE_SUBS_MAX} sub-operations are under way in the session's group, the most there can be"
    )]
    Busy,
    #[error("a part of the operation is for work that is none of it")]
    Part,
    #[error("{0:?} is not a session of this partition")]
    Session(String),
    #[error("this idempotency key was used for another request, {0}")]
    KeyReused(OperationId),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum CancelError {
    #[error("there is no such operation")]
    Unknown,
    #[error("the operation has ended already")]
    Ended,
}

/// Answer to a node that wants to start a sub-operation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClaimReply {
    /// Go ahead with this, for [`LEASE_MS`] from before the claim was sent.
    Granted { token: u32, work: Box<Work> },
    /// Ask again after so long.
    NotYet { wait_ms: u64 },
    /// Nothing to do: it has ended, is gone, or is another node's.
    Gone,
}

/// Which operations are asked for, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Listing {
    /// Of this session only.
    pub session: Option<SessionId>,
    /// Only those that have not ended.
    pub active: bool,
    /// Of this kind only: see [`OperationKind::name`].
    pub kind: Option<String>,
    /// Only those in this state.
    pub state: Option<OperationState>,
    /// Only those that were submitted since then, by the wall clocks of the nodes that took them.
    pub since_unix_ms: u64,
    pub limit: u32,
    /// Only those submitted before this one: the last of the page before.
    pub before: Option<OperationId>,
}

impl Listing {
    /// Whether an operation is one of those asked for, wherever the page begins.
    pub fn wants(&self, operation: &Operation) -> bool {
        let Self { session, active, kind, state, since_unix_ms, limit: _, before: _ } = self;
        session.as_ref().is_none_or(|session| operation.session == *session)
            && (!active || operation.ended.is_none())
            && operation.submitted_unix_ms >= *since_unix_ms
            && kind.as_ref().is_none_or(|kind| operation.kind.name() == kind)
            && state.is_none_or(|state| operation.state() == state)
    }
}

/// A page of operations, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Listed {
    pub operations: Vec<Operation>,
    /// There are more behind these that are asked for.
    pub more: bool,
    /// The last operation that was there, asked for or not: what is behind it in the log came after this was read.
    pub last: Option<OperationId>,
}

/// What became of an attempt's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finished {
    Ended,
    /// The failure was a transient one.
    Again {
        after_ms: u64,
    },
    /// The lease was no longer held: the result does not count.
    LeaseLost,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Operations {
    pub(super) records: BTreeMap<OperationId, Operation>,
    by_key: BTreeMap<[u8; 32], OperationId>,
    /// Runs that are kept up, by the operation that began them.
    pub(super) kept: BTreeMap<OperationId, Kept>,
}

pub(super) fn clip_why(why: String) -> String {
    clip_to(why, WHY_BYTES_MAX)
}

pub(super) fn clip(text: String) -> String {
    clip_to(text, TEXT_BYTES_MAX)
}

fn clip_to(mut text: String, bytes_max: usize) -> String {
    text.truncate(text.floor_char_boundary(bytes_max));
    text
}

impl Operations {
    /// Adds an operation, or finds the one submitted under the same key.
    pub fn submit(
        &mut self,
        id: OperationId,
        now: LogTime,
        submission: Submission,
    ) -> Result<OperationId, SubmitError> {
        if let Some(known) = submission.key.and_then(|key| self.by_key.get(&key)) {
            let same = self.records.get(known).is_some_and(|o| o.asked == submission.asked);
            return if same { Ok(*known) } else { Err(SubmitError::KeyReused(*known)) };
        }
        if !submission.session.is_valid() || submission.session.partition() != id.partition {
            return Err(SubmitError::Session(submission.session.to_string()));
        }
        let (works, subs_wanted) = (submission.kind.works(), submission.parts.len());
        match subs_wanted {
            0 => return Err(SubmitError::Empty),
            _ if works > submission.kind.works_max() || subs_wanted > SUBS_MAX => {
                return Err(SubmitError::TooManySubs(submission.kind.works_max() as u32));
            }
            _ if submission.timeout_ms == 0 || submission.timeout_ms > TIMEOUT_MAX_MS => {
                return Err(SubmitError::Timeout);
            }
            _ if self.active().count() >= ACTIVE_MAX => return Err(SubmitError::Busy),
            _ if self.active().map(Operation::size).sum::<usize>() + subs_wanted > ACTIVE_SUBS_MAX => {
                return Err(SubmitError::Busy);
            }
            _ => {}
        }
        if let OperationKind::Build(build) = &submission.kind {
            build.check().map_err(|error| SubmitError::Build(error.to_string()))?;
        }
        if let OperationKind::Run(run) = &submission.kind {
            run.check().map_err(|error: SpecError| SubmitError::Container(error.to_string()))?;
            self.check_room_for(run)?;
            // Each copy is a container of its own; one that is done again may be a part of a run only.
            let copies: BTreeSet<u32> = submission.parts.iter().map(|part| part.work).collect();
            if copies.len() != subs_wanted || (run.upkeep != Upkeep::None && subs_wanted != works) {
                return Err(SubmitError::Part);
            }
        }
        let sub = |part: Part| {
            ((part.work as usize) < works).then(|| SubOperation {
                node: part.node,
                work: part.work,
                why: part.why.map(clip_why),
                state: SubState::Assigned { not_before: now },
                attempts: 0,
                waited: 0,
                incarnation: 0,
                progress: Progress::default(),
                last_error: None,
                started_unix_ms: None,
                ended_unix_ms: None,
            })
        };
        let subs: Option<Vec<_>> = submission.parts.into_iter().map(sub).collect();
        let subs = subs.ok_or(SubmitError::Part)?;
        let left_out = submission.left_out.into_iter().take(LEFT_OUT_MAX);
        let left_out = left_out.map(|left_out| LeftOut { why: clip_why(left_out.why), ..left_out });
        let record = Operation {
            id,
            session: submission.session,
            subs,
            kind: submission.kind,
            strategy: submission.strategy,
            places: submission.places,
            submitted_by: submission.submitted_by,
            submitted_unix_ms: submission.unix_ms,
            retry_of: submission.retry_of,
            asked: submission.asked,
            timeout_ms: submission.timeout_ms,
            cancelled_by: None,
            deadline: LogTime(now.0 + submission.timeout_ms),
            ended: None,
            ended_unix_ms: None,
            left_out: left_out.collect(),
        };
        self.forget_old(now);
        let previous = self.records.insert(id, record);
        assert!(previous.is_none(), "operation id {id} was given out twice");
        if let Some(key) = submission.key {
            self.by_key.insert(key, id);
        }
        self.begin_upkeep(id);
        Ok(id)
    }

    pub(super) fn sub_mut(&mut self, key: SubKey) -> Option<&mut SubOperation> {
        self.records.get_mut(&key.operation)?.subs.get_mut(key.index as usize)
    }

    /// A node asks to carry out one of its sub-operations.
    pub fn claim(
        &mut self,
        key: SubKey,
        node: NodeId,
        incarnation: u64,
        now: LogTime,
        unix_ms: u64,
    ) -> ClaimReply {
        let Some(operation) = self.records.get_mut(&key.operation) else { return ClaimReply::Gone };
        let Operation { kind, subs, .. } = operation;
        let Some(sub) = subs.get_mut(key.index as usize).filter(|s| s.node == node) else {
            return ClaimReply::Gone;
        };
        longshore_storage::mutant!("cancel-is-forgotten" => if sub.state == SubState::Cancelled {
            sub.state = SubState::Assigned { not_before: now };
        });
        if incarnation < sub.incarnation {
            return ClaimReply::Gone;
        }
        let wait_ms = match &sub.state {
            SubState::Assigned { not_before } => not_before.0.saturating_sub(now.0),
            SubState::Running(lease) if incarnation > lease.incarnation => 0,
            SubState::Running(lease) => (lease.expires.0 + GRACE_MS).saturating_sub(now.0),
            SubState::Succeeded { .. } | SubState::Failed { .. } | SubState::Cancelled => {
                return ClaimReply::Gone;
            }
        };
        if wait_ms > 0 {
            return ClaimReply::NotYet { wait_ms };
        }
        let work = kind.work(key.operation, sub.work).expect("parts of a record are of its work");
        sub.attempts += 1;
        sub.incarnation = incarnation;
        let lease = Lease { token: sub.attempts, incarnation, expires: LogTime(now.0 + LEASE_MS) };
        sub.state = SubState::Running(lease);
        sub.progress = Progress::default();
        sub.started_unix_ms.get_or_insert(unix_ms);
        ClaimReply::Granted { token: lease.token, work: Box::new(work) }
    }

    /// Progress of attempts under way; renews their leases. Gives back those whose lease is no longer held: their work must stop.
    pub fn report(&mut self, reports: &[(SubKey, u32, Progress)], now: LogTime) -> Vec<SubKey> {
        let mut lost = Vec::new();
        for (key, token, progress) in reports {
            match self.sub_mut(*key) {
                Some(SubOperation { state: SubState::Running(lease), progress: kept, .. })
                    if lease.token == *token =>
                {
                    lease.expires = LogTime(now.0 + LEASE_MS);
                    *kept = *progress;
                }
                _ => lost.push(*key),
            }
        }
        lost
    }

    /// The end of an attempt. A transient failure is tried again while attempts are left, one that waits for something until the operation is late.
    pub fn finish(
        &mut self,
        key: SubKey,
        token: u32,
        outcome: Result<String, Failure>,
        now: LogTime,
        unix_ms: u64,
    ) -> Finished {
        let has_few_parts =
            self.records.get(&key.operation).is_some_and(|o| o.subs.len() <= LONG_TEXT_PARTS_MAX);
        let error_max = if has_few_parts { LONG_TEXT_BYTES_MAX } else { TEXT_BYTES_MAX };
        let Some(sub) = self.sub_mut(key) else { return Finished::LeaseLost };
        if !matches!(&sub.state, SubState::Running(lease) if lease.token == token) {
            return Finished::LeaseLost;
        }
        match outcome {
            Ok(result) => {
                sub.state = SubState::Succeeded { result: clip(result) };
                sub.last_error = None;
                sub.progress.layers_done = sub.progress.layers_total;
                sub.progress.current_bytes = sub.progress.total_bytes;
            }
            Err(Failure { error, kind })
                if kind == FailureKind::Waiting
                    || kind == FailureKind::Transient
                        && sub.attempts.saturating_sub(sub.waited) < ATTEMPTS_MAX =>
            {
                sub.waited += u32::from(kind == FailureKind::Waiting);
                let again_ms = backoff_ms(sub.attempts);
                sub.last_error = Some(clip_to(error, error_max));
                sub.state = SubState::Assigned { not_before: LogTime(now.0 + again_ms) };
                return Finished::Again { after_ms: again_ms };
            }
            Err(Failure { error, .. }) => {
                sub.state = SubState::Failed { error: clip_to(error, error_max) };
                sub.last_error = None;
            }
        }
        sub.ended_unix_ms = Some(unix_ms);
        self.end_if_done(key.operation, now, unix_ms);
        Finished::Ended
    }

    /// What has not ended is not to be done. Whoever is at it hears that its lease is lost.
    pub fn cancel(
        &mut self,
        id: OperationId,
        by: NodeId,
        now: LogTime,
        unix_ms: u64,
    ) -> Result<(), CancelError> {
        let operation = self.records.get_mut(&id).ok_or(CancelError::Unknown)?;
        if operation.ended.is_some() {
            let again = operation.cancelled_by.is_some();
            return again.then_some(()).ok_or(CancelError::Ended);
        }
        operation.cancelled_by = Some(by);
        for sub in operation.subs.iter_mut().filter(|s| !s.state.is_terminal()) {
            sub.state = SubState::Cancelled;
            sub.ended_unix_ms = Some(unix_ms);
        }
        self.end_if_done(id, now, unix_ms);
        // What was never there is not kept. Of what is there in part the rest is tried again: who wants none of it removes the run.
        let is_there = |copy: &KeptCopy| {
            matches!(copy.state, CopyState::Up { .. } | CopyState::Completed) || copy.part.operation != id
        };
        if self.kept.get(&id).is_some_and(|kept| !kept.copies.iter().any(is_there)) {
            self.kept.remove(&id);
        }
        Ok(())
    }

    pub(super) fn end_if_done(&mut self, id: OperationId, now: LogTime, unix_ms: u64) {
        self.note_copies(id, now);
        let Some(operation) = self.records.get_mut(&id) else { return };
        if operation.ended.is_none() && operation.subs.iter().all(|s| s.state.is_terminal()) {
            operation.ended = Some(now);
            operation.ended_unix_ms = Some(unix_ms);
        }
    }

    /// What time alone brings about: expired leases are given up, late operations fail, old records go. The leader proposes it when
    /// [`Self::next_deadline`] has passed, or when a node has left the fleet that has work: `gone` says which did. For good: ids are not
    /// given out again.
    pub fn sweep(&mut self, now: LogTime, unix_ms: u64, gone: &[NodeId]) {
        let active: Vec<OperationId> = self.active().map(|o| o.id).collect();
        for id in active {
            let operation = self.records.get_mut(&id).expect("active operations are on record");
            let (late, may_move) = (now >= operation.deadline, operation.kind.may_move());
            for sub in operation.subs.iter_mut().filter(|s| !s.state.is_terminal()) {
                let fate = match &sub.state {
                    // What the fleet chose the node for, it chooses another one for.
                    _ if gone.contains(&sub.node) && !(may_move && sub.why.is_some()) => {
                        Some("its node has left the fleet".to_owned())
                    }
                    _ if late => Some(match &sub.last_error {
                        Some(error) => format!("timed out; the last attempt said: {error}"),
                        None => "timed out".to_owned(),
                    }),
                    SubState::Running(lease) if lease.is_over(now) => {
                        sub.last_error = Some("its node did not renew the lease".to_owned());
                        sub.state = SubState::Assigned { not_before: now };
                        None
                    }
                    _ => None,
                };
                if let Some(error) = fate {
                    sub.state = SubState::Failed { error: clip(error) };
                    sub.last_error = None;
                    sub.ended_unix_ms = Some(unix_ms);
                }
            }
            self.end_if_done(id, now, unix_ms);
        }
        self.forget_old(now);
    }

    /// Ended operations go when they are a day old, and the oldest ones when there are too many.
    fn forget_old(&mut self, now: LogTime) {
        let mut ended: Vec<(LogTime, OperationId, usize)> =
            self.records.values().filter_map(|o| Some((o.ended?, o.id, o.size()))).collect();
        ended.sort_unstable();
        let mut subs = 0;
        for (newer, (at, id, size)) in ended.into_iter().rev().enumerate() {
            subs += size;
            if newer >= ENDED_MAX || subs > ENDED_SUBS_MAX || now.0 >= at.0 + ENDED_KEPT_MS {
                self.records.remove(&id);
            }
        }
        let Self { records, by_key, .. } = self;
        by_key.retain(|_, id| records.contains_key(id));
    }

    /// Log time at which [`Self::sweep`] next gives up a lease or an operation, if any.
    pub fn next_deadline(&self) -> Option<LogTime> {
        let leases = self.open_subs().filter_map(|(_, sub)| match &sub.state {
            SubState::Running(lease) => Some(LogTime(lease.expires.0 + GRACE_MS)),
            _ => None,
        });
        leases.chain(self.active().map(|o| o.deadline)).min()
    }

    /// Log time at which [`Self::sweep`] next forgets an ended operation, if any.
    pub fn next_forgotten(&self) -> Option<LogTime> {
        self.records.values().filter_map(|o| Some(LogTime(o.ended?.0 + ENDED_KEPT_MS))).min()
    }

    /// The idempotency key of each operation that has one.
    pub(super) fn keys_by_id(&self) -> BTreeMap<OperationId, [u8; 32]> {
        self.by_key.iter().map(|(key, id)| (*id, *key)).collect()
    }

    /// Adds an operation that was read from a snapshot; an error if it breaks an invariant.
    pub(super) fn load(&mut self, operation: Operation, key: Option<[u8; 32]>) -> Result<(), String> {
        let id = operation.id;
        if operation.subs.is_empty()
            || !operation.session.is_valid()
            || operation.session.partition() != id.partition
        {
            return Err(format!("{id} has no parts, or another's session"));
        }
        if operation.subs.iter().any(|sub| sub.work as usize >= operation.kind.works()) {
            return Err(format!("{id} has a part for work that is none of it"));
        }
        if operation.ended.is_some() != operation.subs.iter().all(|sub| sub.state.is_terminal()) {
            return Err(format!("{id} has ended without its parts, or they without it"));
        }
        if key.is_some_and(|key| self.by_key.insert(key, id).is_some()) {
            return Err(format!("{id} has the idempotency key of another"));
        }
        match self.records.insert(id, operation) {
            None => Ok(()),
            Some(_) => Err(format!("{id} is there twice")),
        }
    }

    pub fn get(&self, id: OperationId) -> Option<&Operation> {
        self.records.get(&id)
    }

    /// Oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Operation> + ExactSizeIterator {
        self.records.values()
    }

    /// A page of at most `limit` operations and, beyond the first, [`PAGE_PARTS_MAX`] images and sub-operations.
    pub fn list(&self, listing: &Listing) -> Listed {
        let is_behind = |id| listing.before.is_none_or(|before| id < before);
        let wanted = self.records.values().rev().filter(|o| is_behind(o.id) && listing.wants(o));
        let last = self.records.last_key_value().map(|(id, _)| *id);
        let (mut operations, mut parts) = (Vec::new(), 0);
        for operation in wanted.take(listing.limit as usize) {
            parts += operation.kind.images().len() + operation.size();
            if parts > PAGE_PARTS_MAX && !operations.is_empty() {
                return Listed { operations, more: true, last };
            }
            operations.push(operation.clone());
        }
        Listed { operations, more: false, last }
    }

    /// Operations that have not ended.
    pub fn active(&self) -> impl Iterator<Item = &Operation> {
        self.records.values().filter(|o| o.ended.is_none())
    }

    /// Sub-operations that have not ended, oldest operation first.
    pub fn open_subs(&self) -> impl Iterator<Item = (SubKey, &SubOperation)> {
        self.active().flat_map(|o| {
            let open = o.subs.iter().enumerate().filter(|(_, sub)| !sub.state.is_terminal());
            open.map(|(i, sub)| (SubKey { operation: o.id, index: i as u32 }, sub))
        })
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
