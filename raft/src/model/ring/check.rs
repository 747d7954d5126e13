//! The rules of an assignment as code: what [`super::assign`] promises, said another way, so that each can be held against the other.
//!
//! Must never: share the way of solving. It takes quotas from [`super::quota`], everything else from the layout itself.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::{Layout, NodeSpec, copies};
use super::quota::{Quota, quotas, replicas_over};
use super::slot::GroupCount;
use crate::model::ids::{GroupId, NodeId};

/// A rule that a layout breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    #[error("group {0} is not assigned")]
    Unassigned(GroupId),
    #[error("group {0} is not of this ring")]
    UnknownGroup(GroupId),
    #[error("group {group} has {replicas} replicas instead of {wanted}")]
    Replicas { group: GroupId, replicas: usize, wanted: u8 },
    #[error("group {group} is on node {node} twice")]
    Twice { group: GroupId, node: NodeId },
    #[error("group {group} is on node {node}, which cannot hold data")]
    Unusable { group: GroupId, node: NodeId },
    #[error("node {node} has {replicas} replicas, and its quota is {} to {}", quota.floor, quota.ceil)]
    Quota { node: NodeId, replicas: u32, quota: Quota },
    #[error("{pairs} pairs of replicas of one group are in one zone, more than need be")]
    Zones { pairs: u32 },
}

/// Every breach of the rules that do not take a search: all but the spread over zones.
pub fn check_counts(layout: &Layout, nodes: &[NodeSpec], groups: GroupCount, replication: u8) -> Vec<Breach> {
    let wanted = replicas_over(nodes, replication);
    let quotas = quotas(nodes, groups, wanted);
    let mut load: BTreeMap<NodeId, u32> = quotas.keys().map(|node| (*node, 0)).collect();
    let mut breaches: Vec<Breach> =
        layout.keys().filter(|g| !groups.contains(**g)).map(|g| Breach::UnknownGroup(*g)).collect();
    for group in groups.groups() {
        let Some(held) = layout.get(&group) else {
            breaches.push(Breach::Unassigned(group));
            continue;
        };
        if held.len() != usize::from(wanted) {
            breaches.push(Breach::Replicas { group, replicas: held.len(), wanted });
        }
        let mut seen = BTreeSet::new();
        for node in held {
            match load.get_mut(node) {
                None => breaches.push(Breach::Unusable { group, node: *node }),
                Some(load) => *load += 1,
            }
            if !seen.insert(node) {
                breaches.push(Breach::Twice { group, node: *node });
            }
        }
    }
    for (node, quota) in quotas {
        let replicas = load[&node];
        if !(quota.floor..=quota.ceil).contains(&replicas) {
            breaches.push(Breach::Quota { node, replicas, quota });
        }
    }
    breaches
}

/// Every breach of the rules. Takes tens of milliseconds when it is large: for tests, checkers and tools.
pub fn check(layout: &Layout, nodes: &[NodeSpec], groups: GroupCount, replication: u8) -> Vec<Breach> {
    let mut breaches = check_counts(layout, nodes, groups, replication);
    if breaches.is_empty() && can_be_better(layout, nodes, groups, replication, None) {
        breaches.push(Breach::Zones { pairs: pairs_in_one_zone(layout, nodes) });
    }
    breaches
}

/// How many pairs of replicas of one group are in one zone.
pub fn pairs_in_one_zone(layout: &Layout, nodes: &[NodeSpec]) -> u32 {
    let zone_of: BTreeMap<NodeId, Option<&str>> = nodes.iter().map(|n| (n.node, n.zone.as_deref())).collect();
    let pairs = |held: &Vec<NodeId>| {
        let zones: Vec<_> = held.iter().filter_map(|node| zone_of.get(node)).collect();
        (0..zones.len())
            .map(|i| zones[i + 1..].iter().filter(|zone| **zone == zones[i]).count() as u32)
            .sum::<u32>()
    };
    layout.values().map(pairs).sum()
}

/// Whether exchanges of replicas that keep the quotas would spread groups over zones further or, given what was held before, would spread them
/// as far with fewer copies: exactly if the residual network has a negative cycle (Klein 1967). Bellman and Ford's algorithm
/// over its arcs finds it.
pub(super) fn can_be_better(
    layout: &Layout,
    nodes: &[NodeSpec],
    groups: GroupCount,
    replication: u8,
    before: Option<&Layout>,
) -> bool {
    // More than all copies together.
    const PAIR: i64 = 2048;
    let copy = |group: &GroupId, node: NodeId| {
        before.map_or(0, |b| i64::from(!b.get(group).is_some_and(|held| held.contains(&node))))
    };
    let quotas = quotas(nodes, groups, replicas_over(nodes, replication));
    let eligible: Vec<&NodeSpec> = nodes.iter().filter(|n| n.is_eligible()).collect();
    let names: Vec<Option<&str>> =
        eligible.iter().map(|n| n.zone.as_deref()).collect::<BTreeSet<_>>().into_iter().collect();
    // Vertices: the outside, nodes, groups, and each group's zones.
    let (first_group, first_zone) = (1 + eligible.len(), 1 + eligible.len() + layout.len());
    let mut arcs: Vec<(usize, usize, i64)> = Vec::new();
    let load = |node: NodeId| layout.values().filter(|held| held.contains(&node)).count() as u32;
    for (i, spec) in eligible.iter().enumerate() {
        let (load, quota) = (load(spec.node), quotas[&spec.node]);
        if load < quota.ceil {
            arcs.push((1 + i, 0, 0));
        }
        if load > quota.floor {
            arcs.push((0, 1 + i, 0));
        }
    }
    for (row, (group, held)) in layout.iter().enumerate() {
        let mut there = vec![0i64; names.len()];
        let zone_vertex = |zone: usize| first_zone + row * names.len() + zone;
        for (i, spec) in eligible.iter().enumerate() {
            let zone = names.binary_search(&spec.zone.as_deref()).expect("every zone is named");
            if held.contains(&spec.node) {
                there[zone] += 1;
                arcs.push((1 + i, zone_vertex(zone), -copy(group, spec.node)));
            } else {
                arcs.push((zone_vertex(zone), 1 + i, copy(group, spec.node)));
            }
        }
        for (zone, there) in there.into_iter().enumerate() {
            arcs.push((first_group + row, zone_vertex(zone), there * PAIR));
            if there > 0 {
                arcs.push((zone_vertex(zone), first_group + row, (1 - there) * PAIR));
            }
        }
    }
    // Without a negative cycle no way is shorter than all that it could ever give back.
    let copies = before.map_or(0, |before| copies(before, layout));
    let least = -i64::from(pairs_in_one_zone(layout, nodes)) * PAIR - i64::from(copies);
    let mut distance = vec![0i64; first_zone + layout.len() * names.len()];
    loop {
        let mut changed = false;
        for (from, to, cost) in &arcs {
            let there = distance[*from] + cost;
            if there < distance[*to] {
                if there < least {
                    return true;
                }
                distance[*to] = there;
                changed = true;
            }
        }
        if !changed {
            return false;
        }
    }
}
