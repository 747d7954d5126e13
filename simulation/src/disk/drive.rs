//! Drives a log's committer and its maintenance in virtual time, as `storage/src/log/segmented/driver.rs` does with threads.
//!
//! Between the write of a batch and its sync passes what a sync takes on this disk, so that a crash can fall in between, and so that
//! the age of the oldest unsynced write grows when the disk is slow. Runs in the context of the process: it dies and pauses with it.

use std::io;
use std::sync::Arc;

use longshore_node::node::StartedCommitter;
use longshore_raft::consensus::runtime::AsyncRuntime;
use longshore_storage::log::pace::{FULL_PAUSE, QUIET, UPKEEP_INTERVAL, UPKEEP_PAUSE};
use longshore_storage::log::{Committer, Maintenance, SegmentedLog, Step, Upkeep};
use tokio::sync::Notify;

use super::{DiskMutant, HostDisk};
use crate::runtime::{SimRuntime, sleep_global};

/// What `Ports::drive` takes, for logs on this disk.
pub fn drive(disk: &HostDisk) -> impl FnOnce(Committer) -> io::Result<StartedCommitter> + Send + use<> {
    let disk = disk.clone();
    move |committer| {
        let (log, maintenance) = (committer.log(), committer.maintenance());
        let (submitted, wanted) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (wake, wake_upkeep) = (Arc::clone(&submitted), Arc::clone(&wanted));
        committer.set_wake(Arc::new(move || wake.notify_one()));
        maintenance.set_wake(Arc::new(move || wake_upkeep.notify_one()));
        let commits = SimRuntime::spawn(commit(committer, disk.clone(), submitted));
        let upkeep = SimRuntime::spawn(keep_up(maintenance, disk, wanted));
        let closing = Closing(log);
        Ok(Box::pin(async move {
            drop(closing);
            // Whoever waits for them dies with them.
            let _ = commits.await;
            let _ = upkeep.await;
        }))
    }
}

/// Closes the log when it is dropped, also by a node that never came to await the end.
struct Closing(SegmentedLog);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

async fn commit(mut committer: Committer, disk: HostDisk, submitted: Arc<Notify>) {
    loop {
        match committer.step() {
            Step::Wrote { .. } if disk.mutant() == Some(DiskMutant::CallBackEarly) => {}
            Step::Wrote { .. } | Step::Prepared => sleep_global(disk.sync_pause()).await,
            // Those who were called back may have more for the next batch.
            Step::Synced { .. } => tokio::task::yield_now().await,
            Step::Idle => {
                if SimRuntime::timeout(QUIET, submitted.notified()).await.is_err() {
                    committer.mark();
                    submitted.notified().await;
                }
            }
            // Whoever closes the log does not wait for room.
            Step::Stalled if committer.is_closing() => return,
            Step::Stalled => SimRuntime::sleep(FULL_PAUSE).await,
            Step::Stopped => return,
        }
    }
}

async fn keep_up(maintenance: Maintenance, disk: HostDisk, wanted: Arc<Notify>) {
    loop {
        match maintenance.step() {
            Upkeep::Stopped => return,
            Upkeep::Worked => {
                sleep_global(disk.sync_pause()).await;
                // The committer is waiting: no pause.
                if !maintenance.is_behind() {
                    SimRuntime::sleep(UPKEEP_PAUSE).await;
                }
            }
            Upkeep::Full => SimRuntime::sleep(FULL_PAUSE).await,
            Upkeep::Idle => {
                // Over the time or woken: it looks again either way.
                let _ = SimRuntime::timeout(UPKEEP_INTERVAL, wanted.notified()).await;
            }
        }
    }
}
