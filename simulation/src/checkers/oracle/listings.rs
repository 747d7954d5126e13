//! Operations, by what linearizable listings may show of them.
//!
//! An operation's id is where the log of its group put it, and what a listing shows of a group is the state at one place in its log. So an
//! operation that was acknowledged or listed before a listing began is in it; a listing that shows one operation shows all that are
//! before it in the same log; and an operation that was first submitted when another of its group was already known lies behind that one.

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
    /// The last operation of each group that was known when it was first submitted.
    behind: BTreeMap<u32, LogPosition>,
}

#[derive(Debug, Default)]
pub(crate) struct Listings {
    submissions: BTreeMap<Serial, Submission>,
    known: BTreeMap<LogPosition, Known>,
    /// Of all listings so far: the last operation of each group, and the call that listed it.
    furthest: BTreeMap<u32, (LogPosition, CallId)>,
    acknowledged: Option<Moment>,
    last_listing_began: Option<Moment>,
}

/// The last one of each group.
fn last_of_each(places: impl Iterator<Item = LogPosition>) -> BTreeMap<u32, LogPosition> {
    // In order, so that the last one stays.
    places.map(|at| (at.group, at)).collect()
}

impl Listings {
    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }

    pub(crate) fn submission_began(&mut self, serial: Serial) {
        let known = &self.known;
        let first = || Submission { behind: last_of_each(known.keys().copied()), ..Submission::default() };
        self.submissions.entry(serial).or_insert_with(first).calls += 1;
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
                at, known.call, known.since,
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
        let last = last_of_each(listed.keys().copied());
        if self.known.len() <= KEPT_MAX {
            self.nothing_missing(listed, &last, call, began)?;
        }
        for (at, operation) in listed {
            let known = Known { serial: operation.serial, since: now, call, listed: true };
            self.learn(*at, known)?;
        }
        for (group, last) in last {
            let furthest = self.furthest.entry(group).or_insert((last, call));
            if last > furthest.0 {
                *furthest = (last, call);
            }
        }
        Ok(())
    }

    fn nothing_missing(
        &self,
        listed: &BTreeMap<LogPosition, Listed>,
        last: &BTreeMap<u32, LogPosition>,
        call: CallId,
        began: Moment,
    ) -> Result<(), String> {
        for (at, known) in self.known.iter().filter(|(at, _)| !listed.contains_key(at)) {
            let (serial, since, by) = (known.serial, known.since, known.call);
            let how = if known.listed { "listed" } else { "acknowledged" };
            if since < began {
                return Err(format!(
                    "{} (serial {serial}) was {how} by call {by} at {since}, but listing call {call}, which began at {began}, is without it",
                    at
                ));
            }
            if let Some(last) = last.get(&at.group).filter(|last| *last > at) {
                return Err(format!(
                    "listing call {call} shows {} but not {} (serial {serial}; {how} by call {by}), which is before it in the log",
                    last, at
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
                at
            ));
        };
        if submission.refused == submission.calls {
            return Err(format!(
                "call {call} shows {} with serial {serial} at {now}, but each of its {} submissions was refused, as certainly not done",
                at, submission.calls
            ));
        }
        if let Some(behind) = submission.behind.get(&at.group).filter(|behind| at <= **behind) {
            return Err(format!(
                "call {call} shows serial {serial} as {} at {now}, but it was first submitted when {} was known: the log went back",
                at, behind
            ));
        }
        if let Some((furthest, by)) = self.furthest.get(&at.group).filter(|(furthest, _)| at < *furthest) {
            return Err(format!(
                "call {call} shows {} (serial {serial}) at {now}, but listing call {by} was without it and showed {}, \
                 which is behind it in the log",
                at, furthest
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
