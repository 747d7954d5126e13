//! The log that a node's groups share: one sequence of batches in segment files.
//!
//! ```text
//! submit -> queue -> Committer: batch -> write -> sync -> index, callbacks     (committer.rs, batch.rs, record.rs)
//!                        |                                   |
//!                   fresh segment <- Maintenance -> footer, drop, rewrite      (maintenance.rs, footer.rs)
//! open -> files.rs -> footer or scan.rs -> index.rs -> state of each stream    (recovery.rs)
//! ```
//!
//! The format, and why recovery may believe what it reads, is in `storage/FORMAT.md`. Invariants:
//! - nothing is called back before `sync_data` returned; a failed write or sync is never retried;
//! - acknowledged bytes are never written again, but by recovery with the bytes they have;
//! - what recovery folds is what the running process had in its index (the same code does both).

mod batch;
mod bloom;
mod cache;
mod committer;
mod config;
mod driver;
mod files;
mod footer;
mod format;
mod handle;
mod index;
mod maintenance;
pub mod pace;
mod publish;
mod record;
mod recovery;
mod runs;
mod scan;
mod segment;
mod shared;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use self::committer::{Committer, Step};
pub use self::config::{LogConfig, MonotonicMs};
pub use self::driver::{CommitterThreads, monotonic_clock, spawn_committer};
pub use self::handle::SegmentedLog;
pub use self::maintenance::{Maintenance, Upkeep};
pub use self::recovery::RecoveryReport;
pub use self::shared::{Damage, Wake};
use crate::StorageResult;
use crate::disk::Disk;

impl SegmentedLog {
    /// Opens the log in `config.dir`, made if it is missing. Nothing becomes durable until the committer is driven.
    ///
    /// Damage does not fail it: see [`RecoveryReport::damaged`]. Errors: `Newer` if a newer release wrote it, `Io`.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: LogConfig,
    ) -> StorageResult<(SegmentedLog, Committer, RecoveryReport)> {
        let recovery::Recovered { shared, resume, receiver, report } = recovery::recover(disk, config)?;
        let maintenance = Maintenance::new(shared.clone());
        let committer = Committer::new(shared.clone(), maintenance, receiver, resume);
        Ok((SegmentedLog::new(shared), committer, report))
    }
}
