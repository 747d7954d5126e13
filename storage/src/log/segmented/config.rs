//! Limits and sizes of a segmented log.

use std::fmt;
use std::sync::Arc;

use super::batch::BATCH_HEADER_BYTES;
use super::format::{BLOCK_BYTES, DATA_START};
use super::record::{MAX_SEGMENTS, RECORD_HEADER_BYTES};
use crate::log::{MAX_ENTRY_BYTES, MAX_RECORD_META_BYTES};
use crate::{StorageError, StorageResult};

/// Milliseconds since an arbitrary moment, never going back. Given from outside, so that a simulation can set it.
pub type MonotonicMs = Arc<dyn Fn() -> u64 + Send + Sync>;

/// How a segmented log is laid out and how much it holds in memory. The defaults suit a node with 32 to 256 groups.
#[derive(Clone)]
pub struct LogConfig {
    /// The folder of the segments.
    pub dir: String,
    /// Data bytes of a new segment, a multiple of 4096; at most 1 GiB. Segments of another size are read as they are.
    pub segment_bytes: u32,
    /// Segments kept ready ahead of the one being written; at least 1.
    pub spare_segments: usize,
    /// Most segments on disk. At the limit writes wait, as on a full disk, until something is purged.
    pub max_segments: usize,
    /// Most bytes that one write and sync take, unless a single entry is larger. Bounds the time of a sync.
    pub max_batch_bytes: usize,
    /// Most bytes of operations that are submitted and not yet durable.
    pub max_queued_bytes: usize,
    /// Most submits that are not yet durable.
    pub max_queued_submits: usize,
    /// Bytes of the latest entries that stay in memory; those not yet durable do in any case.
    pub cache_bytes: usize,
    /// A segment with less than this part of it live is rewritten, so that idle streams do not pin it.
    pub rewrite_below_percent: u8,
    /// For the age of the oldest write not yet durable.
    pub clock: MonotonicMs,
}

impl LogConfig {
    /// The defaults, in the folder `log`.
    pub fn new(clock: MonotonicMs) -> Self {
        Self {
            dir: "log".to_owned(),
            segment_bytes: 64 << 20,
            spare_segments: 1,
            max_segments: 1024,
            max_batch_bytes: 4 << 20,
            max_queued_bytes: 64 << 20,
            max_queued_submits: 16 << 10,
            cache_bytes: 16 << 20,
            rewrite_below_percent: 25,
            clock,
        }
    }

    /// The largest entry that fits a segment (and is not over [`MAX_ENTRY_BYTES`]).
    pub fn entry_limit(&self) -> usize {
        let manifest = RECORD_HEADER_BYTES + self.max_segments * 8;
        let overhead = DATA_START as usize + BATCH_HEADER_BYTES + manifest + RECORD_HEADER_BYTES;
        (self.segment_bytes as usize).saturating_sub(overhead).min(MAX_ENTRY_BYTES)
    }

    pub(super) fn check(&self) -> StorageResult<()> {
        let wrong = |what: &str| Err(StorageError::Invalid(format!("log configuration: {what}")));
        if !self.segment_bytes.is_multiple_of(BLOCK_BYTES) || self.segment_bytes > 1 << 30 {
            return wrong("segment_bytes must be a multiple of 4096 and at most 1 GiB");
        }
        if self.spare_segments == 0 {
            return wrong("spare_segments must be at least 1");
        }
        if self.max_segments > MAX_SEGMENTS || self.max_segments < self.spare_segments + 2 {
            return wrong(
                "max_segments must be at most 4096, and leave room for two segments beside the spare ones",
            );
        }
        // The largest small record must fit a fresh segment.
        if self.entry_limit() < 2 * MAX_RECORD_META_BYTES {
            return wrong("segment_bytes is too small for max_segments");
        }
        if self.max_batch_bytes == 0 || self.max_queued_bytes == 0 || self.max_queued_submits == 0 {
            return wrong("a limit of zero takes nothing");
        }
        if self.rewrite_below_percent > 50 {
            return wrong("rewriting segments that are more than half live moves more than it frees");
        }
        Ok(())
    }
}

impl fmt::Debug for LogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogConfig")
            .field("dir", &self.dir)
            .field("segment_bytes", &self.segment_bytes)
            .field("spare_segments", &self.spare_segments)
            .field("max_segments", &self.max_segments)
            .field("max_batch_bytes", &self.max_batch_bytes)
            .field("max_queued_bytes", &self.max_queued_bytes)
            .field("max_queued_submits", &self.max_queued_submits)
            .field("cache_bytes", &self.cache_bytes)
            .field("rewrite_below_percent", &self.rewrite_below_percent)
            .finish_non_exhaustive()
    }
}
