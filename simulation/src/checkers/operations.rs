//! Sub-operations as container engines see them, and the ends of operations.
//!
//! An image's tag carries the serial of its submission, so a host and an image name a sub-operation. Rules:
//! - one process never has two pulls of one sub-operation under way, and an earlier process begins none while a later one has: the
//!   log grants one lease at a time, and a process outlives neither its lease nor its lock. (A *later* process may begin at once, also
//!   while the engine still winds up what the earlier one asked for.)
//! - an operation that has ended stays so, and one whose cancellation was acknowledged has ended;
//! - once a lease and the grace have passed since then, no engine begins anything for it: whoever had claimed its work before has stopped;
//! - liveness: in a run that ended healthy, operations that had long enough have ended.
//!
//! Containers need images, too: several of one host may pull the same one at once, and a copy is replaced by later operations. So the first rule
//! and the third are not for their images; what becomes of containers is watched by [`containers`](super::containers).

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::operations::{ATTEMPTS_MAX, GRACE_MS, LEASE_MS, backoff_ms};

use super::calls::{CallEvent, Calls, Moment, seconds};
use super::unsafe_at;
use crate::observation::{
    Call, Checker, Listed, LogPosition, Observation, Outcome, Promise, Seen, Serial, Verified, Violation,
};
use crate::plan::{Fault, HostId, Plan};

const NAME: &str = "operations";
/// Of one node's pulls; with as many under way others wait their turn.
const PULLS_AT_ONCE: usize = 4;
/// For the pull itself, and for elections in between.
const MARGIN_MS: u64 = 9_000;

/// How long after its cancellation work for an operation may still be begun.
fn begun_within_ns() -> u64 {
    (LEASE_MS + GRACE_MS) * 1_000_000
}

/// Most time that an operation whose turn has come needs once nothing is broken: a lease that nobody holds any more runs out, or the
/// longest backoff passes.
fn ends_within_ns() -> u64 {
    (LEASE_MS + GRACE_MS + backoff_ms(ATTEMPTS_MAX) + MARGIN_MS) * 1_000_000
}

#[derive(Debug)]
struct Pull {
    host: HostId,
    incarnation: u64,
    image: String,
    began_ns: u64,
}

#[derive(Debug)]
struct Record {
    serial: Serial,
    since_ns: u64,
    /// Since when it is known to have ended, and by which listing.
    ended: Option<(Moment, u64)>,
}

/// See the module's docs.
#[derive(Debug)]
pub struct PullsAndEnds {
    calls: Calls,
    pulls: BTreeMap<u64, Pull>,
    by_place: BTreeMap<(HostId, String), BTreeSet<u64>>,
    by_host: BTreeMap<HostId, usize>,
    /// When an engine last did something for an image, by its tag.
    touched_ns: BTreeMap<String, u64>,
    /// When a node last had as many pulls as it may.
    crowded_ns: u64,
    tags: BTreeMap<Serial, String>,
    /// Images that containers are made of: several of a host, by several operations.
    runs: BTreeSet<String>,
    /// When the cancellation of an operation was acknowledged, by its tag.
    cancelled: BTreeMap<String, (Moment, u64)>,
    records: BTreeMap<LogPosition, Record>,
    /// What the listing that began last showed.
    last: Option<(Moment, BTreeMap<LogPosition, Listed>)>,
    healed_ns: Option<u64>,
    /// Every node that work was given to is there at the end.
    all_return: bool,
    events: u64,
}

fn tag(image: &str) -> &str {
    image.rsplit(':').next().unwrap_or(image)
}

impl PullsAndEnds {
    pub fn new(plan: &Plan) -> Self {
        // Such a host may give its replica up without anybody having emptied its disk yet.
        let lost = |fault: &Fault| matches!(fault, Fault::Rot { .. } | Fault::FailRead { .. });
        Self {
            calls: Calls::default(),
            pulls: BTreeMap::new(),
            by_place: BTreeMap::new(),
            by_host: BTreeMap::new(),
            touched_ns: BTreeMap::new(),
            crowded_ns: 0,
            tags: BTreeMap::new(),
            runs: BTreeSet::new(),
            cancelled: BTreeMap::new(),
            records: BTreeMap::new(),
            last: None,
            healed_ns: None,
            all_return: plan.unhealed.is_empty() && !plan.faults.iter().any(|f| lost(&f.fault)),
            events: 0,
        }
    }

    fn pull_began(
        &mut self,
        at_ns: u64,
        host: HostId,
        incarnation: u64,
        pull: u64,
        image: &str,
    ) -> Result<(), String> {
        let place = (host, image.to_owned());
        let is_run = self.runs.contains(tag(image));
        let under_way = self.by_place.entry(place).or_default();
        if !is_run
            && let Some(first) =
                under_way.iter().map(|p| &self.pulls[p]).find(|p| p.incarnation >= incarnation)
        {
            return Err(format!(
                "host {host} began to pull {image} at {} (incarnation {incarnation}), while its pull by incarnation {}, begun at {}, \
                 is under way: one sub-operation is carried out twice at once",
                seconds(at_ns),
                first.incarnation,
                seconds(first.began_ns)
            ));
        }
        if !is_run
            && let Some((since, call)) = self.cancelled.get(tag(image))
            && at_ns > since.at_ns + begun_within_ns()
        {
            return Err(format!(
                "host {host} began to pull {image} at {}, although call {call} had cancelled that at {since}",
                seconds(at_ns)
            ));
        }
        under_way.insert(pull);
        let earlier =
            self.pulls.insert(pull, Pull { host, incarnation, image: image.to_owned(), began_ns: at_ns });
        assert!(earlier.is_none(), "pull {pull} began twice: engines number their pulls");
        *self.by_host.entry(host).or_default() += 1;
        self.touch(at_ns, image);
        Ok(())
    }

