//! Who should lead: a plan of a few transfers of leadership, by count first and by measured load then.
//!
//! Sticky: leadership moves only when that strictly evens out the counts, or takes a good part of the mean load off the busier of two nodes. So for the
//! same view, plans carried out one after another come to an end. Must never: move a leadership to a replica that does not vote,
//! lags, or is on a node that is not usable; transfer a group twice in one plan.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::model::ids::{GroupId, NodeId, ReplicaId};

/// One leadership in units that every replication divides: a group with `k` usable voters is worth `UNIT / k` to each.
const UNIT: i64 = 60;

/// One group as the planner sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    pub group: GroupId,
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// `None` while there is an election; the group is then left alone.
    pub leader: Option<ReplicaId>,
    /// Voters that hold almost all of the log, so that a transfer stops commits for a moment only.
    pub caught_up: BTreeSet<ReplicaId>,
    /// Measured and smoothed, in any unit that is the same for all groups (commands a second).
    pub load: u64,
}

/// How much a plan may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaderLimits {
    /// Most transfers in one plan. Each stops its group for about a round trip.
    pub transfers: usize,
    /// What an exchange must take off the busier node, in percent of the mean load of a node.
    pub gain_percent: u64,
    /// Mean load of a node below which load is not looked at: noise.
    pub load_min: u64,
}

impl LeaderLimits {
    /// For so many groups: one in sixteen at a time, so that a new fleet is even within a minute however many it has.
    pub fn for_groups(groups: usize) -> Self {
        let usual = Self::default();
        Self { transfers: usual.transfers.max(groups / 16), ..usual }
    }
}

impl Default for LeaderLimits {
    fn default() -> Self {
        Self { transfers: 4, gain_percent: 10, load_min: 50 }
    }
}

/// Leadership of a group goes from one replica to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    pub group: GroupId,
    pub from: ReplicaId,
    pub to: ReplicaId,
}

/// The transfers to make now. `usable` are the nodes that may lead: alive, neither leaving nor drained, with a disk that keeps up.
pub fn plan_transfers(
    groups: &[GroupView],
    usable: &BTreeSet<NodeId>,
    limits: &LeaderLimits,
) -> Vec<Transfer> {
    let mut board = Board::new(groups, usable, limits.transfers);
    board.evacuate();
    board.even_counts();
    // Counts first: an exchange that suits today's counts may be wrong for the next ones.
    if board.plan.is_empty() {
        board.even_loads(limits);
    }
    board.plan
}

struct Seat<'a> {
    view: &'a GroupView,
    leader: ReplicaId,
    node: NodeId,
    /// Where leadership could go, by node.
    others: BTreeMap<NodeId, ReplicaId>,
}

struct Board<'a> {
    seats: Vec<Seat<'a>>,
    usable: &'a BTreeSet<NodeId>,
    /// The seats that a node leads and that are not in the plan yet.
    led: BTreeMap<NodeId, BTreeSet<usize>>,
    /// What a node leads above its fair share, in [`UNIT`]s.
    excess: BTreeMap<NodeId, i64>,
    load: BTreeMap<NodeId, u64>,
    plan: Vec<Transfer>,
    left: usize,
}

impl<'a> Board<'a> {
    fn new(groups: &'a [GroupView], usable: &'a BTreeSet<NodeId>, transfers: usize) -> Self {
        let mut excess: BTreeMap<NodeId, i64> = usable.iter().map(|node| (*node, 0)).collect();
        let mut load: BTreeMap<NodeId, u64> = usable.iter().map(|node| (*node, 0)).collect();
        let mut led: BTreeMap<NodeId, BTreeSet<usize>> = BTreeMap::new();
        let mut seats = Vec::new();
        for view in groups {
            let Some(leader) = view.leader else { continue };
            let Some(&node) = view.voters.get(&leader) else { continue };
            let able: Vec<_> = view.voters.iter().filter(|(_, node)| usable.contains(node)).collect();
            for (_, node) in &able {
                *excess.entry(**node).or_default() -= UNIT / able.len() as i64;
            }
            *excess.entry(node).or_default() += UNIT;
            *load.entry(node).or_default() += view.load;
            let ready = |(replica, on): &(&ReplicaId, &NodeId)| {
                **on != node && usable.contains(on) && view.caught_up.contains(replica)
            };
            let others = view.voters.iter().filter(ready).map(|(replica, on)| (*on, *replica)).collect();
            led.entry(node).or_default().insert(seats.len());
            seats.push(Seat { view, leader, node, others });
        }
        Self { seats, usable, led, excess, load, plan: Vec::new(), left: transfers }
    }

