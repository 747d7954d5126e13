//! Claims what this node was offered, runs a bounded number of attempts, and reports for all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::operations::{OperationCommand, OperationReply, Progress, SubKey};
use longshore_model::partition::PartitionId;
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::attempt::{self, Claimed, Ended, Met};
use super::breaker::{Breaker, Gate};
use super::lease::HeldLease;
use super::offers::Offers;
use crate::builds::Builds;
use crate::core::Core;
use crate::engines::Care;
use crate::ring::Front;

/// How long an engine may take to say that it is there.
const TRIAL: Duration = Duration::from_secs(5);
/// When to look again if nothing is to come.
const NOTHING_DUE: Duration = Duration::from_secs(3_600);
/// Time between two reports of progress: often enough to watch, seldom enough for the log.
const REPORT_EVERY: Duration = Duration::from_secs(1);

/// See the module's docs. One per node.
pub(crate) struct Executor<R: Runtime> {
    core: Arc<Core<R>>,
    front: Front<R>,
    offers: Arc<Offers<R>>,
    care: Arc<Care>,
    builds: Arc<Builds<R>>,
    /// Most attempts under way.
    attempts_max: usize,
    breaker: Mutex<Breaker<R::Instant>>,
    slots: Mutex<BTreeMap<SubKey, Slot<R>>>,
    /// An attempt ended or got its lease.
    changed: Notify,
    /// Partitions that a report to is under way.
    reporting: Mutex<BTreeSet<PartitionId>>,
    stop: CancellationToken,
}

/// What an attempt has to report.
type Reported<R> = (Progress, Arc<HeldLease<R>>);

enum Slot<R: Runtime> {
    Claiming,
    Running(Arc<HeldLease<R>>),
}

