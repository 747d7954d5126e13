//! The table of operations and its transitions, all of them total: a bad request is a reply, never a panic.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;

use super::record::*;

/// Most operations that have not ended. Each is in every snapshot and is looked at by its nodes.
pub const ACTIVE_MAX: usize = 1_000;
/// Most ended operations kept, and for how long (log time).
pub const ENDED_MAX: usize = 1_000;
pub const ENDED_KEPT_MS: u64 = 24 * 3_600_000;
/// Most images of one operation.
pub const IMAGES_MAX: usize = 64;
/// Most sub-operations (images times nodes) of one operation.
pub const SUBS_MAX: usize = 4_096;
/// Longest time an operation may take.
pub const TIMEOUT_MAX_MS: u64 = 24 * 3_600_000;

/// A request for an operation, with the nodes already chosen.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Submission {
    pub kind: OperationKind,
    pub strategy: Strategy,
    pub nodes: Vec<NodeId>,
    pub timeout_ms: u64,
    pub submitted_by: NodeId,
    pub unix_ms: u64,
    /// blake3 of the client's idempotency key: a second submission under the same key is the first one.
    pub key: Option<[u8; 32]>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    #[error("an operation needs at least one image and one node")]
    Empty,
    #[error("an operation can have {IMAGES_MAX} images and {SUBS_MAX} sub-operations at most")]
    TooManySubs,
    #[error("a timeout is between 1 ms and 24 h")]
    Timeout,
    #[error("{ACTIVE_MAX} operations are under way, the most there can be")]
    Busy,
    #[error("this idempotency key was used for another request, {0}")]
    KeyReused(OperationId),
}

/// Answer to a node that wants to start a sub-operation.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum ClaimReply {
    /// Go ahead, for [`LEASE_MS`] from before the claim was sent.
    Granted { token: u32 },
    /// Ask again after so long.
    NotYet { wait_ms: u64 },
    /// Nothing to do: it has ended, is gone, or is another node's.
    Gone,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Operations {
    records: BTreeMap<OperationId, Operation>,
    by_key: BTreeMap<[u8; 32], OperationId>,
}

