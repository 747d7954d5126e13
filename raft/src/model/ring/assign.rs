//! Where the replicas of every group should be: the sticky balanced assignment.
//!
//! The rules, in this order, each without giving up an earlier one:
//! 1. every group has [`effective_replication`](super::quota::effective_replication) replicas on distinct nodes that can hold data;
//! 2. every node is within the floor and ceiling of its weighted quota: a node that is full stops everything that it holds,
//!    while two replicas in one zone only matter when that zone is lost;
//! 3. replicas of a group are spread over zones as far as the quotas let them: the number of pairs of replicas in one zone, over all groups, is
//!    the least possible. Before stickiness, because a copy is paid for once, and a bad spread is a risk for ever;
//! 4. as few replicas as possible are copied. That makes quotas sticky too: giving the ceiling to a node that has the floor costs a copy;
//! 5. as few places as possible differ from the previous target, so that the same facts give the same target.
//!
//! Solved exactly ([`super::flow`]), so no assignment that obeys the rules moves less. Nodes without a zone are one zone together, as
//! for [`voters`](crate::model::voters): nothing says that they do not fail together. Must never: depend on anything but its arguments.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};

use super::error::RingError;
use super::flow::{self, COPY, Problem, RENAME, Zone};
use super::quota::{Quota, quotas, replicas_over};
use super::slot::GroupCount;
use crate::model::ids::{GroupId, NodeId};

/// The nodes of each group, ascending.
pub type Layout = BTreeMap<GroupId, Vec<NodeId>>;

/// What the assignment needs to know of a node.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct NodeSpec {
    pub node: NodeId,
    /// Its share relative to the others', usually MiB of memory; 0: holds nothing.
    pub weight: u32,
    pub zone: Option<String>,
    /// False when it is leaving, or dead for so long that its replicas must be elsewhere.
    pub usable: bool,
}

impl NodeSpec {
    /// A node that is usable.
    pub fn new(node: NodeId, weight: u32, zone: Option<&str>) -> Self {
        Self { node, weight, zone: zone.map(str::to_owned), usable: true }
    }

    /// Whether it can hold data.
    pub fn is_eligible(&self) -> bool {
        self.usable && self.weight > 0
    }
}

/// The result of [`assign`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub layout: Layout,
    /// Replicas of each group.
    pub replicas: u8,
    pub quotas: BTreeMap<NodeId, Quota>,
    /// Replicas that are on nodes which do not hold them now.
    pub copies: u32,
}

/// The assignment that obeys the rules and copies least, starting from `current`. Nodes of `current` that are not in `nodes` are gone.
///
/// # Errors
/// [`RingError::NoUsableNode`], [`RingError::NodeTwice`], [`RingError::Replication`].
pub fn assign(
    current: &Layout,
    nodes: &[NodeSpec],
    groups: GroupCount,
    replication: u8,
) -> Result<Assignment, RingError> {
    assign_between(current, current, nodes, groups, replication)
}

/// Like [`assign`], when the replicas are still on their way: `actual` is where they are, which decides what must be copied; `target` is where they
/// were to go, which decides between assignments that copy as little.
pub fn assign_between(
    actual: &Layout,
    target: &Layout,
    nodes: &[NodeSpec],
    groups: GroupCount,
    replication: u8,
) -> Result<Assignment, RingError> {
    if !matches!(replication, 1 | 3 | 5) {
        return Err(RingError::Replication(replication));
    }
    let by_id: BTreeMap<NodeId, &NodeSpec> = nodes.iter().map(|spec| (spec.node, spec)).collect();
    if by_id.len() < nodes.len() {
        let mut seen = BTreeSet::new();
        let twice = nodes.iter().find(|spec| !seen.insert(spec.node)).expect("one is there twice");
        return Err(RingError::NodeTwice(twice.node));
    }
    // By id, so that the order in which the caller lists nodes changes nothing.
    let eligible: Vec<&NodeSpec> = by_id.into_values().filter(|spec| spec.is_eligible()).collect();
    if eligible.is_empty() {
        return Err(RingError::NoUsableNode);
    }
    let replicas = replicas_over(nodes, replication);
    let quotas = quotas(nodes, groups, replicas);
    let (zone_of, zones) = zones(&eligible);
    let problem = Problem {
        groups: groups.get() as usize,
        replicas: u32::from(replicas),
        quotas: eligible.iter().map(|spec| quotas[&spec.node]).collect(),
        zone_of,
        zones,
        cost: costs(actual, target, &eligible, groups),
    };
    let solution = flow::solve(&problem);
    let layout: Layout = groups
        .groups()
        .zip(solution)
        .map(|(group, held)| (group, held.into_iter().map(|i| eligible[i].node).collect()))
        .collect();
    let copies = copies(actual, &layout);
    Ok(Assignment { layout, replicas, quotas, copies })
}

/// How many replicas of `to` are on nodes that do not hold them in `from`.
pub fn copies(from: &Layout, to: &Layout) -> u32 {
    let new = |(group, nodes): (&GroupId, &Vec<NodeId>)| {
        let held = from.get(group).map_or(&[][..], Vec::as_slice);
        nodes.iter().filter(|node| !held.contains(node)).count() as u32
    };
    to.iter().map(new).sum()
}

fn costs(actual: &Layout, target: &Layout, eligible: &[&NodeSpec], groups: GroupCount) -> Vec<i64> {
    let mut cost = vec![COPY + RENAME; groups.get() as usize * eligible.len()];
    let mut lower = |layout: &Layout, by: i64| {
        for (row, group) in groups.groups().enumerate() {
            let held: BTreeSet<NodeId> = layout.get(&group).into_iter().flatten().copied().collect();
            for node in held {
                if let Ok(column) = eligible.binary_search_by_key(&node, |spec| spec.node) {
                    cost[row * eligible.len() + column] -= by;
                }
            }
        }
    };
    lower(actual, COPY);
    lower(target, RENAME);
    cost
}

/// The zone of each node, and the zones. Nodes that are alone in theirs share one that does not count; so do all, if there is only one zone.
fn zones(eligible: &[&NodeSpec]) -> (Vec<usize>, Vec<Zone>) {
    let mut by_name: BTreeMap<Option<&str>, Vec<usize>> = BTreeMap::new();
    for (i, spec) in eligible.iter().enumerate() {
        by_name.entry(spec.zone.as_deref()).or_default().push(i);
    }
    let only_one = by_name.len() == 1;
    let (alone, shared): (Vec<_>, Vec<_>) =
        by_name.into_values().partition(|nodes| only_one || nodes.len() == 1);
    let mut zones: Vec<Zone> = shared.into_iter().map(|nodes| Zone { nodes, counts: true }).collect();
    let alone: Vec<usize> = alone.into_iter().flatten().collect();
    if !alone.is_empty() {
        zones.push(Zone { nodes: alone, counts: false });
    }
    let mut zone_of = vec![0; eligible.len()];
    for (z, zone) in zones.iter().enumerate() {
        for node in &zone.nodes {
            zone_of[*node] = z;
        }
    }
    (zone_of, zones)
}
