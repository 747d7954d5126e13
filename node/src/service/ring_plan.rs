//! Plans of the ring: what a change of the fleet would move, and orders to the control group.
//!
//! Must never: give up a dead node sooner than the control leader does, or search for a plan while the state is locked by others' changes.

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::control::{Command, ControlState, Refusal, RingCommand, node_spec};
use longshore_raft::model::ring::show::{Move, figures, moves, what_if};
use longshore_raft::model::ring::{NodeSpec, Ring, RingError};
use longshore_raft::{NodeId, Runtime};

use super::ring::{no_ring, spread};
use super::views::name_of;
use super::{Service, refused};
use crate::api::types::*;

/// Nodes that one plan adds: the search for it grows with the nodes, and holds the answering node up.
const PLAN_NODES_MAX: usize = 64;
/// How often a new plan is made because the target changed meanwhile.
const REBALANCE_TRIES: u32 = 3;

impl<R: Runtime> Service<R> {
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
        self.until_shown().await?;
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
            self.until_shown().await?;
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
        let unused = names.keys().next_back().map_or(1, |last| last.0 + 1)..;
        let mut taken: BTreeSet<String> =
            state.membership.members().map(|node| node.profile.name.clone()).collect();
        let mut add = Vec::new();
        for (id, node) in unused.map(NodeId).zip(&query.add) {
            if !taken.insert(node.name.clone()) {
                let message = format!("there is a node {} already", node.name);
                return Err(ApiError::new(ErrorCode::Conflict, message));
            }
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

#[cfg(test)]
mod tests {
    use longshore_raft::model::membership::{NodeProfile, Standing};
    use longshore_raft::model::ring::GroupCount;

    use super::super::ring::plan_is_current;
    use super::*;

    /// A fleet of these nodes, by name; the ring is on the first.
    fn fleet(names: &[&str]) -> ControlState {
        let mut state = ControlState::default();
        for (index, name) in names.iter().enumerate() {
            let profile = NodeProfile {
                name: (*name).into(),
                address: ([127, 0, 0, 1], 7400).into(),
                zone: None,
                region: None,
                labels: BTreeMap::new(),
                version: "0.1.0".into(),
                weight: 1000,
            };
            state.membership.admit([index as u8 + 1; 32], profile, 0).unwrap();
        }
        let mut ring = Ring::new(GroupCount::G32, 3).unwrap();
        let first = node_spec(state.membership.get(NodeId(1)).unwrap());
        ring.found(first, || state.membership.allocate_replica()).unwrap();
        state.ring = Some(ring);
        state
    }

    fn retarget(state: &mut ControlState) -> bool {
        let mut ring = state.ring.take().unwrap();
        let plan = ring.plan(&nodes_now(state, &ring)).unwrap();
        let news = ring.is_news(&plan);
        ring.retarget(plan).unwrap();
        state.ring = Some(ring);
        news
    }

    #[test]
    fn a_target_is_current_until_the_members_are_others() {
        let current = |state: &ControlState| plan_is_current(state, state.ring.as_ref().unwrap());
        assert!(current(&fleet(&["a"])));
        let mut state = fleet(&["a", "b", "c"]);
        assert!(!current(&state), "two have come that it knows nothing of");
        assert!(retarget(&mut state) && current(&state));
        assert!(!retarget(&mut state), "and nothing is new");
        state.membership.set_standing(NodeId(2), Standing::Leaving).unwrap();
        assert!(!current(&state));
        assert!(retarget(&mut state) && current(&state));
        state.membership.set_standing(NodeId(2), Standing::Left).unwrap();
        assert!(current(&state), "it holds nothing, and may go");
    }

    #[test]
    fn a_plan_names_nodes_that_are_not_there_yet() {
        let state = fleet(&["a"]);
        let ring = state.ring.as_ref().unwrap();
        let node = |text: &str| PlanNode::parse(text).unwrap();
        let query = |add: &[&str], remove: &[&str]| RingPlanQuery {
            add: add.iter().map(|text| node(text)).collect(),
            remove: remove.iter().map(|name| (*name).to_owned()).collect(),
        };
        let plan = |query: &RingPlanQuery| plan_view(ring, &Fleet::of(&state, query)?, query);
        let grown = plan(&query(&["b", "c:3000:east"], &[])).unwrap();
        assert_eq!((grown.replicas_before, grown.replicas_after, grown.copies), (1, 3, 64));
        assert_eq!(grown.nodes[2], PlanNodeView { name: "c".into(), before: 0, after: 32 });
        assert!(grown.moves.iter().all(|one| one.from.is_none() && one.to != Some("a".into())));
        let replaced = plan(&query(&["b"], &["a"])).unwrap();
        assert_eq!((replaced.moves.len(), replaced.moves[0].from.as_deref()), (32, Some("a")));
        for (wrong, code, words) in [
            (query(&[], &[]), ErrorCode::Invalid, "nothing to plan"),
            (query(&["a"], &[]), ErrorCode::Conflict, "there is a node a already"),
            (query(&["b", "b"], &[]), ErrorCode::Conflict, "there is a node b already"),
            (query(&[], &["nobody"]), ErrorCode::NotFound, "nobody"),
            (query(&[], &["a"]), ErrorCode::Conflict, "no node can hold data"),
        ] {
            let error = plan(&wrong).unwrap_err();
            assert!(error.code == code && error.message.contains(words), "{error:?}");
        }
        let mut state = fleet(&["a"]);
        state.ring = None;
        assert_eq!(Fleet::of(&state, &query(&["b"], &[])).err().unwrap().code, ErrorCode::Busy);
    }
}
