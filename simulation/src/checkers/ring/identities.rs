//! A replica id stands for one replica: of one group, on one node; and once it is gone from the record, or is to be destroyed, it is never a
//! member again.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::unsafe_at;
use crate::observation::{Checker, Observation, RingView, Seen, Verified, Violation};
use crate::plan::HostId;

const NAME: &str = "ring-identities";

/// What one host's running process has shown.
#[derive(Debug, Default)]
struct Shown {
    lives: BTreeSet<u64>,
    gone: BTreeSet<u64>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Identities {
    /// Group and node of every replica ever named.
    places: BTreeMap<u64, (u32, u64)>,
    shown: BTreeMap<HostId, Shown>,
    events: u64,
}

impl Identities {
    pub fn new() -> Self {
        Self::default()
    }

    fn place(&mut self, replica: u64, at: (u32, u64)) -> Result<(), String> {
        let known = *self.places.entry(replica).or_insert(at);
        if known == at {
            return Ok(());
        }
        Err(format!(
            "replica {replica} is of group {} on node {}, and was of group {} on node {}: an id given out twice",
            at.0, at.1, known.0, known.1
        ))
    }

    fn ring(&mut self, host: HostId, ring: &RingView) -> Result<(), String> {
        let mut lives = BTreeSet::new();
        for (group, placement) in &ring.groups {
            let live = placement.members.iter().chain(&placement.added);
            for (replica, node) in live.clone().chain(&placement.tombstones) {
                self.place(*replica, (*group, *node))?;
            }
            lives.extend(live.map(|(replica, _)| *replica));
        }
        let shown = self.shown.entry(host).or_default();
        if let Some(risen) = lives.intersection(&shown.gone).next() {
            let (group, node) = self.places[risen];
            return Err(format!(
                "replica {risen} of group {group} on node {node} is back: it was given up before"
            ));
        }
        shown.gone.extend(shown.lives.difference(&lives));
        shown.gone.extend(ring.groups.values().flat_map(|placement| placement.tombstones.keys()));
        shown.lives = lives;
        Ok(())
    }
}

impl Checker for Identities {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let seen = match &observation.seen {
            Seen::Ring { host, ring } => {
                self.events += 1;
                self.ring(*host, ring)
            }
            Seen::Status { status, .. } if status.group != 0 => {
                self.place(status.replica, (status.group, status.node))
            }
            Seen::Ended { host, .. } => {
                self.shown.remove(host);
                Ok(())
            }
            _ => Ok(()),
        };
        seen.map_err(|what| unsafe_at(NAME, observation.at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = format!("each of {} replicas had one place and one life", self.places.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
