//! Pairs completions with invocations, and puts every event on one scale.
//!
//! Real-time order is all that may be concluded from a history of calls: one call precedes another if it completed
//! before the other was invoked. Events are numbered as they come, so two of them are never at the same step.

use std::collections::BTreeMap;
use std::fmt;

use crate::observation::{Call, CallId, Observation, Outcome, Seen};
use crate::plan::HostId;

/// A moment of the history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment {
    /// Number of the event, from 2; 0 is before all of them.
    pub(crate) step: u64,
    pub(crate) at_ns: u64,
}

impl Moment {
    pub(crate) const BEGINNING: Self = Self { step: 0, at_ns: 0 };

    /// Of the same event, and before it.
    pub(crate) fn just_before(self) -> Self {
        Self { step: self.step - 1, ..self }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        seconds(self.at_ns).fmt(f)
    }
}

/// Virtual time as people read it.
pub(crate) fn seconds(at_ns: u64) -> impl fmt::Display {
    fmt::from_fn(move |f| write!(f, "{}.{:06} s", at_ns / 1_000_000_000, at_ns / 1_000 % 1_000_000))
}

/// A call that was invoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Invoked {
    pub(crate) client: u32,
    pub(crate) host: HostId,
    pub(crate) call: CallId,
    pub(crate) what: Call,
    pub(crate) began: Moment,
}

/// An event of a call.
#[derive(Debug)]
pub(crate) enum CallEvent<'c, 'o> {
    Invoked(&'c Invoked),
    Completed(Invoked, &'o Outcome),
}

/// Calls under way.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: BTreeMap<CallId, Invoked>,
    step: u64,
}

impl Calls {
    /// The moment of the last event seen, at this time.
    pub(crate) fn now(&self, at_ns: u64) -> Moment {
        Moment { step: self.step, at_ns }
    }

    /// What an observation says of a call, if anything, and when.
    pub(crate) fn see<'c, 'o>(
        &'c mut self,
        observation: &'o Observation,
    ) -> Option<(Moment, CallEvent<'c, 'o>)> {
        // In twos: what a call found takes its place before what it wrote.
        self.step += 2;
        let now = Moment { step: self.step, at_ns: observation.at_ns };
        let event = match &observation.seen {
            Seen::Invoked { client, host, call, what } => {
                let invoked =
                    Invoked { client: *client, host: *host, call: *call, what: what.clone(), began: now };
                let earlier = self.open.insert(*call, invoked);
                assert!(earlier.is_none(), "call {call} was invoked twice: the workload numbers its calls");
                CallEvent::Invoked(&self.open[call])
            }
            Seen::Completed { call, outcome, .. } => {
                let invoked = self.open.remove(call);
                let invoked =
                    invoked.unwrap_or_else(|| panic!("call {call} completed, but is not under way"));
                CallEvent::Completed(invoked, outcome)
            }
            _ => return None,
        };
        Some((now, event))
    }
}
