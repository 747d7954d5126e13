//! Figures of the ring for people: balance, spread, what is left to move, and what a change of the fleet would move.
//!
//! Must never: be part of a decision. Fractions are for display only, and nothing of this is replicated.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::{Layout, NodeSpec};
use super::check::pairs_in_one_zone;
use super::error::RingError;
use super::quota::{Quota, quotas, replicas_over};
use super::table::{LastPlan, Ring};
use crate::model::ids::{GroupId, NodeId};

/// Least, most and mean of something per node.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Spread {
    pub min: u32,
    pub max: u32,
    pub mean: f64,
}

impl Spread {
    fn of(counts: impl Iterator<Item = u32> + Clone) -> Self {
        let nodes = counts.clone().count().max(1);
        Self {
            min: counts.clone().min().unwrap_or(0),
            max: counts.clone().max().unwrap_or(0),
            mean: f64::from(counts.sum::<u32>()) / nodes as f64,
        }
    }

    /// 1 is perfect balance; also 1 when there is nothing.
    pub fn max_over_mean(&self) -> f64 {
        if self.mean > 0.0 { f64::from(self.max) / self.mean } else { 1.0 }
    }
}

/// One node's part of the ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFigures {
    pub spec: NodeSpec,
    /// `None` if it may hold nothing.
    pub quota: Option<Quota>,
    /// Replicas that it is a member with, and those that the target gives it.
    pub replicas: u32,
    pub target: u32,
    pub leaders: u32,
    /// Replicas on their way to it and away from it, in changes under way.
    pub arriving: u32,
    pub leaving: u32,
    /// Replicas that it has still to destroy.
    pub tombstones: u32,
}

/// The ring at a glance.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    pub epoch: u64,
    pub target_epoch: u64,
    pub paused: bool,
    /// Every node that the target knows or a replica is on, in order of id.
    pub nodes: Vec<NodeFigures>,
    /// Over the nodes that may hold data.
    pub replicas: Spread,
    pub leaders: Spread,
    /// How many groups are in how many zones.
    pub zones: BTreeMap<usize, u32>,
    /// Pairs of replicas of one group in one zone.
    pub pairs_in_one_zone: u32,
    /// Groups that are where they should be.
    pub in_place: u32,
    pub changes: u32,
    /// Replicas still to be copied.
    pub to_copy: u32,
    pub last_plan: LastPlan,
}

/// The figures of a ring; `leaders` as far as they are known.
pub fn figures(ring: &Ring, leaders: &BTreeMap<GroupId, NodeId>) -> Figures {
    let (actual, known) = (ring.actual(), ring.nodes.values().cloned().collect::<Vec<_>>());
    let quotas = quotas(&known, ring.groups(), replicas_over(&known, ring.replication()));
    let held = |layout: &Layout| count(layout.values().flatten());
    let (replicas, target) = (held(&actual), held(ring.target()));
    let changes: Vec<_> = ring.placements().filter_map(|(_, p)| p.change.as_ref()).collect();
    let arriving = count(changes.iter().flat_map(|c| c.added.values()));
    let leaving = count(changes.iter().flat_map(|c| c.removed.values()));
    let tombstones = count(ring.placements().flat_map(|(_, p)| p.tombstones.values()));
    let led = count(leaders.values());
    let ids: BTreeSet<NodeId> = ring
        .nodes
        .keys()
        .chain(replicas.keys())
        .chain(arriving.keys())
        .chain(tombstones.keys())
        .copied()
        .collect();
    let of = |map: &BTreeMap<NodeId, u32>, node: &NodeId| map.get(node).copied().unwrap_or(0);
    let node = |id: &NodeId| NodeFigures {
        // A node that is gone and still named: it may hold nothing.
        spec: ring
            .nodes
            .get(id)
            .cloned()
            .unwrap_or(NodeSpec { usable: false, ..NodeSpec::new(*id, 0, None) }),
        quota: quotas.get(id).copied(),
        replicas: of(&replicas, id),
        target: of(&target, id),
        leaders: of(&led, id),
        arriving: of(&arriving, id),
        leaving: of(&leaving, id),
        tombstones: of(&tombstones, id),
    };
    let nodes: Vec<NodeFigures> = ids.iter().map(node).collect();
    let able = nodes.iter().filter(|n| n.quota.is_some());
    let zone_of = |id: &NodeId| ring.nodes.get(id).and_then(|spec| spec.zone.as_deref());
    let mut zones: BTreeMap<usize, u32> = BTreeMap::new();
    for nodes in actual.values() {
        *zones.entry(nodes.iter().map(zone_of).collect::<BTreeSet<_>>().len()).or_default() += 1;
    }
    Figures {
        epoch: ring.epoch(),
        target_epoch: ring.target_epoch(),
        paused: ring.is_paused(),
        replicas: Spread::of(able.clone().map(|n| n.replicas)),
        leaders: Spread::of(able.map(|n| n.leaders)),
        nodes,
        zones,
        pairs_in_one_zone: pairs_in_one_zone(&actual, &known),
        in_place: actual.iter().filter(|(group, nodes)| ring.target()[*group] == **nodes).count() as u32,
        changes: changes.len() as u32,
        to_copy: super::assign::copies(&actual, ring.target()),
        last_plan: ring.last_plan(),
    }
}

