//! The records of operations and sub-operations, and what can be read off them.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;

use super::kind::OperationKind;
use super::placement::Places;
use crate::partition::{PartitionId, partition_of};

/// How long an attempt may go on without a renewal, in log time. Long enough for an election and a few lost reports,
/// short enough that the work of a dead node does not wait for long.
pub const LEASE_MS: u64 = 15_000;
/// How long after the end of a lease another attempt may start: covers the node's reaction and the drift of two monotonic clocks.
pub const GRACE_MS: u64 = 5_000;
/// Most attempts of a sub-operation whose failures are transient. With [`backoff_ms`] that is about half a minute.
pub const ATTEMPTS_MAX: u32 = 6;
/// Most bytes of an error or result kept in a record: the largest operation fits into a message (4 MiB) with all of them.
pub const TEXT_BYTES_MAX: usize = 384;
/// The same of an error in an operation with few parts: what a step of a build wrote before it failed.
pub const LONG_TEXT_BYTES_MAX: usize = 2_560;
/// Most parts of such an operation: their texts take no more than those of a hundred others.
pub const LONG_TEXT_PARTS_MAX: usize = 16;

/// Most nodes of which an operation says that it does without them.
pub const LEFT_OUT_MAX: usize = 64;

/// Pause before attempt `attempts + 1`, after `attempts` failures: 1, 2, 4, 8, 16 s.
pub fn backoff_ms(attempts: u32) -> u64 {
    1_000 << attempts.saturating_sub(1).min(4)
}

/// Longest name of a session, in bytes.
pub const SESSION_BYTES_MAX: usize = 64;

/// A client's unit of work, by its name: it lives in one partition, and its operations' records with it. Invariant: 1 to
/// [`SESSION_BYTES_MAX`] of `A-Z a-z 0-9 . _ : -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct SessionId(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a session's name: 1 to {SESSION_BYTES_MAX} of A-Z a-z 0-9 . _ : -")]
pub struct SessionNameError(String);

impl SessionId {
    /// Of a client that names none: made of random bytes, or of what makes its request unique.
    pub fn made_of(bytes: &[u8; 16]) -> Self {
        Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Where its records are.
    pub fn partition(&self) -> PartitionId {
        partition_of(self.0.as_bytes())
    }

    /// Whether a decoded one keeps the invariant.
    pub(crate) fn is_valid(&self) -> bool {
        self.0.parse::<Self>().is_ok()
    }
}

impl FromStr for SessionId {
    type Err = SessionNameError;

    fn from_str(text: &str) -> Result<Self, SessionNameError> {
        let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
        let fine = (1..=SESSION_BYTES_MAX).contains(&text.len()) && text.chars().all(fits);
        fine.then(|| Self(text.to_owned())).ok_or_else(|| SessionNameError(text.to_owned()))
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where an operation was submitted: at a place in the log of the group that carries its session's partition. Unique for ever, and
/// ordered by time within a group. Written `op-<partition>-<index>-<position>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct OperationId {
    pub index: u64,
    pub position: u32,
    pub partition: PartitionId,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op-{}-{}-{}", self.partition.0, self.index, self.position)
    }
}

impl FromStr for OperationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.strip_prefix("op-").and_then(|rest| {
            let mut parts = rest.split('-');
            let partition = PartitionId(parts.next()?.parse().ok()?);
            let (index, position) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            parts.next().is_none().then_some(Self { index, position, partition })
        });
        parsed.ok_or_else(|| format!("{text:?} is not an operation id such as op-171-42-0"))
    }
}

/// How an operation's work is given to nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Strategy {
    /// All of it to one node.
    Local,
    /// All of it to each of some nodes.
    Replicated,
    /// Each piece of it to one of the nodes.
    Distributed,
}

/// A piece of an operation's work, and the node that is to do it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Part {
    pub node: NodeId,
    /// See [`OperationKind::work`].
    pub work: u32,
    /// Why this node, if the fleet chose it: one of several alike.
    pub why: Option<String>,
}

/// A node that an operation on all nodes does without.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct LeftOut {
    pub node: NodeId,
    /// In words that follow its name: `is dead`.
    pub why: String,
}

/// Progress of an attempt; layers and bytes as the engine reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct Progress {
    pub layers_done: u32,
    pub layers_total: u32,
    pub current_bytes: u64,
    pub total_bytes: u64,
}

/// The right to carry out one attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Lease {
    /// Number of the attempt, from 1. A report or result under another token is refused.
    pub token: u32,
    /// Which start of the node's process, counted in its data folder: a later one has outlived the earlier ones.
    pub incarnation: u64,
    pub expires: LogTime,
}

impl Lease {
    /// Whether another attempt may begin, whoever holds it.
    pub fn is_over(&self, now: LogTime) -> bool {
        now.0 >= self.expires.0 + GRACE_MS
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum SubState {
    /// Waits for its node, which may start it from `not_before` on.
    Assigned {
        not_before: LogTime,
    },
    Running(Lease),
    Succeeded {
        result: String,
    },
    Failed {
        error: String,
    },
    /// Somebody wanted no more of it. An attempt under way loses its lease.
    Cancelled,
}

impl SubState {
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. } | Self::Cancelled)
    }
}

/// One piece of work on one node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SubOperation {
    pub node: NodeId,
    /// See [`OperationKind::work`].
    pub work: u32,
    /// Why this node: see [`Part::why`].
    pub why: Option<String>,
    pub state: SubState,
    /// Times it was started.
    pub attempts: u32,
    /// Of those, how many ended because something was away that they need.
    pub waited: u32,
    /// The latest start of the node that has claimed it: what an earlier one asked for is late, and nobody is there to do it.
    pub incarnation: u64,
    pub progress: Progress,
    /// Why the last attempt did not succeed, while another one is still to come.
    pub last_error: Option<String>,
    /// Wall clock of the node that reported it, for people only.
    pub started_unix_ms: Option<u64>,
    pub ended_unix_ms: Option<u64>,
}

