//! How long whoever drives a log pauses: threads in a process, tasks in a simulation.

use std::time::Duration;

/// After this long without a submit the end of the log is marked.
pub const QUIET: Duration = Duration::from_millis(50);
/// Between attempts while the disk is full.
pub const FULL_PAUSE: Duration = Duration::from_millis(200);
/// Between pieces of background work, so that commits come through. A 64 MiB segment is filled in about a second.
pub const UPKEEP_PAUSE: Duration = Duration::from_millis(2);
/// Maintenance is told of work; it looks for itself this often in case of a full disk that is full no more.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
