//! A host that comes back takes no group from a leader that is well, but for its even share.
//!
//! What it led it may lead again: leadership is spread evenly, by leaders who hand it over. A replica that campaigns when it is opened takes every
//! group that rests. Only plans are looked at in which nothing but processes fails, and of those only times in which no
//! other process begins or ends: then each leader before is well.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::calls::seconds;
use crate::observation::{Checker, Observation, Promise, ReplicaStatus, Seen, Verified, Violation};
use crate::plan::{Fault, HostId, Plan};

const NAME: &str = "ring-deposed";
/// How long after its start a host is watched: longer than any election timeout.
const WATCH_NS: u64 = 8_000_000_000;
/// How long nothing else must have happened before.
const CALM_NS: u64 = 3_000_000_000;

/// A host that has come back.
#[derive(Debug)]
struct Back {
    host: HostId,
    at_ns: u64,
    /// Who led each group then, on other hosts.
    led: BTreeMap<u32, HostId>,
    taken: BTreeSet<u32>,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Deposed {
    applies: bool,
    groups: u32,
    running: BTreeSet<HostId>,
    /// By group: highest term that had a leader, and its host.
    leaders: BTreeMap<u32, (u64, HostId)>,
    /// Last start or end of a process, and whose.
    last: Option<(u64, HostId)>,
    back: Option<Back>,
    watched: u64,
}

impl Deposed {
    pub fn new(plan: &Plan) -> Self {
        let of_processes = |fault: &Fault| {
            matches!(
                fault,
                Fault::Kill { .. } | Fault::PowerLoss { .. } | Fault::Stop { .. } | Fault::Start { .. }
            )
        };
        Self {
            applies: plan.faults.iter().all(|scheduled| of_processes(&scheduled.fault)),
            groups: plan.fleet.ring.map_or(0, |ring| ring.groups),
            running: BTreeSet::new(),
            leaders: BTreeMap::new(),
            last: None,
            back: None,
            watched: 0,
        }
    }

    /// Its even share, and one for the rounding of the others'.
    fn share(&self) -> usize {
        self.groups.div_ceil(self.running.len().max(1) as u32) as usize + 1
    }

    fn began(&mut self, host: HostId, at_ns: u64) {
        let calm = self.last.is_none_or(|(since_ns, by)| by == host || at_ns - since_ns > CALM_NS);
        let others = self.leaders.iter().map(|(group, (_, leader))| (*group, *leader));
        let led = others.filter(|(_, leader)| *leader != host && self.running.contains(leader)).collect();
        self.back = calm.then_some(Back { host, at_ns, led, taken: BTreeSet::new() });
        self.watched += u64::from(calm);
    }

    fn status(&mut self, host: HostId, status: &ReplicaStatus, at_ns: u64) -> Result<(), String> {
        if status.group == 0 || !status.is_leader {
            return Ok(());
        }
        let leader = self.leaders.entry(status.group).or_insert((status.term, host));
        if leader.0 <= status.term {
            *leader = (status.term, host);
        }
        let share = self.share();
        let Some(back) =
            self.back.as_mut().filter(|back| back.host == host && at_ns <= back.at_ns + WATCH_NS)
        else {
            return Ok(());
        };
        if back.led.contains_key(&status.group) {
            back.taken.insert(status.group);
        }
        if back.taken.len() <= share {
            return Ok(());
        }
        Err(format!(
            "host {host}, which came back at {}, leads the groups {:?} now, whose leaders on other hosts were well: more than {share}",
            seconds(back.at_ns),
            back.taken
        ))
    }
}

impl Checker for Deposed {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        if !self.applies {
            return Ok(());
        }
        match &observation.seen {
            Seen::Started { host, incarnation } => {
                if *incarnation > 1 {
                    self.began(*host, at_ns);
                }
                self.running.insert(*host);
                self.last = Some((at_ns, *host));
            }
            Seen::Ended { host, .. } => {
                self.running.remove(host);
                self.back = None;
                self.last = Some((at_ns, *host));
            }
            Seen::Status { host, status } => {
                return self.status(*host, status, at_ns).map_err(|what| Violation {
                    promise: Promise::Liveness,
                    checker: NAME.into(),
                    at_ns,
                    what,
                });
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = match self.applies {
            true => "hosts that came back took no more than their share".into(),
            false => "nothing: leaders may be replaced for other reasons under this plan".into(),
        };
        Ok(Verified { checker: NAME.into(), claim, events: self.watched, undecided: 0 })
    }
}
