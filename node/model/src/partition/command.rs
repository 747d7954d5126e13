//! Commands of a group with partitions, and their replies. Both are versioned by the state's version (see `machine.rs`).

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::model::ring::ChangeId;

use super::{PartitionId, PartitionRange};
use crate::keys::{KeyCommand, KeyError, KeyReply};
use crate::operations::{OperationCommand, OperationReply};

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// A front's request.
    Request(Envelope),
    /// Remove what has expired; proposed by the leader. Log time alone decides, so that one too many does no harm.
    Sweep { keys_max: u32 },
    /// Do what time alone brings about for operations, and fail what was left to nodes that are no members any more; proposed by the
    /// leader.
    SweepOperations { gone: Vec<NodeId>, unix_ms: u64 },
    /// The control group's record of this group has a new epoch. A lower one than is known changes nothing.
    SetEpoch { epoch: u64 },
    /// This change of the group's members, and all before it, must not be carried on by any later leader.
    Forbid { change: ChangeId },
}

/// A command, and where its sender believed that it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Envelope {
    /// The group's epoch, by the ring that the front looked at.
    pub epoch: u64,
    pub partition: PartitionId,
    pub command: PartitionCommand,
}

/// What a partition's part of the state is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum PartitionCommand {
    Key(KeyCommand),
    Operation(OperationCommand),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    Key(Result<KeyReply, KeyError>),
    Operation(OperationReply),
    OperationsSwept,
    Swept {
        removed: u32,
        /// When the next key expires; not later than the command's own time if more are left to sweep.
        next: Option<LogTime>,
    },
    Forbidden,
    /// The group's epoch now.
    Epoch {
        current: u64,
    },
    /// Nothing was done: the envelope's epoch is superseded. Look at the ring again, at least as new as `current`, and retry.
    WrongEpoch {
        current: u64,
    },
    /// Nothing was done: the group carries other partitions. A fault of the sender, since these never change.
    WrongPartition {
        carried: PartitionRange,
    },
}
