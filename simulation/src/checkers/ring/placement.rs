//! An odd number of replicas of each group, on as many nodes, at most as many as the replication; and none fewer unless the target wants
//! fewer: a death alone does not lower the replication.

use std::collections::{BTreeMap, BTreeSet};

use super::members_after;
use crate::checkers::unsafe_at;
use crate::observation::{Checker, Observation, PlacementView, RingView, Seen, Verified, Violation};
use crate::plan::HostId;

const NAME: &str = "ring-placement";

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Placement {
    /// As each host's running process showed it last.
    last: BTreeMap<HostId, RingView>,
    events: u64,
}

impl Placement {
    pub fn new() -> Self {
        Self::default()
    }

    fn ring(&self, host: HostId, ring: &RingView) -> Result<(), String> {
        for (group, placement) in &ring.groups {
            sound(placement, ring.replication).map_err(|what| format!("group {group}: {what}"))?;
            // Many changes may lie between two looks; under one target, none of them to fewer is begun.
            let same_target = self.last.get(&host).filter(|before| before.target_epoch == ring.target_epoch);
            let Some(before) = same_target.and_then(|ring| ring.groups.get(group)) else { continue };
            let (had, has) = (before.members.len(), placement.members.len());
            let wanted = before.target.len().min(placement.target.len());
            if has < had && has < wanted && before.removed.is_empty() {
                return Err(format!(
                    "group {group} had {had} members and has {has}, although {wanted} are wanted"
                ));
            }
        }
        Ok(())
    }
}

fn sound(placement: &PlacementView, replication: u8) -> Result<(), String> {
    for (when, members) in [("", placement.members.clone()), (" after the change", members_after(placement))]
    {
        let nodes: BTreeSet<u64> = members.values().copied().collect();
        if members.len() % 2 == 0 || members.len() > usize::from(replication) {
            return Err(format!(
                "{} members{when}, at a replication of {replication}: {members:?}",
                members.len()
            ));
        }
        if nodes.len() < members.len() {
            return Err(format!("two replicas on one node{when}: {members:?}"));
        }
    }
    Ok(())
}

impl Checker for Placement {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        match &observation.seen {
            Seen::Ring { host, ring } => {
                self.events += 1;
                let seen = self.ring(*host, ring);
                self.last.insert(*host, ring.clone());
                seen.map_err(|what| unsafe_at(NAME, observation.at_ns, format!("host {host}: {what}")))
            }
            Seen::Ended { host, .. } => {
                self.last.remove(host);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = "each group's replicas were on nodes of their own, as many as they should be".into();
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
