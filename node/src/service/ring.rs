//! What the ring looks like from here.
//!
//! Must never: hold two states' locks at a time, or say more of a group than its record and this node's own replica tell.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::control::{ControlState, node_spec};
use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::model::ring::show::{Figures, NodeFigures, Spread, figures};
use longshore_raft::model::ring::{Change, NodeSpec, Placement, Ring};
use longshore_raft::{GroupId, NodeId, Runtime};

use super::Service;
use super::views::{name_of, node_state, some};
use crate::api::types::*;
use crate::core::Core;
use crate::ring::Replicas;

pub(super) fn no_ring() -> ApiError {
    ApiError::new(ErrorCode::Busy, "this node does not know the ring yet")
        .hint("try again in a moment, or ask another node with --host")
}

impl<R: Runtime> Service<R> {
    pub(super) async fn ring_view(&self) -> Result<RingView, ApiError> {
        let stale = !self.linearize_briefly().await;
        self.look(|look| {
            let figures = figures(look.ring, &look.leaders);
            Ok(RingView {
                group_count: look.ring.groups().get(),
                partition_count: u32::from(longshore_raft::model::ring::slot::PARTITIONS),
                replication: u32::from(look.ring.replication()),
                replicas: look.ring.target_replicas() as u32,
                epoch: figures.epoch,
                target_epoch: figures.target_epoch,
                paused: figures.paused,
                settled: look.is_settled(),
                balance: balance(&figures),
                movement: movement(&figures),
                nodes: figures.nodes.iter().map(|node| look.node(node)).collect(),
                groups: look.placements(),
                stale,
            })
        })
    }

    /// What of the ring needs a person; nothing before there is one.
    pub(super) fn ring_warnings(&self) -> Vec<String> {
        self.look(|look| Ok(look.warnings())).unwrap_or_default()
    }

    /// Shows this node's copy of the ring to `read`.
    pub(super) fn look<T>(
        &self,
        read: impl FnOnce(&Look<'_, R>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        look(&self.core, &self.replicas, read)
    }
}

/// Shows this node's copy of the ring to `read`.
pub(super) fn look<R: Runtime, T>(
    core: &Core<R>,
    replicas: &Replicas<R>,
    read: impl FnOnce(&Look<'_, R>) -> Result<T, ApiError>,
) -> Result<T, ApiError> {
    // Before the control group's state is locked: one lock at a time.
    let statuses: BTreeMap<GroupId, GroupStatus> =
        replicas.all().into_iter().map(|(group, replica)| (group, replica.status())).collect();
    core.group.with_state(|state| {
        let ring = state.ring.as_ref().ok_or_else(no_ring)?;
        let is_dead = |node: &NodeId| !core.is_alive(*node);
        let members = ring.placements().flat_map(|(_, p)| p.members_after().into_values());
        let dead: BTreeSet<NodeId> = members.filter(is_dead).collect();
        let mut leaders = state.led.leaders();
        for (group, status) in &statuses {
            if status.role == Role::Leader {
                leaders.insert(*group, core.me);
            }
        }
        // Who leads nobody, or is not there, leads only by what was said before.
        let leads = |group: &GroupId, node: &NodeId| {
            let placement = ring.placement(*group);
            placement.is_some_and(|p| {
                p.members.values().any(|member| member == node) && missing_of_stuck(p, &dead).is_empty()
            })
        };
        leaders.retain(|group, node| leads(group, node) && !dead.contains(node));
        read(&Look { core, replicas, state, ring, statuses: &statuses, leaders, dead })
    })
}

/// This node's copy of the ring, and what it knows of those in it.
pub(super) struct Look<'a, R: Runtime> {
    core: &'a Core<R>,
    replicas: &'a Replicas<R>,
    pub(super) state: &'a ControlState,
    pub(super) ring: &'a Ring,
    /// Of this node's own replicas.
    statuses: &'a BTreeMap<GroupId, GroupStatus>,
    pub(super) leaders: BTreeMap<GroupId, NodeId>,
    dead: BTreeSet<NodeId>,
}

impl<R: Runtime> Look<'_, R> {
    /// Every group is where it should be, and that was decided for the nodes as they are.
    pub(super) fn is_settled(&self) -> bool {
        self.ring.is_settled() && plan_is_current(self.state, self.ring)
    }

    pub(super) fn figures(&self) -> Figures {
        figures(self.ring, &self.leaders)
    }

