//! The one error type of the crate. A variant says what the caller can do.

use std::io;

/// Result of every fallible operation of this crate.
pub type StorageResult<T> = Result<T, StorageError>;

/// Why a storage operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StorageError {
    /// The queue of the committer is full. Nothing was taken; retry after a pause.
    #[error("storage is busy: {queued} operations are queued (limit {limit})")]
    Busy { queued: usize, limit: usize },
    /// One write is larger than the format allows. Nothing was taken; do not retry.
    #[error("a log entry of {len} bytes is larger than the limit of {limit} bytes")]
    TooLarge { len: usize, limit: usize },
    /// A write or sync failed before. The store takes no more writes until the process restarts, since after a
    /// failed sync the kernel may have dropped the pages it could not write (fsyncgate).
    #[error("the log is poisoned by an earlier disk error: {0}")]
    Poisoned(String),
    /// Acknowledged bytes are damaged. The stream must be given up and fetched anew under a new replica id.
    #[error("damaged data in {file} at offset {offset}: {detail}")]
    Damaged { file: String, offset: u64, detail: String },
    /// A newer release wrote the file. Nothing was touched; run that release again.
    #[error(
        "{file} is of format version {found}, written by a newer release; this one reads up to version {supported}"
    )]
    Newer { file: String, found: u32, supported: u32 },
    /// The store was asked for something that the caller should have known is not there (a hole in a log, a
    /// stream that was tombstoned). A bug of the caller.
    #[error("invalid log operation: {0}")]
    Invalid(String),
    /// The store has been shut down.
    #[error("the storage has been closed")]
    Closed,
    /// The operating system said no. Whether the data is durable is unknown if the operation was a write.
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
}

impl StorageError {
    /// An [`StorageError::Io`] with what was being done.
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::Io { context: context.into(), source }
    }
}
