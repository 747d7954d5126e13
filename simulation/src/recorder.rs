//! Takes what the world and its clients see, in order, to the checkers; counts; and says when the run is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::checkers::Watch;
use crate::event;
use crate::observation::{
    Call, CallId, DurableLog, Observation, Outcome, RunShape, Seen, Serial, Verified, Violation,
};
use crate::runtime;

/// Shared by everything in a run that sees something. Invariant: observations reach the checkers in the order of global time.
pub struct Recorder {
    /// `None` once the run is over.
    watch: Mutex<Option<Watch>>,
    violation: Mutex<Option<Violation>>,
    lost: Notify,
    counts: Mutex<BTreeMap<&'static str, Counts>>,
    calls: Mutex<BTreeMap<String, Counts>>,
    outage: Mutex<Outage>,
    next_call: AtomicU64,
    next_serial: AtomicU64,
    next_write: AtomicU64,
    flipped: AtomicBool,
    has_kept: AtomicBool,
    leaders: Mutex<Leaders>,
}

/// How often each thing happened.
pub type Counts = BTreeMap<String, u64>;

#[derive(Debug, Default)]
struct Outage {
    last_ns: Option<u64>,
    longest_ns: u64,
}

/// Who led in which term, by the replicas' own word.
#[derive(Debug, Default)]
struct Leaders {
    by_term: BTreeMap<u64, u64>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("violation", &*self.violation.lock()).finish_non_exhaustive()
    }
}

impl Recorder {
    pub fn new(watch: Watch) -> Arc<Self> {
        Arc::new(Self {
            watch: Mutex::new(Some(watch)),
            violation: Mutex::default(),
            lost: Notify::new(),
            counts: Mutex::default(),
            calls: Mutex::default(),
            outage: Mutex::default(),
            next_call: AtomicU64::new(1),
            next_serial: AtomicU64::new(1),
            next_write: AtomicU64::new(0),
            flipped: AtomicBool::new(false),
            has_kept: AtomicBool::new(false),
            leaders: Mutex::default(),
        })
    }

    pub fn next_call(&self) -> CallId {
        self.next_call.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers writes of registers, from 0.
    pub fn next_write(&self) -> u64 {
        self.next_write.fetch_add(1, Ordering::Relaxed)
    }

    /// Whether a write with a flipped byte was acknowledged: one is enough.
    pub fn has_flipped(&self) -> bool {
        self.flipped.load(Ordering::Relaxed)
    }

    pub fn flipped(&self) {
        self.flipped.store(true, Ordering::Relaxed);
    }

    pub fn next_serial(&self) -> Serial {
        self.next_serial.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells the checkers. What is seen after a violation is of no interest.
    pub fn see(&self, seen: Seen) {
        event!("see {}", Short(&seen));
        if let Seen::Status { status, .. } = &seen
            && status.is_leader
            && status.group == 0
        {
            self.leaders.lock().by_term.entry(status.term).or_insert(status.replica);
        }
        if let Seen::Invoked { what: Call::Submit { run: Some(RunShape { kept: true, .. }), .. }, .. } = &seen
        {
            self.has_kept.store(true, Ordering::Relaxed);
        }
        if self.violation.lock().is_some() {
            return;
        }
        let observation = Observation { at_ns: runtime::global_ns(), seen };
        if matches!(observation.seen, Seen::Completed { outcome: Outcome::Written, .. }) {
            let mut outage = self.outage.lock();
            if let Some(last) = outage.last_ns.replace(observation.at_ns) {
                outage.longest_ns = outage.longest_ns.max(observation.at_ns - last);
            }
        }
        let Some(seen) = self.watch.lock().as_mut().map(|watch| watch.see(&observation)) else { return };
        if let Err(violation) = seen {
            event!("violation {}: {}", violation.checker, violation.what);
            *self.violation.lock() = Some(violation);
            self.lost.notify_waiters();
        }
    }

    /// Adds one to a count of the report: of faults, ends of processes, acts of operators.
    pub fn count(&self, kind: &'static str, what: &str) {
        let mut counts = self.counts.lock();
        *counts.entry(kind).or_default().entry(what.to_owned()).or_default() += 1;
    }

    /// Adds one to the calls of a kind that ended in this way.
    pub fn count_call(&self, kind: &str, outcome: &str) {
        let mut calls = self.calls.lock();
        *calls.entry(kind.to_owned()).or_default().entry(outcome.to_owned()).or_default() += 1;
    }

    pub fn counts(&self, kind: &str) -> Counts {
        self.counts.lock().get(kind).cloned().unwrap_or_default()
    }

    pub fn calls(&self) -> BTreeMap<String, Counts> {
        self.calls.lock().clone()
    }

    /// Terms that had a leader.
    pub fn elections(&self) -> u64 {
        self.leaders.lock().by_term.len() as u64
    }

    /// Replicas that led.
    pub fn leaders(&self) -> u64 {
        self.leaders.lock().by_term.values().collect::<BTreeSet<_>>().len() as u64
    }

    /// Longest time between two acknowledged writes.
    pub fn longest_outage_ms(&self) -> u64 {
        self.outage.lock().longest_ns / 1_000_000
    }

    /// Resolves at the first violation.
    pub async fn until_lost(&self) {
        loop {
            let lost = self.lost.notified();
            if self.violation.lock().is_some() {
                return;
            }
            lost.await;
        }
    }

    pub fn violation(&self) -> Option<Violation> {
        self.violation.lock().clone()
    }

    /// Whether anything was submitted that the fleet is to keep up, as far as its client knows.
    pub fn has_kept(&self) -> bool {
        self.has_kept.load(Ordering::Relaxed)
    }

    /// The run is over: what the checkers verified, or the violation.
    pub fn finish(&self) -> Result<Vec<Verified>, Violation> {
        self.watch.lock().take().expect("a run is finished once").finish()
    }
}

/// Of all that is in it. Logs are long and shown often, so their entries are not spelt out for it.
fn digest_of(log: &DurableLog) -> String {
    let DurableLog { group, node, replica, vote, purged, entries, snapshot, voters, joint } = log;
    let rest = format!("{group} {node} {replica} {vote:?} {purged:?} {snapshot:?} {voters:?} {joint} ");
    let mut bytes = rest.into_bytes();
    for (index, (term, hash)) in entries {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(&term.to_le_bytes());
        bytes.extend_from_slice(hash);
    }
    crate::trace::digest(&bytes)
}

/// An observation in a line of the trace: long ones as a digest.
struct Short<'a>(&'a Seen);

impl std::fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Seen::Durable { host, log } => {
                let (group, replica, entries) = (log.group, log.replica, log.entries.len());
                let digest = digest_of(log);
                write!(f, "durable host {host} group {group} replica {replica} entries {entries} {digest}")
            }
            Seen::State { host, group, replica, applied, hash } => {
                write!(
                    f,
                    "state host {host} group {group} replica {replica} applied {applied} {:02x}{:02x}{:02x}{:02x}",
                    hash[0], hash[1], hash[2], hash[3]
                )
            }
            other => write!(f, "{other:?}"),
        }
    }
}
