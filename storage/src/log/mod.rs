//! The log port: what consensus asks of durable storage, for many streams over one shared log.
//!
//! Invariants every implementation keeps (see the conformance suite):
//! - operations take effect in the order submitted, also across streams; callbacks fire in that order;
//! - what `submit` took is readable at once, durable only when its callback fired with `Ok`;
//! - a stream's entries are consecutive: there is never a hole;
//! - after a sync error the store is poisoned: every later submit fails, every pending callback gets the error.

pub mod conformance;
mod memory;
mod segmented;
mod stream;

use std::ops::Range;
use std::pin::Pin;

use bytes::Bytes;

use crate::StorageResult;

pub use memory::MemLog;
pub use segmented::pace;
pub use segmented::{
    Committer, CommitterThreads, Damage, LogConfig, Maintenance, MonotonicMs, RecoveryReport, SegmentedLog,
    Step, Upkeep, Wake, monotonic_clock, spawn_committer,
};

/// One replica's log. `replica` is never reused, so a stream that was given up can not come back to life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId {
    pub group: u32,
    pub replica: u64,
}

/// Fired once, on the committer's thread, when all operations of a submit (and all earlier ones) are durable, or
/// failed. Must not block.
pub type OnDurable = Box<dyn FnOnce(StorageResult<()>) + Send>;

/// One change of one stream. Vote, committed and marker bytes are at most [`MAX_RECORD_META_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogOp {
    /// Entries with consecutive indexes from `first`. `first` must be the stream's last index + 1 (a fresh stream
    /// accepts any `first`). The last index of a stream that was purged and holds nothing is its purge point.
    Append {
        stream: StreamId,
        first: u64,
        entries: Vec<Bytes>,
    },
    /// Removes the entries after `last` (exclusive); `None` removes all. Entries at or below the purge point stay purged.
    TruncateAfter {
        stream: StreamId,
        last: Option<u64>,
    },
    /// Removes the entries up to and including `index`. `marker` is kept with the stream and given back as
    /// [`StreamState::purged`]. `index` may lie beyond the last entry (a snapshot was installed). Purging to before the
    /// purge point does nothing; purging to before the first entry with a gap between is `Invalid`.
    PurgeTo {
        stream: StreamId,
        index: u64,
        marker: Bytes,
    },
    SaveVote {
        stream: StreamId,
        vote: Bytes,
    },
    /// A hint; it rides along with the next sync and never causes one. Its callback fires without waiting for one.
    SaveCommitted {
        stream: StreamId,
        committed: Bytes,
    },
    /// Gives the stream up for ever; its data is reclaimed. Later operations on it are `Invalid`.
    Tombstone {
        stream: StreamId,
    },
}

/// Most bytes of a vote, a committed position or a purge marker.
pub const MAX_RECORD_META_BYTES: usize = 1024;
/// Most bytes of one entry.
pub const MAX_ENTRY_BYTES: usize = 16 << 20;

/// What a stream holds, as taken (not necessarily durable yet).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StreamState {
    /// Index and marker of the last purged entry.
    pub purged: Option<(u64, Bytes)>,
    /// Indexes of the first and the last entry, if any is held. With a purge point, `first` is the index after it.
    pub first: Option<u64>,
    pub last: Option<u64>,
    pub vote: Option<Bytes>,
    pub committed: Option<Bytes>,
    pub tombstoned: bool,
}

/// A boxed future, so that `dyn LogStore` works.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A durable log of many streams.
///
/// Every call on a stream with damage in what was acknowledged fails with `Damaged`, but a tombstone.
pub trait LogStore: Send + Sync + 'static {
    /// Takes the operations, in order, or none of them. Never blocks. `Busy` when the queue is full: await [`ready`], try
    /// again. `on_durable` is dropped unfired if this fails. It may be called before this returns if nothing in `ops` has to become durable.
    ///
    /// [`ready`]: LogStore::ready
    fn submit(&self, ops: Vec<LogOp>, on_durable: OnDurable) -> StorageResult<()>;
    /// Resolves when the queue has room for an operation of `bytes`; errors when the store is poisoned or closed. Reserves
    /// nothing: another caller may be quicker.
    fn ready(&self, bytes: usize) -> BoxFuture<'_, StorageResult<()>>;
    /// Entries of `range` that the stream holds, in order, with their indexes. Stops early, but after at least one
    /// entry, once `max_bytes` is exceeded. May read the disk.
    fn read(&self, stream: StreamId, range: Range<u64>, max_bytes: usize)
    -> StorageResult<Vec<(u64, Bytes)>>;
    /// True if `read` of this range would be answered from memory.
    fn is_cached(&self, stream: StreamId, range: Range<u64>) -> bool;
    /// The stream's state; a stream never written to has the default one, a tombstoned one says so for ever.
    fn state(&self, stream: StreamId) -> StorageResult<StreamState>;
    /// All streams that were written to and not given up, sorted; the damaged too.
    fn streams(&self) -> Vec<StreamId>;
    /// Age in milliseconds of the oldest write not yet durable; 0 if there is none. The failure detector sends it along.
    fn oldest_unsynced_ms(&self) -> u64;
}