    /// Groups without a quorum that have a replica on `node`.
    pub(super) fn stuck_with(&self, node: NodeId) -> Vec<PlacementView> {
        let held = self.ring.placements().filter(|(_, placement)| {
            placement.nodes().contains(&node) && !missing_of_stuck(placement, &self.dead).is_empty()
        });
        held.map(|(group, placement)| self.placement(group, placement)).collect()
    }

    /// The groups that would be lost for good without a node, and those that would wait for others that cannot be reached.
    pub(super) fn lost_with(&self, node: NodeId) -> (Vec<String>, Vec<String>) {
        let is_gone = |n: &NodeId| {
            *n == node || !self.state.membership.get(*n).is_some_and(|record| record.standing.is_member())
        };
        let with = |wanted: Fate| {
            let held = self.ring.placements().filter(|(_, placement)| placement.nodes().contains(&node));
            let meets = |placement: &Placement| {
                fate(&placement.nodes(), is_gone, |n| self.dead.contains(n)) == wanted
            };
            let groups = held.filter(|(_, placement)| meets(placement));
            groups.map(|(group, _)| group.to_string()).collect()
        };
        (with(Fate::Lost), with(Fate::Waits))
    }

    /// What of the ring needs a person: one sentence each.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let placements = self.placements();
        let stuck: Vec<&PlacementView> =
            placements.iter().filter(|group| !group.stuck_without.is_empty()).collect();
        if !stuck.is_empty() {
            let groups: Vec<&str> = stuck.iter().map(|group| group.group.as_str()).collect();
            let missing: BTreeSet<&str> =
                stuck.iter().flat_map(|group| &group.stuck_without).map(String::as_str).collect();
            warnings.push(format!(
                "{} {} no quorum and {} nothing: bring {} back",
                some(&groups),
                if groups.len() == 1 { "has" } else { "have" },
                if groups.len() == 1 { "serves" } else { "serve" },
                missing.into_iter().collect::<Vec<_>>().join(", ")
            ));
        }
        let shut = placements.iter().filter_map(|group| Some((&group.group, group.failure.as_ref()?)));
        warnings.extend(shut.map(|(group, why)| {
            format!("this node's replica of {group} cannot be used: {why}; a damaged one is copied anew from the others by itself, as long as a majority of the group is whole")
        }));
        warnings.extend(overloaded(&self.figures()).into_iter().map(|(node, fair)| {
            format!(
                "{} has a weight for {fair} replicas and has to hold {}, since a group's replicas are on distinct nodes: add \
                 nodes, or give it more memory (and --weight)",
                name_of(self.state, node.spec.node),
                node.target
            )
        }));
        warnings
    }

    fn node(&self, node: &NodeFigures) -> RingNodeView {
        let spec = &node.spec;
        let state = self.state.membership.get(spec.node);
        RingNodeView {
            id: spec.node.to_string(),
            name: name_of(self.state, spec.node),
            state: state.map_or(NodeState::Left, |record| node_state(self.core, record)),
            weight: spec.weight,
            zone: spec.zone.clone(),
            quota: node.quota.map(|quota| QuotaView { floor: quota.floor, ceil: quota.ceil }),
            replicas: node.replicas,
            target: node.target,
            leaders: node.leaders,
            arriving: node.arriving,
            leaving: node.leaving,
            tombstones: node.tombstones,
        }
    }

    pub(super) fn placements(&self) -> Vec<PlacementView> {
        self.ring.placements().map(|(group, placement)| self.placement(group, placement)).collect()
    }

    pub(super) fn placement(&self, group: GroupId, placement: &Placement) -> PlacementView {
        let name = |node: &NodeId| name_of(self.state, *node);
        let nodes = placement.nodes();
        let partitions = self.ring.groups().partitions_of(group).expect("the ring has the group");
        let target = self.ring.target().get(&group).map_or(&[][..], Vec::as_slice);
        PlacementView {
            group: group.to_string(),
            partitions: PartitionsView {
                first: u32::from(*partitions.start()),
                last: u32::from(*partitions.end()),
            },
            epoch: placement.epoch,
            members: nodes.iter().map(name).collect(),
            target: target.iter().map(name).collect(),
            leader: self.leaders.get(&group).map(name),
            load: self.state.led.by_group().get(&group).map_or(0, |led| led.load),
            change: self.change(group, placement),
            stuck_without: missing_of_stuck(placement, &self.dead).iter().map(name).collect(),
            failure: self.replicas.failure(group),
        }
    }

    pub(super) fn change(&self, group: GroupId, placement: &Placement) -> Option<ChangeView> {
        let change = placement.change.as_ref()?;
        let name = |node: NodeId| name_of(self.state, node);
        let stuck = !missing_of_stuck(placement, &self.dead).is_empty();
        let (stage, waits_for) = stage(change, self.statuses.get(&group), stuck, &self.dead, &name);
        Some(ChangeView {
            id: change.id.0,
            from: change.removed.values().copied().map(name).collect(),
            to: change.added.values().copied().map(name).collect(),
            stage,
            waits_for,
        })
    }
}

