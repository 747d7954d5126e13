//! Watches promises while a run goes on: each checker one promise, each fed with every observation.
//!
//! Pure: no runtime, no clock, no randomness. A checker concludes only what is certain from what it saw: a false alarm is its worst
//! bug, since it sends people after a fault that is not there. Memory is bounded by the length of the run.
//!
//! | Checker | Promise |
//! |---|---|
//! | [`oracle`] | what was acknowledged or read stays; nothing appears that nobody wrote |
//! | [`linearizability`] | registers, by search, independently of the oracle |
//! | [`exactly_once`] | one submission, one operation |
//! | [`raft`] | elections, logs, states: the invariants of the Raft paper, from durable state |
//! | [`operations`] | no sub-operation is carried out twice at once; each ends |
//! | [`containers`] | nobody starts or keeps a container without right; what the fleet keeps up is there in the end |
//! | [`terms`] | nobody campaigns where no majority would elect it |
//! | [`versions`] | versions of keys only go up |
//! | [`ring`] | groups are where they should be, move one replica at a time, serve and wake |
//! | [`liveness`] | after healing the fleet agrees and serves |

mod calls;
pub mod containers;
pub mod exactly_once;
pub mod linearizability;
pub mod liveness;
pub mod operations;
pub mod oracle;
pub mod raft;
pub mod ring;
pub mod terms;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
pub mod versions;

use std::collections::BTreeSet;
use std::fmt;

use crate::observation::{Checker, Observation, Promise, Verified, Violation};
use crate::plan::{Fault, HostId, Plan};

/// One of each kind.
pub fn all(plan: &Plan) -> Vec<Box<dyn Checker>> {
    let mut all: Vec<Box<dyn Checker>> = vec![
        Box::new(raft::Elections::new(plan)),
        Box::new(raft::Logs::new(plan)),
        Box::new(raft::States::new()),
        Box::new(terms::Terms::new(plan)),
        Box::new(exactly_once::ExactlyOnce::new()),
        Box::new(oracle::Oracle::new()),
        Box::new(operations::PullsAndEnds::new(plan)),
        Box::new(containers::Containers::new(plan)),
        Box::new(liveness::Liveness::new(plan)),
        Box::new(versions::Versions::new()),
        Box::new(linearizability::Linearizability::new()),
    ];
    all.extend(ring::all(plan));
    all
}

/// All checkers over one run. The first violation is kept, and nothing is looked at after it: one broken promise breaks others, and
/// the first one is nearest to the cause.
pub struct Watch {
    checkers: Vec<Box<dyn Checker>>,
    violation: Option<Violation>,
    last_ns: u64,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.checkers.iter().map(|c| c.name()).collect();
        f.debug_struct("Watch").field("checkers", &names).field("violation", &self.violation).finish()
    }
}

impl Watch {
    pub fn new(plan: &Plan) -> Self {
        Self::of(all(plan))
    }

    /// With these checkers only.
    pub fn of(checkers: Vec<Box<dyn Checker>>) -> Self {
        Self { checkers, violation: None, last_ns: 0 }
    }

    /// Shows an observation to all. After the first violation every call gives back that one.
    pub fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        if let Some(violation) = &self.violation {
            return Err(violation.clone());
        }
        assert!(observation.at_ns >= self.last_ns, "observations come in the order of virtual time");
        self.last_ns = observation.at_ns;
        for checker in &mut self.checkers {
            if let Err(violation) = checker.see(observation) {
                return Err(self.violation.insert(violation).clone());
            }
        }
        Ok(())
    }

    /// The first violation, if there was one.
    pub fn violation(&self) -> Option<&Violation> {
        self.violation.as_ref()
    }

    /// The run is over: what each checker verified, or the first violation (of safety, if there is one of each kind).
    pub fn finish(mut self) -> Result<Vec<Verified>, Violation> {
        if let Some(violation) = self.violation {
            return Err(violation);
        }
        let mut verified = Vec::new();
        let mut violations = Vec::new();
        for checker in &mut self.checkers {
            match checker.finish() {
                Ok(v) => verified.push(v),
                Err(violation) => violations.push(violation),
            }
        }
        match violations.into_iter().min_by_key(|v| v.promise) {
            Some(violation) => Err(violation),
            None => Ok(verified),
        }
    }
}

/// A safety violation.
pub(crate) fn unsafe_at(checker: &str, at_ns: u64, what: impl Into<String>) -> Violation {
    Violation { promise: Promise::Safety, checker: checker.to_owned(), at_ns, what: what.into() }
}

/// Hosts on which the plan damages data at rest. What such a host holds may be gone without a fault of the program.
pub(crate) fn rotten_hosts(plan: &Plan) -> BTreeSet<HostId> {
    let rotten = plan.faults.iter().filter_map(|f| match f.fault {
        Fault::Rot { host } => Some(host),
        _ => None,
    });
    rotten.collect()
}
