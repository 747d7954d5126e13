//! How what an engine has is recorded in tables, and found again. Calls block.
//!
//! Rows are by id, with an index by name beside them. Two things may have one name for a moment, since events come one by one; so the index
//! leads from a name to all ids that have it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use longshore_model::codec;
use longshore_storage::tables::{Batch, Row, Scan, Table, Tables, TablesResult, VALUE_BYTES_MAX};

use super::{Item, Rows};
use crate::docker::{Container, ListedImage, ListedVolume};

/// What is said of the tables themselves.
const ABOUT: Table = Table::new("about");
const FORMAT_KEY: &[u8] = b"format";
/// Of rows and keys; what another release wrote is thrown away.
const FORMAT: &[u8] = &[1];
/// Most rows of a kind: listings are cut long before.
pub(super) const ROWS_MAX: usize = 100_000;
/// Most bytes of an id, or of a name, in a key; what is longer is told apart by a hash.
const KEY_PART_BYTES_MAX: usize = 120;
/// Hexadecimal digits of the hash.
const HASH_DIGITS: usize = 64;
/// Most others of one name that are looked for.
const NAMESAKES_MAX: usize = 16;
/// Most names of one thing that it is found by.
const NAMES_MAX: usize = 1_000;
/// Rows that are read at a time.
const SCAN_ROWS: usize = 256;
const SCAN_BYTES: usize = 1 << 20;
/// A batch is applied when it has so many changes or bytes.
const BATCH_CHANGES: usize = 1_024;
const BATCH_BYTES: usize = 4 << 20;

/// Part of a key. In the order of the text, but for what is too long.
fn part(text: &str) -> Vec<u8> {
    match text.as_bytes() {
        short if short.len() <= KEY_PART_BYTES_MAX => short.to_vec(),
        long => {
            let hash = blake3::hash(long).to_hex();
            [&long[..KEY_PART_BYTES_MAX - HASH_DIGITS], hash.as_bytes()].concat()
        }
    }
}

/// What all entries of a name in an index begin with. No name has such a byte.
fn name_prefix(name: &str) -> Vec<u8> {
    let mut key = part(name);
    key.push(0);
    key
}

/// The entries of an index that a row has: the first ones, if it has very many names, so that all of a row fits into a batch.
fn named_of<T: Item>(item: &T) -> impl Iterator<Item = (Table, &str)> {
    let table = T::NAMES;
    item.names().into_iter().take(NAMES_MAX).filter_map(move |name| Some((table?, name)))
}

fn name_key(name: &str, id: &str) -> Vec<u8> {
    [name_prefix(name), part(id)].concat()
}

fn encoded<T: bincode::Encode>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_into(value, &mut bytes);
    bytes
}

fn as_of_key<T: Item>() -> Vec<u8> {
    format!("as of: {}", T::WHAT).into_bytes()
}

/// Empties tables of another format. Whether they are as this release left them.
pub(super) fn prepare(tables: &dyn Tables) -> TablesResult<bool> {
    if tables.get(ABOUT, FORMAT_KEY)?.as_deref() == Some(FORMAT) {
        return Ok(true);
    }
    let all = [
        Some(ABOUT),
        Some(Container::ROWS),
        Container::NAMES,
        Some(ListedImage::ROWS),
        ListedImage::NAMES,
        Some(ListedVolume::ROWS),
        ListedVolume::NAMES,
    ];
    for table in all.into_iter().flatten() {
        tables.clear(table)?;
    }
    let mut batch = Batch::default();
    batch.put(ABOUT, FORMAT_KEY, FORMAT);
    tables.apply(&batch)?;
    Ok(false)
}

/// When the rows were known to be what the engine has, in milliseconds since 1970.
pub(super) fn as_of<T: Item>(tables: &dyn Tables) -> TablesResult<Option<u64>> {
    let bytes = tables.get(ABOUT, &as_of_key::<T>())?;
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
}

