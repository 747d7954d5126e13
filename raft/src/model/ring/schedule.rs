//! What to do next: which nodes the target may use, and which groups take their next step.
//!
//! Called by the control leader again and again with what it sees; it proposes the answer. Must never: begin more than the limits allow at a time,
//! move data because of a short absence, or begin a change in a group that has no quorum to carry it out.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::NodeSpec;
use super::quota::effective_replication;
use super::table::{Placement, Ring, Step};
use crate::model::ids::{GroupId, NodeId};

/// How long a node has to be dead before its replicas are made anew elsewhere. Most come back after a reboot or an upgrade, and
/// copying everything takes longer than that.
pub const DEATH_PAUSE_MS: u64 = 5 * 60 * 1000;

/// How many changes may be under way at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScheduleLimits {
    /// In the whole fleet.
    pub fleet: usize,
    /// That copy to one node.
    pub node_in: usize,
    /// That copy from one node.
    pub node_out: usize,
}

impl Default for ScheduleLimits {
    fn default() -> Self {
        Self { fleet: 16, node_in: 2, node_out: 2 }
    }
}

/// A member of the fleet as the control leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// `usable` is whether it may hold data if it is alive: false when it is leaving.
    pub spec: NodeSpec,
    /// Since when this leader holds it for dead, on its monotonic clock. A new leader counts anew.
    pub dead_since_ms: Option<u64>,
}

/// The nodes to plan for: a member that has been dead for `pause_ms` is no longer usable.
///
/// But deaths alone never lower the replication: as long as there is nobody to take the place of the dead, those who died last stay in the target. Of three
/// nodes with one dead, two copies are left; to give one of them up for the sake of an odd number would risk the data.
/// It is lowered when nodes leave, which people decide.
pub fn nodes_to_plan(members: &[MemberView], now_ms: u64, pause_ms: u64, replication: u8) -> Vec<NodeSpec> {
    let lasting =
        |m: &MemberView| m.dead_since_ms.is_some_and(|since| now_ms.saturating_sub(since) >= pause_ms);
    let eligible = members.iter().filter(|m| m.spec.is_eligible());
    let wanted = usize::from(effective_replication(replication, eligible.clone().count()));
    let (mut dead, living): (Vec<_>, Vec<_>) = eligible.partition(|m| lasting(m));
    dead.sort_by_key(|m| (std::cmp::Reverse(m.dead_since_ms), m.spec.node));
    let given_up: BTreeSet<NodeId> =
        dead.iter().skip(wanted.saturating_sub(living.len())).map(|m| m.spec.node).collect();
    let spec = |m: &MemberView| NodeSpec {
        usable: m.spec.usable && !given_up.contains(&m.spec.node),
        ..m.spec.clone()
    };
    members.iter().map(spec).collect()
}

/// A group that takes its next step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begin {
    pub group: GroupId,
    pub step: Step,
}

/// A group that cannot commit anything, and so cannot change either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    pub group: GroupId,
    /// The nodes that are missing; the group goes on when a majority of its members is back.
    pub missing: Vec<NodeId>,
}

/// The changes to begin now, most urgent first: groups with fewest live replicas, then those that replace a dead one, then growth.
///
/// `dead` are all that are dead now, however short; `leaders` tells whose disk and link a copy takes, as far as it is known. A change that
/// waits for dead nodes does not count for the fleet, so that it holds up nobody else.
pub fn next_changes(
    ring: &Ring,
    dead: &BTreeSet<NodeId>,
    leaders: &BTreeMap<GroupId, NodeId>,
    limits: &ScheduleLimits,
) -> Vec<Begin> {
    if ring.is_paused() {
        return Vec::new();
    }
    let source = |group: GroupId, nodes: &[NodeId]| {
        let leader = leaders.get(&group).filter(|node| nodes.contains(node));
        leader.or_else(|| nodes.iter().find(|node| !dead.contains(node))).copied()
    };
    let mut traffic = Traffic { limits, fleet: 0, taking: BTreeMap::new(), giving: BTreeMap::new() };
    let mut candidates = Vec::new();
    for (group, placement) in ring.placements() {
        let nodes = placement.nodes();
        if let Some(change) = &placement.change {
            let stalled = !has_quorum(&nodes, dead) || change.added.values().any(|node| dead.contains(node));
            let from = source(group, &nodes).filter(|_| !change.added.is_empty() && !stalled);
            traffic.add(change.added.values(), from, stalled);
            continue;
        }
        if !has_quorum(&nodes, dead) {
            continue;
        }
        let live = nodes.iter().filter(|node| !dead.contains(node)).count();
        if let Some(step) = ring.step(group, dead) {
            let replaces_dead = step.remove.iter().any(|node| dead.contains(node));
            let from = source(group, &nodes).filter(|_| !step.add.is_empty());
            candidates.push(((live, !replaces_dead, !step.remove.is_empty(), group), from, step));
        }
    }
    candidates.sort_by_key(|(urgency, _, _)| *urgency);
    let mut begin = Vec::new();
    for ((_, _, _, group), from, step) in candidates {
        if traffic.has_room(&step.add, from) {
            traffic.add(step.add.iter(), from, false);
            begin.push(Begin { group, step });
        }
    }
    begin
}

