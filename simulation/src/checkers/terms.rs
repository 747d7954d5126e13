//! Terms are not wasted: a replica begins one only when a majority would have granted it a vote.
//!
//! That is what pre-vote is for (Raft dissertation, section 9.6): without it, a replica that is cut off from the leader raises its term with
//! each attempt, and deposes a leader that works each time it gets through. Rule: terms do not run ahead of the last one that had a
//! leader by more than [`WASTED_MAX`]. Some are wasted rightly: candidates split a vote, or die, or lose messages between the
//! pre-vote and the vote. Nothing is asked where a plan slows disks so much that a vote cannot be synced in the time that a candidate waits
//! for it: there every term is wasted until the disks are well again.

use std::collections::BTreeMap;

use crate::observation::{Checker, Observation, Promise, Seen, Verified, Violation};
use crate::plan::{Fault, Plan, Scheduled};

const NAME: &str = "terms";
/// Terms in a row without a leader. Seen without a bug: 2 at most. At even odds for each, once in 65,000 times as many.
const WASTED_MAX: u64 = 16;

/// How long a candidate waits for a vote: the shortest election timeout of the control group.
const VOTE_US: u64 = 1_000_000;

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Terms {
    /// Disks are too slow for votes, at times.
    excused: bool,
    groups: BTreeMap<u32, Reached>,
    events: u64,
}

/// Of one group.
#[derive(Debug, Default)]
struct Reached {
    /// The highest term that had a leader.
    led: u64,
    highest: u64,
}

impl Terms {
    pub fn new(plan: &Plan) -> Self {
        let slow = |scheduled: &Scheduled| match &scheduled.fault {
            Fault::SlowDisk { sync, .. } => sync.max_us + sync.tail_us >= VOTE_US,
            _ => false,
        };
        Self { excused: plan.faults.iter().any(slow), ..Self::default() }
    }
}

impl Checker for Terms {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Seen::Status { host, status } = &observation.seen else { return Ok(()) };
        self.events += 1;
        let reached = self.groups.entry(status.group).or_default();
        if status.is_leader {
            reached.led = reached.led.max(status.term);
        }
        if status.term <= reached.highest {
            return Ok(());
        }
        reached.highest = status.term;
        if self.excused || status.term <= reached.led + WASTED_MAX {
            return Ok(());
        }
        let what = format!(
            "replica {} of group {} on host {host} is in term {}, and none since term {} had a leader: it campaigns where no majority would elect it",
            status.replica, status.group, status.term, reached.led
        );
        Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns: observation.at_ns, what })
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = match self.excused {
            true => "nothing: disks were too slow for votes, at times".into(),
            false => "terms began only where a leader could be elected".into(),
        };
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::plan;
    use crate::observation::ReplicaStatus;
    use crate::plan::Latency;

    fn status(term: u64, is_leader: bool) -> Observation {
        let status = ReplicaStatus {
            group: 0,
            node: 3,
            replica: 3,
            term,
            is_leader,
            leader: None,
            last_log: None,
            committed: None,
            applied: None,
            voters: vec![1, 2, 3],
            epoch: None,
        };
        Observation { at_ns: term, seen: Seen::Status { host: 3, status } }
    }

    fn run(terms: impl IntoIterator<Item = (u64, bool)>) -> Result<(), Violation> {
        run_under(&[], terms)
    }

    fn run_under(faults: &[Fault], terms: impl IntoIterator<Item = (u64, bool)>) -> Result<(), Violation> {
        let mut checker = Terms::new(&plan(faults));
        terms.into_iter().try_for_each(|(term, is_leader)| checker.see(&status(term, is_leader)))
    }

    #[test]
    fn terms_with_leaders_now_and_then_are_fine() {
        assert_eq!(run((1..200).map(|term| (term, term % WASTED_MAX == 0))), Ok(()));
        assert_eq!(run([(5, true), (5 + WASTED_MAX, false), (3, false)]), Ok(()));
        assert_eq!(run([(9, false), (9, true), (9 + WASTED_MAX, false)]), Ok(()));
    }

    #[test]
    fn a_replica_that_campaigns_in_vain_is_caught() {
        let caught = run([(5, true), (6, false), (6 + WASTED_MAX, false)]).unwrap_err();
        assert_eq!((caught.promise, caught.checker.as_str()), (Promise::Liveness, NAME));
        assert!(caught.what.contains("in term 22, and none since term 5"), "{}", caught.what);
        assert!(run((1..).map(|term| (term, false)).take(20)).is_err());
    }

    #[test]
    fn disks_that_are_too_slow_for_votes_are_an_excuse() {
        let slow = |us| [Fault::SlowDisk { host: 1, sync: Latency::even(us, us) }];
        let in_vain = || (1..).map(|term| (term, false)).take(20);
        assert_eq!(run_under(&slow(VOTE_US), in_vain()), Ok(()));
        assert!(run_under(&slow(VOTE_US - 1), in_vain()).is_err());
    }
}
