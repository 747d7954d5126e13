//! Why the ring refused something. Data, so that a refusal can be a logged reply; the texts are shown to people.

use bincode::{Decode, Encode};

use super::table::ChangeId;
use crate::model::ids::{GroupId, NodeId, ReplicaId};

/// A refusal. Nothing has changed in the ring.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
pub enum RingError {
    #[error("the number of groups must be 32, 64, 128 or 256; {0} was given")]
    GroupCount(u32),
    #[error("the replication must be 1, 3 or 5; {0} was given")]
    Replication(u8),
    #[error("the ring has its first node already")]
    AlreadyFounded,
    #[error("the ring has no node yet")]
    NotFounded,
    #[error("no node can hold data: every one is leaving, gone, or has the weight 0")]
    NoUsableNode,
    #[error("node {0} is named twice")]
    NodeTwice(NodeId),
    #[error("node {0} is not in the ring")]
    UnknownNode(NodeId),
    /// Plan again: the target has changed since.
    #[error("the plan was made for target {planned}, and the ring is at {current}")]
    StalePlan { planned: u64, current: u64 },
    #[error("the plan breaks a rule of the ring: {0}")]
    BadPlan(String),
    #[error("there is no group {0}; the ring has 1 to {1}")]
    UnknownGroup(GroupId, u32),
    #[error("changes are paused; `longshore ring resume` goes on")]
    Paused,
    /// Wait until it is finished or abandoned.
    #[error("group {group} is being changed already ({under_way})")]
    ChangeUnderWay { group: GroupId, under_way: ChangeId },
    /// The caller was late; there is nothing left to do for it.
    #[error("{change} of group {group} is not under way (any more)")]
    ChangeNotUnderWay { group: GroupId, change: ChangeId },
    #[error("group {0} is where it should be")]
    InPlace(GroupId),
    /// Look at the record again and take the next step.
    #[error("this step does not bring group {group} nearer to its target: {reason}")]
    BadStep { group: GroupId, reason: String },
    #[error("node {node} must first destroy replica {replica} of group {group}, which it held before")]
    NotYetDestroyed { group: GroupId, node: NodeId, replica: ReplicaId },
    #[error(
        "group {group} says that its members are {reported}, which is not what {change} leads to ({expected})"
    )]
    UnexpectedMembers { group: GroupId, change: ChangeId, reported: String, expected: String },
    #[error("replica {replica} on node {node} is not a member of a group (any more)")]
    NotAMember { node: NodeId, replica: ReplicaId },
    #[error(
        "the only replica of group {group}, on node {node}, is damaged: there is nothing to copy it from"
    )]
    OnlyReplica { group: GroupId, node: NodeId },
    #[error("group {group} is to leave node {node}, and is not made anew there")]
    GivenUp { group: GroupId, node: NodeId },
    #[error("replica {replica} on node {node} is not waiting to be destroyed")]
    NoTombstone { node: NodeId, replica: ReplicaId },
}
