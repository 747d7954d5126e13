//! The ring's part of the control group's commands.
//!
//! Invariants: replica ids come from the fleet's one allocator; what a node that is gone had to destroy is forgotten with it.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use longshore_raft::model::membership::{Membership, NodeRecord, Standing};
use longshore_raft::model::ring::{ChangeId, GroupCount, NodeSpec, Plan, Ring, RingError, Step};
use longshore_raft::{GroupId, NodeId, ReplicaId};

use super::command::{Refusal, RefusalKind, Reply};

/// Most replicas in one [`RingCommand::Destroyed`]: a node has one of each group at most.
const DESTROYED_MAX: usize = 256;

/// How a fleet's ring is made; fixed for its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct RingShape {
    pub groups: GroupCount,
    /// Replicas of each group, once there are nodes for them: 1, 3 or 5.
    pub replication: u8,
}

impl Default for RingShape {
    fn default() -> Self {
        Self { groups: GroupCount::default(), replication: 3 }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum RingCommand {
    /// The control leader's new target.
    Retarget(Plan),
    /// The control leader begins a change of a group.
    Begin { group: GroupId, step: Step },
    /// Whoever leads the group says that its members are these.
    Finish { group: GroupId, change: ChangeId, members: BTreeSet<ReplicaId> },
    /// Whoever leads the group has given the change up, in the group's own log first.
    Abandon { group: GroupId, change: ChangeId },
    /// A node has destroyed what is left of these replicas.
    Destroyed { node: NodeId, replicas: Vec<ReplicaId> },
    /// No change begins while paused.
    SetPaused { paused: bool },
    /// A node cannot use its copy of a replica, for good: a new one is made in its place.
    Renew { node: NodeId, replica: ReplicaId },
}

impl From<RingError> for Refusal {
    fn from(error: RingError) -> Self {
        let kind = match &error {
            RingError::UnknownGroup(..) => RefusalKind::NotFound,
            RingError::GroupCount(_) | RingError::Replication(_) | RingError::NodeTwice(_) => {
                RefusalKind::Invalid
            }
            _ => RefusalKind::Conflict,
        };
        Self::new(kind, error.to_string())
    }
}

/// Puts a new fleet's ring on its first node, which is a member.
pub(super) fn found(ring: &mut Ring, first: NodeId, membership: &mut Membership) {
    let spec = membership.get(first).map(node_spec).expect("it was admitted just now");
    // The first node holds everything, whatever it says of itself: there is no other.
    let spec = NodeSpec { weight: spec.weight.max(1), ..spec };
    let founded = ring.found(spec, || membership.allocate_replica());
    founded.expect("the ring is new, and its node can hold data");
}

pub(super) fn apply(
    ring: &mut Ring,
    membership: &mut Membership,
    command: RingCommand,
) -> Result<Reply, Refusal> {
    match command {
        RingCommand::Retarget(plan) => {
            let active = |node: NodeId| membership.get(node).is_some_and(|n| n.standing == Standing::Active);
            if let Some(spec) = plan.nodes.iter().find(|spec| spec.is_eligible() && !active(spec.node)) {
                // It left while the plan was on its way.
                return Err(Refusal::new(RefusalKind::Conflict, format!("node {} takes no data", spec.node)));
            }
            ring.retarget(plan)?;
        }
        RingCommand::Begin { group, step } => {
            ring.begin_change(group, &step, || membership.allocate_replica())?;
        }
        RingCommand::Finish { group, change, members } => ring.finish_change(group, change, &members)?,
        RingCommand::Abandon { group, change } => ring.abandon_change(group, change)?,
        RingCommand::Destroyed { node, replicas } => {
            // Said twice is no fault: a reply may have been lost.
            for replica in replicas.into_iter().take(DESTROYED_MAX) {
                let _known = ring.forget_tombstone(node, replica);
            }
        }
        RingCommand::SetPaused { paused } => {
            ring.set_paused(paused);
        }
        RingCommand::Renew { node, replica } => {
            ring.renew(node, replica, || membership.allocate_replica())?;
        }
    }
    let gone: Vec<NodeId> = ring
        .nodes_with_tombstones()
        .into_iter()
        .filter(|node| !membership.get(*node).is_some_and(|n| n.standing.is_member()))
        .collect();
    for node in gone {
        ring.forget_node(node);
    }
    Ok(Reply::Done)
}

/// What the assignment has to know of a node, by the records alone. One that is drained keeps its data.
pub fn node_spec(node: &NodeRecord) -> NodeSpec {
    NodeSpec {
        node: node.id,
        weight: node.weight(),
        zone: node.zone().map(str::to_owned),
        usable: node.standing == Standing::Active,
    }
}
