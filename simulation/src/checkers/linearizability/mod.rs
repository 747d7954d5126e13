//! Linearizability of each register, by search over the orders its calls can have happened in.
//!
//! The oracle decides the same by an argument that holds for unique values only. This one knows nothing but what a register is, so that
//! a mistake in either shows as a difference. Runs at the end, since what became of a write with an unknown outcome is
//! told by later reads. Must never: take "undecided" for a pass.

mod search;
#[cfg(test)]
mod tests;
mod witness;

use std::collections::BTreeMap;

use search::Verdict;

use super::calls::{CallEvent, Calls, Invoked, Moment};
use super::unsafe_at;
use crate::observation::{Call, Checker, Key, Observation, Outcome, Serial, Verified, Violation};

const NAME: &str = "linearizability";
/// Steps of the search for one register: about a second. Ordinary histories take a few steps a call.
const STEPS_MAX: u64 = 1_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Write(Serial),
    Read(Option<Serial>),
}

/// A call that took effect, or may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) client: u32,
    pub(crate) call: u64,
    pub(crate) action: Action,
    pub(crate) began: Moment,
    /// None: the outcome is not known. Only of writes.
    pub(crate) ended: Option<Moment>,
}

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Linearizability {
    calls: Calls,
    registers: BTreeMap<Key, Vec<Operation>>,
    /// Writes under way or without a known outcome.
    open: BTreeMap<u64, Invoked>,
    events: u64,
}

impl Linearizability {
    pub fn new() -> Self {
        Self::default()
    }

    fn add(&mut self, invoked: &Invoked, action: Action, ended: Option<Moment>) {
        let (Call::Write { key, .. } | Call::Read { key }) = &invoked.what else { return };
        let Invoked { client, call, began, .. } = *invoked;
        self.events += 1;
        let operations = self.registers.entry(key.clone()).or_default();
        operations.push(Operation { client, call, action, began, ended });
    }

    /// No more calls complete.
    fn close(&mut self) {
        for invoked in std::mem::take(&mut self.open).into_values() {
            if let Call::Write { serial, .. } = invoked.what {
                self.add(&invoked, Action::Write(serial), None);
            }
        }
    }
}

impl Checker for Linearizability {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        match self.calls.see(observation) {
            Some((_, CallEvent::Invoked(invoked))) if matches!(invoked.what, Call::Write { .. }) => {
                self.open.insert(invoked.call, invoked.clone());
            }
            Some((now, CallEvent::Completed(invoked, outcome))) => match (&invoked.what, outcome) {
                (Call::Write { serial, .. }, Outcome::Written) => {
                    self.open.remove(&invoked.call);
                    self.add(&invoked, Action::Write(*serial), Some(now));
                }
                (Call::Write { .. }, Outcome::Refused(_)) => drop(self.open.remove(&invoked.call)),
                (Call::Read { .. }, Outcome::Value(value)) => {
                    self.add(&invoked, Action::Read(*value), Some(now))
                }
                _ => {}
            },
            _ => {}
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        self.close();
        let mut undecided = 0;
        for (key, operations) in &self.registers {
            match search::check(operations, STEPS_MAX) {
                Verdict::Valid => {}
                Verdict::Undecided => undecided += 1,
                Verdict::Invalid { at } => {
                    let witness = witness::minimal(operations, at, STEPS_MAX);
                    let told = witness::tell(&witness);
                    let what = format!(
                        "register {}/{}: no order of these calls explains them: {told}",
                        key.node, key.label
                    );
                    return Err(unsafe_at(NAME, at.at_ns, what));
                }
            }
        }
        let claim = format!("the calls on each of {} registers fit one order", self.registers.len());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided })
    }
}
