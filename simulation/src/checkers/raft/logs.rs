//! Log matching, committed entries, and purges, from durable logs.
//!
//! - two logs with the same index and term have the same entry there, and the same before it;
//! - what was reported committed is durable on a quorum, and is the same entry for ever: no log that held it loses or
//!   replaces it (see [`super::commits`]);
//! - a log has no holes, and is purged only up to a durable snapshot.

use std::collections::{BTreeMap, BTreeSet};

use super::commits::{Commits, Entry};
use super::held_below;
use crate::checkers::calls::seconds;
use crate::checkers::{rotten_hosts, unsafe_at};
use crate::observation::{Checker, DurableLog, Observation, Seen, Verified, Violation};
use crate::plan::{HostId, Plan};

const NAME: &str = "raft-logs";

/// Where an entry was first seen. By induction over `before`, logs that agree here agree on all before.
#[derive(Debug, Clone, Copy)]
struct Sighting {
    hash: [u8; 16],
    /// Term of the entry before it, where that was in the log.
    before: Option<u64>,
    replica: u64,
    at_ns: u64,
}

/// A log as it was last seen.
#[derive(Debug)]
struct Earlier {
    at_ns: u64,
    entries: BTreeMap<u64, Entry>,
    /// Indices below were reported committed then.
    committed_below: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Logs {
    /// What such a host holds may be gone without a fault of the program.
    rotten: BTreeSet<HostId>,
    groups: BTreeMap<u32, GroupLogs>,
    events: u64,
}

/// The logs of one group's replicas.
#[derive(Debug, Default)]
struct GroupLogs {
    /// By index and term.
    sightings: BTreeMap<(u64, u64), Sighting>,
    earlier: BTreeMap<u64, Earlier>,
    commits: Commits,
}

impl Logs {
    pub fn new(plan: &Plan) -> Self {
        Self { rotten: rotten_hosts(plan), groups: BTreeMap::new(), events: 0 }
    }

    fn of(&mut self, group: u32) -> &mut GroupLogs {
        self.groups.entry(group).or_default()
    }
}

impl GroupLogs {
    fn durable(&mut self, rotten: bool, log: &DurableLog, at_ns: u64) -> Result<(), String> {
        whole(log, rotten)?;
        let earlier = self.earlier.remove(&log.replica);
        self.matching(log, earlier.as_ref(), at_ns)?;
        let covered = log.snapshot.max(log.purged);
        if let Some(index) = covered {
            self.commits.report(index, log.replica, at_ns);
        }
        if let Some(earlier) = earlier.filter(|_| !rotten) {
            self.nothing_lost(log, &earlier, at_ns)?;
        }
        self.commits.held(log)?;
        if !rotten {
            self.commits.lacked(log, held_below(log), at_ns)?;
        }
        let committed_below = self.commits.reported_below();
        self.earlier.insert(log.replica, Earlier { at_ns, entries: log.entries.clone(), committed_below });
        Ok(())
    }

    /// Only entries that this replica's log did not hold when last seen are looked up.
    fn matching(&mut self, log: &DurableLog, earlier: Option<&Earlier>, at_ns: u64) -> Result<(), String> {
        let mut before: Option<u64> = None;
        let mut known = earlier.map(|e| e.entries.iter().peekable());
        for (&index, &(term, hash)) in &log.entries {
            if let Some(last) = before
                && last > term
            {
                return Err(format!(
                    "the log of replica {} has term {term} at index {index}, behind an entry of term {last}",
                    log.replica
                ));
            }
            let unchanged = known.as_mut().is_some_and(|known| {
                while known.next_if(|(at, _)| **at < index).is_some() {}
                known.next_if(|(at, entry)| **at == index && **entry == (term, hash)).is_some()
            });
            if !unchanged {
                self.sighted(
                    log.replica,
                    index,
                    term,
                    Sighting { hash, before, replica: log.replica, at_ns },
                )?;
            }
            before = Some(term);
        }
        Ok(())
    }

    fn sighted(&mut self, replica: u64, index: u64, term: u64, now: Sighting) -> Result<(), String> {
        let known = self.sightings.entry((index, term)).or_insert(now);
        let place = |s: &Sighting| format!("replica {} (seen at {})", s.replica, seconds(s.at_ns));
        if known.hash != now.hash {
            return Err(format!(
                "index {index} of term {term} holds another entry in the log of replica {replica} than in that of {}",
                place(known)
            ));
        }
        match (known.before, now.before) {
            (Some(known_before), Some(now_before)) if known_before != now_before => Err(format!(
                "index {index} of term {term} follows an entry of term {now_before} in the log of replica {replica}, but of term \
                 {known_before} in that of {}",
                place(known)
            )),
            _ => {
                known.before = known.before.or(now.before);
                Ok(())
            }
        }
    }

    /// Entries that were reported committed when the log was last seen, and are not what they were.
    fn nothing_lost(&mut self, log: &DurableLog, earlier: &Earlier, at_ns: u64) -> Result<(), String> {
        let covered_below = log.snapshot.max(log.purged).map_or(0, |index| index + 1);
        for (&index, &entry) in earlier.entries.range(..earlier.committed_below) {
            let now = log.entries.get(&index).copied();
            if now == Some(entry) || (now.is_none() && index < covered_below) {
                continue;
            }
            self.commits.lost(index, entry, log.replica, (earlier.at_ns, at_ns), now)?;
        }
        Ok(())
    }
}

/// No holes, and nothing purged that no snapshot holds.
fn whole(log: &DurableLog, rotten: bool) -> Result<(), String> {
    let replica = log.replica;
    if let (Some((&first, _)), Some((&last, _))) =
        (log.entries.first_key_value(), log.entries.last_key_value())
    {
        // openraft numbers entries from 0; a log may begin at 1 behind an entry that stands for nothing.
        let begins = log.purged.map_or(1, |purged| purged + 1);
        if last - first + 1 != log.entries.len() as u64 || first > begins {
            return Err(format!(
                "the log of replica {replica} has a hole: {} entries from {first} to {last}, purged up to {:?}",
                log.entries.len(),
                log.purged
            ));
        }
    }
    if !rotten && log.purged > log.snapshot {
        return Err(format!(
            "the log of replica {replica} is purged up to {:?}, but its newest durable snapshot reaches to {:?}",
            log.purged, log.snapshot
        ));
    }
    Ok(())
}

impl Checker for Logs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let seen = match &observation.seen {
            Seen::Status { status, .. } => {
                if let Some(index) = status.committed.max(status.applied) {
                    self.of(status.group).commits.report(index, status.replica, at_ns);
                }
                Ok(())
            }
            Seen::State { group, replica, applied, .. } => {
                self.of(*group).commits.report(*applied, *replica, at_ns);
                Ok(())
            }
            Seen::Durable { host, log } => {
                self.events += 1;
                let rotten = self.rotten.contains(host);
                let seen = self.of(log.group).durable(rotten, log, at_ns);
                seen.map_err(
                    |what| if log.group == 0 { what } else { format!("group {}: {what}", log.group) },
                )
            }
            _ => Ok(()),
        };
        seen.map_err(|what| unsafe_at(NAME, at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        Ok(Verified {
            checker: NAME.into(),
            claim: format!(
                "logs match on {} entries; {} committed entries stayed on a quorum",
                self.groups.values().map(|group| group.sightings.len()).sum::<usize>(),
                self.groups.values().map(|group| group.commits.reported_below()).sum::<u64>()
            ),
            events: self.events,
            undecided: 0,
        })
    }
}
