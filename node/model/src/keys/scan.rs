//! Reads: one key, and pages of keys in order.
//!
//! A page says up to where it looked, so that pages of several groups can be merged: what all of them cover is complete.
//! Invariant: a page has a bounded number of keys and bytes, and takes a bounded time, whatever has expired.

use std::ops::Bound;
use std::sync::Arc;

use bincode::{Decode, Encode};
use longshore_raft::consensus::machine::LogTime;

use super::limits::{
    KEY_BYTES_MAX, KeyError, SCAN_BYTES_MAX, SCAN_EXAMINED_MAX, SCAN_KEYS_MAX, check_key, check_namespace,
};
use super::shard::{Entry, Namespace};
use super::table::Keys;
use super::value::Value;
use crate::partition::PartitionId;

/// A key that was found. The value shares its bytes with the state.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Found {
    pub value: Value,
    pub version: u64,
    /// Time left; None: for ever.
    pub ttl_ms: Option<u64>,
}

/// Which keys of a namespace to list.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Scan {
    pub namespace: String,
    /// Only keys of this partition; else of all that the group carries.
    pub partition: Option<PartitionId>,
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys above this one: [`Page::next`] of the page before.
    pub after: Option<Vec<u8>>,
    /// Most keys, 1 to [`SCAN_KEYS_MAX`].
    pub limit: u32,
    pub with_values: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PageEntry {
    pub key: Arc<[u8]>,
    /// None unless asked for.
    pub value: Option<Value>,
    pub version: u64,
    pub ttl_ms: Option<u64>,
}

/// A part of a scan's result, in key order. It can have fewer keys than asked for, even none, and not be the last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct Page {
    pub entries: Vec<PageEntry>,
    /// All that match up to and including this key are in the page; more may follow. None: this is all there is.
    pub next: Option<Arc<[u8]>>,
}

impl Page {
    /// One page of the pages that groups gave for the same scan, each of other partitions: what all of them cover, in order, at
    /// most `limit` keys (one at least) and [`SCAN_BYTES_MAX`] bytes.
    pub fn merge(pages: Vec<Page>, limit: usize) -> Page {
        let covered = pages.iter().filter_map(|p| p.next.clone()).min();
        let mut entries: Vec<_> = pages.into_iter().flat_map(|p| p.entries).collect();
        entries.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let mut bytes = 0;
        let fits = |(i, entry): (usize, &PageEntry)| {
            bytes += entry.bytes();
            i == 0 || i < limit && bytes <= SCAN_BYTES_MAX
        };
        let full = entries.iter().enumerate().map(fits).take_while(|fits| *fits).count();
        let in_all = entries.partition_point(|e| covered.as_ref().is_none_or(|c| e.key <= *c));
        if full < in_all {
            entries.truncate(full);
            let next = entries.last().map(|e| e.key.clone());
            return Page { entries, next };
        }
        entries.truncate(in_all);
        Page { entries, next: covered }
    }
}

impl PageEntry {
    fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |v| v.len())
    }
}

/// One partition's keys still to be looked at.
struct Cursor<'a> {
    head: (&'a Arc<[u8]>, &'a Entry),
    rest: std::collections::btree_map::Range<'a, Arc<[u8]>, Entry>,
}

impl<'a> Cursor<'a> {
    fn new(namespace: &'a Namespace, from: Bound<&[u8]>) -> Option<Self> {
        let mut rest = namespace.range::<[u8], _>((from, Bound::Unbounded));
        Some(Self { head: rest.next()?, rest })
    }
}

impl Keys {
    /// The key as of `now`, if it exists.
    pub fn get(&self, now: LogTime, namespace: &str, key: &[u8]) -> Result<Option<Found>, KeyError> {
        let found = self.find(now, namespace, key)?;
        Ok(found.map(|e| Found { value: e.value.clone(), version: e.version, ttl_ms: e.ttl_ms(now) }))
    }

    /// The next page of a scan as of `now`: at most `limit` keys and [`SCAN_BYTES_MAX`] bytes of keys and values.
    pub fn scan(&self, now: LogTime, scan: &Scan) -> Result<Page, KeyError> {
        let mut cursors = self.cursors(scan)?;
        let limit = scan.limit as usize;
        let mut page = Page::default();
        let (mut bytes, mut examined) = (0, 0);
        // A group has eight partitions at most: looking at each head costs no more than a heap would.
        while let Some(i) = (0..cursors.len()).min_by_key(|i| cursors[*i].head.0) {
            let (key, entry) = cursors[i].head;
            if page.entries.len() == limit || examined == SCAN_EXAMINED_MAX {
                return Ok(page);
            }
            if entry.is_live(now) {
                let value = scan.with_values.then(|| entry.value.clone());
                let (version, ttl_ms) = (entry.version, entry.ttl_ms(now));
                let found = PageEntry { key: key.clone(), value, version, ttl_ms };
                bytes += found.bytes();
                if bytes > SCAN_BYTES_MAX {
                    assert!(!page.entries.is_empty(), "the limits let any one key into a page");
                    return Ok(page);
                }
                page.entries.push(found);
            }
            examined += 1;
            page.next = Some(key.clone());
            match cursors[i].rest.next() {
                Some(head) if head.0.starts_with(&scan.prefix) => cursors[i].head = head,
                _ => drop(cursors.swap_remove(i)),
            }
        }
        page.next = None;
        Ok(page)
    }

    /// Where the scan is to begin in each partition that has anything.
    fn cursors(&self, scan: &Scan) -> Result<Vec<Cursor<'_>>, KeyError> {
        check_namespace(&scan.namespace)?;
        if scan.prefix.len() > KEY_BYTES_MAX {
            return Err(KeyError::KeyLength { len: scan.prefix.len() as u64 });
        }
        scan.after.as_deref().map_or(Ok(()), check_key)?;
        if !(1..=SCAN_KEYS_MAX).contains(&(scan.limit as usize)) {
            return Err(KeyError::PageLimit { limit: u64::from(scan.limit) });
        }
        let shards = match scan.partition {
            None => &self.shards[..],
            Some(partition) => match self.range.index_of(partition) {
                Some(i) => &self.shards[i..=i],
                None => return Err(KeyError::NotHere { partition }),
            },
        };
        let from = match scan.after.as_deref() {
            Some(after) if after >= scan.prefix.as_slice() => Bound::Excluded(after),
            _ => Bound::Included(scan.prefix.as_slice()),
        };
        let namespaces = shards.iter().filter_map(|s| s.namespace(&scan.namespace));
        let cursors = namespaces.filter_map(|n| Cursor::new(n, from));
        Ok(cursors.filter(|c| c.head.0.starts_with(&scan.prefix)).collect())
    }
}
