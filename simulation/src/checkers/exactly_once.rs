//! One submission, one operation: whatever is retried, at whatever node, a serial has one place in the log, and a place one serial.
//!
//! For registers the same promise is the oracle's: a write that takes effect a second time brings back a value that was
//! overwritten, which contradicts every order of the calls.

use std::collections::BTreeMap;

use super::calls::{CallEvent, Calls, Moment};
use super::unsafe_at;
use crate::observation::{
    Call, CallId, Checker, LogPosition, Observation, Outcome, Serial, Verified, Violation,
};

const NAME: &str = "exactly-once";

/// See the module's docs.
#[derive(Debug, Default)]
pub struct ExactlyOnce {
    calls: Calls,
    places: BTreeMap<Serial, (LogPosition, CallId)>,
    serials: BTreeMap<LogPosition, (Serial, CallId)>,
    events: u64,
}

impl ExactlyOnce {
    pub fn new() -> Self {
        Self::default()
    }

    fn learn(&mut self, serial: Serial, at: LogPosition, call: CallId, now: Moment) -> Result<(), Violation> {
        self.events += 1;
        let (known, by) = *self.places.entry(serial).or_insert((at, call));
        if known != at {
            let what = format!(
                "serial {serial} is {known} by call {by}, and {at} by call {call} at {now}: one submission became two operations"
            );
            return Err(unsafe_at(NAME, now.at_ns, what));
        }
        let (known, by) = *self.serials.entry(at).or_insert((serial, call));
        if known != serial {
            let what = format!(
                "{at} is serial {known} by call {by}, and serial {serial} by call {call} at {now}: two submissions in one place"
            );
            return Err(unsafe_at(NAME, now.at_ns, what));
        }
        Ok(())
    }
}

impl Checker for ExactlyOnce {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Some((now, CallEvent::Completed(invoked, outcome))) = self.calls.see(observation) else {
            return Ok(());
        };
        match (&invoked.what, outcome) {
            (Call::Submit { serial, .. }, Outcome::Submitted(at)) => {
                self.learn(*serial, *at, invoked.call, now)
            }
            (_, Outcome::Operations(listed)) => {
                listed.iter().try_for_each(|(at, o)| self.learn(o.serial, *at, invoked.call, now))
            }
            _ => Ok(()),
        }
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        Ok(Verified {
            checker: NAME.into(),
            claim: format!("each of {} submissions is one operation", self.places.len()),
            events: self.events,
            undecided: 0,
        })
    }
}
