//! The keys of one partition, ordered by (namespace, key), with their count and memory.
//!
//! Invariants: `keys` and `bytes` are what the maps hold; no namespace is empty; no entry has a version above `last_version`, nor the
//! version of another entry.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_raft::consensus::machine::LogTime;

use super::limits::{EXPIRY_OVERHEAD_BYTES, KEY_OVERHEAD_BYTES, NAMESPACE_OVERHEAD_BYTES};
use super::value::Value;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) value: Value,
    pub(super) version: u64,
    /// The first moment at which it counts as absent.
    pub(super) expires: Option<LogTime>,
}

impl Entry {
    pub(super) fn is_live(&self, now: LogTime) -> bool {
        self.expires.is_none_or(|at| now < at)
    }

    /// Time left of a live entry.
    pub(super) fn ttl_ms(&self, now: LogTime) -> Option<u64> {
        self.expires.map(|at| at.0.saturating_sub(now.0))
    }
}

/// Memory of an entry, counted.
pub(super) fn entry_bytes(key_len: usize, value_len: usize, expires: bool) -> u64 {
    let index = if expires { EXPIRY_OVERHEAD_BYTES } else { 0 };
    KEY_OVERHEAD_BYTES + index + key_len as u64 + value_len as u64
}

fn namespace_bytes(name: &str) -> u64 {
    NAMESPACE_OVERHEAD_BYTES + name.len() as u64
}

/// Where a key is, sharing its name's bytes with the maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) namespace: Arc<str>,
    pub(super) key: Arc<[u8]>,
}

pub(super) type Namespace = BTreeMap<Arc<[u8]>, Entry>;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shard {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    pub(super) keys: u64,
    pub(super) bytes: u64,
    /// The last version given out. Versions are counted per partition, so that they rise for every key for ever without a trace of
    /// deleted ones; and not taken from the log's index, so that they go on rising should a partition be carried to another log.
    pub(super) last_version: u64,
    /// Commands that changed something.
    pub(super) writes: u64,
}

impl Shard {
    pub(super) fn get(&self, namespace: &str, key: &[u8]) -> Option<&Entry> {
        self.namespaces.get(namespace)?.get(key)
    }

    pub(super) fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    pub(super) fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &Namespace)> {
        self.namespaces.iter()
    }

    /// What [`Self::put`] would add for the namespace itself.
    pub(super) fn namespace_cost(&self, name: &str) -> u64 {
        if self.namespaces.contains_key(name) { 0 } else { namespace_bytes(name) }
    }

    /// Inserts or replaces; gives what was there.
    pub(super) fn put(&mut self, namespace: &str, key: &[u8], entry: Entry) -> (Place, Option<Entry>) {
        assert!(entry.version <= self.last_version, "version {} was not given out", entry.version);
        let namespace = match self.namespaces.get_key_value(namespace) {
            Some((known, _)) => known.clone(),
            None => {
                self.bytes += namespace_bytes(namespace);
                Arc::from(namespace)
            }
        };
        let entries = self.namespaces.entry(namespace.clone()).or_default();
        let key = entries.get_key_value(key).map_or_else(|| Arc::from(key), |(known, _)| Arc::clone(known));
        self.bytes += entry_bytes(key.len(), entry.value.len(), entry.expires.is_some());
        let old = entries.insert(key.clone(), entry);
        match &old {
            Some(old) => self.bytes -= entry_bytes(key.len(), old.value.len(), old.expires.is_some()),
            None => self.keys += 1,
        }
        (Place { namespace, key }, old)
    }

    pub(super) fn remove(&mut self, namespace: &str, key: &[u8]) -> Option<Entry> {
        let entries = self.namespaces.get_mut(namespace)?;
        let old = entries.remove(key)?;
        self.bytes -= entry_bytes(key.len(), old.value.len(), old.expires.is_some());
        self.keys -= 1;
        if entries.is_empty() {
            self.namespaces.remove(namespace);
            self.bytes -= namespace_bytes(namespace);
        }
        Some(old)
    }

    /// Changes when a key expires. None if there is no such key; else its place, version, and when it expired before.
    pub(super) fn set_expiry(
        &mut self,
        namespace: &str,
        key: &[u8],
        expires: Option<LogTime>,
    ) -> Option<(Place, u64, Option<LogTime>)> {
        let (namespace, entries) = self.namespaces.get_key_value(namespace)?;
        let (key, _) = entries.get_key_value(key)?;
        let place = Place { namespace: namespace.clone(), key: key.clone() };
        let entry = self.namespaces.get_mut(&place.namespace)?.get_mut(&place.key)?;
        let before = std::mem::replace(&mut entry.expires, expires);
        let cost = |expires: bool| entry_bytes(place.key.len(), entry.value.len(), expires);
        self.bytes = self.bytes - cost(before.is_some()) + cost(expires.is_some());
        Some((place, entry.version, before))
    }

    /// The next version, given out.
    pub(super) fn next_version(&mut self) -> u64 {
        self.last_version += 1;
        self.last_version
    }
}
