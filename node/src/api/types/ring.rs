//! JSON types of the ring and its groups. Nodes are named by name, groups as `g7`, replicas as `r12`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{ApiError, ErrorCode, NodeState};

/// The ring as the answering node knows it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RingView {
    /// Groups that carry the partitions; fixed for the life of the fleet.
    pub group_count: u32,
    pub partition_count: u32,
    /// Replicas of each group that were asked for, and those that there are nodes for.
    pub replication: u32,
    pub replicas: u32,
    /// Goes up whenever the members of a group change.
    pub epoch: u64,
    /// Goes up whenever it is decided anew where replicas should be.
    pub target_epoch: u64,
    /// No change begins; those under way go on.
    pub paused: bool,
    /// Every group is where it should be, and nothing is under way.
    pub settled: bool,
    pub balance: BalanceView,
    pub movement: MovementView,
    pub nodes: Vec<RingNodeView>,
    pub groups: Vec<PlacementView>,
    /// True when there was no quorum and this is the local copy, which may be behind.
    pub stale: bool,
}

/// How evenly replicas and leaders lie, and how far apart.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BalanceView {
    /// Over the nodes that may hold data.
    pub replicas: SpreadView,
    pub leaders: SpreadView,
    /// Nodes whose replicas are outside their quota, which follows their weight.
    pub nodes_outside_quota: u32,
    /// How many groups are in how many zones.
    pub groups_by_zones: BTreeMap<u32, u32>,
    /// Pairs of replicas of one group in one zone. Nodes without a zone are one zone together.
    pub pairs_in_one_zone: u32,
}

/// Least, most and mean of something per node.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SpreadView {
    pub min: u32,
    pub max: u32,
    pub mean: f64,
    /// 1 is perfect balance, for nodes of equal weight.
    pub max_over_mean: f64,
}

/// What the last plan meant, and what is left of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MovementView {
    /// Replicas that the last plan copied, of all that there are after it.
    pub planned_copies: u32,
    pub planned_replicas: u32,
    /// Replicas still to be copied.
    pub copies_left: u32,
    pub groups_in_place: u32,
    pub changes_under_way: u32,
}

/// From how many to how many replicas an even share is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QuotaView {
    pub floor: u32,
    pub ceil: u32,
}

/// One node's part of the ring.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RingNodeView {
    pub id: String,
    pub name: String,
    pub state: NodeState,
    /// Its share relative to the others'; by default MiB of memory.
    pub weight: u32,
    pub zone: Option<String>,
    /// None if it may hold nothing: it is leaving, gone, dead for long, or has the weight 0.
    pub quota: Option<QuotaView>,
    /// Replicas that it is a member with, and those that it should have.
    pub replicas: u32,
    pub target: u32,
    pub leaders: u32,
    /// Replicas on their way to it and away from it.
    pub arriving: u32,
    pub leaving: u32,
    /// Replicas that it has still to destroy.
    pub tombstones: u32,
}

/// First and last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PartitionsView {
    pub first: u32,
    pub last: u32,
}

/// Where one group is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementView {
    pub group: String,
    pub partitions: PartitionsView,
    /// The ring's epoch when its members last changed.
    pub epoch: u64,
    pub members: Vec<String>,
    /// Where it should be.
    pub target: Vec<String>,
    /// As the leaders themselves last said; an election is over before it is heard of here.
    pub leader: Option<String>,
    /// Commands a second, roughly, as its leader last said; below 50 is not worth saying.
    pub load: u64,
    pub change: Option<ChangeView>,
    /// Members that are missing, if it has no quorum without them: it serves nothing until enough are back.
    pub stuck_without: Vec<String>,
    /// Why the answering node's replica of it is not open, if it should be and cannot.
    pub failure: Option<String>,
}

/// What a change of a group's members has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChangeStage {
    /// Held up: a node that it needs cannot be reached, or the group has no quorum.
    Waiting,
    /// It goes on elsewhere; the answering node has no replica of the group and knows no more.
    UnderWay,
    /// The new replicas are being taken in as learners.
    Adding,
    /// The new replicas are being given the data.
    CatchingUp,
    /// The voters are being changed.
    ChangingVoters,
    /// The old replicas are being dropped, and the ring is about to be told.
    Finishing,
}

/// A change of a group's members that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangeView {
    pub id: u64,
    /// Nodes that give a replica up and that get one.
    pub from: Vec<String>,
    pub to: Vec<String>,
    pub stage: ChangeStage,
    /// What it waits for, in words.
    pub waits_for: String,
}

/// A replica that goes from one node to another; without `from` it is one more, without `to` one less.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MoveView {
    pub group: String,
    pub from: Option<String>,
    pub to: Option<String>,
}

/// What a change of the fleet would mean. Nothing was done.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RingPlanView {
    pub moves: Vec<MoveView>,
    /// Replicas to be copied; and of them those which would be without this change too.
    pub copies: u32,
    pub copies_anyway: u32,
    /// Replicas of each group, now and afterwards.
    pub replicas_before: u32,
    pub replicas_after: u32,
    pub nodes: Vec<PlanNodeView>,
    pub balance_before: SpreadView,
    pub balance_after: SpreadView,
    pub pairs_in_one_zone_before: u32,
    pub pairs_in_one_zone_after: u32,
}