    fn transfer(&mut self, seat: usize, to: NodeId) {
        let Seat { view, leader, node, others } = &self.seats[seat];
        let fresh = self.led.get_mut(node).is_some_and(|led| led.remove(&seat));
        assert!(fresh && self.left > 0, "one transfer a group and plan, within the limit");
        self.plan.push(Transfer { group: view.group, from: *leader, to: others[&to] });
        *self.excess.entry(*node).or_default() -= UNIT;
        *self.excess.entry(to).or_default() += UNIT;
        *self.load.entry(*node).or_default() -= view.load;
        *self.load.entry(to).or_default() += view.load;
        self.left -= 1;
    }

    fn led_by(&self, node: NodeId) -> impl Iterator<Item = usize> {
        self.led.get(&node).into_iter().flatten().copied()
    }

    /// Away from nodes that should not lead, to whoever leads least.
    fn evacuate(&mut self) {
        for i in 0..self.seats.len() {
            if self.left == 0 {
                return;
            }
            let seat = &self.seats[i];
            if self.usable.contains(&seat.node) {
                continue;
            }
            if let Some(&to) = seat.others.keys().min_by_key(|node| (self.excess[node], **node)) {
                self.transfer(i, to);
            }
        }
    }

    /// From nodes that lead more than their share to such that lead less, over others in between if need be.
    fn even_counts(&mut self) {
        while let Some(path) = self.path() {
            for (seat, to) in path {
                self.transfer(seat, to);
            }
        }
    }

    /// The transfers that take one leadership from a node to one that leads at least so much less that both get nearer to their shares.
    fn path(&self) -> Option<Vec<(usize, NodeId)>> {
        let mut givers: Vec<NodeId> = self.usable.iter().copied().collect();
        givers.sort_by_key(|node| (-self.excess[node], *node));
        givers.into_iter().find_map(|giver| {
            let from = self.reachable(giver);
            let taker = from.keys().copied().min_by_key(|node| (self.excess[node], *node))?;
            if self.excess[&giver] - self.excess[&taker] <= UNIT {
                return None;
            }
            let (mut path, mut at) = (Vec::new(), taker);
            while at != giver {
                let (previous, seat) = from[&at];
                path.push((seat, at));
                at = previous;
            }
            path.reverse();
            Some(path)
        })
    }

    /// Breadth-first search over nodes, by transfers of groups not yet moved, no further than the limit: how each was reached.
    fn reachable(&self, start: NodeId) -> BTreeMap<NodeId, (NodeId, usize)> {
        let mut from: BTreeMap<NodeId, (NodeId, usize)> = BTreeMap::new();
        let mut queue = VecDeque::from([(start, 0)]);
        while let Some((node, hops)) = queue.pop_front() {
            if hops == self.left {
                break;
            }
            for (next, seat) in self.ways(node) {
                if next != start && !from.contains_key(&next) {
                    from.insert(next, (node, seat));
                    queue.push_back((next, hops + 1));
                }
            }
        }
        from
    }

    /// Where a node could hand something over to, and of the groups that it could hand over there the one that leaves their loads closest.
    fn ways(&self, node: NodeId) -> BTreeMap<NodeId, usize> {
        let mut ways: BTreeMap<NodeId, (u128, usize)> = BTreeMap::new();
        for seat in self.led_by(node) {
            for to in self.seats[seat].others.keys() {
                let apart = i128::from(self.load[&node]) - i128::from(self.load[to]);
                let left = (apart - 2 * i128::from(self.seats[seat].view.load)).unsigned_abs();
                let way = ways.entry(*to).or_insert((left, seat));
                *way = (*way).min((left, seat));
            }
        }
        ways.into_iter().map(|(to, (_, seat))| (to, seat)).collect()
    }

