//! Tables on sled 0.34.7, with its known failures kept inside.
//!
//! Opening panics when a byte has changed on the disk, so panics are caught, here and in every access; the store is then set aside, or every
//! further access is an error. Opening reads every row, and finds what sled did not. `flush()` is `sync_file_range`, so a checkpoint syncs the
//! files itself. Space that was once used never comes back, so a store that takes out of all proportion to what it holds is rebuilt.

mod folder;
mod rows;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use parking_lot::RwLock;

use self::rows::Tally;
use super::{Batch, Opened, Page, Row, Scan, Table, Tables, TablesError, TablesResult};

/// Memory that sled keeps pages in.
const CACHE_BYTES: u64 = 16 << 20;
/// A store that takes more space than this is rebuilt, if that is also more than so many times what it holds.
const SPACE_BYTES_MAX: u64 = 64 << 20;
const SPACE_FACTOR_MAX: u64 = 8;
/// Bytes of rows that are copied at a time when a store is rebuilt.
const COPY_BYTES: usize = 1 << 20;
/// Rows that are removed at a time when a table is cleared.
const CLEAR_ROWS: usize = 512;

/// What went wrong, in words.
type Fault<T> = Result<T, String>;

/// An open store.
struct Store {
    db: ::sled::Db,
    generation: u32,
    tally: Tally,
}

enum State {
    Open(Box<Store>),
    /// Why it is not to be used any more.
    Damaged(String),
}

/// See the module's docs. One handle per folder.
pub struct SledTables {
    dir: PathBuf,
    space_bytes_max: u64,
    state: RwLock<State>,
}

impl std::fmt::Debug for SledTables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SledTables").field("dir", &self.dir).finish_non_exhaustive()
    }
}

/// What sled says of a store that is open already.
const LOCKED: &str = "could not acquire lock";

/// Runs what calls sled: a panic becomes an error.
fn guard<T>(call: impl FnOnce() -> Fault<T>) -> Fault<T> {
    catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|panic| Err(format!("sled panicked: {}", text(&*panic))))
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

