//! Operations, by what linearizable listings may show of them.
//!
//! An operation's id is where the log put it, and a listing is the state at one place in the log. So an operation that was acknowledged
//! or listed before a listing began is in it; a listing that shows one operation shows all that are before it in the
//! log; and an operation that was first submitted when another was already known lies behind that one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use longshore_model::operations::table::ENDED_MAX;

use crate::checkers::calls::Moment;
use crate::observation::{CallId, Listed, LogPosition, Serial};

/// Operations above which ended ones are dropped from the state, so that one that is missing proves nothing.
const KEPT_MAX: usize = ENDED_MAX;

/// An operation that is certainly in the log.
#[derive(Debug)]
struct Known {
    serial: Serial,
    since: Moment,
    call: CallId,
    /// By a listing, or else by the reply to its submission.
    listed: bool,
}

#[derive(Debug, Default)]
struct Submission {
    calls: u64,
    refused: u64,
    /// Last operation that was known when it was first submitted.
    behind: Option<LogPosition>,
}

#[derive(Debug, Default)]
pub(crate) struct Listings {
    submissions: BTreeMap<Serial, Submission>,
    known: BTreeMap<LogPosition, Known>,
    /// Of all listings so far: the last operation, and the call that listed it.
    furthest: Option<(LogPosition, CallId)>,
    acknowledged: Option<Moment>,
    last_listing_began: Option<Moment>,
}

fn show((index, position): LogPosition) -> String {
    format!("op-{index}-{position}")
}

impl Listings {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn submission_began(&mut self, serial: Serial) {
        let behind = self.known.last_key_value().map(|(at, _)| *at);
        let submission = self.submissions.entry(serial);
        submission.or_insert_with(|| Submission { behind, ..Submission::default() }).calls += 1;
    }

    pub(crate) fn acknowledged(
        &mut self,
        serial: Serial,
        at: LogPosition,
        call: CallId,
        now: Moment,
    ) -> Result<(), String> {
        self.acknowledged = Some(now);
        self.learn(at, Known { serial, since: now, call, listed: false })
    }

    /// A call was certainly not done; earlier calls with its serial may have been.
    pub(crate) fn refused(&mut self, serial: Serial, call: CallId, now: Moment) -> Result<(), String> {
        let submission = self.submissions.get_mut(&serial).expect("completed calls were invoked");
        submission.refused += 1;
        if submission.refused < submission.calls {
            return Ok(());
        }
        match self.known.iter().find(|(_, k)| k.serial == serial) {
            Some((at, known)) => Err(format!(
                "submission call {call} of serial {serial} was refused at {now}, as certainly not done, as were all before it; but \
                 it is {} by call {} at {}",
                show(*at),
                known.call,
                known.since,
            )),
            None => Ok(()),
        }
    }

    pub(crate) fn listed(
        &mut self,
        listed: &BTreeMap<LogPosition, Listed>,
        call: CallId,
        began: Moment,
        now: Moment,
    ) -> Result<(), String> {
        self.last_listing_began = self.last_listing_began.max(Some(began));
        let last = listed.last_key_value().map(|(at, _)| *at);
        if self.known.len() <= KEPT_MAX {
            self.nothing_missing(listed, last, call, began)?;
        }
        for (at, operation) in listed {
            let known = Known { serial: operation.serial, since: now, call, listed: true };
            self.learn(*at, known)?;
        }
        if let Some(last) = last.filter(|last| self.furthest.is_none_or(|(furthest, _)| *last > furthest)) {
            self.furthest = Some((last, call));
        }
        Ok(())
    }

    fn nothing_missing(
        &self,
        listed: &BTreeMap<LogPosition, Listed>,
        last: Option<LogPosition>,
        call: CallId,
        began: Moment,
    ) -> Result<(), String> {
        for (at, known) in self.known.iter().filter(|(at, _)| !listed.contains_key(at)) {
            let (serial, since, by) = (known.serial, known.since, known.call);
            let how = if known.listed { "listed" } else { "acknowledged" };
            if since < began {
                return Err(format!(
                    "{} (serial {serial}) was {how} by call {by} at {since}, but listing call {call}, which began at {began}, is without it",
                    show(*at)
                ));
            }
            if let Some(last) = last.filter(|last| last > at) {
                return Err(format!(
                    "listing call {call} shows {} but not {} (serial {serial}; {how} by call {by}), which is before it in the log",
                    show(last),
                    show(*at)
                ));
            }
        }
        Ok(())
    }

    fn learn(&mut self, at: LogPosition, known: Known) -> Result<(), String> {
        let Known { serial, since: now, call, .. } = known;
        let Entry::Vacant(vacant) = self.known.entry(at) else { return Ok(()) };
        let Some(submission) = self.submissions.get(&serial) else {
            return Err(format!(
                "call {call} shows {} with serial {serial} at {now}, which nobody has submitted",
                show(at)
            ));
        };
        if submission.refused == submission.calls {
            return Err(format!(
                "call {call} shows {} with serial {serial} at {now}, but each of its {} submissions was refused, as certainly not done",
                show(at),
                submission.calls
            ));
        }
        if let Some(behind) = submission.behind.filter(|behind| at <= *behind) {
            return Err(format!(
                "call {call} shows serial {serial} as {} at {now}, but it was first submitted when {} was known: the log went back",
                show(at),
                show(behind)
            ));
        }
        if let Some((furthest, by)) = self.furthest.filter(|(furthest, _)| at < *furthest) {
            return Err(format!(
                "call {call} shows {} (serial {serial}) at {now}, but listing call {by} was without it and showed {}, \
                 which is behind it in the log",
                show(at),
                show(furthest)
            ));
        }
        vacant.insert(known);
        Ok(())
    }

    /// Whether an operation was acknowledged that no later listing has shown to be there at the end.
    pub(crate) fn unconfirmed(&self) -> bool {
        let seen = |acked| self.last_listing_began.is_some_and(|listing| listing > acked);
        self.known.len() > KEPT_MAX || self.acknowledged.is_some_and(|acked| !seen(acked))
    }
}
