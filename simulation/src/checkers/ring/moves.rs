//! A group's members change in one of three ways: it grows, it shrinks, or one replica is replaced by one other.

use super::members_after;
use crate::checkers::unsafe_at;
use crate::observation::{Checker, Observation, PlacementView, Seen, Verified, Violation};

const NAME: &str = "ring-moves";

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Moves {
    changes: u64,
}

impl Moves {
    pub fn new() -> Self {
        Self::default()
    }
}

fn is_one_move(placement: &PlacementView) -> bool {
    let (added, removed) = (placement.added.len(), placement.removed.len());
    let known = placement.removed.iter().all(|(replica, node)| placement.members.get(replica) == Some(node));
    known
        && ((added, removed) == (1, 1) || added == 0 || removed == 0)
        && !members_after(placement).is_empty()
}

impl Checker for Moves {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Seen::Ring { host, ring } = &observation.seen else { return Ok(()) };
        for (group, placement) in &ring.groups {
            self.changes += u64::from(!placement.added.is_empty() || !placement.removed.is_empty());
            if !is_one_move(placement) {
                let what = format!(
                    "host {host}: group {group} with the members {:?} is to get {:?} and to lose {:?}, in one change",
                    placement.members, placement.added, placement.removed
                );
                return Err(unsafe_at(NAME, observation.at_ns, what));
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = "no group had more than one replica replaced at a time".into();
        Ok(Verified { checker: NAME.into(), claim, events: self.changes, undecided: 0 })
    }
}