fn clip(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let cut = (0..=TEXT_BYTES_MAX).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(cut);
    }
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
            let same = self.records.get(known).is_some_and(|o| o.kind == submission.kind);
            return if same { Ok(*known) } else { Err(SubmitError::KeyReused(*known)) };
        }
        let images = submission.kind.images();
        let subs_wanted = images.len().saturating_mul(submission.nodes.len());
        match subs_wanted {
            0 => return Err(SubmitError::Empty),
            _ if images.len() > IMAGES_MAX || subs_wanted > SUBS_MAX => return Err(SubmitError::TooManySubs),
            _ if submission.timeout_ms == 0 || submission.timeout_ms > TIMEOUT_MAX_MS => {
                return Err(SubmitError::Timeout);
            }
            _ if self.active().count() >= ACTIVE_MAX => return Err(SubmitError::Busy),
            _ => {}
        }
        let sub = |node: NodeId, image: &crate::image::ImageReference| SubOperation {
            node,
            image: image.clone(),
            state: SubState::Assigned { not_before: now },
            attempts: 0,
            progress: Progress::default(),
            last_error: None,
            started_unix_ms: None,
            ended_unix_ms: None,
        };
        let subs = submission.nodes.iter().flat_map(|n| images.iter().map(|i| sub(*n, i))).collect();
        let record = Operation {
            id,
            subs,
            kind: submission.kind,
            strategy: submission.strategy,
            submitted_by: submission.submitted_by,
            submitted_unix_ms: submission.unix_ms,
            deadline: LogTime(now.0 + submission.timeout_ms),
            ended: None,
            ended_unix_ms: None,
        };
        self.forget_old(now);
        let previous = self.records.insert(id, record);
        assert!(previous.is_none(), "operation id {id} was given out twice");
        if let Some(key) = submission.key {
            self.by_key.insert(key, id);
        }
        Ok(id)
    }

    fn sub_mut(&mut self, key: SubKey) -> Option<&mut SubOperation> {
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
        let Some(sub) = self.sub_mut(key).filter(|s| s.node == node) else { return ClaimReply::Gone };
        let wait_ms = match &sub.state {
            SubState::Assigned { not_before } => not_before.0.saturating_sub(now.0),
            SubState::Running(lease) if incarnation < lease.incarnation => return ClaimReply::Gone,
            SubState::Running(lease) if incarnation > lease.incarnation => 0,
            SubState::Running(lease) => (lease.expires.0 + GRACE_MS).saturating_sub(now.0),
            SubState::Succeeded { .. } | SubState::Failed { .. } => return ClaimReply::Gone,
        };
        if wait_ms > 0 {
            return ClaimReply::NotYet { wait_ms };
        }
        sub.attempts += 1;
        let lease = Lease { token: sub.attempts, incarnation, expires: LogTime(now.0 + LEASE_MS) };
        sub.state = SubState::Running(lease);
        sub.progress = Progress::default();
        sub.started_unix_ms.get_or_insert(unix_ms);
        ClaimReply::Granted { token: lease.token }
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

    /// The end of an attempt. `Err((error, transient))`: a transient failure is tried again while attempts are left. False if
    /// the lease was no longer held, so that the result does not count.
    pub fn finish(
        &mut self,
        key: SubKey,
        token: u32,
        outcome: Result<String, (String, bool)>,
        now: LogTime,
        unix_ms: u64,
    ) -> bool {
        let Some(sub) = self.sub_mut(key) else { return false };
        if !matches!(&sub.state, SubState::Running(lease) if lease.token == token) {
            return false;
        }
        match outcome {
            Ok(result) => {
                sub.state = SubState::Succeeded { result: clip(result) };
                sub.last_error = None;
                sub.progress.layers_done = sub.progress.layers_total;
                sub.progress.current_bytes = sub.progress.total_bytes;
            }
            Err((error, true)) if sub.attempts < ATTEMPTS_MAX => {
                sub.last_error = Some(clip(error));
                let not_before = LogTime(now.0 + backoff_ms(sub.attempts));
                sub.state = SubState::Assigned { not_before };
            }
            Err((error, _)) => sub.state = SubState::Failed { error: clip(error) },
        }
        if sub.state.is_terminal() {
            sub.ended_unix_ms = Some(unix_ms);
            self.end_if_done(key.operation, now, unix_ms);
        }
        true
    }

    fn end_if_done(&mut self, id: OperationId, now: LogTime, unix_ms: u64) {
        let Some(operation) = self.records.get_mut(&id) else { return };
        if operation.ended.is_none() && operation.subs.iter().all(|s| s.state.is_terminal()) {
            operation.ended = Some(now);
            operation.ended_unix_ms = Some(unix_ms);
        }
    }

    /// What time alone brings about: expired leases are given up, late operations fail, old records go. The leader proposes it when
    /// [`Self::next_deadline`] has passed. `is_member`: whether a node is still in the fleet.
    pub fn sweep(&mut self, now: LogTime, unix_ms: u64, is_member: impl Fn(NodeId) -> bool) {
        let active: Vec<OperationId> = self.active().map(|o| o.id).collect();
        for id in active {
            let operation = self.records.get_mut(&id).expect("active operations are on record");
            let late = now >= operation.deadline;
            for sub in operation.subs.iter_mut().filter(|s| !s.state.is_terminal()) {
                let fate = match &sub.state {
                    _ if !is_member(sub.node) => Some("its node has left the fleet".to_owned()),
                    _ if late => Some(match &sub.last_error {
                        Some(error) => format!("timed out; the last attempt said: {error}"),
                        None => "timed out".to_owned(),
                    }),
                    SubState::Running(lease) if now.0 >= lease.expires.0 + GRACE_MS => {
                        sub.last_error = Some("its node did not renew the lease".to_owned());
                        sub.state = SubState::Assigned { not_before: now };
                        None
                    }
                    _ => None,
                };
                if let Some(error) = fate {
                    sub.state = SubState::Failed { error };
                    sub.ended_unix_ms = Some(unix_ms);
                }
            }
            self.end_if_done(id, now, unix_ms);
        }
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: LogTime) {
        let mut ended: Vec<(LogTime, OperationId)> =
            self.records.values().filter_map(|o| Some((o.ended?, o.id))).collect();
        ended.sort_unstable();
        let over = ended.len().saturating_sub(ENDED_MAX);
        for (i, (at, id)) in ended.into_iter().enumerate() {
            if i < over || now.0 >= at.0 + ENDED_KEPT_MS {
                self.records.remove(&id);
            }
        }
        let Self { records, by_key } = self;
        by_key.retain(|_, id| records.contains_key(id));
    }

    /// Log time of the next thing that [`Self::sweep`] would do, if any.
    pub fn next_deadline(&self) -> Option<LogTime> {
        let leases = self.active().flat_map(|o| o.subs.iter()).filter_map(|s| match &s.state {
            SubState::Running(lease) => Some(LogTime(lease.expires.0 + GRACE_MS)),
            _ => None,
        });
        let deadlines = self.active().map(|o| o.deadline);
        let kept = self.records.values().filter_map(|o| Some(LogTime(o.ended?.0 + ENDED_KEPT_MS)));
        leases.chain(deadlines).chain(kept).min()
    }

    pub fn get(&self, id: OperationId) -> Option<&Operation> {
        self.records.get(&id)
    }

    /// Oldest first.
    pub fn all(&self) -> impl DoubleEndedIterator<Item = &Operation> {
        self.records.values()
    }

    /// Operations that have not ended.
    pub fn active(&self) -> impl Iterator<Item = &Operation> {
        self.records.values().filter(|o| o.ended.is_none())
    }

    /// Sub-operations that `node` should be carrying out.
    pub fn assigned_to(&self, node: NodeId) -> impl Iterator<Item = (SubKey, &SubOperation)> {
        self.active().flat_map(move |o| {
            let key = move |i: usize| SubKey { operation: o.id, index: i as u32 };
            let mine =
                o.subs.iter().enumerate().filter(move |(_, s)| s.node == node && !s.state.is_terminal());
            mine.map(move |(i, s)| (key(i), s))
        })
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
