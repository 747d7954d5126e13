//! The assignment as a minimum-cost flow: group -> (group, zone) -> node -> sink, one unit a replica.
//!
//! Successive shortest paths in the primal-dual form (Ahuja, Magnanti, Orlin, "Network Flows", section 9.8; convex costs: chapter 14): Dijkstra over
//! reduced costs gives the distance of the sink, then depth-first search saturates every path of that length. The arcs are
//! not stored, they follow from the matrix of who holds what, so that 300 nodes by 256 groups stay cheap.
//! Costs are lexicographic by magnitude: a replica above a node's floor, then pairs of replicas of one group in one zone, then replicas
//! that must be copied, then replicas that only the target has to name anew.
//!
//! Invariants: reduced costs of residual arcs are never negative, so what is found is optimal at every step; the same problem gives
//! the same answer on every machine.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::quota::Quota;

/// The target has to name it anew, though the node holds the replica.
pub(super) const RENAME: i64 = 1;
/// The node must copy the replica.
pub(super) const COPY: i64 = 2048;
/// Two replicas of one group in one zone.
const SAME_ZONE: i64 = COPY * 2048;
/// A replica above the floor of a node's quota. All floors can be filled, so this only decides between assignments that do.
const ABOVE_FLOOR: i64 = SAME_ZONE * 4096;
const REPLICAS_MAX: i64 = 256 * 5;
// Each level outweighs all that the lower ones can add up to; ten pairs are in five replicas.
const _: () = assert!(COPY > REPLICAS_MAX * RENAME);
const _: () = assert!(SAME_ZONE > REPLICAS_MAX * (COPY + RENAME));
const _: () = assert!(ABOVE_FLOOR > 256 * 10 * SAME_ZONE + REPLICAS_MAX * (COPY + RENAME));

const FAR: i64 = i64::MAX / 2;

/// What to solve; nodes, groups and zones are numbered from 0.
pub(super) struct Problem {
    pub(super) groups: usize,
    /// Replicas of each group.
    pub(super) replicas: u32,
    pub(super) quotas: Vec<Quota>,
    /// The zone of each node.
    pub(super) zone_of: Vec<usize>,
    pub(super) zones: Vec<Zone>,
    /// `cost[group * nodes + node]` of a replica there: 0, or a sum of [`RENAME`] and [`COPY`].
    pub(super) cost: Vec<i64>,
}

pub(super) struct Zone {
    pub(super) nodes: Vec<usize>,
    /// Whether two replicas of a group in it cost anything. Nodes that are alone in their zone are put together in one that does not.
    pub(super) counts: bool,
}

/// The nodes of each group, ascending.
pub(super) fn solve(problem: &Problem) -> Vec<Vec<usize>> {
    let mut solver = Solver::new(problem);
    let wanted = problem.groups * problem.replicas as usize;
    let mut placed = 0;
    while placed < wanted {
        assert!(
            solver.find_distances(),
            "quotas that add up and are at most the groups can always be filled"
        );
        placed += solver.saturate();
    }
    let nodes = problem.quotas.len();
    let held = |group: usize| (0..nodes).filter(|n| solver.holds[group * nodes + n]).collect();
    (0..problem.groups).map(held).collect()
}

/// A vertex of the network; the number is its place in `potential`, `distance` and `seen`.
#[derive(Clone, Copy)]
enum Vertex {
    Group(usize),
    GroupZone(usize, usize),
    Node(usize),
}

struct Solver<'a> {
    p: &'a Problem,
    nodes: usize,
    zones: usize,
    holds: Vec<bool>,
    /// Replicas of a group in a zone.
    in_zone: Vec<u8>,
    load: Vec<u32>,
    placed: Vec<u32>,
    first_zone: Vec<usize>,
    potential: Vec<i64>,
    sink_potential: i64,
    distance: Vec<i64>,
    seen: Vec<bool>,
}

impl<'a> Solver<'a> {
    fn new(p: &'a Problem) -> Self {
        let (nodes, zones) = (p.quotas.len(), p.zones.len());
        let vertices = p.groups + p.groups * zones + nodes;
        Self {
            p,
            nodes,
            zones,
            holds: vec![false; p.groups * nodes],
            in_zone: vec![0; p.groups * zones],
            load: vec![0; nodes],
            placed: vec![0; p.groups],
            first_zone: (0..p.groups).map(|g| scatter(g as u64) as usize % zones).collect(),
            potential: vec![0; vertices],
            sink_potential: 0,
            distance: vec![FAR; vertices],
            seen: vec![false; vertices],
        }
    }

