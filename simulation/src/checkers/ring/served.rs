//! Nobody serves under a superseded epoch.
//!
//! When a replica has applied an epoch, every call that begins later is served by a state that knows it, since calls on keys are linearizable; so it
//! is served only to a node that has heard of that epoch itself. A node that answers a call well and whose own copy of the ring is
//! older has therefore been served under an old epoch.

use std::collections::BTreeMap;

use longshore_raft::model::ring::GroupCount;

use super::group_of;
use crate::checkers::calls::{CallEvent, Calls, seconds};
use crate::checkers::unsafe_at;
use crate::observation::{Call, CallId, Checker, Key, Observation, Outcome, Seen, Verified, Violation};
use crate::plan::HostId;

const NAME: &str = "ring-served";
/// What a node has applied is seen at once, but not always before the reply that rests on it.
const PATIENCE_NS: u64 = 1_000_000;

/// A call that was answered by a node that had not shown the epoch.
#[derive(Debug)]
struct Doubt {
    call: CallId,
    host: HostId,
    group: u32,
    /// A replica had applied it before the call began.
    epoch: u64,
    at_ns: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Served {
    groups: GroupCount,
    calls: Calls,
    /// The highest epoch that a replica of a group has applied.
    applied: BTreeMap<u32, u64>,
    /// By call under way: its group, and that epoch when it began.
    began: BTreeMap<CallId, (u32, u64)>,
    /// Epochs of groups as the running process of a host knows them.
    known: BTreeMap<HostId, BTreeMap<u32, u64>>,
    doubts: Vec<Doubt>,
    events: u64,
}

impl Served {
    pub fn new(groups: GroupCount) -> Self {
        Self {
            groups,
            calls: Calls::default(),
            applied: BTreeMap::new(),
            began: BTreeMap::new(),
            known: BTreeMap::new(),
            doubts: Vec::new(),
            events: 0,
        }
    }

    fn knows(&self, host: HostId, group: u32) -> u64 {
        self.known.get(&host).and_then(|groups| groups.get(&group)).copied().unwrap_or(0)
    }

    fn judge(&mut self, at_ns: u64) -> Result<(), Violation> {
        let due = |doubt: &Doubt| at_ns > doubt.at_ns + PATIENCE_NS;
        for doubt in self.doubts.extract_if(.., |doubt| due(doubt)).collect::<Vec<_>>() {
            let knows = self.knows(doubt.host, doubt.group);
            if knows < doubt.epoch {
                let Doubt { call, host, group, epoch, at_ns } = doubt;
                let what = format!(
                    "call {call} was served at {} through host {host}, which knows epoch {knows} of group {group}; the group had \
                     applied epoch {epoch} before the call began",
                    seconds(at_ns)
                );
                return Err(unsafe_at(NAME, at_ns, what));
            }
        }
        Ok(())
    }

    fn call(&mut self, observation: &Observation) {
        let Some((now, event)) = self.calls.see(observation) else { return };
        match event {
            CallEvent::Invoked(invoked) => {
                let Some(group) = key_of(&invoked.what).and_then(|key| group_of(self.groups, key)) else {
                    return;
                };
                let epoch = self.applied.get(&group).copied().unwrap_or(0);
                self.began.insert(invoked.call, (group, epoch));
            }
            CallEvent::Completed(invoked, outcome) => {
                let Some((group, epoch)) = self.began.remove(&invoked.call) else { return };
                if matches!(outcome, Outcome::Refused(_) | Outcome::Unknown(_)) {
                    return;
                }
                self.events += 1;
                let (call, host) = (invoked.call, invoked.host);
                if self.knows(host, group) < epoch {
                    self.doubts.push(Doubt { call, host, group, epoch, at_ns: now.at_ns });
                }
            }
        }
    }
}

fn key_of(what: &Call) -> Option<&Key> {
    match what {
        Call::Write { key, .. }
        | Call::Read { key }
        | Call::Swap { key, .. }
        | Call::Delete { key }
        | Call::Expiring { key, .. } => Some(key),
        Call::Submit { .. }
        | Call::Cancel { .. }
        | Call::Change { .. }
        | Call::ListOperations
        | Call::Other { .. } => None,
    }
}

impl Checker for Served {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        self.judge(observation.at_ns)?;
        match &observation.seen {
            Seen::Status { status, .. } => {
                let applied = self.applied.entry(status.group).or_default();
                *applied = status.epoch.unwrap_or(0).max(*applied);
            }
            Seen::Ring { host, ring } => {
                let epochs = ring.groups.iter().map(|(group, placement)| (*group, placement.epoch));
                self.known.insert(*host, epochs.collect());
            }
            Seen::Ended { host, .. } => {
                self.known.remove(host);
                self.doubts.retain(|doubt| doubt.host != *host);
            }
            _ => self.call(observation),
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = "no call was served under an epoch that was superseded before it began".into();
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