fn count<'a>(nodes: impl Iterator<Item = &'a NodeId>) -> BTreeMap<NodeId, u32> {
    let mut counts = BTreeMap::new();
    nodes.for_each(|node| *counts.entry(*node).or_default() += 1);
    counts
}

/// A replica that goes from one node to another; without `from` it is one more, without `to` one less.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    pub group: GroupId,
    pub from: Option<NodeId>,
    pub to: Option<NodeId>,
}

/// What leads from one layout to another, in order of groups.
pub fn moves(from: &Layout, to: &Layout) -> Vec<Move> {
    let mut moves = Vec::new();
    for (group, after) in to {
        let before = from.get(group).map_or(&[][..], Vec::as_slice);
        let mut gone = before.iter().filter(|node| !after.contains(node)).copied();
        let mut new = after.iter().filter(|node| !before.contains(node)).copied();
        loop {
            let (from, to) = (gone.next(), new.next());
            if from.is_none() && to.is_none() {
                break;
            }
            moves.push(Move { group: *group, from, to });
        }
    }
    moves
}

/// What a change of the fleet would mean for the ring.
#[derive(Debug, Clone, PartialEq)]
pub struct WhatIf {
    /// From where the replicas are now.
    pub moves: Vec<Move>,
    /// Replicas to be copied; and of them those which would be anyway, to reach the present target.
    pub copies: u32,
    pub copies_anyway: u32,
    /// Replicas of each group afterwards, and of each node now and afterwards.
    pub replicas: u8,
    pub nodes: BTreeMap<NodeId, (u32, u32)>,
    pub balance: Spread,
    pub pairs_in_one_zone: u32,
}