pub(super) fn set_as_of<T: Item>(tables: &dyn Tables, unix_ms: u64) -> TablesResult<()> {
    let mut batch = Batch::default();
    batch.put(ABOUT, as_of_key::<T>(), unix_ms.to_be_bytes());
    tables.apply(&batch)
}

/// Changes of rows and of the index, on their way.
struct Changes<'a> {
    tables: &'a dyn Tables,
    batch: Batch,
    rows: u64,
}

impl<'a> Changes<'a> {
    fn new(tables: &'a dyn Tables) -> Self {
        Self { tables, batch: Batch::default(), rows: 0 }
    }

    /// Puts a thing in the place of its old row, if they differ.
    fn put<T: Item>(&mut self, old: Option<&[u8]>, item: &T) -> TablesResult<()> {
        let row = encoded(item);
        if old == Some(&row[..]) {
            return Ok(());
        }
        if row.len() > VALUE_BYTES_MAX {
            tracing::warn!(
                id = item.id(),
                bytes = row.len(),
                "one of the {} is too large for the inventory",
                T::WHAT
            );
            // Not as it was before, either.
            return match old {
                Some(old) => self.remove::<T>(part(item.id()), old),
                None => Ok(()),
            };
        }
        if let Some(old) = old {
            self.forget_names::<T>(old);
        }
        for (table, name) in named_of(item) {
            self.batch.put(
                table,
                name_key(name, item.id()),
                encoded(&(name.to_owned(), item.id().to_owned())),
            );
        }
        self.batch.put(T::ROWS, part(item.id()), row);
        self.counted()
    }

    fn remove<T: Item>(&mut self, key: Vec<u8>, old: &[u8]) -> TablesResult<()> {
        self.forget_names::<T>(old);
        self.batch.delete(T::ROWS, key);
        self.counted()
    }

    fn forget_names<T: Item>(&mut self, old: &[u8]) {
        let Ok(old) = codec::decode::<T>(old) else { return };
        for (table, name) in named_of(&old) {
            self.batch.delete(table, name_key(name, old.id()));
        }
    }

    /// A row's changes are in one batch with those of its names.
    fn counted(&mut self) -> TablesResult<()> {
        self.rows += 1;
        if self.batch.len() >= BATCH_CHANGES || self.batch.bytes() >= BATCH_BYTES {
            self.tables.apply(&std::mem::take(&mut self.batch))?;
        }
        Ok(())
    }

    /// How many rows were changed.
    fn finish(self) -> TablesResult<u64> {
        self.tables.apply(&self.batch)?;
        Ok(self.rows)
    }
}

/// Makes the rows of a kind those of a whole listing; how many were changed.
pub(super) fn replace<T: Item>(tables: &dyn Tables, items: Vec<T>) -> TablesResult<u64> {
    if items.len() > ROWS_MAX {
        tracing::warn!(
            has = items.len(),
            "the engine has more {} than the inventory holds: {ROWS_MAX}",
            T::WHAT
        );
    }
    let mut new: BTreeMap<Vec<u8>, T> =
        items.into_iter().take(ROWS_MAX).map(|item| (part(item.id()), item)).collect();
    let mut changes = Changes::new(tables);
    let mut from = Bound::Unbounded;
    loop {
        let rows = page(tables, T::ROWS, from)?;
        let Some((last, _)) = rows.last() else { break };
        from = Bound::Excluded(last.clone());
        for (key, old) in rows {
            match new.remove(&key) {
                Some(item) => changes.put(Some(&old), &item)?,
                None => changes.remove::<T>(key, &old)?,
            }
        }
    }
    for item in new.values() {
        changes.put(None, item)?;
    }
    changes.finish()
}

fn page(tables: &dyn Tables, table: Table, from: Bound<Vec<u8>>) -> TablesResult<Vec<Row>> {
    tables.scan(&Scan { from, limit: SCAN_ROWS, bytes: SCAN_BYTES, ..Scan::all(table) })
}