    fn number(&self, vertex: Vertex) -> usize {
        match vertex {
            Vertex::Group(group) => group,
            Vertex::GroupZone(group, zone) => self.p.groups + group * self.zones + zone,
            Vertex::Node(node) => self.p.groups * (1 + self.zones) + node,
        }
    }

    fn vertex(&self, number: usize) -> Vertex {
        let first_node = self.p.groups * (1 + self.zones);
        if number < self.p.groups {
            Vertex::Group(number)
        } else if number < first_node {
            Vertex::GroupZone((number - self.p.groups) / self.zones, (number - self.p.groups) % self.zones)
        } else {
            Vertex::Node(number - first_node)
        }
    }

    /// Cost of one more replica of the group in the zone, when there are `there`.
    fn zone_cost(&self, zone: usize, there: u8) -> i64 {
        if self.p.zones[zone].counts { i64::from(there) * SAME_ZONE } else { 0 }
    }

    /// How many places [`Solver::arc`] looks at for a vertex.
    fn arcs(&self, vertex: Vertex) -> usize {
        match vertex {
            Vertex::Group(_) => self.zones,
            Vertex::GroupZone(_, zone) => 1 + self.p.zones[zone].nodes.len(),
            Vertex::Node(_) => self.p.groups,
        }
    }

    /// The residual arc of a vertex in a place, if there is one there: where it leads, and its cost.
    fn arc(&self, vertex: Vertex, place: usize) -> Option<(Vertex, i64)> {
        match vertex {
            Vertex::Group(group) => {
                // Each group begins with another zone, or the first ones would fill up.
                let zone = (place + self.first_zone[group]) % self.zones;
                let there = self.in_zone[group * self.zones + zone];
                Some((Vertex::GroupZone(group, zone), self.zone_cost(zone, there)))
            }
            Vertex::GroupZone(group, zone) if place == 0 => {
                let there = self.in_zone[group * self.zones + zone];
                (there > 0).then(|| (Vertex::Group(group), -self.zone_cost(zone, there - 1)))
            }
            Vertex::GroupZone(group, zone) => {
                let node = self.p.zones[zone].nodes[place - 1];
                let at = group * self.nodes + node;
                (!self.holds[at]).then(|| (Vertex::Node(node), self.p.cost[at]))
            }
            Vertex::Node(node) => {
                let at = place * self.nodes + node;
                self.holds[at].then(|| (Vertex::GroupZone(place, self.p.zone_of[node]), -self.p.cost[at]))
            }
        }
    }

    /// Reduced cost of the arc from a node to the sink; `None` if the node is full.
    fn to_sink(&self, node: usize) -> Option<i64> {
        let Quota { floor, ceil } = self.p.quotas[node];
        let cost = match self.load[node] {
            load if load < floor => 0,
            load if load < ceil => ABOVE_FLOOR,
            _ => return None,
        };
        Some(cost + self.potential[self.number(Vertex::Node(node))] - self.sink_potential)
    }

    /// Dijkstra from all groups that lack replicas, and new potentials. False if the sink can not be reached.
    fn find_distances(&mut self) -> bool {
        self.distance.fill(FAR);
        let mut heap = BinaryHeap::new();
        for group in 0..self.p.groups {
            if self.placed[group] < self.p.replicas {
                // A group that lacks replicas is at distance 0 of the source, always was, and so has the potential 0.
                assert_eq!(self.potential[group], 0, "potential of a group that lacks replicas");
                self.distance[group] = 0;
                heap.push(Reverse((0, group)));
            }
        }
        let mut sink = FAR;
        while let Some(Reverse((distance, number))) = heap.pop() {
            if distance >= sink {
                break;
            }
            if distance > self.distance[number] {
                continue;
            }
            let vertex = self.vertex(number);
            if let Vertex::Node(node) = vertex
                && let Some(cost) = self.to_sink(node)
            {
                sink = sink.min(distance + cost);
            }
            let base = distance + self.potential[number];
            for place in 0..self.arcs(vertex) {
                let Some((to, cost)) = self.arc(vertex, place) else { continue };
                let to = self.number(to);
                let there = base + cost - self.potential[to];
                assert!(there >= distance, "a residual arc has a negative reduced cost");
                if there < self.distance[to] {
                    self.distance[to] = there;
                    heap.push(Reverse((there, to)));
                }
            }
        }
        if sink == FAR {
            return false;
        }
        for (potential, distance) in self.potential.iter_mut().zip(&self.distance) {
            *potential += distance.min(&sink);
        }
        self.sink_potential += sink;
        true
    }

