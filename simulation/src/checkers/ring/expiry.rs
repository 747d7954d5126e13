//! Keys with a time to live: there until it has passed, gone soon after, and gone for good.
//!
//! It passes in log time, which may stand still while a group has no leader but never runs ahead. So that a key is gone *in
//! time* is asked only of keys that were written after the faults ended. Keys are written once.

use std::collections::BTreeMap;

use crate::checkers::calls::{CallEvent, Calls, Moment};
use crate::checkers::unsafe_at;
use crate::observation::{
    Call, CallId, Checker, Key, Observation, Outcome, Promise, Seen, Verified, Violation,
};

const NAME: &str = "expiry";
/// Longer than a healed fleet's log time may stand still.
const SLACK_NS: u64 = 5_000_000_000;
/// Clocks of hosts differ by so much: of a thousand.
const DRIFT: u64 = 2;

#[derive(Debug)]
struct Brief {
    ttl_ns: u64,
    began: Moment,
    written: Moment,
    /// The first read that did not find it any more.
    gone: Option<(CallId, Moment)>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Expiry {
    calls: Calls,
    healed: Option<Moment>,
    keys: BTreeMap<Key, Brief>,
    events: u64,
}

impl Expiry {
    pub fn new() -> Self {
        Self::default()
    }

    fn read(
        &mut self,
        key: &Key,
        found: bool,
        (call, began, now): (CallId, Moment, Moment),
    ) -> Result<(), Violation> {
        let Some(brief) = self.keys.get_mut(key).filter(|brief| began > brief.written) else { return Ok(()) };
        self.events += 1;
        let (written, ttl_ns) = (brief.written, brief.ttl_ns);
        if !found {
            if now.at_ns < brief.began.at_ns + ttl_ns - ttl_ns * DRIFT / 1000 {
                let what = format!(
                    "{key} was written at {written} for {} ms, and read call {call} missed it at {now}",
                    ttl_ns / 1_000_000
                );
                return Err(unsafe_at(NAME, now.at_ns, what));
            }
            brief.gone.get_or_insert((call, now));
            return Ok(());
        }
        if let Some((by, gone)) = brief.gone.filter(|(_, gone)| began > *gone) {
            let what = format!(
                "{key} had expired by read call {by} at {gone}, and read call {call} found it at {now}: log time went back"
            );
            return Err(unsafe_at(NAME, now.at_ns, what));
        }
        let is_due = began.at_ns > written.at_ns + ttl_ns + SLACK_NS;
        if is_due && self.healed.is_some_and(|healed| brief.began > healed) {
            let what = format!(
                "{key} was written at {written} for {} ms, and read call {call}, which began at {began}, found it: time stands still",
                ttl_ns / 1_000_000
            );
            return Err(Violation {
                promise: Promise::Liveness,
                checker: NAME.into(),
                at_ns: now.at_ns,
                what,
            });
        }
        Ok(())
    }
}

impl Checker for Expiry {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        if observation.seen == Seen::Healed {
            self.healed = Some(self.calls.now(observation.at_ns));
        }
        let Some((now, CallEvent::Completed(invoked, outcome))) = self.calls.see(observation) else {
            return Ok(());
        };
        match (&invoked.what, outcome) {
            (Call::Expiring { key, ttl_ms, .. }, Outcome::Set(_)) => {
                let (ttl_ns, began) = (ttl_ms * 1_000_000, invoked.began);
                self.keys.insert(key.clone(), Brief { ttl_ns, began, written: now, gone: None });
                Ok(())
            }
            (Call::Read { key }, outcome) if key.is_brief() => match outcome.value() {
                Some(value) => self.read(key, value.is_some(), (invoked.call, invoked.began, now)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = format!("{} keys lived as long as they were to", self.keys.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided: 0 })
    }
}