/// Every group without a quorum.
pub fn without_quorum(ring: &Ring, dead: &BTreeSet<NodeId>) -> Vec<Stuck> {
    let stuck = |(group, placement): (GroupId, &Placement)| {
        let nodes = placement.nodes();
        let missing: Vec<NodeId> = nodes.iter().filter(|node| dead.contains(node)).copied().collect();
        (!has_quorum(&nodes, dead)).then_some(Stuck { group, missing })
    };
    ring.placements().filter_map(stuck).collect()
}

/// Whether a majority of a group's nodes is left without the `dead`.
pub fn has_quorum(nodes: &[NodeId], dead: &BTreeSet<NodeId>) -> bool {
    nodes.iter().filter(|node| !dead.contains(node)).count() * 2 > nodes.len()
}

struct Traffic<'a> {
    limits: &'a ScheduleLimits,
    fleet: usize,
    taking: BTreeMap<NodeId, usize>,
    giving: BTreeMap<NodeId, usize>,
}

impl Traffic<'_> {
    fn add<'n>(&mut self, to: impl Iterator<Item = &'n NodeId>, from: Option<NodeId>, stalled: bool) {
        self.fleet += usize::from(!stalled);
        to.for_each(|node| *self.taking.entry(*node).or_default() += 1);
        if let Some(node) = from {
            *self.giving.entry(node).or_default() += 1;
        }
    }

    fn has_room(&self, to: &[NodeId], from: Option<NodeId>) -> bool {
        let of = |map: &BTreeMap<NodeId, usize>, node: &NodeId| map.get(node).copied().unwrap_or(0);
        self.fleet < self.limits.fleet
            && to.iter().all(|node| of(&self.taking, node) < self.limits.node_in)
            && from.is_none_or(|node| of(&self.giving, &node) < self.limits.node_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::ReplicaId;
    use crate::model::ring::slot::GroupCount;

    fn member(id: u64, dead_since_ms: Option<u64>) -> MemberView {
        MemberView { spec: NodeSpec::new(NodeId(id), 1, None), dead_since_ms }
    }

    fn specs(nodes: u64) -> Vec<NodeSpec> {
        (1..=nodes).map(|id| NodeSpec::new(NodeId(id), 1, None)).collect()
    }

    #[test]
    fn the_dead_are_given_up_after_the_pause_if_somebody_can_take_their_place() {
        // (members as the minute of their death or `-`, minute now) -> usable.
        let cases = [
            ("- - - 10", 14, "1 2 3 4"),
            ("- - - 10", 15, "1 2 3"),
            // Nobody can take its place: it stays, however long.
            ("- - 10", 99, "1 2 3"),
            ("- 10", 99, "1"),
            // Of two dead among four one has to stay: who died last.
            ("- - 10 11", 99, "1 2 4"),
            ("- - 11 10", 99, "1 2 3"),
            ("10 10 10", 99, "1 2 3"),
        ];
        for (text, now, expected) in cases {
            let minute = |word: &str| word.parse().ok().map(|m: u64| m * 60_000);
            let members: Vec<MemberView> =
                text.split(' ').enumerate().map(|(i, w)| member(i as u64 + 1, minute(w))).collect();
            let nodes = nodes_to_plan(&members, now * 60_000, DEATH_PAUSE_MS, 3);
            let usable: Vec<String> =
                nodes.iter().filter(|n| n.usable).map(|n| n.node.0.to_string()).collect();
            // A replication of 1 over two nodes: the dead one is given up, since the other can hold all.
            assert_eq!(usable.join(" "), expected, "{text} at {now}");
        }
    }

    fn ring(nodes: u64) -> (Ring, impl FnMut() -> ReplicaId) {
        let mut last = 0;
        let mut ids = move || {
            last += 1;
            ReplicaId(last)
        };
        let mut ring = Ring::new(GroupCount::G32, 3).unwrap();
        ring.found(NodeSpec::new(NodeId(1), 1, None), &mut ids).unwrap();
        let plan = ring.plan(&specs(nodes)).unwrap();
        ring.retarget(plan).unwrap();
        (ring, ids)
    }

    fn set(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn settle(ring: &mut Ring, ids: &mut impl FnMut() -> ReplicaId) {
        let wide = ScheduleLimits { fleet: 1000, node_in: 1000, node_out: 1000 };
        while !ring.is_settled() {
            for Begin { group, step } in next_changes(ring, &BTreeSet::new(), &BTreeMap::new(), &wide) {
                let id = ring.begin_change(group, &step, &mut *ids).unwrap();
                let members = ring.placement(group).unwrap().members_after().into_keys().collect();
                ring.finish_change(group, id, &members).unwrap();
            }
        }
    }

    #[test]
    fn limits_hold_over_what_is_under_way_already() {
        let (mut ring, mut ids) = ring(3);
        let limits = ScheduleLimits { fleet: 16, node_in: 3, node_out: 2 };
        let none = (BTreeSet::new(), BTreeMap::new());
        let first = next_changes(&ring, &none.0, &none.1, &limits);
        assert_eq!(first.len(), 2, "node 1 gives to two groups at a time");
        assert!(first.iter().all(|b| b.step == Step { add: vec![NodeId(2), NodeId(3)], remove: vec![] }));
        for Begin { group, step } in &first {
            ring.begin_change(*group, step, &mut ids).unwrap();
        }
        assert_eq!(next_changes(&ring, &none.0, &none.1, &limits), []);
        let wide = ScheduleLimits { node_out: 100, ..limits };
        assert_eq!(next_changes(&ring, &none.0, &none.1, &wide).len(), 1, "nodes 2 and 3 take one more");
        ring.set_paused(true);
        assert_eq!(next_changes(&ring, &none.0, &none.1, &wide), []);
        ring.set_paused(false);
        assert_eq!(next_changes(&ring, &set(&[3]), &none.1, &wide), [], "nothing can grow without node 3");
    }

    #[test]
    fn a_change_that_waits_for_the_dead_holds_nobody_up() {
        let (mut ring, mut ids) = ring(4);
        settle(&mut ring, &mut ids);
        let plan = ring.plan(&specs(6)).unwrap();
        ring.retarget(plan).unwrap();
        let limits = ScheduleLimits { fleet: 1, node_in: 1, node_out: 1 };
        let next = |ring: &Ring, dead: &[u64]| next_changes(ring, &set(dead), &BTreeMap::new(), &limits);
        let [first] = &next(&ring, &[6])[..] else { panic!("one at a time") };
        assert_eq!(first.step.add, [NodeId(5)]);
        ring.begin_change(first.group, &first.step, &mut ids).unwrap();
        assert_eq!(next(&ring, &[]), [], "the fleet's limit is reached");
        let [second] = &next(&ring, &[5])[..] else { panic!("one at a time") };
        assert_eq!(second.step.add, [NodeId(6)]);
        // The same if the group itself has lost its quorum.
        let lost = [1, 2, 3, 4]
            .map(NodeId)
            .into_iter()
            .filter(|n| ring.placement(first.group).unwrap().nodes().contains(n));
        let lost: Vec<u64> = lost.take(2).map(|n| n.0).collect();
        let others =
            next_changes(&ring, &set(&lost), &BTreeMap::new(), &ScheduleLimits { node_in: 9, ..limits });
        assert_eq!(others.len(), 1);
    }

    #[test]
    fn groups_with_fewest_live_replicas_come_first() {
        let (mut ring, mut ids) = ring(5);
        settle(&mut ring, &mut ids);
        let mut without_five = specs(5);
        without_five[4].usable = false;
        let plan = ring.plan(&without_five).unwrap();
        ring.retarget(plan).unwrap();
        let wide = ScheduleLimits { fleet: 1000, node_in: 1000, node_out: 1000 };
        let live = |b: &Begin, dead: &BTreeSet<NodeId>| {
            let nodes = ring.placement(b.group).unwrap().nodes();
            nodes.iter().filter(|n| !dead.contains(n)).count()
        };
        // Node 5 leaves and lives, node 4 has just died and is in the target still.
        let dead = set(&[4]);
        let begin = next_changes(&ring, &dead, &BTreeMap::new(), &wide);
        let counts: Vec<usize> = begin.iter().map(|b| live(b, &dead)).collect();
        assert!(counts.is_sorted() && counts.contains(&2) && counts.contains(&3), "{counts:?}");
        assert!(begin.iter().all(|b| b.step.remove == [NodeId(5)] && b.step.add != [NodeId(4)]));
        let dead = set(&[4, 5]);
        let begin = next_changes(&ring, &dead, &BTreeMap::new(), &wide);
        assert!(!begin.is_empty());
        assert!(begin.iter().all(|b| live(b, &dead) >= 2), "without a quorum nothing can change");
        let stuck = without_quorum(&ring, &dead);
        assert!(stuck.iter().all(|s| s.missing == [NodeId(4), NodeId(5)]));
        let both = |p: &Placement| p.nodes().ends_with(&[NodeId(4), NodeId(5)]);
        assert_eq!(stuck.len(), ring.placements().filter(|(_, p)| both(p)).count());
        assert!(!stuck.is_empty());
    }

    #[test]
    fn the_leader_is_who_gives() {
        let (mut ring, mut ids) = ring(3);
        settle(&mut ring, &mut ids);
        let plan = ring.plan(&specs(4)).unwrap();
        ring.retarget(plan).unwrap();
        let limits = ScheduleLimits { fleet: 100, node_in: 100, node_out: 2 };
        let led_by = |node: fn(u32) -> u64| -> BTreeMap<GroupId, NodeId> {
            GroupCount::G32.groups().map(|g| (g, NodeId(node(g.0)))).collect()
        };
        assert_eq!(next_changes(&ring, &BTreeSet::new(), &led_by(|_| 1), &limits).len(), 2);
        assert_eq!(
            next_changes(&ring, &BTreeSet::new(), &led_by(|g| u64::from(g) % 3 + 1), &limits).len(),
            6
        );
    }
}