impl SubOperation {
    /// Whether another node may be given it: nobody is at it by the log, or it may be done `twice`.
    pub fn is_free(&self, twice: bool, now: LogTime) -> bool {
        longshore_storage::mutant!("move-before-the-lease-ended" => return !self.state.is_terminal());
        match &self.state {
            SubState::Assigned { .. } => true,
            SubState::Running(lease) => twice || lease.is_over(now),
            SubState::Succeeded { .. } | SubState::Failed { .. } | SubState::Cancelled => false,
        }
    }
}

/// A sub-operation's place: operation and position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SubKey {
    pub operation: OperationId,
    pub index: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum OperationState {
    Planned,
    Running,
    Succeeded,
    Partial,
    Failed,
    /// It was cancelled before all of it had ended; what had ended by then stands.
    Cancelled,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Operation {
    pub id: OperationId,
    pub session: SessionId,
    pub kind: OperationKind,
    pub strategy: Strategy,
    pub places: Places,
    pub submitted_by: NodeId,
    pub submitted_unix_ms: u64,
    /// The operation whose failed parts this one does again.
    pub retry_of: Option<OperationId>,
    /// See [`super::Submission::asked`].
    pub asked: [u8; 32],
    pub timeout_ms: u64,
    /// The node that was told to cancel it.
    pub cancelled_by: Option<NodeId>,
    /// Sub-operations that have not ended by then fail.
    pub deadline: LogTime,
    /// Set when the last sub-operation ended.
    pub ended: Option<LogTime>,
    pub ended_unix_ms: Option<u64>,
    /// If it is meant for all nodes: those that were away, or not known well enough, when it was submitted. At most [`LEFT_OUT_MAX`].
    pub left_out: Vec<LeftOut>,
    pub subs: Vec<SubOperation>,
}

impl SubOperation {
    /// Bytes of its error beyond what any part may have.
    fn long_text_bytes(&self) -> usize {
        let text = match &self.state {
            SubState::Failed { error } => Some(error),
            _ => self.last_error.as_ref(),
        };
        text.map_or(0, |text| text.len().saturating_sub(TEXT_BYTES_MAX))
    }
}

impl Operation {
    /// All of it but its sub-operations.
    pub(super) fn without_subs(&self) -> Self {
        let Self {
            id,
            session,
            kind,
            strategy,
            places,
            submitted_by,
            submitted_unix_ms,
            retry_of,
            asked,
            timeout_ms,
            cancelled_by,
            deadline,
            ended,
            ended_unix_ms,
            left_out,
            subs: _,
        } = self;
        Self {
            id: *id,
            session: session.clone(),
            kind: kind.clone(),
            strategy: *strategy,
            places: places.clone(),
            submitted_by: *submitted_by,
            submitted_unix_ms: *submitted_unix_ms,
            retry_of: *retry_of,
            asked: *asked,
            timeout_ms: *timeout_ms,
            cancelled_by: *cancelled_by,
            deadline: *deadline,
            ended: *ended,
            ended_unix_ms: *ended_unix_ms,
            left_out: left_out.clone(),
            subs: Vec::new(),
        }
    }

    /// What it takes in memory and in messages, in units of about 1 KiB.
    pub fn size(&self) -> usize {
        let texts: usize = self.subs.iter().map(SubOperation::long_text_bytes).sum();
        let left_out: usize = self.left_out.iter().map(|left_out| left_out.why.len()).sum();
        self.subs.len() + (self.kind.text_bytes() + texts + left_out) / 1_024
    }

    pub fn state(&self) -> OperationState {
        let count = |f: fn(&SubState) -> bool| self.subs.iter().filter(|s| f(&s.state)).count();
        let succeeded = count(|s| matches!(s, SubState::Succeeded { .. }));
        let failed = count(|s| matches!(s, SubState::Failed { .. }));
        let cancelled = count(|s| matches!(s, SubState::Cancelled));
        if succeeded + failed + cancelled < self.subs.len() {
            let untouched = self.subs.iter().all(|s| s.attempts == 0 && !s.state.is_terminal());
            return if untouched { OperationState::Planned } else { OperationState::Running };
        }
        match (succeeded, failed) {
            _ if cancelled > 0 => OperationState::Cancelled,
            (_, 0) => OperationState::Succeeded,
            (0, _) => OperationState::Failed,
            _ => OperationState::Partial,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_sessions_are_read_as_they_are_written() {
        let id = OperationId { index: 42, position: 1, partition: PartitionId(171) };
        assert_eq!((id.to_string().as_str(), "op-171-42-1".parse()), ("op-171-42-1", Ok(id)));
        for bad in ["", "op-", "op-1-2", "op-1-2-3-4", "op-256-1-0", "op-1--0", "171-42-1", "op-a-1-0"] {
            assert!(bad.parse::<OperationId>().unwrap_err().contains("op-171-42-0"), "{bad}");
        }
        let made = SessionId::made_of(&[0xAB; 16]);
        assert_eq!(made.as_str().parse(), Ok(made.clone()));
        assert!(
            "nightly:web.1_a-B".parse::<SessionId>().is_ok() && "x".repeat(64).parse::<SessionId>().is_ok()
        );
        for bad in ["", "a b", "a/b", "{a}", "\u{e4}", &"x".repeat(65)] {
            assert!(bad.parse::<SessionId>().is_err(), "{bad}");
        }
    }
}
