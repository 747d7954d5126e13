//! Durable storage for one node: a disk port, one segmented log shared by all groups, snapshot files, and blobs. Beside them, tables of what
//! can be made anew, which promise less.
//!
//! Owns: bytes on disk and when they are durable. Knows nothing of Raft: votes, entries and committed positions
//! are opaque bytes, keyed by [`StreamId`]. Must never: acknowledge before `sync_data` returned, retry a failed
//! sync, hold async code on the disk, or keep in tables what nothing else holds.

pub mod blobs;
pub mod disk;
pub mod error;
pub mod log;
mod mix;
pub mod mutant;
pub mod snapshot;
pub mod tables;

pub use blobs::{
    BlobDigest, BlobError, BlobInfo, BlobLimits, BlobNeeds, BlobReader, BlobRoom, BlobStore, BlobWriter,
    DiskFloor,
};
pub use disk::{Disk, DiskFile, DiskSpace, MemDisk, RealDisk};
pub use error::{StorageError, StorageResult};
pub use log::{
    Committer, LogConfig, LogOp, LogStore, OnDurable, RecoveryReport, SegmentedLog, StreamId, StreamState,
    spawn_committer,
};
pub use snapshot::{SnapshotFile, SnapshotInfo, SnapshotStore};
