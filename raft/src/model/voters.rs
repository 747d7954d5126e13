//! Which members of the control group vote: 1, 3 or 5, spread over zones, the living before the dead, those that are drained last of the living.
//!
//! Pure: the leader calls [`plan_voters`] with what it sees and proposes the difference. Invariants: the plan has an odd
//! size of at most 5; it keeps a living voter unless zones or the size forbid it (every change of voters costs two log entries and
//! some risk); it never replaces a dead voter with another dead member.

use std::collections::{BTreeMap, BTreeSet};

use super::ids::{NodeId, ReplicaId};

/// Most voters. Five survive two failures; more only make every commit slower (Raft, section 4.2.1 of the dissertation).
pub const VOTERS_MAX: usize = 5;

/// One member as the leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    pub replica: ReplicaId,
    pub zone: Option<String>,
    pub is_voter: bool,
    pub is_leader: bool,
    /// Not known to be failed. A suspect is alive here: a pause of a second must not move votes.
    pub alive: bool,
    /// Another member has its address: its host came back as another node, and this one never will. Then it is not alive either.
    pub replaced: bool,
    /// Being drained: votes where others are too few, and leads only if nobody else can.
    pub draining: bool,
    /// Heard now, and holds almost all of the log, so that promoting it does not stop commits. Nobody else is given a vote.
    pub caught_up: bool,
}

/// How many of `members` nodes vote: 1 up to 2, 3 up to 4, else 5. Even sizes survive no more failures than the odd size below.
pub fn voters_wanted(members: usize) -> usize {
    match members {
        0..=2 => 1,
        3..=4 => 3,
        _ => VOTERS_MAX,
    }
}

/// Whether the leader should hand over: it is being drained, and somebody who is not could lead.
pub fn steps_down(members: &[Candidate]) -> bool {
    let leader_drains = members.iter().any(|c| c.is_leader && c.draining);
    leader_drains && members.iter().any(is_heir)
}

/// Whether the leadership of one that is being drained can go to this one.
pub fn is_heir(candidate: &Candidate) -> bool {
    let Candidate { is_leader, draining, alive, caught_up, .. } = candidate;
    !is_leader && !draining && *alive && *caught_up
}

/// The voters that the group should have; not the leader, perhaps, if it [steps down](steps_down). `members` lists every node that may vote (leaving and removed ones left out by
/// the caller). Empty only if `members` has nobody to vote.
pub fn plan_voters(members: &[Candidate]) -> BTreeSet<ReplicaId> {
    let wanted = voters_wanted(members.len());
    let mut plan = BTreeSet::new();
    let mut zones: BTreeMap<Option<&str>, usize> = BTreeMap::new();
    let eligible = |c: &&Candidate| c.is_voter || (c.alive && c.caught_up);
    let mut pool: Vec<&Candidate> = members.iter().filter(eligible).collect();
    let steps_down = steps_down(members);
    let stays = |c: &Candidate| c.is_leader && !steps_down;
    while plan.len() < wanted && !pool.is_empty() {
        // Lowest wins: the leader, then the living, then those that may come back, then who is not drained, then the least used
        // zone, then who votes already, then the oldest node.
        let rank = |c: &Candidate| {
            let zone_use = zones.get(&c.zone.as_deref()).copied().unwrap_or(0);
            (!stays(c), !c.alive, c.replaced, c.draining, zone_use, !c.is_voter, c.node)
        };
        let best = (0..pool.len()).min_by_key(|i| rank(pool[*i])).expect("the pool is not empty");
        let chosen = pool.swap_remove(best);
        *zones.entry(chosen.zone.as_deref()).or_default() += 1;
        plan.insert(chosen.replica);
    }
    // Too few can vote yet (learners still catch up): stay at an odd size.
    while plan.len() > 1 && plan.len().is_multiple_of(2) {
        let droppable = members
            .iter()
            .filter(|c| plan.contains(&c.replica) && !stays(c))
            .max_by_key(|c| (!c.alive, c.replaced, c.draining, !c.is_voter, c.node))
            .expect("a plan of two or more has one who does not lead");
        plan.remove(&droppable.replica);
    }
    plan
}

