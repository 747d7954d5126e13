//! A version that goes up, and tasks that wait for it: how a group tells that something about it changed.
//!
//! Not tokio's `watch`, which draws on tokio's own random numbers and would make a simulation irreproducible.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct Changes {
    version: AtomicU64,
    waiting: Notify,
}

impl Changes {
    pub(crate) fn bump(&self) {
        self.version.fetch_add(1, Ordering::Release);
        self.waiting.notify_waiters();
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Waits until the version is above `seen`; returns it.
    pub(crate) async fn after(&self, seen: u64) -> u64 {
        loop {
            // Registered before the check, so that a bump in between is not missed.
            let mut notified = std::pin::pin!(self.waiting.notified());
            notified.as_mut().enable();
            let version = self.version();
            if version > seen {
                return version;
            }
            notified.await;
        }
    }
}