impl<R: Runtime> Executor<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        front: Front<R>,
        offers: Arc<Offers<R>>,
        care: Arc<Care>,
        builds: Arc<Builds<R>>,
        attempts_max: usize,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(Self {
            core,
            front,
            offers,
            care,
            builds,
            attempts_max,
            breaker: Mutex::new(Breaker::new()),
            slots: Mutex::default(),
            changed: Notify::new(),
            reporting: Mutex::default(),
            stop,
        })
    }

    /// Starts what is due and reports what is under way, until stopped.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut next_report = R::Instant::now();
        loop {
            let wake = self.start_due();
            let to_report = self.slots.lock().values().any(|s| matches!(s, Slot::Running(_)));
            let wake = if to_report { wake.min(next_report) } else { wake };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.offers.changed() => {}
                () = self.changed.notified() => {}
                () = R::sleep_until(wake) => {}
            }
            let doubts = self.doubt_recalled();
            if doubts || (to_report && R::Instant::now() >= next_report) {
                next_report = R::Instant::now() + REPORT_EVERY;
                self.report();
            }
        }
    }

    /// Whether an attempt that is under way was recalled: the log is asked then.
    fn doubt_recalled(&self) -> bool {
        let recalled = self.offers.recalled();
        let slots = self.slots.lock();
        let mut doubts = false;
        for sub in recalled {
            if let Some(Slot::Running(lease)) = slots.get(&sub) {
                lease.doubt();
                doubts = true;
            }
        }
        doubts
    }

    /// Starts attempts for sub-operations that are due; gives back when to look again if nothing changes before.
    fn start_due(self: &Arc<Self>) -> R::Instant {
        // One lock at a time; nobody else begins attempts.
        let busy: BTreeSet<SubKey> = self.slots.lock().keys().copied().collect();
        let due = self.offers.due(|sub| busy.contains(sub));
        let mut breaker = self.breaker.lock();
        let free = match breaker.gate(R::Instant::now()) {
            Gate::Open => self.attempts_max.saturating_sub(busy.len()),
            Gate::Trial if !due.now.is_empty() => {
                breaker.begin_trial();
                let this = Arc::clone(self);
                drop(R::spawn(async move { this.try_engine().await }));
                0
            }
            Gate::Trial => 0,
            Gate::Closed(until) => {
                let until = until.filter(|_| !due.now.is_empty());
                return until.or(due.next).unwrap_or_else(|| R::Instant::now() + NOTHING_DUE);
            }
        };
        drop(breaker);
        for sub in due.now.into_iter().take(free) {
            self.slots.lock().insert(sub, Slot::Claiming);
            let this = Arc::clone(self);
            drop(R::spawn(async move { this.attempt(sub).await }));
        }
        due.next.unwrap_or_else(|| R::Instant::now() + NOTHING_DUE)
    }

    /// Asks the engine whether it is there, after it was not for a while.
    async fn try_engine(&self) {
        let answers = match &self.core.engine {
            Some(engine) => matches!(R::timeout(TRIAL, engine.info()).await, Ok(Ok(_))),
            None => true,
        };
        let mut breaker = self.breaker.lock();
        match answers {
            true => breaker.answered(),
            false => breaker.trial_failed(R::Instant::now()),
        }
        drop(breaker);
        self.changed.notify_one();
    }

    async fn attempt(self: Arc<Self>, sub: SubKey) {
        let again = match attempt::claim(&self.core, &self.front, sub).await {
            Claimed::Granted(lease, work) => {
                self.slots.lock().insert(sub, Slot::Running(Arc::clone(&lease)));
                self.tell_running();
                self.changed.notify_one();
                let Self { core, front, care, builds, .. } = &*self;
                let stop = self.stop.clone();
                let Ended { again, met } =
                    attempt::carry_out(core, front, care, builds, lease, work, stop).await;
                let mut breaker = self.breaker.lock();
                match met {
                    Met::Nothing => {}
                    Met::NoEngine => breaker.failed(R::Instant::now()),
                    Met::Engine => breaker.answered(),
                }
                drop(breaker);
                // It may have left a container, which is the caretaker's to find.
                self.care.look();
                again
            }
            Claimed::Later(wait) => Some(wait),
            Claimed::Unanswered => {
                self.offers.back_off(sub);
                return self.free(sub);
            }
            Claimed::Nothing => None,
        };
        match again {
            Some(wait) => self.offers.put_off(sub, wait),
            None => self.offers.forget(sub),
        }
        self.free(sub);
    }

    fn free(&self, sub: SubKey) {
        self.slots.lock().remove(&sub);
        self.tell_running();
        self.changed.notify_one();
    }

    fn tell_running(&self) {
        let running = self.slots.lock().values().filter(|slot| matches!(slot, Slot::Running(_))).count();
        self.core.loads.set_running(running as u32);
    }

    /// Reports what is due, each partition for itself: without a quorum a report takes as long as a proposal may, and neither new work nor
    /// other partitions wait for it.
    fn report(self: &Arc<Self>) {
        let sent = R::Instant::now();
        let mut by_partition: BTreeMap<PartitionId, Vec<Reported<R>>> = BTreeMap::new();
        for slot in self.slots.lock().values() {
            let Slot::Running(lease) = slot else { continue };
            if let Some(progress) = lease.due_report(sent) {
                let partition = lease.key.operation.partition;
                by_partition.entry(partition).or_default().push((progress, Arc::clone(lease)));
            }
        }
        for (partition, reported) in by_partition {
            if !self.reporting.lock().insert(partition) {
                continue;
            }
            let this = Arc::clone(self);
            drop(R::spawn(async move {
                this.report_to(partition, reported, sent).await;
                this.reporting.lock().remove(&partition);
            }));
        }
    }

    async fn report_to(&self, partition: PartitionId, reported: Vec<Reported<R>>, sent: R::Instant) {
        let reports = reported.iter().map(|(progress, lease)| (lease.key, lease.token, *progress)).collect();
        let lost = match self.front.operate(partition, OperationCommand::Report { reports }).await {
            Ok(OperationReply::Reported { lost }) => lost,
            Ok(other) => {
                tracing::error!(?other, "a report got a reply that is none");
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "progress could not be reported; the leases run on");
                return;
            }
        };
        for (progress, lease) in reported {
            if lost.contains(&lease.key) {
                lease.lose();
            } else {
                lease.renewed(progress, sent);
            }
        }
    }
}