/// Whether the fleet can spare `leaver`: of the members that remain, a majority must be alive. Otherwise the answer is
/// the remaining members that are not.
pub fn can_spare(members: &[Candidate], leaver: NodeId) -> Result<(), Vec<NodeId>> {
    let remaining = || members.iter().filter(|c| c.node != leaver);
    let alive = remaining().filter(|c| c.alive).count();
    if alive * 2 > remaining().count() {
        return Ok(());
    }
    Err(remaining().filter(|c| !c.alive).map(|c| c.node).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// `v` voter, `l` learner; upper case leads; `x` after it: dead; `!`: replaced; `~`: lags; `-`: drained; `@z`: zone.
    fn parse(text: &str) -> Vec<Candidate> {
        let one = |(i, word): (usize, &str)| {
            let (flags, zone) = word.split_once('@').map_or((word, None), |(f, z)| (f, Some(z.to_owned())));
            Candidate {
                node: NodeId(i as u64 + 1),
                replica: ReplicaId(i as u64 + 1),
                zone,
                is_voter: flags.to_lowercase().starts_with('v'),
                is_leader: flags.starts_with('V'),
                alive: !flags.contains(['x', '!']),
                replaced: flags.contains('!'),
                draining: flags.contains('-'),
                caught_up: !flags.contains('~'),
            }
        };
        text.split_whitespace().enumerate().map(one).collect()
    }

    #[test]
    fn plans() {
        let cases = [
            ("V", "1"),
            ("V l", "1"),
            ("V l l", "1 2 3"),
            ("V l l~", "1"),
            ("V l l l", "1 2 3"),
            ("V l l l l", "1 2 3 4 5"),
            ("V l l l l l l", "1 2 3 4 5"),
            // A dead voter stays until somebody alive can take its place.
            ("V v vx", "1 2 3"),
            ("V v vx l", "1 2 4"),
            ("V v vx l~", "1 2 3"),
            ("V vx vx lx", "1 2 3"),
            // Back from 3 members to 2: one vote, the leader's.
            ("v V", "2"),
            ("v V vx", "1 2 3"),
            // Zones: spread beats seniority, the leader stays.
            ("V@a l@a l@b l@c", "1 3 4"),
            ("V@a v@a v@a l@b", "1 2 4"),
            // Of two dead ones the one that may come back stays, even if the other is alone in its zone.
            ("V@a v@a vx@a v!@b l@a l@a", "1 2 3 5 6"),
            ("V@a v@a vx@a vx@b l@a l@a", "1 2 4 5 6"),
            // One that was heard a moment ago is no reason to take a vote from anybody, dead or not.
            ("V v vx v! v l~", "1 2 3 4 5"),
            // Drained ones vote where others are too few, the living before the dead.
            ("V v- v", "1 2 3"),
            ("V v- v l", "1 3 4"),
            ("V v- v lx", "1 2 3"),
            ("V@a v-@b v@c l@a", "1 3 4"),
            // A drained leader hands over if somebody can take over.
            ("V- v v", "1 2 3"),
            ("V- v v l", "2 3 4"),
            ("V- l", "2"),
            ("V- l l~", "2"),
            ("V- l~", "1"),
            ("V- lx", "1"),
            ("V- l-", "1"),
        ];
        for (members, expected) in cases {
            let plan: Vec<_> = plan_voters(&parse(members)).iter().map(|r| r.0.to_string()).collect();
            assert_eq!(plan.join(" "), expected, "{members}");
        }
    }

    #[test]
    fn sparing() {
        let cases =
            [("V", 1, false), ("V l", 1, true), ("V lx", 1, false), ("V lx", 2, true), ("V v v", 3, true)];
        for (members, leaver, ok) in cases {
            assert_eq!(can_spare(&parse(members), NodeId(leaver)).is_ok(), ok, "{members} without n{leaver}");
        }
        assert_eq!(can_spare(&parse("V v vx"), NodeId(2)), Err(vec![NodeId(3)]));
    }

    proptest! {
        /// The plan is odd, bounded, keeps the leader or has its heir, is stable when carried out, and has no dead newcomer.
        #[test]
        fn plan_rules(spec in prop::collection::vec((any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>(), 0u8..3), 1..12), lead in 0usize..12) {
            let lead = lead % spec.len();
            let mut members: Vec<Candidate> = spec.iter().enumerate().map(|(i, (voter, alive, caught_up, draining, zone))| Candidate {
                node: NodeId(i as u64), replica: ReplicaId(i as u64), zone: (*zone > 0).then(|| zone.to_string()),
                is_voter: *voter || i == lead, is_leader: i == lead, alive: *alive || i == lead, caught_up: *caught_up,
                replaced: false, draining: *draining,
            }).collect();
            let plan = plan_voters(&members);
            prop_assert!(plan.len() % 2 == 1 && plan.len() <= voters_wanted(members.len()));
            prop_assert!(plan.contains(&members[lead].replica) || steps_down(&members));
            let hands_over = members.iter().any(|m| is_heir(m) && plan.contains(&m.replica));
            let lagging = members.iter().any(|m| !m.caught_up && m.is_voter);
            prop_assert!(!steps_down(&members) || hands_over || lagging, "somebody can take over");
            for m in &members {
                prop_assert!(!plan.contains(&m.replica) || m.is_voter || (m.alive && m.caught_up));
            }
            for m in &mut members {
                m.is_voter = plan.contains(&m.replica);
            }
            prop_assert_eq!(plan_voters(&members), plan, "carrying a plan out must not make a new plan");
        }
    }
}