fn in_words(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Store {
    /// Opens a generation's folder; a new one if nothing is in it.
    fn open(path: &Path, generation: u32) -> Fault<Self> {
        let config = ::sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
        let db = config.open().map_err(in_words)?;
        Ok(Self { db, generation, tally: Tally::default() })
    }

    /// Reads all rows, and compares them with the tally, and that with the batch that a checkpoint has made durable: what sled takes for a log with
    /// nothing in it, or with less, is no older state but a damaged one.
    fn check(&mut self, saved: u64) -> Fault<()> {
        let mut tally = Tally::default();
        let mut kept = None;
        for row in self.db.iter() {
            let (key, value) = row.map_err(in_words)?;
            if &*key == rows::TALLY_KEY {
                kept = Some(value);
            } else {
                rows::add_checked(&mut tally, &key, &value)?;
            }
        }
        let kept = kept.map_or_else(|| Tally::default().encode(), |kept| kept.to_vec());
        tally.batch = Tally::batch_of(&kept).ok_or("the tally of all rows is too short")?;
        if !tally.is(&kept) {
            return Err("rows are missing, or are old ones".to_owned());
        }
        if tally.batch < saved {
            return Err(format!("batch {saved} was saved, and {} is the last that is there", tally.batch));
        }
        self.tally = tally;
        Ok(())
    }

    fn value(&self, table: Table, key: &[u8], row_key: &[u8], head: &[u8]) -> Fault<Vec<u8>> {
        let (pieces, first) = rows::head(row_key, head)?;
        let mut value = first.to_vec();
        for number in 0..pieces {
            let key = rows::piece_key(table, key, number);
            let piece = self.db.get(&key).map_err(in_words)?.ok_or("a piece of a row is missing")?;
            value.extend_from_slice(rows::piece(&key, &piece)?);
        }
        Ok(value)
    }

    fn get(&self, table: Table, key: &[u8]) -> Fault<Option<Vec<u8>>> {
        let row_key = rows::row_key(table, key);
        let head = self.db.get(&row_key).map_err(in_words)?;
        head.map(|head| self.value(table, key, &row_key, &head)).transpose()
    }

    fn apply(&mut self, batch: &Batch) -> Fault<()> {
        if batch.is_empty() {
            return Ok(());
        }
        let (mut changes, mut tally) = (::sled::Batch::default(), self.tally.clone());
        for ((table, key), value) in &batch.changes {
            let row_key = rows::row_key(*table, key);
            if let Some(old) = self.db.get(&row_key).map_err(in_words)? {
                let (pieces, _) = rows::head(&row_key, &old)?;
                tally.remove(&row_key, &old)?;
                changes.remove(row_key);
                for number in 0..pieces {
                    let key = rows::piece_key(*table, key, number);
                    let old = self.db.get(&key).map_err(in_words)?.ok_or("a piece of a row is missing")?;
                    tally.remove(&key, &old)?;
                    changes.remove(key);
                }
            }
            for (key, value) in value.iter().flat_map(|value| rows::encode(*table, key, value)) {
                tally.add(&key, &value)?;
                changes.insert(key, value);
            }
        }
        tally.batch += 1;
        changes.insert(rows::TALLY_KEY, tally.encode());
        self.db.apply_batch(changes).map_err(in_words)?;
        self.tally = tally;
        Ok(())
    }

    fn scan(&self, scan: &Scan) -> Fault<Vec<Row>> {
        let mut page = Page::of(scan);
        if scan.is_empty() || page.is_full() {
            return Ok(page.rows);
        }
        let prefix = rows::prefix(scan.table);
        let key = |key: &Vec<u8>| rows::row_key(scan.table, key);
        let from = match &scan.from {
            Bound::Unbounded => Bound::Included(prefix.clone()),
            bound => bound.as_ref().map(key),
        };
        let to = match &scan.to {
            Bound::Unbounded => Bound::Excluded(rows::behind(scan.table)),
            bound => bound.as_ref().map(key),
        };
        let mut range = self.db.range((from, to));
        while let Some(row) = if scan.backward { range.next_back() } else { range.next() } {
            let (row_key, head) = row.map_err(in_words)?;
            let key = row_key.strip_prefix(&prefix[..]).ok_or("a row is of another table")?;
            let value = self.value(scan.table, key, &row_key, &head)?;
            if !page.take((key.to_vec(), value)) || page.is_full() {
                break;
            }
        }
        Ok(page.rows)
    }

    /// Makes all that was applied durable.
    fn flush(&self, dir: &Path) -> Fault<()> {
        self.db.flush().map_err(in_words)?;
        folder::sync_generation(&folder::generation(dir, self.generation)).map_err(in_words)
    }

    /// A copy of it in a generation of its own, durable, which does not count yet.
    fn copy(&self, dir: &Path, generation: u32) -> Fault<Self> {
        let path = folder::make_generation(dir, generation).map_err(in_words)?;
        let mut copy = Self::open(&path, generation)?;
        let (mut some, mut bytes) = (::sled::Batch::default(), 0);
        for row in self.db.iter() {
            let (key, value) = row.map_err(in_words)?;
            bytes += key.len() + value.len();
            some.insert(key, value);
            if bytes >= COPY_BYTES {
                copy.db.apply_batch(std::mem::take(&mut some)).map_err(in_words)?;
                bytes = 0;
            }
        }
        copy.db.apply_batch(some).map_err(in_words)?;
        copy.check(self.tally.batch)?;
        copy.flush(dir)?;
        Ok(copy)
    }
}

impl SledTables {
    /// Opens the tables in a folder, made with its parents if it is missing; sets a damaged store aside, to `<dir>.damaged-<number>`. Blocks; reads
    /// all there is. Of each folder one handle may be open, in one process.
    pub fn open(dir: impl Into<PathBuf>) -> TablesResult<(Self, Opened)> {
        Self::open_within(dir.into(), SPACE_BYTES_MAX)
    }

    fn open_within(dir: PathBuf, space_bytes_max: u64) -> TablesResult<(Self, Opened)> {
        let (store, opened) = match guard(|| Self::open_kept(&dir)) {
            Ok(Some(store)) => (store, Opened::Kept),
            Ok(None) => (Self::make(&dir)?, Opened::Fresh),
            // Somebody has it open, if only a child of this process that has not come to its own program yet: that is no damage. Unless it was given
            // up by this process, which keeps its lock.
            Err(why) if why.contains(LOCKED) && folder::damage(&dir).is_none() => {
                return Err(io_error(format!("open {}", dir.display()), std::io::Error::other(why)));
            }
            Err(why) => {
                let why = folder::damage(&dir).map_or(why, |why| format!("it was found while in use: {why}"));
                let to = folder::set_aside(&dir)
                    .map_err(|source| io_error(format!("set {} aside ({why})", dir.display()), source))?;
                (Self::make(&dir)?, Opened::SetAside { to, why })
            }
        };
        let state = RwLock::new(State::Open(Box::new(store)));
        Ok((Self { dir, space_bytes_max, state }, opened))
    }

    fn open_kept(dir: &Path) -> Fault<Option<Store>> {
        let Some(number) = folder::current(dir)? else { return Ok(None) };
        folder::remove_others(dir, number).map_err(in_words)?;
        let mut store = Store::open(&folder::generation(dir, number), number)?;
        let checked = guard(|| {
            store.check(folder::saved(dir)?)?;
            folder::forget_damage(dir).map_err(in_words)
        });
        match checked {
            Ok(()) => Ok(Some(store)),
            Err(why) => {
                abandon(store);
                Err(why)
            }
        }
    }

    fn make(dir: &Path) -> TablesResult<Store> {
        let context = |source| io_error(format!("make tables in {}", dir.display()), source);
        folder::make(dir).map_err(context)?;
        let path = folder::make_generation(dir, 1).map_err(context)?;
        let made = guard(|| {
            let store = Store::open(&path, 1)?;
            store.flush(dir)?;
            Ok(store)
        });
        let store = made.map_err(|why| context(std::io::Error::other(why)))?;
        folder::set_current(dir, 1).map_err(context)?;
        Ok(store)
    }

    fn damaged(&self, why: &str) -> TablesError {
        TablesError::Damaged { dir: self.dir.clone(), why: why.to_owned() }
    }

    /// After a fault: no further access.
    fn give_up(&self, why: String) -> TablesError {
        let error = self.damaged(&why);
        let before = std::mem::replace(&mut *self.state.write(), State::Damaged(why));
        if let State::Open(store) = before {
            folder::note_damage(&self.dir, error.to_string().as_str());
            abandon(*store);
        }
        error
    }

    fn read<T>(&self, access: impl FnOnce(&Store) -> Fault<T>) -> TablesResult<T> {
        let done = match &*self.state.read() {
            State::Open(store) => guard(|| access(store)),
            State::Damaged(why) => return Err(self.damaged(why)),
        };
        done.map_err(|why| self.give_up(why))
    }

    fn change<T>(&self, access: impl FnOnce(&mut Store) -> Fault<T>) -> TablesResult<T> {
        let done = match &mut *self.state.write() {
            State::Open(store) => guard(|| access(store)),
            State::Damaged(why) => return Err(self.damaged(why)),
        };
        done.map_err(|why| self.give_up(why))
    }

    /// Rebuilds the store if it takes out of all proportion. Where that does not succeed it goes on as it is.
    fn compact(&self, store: &mut Store) -> Fault<()> {
        let before = folder::bytes_on_disk(&self.dir).map_err(in_words)?;
        if before <= self.space_bytes_max.max(SPACE_FACTOR_MAX.saturating_mul(store.tally.bytes)) {
            return Ok(());
        }
        let next = store.generation.wrapping_add(1);
        let copy = match guard(|| store.copy(&self.dir, next)) {
            Ok(copy) => copy,
            Err(why) => {
                tracing::warn!(dir = %self.dir.display(), %why, "the tables take much space, and could not be rebuilt");
                return folder::remove_others(&self.dir, store.generation).map_err(in_words);
            }
        };
        folder::set_current(&self.dir, next).map_err(in_words)?;
        let old = std::mem::replace(store, copy);
        guard(|| {
            drop(old);
            Ok(())
        })?;
        folder::remove_others(&self.dir, next).map_err(in_words)?;
        let after = folder::bytes_on_disk(&self.dir).map_err(in_words)?;
        tracing::info!(dir = %self.dir.display(), before, after, "tables were rebuilt to give space back");
        Ok(())
    }
}

/// Leaves a store alone that may be in any state: even closing it could panic, or wait for ever. Its memory and its files stay with the process.
fn abandon(store: Store) {
    std::mem::forget(store);
}

fn io_error(action: String, source: std::io::Error) -> TablesError {
    TablesError::Io { context: format!("cannot {action}"), source }
}

impl Drop for SledTables {
    fn drop(&mut self) {
        let state = std::mem::replace(self.state.get_mut(), State::Damaged("it is closed".to_owned()));
        let closed = guard(|| {
            drop(state);
            Ok(())
        });
        if let Err(why) = closed {
            tracing::warn!(dir = %self.dir.display(), %why, "the tables could not be closed well");
        }
    }
}

impl Tables for SledTables {
    fn get(&self, table: Table, key: &[u8]) -> TablesResult<Option<Vec<u8>>> {
        if key.len() > super::KEY_BYTES_MAX {
            return Ok(None);
        }
        self.read(|store| store.get(table, key))
    }

    fn apply(&self, batch: &Batch) -> TablesResult<()> {
        batch.check()?;
        self.change(|store| store.apply(batch))
    }

    fn scan(&self, scan: &Scan) -> TablesResult<Vec<Row>> {
        self.read(|store| store.scan(scan))
    }

    fn clear(&self, table: Table) -> TablesResult<()> {
        let some = Scan { limit: CLEAR_ROWS, bytes: super::BATCH_BYTES_MAX, ..Scan::all(table) };
        loop {
            let mut batch = Batch::default();
            self.scan(&some)?.into_iter().for_each(|(key, _)| batch.delete(table, key));
            if batch.is_empty() {
                return Ok(());
            }
            self.apply(&batch)?;
        }
    }

    fn len(&self, table: Table) -> TablesResult<u64> {
        self.read(|store| Ok(store.tally.len(table)))
    }

    fn checkpoint(&self) -> TablesResult<()> {
        self.change(|store| {
            store.flush(&self.dir)?;
            folder::set_saved(&self.dir, store.tally.batch).map_err(in_words)?;
            self.compact(store)
        })
    }

    fn bytes_on_disk(&self) -> TablesResult<u64> {
        self.read(|_| folder::bytes_on_disk(&self.dir).map_err(in_words))
    }
}
