//! A group has one set of owners in each of its epochs, whoever says so; an epoch is of one group; epochs only grow.

use std::collections::BTreeMap;

use crate::checkers::calls::seconds;
use crate::checkers::unsafe_at;
use crate::observation::{Checker, Observation, RingView, Seen, Verified, Violation};
use crate::plan::HostId;

const NAME: &str = "ring-epochs";
/// All groups begin in it.
const FIRST: u64 = 1;

/// The members of a group in an epoch, who was the first to say so, and when.
type Owners = (BTreeMap<u64, u64>, HostId, u64);

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Epochs {
    /// By group and epoch.
    owners: BTreeMap<(u32, u64), Owners>,
    groups: BTreeMap<u64, u32>,
    /// As each host's running process showed it last: the ring's epoch, and those of its groups.
    last: BTreeMap<HostId, (u64, BTreeMap<u32, u64>)>,
    /// What the replicas of a group were told; by host and group.
    told: BTreeMap<(HostId, u32), u64>,
    events: u64,
}

impl Epochs {
    pub fn new() -> Self {
        Self::default()
    }

    fn ring(&mut self, host: HostId, ring: &RingView, at_ns: u64) -> Result<(), String> {
        for (group, placement) in &ring.groups {
            let epoch = placement.epoch;
            if epoch > ring.epoch {
                return Err(format!("group {group} is in epoch {epoch} of a ring in epoch {}", ring.epoch));
            }
            let owners = self.owners.entry((*group, epoch));
            let (known, by, since_ns) = owners.or_insert_with(|| (placement.members.clone(), host, at_ns));
            if *known != placement.members {
                return Err(format!(
                    "group {group} has the owners {:?} in epoch {epoch}, and {known:?} by host {by} at {}",
                    placement.members,
                    seconds(*since_ns)
                ));
            }
            let of = *self.groups.entry(epoch).or_insert(*group);
            if epoch > FIRST && of != *group {
                return Err(format!("epoch {epoch} is of group {group}, and of group {of}"));
            }
        }
        let epochs: BTreeMap<u32, u64> = ring.groups.iter().map(|(group, p)| (*group, p.epoch)).collect();
        if let Some((before, groups)) = self.last.get(&host) {
            if ring.epoch < *before {
                return Err(format!("the ring's epoch went back from {before} to {}", ring.epoch));
            }
            if let Some((group, before)) =
                groups.iter().find(|(group, before)| epochs.get(group) < Some(before))
            {
                return Err(format!(
                    "the epoch of group {group} went back from {before} to {:?}",
                    epochs.get(group)
                ));
            }
        }
        self.last.insert(host, (ring.epoch, epochs));
        Ok(())
    }
}

impl Checker for Epochs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let seen = match &observation.seen {
            Seen::Ring { host, ring } => {
                self.events += 1;
                self.ring(*host, ring, at_ns).map_err(|what| format!("host {host}: {what}"))
            }
            Seen::Status { host, status } => {
                let told = self.told.entry((*host, status.group)).or_default();
                let (before, now) = (*told, status.epoch.unwrap_or(0));
                *told = now;
                match now < before {
                    false => Ok(()),
                    true => Err(format!(
                        "replica {} of group {} on host {host} was told of epoch {before}, and is in {now}",
                        status.replica, status.group
                    )),
                }
            }
            Seen::Ended { host, .. } => {
                self.last.remove(host);
                self.told.retain(|(of, _), _| of != host);
                Ok(())
            }
            Seen::Closed { host, group, .. } => {
                self.told.remove(&(*host, *group));
                Ok(())
            }
            _ => Ok(()),
        };
        seen.map_err(|what| unsafe_at(NAME, at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = format!("one owner in each of {} epochs of groups", self.owners.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
