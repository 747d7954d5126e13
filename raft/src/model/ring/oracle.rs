//! Oracles for the assignment, for tests only: a maximum flow that bounds from below how many replicas any assignment that obeys the rules must
//! copy, and exhaustive search over small problems. Must never: share code with what they judge.

use std::collections::{BTreeMap, VecDeque};

use super::assign::{Layout, NodeSpec};
use super::flow::Problem;
use super::quota::Quota;
use crate::model::ids::NodeId;

/// Edmonds and Karp's algorithm over arcs in pairs: arc `i ^ 1` is the reverse of arc `i`.
struct MaxFlow {
    out: Vec<Vec<usize>>,
    to: Vec<usize>,
    room: Vec<u32>,
}

impl MaxFlow {
    fn new(vertices: usize) -> Self {
        Self { out: vec![Vec::new(); vertices], to: Vec::new(), room: Vec::new() }
    }

    fn arc(&mut self, from: usize, to: usize, capacity: u32) {
        for (from, to, room) in [(from, to, capacity), (to, from, 0)] {
            self.out[from].push(self.to.len());
            self.to.push(to);
            self.room.push(room);
        }
    }

    fn run(&mut self, source: usize, sink: usize) -> u32 {
        let mut total = 0;
        loop {
            let mut by: Vec<Option<usize>> = vec![None; self.out.len()];
            let mut queue = VecDeque::from([source]);
            while let Some(at) = queue.pop_front() {
                for &arc in &self.out[at] {
                    let to = self.to[arc];
                    if self.room[arc] > 0 && to != source && by[to].is_none() {
                        by[to] = Some(arc);
                        queue.push_back(to);
                    }
                }
            }
            if by[sink].is_none() {
                return total;
            }
            let mut at = sink;
            while let Some(arc) = by[at] {
                self.room[arc] -= 1;
                self.room[arc ^ 1] += 1;
                at = self.to[arc ^ 1];
            }
            total += 1;
        }
    }
}

/// The least number of replicas that any assignment must copy, coming from `current`: all, less the most that can stay where they
/// are within quotas (all floors, and no more ceilings than there are).
pub(super) fn copies_at_least(
    current: &Layout,
    nodes: &[NodeSpec],
    quotas: &BTreeMap<NodeId, Quota>,
    replicas: u8,
    groups: u32,
) -> u32 {
    let total = groups * u32::from(replicas);
    let (source, sink, extra) = (0, 1, 2);
    let (first_node, first_group) = (3, 3 + nodes.len());
    let mut flow = MaxFlow::new(first_group + current.len());
    for (i, spec) in nodes.iter().enumerate() {
        let Some(quota) = quotas.get(&spec.node) else { continue };
        flow.arc(first_node + i, sink, quota.floor);
        flow.arc(first_node + i, extra, quota.ceil - quota.floor);
    }
    flow.arc(extra, sink, total - quotas.values().map(|q| q.floor).sum::<u32>());
    for (row, held) in current.values().enumerate() {
        flow.arc(source, first_group + row, u32::from(replicas));
        for (i, _) in nodes.iter().enumerate().filter(|(_, spec)| held.contains(&spec.node)) {
            flow.arc(first_group + row, first_node + i, 1);
        }
    }
    total - flow.run(source, sink)
}

/// What an assignment is judged by, lowest first: pairs in one zone, then the cost of its places.
pub(super) type Price = (u32, i64);

pub(super) fn price(problem: &Problem, held: &[Vec<usize>]) -> Price {
    let nodes = problem.quotas.len();
    let mut price = (0, 0);
    for (group, held) in held.iter().enumerate() {
        for (i, node) in held.iter().enumerate() {
            let same = |other: &&usize| problem.zone_of[**other] == problem.zone_of[*node];
            if problem.zones[problem.zone_of[*node]].counts {
                price.0 += held[..i].iter().filter(same).count() as u32;
            }
            price.1 += problem.cost[group * nodes + node];
        }
    }
    price
}

/// The best price of all assignments that keep the quotas, by trying every one.
pub(super) fn best_price(problem: &Problem) -> Option<Price> {
    let nodes = problem.quotas.len();
    let subsets: Vec<Vec<usize>> = (0u32..1 << nodes)
        .filter(|set| set.count_ones() == problem.replicas)
        .map(|set| (0..nodes).filter(|n| set >> n & 1 == 1).collect())
        .collect();
    let mut best = None;
    let mut choice = vec![0; problem.groups];
    loop {
        let held: Vec<Vec<usize>> = choice.iter().map(|c: &usize| subsets[*c].clone()).collect();
        let load = |node: usize| held.iter().filter(|h| h.contains(&node)).count() as u32;
        if (0..nodes).all(|n| (problem.quotas[n].floor..=problem.quotas[n].ceil).contains(&load(n))) {
            let price = price(problem, &held);
            best = Some(best.map_or(price, |best: Price| best.min(price)));
        }
        let Some(next) = choice.iter().position(|c| c + 1 < subsets.len()) else { return best };
        choice[..next].fill(0);
        choice[next] += 1;
    }
}
