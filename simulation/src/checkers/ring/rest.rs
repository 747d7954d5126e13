//! When nobody has asked for anything for a while, the ring is where it should be, and no replica lacks what was committed.
//!
//! A group at rest has no heartbeats: what a follower lacks then, it lacks until somebody asks for something.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::calls::seconds;
use crate::checkers::rotten_hosts;
use crate::observation::{
    Checker, Observation, PlacementView, Promise, ReplicaStatus, RingView, Seen, Verified, Violation,
};
use crate::plan::{HostId, Plan};

const NAME: &str = "ring-rest";
/// A target that changed this lately may still be on its way.
const SETTLE_NS: u64 = 30_000_000_000;
/// What was committed this lately may still be on its way: a leader says so with its next heartbeat, and that is a matter of half a second.
const NEWS_NS: u64 = 3_000_000_000;

/// See the module's docs.
#[derive(Debug)]
pub struct Rest {
    /// Hosts of which nothing is expected.
    excused: BTreeSet<HostId>,
    running: BTreeSet<HostId>,
    /// Of running processes.
    statuses: BTreeMap<(HostId, u32), ReplicaStatus>,
    /// By group: the highest index that anybody said was committed, and when that was first said.
    committed: BTreeMap<u32, (u64, u64)>,
    /// The newest that anybody has shown.
    ring: Option<RingView>,
    unsettled_since_ns: Option<u64>,
    compared: u64,
    looked: bool,
}

impl Rest {
    pub fn new(plan: &Plan) -> Self {
        let mut excused: BTreeSet<HostId> = plan.unhealed.iter().copied().collect();
        excused.extend(rotten_hosts(plan));
        Self {
            excused,
            running: BTreeSet::new(),
            statuses: BTreeMap::new(),
            committed: BTreeMap::new(),
            ring: None,
            unsettled_since_ns: None,
            compared: 0,
            looked: false,
        }
    }

    fn ring(&mut self, ring: &RingView, at_ns: u64) {
        let age = |ring: &RingView| (ring.epoch, ring.target_epoch);
        if self.ring.as_ref().is_some_and(|known| age(ring) < age(known)) {
            return;
        }
        self.unsettled_since_ns = match ring.groups.values().all(is_settled) {
            true => None,
            false => self.unsettled_since_ns.or(Some(at_ns)),
        };
        self.ring = Some(ring.clone());
    }

    fn look(&mut self, at_ns: u64) -> Result<(), String> {
        self.looked = true;
        let Some(ring) = &self.ring else { return Err("nobody has shown the ring".into()) };
        if let Some(since_ns) = self.unsettled_since_ns.filter(|since_ns| at_ns - since_ns > SETTLE_NS) {
            let (group, placement) =
                ring.groups.iter().find(|(_, placement)| !is_settled(placement)).expect("it is not settled");
            return Err(format!(
                "the ring has not been settled since {}; group {group} is {placement:?}",
                seconds(since_ns)
            ));
        }
        // By the control group's replicas, of which each node has one.
        let control = self.statuses.iter().filter(|((_, group), _)| *group == 0);
        let hosts: BTreeMap<u64, HostId> = control.map(|((host, _), status)| (status.node, *host)).collect();
        for (group, placement) in ring.groups.iter().filter(|(_, placement)| is_settled(placement)) {
            for (replica, node) in &placement.members {
                let host = hosts.get(node).filter(|host| !self.excused.contains(host));
                let Some(host) = host.filter(|host| self.running.contains(host)) else { continue };
                self.compared += 1;
                let Some(status) = self.statuses.get(&(*host, *group)).filter(|s| s.replica == *replica)
                else {
                    return Err(format!("replica {replica} of group {group} is not open on host {host}"));
                };
                let Some((committed, since_ns)) = self.committed.get(group) else { continue };
                if status.applied < Some(*committed) && at_ns - since_ns > NEWS_NS {
                    return Err(format!(
                        "replica {replica} of group {group} on host {host} has applied {:?}, and {committed} was committed by {}; nobody \
                         asks for anything: it lacks it for good",
                        status.applied,
                        seconds(*since_ns)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn is_settled(placement: &PlacementView) -> bool {
    let nodes: BTreeSet<u64> = placement.members.values().copied().collect();
    placement.added.is_empty() && placement.removed.is_empty() && nodes.iter().eq(&placement.target)
}

impl Checker for Rest {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        match &observation.seen {
            Seen::Started { host, .. } => drop(self.running.insert(*host)),
            Seen::Ended { host, .. } => {
                self.running.remove(host);
                self.statuses.retain(|(of, _), _| of != host);
            }
            Seen::Closed { host, group, .. } => drop(self.statuses.remove(&(*host, *group))),
            Seen::Status { host, status } => {
                if let Some(index) = status.committed.max(status.applied) {
                    let committed = self.committed.entry(status.group).or_insert((index, at_ns));
                    if committed.0 < index {
                        *committed = (index, at_ns);
                    }
                }
                self.statuses.insert((*host, status.group), status.clone());
            }
            Seen::Ring { ring, .. } => self.ring(ring, at_ns),
            Seen::Quiet => {
                return self.look(at_ns).map_err(|what| Violation {
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
        let claim = "the ring had settled, and groups at rest lacked nothing".into();
        let undecided = u64::from(!self.looked);
        Ok(Verified { checker: NAME.into(), claim, events: self.compared, undecided })
    }
}
