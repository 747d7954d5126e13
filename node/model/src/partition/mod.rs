//! The state machine of a group that carries partitions: keys, and the operations of sessions.
//!
//! Invariants: deterministic; total (a bad command is a reply, never a panic); a command that was sent under a superseded epoch of
//! the group, or to a partition that the group does not carry, changes nothing. Must never: know where its replicas are.

pub mod command;
pub mod machine;
pub mod query;
pub mod range;

#[cfg(test)]
mod machine_tests;
#[cfg(test)]
mod model_tests;

pub use command::{Command, Envelope, PartitionCommand, Reply};
pub use longshore_raft::model::ring::{PartitionId, partition_of};
pub use machine::{PartitionMachine, PartitionStatus};
pub use query::{Answer, Query, Read, VERDICTS_MAX};
pub use range::PartitionRange;
