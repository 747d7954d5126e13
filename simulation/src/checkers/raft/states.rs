//! State machine safety: replicas that have applied the same entries have the same state.

use std::collections::BTreeMap;

use crate::checkers::calls::seconds;
use crate::checkers::unsafe_at;
use crate::observation::{Checker, Observation, Seen, Verified, Violation};

const NAME: &str = "raft-states";

#[derive(Debug, Clone, Copy)]
struct State {
    hash: [u8; 16],
    replica: u64,
    at_ns: u64,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct States {
    /// By group and index.
    by_applied: BTreeMap<(u32, u64), State>,
    /// States that were compared with another replica's.
    compared: u64,
}

impl States {
    pub fn new() -> Self {
        Self::default()
    }
}

fn hex(hash: [u8; 16]) -> String {
    hash[..4].iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Checker for States {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Seen::State { group, replica, applied, hash, .. } = &observation.seen else { return Ok(()) };
        let at_ns = observation.at_ns;
        let state = State { hash: *hash, replica: *replica, at_ns };
        let known = *self.by_applied.entry((*group, *applied)).or_insert(state);
        self.compared += u64::from(known.replica != *replica);
        if known.hash == *hash {
            return Ok(());
        }
        let what = format!(
            "after index {applied} of group {group} replica {} had the state {} at {}, and replica {replica} has {}: they have diverged",
            known.replica,
            hex(known.hash),
            seconds(known.at_ns),
            hex(*hash)
        );
        Err(unsafe_at(NAME, at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        Ok(Verified {
            checker: NAME.into(),
            claim: format!("the same state on all replicas at {} indices", self.by_applied.len()),
            events: self.compared,
            undecided: 0,
        })
    }
}