/// Records what the engine said of the thing with this id or name. The ids of others that the engine has to be asked about for that: they had
/// the name that this one has now, or that nothing has any more.
pub(super) fn update<T: Item>(
    tables: &dyn Tables,
    key: &str,
    found: Option<&T>,
) -> TablesResult<BTreeSet<String>> {
    let mut changes = Changes::new(tables);
    let mut others = BTreeSet::new();
    match found {
        Some(item) => {
            let old = tables.get(T::ROWS, &part(item.id()))?;
            if old.is_some() || tables.len(T::ROWS)? < ROWS_MAX as u64 {
                changes.put(old.as_deref(), item)?;
            }
            for name in item.names() {
                others.extend(ids_named::<T>(tables, name)?);
            }
            others.remove(item.id());
        }
        None => {
            if let Some(old) = tables.get(T::ROWS, &part(key))? {
                changes.remove::<T>(part(key), &old)?;
            }
            others.extend(ids_named::<T>(tables, key)?);
        }
    }
    changes.finish()?;
    Ok(others)
}

fn ids_named<T: Item>(tables: &dyn Tables, name: &str) -> TablesResult<Vec<String>> {
    let Some(table) = T::NAMES else { return Ok(Vec::new()) };
    let from = name_prefix(name);
    let mut to = from.clone();
    to.pop();
    to.push(1);
    let scan = Scan {
        from: Bound::Included(from),
        to: Bound::Excluded(to),
        limit: NAMESAKES_MAX,
        ..Scan::all(table)
    };
    let entries = tables.scan(&scan)?.into_iter();
    Ok(entries.filter_map(|(_, entry)| named(&entry)).map(|(_, id)| id).collect())
}

/// Name and id of an index's entry.
fn named(entry: &[u8]) -> Option<(String, String)> {
    codec::decode(entry).ok()
}

/// All of a kind, as the engine lists it, up to about so many bytes.
pub(super) fn list<T: Item>(tables: &dyn Tables, bytes_max: usize) -> TablesResult<Rows<T>> {
    let index = T::NAMES.filter(|_| T::LISTED_BY_NAME);
    let mut listed = Rows { items: Vec::new(), cut: false };
    let (mut bytes, mut from) = (0, Bound::Unbounded);
    loop {
        let entries = page(tables, index.unwrap_or(T::ROWS), from)?;
        let Some((last, _)) = entries.last() else { break };
        from = Bound::Excluded(last.clone());
        for (_, entry) in entries {
            let row = match index {
                None => Some(entry),
                Some(_) => match named(&entry) {
                    Some((_, id)) => tables.get(T::ROWS, &part(&id))?,
                    None => None,
                },
            };
            let Some(row) = row else { continue };
            bytes += row.len();
            if bytes > bytes_max {
                return Ok(Rows { cut: true, ..listed });
            }
            listed.items.extend(codec::decode::<T>(&row).ok());
        }
    }
    listed.cut = tables.len(T::ROWS)? >= ROWS_MAX as u64;
    Ok(listed)
}

/// The names that things of a kind have, the first ones.
pub(super) fn names<T: Item>(tables: &dyn Tables, limit: usize) -> TablesResult<BTreeSet<String>> {
    let (mut names, mut from) = (BTreeSet::new(), Bound::Unbounded);
    let Some(table) = T::NAMES else { return Ok(names) };
    loop {
        let entries = page(tables, table, from)?;
        let Some((last, _)) = entries.last() else { return Ok(names) };
        from = Bound::Excluded(last.clone());
        for (name, _) in entries.iter().filter_map(|(_, entry)| named(entry)) {
            if names.len() >= limit {
                return Ok(names);
            }
            names.insert(name);
        }
    }
}

#[cfg(test)]
#[path = "rows_tests.rs"]
mod tests;