/// Replicas of one node, now and afterwards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlanNodeView {
    pub name: String,
    pub before: u32,
    pub after: u32,
}

/// A node that a plan is to add.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanNode {
    pub name: String,
    /// None: what the nodes of the ring have on average.
    pub weight: Option<u32>,
    pub zone: Option<String>,
}

impl PlanNode {
    /// Parses `NAME[:WEIGHT[:ZONE]]`; an empty weight is the average.
    ///
    /// # Errors
    /// [`ErrorCode::Invalid`], with what is wrong.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let wrong = |message: String| {
            ApiError::new(ErrorCode::Invalid, message).hint("write NAME, NAME:WEIGHT or NAME:WEIGHT:ZONE")
        };
        let mut parts = text.splitn(3, ':');
        let name = parts.next().unwrap_or("").to_owned();
        crate::config::names::check_node_name(&name).map_err(wrong)?;
        let weight = match parts.next().filter(|weight| !weight.is_empty()) {
            None => None,
            Some(weight) => Some(weight.parse().map_err(|_| {
                wrong(format!("{weight:?} is not a weight; it is a whole number, usually MiB of memory"))
            })?),
        };
        let zone = parts.next().map(str::to_owned);
        zone.as_deref().map_or(Ok(()), crate::config::names::check_zone).map_err(wrong)?;
        Ok(Self { name, weight, zone })
    }
}

/// What a plan is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingPlanQuery {
    pub add: Vec<PlanNode>,
    /// Names or ids.
    pub remove: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingPauseView {
    pub paused: bool,
    /// Changes that were begun before, and go on.
    pub changes_under_way: u32,
}

/// What a new plan changed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RebalanceView {
    /// False: everything is where the new plan would put it, or on its way there.
    pub changed: bool,
    pub target_epoch: u64,
    /// Replicas to be copied, and what leads from where the replicas are to where they should be.
    pub copies: u32,
    pub moves: Vec<MoveView>,
    /// The plan is made, but no change begins before it is resumed.
    pub paused: bool,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct RingWatchQuery {
    /// Go on when the ring has settled.
    #[serde(default)]
    pub forever: bool,
}

/// The changes under way, at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RingProgressView {
    pub epoch: u64,
    pub target_epoch: u64,
    pub paused: bool,
    pub settled: bool,
    pub changes: Vec<RingChangeView>,
    /// Replicas copied since the watch began, and those still to be copied.
    pub copies_done: u32,
    pub copies_left: u32,
    /// Replicas copied per second, on average since the watch began.
    pub copies_per_s: f64,
    pub elapsed_ms: u64,
}

/// A group whose members are being changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RingChangeView {
    pub group: String,
    #[serde(flatten)]
    pub change: ChangeView,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct GroupQuery {
    /// Also ask every group for its keys and bytes, which wakes those at rest.
    #[serde(default)]
    pub keys: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupList {
    pub groups: Vec<GroupView>,
    /// True when there was no quorum of the control group and the placements are the local copy, which may be behind.
    pub stale: bool,
}

/// A group, and the answering node's replica of it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GroupView {
    #[serde(flatten)]
    pub placement: PlacementView,
    /// None if it has none, or it is not open.
    pub replica: Option<ReplicaView>,
    /// None if not asked for, or if the group has no quorum to tell.
    pub keys: Option<GroupKeysView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReplicaRole {
    Leader,
    Follower,
    Candidate,
    Learner,
    Stopped,
}

/// The answering node's replica of a group. Indexes of its log are absent while there is nothing.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ReplicaView {
    pub id: String,
    pub role: ReplicaRole,
    pub term: u64,
    pub last_index: Option<u64>,
    pub committed_index: Option<u64>,
    pub applied_index: Option<u64>,
    pub snapshot_index: Option<u64>,
    pub purged_index: Option<u64>,
    /// Nodes, as this replica knows them.
    pub voters: Vec<String>,
    pub learners: Vec<String>,
    /// Nothing happens in it until somebody asks for something.
    pub at_rest: bool,
    /// Why it has stopped, if so.
    pub fatal: Option<String>,
}

/// What a group holds. Bytes are of memory: keys, values and what it takes to keep them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupKeysView {
    pub keys: u64,
    pub bytes: u64,
    /// Writes since the group was made.
    pub writes: u64,
    /// Keys with a time to live.
    pub expiring: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TransferRequest {
    /// Name or id of a node that has a voting replica of the group.
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransferView {
    pub group: String,
    /// Who led it before, as far as it was known.
    pub from: Option<String>,
    pub to: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_a_plan() {
        let node = |name: &str, weight, zone: Option<&str>| {
            Some(PlanNode { name: name.into(), weight, zone: zone.map(str::to_owned) })
        };
        for (text, expected) in [
            ("web-4", node("web-4", None, None)),
            ("web-4:", node("web-4", None, None)),
            ("web-4:2048", node("web-4", Some(2048), None)),
            ("web-4:2048:east", node("web-4", Some(2048), Some("east"))),
            ("web-4::east", node("web-4", None, Some("east"))),
            ("", None),
            ("n4", None),
            ("web-4:much", None),
            ("web-4:-1", None),
            ("web-4:1:", None),
            ("web-4:1:a:b", None),
        ] {
            assert_eq!(PlanNode::parse(text).ok(), expected, "{text:?}");
        }
    }
}
