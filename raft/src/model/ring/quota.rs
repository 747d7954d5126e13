//! How many replicas a group has and how many a node gets: exact integer arithmetic.
//!
//! Invariants: the replication in force is odd and never above the nodes that can hold data; quotas add up to groups times
//! replicas, and no node's is above the number of groups, since it holds a group once at most.

use std::collections::BTreeMap;

use super::assign::NodeSpec;
use super::slot::GroupCount;
use crate::model::ids::NodeId;

/// Fewest and most replicas of a node: its weighted share, rounded down and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    pub floor: u32,
    pub ceil: u32,
}

/// The largest odd number that is at most `replication` and at most `nodes`; 0 without nodes. Two voters are worse than one: both
/// are needed for anything.
pub fn effective_replication(replication: u8, nodes: usize) -> u8 {
    let most = usize::from(replication).min(nodes) as u8;
    if most.is_multiple_of(2) { most.saturating_sub(1) } else { most }
}

/// The replication in force over these nodes.
pub fn replicas_over(nodes: &[NodeSpec], replication: u8) -> u8 {
    effective_replication(replication, nodes.iter().filter(|n| n.is_eligible()).count())
}

/// The quota of each node that can hold data.
///
/// A node whose share would be above `groups` gets exactly `groups`, and what is left over is shared among the others by weight, until
/// nobody's share is above. Ends with everything shared out, since there are at least as many nodes as replicas of a group.
pub fn quotas(nodes: &[NodeSpec], groups: GroupCount, replicas: u8) -> BTreeMap<NodeId, Quota> {
    let most = u64::from(groups.get());
    let mut left = most * u64::from(replicas);
    let mut open: Vec<(NodeId, u64)> =
        nodes.iter().filter(|n| n.is_eligible()).map(|n| (n.node, u64::from(n.weight))).collect();
    assert!(open.len() >= usize::from(replicas), "a group has a node for each of its replicas");
    let mut quotas = BTreeMap::new();
    loop {
        // At most 1280 replicas times 10,000 nodes times 2^32: far below 2^64.
        let weights: u64 = open.iter().map(|(_, weight)| weight).sum();
        let before = open.len();
        let total = left;
        open.retain(|&(node, weight)| {
            let capped = total * weight >= most * weights;
            if capped {
                quotas.insert(node, Quota { floor: groups.get(), ceil: groups.get() });
                left -= most;
            }
            !capped
        });
        if open.len() == before {
            for (node, weight) in open {
                let (share, rest) = (total * weight / weights, total * weight % weights);
                quotas.insert(node, Quota { floor: share as u32, ceil: share as u32 + u32::from(rest > 0) });
            }
            break;
        }
    }
    quotas
}

#[cfg(test)]
mod tests {
    use super::*;

    fn specs(weights: &[u32]) -> Vec<NodeSpec> {
        let one = |(i, weight): (usize, &u32)| NodeSpec::new(NodeId(i as u64 + 1), *weight, None);
        weights.iter().enumerate().map(one).collect()
    }

    #[test]
    fn replication_is_odd_and_fits() {
        let cases = [(3, 0, 0), (3, 1, 1), (3, 2, 1), (3, 3, 3), (3, 9, 3), (5, 4, 3), (5, 5, 5), (1, 7, 1)];
        for (wanted, nodes, expected) in cases {
            assert_eq!(effective_replication(wanted, nodes), expected, "{wanted} over {nodes}");
        }
        assert_eq!(replicas_over(&specs(&[1, 0, 1]), 3), 1, "weight 0 holds nothing");
    }

    #[test]
    fn shares() {
        // (weights, replicas) over 32 groups -> (floor, ceil) of each.
        type Case = (&'static [u32], u8, &'static [(u32, u32)]);
        let cases: &[Case] = &[
            (&[1], 1, &[(32, 32)]),
            (&[1, 1, 1], 3, &[(32, 32); 3]),
            (&[1, 1, 1, 1], 3, &[(24, 24); 4]),
            (&[1, 1, 1, 1, 1], 3, &[(19, 20); 5]),
            // One giant is capped; the small ones share the rest.
            (&[1000, 1, 1, 1], 3, &[(32, 32), (21, 22), (21, 22), (21, 22)]),
            // A cap that only shows after another.
            (&[1000, 50, 1, 1], 3, &[(32, 32), (32, 32), (16, 16), (16, 16)]),
            (&[u32::MAX, u32::MAX, 1, 0], 3, &[(32, 32), (32, 32), (32, 32)]),
            (&[2, 1, 1], 1, &[(16, 16), (8, 8), (8, 8)]),
        ];
        for (weights, replicas, expected) in cases {
            let quotas = quotas(&specs(weights), GroupCount::G32, *replicas);
            let got: Vec<_> = quotas.values().map(|q| (q.floor, q.ceil)).collect();
            assert_eq!(got, *expected, "{weights:?}");
        }
    }
}
