//! Versions of keys: each write has one of its own, higher than that of any write that had ended when it began; no read goes back.
//!
//! A weaker rule than linearizability, and a cheap one that says at once what went wrong: a replica that has lost a write, or an old owner
//! that answers, gives a version away twice or goes back.

use std::collections::BTreeMap;

use super::calls::{CallEvent, Calls, Moment};
use super::unsafe_at;
use crate::observation::{Call, CallId, Checker, Key, Observation, Outcome, Serial, Verified, Violation};

const NAME: &str = "versions";

/// What clients were told of one key.
#[derive(Debug, Default)]
struct Told {
    /// By version; deletions have none.
    serials: BTreeMap<u64, Option<Serial>>,
    /// Highest version that a client was told of until then, by the moment of that; both only go up.
    highest: Vec<(Moment, u64, CallId)>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Versions {
    calls: Calls,
    keys: BTreeMap<Key, Told>,
    events: u64,
}

impl Versions {
    pub fn new() -> Self {
        Self::default()
    }
}

impl Told {
    /// A call that began at `began` was told of a version, whose write is `serial`; `wrote`: it is its own.
    fn learn(
        &mut self,
        version: u64,
        serial: Option<Option<Serial>>,
        wrote: bool,
        (call, began, now): (CallId, Moment, Moment),
    ) -> Result<(), String> {
        let at = self.highest.partition_point(|(moment, ..)| *moment < began);
        if let Some((moment, floor, by)) = at.checked_sub(1).map(|at| self.highest[at])
            && (floor > version || (wrote && floor == version))
        {
            return Err(format!(
                "call {call}, which began at {began}, was told of version {version} at {now}, but call {by} of version {floor} at {moment}: \
                 versions went back"
            ));
        }
        if let Some(serial) = serial {
            let known = *self.serials.entry(version).or_insert(serial);
            if known != serial {
                return Err(format!(
                    "version {version} is of {known:?}, and by call {call} at {now} of {serial:?}: given twice"
                ));
            }
        }
        if self.highest.last().is_none_or(|(_, highest, _)| *highest < version) {
            self.highest.push((now, version, call));
        }
        Ok(())
    }
}

impl Checker for Versions {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Some((now, CallEvent::Completed(invoked, outcome))) = self.calls.see(observation) else {
            return Ok(());
        };
        let (key, serial) = match &invoked.what {
            Call::Write { key, serial }
            | Call::Swap { key, serial, .. }
            | Call::Expiring { key, serial, .. } => (key, Some(*serial)),
            Call::Read { key } | Call::Delete { key } => (key, None),
            _ => return Ok(()),
        };
        let (version, serial, wrote) = match outcome {
            Outcome::Set(version) => (*version, Some(serial), true),
            Outcome::Deleted(Some(version)) => (*version, Some(None), true),
            Outcome::Found { serial, version } => (*version, Some(Some(*serial)), false),
            Outcome::Missed { current: Some(version) } => (*version, None, false),
            _ => return Ok(()),
        };
        self.events += 1;
        let told = self.keys.entry(key.clone()).or_default();
        told.learn(version, serial, wrote, (invoked.call, invoked.began, now))
            .map_err(|what| unsafe_at(NAME, now.at_ns, format!("{key}: {what}")))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = format!("the versions of {} keys only went up", self.keys.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
