//! Durability and consistency of everything that clients were told: O(log n) an event, and exact.
//!
//! Values are unique, so a read says which write it saw. See [`registers`] for registers and [`listings`] for operations. Must never:
//! conclude anything from calls that overlap, nor from calls whose outcome is not known, beyond what somebody saw of them.

#[cfg(test)]
mod listing_tests;
mod listings;
mod registers;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use listings::Listings;
use registers::Register;

use super::calls::{CallEvent, Calls, Invoked, Moment};
use super::unsafe_at;
use crate::observation::{Call, CallId, Checker, Key, Observation, Outcome, Verified, Violation};

/// See the module's docs.
#[derive(Debug, Default)]
pub struct Oracle {
    calls: Calls,
    registers: BTreeMap<Key, Register>,
    listings: Listings,
    events: u64,
}

const NAME: &str = "oracle";

impl Oracle {
    pub fn new() -> Self {
        Self::default()
    }
}

fn register<'a>(registers: &'a mut BTreeMap<Key, Register>, key: &Key) -> &'a mut Register {
    registers.entry(key.clone()).or_insert_with(Register::new)
}

fn began(registers: &mut BTreeMap<Key, Register>, listings: &mut Listings, invoked: &Invoked) {
    match &invoked.what {
        Call::Write { key, serial } | Call::Swap { key, serial, .. } if key.is_steady() => {
            register(registers, key).write_began(*serial, invoked.call, invoked.began)
        }
        Call::Submit { serial, .. } => listings.submission_began(*serial),
        _ => {}
    }
}

fn ended(
    registers: &mut BTreeMap<Key, Register>,
    listings: &mut Listings,
    invoked: &Invoked,
    outcome: &Outcome,
    now: Moment,
) -> Result<(), String> {
    let (call, began) = (invoked.call, invoked.began);
    let what = &invoked.what;
    if let Call::Write { key, .. } | Call::Read { key } | Call::Swap { key, .. } = what
        && key.is_steady()
    {
        let register = register(registers, key);
        return register_ended(register, what, outcome, (call, began), now)
            .map_err(|what| format!("{key}: {what}"));
    }
    match (what, outcome) {
        (Call::Submit { serial, .. }, Outcome::Submitted(at)) => {
            listings.acknowledged(*serial, *at, call, now)
        }
        (Call::Submit { serial, .. }, Outcome::Refused(_)) => listings.refused(*serial, call, now),
        (Call::ListOperations, Outcome::Operations(listed)) => listings.listed(listed, call, began, now),
        (_, Outcome::Unknown(_)) | (Call::ListOperations, Outcome::Refused(_)) => Ok(()),
        // When it has to have ended is another checker's business.
        (Call::Cancel { .. } | Call::Change { .. } | Call::Other { .. }, _) => Ok(()),
        // Keys that are absent now and then: the other checkers' business.
        (Call::Write { .. } | Call::Read { .. } | Call::Swap { .. }, _) => Ok(()),
        (Call::Delete { .. } | Call::Expiring { .. }, _) => Ok(()),
        (what, outcome) => panic!("call {call} is {what:?}, which {outcome:?} is no outcome of"),
    }
}

fn register_ended(
    register: &mut Register,
    what: &Call,
    outcome: &Outcome,
    (call, began): (CallId, Moment),
    now: Moment,
) -> Result<(), String> {
    match (what, outcome) {
        (Call::Write { serial, .. }, outcome) if outcome.is_written() => {
            register.write_acknowledged(*serial, call, now)
        }
        // It found what it expected and wrote, at one moment.
        (Call::Swap { expected, serial, .. }, Outcome::Set(_)) => {
            register.read_completed(*expected, call, began, now.just_before())?;
            register.write_acknowledged(*serial, call, now)
        }
        (Call::Write { serial, .. }, Outcome::Refused(_))
        | (Call::Swap { serial, .. }, Outcome::Refused(_) | Outcome::Missed { .. }) => {
            register.write_refused(*serial, call, now)
        }
        (Call::Read { .. }, Outcome::Refused(_)) | (_, Outcome::Unknown(_)) => Ok(()),
        (Call::Read { .. }, outcome) if let Some(value) = outcome.value() => {
            register.read_completed(value, call, began, now)
        }
        (what, outcome) => panic!("call {call} is {what:?}, which {outcome:?} is no outcome of"),
    }
}

impl Checker for Oracle {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let Self { calls, registers, listings, events } = self;
        let Some((now, event)) = calls.see(observation) else { return Ok(()) };
        *events += 1;
        match event {
            CallEvent::Invoked(invoked) => began(registers, listings, invoked),
            CallEvent::Completed(invoked, outcome) => ended(registers, listings, &invoked, outcome, now)
                .map_err(|what| unsafe_at(NAME, now.at_ns, what))?,
        }
        Ok(())
    }

    /// Final durability needs reads after the last acknowledged writes; registers without one count as undecided.
    fn finish(&mut self) -> Result<Verified, Violation> {
        let unconfirmed = self.registers.values().filter(|r| r.unconfirmed()).count();
        Ok(Verified {
            checker: NAME.into(),
            claim: format!(
                "all that was acknowledged or read of {} registers and {} operations was there in every later read",
                self.registers.len(),
                self.listings.len()
            ),
            events: self.events,
            undecided: unconfirmed as u64 + u64::from(self.listings.unconfirmed()),
        })
    }
}