/// Nodes that have to hold more than twice what their weight would give them, were replicas not bound to distinct nodes; and how many that
/// would be. Pure.
fn overloaded(figures: &Figures) -> Vec<(&NodeFigures, u64)> {
    let usable = || figures.nodes.iter().filter(|node| node.spec.is_eligible());
    let weight: u64 = usable().map(|node| u64::from(node.spec.weight)).sum();
    let replicas: u64 = usable().map(|node| u64::from(node.target)).sum();
    let fair = |node: &NodeFigures| (replicas * u64::from(node.spec.weight)).div_ceil(weight.max(1));
    usable().map(|node| (node, fair(node))).filter(|(node, fair)| u64::from(node.target) > 2 * fair).collect()
}

/// What becomes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    GoesOn,
    /// Until some that are dead are back.
    Waits,
    /// Too few of its replicas are left, dead or alive.
    Lost,
}

/// What becomes of a group of which some nodes are gone for good, and some dead. Pure.
fn fate(nodes: &[NodeId], gone: impl Fn(&NodeId) -> bool, dead: impl Fn(&NodeId) -> bool) -> Fate {
    let kept = nodes.iter().filter(|node| !gone(node));
    let alive = kept.clone().filter(|node| !dead(node)).count();
    match kept.count() {
        kept if kept * 2 <= nodes.len() => Fate::Lost,
        _ if alive * 2 <= nodes.len() => Fate::Waits,
        _ => Fate::GoesOn,
    }
}

/// The dead members of a group that has no quorum without them.
fn missing_of_stuck(placement: &Placement, dead: &BTreeSet<NodeId>) -> Vec<NodeId> {
    let nodes = placement.nodes();
    let missing: Vec<NodeId> = nodes.iter().filter(|node| dead.contains(node)).copied().collect();
    if missing.len() * 2 > nodes.len() { missing } else { Vec::new() }
}

/// How far a change is and what it waits for, as far as a replica of the group tells. Pure.
fn stage(
    change: &Change,
    status: Option<&GroupStatus>,
    stuck: bool,
    dead: &BTreeSet<NodeId>,
    name: &dyn Fn(NodeId) -> String,
) -> (ChangeStage, String) {
    if stuck {
        return (ChangeStage::Waiting, "a majority of the group's replicas, which cannot be reached".into());
    }
    if let Some(node) = change.added.values().find(|node| dead.contains(node)) {
        return (ChangeStage::Waiting, format!("{}, which cannot be reached", name(*node)));
    }
    let Some(status) = status.filter(|status| status.role != Role::Stopped) else {
        return (ChangeStage::UnderWay, "the leader of the group".into());
    };
    let votes = |replica| status.voters.iter().any(|member| member.replica == replica);
    let learns = |replica| status.learners.iter().any(|member| member.replica == replica);
    let names = |nodes: Vec<NodeId>| nodes.into_iter().map(name).collect::<Vec<_>>().join(", ");
    let added = |wanted: &dyn Fn(longshore_raft::ReplicaId) -> bool| {
        let found = change.added.iter().filter(|(replica, _)| wanted(**replica));
        found.map(|(_, node)| *node).collect::<Vec<NodeId>>()
    };
    let strangers = added(&|replica| !votes(replica) && !learns(replica));
    if !strangers.is_empty() {
        return (ChangeStage::Adding, format!("{} to be taken in", names(strangers)));
    }
    if status.joint {
        return (ChangeStage::ChangingVoters, "a majority of the old voters and one of the new".into());
    }
    let learners = added(&learns);
    if !learners.is_empty() {
        let behind = change.added.keys().filter_map(|replica| {
            let matched = status.matched.iter().find(|(known, _)| known == replica)?.1.unwrap_or(0);
            Some(status.last_log.unwrap_or(0).saturating_sub(matched))
        });
        let behind = match behind.max() {
            Some(entries) if status.role == Role::Leader => format!(", {entries} entries behind"),
            _ => String::new(),
        };
        return (ChangeStage::CatchingUp, format!("{} to catch up{behind}", names(learners)));
    }
    if change.removed.keys().any(|replica| votes(*replica)) {
        return (ChangeStage::ChangingVoters, "the vote to be taken from the old replicas".into());
    }
    (ChangeStage::Finishing, "the old replicas to be dropped and the ring to be told".into())
}