    /// Exchanges, and transfers that leave the counts as even as they are, which take load off the busier node.
    fn even_loads(&mut self, limits: &LeaderLimits) {
        let nodes = self.usable.len().max(1) as u64;
        let total: u64 = self.usable.iter().map(|node| self.load[node]).sum();
        let mean = total / nodes;
        if mean < limits.load_min.max(1) {
            return;
        }
        let gain_min = (mean * limits.gain_percent).div_ceil(100).max(1);
        while let Some((gain, give, take)) = self.best_exchange() {
            if gain < gain_min || take.is_some() && self.left < 2 || self.left == 0 {
                return;
            }
            let (giver, taker) = (self.seats[give.0].node, give.1);
            self.transfer(give.0, taker);
            if let Some(take) = take {
                self.transfer(take, giver);
            }
        }
    }

    /// The best of all: what it takes off the busier node, the group given with the node that takes it, and the group taken in return.
    fn best_exchange(&self) -> Option<(u64, (usize, NodeId), Option<usize>)> {
        let mut best: Option<(u64, (usize, NodeId), Option<usize>)> = None;
        for (node, give) in
            self.usable.iter().flat_map(|node| self.led_by(*node).map(move |give| (node, give)))
        {
            let seat = &self.seats[give];
            for to in seat.others.keys() {
                let (here, there) = (self.load[node], self.load[to]);
                let mut offer = |delta: u64, take: Option<usize>| {
                    let gain = here.saturating_sub((here - delta).max(there + delta));
                    if gain > 0 && best.is_none_or(|(most, _, _)| gain > most) {
                        best = Some((gain, (give, *to), take));
                    }
                };
                if self.excess[node] - self.excess[to] >= UNIT {
                    offer(seat.view.load, None);
                }
                for take in self.led_by(*to) {
                    let other = &self.seats[take];
                    if other.others.contains_key(node) && other.view.load < seat.view.load {
                        offer(seat.view.load - other.view.load, Some(take));
                    }
                }
            }
        }
        best
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Groups as `nodes/leader/load`: the replica on node n of group g is `g * 10 + n`. A node after `!` lags.
    fn parse(text: &str) -> Vec<GroupView> {
        let one = |(i, word): (usize, &str)| {
            let parts: Vec<&str> = word.split('/').collect();
            let group = GroupId(i as u32 + 1);
            let id = |node: u64| ReplicaId(u64::from(group.0) * 10 + node);
            let mut view = GroupView {
                group,
                voters: BTreeMap::new(),
                leader: parts[1].parse().ok().map(id),
                caught_up: BTreeSet::new(),
                load: parts.get(2).map_or(0, |load| load.parse().unwrap()),
            };
            let mut lags = false;
            for c in parts[0].chars() {
                if c == '!' {
                    lags = true;
                    continue;
                }
                let node = u64::from(c.to_digit(10).unwrap());
                view.voters.insert(id(node), NodeId(node));
                if !std::mem::take(&mut lags) {
                    view.caught_up.insert(id(node));
                }
            }
            view
        };
        text.split_whitespace().enumerate().map(one).collect()
    }

    fn nodes(ids: &[u64]) -> BTreeSet<NodeId> {
        ids.iter().map(|id| NodeId(*id)).collect()
    }

    fn plan(text: &str, usable: &[u64], limits: LeaderLimits) -> String {
        let transfers = plan_transfers(&parse(text), &nodes(usable), &limits);
        let words: Vec<String> = transfers.iter().map(|t| format!("{}>{}", t.group, t.to.0 % 10)).collect();
        words.join(" ")
    }

    #[test]
    fn more_groups_are_handed_over_at_a_time() {
        let transfers = [2, 32, 64, 128, 256].map(|groups| LeaderLimits::for_groups(groups).transfers);
        assert_eq!(transfers, [4, 4, 4, 8, 16]);
    }

    #[test]
    fn plans() {
        let cases: &[(&str, &[u64], &str)] = &[
            ("123/1 123/2 123/3", &[1, 2, 3], ""),
            ("123/1 123/1 123/1", &[1, 2, 3], "g1>2 g2>3"),
            // One more than the others cannot be helped.
            ("123/1 123/2 123/3 123/1", &[1, 2, 3], ""),
            // Nobody who lags, nobody who is not usable, no group in an election.
            ("1!2!3/1 1!2!3/1 1!2!3/1", &[1, 2, 3], ""),
            ("123/1 123/1 123/1", &[1, 2], "g1>2"),
            ("123/- 123/- 123/-", &[1, 2, 3], ""),
            // A node that is to go hands over, even if that makes counts uneven.
            ("123/1 123/2 123/3", &[2, 3], "g1>2"),
            ("123/1 123/1 123/1 123/1 123/1 123/1", &[2, 3], "g1>2 g2>3 g3>2 g4>3"),
            // Over a node in between: 1 and 3 share no group.
            ("12/1 12/1 12/1 23/2 23/2", &[1, 2, 3], "g1>2 g4>3"),
            // Same counts, uneven load: an exchange.
            ("12/1/900 12/1/800 12/2/100 12/2/200", &[1, 2], "g1>2 g4>1"),
            // One hot group: to move it helps nobody.
            ("12/1/9000 12/2/100", &[1, 2], ""),
            // Noise.
            ("12/1/20 12/1/20 12/2/1 12/2/1", &[1, 2], ""),
            ("12/1/500 12/1/520 12/2/480 12/2/500", &[1, 2], ""),
        ];
        for (groups, usable, expected) in cases {
            assert_eq!(plan(groups, usable, LeaderLimits::default()), *expected, "{groups}");
        }
        let one = LeaderLimits { transfers: 1, ..LeaderLimits::default() };
        assert_eq!(plan("123/1 123/1 123/1", &[1, 2, 3], one), "g1>2");
        assert_eq!(plan("12/1/900 12/1/800 12/2/100 12/2/200", &[1, 2], one), "", "half an exchange is none");
    }

    fn spread(groups: &[GroupView], usable: &BTreeSet<NodeId>) -> (i64, i64) {
        let board = Board::new(groups, usable, 0);
        let of = |node: &NodeId| board.excess[node];
        (usable.iter().map(of).max().unwrap_or(0), usable.iter().map(of).min().unwrap_or(0))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]

        /// Plans carried out one after another come to an end, in which counts are as even as they can be when all are caught up.
        #[test]
        fn plans_end_in_balance(
            spec in prop::collection::vec((prop::sample::subsequence(vec![1u64, 2, 3, 4, 5], 3), 0usize..3, 0u64..1000), 1..40),
            usable in prop::sample::subsequence(vec![1u64, 2, 3, 4, 5], 3..=5),
        ) {
            let usable = nodes(&usable);
            let mut groups: Vec<GroupView> = spec.iter().enumerate().map(|(i, (on, leader, load))| {
                let id = |node: &u64| ReplicaId(i as u64 * 10 + node);
                GroupView {
                    group: GroupId(i as u32 + 1),
                    voters: on.iter().map(|node| (id(node), NodeId(*node))).collect(),
                    leader: Some(id(&on[*leader])),
                    caught_up: on.iter().map(id).collect(),
                    load: *load,
                }
            }).collect();
            let limits = LeaderLimits::default();
            let mut rounds = 0;
            loop {
                let plan = plan_transfers(&groups, &usable, &limits);
                prop_assert!(plan.len() <= limits.transfers);
                let distinct: BTreeSet<_> = plan.iter().map(|t| t.group).collect();
                prop_assert_eq!(distinct.len(), plan.len());
                if plan.is_empty() {
                    break;
                }
                for transfer in plan {
                    let group = &mut groups[transfer.group.0 as usize - 1];
                    prop_assert_eq!(group.leader, Some(transfer.from));
                    prop_assert!(usable.contains(&group.voters[&transfer.to]));
                    group.leader = Some(transfer.to);
                }
                rounds += 1;
                prop_assert!(rounds < 200, "plans do not end");
            }
            for group in &groups {
                let led_by = group.voters[&group.leader.unwrap()];
                prop_assert!(usable.contains(&led_by) || group.voters.values().all(|n| !usable.contains(n)));
            }
            let (most, least) = spread(&groups, &usable);
            let everywhere = groups.iter().all(|g| g.voters.values().filter(|n| usable.contains(n)).count() == usable.len());
            prop_assert!(!everywhere || most - least <= UNIT, "excess from {least} to {most}");
        }
    }
}
