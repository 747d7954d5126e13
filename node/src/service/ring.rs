//! The ring: what it looks like, what a change of the fleet would move, and orders to it.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::control::{Command, ControlState, Refusal, RingCommand, node_spec};
use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::model::ring::show::{Figures, Move, NodeFigures, Spread, figures, moves, what_if};
use longshore_raft::model::ring::{Change, NodeSpec, Placement, Ring, RingError};
use longshore_raft::{GroupId, NodeId, Runtime};

use super::views::{name_of, node_state};
use super::{Service, refused};
use crate::api::types::*;
use crate::core::Core;
use crate::ring::Replicas;

/// Nodes that one plan adds: the search for it grows with the nodes, and holds the answering node up.
const PLAN_NODES_MAX: usize = 64;
/// How often a new plan is made because the target changed meanwhile.
const REBALANCE_TRIES: u32 = 3;

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

    /// Shows this node's copy of the ring to `read`.
    pub(super) fn look<T>(
        &self,
        read: impl FnOnce(&Look<'_, R>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        look(&self.core, &self.replicas, read)
    }

    pub(super) async fn plan(&self, query: RingPlanQuery) -> Result<RingPlanView, ApiError> {
        if query.add.len() > PLAN_NODES_MAX {
            let message = format!("a plan adds at most {PLAN_NODES_MAX} nodes");
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        self.linearize_briefly().await;
        // The search is done on a copy: the state is locked while it is read.
        let (ring, fleet) = self.core.group.with_state(|state| {
            let ring = state.ring.clone().ok_or_else(no_ring)?;
            Ok::<_, ApiError>((ring, Fleet::of(state, &query)?))
        })?;
        plan_view(&ring, &fleet, &query)
    }

    pub(super) async fn set_paused(&self, paused: bool) -> Result<RingPauseView, ApiError> {
        self.propose(Command::Ring(RingCommand::SetPaused { paused })).await?;
        self.linearize().await?;
        self.look(|look| {
            let under_way = look.ring.placements().filter(|(_, p)| p.change.is_some()).count();
            Ok(RingPauseView { paused: look.ring.is_paused(), changes_under_way: under_way as u32 })
        })
    }

    pub(super) async fn rebalance(&self) -> Result<RebalanceView, ApiError> {
        let mut changed = false;
        for attempt in 1.. {
            self.linearize().await?;
            let plan = self.core.group.with_state(|state| {
                let ring = state.ring.as_ref().ok_or_else(no_ring)?;
                let plan = ring.plan(&nodes_now(state, ring)).map_err(ring_error)?;
                Ok::<_, ApiError>(ring.is_news(&plan).then_some(plan))
            })?;
            let Some(plan) = plan else { break };
            match self.propose(Command::Ring(RingCommand::Retarget(plan))).await {
                Ok(_) => changed = true,
                // The control leader planned at the same moment.
                Err(error) if error.code == ErrorCode::Conflict && attempt < REBALANCE_TRIES => continue,
                Err(error) => return Err(error),
            }
            self.linearize().await?;
            break;
        }
        self.look(|look| {
            let figures = figures(look.ring, &look.leaders);
            let name = |node| name_of(look.state, node);
            let moves = moves(&look.ring.actual(), look.ring.target());
            Ok(RebalanceView {
                changed,
                target_epoch: figures.target_epoch,
                copies: figures.to_copy,
                moves: moves.iter().map(|one| move_view(one, name)).collect(),
                paused: figures.paused,
            })
        })
    }
}

fn ring_error(error: RingError) -> ApiError {
    refused(Refusal::from(error))
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
        let holds = |group: &GroupId, node: &NodeId| {
            ring.placement(*group).is_some_and(|p| p.members.values().any(|member| member == node))
        };
        leaders.retain(|group, node| holds(group, node) && !dead.contains(node));
        for (group, status) in &statuses {
            if status.role == Role::Leader {
                leaders.insert(*group, core.me);
            }
        }
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
            change: self.change(group, placement),
            stuck_without: self.stuck_without(placement).iter().map(name).collect(),
            failure: self.replicas.failure(group),
        }
    }

    /// The dead members of a group that has no quorum without them.
    fn stuck_without(&self, placement: &Placement) -> Vec<NodeId> {
        let nodes = placement.nodes();
        let dead: Vec<NodeId> = nodes.iter().filter(|node| self.dead.contains(node)).copied().collect();
        if dead.len() * 2 > nodes.len() { dead } else { Vec::new() }
    }

    pub(super) fn change(&self, group: GroupId, placement: &Placement) -> Option<ChangeView> {
        let change = placement.change.as_ref()?;
        let name = |node: NodeId| name_of(self.state, node);
        let stuck = !self.stuck_without(placement).is_empty();
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
fn plan_is_current(state: &ControlState, ring: &Ring) -> bool {
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

/// The nodes to plan for now: what members say of themselves, and who the control leader holds for dead for good. That takes a
/// pause, which nobody cuts short by asking.
fn nodes_now(state: &ControlState, ring: &Ring) -> Vec<NodeSpec> {
    let planned: BTreeMap<NodeId, &NodeSpec> = ring.nodes().map(|spec| (spec.node, spec)).collect();
    let members = state.membership.members();
    members
        .map(|member| {
            let now = node_spec(member);
            let given_up = planned.get(&member.id).is_some_and(|spec| !spec.usable);
            NodeSpec { usable: now.usable && !given_up, ..now }
        })
        .collect()
}

/// The nodes that a plan is about, by id and name.
struct Fleet {
    names: BTreeMap<NodeId, String>,
    add: Vec<NodeSpec>,
    remove: Vec<NodeId>,
}

impl Fleet {
    fn of(state: &ControlState, query: &RingPlanQuery) -> Result<Self, ApiError> {
        let ring = state.ring.as_ref().ok_or_else(no_ring)?;
        let mut names: BTreeMap<NodeId, String> =
            state.membership.all().map(|node| (node.id, node.profile.name.clone())).collect();
        let mut remove = Vec::new();
        for text in &query.remove {
            let node = state.membership.resolve(text).map_err(super::nodes::no_such_node)?;
            if !ring.nodes().any(|spec| spec.node == node.id) {
                let message = format!("node {} has no part in the ring", node.profile.name);
                return Err(ApiError::new(ErrorCode::Conflict, message)
                    .hint("`longshore ring show` lists the nodes of the ring"));
            }
            if !remove.contains(&node.id) {
                remove.push(node.id);
            }
        }
        let weights: Vec<u64> =
            ring.nodes().filter(|spec| spec.is_eligible()).map(|spec| u64::from(spec.weight)).collect();
        let mean = weights.iter().sum::<u64>() / (weights.len() as u64).max(1);
        let mean = u32::try_from(mean.max(1)).expect("a mean is not above the largest");
        let mut next = names.keys().next_back().map_or(1, |last| last.0 + 1);
        let mut taken: BTreeSet<String> =
            state.membership.members().map(|node| node.profile.name.clone()).collect();
        let mut add = Vec::new();
        for node in &query.add {
            if !taken.insert(node.name.clone()) {
                let message = format!("there is a node {} already", node.name);
                return Err(ApiError::new(ErrorCode::Conflict, message));
            }
            let id = NodeId(next);
            next += 1;
            names.insert(id, node.name.clone());
            add.push(NodeSpec::new(id, node.weight.unwrap_or(mean), node.zone.as_deref()));
        }
        Ok(Self { names, add, remove })
    }

    fn name(&self, node: NodeId) -> String {
        self.names.get(&node).cloned().unwrap_or_else(|| node.to_string())
    }
}

fn plan_view(ring: &Ring, fleet: &Fleet, query: &RingPlanQuery) -> Result<RingPlanView, ApiError> {
    if query.add.is_empty() && query.remove.is_empty() {
        let hint = "give --add NAME[:WEIGHT[:ZONE]] or --remove NAME";
        return Err(ApiError::new(ErrorCode::Invalid, "there is nothing to plan for").hint(hint));
    }
    let what = what_if(ring, &fleet.add, &fleet.remove).map_err(ring_error)?;
    let now = figures(ring, &BTreeMap::new());
    let node = |(id, (before, after)): (&NodeId, &(u32, u32))| PlanNodeView {
        name: fleet.name(*id),
        before: *before,
        after: *after,
    };
    Ok(RingPlanView {
        moves: what.moves.iter().map(|one| move_view(one, |node| fleet.name(node))).collect(),
        copies: what.copies,
        copies_anyway: what.copies_anyway,
        replicas_before: ring.target_replicas() as u32,
        replicas_after: u32::from(what.replicas),
        nodes: what.nodes.iter().map(node).collect(),
        balance_before: spread(now.replicas),
        balance_after: spread(what.balance),
        pairs_in_one_zone_before: now.pairs_in_one_zone,
        pairs_in_one_zone_after: what.pairs_in_one_zone,
    })
}

fn move_view(one: &Move, name: impl Fn(NodeId) -> String) -> MoveView {
    MoveView { group: one.group.to_string(), from: one.from.map(&name), to: one.to.map(&name) }
}

fn spread(spread: Spread) -> SpreadView {
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
