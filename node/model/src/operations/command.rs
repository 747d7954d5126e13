//! What a partition is asked to do with operations, and its replies.

use bincode::{Decode, Encode};

use super::record::{OperationId, Progress, SubKey};
use super::table::{CancelError, ClaimReply, Submission, SubmitError};

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Failure {
    pub error: String,
    /// Worth another attempt.
    pub transient: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum OperationCommand {
    /// Start an operation; the front has checked its nodes.
    Submit(Box<Submission>),
    /// A node asks to carry out a sub-operation of its own.
    Claim { sub: SubKey, node: longshore_raft::NodeId, incarnation: u64, unix_ms: u64 },
    /// Progress of a node's attempts: sub-operation, token, progress. Renews their leases.
    Report { reports: Vec<(SubKey, u32, Progress)> },
    /// Nobody wants what has not ended yet. `by`: the node that was told so.
    Cancel { operation: OperationId, by: longshore_raft::NodeId, unix_ms: u64 },
    /// An attempt ended; `Ok` holds the result.
    Finish { sub: SubKey, token: u32, progress: Progress, outcome: Result<String, Failure>, unix_ms: u64 },
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
}
