//! Where a replica keeps its snapshot, as consensus needs it.

use std::collections::BTreeMap;
use std::fmt::Debug;

use bytes::Bytes;
use longshore_storage::snapshot::SnapshotStore;
use longshore_storage::{StorageError, StorageResult, StreamId};
use parking_lot::Mutex;

/// A snapshot as it was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSnapshot {
    pub meta: Bytes,
    pub data: Bytes,
}

/// Durable snapshots, at most one a stream. Calls block; they are made from a blocking pool.
pub trait Snapshots: Debug + Send + Sync + 'static {
    /// Replaces the stream's snapshot. When this returns, the new one is durable and the old one is gone; when the
    /// process dies before, one of the two is there, whole.
    fn save(&self, stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<()>;
    /// The stream's snapshot, verified.
    fn load(&self, stream: StreamId) -> StorageResult<Option<StoredSnapshot>>;
}

impl Snapshots for SnapshotStore {
    fn save(&self, stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<()> {
        SnapshotStore::save(self, stream, meta, data).map(drop)
    }

    fn load(&self, stream: StreamId) -> StorageResult<Option<StoredSnapshot>> {
        let Some(found) = SnapshotStore::load(self, stream)? else { return Ok(None) };
        // The log may have been purged up to the newer one: with the older one there would be a hole.
        if let Some(file) = found.damaged_newer.first() {
            let detail =
                "the newest snapshot is damaged, and the log may not reach back to an older one".to_owned();
            return Err(StorageError::Damaged { file: file.clone(), offset: 0, detail });
        }
        Ok(Some(StoredSnapshot { meta: found.meta, data: found.data }))
    }
}

/// Keeps snapshots in memory: for tests.
#[derive(Debug, Default)]
pub struct MemorySnapshots(Mutex<BTreeMap<StreamId, StoredSnapshot>>);

impl Snapshots for MemorySnapshots {
    fn save(&self, stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<()> {
        let snapshot =
            StoredSnapshot { meta: Bytes::copy_from_slice(meta), data: Bytes::copy_from_slice(data) };
        self.0.lock().insert(stream, snapshot);
        Ok(())
    }
    fn load(&self, stream: StreamId) -> StorageResult<Option<StoredSnapshot>> {
        Ok(self.0.lock().get(&stream).cloned())
    }
}
