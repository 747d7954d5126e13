//! A lease as its holder sees it: an instant after which the work must have stopped.
//!
//! The holder counts from *before* it asked, the log from when it granted, which is later; so the holder's lease always ends
//! first.

use std::time::Duration;

use longshore_model::operations::{LEASE_MS, Progress, SubKey};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// Length of a lease.
pub(super) const LEASE: Duration = Duration::from_millis(LEASE_MS);

/// One attempt under way.
#[derive(Debug)]
pub(super) struct HeldLease<R: Runtime> {
    pub(super) key: SubKey,
    pub(super) token: u32,
    inner: Mutex<Inner<R>>,
    /// The container that it has made, if it has.
    made: Mutex<Option<String>>,
    /// Cancelled when the log says that the lease is another's.
    lost: CancellationToken,
}

#[derive(Debug)]
struct Inner<R: Runtime> {
    ends: R::Instant,
    progress: Progress,
    reported: Option<(Progress, R::Instant)>,
    /// When somebody said that the lease is lost.
    doubted: Option<R::Instant>,
}

impl<R: Runtime> HeldLease<R> {
    /// A lease granted to a claim that was sent at `asked`.
    pub(super) fn new(key: SubKey, token: u32, asked: R::Instant) -> Self {
        let inner =
            Inner { ends: asked + LEASE, progress: Progress::default(), reported: None, doubted: None };
        Self { key, token, inner: Mutex::new(inner), made: Mutex::default(), lost: CancellationToken::new() }
    }

    pub(super) fn set_progress(&self, progress: Progress) {
        self.inner.lock().progress = progress;
    }

    pub(super) fn progress(&self) -> Progress {
        self.inner.lock().progress
    }

    /// The progress to report now: if it moved since the last report, or if the lease wants renewal.
    pub(super) fn due_report(&self, now: R::Instant) -> Option<Progress> {
        let inner = self.inner.lock();
        let renew_after = LEASE / 3;
        let due = match &inner.reported {
            _ if inner.doubted.is_some() => true,
            None => true,
            Some((progress, at)) => *progress != inner.progress || now - *at >= renew_after,
        };
        due.then_some(inner.progress)
    }

    /// The log took a report that was sent at `sent`.
    pub(super) fn renewed(&self, progress: Progress, sent: R::Instant) {
        let mut inner = self.inner.lock();
        inner.reported = Some((progress, sent));
        // What was sent before the doubt says nothing about it.
        inner.doubted = inner.doubted.filter(|at| sent < *at);
        inner.ends = inner.ends.max(sent + LEASE);
    }

    /// Has the log asked at once whether it is still held.
    pub(super) fn doubt(&self) {
        self.inner.lock().doubted = Some(R::Instant::now());
    }

    pub(super) fn set_made(&self, container: String) {
        *self.made.lock() = Some(container);
    }

    pub(super) fn made(&self) -> Option<String> {
        self.made.lock().clone()
    }

    pub(super) fn lose(&self) {
        self.lost.cancel();
    }

    /// Resolves when the lease was lost or has ended. Cancel safe.
    pub(super) async fn over(&self) {
        loop {
            let ends = self.inner.lock().ends;
            if R::Instant::now() >= ends {
                return;
            }
            tokio::select! {
                biased;
                () = self.lost.cancelled() => return,
                () = R::sleep_until(ends) => {}
            }
        }
    }
}