    /// Fills every shortest path. Returns how many replicas were placed.
    fn saturate(&mut self) -> usize {
        let mut total = 0;
        loop {
            self.seen.fill(false);
            let before = total;
            // One replica of each group in turn: otherwise the first groups would keep all of theirs and the last ones lose all.
            for group in 0..self.p.groups {
                if self.placed[group] < self.p.replicas && self.augment(group) {
                    self.placed[group] += 1;
                    total += 1;
                }
            }
            // Vertices that led nowhere are not looked at again within a round, though what was placed since may have opened them.
            if total == before {
                return total;
            }
        }
    }

    /// Depth-first search from a group to the sink along arcs of reduced cost 0; places one replica if it gets there.
    fn augment(&mut self, group: usize) -> bool {
        let mut path: Vec<(Vertex, usize)> = vec![(Vertex::Group(group), 0)];
        if self.seen[group] {
            return false;
        }
        self.seen[group] = true;
        while let Some(&(vertex, place)) = path.last() {
            if let Vertex::Node(node) = vertex
                && self.to_sink(node) == Some(0)
            {
                self.apply(&path);
                return true;
            }
            // 0: nothing tried yet; else one more than the arc to go on from.
            let with_room = if place == 0 { self.node_with_room(vertex) } else { None };
            let next = with_room.map(|to| (to, 1)).or_else(|| self.next_arc(vertex, place.saturating_sub(1)));
            match next {
                Some((to, place)) => {
                    path.last_mut().expect("the path is not empty").1 = place;
                    let number = self.number(to);
                    self.seen[number] = true;
                    path.push((to, 0));
                }
                None => {
                    path.pop();
                }
            }
        }
        false
    }

    /// The next arc of reduced cost 0 to a vertex not seen, and what to remember to go on after it.
    fn next_arc(&self, vertex: Vertex, from: usize) -> Option<(Vertex, usize)> {
        let potential = self.potential[self.number(vertex)];
        (from..self.arcs(vertex)).find_map(|place| {
            let (to, cost) = self.arc(vertex, place)?;
            let number = self.number(to);
            (!self.seen[number] && cost + potential == self.potential[number]).then_some((to, place + 2))
        })
    }

    /// A node of this group and zone that has room itself, so that nobody has to be displaced. The search begins at a place of its own for
    /// each group, so that groups which share one node do not share all: what a dead node led is then led by many.
    fn node_with_room(&self, vertex: Vertex) -> Option<Vertex> {
        let Vertex::GroupZone(group, zone) = vertex else { return None };
        let potential = self.potential[self.number(vertex)];
        let members = &self.p.zones[zone].nodes;
        let start = scatter(group as u64 * 8 + u64::from(self.placed[group])) as usize % members.len();
        members[start..].iter().chain(&members[..start]).find_map(|&node| {
            let at = group * self.nodes + node;
            let number = self.number(Vertex::Node(node));
            let open = !self.holds[at]
                && !self.seen[number]
                && self.p.cost[at] + potential == self.potential[number]
                && self.to_sink(node) == Some(0);
            open.then_some(Vertex::Node(node))
        })
    }

    /// Sends one unit along a path that ends at a node with room, and lets the vertices on it be used again.
    fn apply(&mut self, path: &[(Vertex, usize)]) {
        for pair in path.windows(2) {
            match (pair[0].0, pair[1].0) {
                (Vertex::Group(group), Vertex::GroupZone(_, zone)) => {
                    self.in_zone[group * self.zones + zone] += 1
                }
                (Vertex::GroupZone(group, zone), Vertex::Group(_)) => {
                    self.in_zone[group * self.zones + zone] -= 1
                }
                (Vertex::GroupZone(group, _), Vertex::Node(node)) => {
                    self.holds[group * self.nodes + node] = true
                }
                (Vertex::Node(node), Vertex::GroupZone(group, _)) => {
                    self.holds[group * self.nodes + node] = false
                }
                _ => unreachable!("there is no such arc"),
            }
        }
        for (vertex, _) in path {
            let number = self.number(*vertex);
            self.seen[number] = false;
        }
        let Some((Vertex::Node(last), _)) = path.last() else { unreachable!("a path ends at a node") };
        self.load[*last] += 1;
    }
}

/// splitmix64's finaliser (Steele, Lea, Flood 2014): spreads neighbouring numbers.
fn scatter(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9E37_79B9_7F4A_7C15);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
