//! What a partition is asked to do with operations, and its replies.

use bincode::{Decode, Encode};
use longshore_raft::NodeId;

use super::record::{OperationId, Progress, SubKey};
use super::table::{CancelError, ClaimReply, Submission, SubmitError};
use super::upkeep::{CopyNews, Move, Replaced, UpkeepChange, UpkeepError};
use crate::container::Origin;

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    pub error: String,
    pub kind: FailureKind,
}

/// Whether another attempt is worth it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum FailureKind {
    /// No.
    Final,
    /// Yes, a few.
    Transient,
    /// Yes, as long as the operation has time: nothing was tried yet, since something that it needs is away.
    Waiting,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OperationCommand {
    /// Start an operation; the front has checked its nodes.
    Submit(Box<Submission>),
    /// A node asks to carry out a sub-operation of its own.
    Claim { sub: SubKey, node: NodeId, incarnation: u64, unix_ms: u64 },
    /// Progress of a node's attempts: sub-operation, token, progress. Renews their leases.
    Report { reports: Vec<(SubKey, u32, Progress)> },
    /// Nobody wants what has not ended yet. `by`: the node that was told so.
    Cancel { operation: OperationId, by: NodeId, unix_ms: u64 },
    /// An attempt ended; `Ok` holds the result.
    Finish { sub: SubKey, token: u32, progress: Progress, outcome: Result<String, Failure>, unix_ms: u64 },
    /// Other nodes are to do what these do not; proposed by the leader.
    Relocate { moves: Vec<Move> },
    /// An operation that takes the place of a copy; proposed by the leader.
    Repair { submission: Box<Submission>, replaced: Replaced },
    /// What a node found out about a container of a run that is kept up.
    CopyNews { origin: Origin, node: NodeId, news: CopyNews },
    /// What is to become of a run that is kept up.
    Upkeep { run: OperationId, change: UpkeepChange, unix_ms: u64 },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OperationReply {
    Submitted(Result<OperationId, SubmitError>),
    Claimed(ClaimReply),
    /// Also if it was cancelled before.
    Cancelled(Result<(), CancelError>),
    /// Sub-operations whose lease is no longer held: stop the work.
    Reported {
        lost: Vec<SubKey>,
    },
    /// Whether the result counted.
    Finished {
        counted: bool,
        /// It failed, and another attempt may begin after so long.
        again_ms: Option<u64>,
    },
    /// So many parts went to other nodes.
    Relocated(u32),
    /// `None`: the copy is not to be replaced any more, or not yet.
    Repaired(Option<Result<OperationId, SubmitError>>),
    /// Whether it was news.
    Noted(bool),
    Upkept(Result<(), UpkeepError>),
}