/// Whether the target was made for the members as they are. A node that is dead for long is in it as one that holds nothing.
pub(super) fn plan_is_current(state: &ControlState, ring: &Ring) -> bool {
    let planned: BTreeMap<NodeId, &NodeSpec> = ring.nodes().map(|spec| (spec.node, spec)).collect();
    let known = state.membership.members().all(|member| {
        let now = node_spec(member);
        match planned.get(&member.id) {
            // The first node holds data whatever its weight: there is no other.
            Some(spec) => {
                (spec.weight == now.weight || now.weight == 0)
                    && spec.zone == now.zone
                    && (now.usable || !spec.usable)
            }
            None => !now.is_eligible(),
        }
    });
    let is_member = |node| state.membership.get(node).is_some_and(|record| record.standing.is_member());
    known && planned.values().all(|spec| !spec.usable || is_member(spec.node))
}

pub(super) fn spread(spread: Spread) -> SpreadView {
    let max_over_mean = spread.max_over_mean();
    SpreadView { min: spread.min, max: spread.max, mean: spread.mean, max_over_mean }
}

fn balance(figures: &Figures) -> BalanceView {
    let outside =
        |node: &&NodeFigures| node.quota.is_none_or(|q| !(q.floor..=q.ceil).contains(&node.replicas));
    // One that may hold nothing, and holds nothing, is as it should be.
    let holds = |node: &&NodeFigures| node.quota.is_some() || node.replicas > 0;
    BalanceView {
        replicas: spread(figures.replicas),
        leaders: spread(figures.leaders),
        nodes_outside_quota: figures.nodes.iter().filter(holds).filter(outside).count() as u32,
        groups_by_zones: figures.zones.iter().map(|(zones, groups)| (*zones as u32, *groups)).collect(),
        pairs_in_one_zone: figures.pairs_in_one_zone,
    }
}