    fn pull_ended(&mut self, at_ns: u64, pull: u64) {
        let ended =
            self.pulls.remove(&pull).unwrap_or_else(|| panic!("pull {pull} ended, but is not under way"));
        self.touch(at_ns, &ended.image);
        if let Some(count) = self.by_host.get_mut(&ended.host) {
            self.crowded_ns = if *count >= PULLS_AT_ONCE { at_ns } else { self.crowded_ns };
            *count -= 1;
        }
        let place = (ended.host, ended.image);
        if let Some(under_way) = self.by_place.get_mut(&place) {
            under_way.remove(&pull);
            if under_way.is_empty() {
                self.by_place.remove(&place);
            }
        }
    }

    fn touch(&mut self, at_ns: u64, image: &str) {
        self.touched_ns.insert(tag(image).to_owned(), at_ns);
    }

    fn cancelled(&mut self, at: LogPosition, serial: Serial, call: u64, now: Moment) {
        self.record(at, serial, now).ended.get_or_insert((now, call));
        if let Some(tag) = self.tags.get(&serial) {
            self.cancelled.entry(tag.clone()).or_insert((now, call));
        }
    }

    fn record(&mut self, at: LogPosition, serial: Serial, now: Moment) -> &mut Record {
        self.records.entry(at).or_insert(Record { serial, since_ns: now.at_ns, ended: None })
    }

    fn listed(
        &mut self,
        listed: &BTreeMap<LogPosition, Listed>,
        call: u64,
        began: Moment,
        now: Moment,
    ) -> Result<(), String> {
        for (at, operation) in listed {
            let record = self.record(*at, operation.serial, now);
            match (record.ended, operation.ended) {
                (Some((since, by)), false) if since < began => {
                    return Err(format!(
                        "{at} had ended by call {by} at {since}, but listing call {call}, which began at {began}, shows it \
                         under way"
                    ));
                }
                (None, true) => record.ended = Some((now, call)),
                _ => {}
            }
        }
        if self.last.as_ref().is_none_or(|(last, _)| *last < began) {
            self.last = Some((began, listed.clone()));
        }
        Ok(())
    }

    /// An operation that had time to end, by the last listing, and did not.
    fn stuck(&self) -> Option<String> {
        let (healed_ns, (began, listed)) = (self.healed_ns?, self.last.as_ref()?);
        let crowded = self.by_host.values().any(|count| *count >= PULLS_AT_ONCE);
        if !self.all_return || crowded {
            return None;
        }
        let working: BTreeSet<&str> = self.pulls.values().map(|p| tag(&p.image)).collect();
        for (at, operation) in listed.iter().filter(|(_, o)| !o.ended) {
            let record = &self.records[at];
            let tag = self.tags.get(&record.serial).map(String::as_str);
            if tag.is_some_and(|tag| working.contains(tag)) {
                continue;
            }
            let touched_ns = tag.and_then(|tag| self.touched_ns.get(tag)).copied().unwrap_or(0);
            let since_ns = healed_ns.max(record.since_ns).max(touched_ns).max(self.crowded_ns);
            if began.at_ns.saturating_sub(since_ns) >= ends_within_ns() {
                return Some(format!(
                    "{at} (serial {}) has not ended by {began}, although nothing was broken and nobody worked on it since {}",
                    operation.serial,
                    seconds(since_ns)
                ));
            }
        }
        None
    }
}

impl Checker for PullsAndEnds {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let seen = match &observation.seen {
            Seen::PullBegan { host, incarnation, pull, image } => {
                self.events += 1;
                self.pull_began(at_ns, *host, *incarnation, *pull, image)
            }
            Seen::PullEnded { pull, .. } => {
                self.pull_ended(at_ns, *pull);
                Ok(())
            }
            Seen::Healed => {
                self.healed_ns = Some(at_ns);
                Ok(())
            }
            Seen::Wiped { .. } => {
                self.all_return = false;
                Ok(())
            }
            _ => match self.calls.see(observation) {
                Some((_, CallEvent::Invoked(invoked))) => {
                    if let Call::Submit { serial, image, run } = &invoked.what {
                        self.tags.insert(*serial, tag(image).to_owned());
                        if run.is_some() {
                            self.runs.insert(tag(image).to_owned());
                        }
                    }
                    Ok(())
                }
                Some((now, CallEvent::Completed(invoked, Outcome::Operations(listed)))) => {
                    self.events += 1;
                    self.listed(listed, invoked.call, invoked.began, now)
                }
                Some((now, CallEvent::Completed(invoked, Outcome::Done | Outcome::Cancelled(_)))) => {
                    if let Call::Cancel { at, serial } = invoked.what {
                        self.events += 1;
                        self.cancelled(at, serial, invoked.call, now);
                    }
                    Ok(())
                }
                Some((now, CallEvent::Completed(invoked, Outcome::Submitted(at)))) => {
                    if let Call::Submit { serial, .. } = invoked.what {
                        self.record(*at, serial, now);
                    }
                    Ok(())
                }
                _ => Ok(()),
            },
        };
        seen.map_err(|what| unsafe_at(NAME, at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        if let Some(what) = self.stuck() {
            let at_ns = self.last.as_ref().map_or(0, |(began, _)| began.at_ns);
            return Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns, what });
        }
        Ok(Verified {
            checker: NAME.into(),
            claim: "no sub-operation was carried out twice at once, and none came to a standstill".into(),
            events: self.events,
            undecided: 0,
        })
    }
}
