//! Finds this node's sub-operations in the state, runs a bounded number of them, and reports for all of them at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_model::control::{Command, Reply};
use longshore_model::image::ImageReference;
use longshore_model::operations::{SubKey, SubState};
use longshore_raft::Runtime;
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::consensus::runtime::Instant as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Claimed};
use super::lease::HeldLease;
use crate::core::Core;

/// Most attempts under way on one node: dockerd itself fetches three layers at a time.
const ATTEMPTS_AT_ONCE: usize = 4;
/// Time between two reports of progress: often enough to watch, seldom enough for the log.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// Pause after the log knew better than the local copy of the state.
const BEHIND_PAUSE: Duration = Duration::from_millis(500);

/// See the module's docs. One per node.
pub(crate) struct Executor<R: Runtime> {
    core: Arc<Core<R>>,
    slots: Mutex<BTreeMap<SubKey, Slot<R>>>,
    /// An attempt ended or got its lease, or a report ended.
    changed: Notify,
    /// One report is under way at most: without a quorum each takes as long as a proposal may.
    reporting: AtomicBool,
    stop: CancellationToken,
}

enum Slot<R: Runtime> {
    Claiming,
    Running(Arc<HeldLease<R>>),
    /// Nothing to do before then.
    Waiting(R::Instant),
}

impl<R: Runtime> Executor<R> {
    pub(crate) fn new(core: Arc<Core<R>>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            core,
            slots: Mutex::default(),
            changed: Notify::new(),
            reporting: AtomicBool::new(false),
            stop,
        })
    }

    /// Starts what is due and reports what is under way, until stopped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut seen = 0;
        let mut next_report = R::Instant::now();
        loop {
            let wake = self.start_due();
            let to_report = !self.reporting.load(Ordering::Acquire)
                && self.slots.lock().values().any(|s| matches!(s, Slot::Running(_)));
            let wake = if to_report { wake.min(next_report) } else { wake };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
                () = self.changed.notified() => {}
                () = R::sleep_until(wake) => {}
            }
            if to_report && R::Instant::now() >= next_report {
                next_report = R::Instant::now() + REPORT_EVERY;
                // Not awaited here: new work starts, and leases are asked for, while a report waits for a quorum.
                self.reporting.store(true, Ordering::Release);
                let this = Arc::clone(&self);
                drop(R::spawn(async move {
                    this.report().await;
                    this.reporting.store(false, Ordering::Release);
                    this.changed.notify_one();
                }));
            }
        }
    }

    /// Starts attempts for sub-operations that are due; gives back when to look again if nothing changes before.
    fn start_due(self: &Arc<Self>) -> R::Instant {
        let now = R::Instant::now();
        let log_now = self.core.group.log_time();
        let idle_until = now + Duration::from_secs(3600);
        let mine: Vec<(SubKey, ImageReference, LogTime)> = self.core.group.with_state(|state| {
            let assigned = state.operations.assigned_to(self.core.me);
            let due = assigned.map(|(key, sub)| {
                let not_before = match &sub.state {
                    SubState::Assigned { not_before } => *not_before,
                    _ => LogTime(0),
                };
                (key, sub.image.clone(), not_before)
            });
            due.collect()
        });
        let mut slots = self.slots.lock();
        slots.retain(|key, slot| !matches!(slot, Slot::Waiting(_)) || mine.iter().any(|(k, ..)| k == key));
        let mut busy = slots.values().filter(|s| !matches!(s, Slot::Waiting(_))).count();
        let mut wake = idle_until;
        for (key, image, not_before) in mine {
            let due_at = match slots.get(&key) {
                Some(Slot::Claiming | Slot::Running(_)) => continue,
                Some(Slot::Waiting(until)) => *until,
                None => now + Duration::from_millis(not_before.0.saturating_sub(log_now.0)),
            };
            if due_at > now {
                wake = wake.min(due_at);
            } else if busy < ATTEMPTS_AT_ONCE {
                busy += 1;
                slots.insert(key, Slot::Claiming);
                let this = Arc::clone(self);
                drop(R::spawn(async move { this.attempt(key, image).await }));
            }
        }
        wake
    }

    async fn attempt(self: Arc<Self>, key: SubKey, image: ImageReference) {
        match attempt::claim(&self.core, key).await {
            Claimed::Granted(lease) => {
                self.slots.lock().insert(key, Slot::Running(Arc::clone(&lease)));
                self.changed.notify_one();
                attempt::carry_out(&self.core, lease, image, self.stop.clone()).await;
                self.slots.lock().remove(&key);
            }
            Claimed::Later(wait) => {
                self.slots.lock().insert(key, Slot::Waiting(R::Instant::now() + wait));
            }
            // The local copy of the state is behind: look again when it may have caught up.
            Claimed::Nothing => {
                self.slots.lock().insert(key, Slot::Waiting(R::Instant::now() + BEHIND_PAUSE));
            }
        }
        self.changed.notify_one();
    }

    async fn report(&self) {
        let sent = R::Instant::now();
        let due: Vec<_> = {
            let slots = self.slots.lock();
            let running = slots.values().filter_map(|slot| match slot {
                Slot::Running(lease) => Some(Arc::clone(lease)),
                _ => None,
            });
            running.filter_map(|lease| Some((lease.due_report(sent)?, lease))).collect()
        };
        if due.is_empty() {
            return;
        }
        let reports = due.iter().map(|(progress, lease)| (lease.key, lease.token, *progress)).collect();
        let lost = match self.core.group.propose(Command::Report { reports }).await {
            Ok(Reply::Reported { lost }) => lost,
            Ok(other) => {
                tracing::error!(?other, "a report got a reply that is none");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "progress could not be reported; the leases run on");
                return;
            }
        };
        for (progress, lease) in due {
            if lost.contains(&lease.key) {
                lease.lose();
            } else {
                lease.renewed(progress, sent);
            }
        }
    }
}