fn movement(figures: &Figures) -> MovementView {
    MovementView {
        planned_copies: figures.last_plan.copies,
        planned_replicas: figures.last_plan.replicas,
        copies_left: figures.to_copy,
        groups_in_place: figures.in_place,
        changes_under_way: figures.changes,
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::ReplicaId;
    use longshore_raft::consensus::machine::Member;
    use longshore_raft::model::ring::ChangeId;

    use super::*;

    fn on(node: u64) -> Member {
        Member { replica: ReplicaId(node * 10), node: NodeId(node) }
    }

    fn status(role: Role, voters: &[u64], learners: &[u64], joint: bool) -> GroupStatus {
        GroupStatus {
            group: GroupId(7),
            replica: ReplicaId(10),
            role,
            term: 1,
            leader: Some(on(1)),
            last_log: Some(500),
            committed: Some(500),
            applied: Some(500),
            snapshot: None,
            purged: None,
            voters: voters.iter().copied().map(on).collect(),
            learners: learners.iter().copied().map(on).collect(),
            joint,
            matched: vec![(ReplicaId(40), Some(380))],
            quorum_ack_ms: None,
            fatal: None,
        }
    }

    /// g7 goes from node 3 to node 4.
    fn change() -> Change {
        let one = |node| [(on(node).replica, NodeId(node))].into();
        Change { id: ChangeId(1), added: one(4), removed: one(3), spoiled: false }
    }

    #[test]
    fn each_step_of_a_change_is_told_apart() {
        use ChangeStage::*;
        let leader = |voters, learners, joint| Some(status(Role::Leader, voters, learners, joint));
        let cases = [
            (leader(&[1, 2, 3], &[], false), Adding, "n4 to be taken in"),
            (leader(&[1, 2, 3], &[4], false), CatchingUp, "n4 to catch up, 120 entries behind"),
            (Some(status(Role::Follower, &[1, 2, 3], &[4], false)), CatchingUp, "n4 to catch up"),
            (leader(&[1, 2, 3, 4], &[], true), ChangingVoters, "a majority of the old voters and one"),
            (leader(&[1, 2, 4], &[3], false), Finishing, "the old replicas to be dropped"),
            (leader(&[1, 2, 4], &[], false), Finishing, "the ring to be told"),
            (Some(status(Role::Stopped, &[1, 2, 3], &[], false)), UnderWay, "the leader of the group"),
            (None, UnderWay, "the leader of the group"),
        ];
        let name = |node: NodeId| node.to_string();
        for (status, expected, words) in cases {
            let (got, waits_for) = stage(&change(), status.as_ref(), false, &BTreeSet::new(), &name);
            assert_eq!(got, expected, "{status:?}");
            assert!(waits_for.contains(words), "{waits_for:?} for {status:?}");
        }
        let dead = BTreeSet::from([NodeId(4)]);
        let (held_up, waits_for) = stage(&change(), None, false, &dead, &name);
        assert_eq!((held_up, waits_for.as_str()), (Waiting, "n4, which cannot be reached"));
        assert_eq!(stage(&change(), None, true, &dead, &name).0, Waiting);
    }

    #[test]
    fn a_node_that_has_to_hold_far_more_than_its_weight_is_told_apart() {
        use longshore_raft::model::ring::GroupCount;
        let told = |weights: &[u32]| {
            let node = |(at, weight): (usize, &u32)| NodeSpec::new(NodeId(at as u64 + 1), *weight, None);
            let nodes: Vec<NodeSpec> = weights.iter().enumerate().map(node).collect();
            let mut ring = Ring::new(GroupCount::default(), 3).unwrap();
            let mut last = 0;
            let ids = || {
                last += 1;
                ReplicaId(last)
            };
            ring.found(nodes[0].clone(), ids).unwrap();
            ring.retarget(ring.plan(&nodes).unwrap()).unwrap();
            let figures = figures(&ring, &BTreeMap::new());
            let told = overloaded(&figures).into_iter();
            told.map(|(node, fair)| (node.spec.node.0, fair, node.target)).collect::<Vec<_>>()
        };
        // Three nodes hold everything, room or not; with a fourth there is a choice.
        assert_eq!(told(&[100, 100, 1]), [(3, 1, 32)]);
        assert_eq!(told(&[100, 100, 100, 1]), []);
        assert_eq!(told(&[100, 100, 60]), []);
        assert_eq!(told(&[100]), []);
        assert_eq!(told(&[100, 1]), [], "one replica of each group goes by weight");
    }

    #[test]
    fn a_group_is_lost_with_the_majority_of_its_replicas_and_waits_for_the_dead() {
        let of = |nodes: &[u64], gone: &[u64], dead: &[u64]| {
            let nodes: Vec<NodeId> = nodes.iter().copied().map(NodeId).collect();
            fate(&nodes, |node| gone.contains(&node.0), |node| dead.contains(&node.0))
        };
        assert_eq!(of(&[1], &[1], &[]), Fate::Lost);
        assert_eq!(of(&[1, 2, 3], &[3], &[]), Fate::GoesOn);
        assert_eq!(of(&[1, 2, 3], &[3], &[3]), Fate::GoesOn);
        assert_eq!(of(&[1, 2, 3], &[3], &[2]), Fate::Waits);
        assert_eq!(of(&[1, 2, 3], &[2, 3], &[]), Fate::Lost);
        assert_eq!(of(&[1, 2, 3, 4, 5], &[4, 5], &[]), Fate::GoesOn);
        assert_eq!(of(&[1, 2, 3, 4, 5], &[4, 5], &[1]), Fate::Waits);
    }

    #[test]
    fn a_group_is_stuck_without_its_majority() {
        let members = (1..=3).map(|node| (on(node).replica, NodeId(node))).collect();
        let placement = Placement { epoch: 1, members, change: None, tombstones: BTreeMap::new() };
        let missing = |dead: &[u64]| {
            let dead = dead.iter().copied().map(NodeId).collect();
            missing_of_stuck(&placement, &dead).into_iter().map(|node| node.0).collect::<Vec<_>>()
        };
        assert_eq!((missing(&[]), missing(&[2, 9]), missing(&[1, 3])), (vec![], vec![], vec![1, 3]));
    }
}