/// The plan for the fleet with nodes added and removed. A node to be added needs an id that is not in use yet.
///
/// # Errors
/// [`RingError::UnknownNode`] for one to be removed; those of [`Ring::plan`].
pub fn what_if(ring: &Ring, add: &[NodeSpec], remove: &[NodeId]) -> Result<WhatIf, RingError> {
    if let Some(node) = remove.iter().find(|node| !ring.nodes.contains_key(node)) {
        return Err(RingError::UnknownNode(*node));
    }
    let stay = ring.nodes.values().filter(|spec| !remove.contains(&spec.node));
    let nodes: Vec<NodeSpec> = stay.chain(add).cloned().collect();
    let (plan, actual) = (ring.plan(&nodes)?, ring.actual());
    let (before, after) = (count(actual.values().flatten()), count(plan.layout.values().flatten()));
    let ids: BTreeSet<NodeId> =
        before.keys().copied().chain(nodes.iter().map(|n| n.node)).chain(remove.iter().copied()).collect();
    let of = |map: &BTreeMap<NodeId, u32>, node: NodeId| map.get(&node).copied().unwrap_or(0);
    let able = nodes.iter().filter(|n| n.is_eligible());
    Ok(WhatIf {
        moves: moves(&actual, &plan.layout),
        copies: plan.copies,
        copies_anyway: super::assign::copies(&actual, ring.target()),
        replicas: replicas_over(&nodes, ring.replication()),
        balance: Spread::of(able.map(|n| of(&after, n.node))),
        pairs_in_one_zone: pairs_in_one_zone(&plan.layout, &nodes),
        nodes: ids.into_iter().map(|id| (id, (of(&before, id), of(&after, id)))).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ReplicaId;
    use crate::model::ring::slot::GroupCount;

    fn spec(id: u64, zone: &str) -> NodeSpec {
        NodeSpec::new(NodeId(id), 1, Some(zone))
    }

    #[test]
    fn moves_pair_what_goes_with_what_comes() {
        let layout = |nodes: &[u64]| Layout::from([(GroupId(1), nodes.iter().map(|n| NodeId(*n)).collect())]);
        let said = |from: &[u64], to: &[u64]| -> String {
            let word = |n: Option<NodeId>| n.map_or("-".into(), |n| n.0.to_string());
            let one = |m: &Move| format!("{}>{}", word(m.from), word(m.to));
            moves(&layout(from), &layout(to)).iter().map(one).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(said(&[1], &[1, 2, 3]), "->2 ->3");
        assert_eq!(said(&[1, 2, 3], &[1, 2, 4]), "3>4");
        assert_eq!(said(&[1, 2, 3], &[4]), "1>4 2>- 3>-");
        assert_eq!(said(&[1, 2, 3], &[1, 2, 3]), "");
    }

    #[test]
    fn figures_and_what_if_of_a_small_fleet() {
        let mut last = 0;
        let mut ids = || {
            last += 1;
            ReplicaId(last)
        };
        let mut ring = Ring::new(GroupCount::G32, 3).unwrap();
        assert_eq!(figures(&ring, &BTreeMap::new()).replicas.max_over_mean(), 1.0);
        ring.found(spec(1, "a"), &mut ids).unwrap();
        let grown = what_if(&ring, &[spec(2, "b"), spec(3, "c")], &[]).unwrap();
        assert_eq!((grown.copies, grown.replicas, grown.moves.len()), (64, 3, 64));
        assert_eq!((grown.copies_anyway, grown.pairs_in_one_zone), (0, 0));
        assert_eq!(grown.nodes[&NodeId(1)], (32, 32));
        assert_eq!(grown.nodes[&NodeId(3)], (0, 32));
        assert_eq!(what_if(&ring, &[], &[NodeId(7)]), Err(RingError::UnknownNode(NodeId(7))));
        assert_eq!(what_if(&ring, &[], &[NodeId(1)]), Err(RingError::NoUsableNode));
        assert_eq!(what_if(&ring, &[spec(1, "b")], &[]), Err(RingError::NodeTwice(NodeId(1))));

        let plan = ring.plan(&[spec(1, "a"), spec(2, "b"), spec(3, "c")]).unwrap();
        ring.retarget(plan).unwrap();
        let step = ring.step(GroupId(1), &BTreeSet::new()).unwrap();
        let id = ring.begin_change(GroupId(1), &step, &mut ids).unwrap();
        let leaders = GroupCount::G32.groups().map(|g| (g, NodeId(1))).collect();
        let now = figures(&ring, &leaders);
        assert_eq!((now.in_place, now.changes, now.to_copy), (0, 1, 64));
        assert_eq!((now.replicas.min, now.replicas.max), (0, 32));
        assert_eq!(now.leaders.max_over_mean(), 3.0);
        assert_eq!((now.nodes[1].arriving, now.nodes[1].target), (1, 32));
        assert_eq!(now.zones, BTreeMap::from([(1, 32)]));
        assert_eq!(now.last_plan, LastPlan { copies: 64, replicas: 96 });

        let members = ring.placement(GroupId(1)).unwrap().members_after().into_keys().collect();
        ring.finish_change(GroupId(1), id, &members).unwrap();
        let now = figures(&ring, &leaders);
        assert_eq!((now.in_place, now.changes, now.to_copy, now.epoch), (1, 0, 62, 2));
        assert_eq!(now.zones, BTreeMap::from([(1, 31), (3, 1)]));
    }
}
