//! The records of operations and sub-operations, and what can be read off them.

use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;

use crate::image::ImageReference;

/// How long an attempt may go on without a renewal, in log time. Long enough for an election and a few lost reports,
/// short enough that the work of a dead node does not wait for long.
pub const LEASE_MS: u64 = 15_000;
/// How long after the end of a lease another attempt may start: covers the node's reaction and the drift of two monotonic clocks.
pub const GRACE_MS: u64 = 5_000;
/// Most attempts of a sub-operation whose failures are transient. With [`backoff_ms`] that is about half a minute.
pub const ATTEMPTS_MAX: u32 = 6;
/// Most bytes of an error or result kept in a record.
pub const TEXT_BYTES_MAX: usize = 1024;

/// Pause before attempt `attempts + 1`, after `attempts` failures: 1, 2, 4, 8, 16 s.
pub fn backoff_ms(attempts: u32) -> u64 {
    1_000 << attempts.saturating_sub(1).min(4)
}

/// Where in the log an operation was submitted: unique for ever, ordered by time. Written `op-<index>-<position>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct OperationId {
    pub index: u64,
    pub position: u32,
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "op-{}-{}", self.index, self.position)
    }
}

impl FromStr for OperationId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.strip_prefix("op-").and_then(|rest| rest.split_once('-'));
        let id = parts.and_then(|(i, p)| Some(Self { index: i.parse().ok()?, position: p.parse().ok()? }));
        id.ok_or_else(|| format!("{text:?} is not an operation id such as op-42-0"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Strategy {
    Local,
    Replicated,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OperationKind {
    Pull { images: Vec<ImageReference> },
}

impl OperationKind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pull { .. } => "pull",
        }
    }

    pub fn images(&self) -> &[ImageReference] {
        match self {
            Self::Pull { images } => images,
        }
    }
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
}

impl SubState {
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Succeeded { .. } | Self::Failed { .. })
    }
}

/// One image on one node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct SubOperation {
    pub node: NodeId,
    pub image: ImageReference,
    pub state: SubState,
    /// Times it was started.
    pub attempts: u32,
    pub progress: Progress,
    /// Why the last attempt did not succeed, while another one is still to come.
    pub last_error: Option<String>,
    /// Wall clock of the node that reported it, for people only.
    pub started_unix_ms: Option<u64>,
    pub ended_unix_ms: Option<u64>,
}

/// A sub-operation's place: operation and position in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct SubKey {
    pub operation: OperationId,
    pub index: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationState {
    Planned,
    Running,
    Succeeded,
    Partial,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Operation {
    pub id: OperationId,
    pub kind: OperationKind,
    pub strategy: Strategy,
    pub submitted_by: NodeId,
    pub submitted_unix_ms: u64,
    /// Sub-operations that have not ended by then fail.
    pub deadline: LogTime,
    /// Set when the last sub-operation ended.
    pub ended: Option<LogTime>,
    pub ended_unix_ms: Option<u64>,
    pub subs: Vec<SubOperation>,
}

impl Operation {
    pub fn state(&self) -> OperationState {
        let count = |f: fn(&SubState) -> bool| self.subs.iter().filter(|s| f(&s.state)).count();
        let succeeded = count(|s| matches!(s, SubState::Succeeded { .. }));
        let failed = count(|s| matches!(s, SubState::Failed { .. }));
        if succeeded + failed < self.subs.len() {
            let untouched = self.subs.iter().all(|s| s.attempts == 0 && !s.state.is_terminal());
            return if untouched { OperationState::Planned } else { OperationState::Running };
        }
        match (succeeded, failed) {
            (_, 0) => OperationState::Succeeded,
            (0, _) => OperationState::Failed,
            _ => OperationState::Partial,
        }
    }
}
