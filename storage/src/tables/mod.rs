//! Tables: the port for what can be made anew (indexes, history), with an implementation on sled and one in memory.
//!
//! Promises little on purpose. What was applied before the last [`Tables::checkpoint`] survives the process and the loss of power; of what came
//! later whole batches may be lost, the last ones first. A store that turns out damaged is set aside, and whoever opened it begins with empty
//! tables. Must never: hold what is nowhere else, be waited for by consensus, or take the process down whatever is in its files.

pub mod conformance;
mod memory;
mod sled_tables;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::PathBuf;

pub use memory::MemTables;
pub use sled_tables::SledTables;

/// Longest name of a table, in bytes.
pub const NAME_BYTES_MAX: usize = 32;
/// Longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 256;
/// Largest value, in bytes: the largest message.
pub const VALUE_BYTES_MAX: usize = 4 << 20;
/// Most changes in a batch.
pub const BATCH_CHANGES_MAX: usize = 4_096;
/// Most bytes of keys and values in a batch.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Result of every access to tables.
pub type TablesResult<T> = Result<T, TablesError>;

/// Why an access to tables failed.
#[derive(Debug, thiserror::Error)]
pub enum TablesError {
    /// A fault of the caller. Nothing was changed.
    #[error("{what} of {len} is over the limit of {limit}")]
    TooLarge { what: &'static str, len: usize, limit: usize },
    /// Found since the tables were opened. Every access fails from now on.
    #[error("the tables in {dir} are damaged: {why}; what they held is rebuilt when they are opened again")]
    Damaged { dir: PathBuf, why: String },
    /// The store can be neither opened nor set aside.
    #[error("{context}: {source}")]
    Io { context: String, source: io::Error },
}

/// A table's name: 1 to [`NAME_BYTES_MAX`] bytes, a constant of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Table(&'static str);

impl Table {
    /// # Panics
    /// If the name is empty or too long.
    pub const fn new(name: &'static str) -> Self {
        assert!(!name.is_empty() && name.len() <= NAME_BYTES_MAX, "a table's name has 1 to 32 bytes");
        Self(name)
    }

    pub fn name(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Changes that take effect together. Of several to one key the last one counts.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: BTreeMap<(Table, Vec<u8>), Option<Vec<u8>>>,
}

impl Batch {
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.insert((table, key.into()), Some(value.into()));
    }

    /// No error if the key is not there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.insert((table, key.into()), None);
    }

    /// How many keys are changed.
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        let bytes = |((_, key), value): (&(Table, Vec<u8>), &Option<Vec<u8>>)| {
            key.len() + value.as_ref().map_or(0, Vec::len)
        };
        self.changes.iter().map(bytes).sum()
    }

    fn check(&self) -> TablesResult<()> {
        let too_large = |what, len, limit| Err(TablesError::TooLarge { what, len, limit });
        if self.len() > BATCH_CHANGES_MAX {
            return too_large("a batch of changes", self.len(), BATCH_CHANGES_MAX);
        }
        for ((_, key), value) in &self.changes {
            let value = value.as_ref().map_or(0, Vec::len);
            match () {
                () if key.len() > KEY_BYTES_MAX => return too_large("a key", key.len(), KEY_BYTES_MAX),
                () if value > VALUE_BYTES_MAX => return too_large("a value", value, VALUE_BYTES_MAX),
                () => {}
            }
        }
        match self.bytes() {
            bytes if bytes > BATCH_BYTES_MAX => too_large("a batch of bytes", bytes, BATCH_BYTES_MAX),
            _ => Ok(()),
        }
    }
}

/// Rows of a table that are asked for, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scan {
    pub table: Table,
    pub from: Bound<Vec<u8>>,
    pub to: Bound<Vec<u8>>,
    /// From the last key to the first.
    pub backward: bool,
    /// Most rows.
    pub limit: usize,
    /// About the most bytes of keys and values; the first row may be larger.
    pub bytes: usize,
}

impl Scan {
    /// All of a table, forward.
    pub fn all(table: Table) -> Self {
        Self {
            table,
            from: Bound::Unbounded,
            to: Bound::Unbounded,
            backward: false,
            limit: usize::MAX,
            bytes: usize::MAX,
        }
    }

    /// Whether no key can lie in the range: `BTreeMap::range` would panic.
    fn is_empty(&self) -> bool {
        match (&self.from, &self.to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
            _ => false,
        }
    }
}

/// A key and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Named tables of byte keys and values. Calls block, on the disk and on each other: make them from a blocking pool.
pub trait Tables: Send + Sync + fmt::Debug + 'static {
    fn get(&self, table: Table, key: &[u8]) -> TablesResult<Option<Vec<u8>>>;
    /// All of a batch or, with an error, none of it; within the limits of this module.
    fn apply(&self, batch: &Batch) -> TablesResult<()>;
    fn scan(&self, scan: &Scan) -> TablesResult<Vec<Row>>;
    /// Removes all rows of a table; after a crash in between, some.
    fn clear(&self, table: Table) -> TablesResult<()>;
    /// Rows of a table.
    fn len(&self, table: Table) -> TablesResult<u64>;
    /// Makes durable what was applied before, and gives space back that is out of proportion.
    fn checkpoint(&self) -> TablesResult<()>;
    /// Space that the store takes on its disk.
    fn bytes_on_disk(&self) -> TablesResult<u64>;
}

/// How the tables were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opened {
    /// There were none.
    Fresh,
    /// As they were left.
    Kept,
    /// They were damaged, and are empty now.
    SetAside { to: PathBuf, why: String },
}

/// Takes rows until a scan's limits are reached.
struct Page {
    rows: Vec<Row>,
    limit: usize,
    bytes_left: usize,
}

impl Page {
    fn of(scan: &Scan) -> Self {
        Self { rows: Vec::new(), limit: scan.limit, bytes_left: scan.bytes }
    }

    fn is_full(&self) -> bool {
        self.rows.len() >= self.limit
    }

    /// False if the row does not fit any more.
    fn take(&mut self, row: Row) -> bool {
        let bytes = row.0.len() + row.1.len();
        if self.is_full() || (bytes > self.bytes_left && !self.rows.is_empty()) {
            return false;
        }
        self.bytes_left = self.bytes_left.saturating_sub(bytes);
        self.rows.push(row);
        true
    }
}
