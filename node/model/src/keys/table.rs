//! All keys of a group, over its partitions: commands, expiry, accounting. O(log n) for each key touched.
//!
//! Invariants: `bytes` is the sum over the shards and at most [`GROUP_BYTES_MAX`]; `expiries` has exactly the entries that expire; a key
//! is in the partition that its hash says, and there only. Nothing is decided by anything but state, command, and log time.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::consensus::machine::LogTime;

use super::command::{Condition, KeyCommand, KeyReply, Lifetime};
use super::limits::{
    GROUP_BYTES_MAX, KeyError, SWEEP_KEYS_MAX, check_key, check_namespace, check_ttl, check_value,
};
use super::shard::{Entry, Place, Shard, entry_bytes};
use super::value::Value;
use crate::partition::{PartitionId, PartitionRange, partition_of};

/// When, in which partition, and (since versions are unique in it) which entry.
pub(super) type ExpiryKey = (LogTime, PartitionId, u64);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    pub(super) range: PartitionRange,
    /// One for each partition of `range`, in order.
    pub(super) shards: Vec<Shard>,
    pub(super) expiries: BTreeMap<ExpiryKey, Place>,
    pub(super) bytes: u64,
}

/// The key that a command or read is about, and when.
#[derive(Debug, Clone, Copy)]
struct Target<'a> {
    now: LogTime,
    shard: usize,
    namespace: &'a str,
    key: &'a [u8],
}

impl Target<'_> {
    fn bytes(&self, value_len: usize, expires: Option<LogTime>) -> u64 {
        entry_bytes(self.key.len(), value_len, expires.is_some())
    }
}

/// Figures of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct PartitionStats {
    pub partition: PartitionId,
    /// Expired ones included until they are swept.
    pub keys: u64,
    /// Memory, counted; see [`KEY_OVERHEAD_BYTES`](super::limits::KEY_OVERHEAD_BYTES).
    pub bytes: u64,
    /// Commands that changed something, ever.
    pub writes: u64,
}

/// Figures of a group's keys.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct KeyStats {
    pub keys: u64,
    pub bytes: u64,
    pub writes: u64,
    /// Keys that have a time to live.
    pub expiring: u64,
    pub partitions: Vec<PartitionStats>,
}

impl Keys {
    pub fn new(range: PartitionRange) -> Self {
        let shards = range.iter().map(|_| Shard::default()).collect();
        Self { range, shards, expiries: BTreeMap::new(), bytes: 0 }
    }

    /// Applies a command that was sent to `partition`.
    pub fn apply(
        &mut self,
        now: LogTime,
        partition: PartitionId,
        command: KeyCommand,
    ) -> Result<KeyReply, KeyError> {
        let condition = command.condition();
        let shard = self.index_of(partition, command.namespace(), command.key())?;
        match command {
            KeyCommand::Set { namespace, key, value, lifetime, .. } => {
                check_value(&value)?;
                let target = Target { now, shard, namespace: &namespace, key: &key };
                self.set(target, value, lifetime, condition)
            }
            KeyCommand::Delete { namespace, key, .. } => {
                self.delete(Target { now, shard, namespace: &namespace, key: &key }, condition)
            }
            KeyCommand::Expire { namespace, key, ttl_ms, .. } => {
                self.expire(Target { now, shard, namespace: &namespace, key: &key }, ttl_ms, condition)
            }
        }
    }

    /// Which shard holds a key, if `partition` is the key's own and one of this group's.
    fn index_of(&self, partition: PartitionId, namespace: &str, key: &[u8]) -> Result<usize, KeyError> {
        check_namespace(namespace)?;
        check_key(key)?;
        let owner = partition_of(key);
        let index = self.range.index_of(owner).filter(|_| owner == partition);
        index.ok_or(KeyError::WrongPartition { addressed: partition, owner })
    }

    /// The entry that is stored, expired or not.
    fn stored(&self, at: Target<'_>) -> Option<&Entry> {
        self.shards[at.shard].get(at.namespace, at.key)
    }

    fn live(&self, at: Target<'_>) -> Option<&Entry> {
        self.stored(at).filter(|e| e.is_live(at.now))
    }

    fn set(
        &mut self,
        at: Target<'_>,
        value: Value,
        lifetime: Lifetime,
        condition: Condition,
    ) -> Result<KeyReply, KeyError> {
        if let Lifetime::ForMs(ttl_ms) = lifetime {
            check_ttl(ttl_ms)?;
        }
        let live = self.live(at);
        let replaced = live.map(|e| e.version);
        require(condition, replaced)?;
        let expires = match lifetime {
            Lifetime::Forever => None,
            Lifetime::Keep => live.and_then(|e| e.expires),
            Lifetime::ForMs(ttl_ms) => Some(after(at.now, ttl_ms)),
        };
        let freed = self.stored(at).map_or(0, |e| at.bytes(e.value.len(), e.expires));
        let needed = at.bytes(value.len(), expires) + self.shards[at.shard].namespace_cost(at.namespace);
        self.require_room(needed, freed)?;

        let version = self.shards[at.shard].next_version();
        let entry = Entry { value, version, expires };
        let ttl_ms = entry.ttl_ms(at.now);
        let (place, old) = self.change(at.shard, |s| s.put(at.namespace, at.key, entry));
        if let Some(old) = old {
            self.unindex(at.shard, old.expires, old.version);
        }
        self.index(at.shard, expires, version, place);
        Ok(KeyReply::Set { version, replaced, ttl_ms })
    }

    fn delete(&mut self, at: Target<'_>, condition: Condition) -> Result<KeyReply, KeyError> {
        let current = self.live(at).map(|e| e.version);
        require(condition, current)?;
        if current.is_none() {
            return Ok(KeyReply::Deleted { version: None });
        }
        let version = self.shards[at.shard].next_version();
        let old = self.change(at.shard, |s| s.remove(at.namespace, at.key)).expect("it was found above");
        self.unindex(at.shard, old.expires, old.version);
        Ok(KeyReply::Deleted { version: Some(version) })
    }

    fn expire(
        &mut self,
        at: Target<'_>,
        ttl_ms: Option<u64>,
        condition: Condition,
    ) -> Result<KeyReply, KeyError> {
        ttl_ms.map_or(Ok(()), check_ttl)?;
        let live = self.live(at);
        require(condition, live.map(|e| e.version))?;
        let Some(live) = live else { return Err(KeyError::NotFound) };
        let expires = ttl_ms.map(|ttl_ms| after(at.now, ttl_ms));
        self.require_room(at.bytes(live.value.len(), expires), at.bytes(live.value.len(), live.expires))?;

        let changed = self.change(at.shard, |s| s.set_expiry(at.namespace, at.key, expires));
        let (place, version, before) = changed.expect("it was found above");
        self.unindex(at.shard, before, version);
        self.index(at.shard, expires, version, place);
        Ok(KeyReply::Expires { version, ttl_ms })
    }

    /// Removes keys that have expired by `now`, the longest expired first: at most `keys_max`, and never more than
    /// [`SWEEP_KEYS_MAX`]. Gives how many.
    pub fn sweep(&mut self, now: LogTime, keys_max: u32) -> u32 {
        let keys_max = keys_max.min(SWEEP_KEYS_MAX);
        let mut removed = 0;
        while removed < keys_max
            && let Some(first) = self.expiries.first_entry()
            && first.key().0 <= now
        {
            let ((_, partition, version), place) = first.remove_entry();
            let shard = self.range.index_of(partition).expect("the index has this group's keys only");
            let before = self.shards[shard].bytes;
            let old = self.shards[shard].remove(&place.namespace, &place.key);
            assert_eq!(old.map(|e| e.version), Some(version), "the index by time names another entry");
            self.bytes = self.bytes - before + self.shards[shard].bytes;
            removed += 1;
        }
        removed
    }

    /// When the next key expires: from then on [`Self::sweep`] has something to do.
    pub fn next_expiry(&self) -> Option<LogTime> {
        self.expiries.first_key_value().map(|((at, ..), _)| *at)
    }

    /// O(partitions).
    pub fn stats(&self) -> KeyStats {
        let of = |(partition, s): (PartitionId, &Shard)| PartitionStats {
            partition,
            keys: s.keys,
            bytes: s.bytes,
            writes: s.writes,
        };
        let partitions: Vec<_> = self.range.iter().zip(&self.shards).map(of).collect();
        KeyStats {
            keys: partitions.iter().map(|p| p.keys).sum(),
            bytes: self.bytes,
            writes: partitions.iter().map(|p| p.writes).sum(),
            expiring: self.expiries.len() as u64,
            partitions,
        }
    }

    fn require_room(&self, needed: u64, freed: u64) -> Result<(), KeyError> {
        // What shrinks is let in always; it could only be over the limit if the limit had been lowered.
        if needed <= freed || self.bytes - freed + needed <= GROUP_BYTES_MAX {
            return Ok(());
        }
        Err(KeyError::Full { used_bytes: self.bytes, needed_bytes: needed - freed })
    }

    /// Changes a shard, counting the write and the bytes.
    fn change<T>(&mut self, shard: usize, change: impl FnOnce(&mut Shard) -> T) -> T {
        let shard = &mut self.shards[shard];
        let before = shard.bytes;
        let result = change(shard);
        shard.writes += 1;
        self.bytes = self.bytes - before + shard.bytes;
        result
    }

    fn index(&mut self, shard: usize, expires: Option<LogTime>, version: u64, place: Place) {
        let Some(at) = expires else { return };
        let earlier = self.expiries.insert((at, self.range.at(shard), version), place);
        assert!(earlier.is_none(), "version {version} was given out twice");
    }

    fn unindex(&mut self, shard: usize, expires: Option<LogTime>, version: u64) {
        let Some(at) = expires else { return };
        let known = self.expiries.remove(&(at, self.range.at(shard), version));
        assert!(known.is_some(), "an expiring entry was not in the index by time");
    }

    /// The live entry of a key, for reads.
    pub(super) fn find(&self, now: LogTime, namespace: &str, key: &[u8]) -> Result<Option<&Entry>, KeyError> {
        let shard = self.index_of(partition_of(key), namespace, key)?;
        Ok(self.live(Target { now, shard, namespace, key }))
    }
}

fn require(condition: Condition, current: Option<u64>) -> Result<(), KeyError> {
    if condition.holds(current) { Ok(()) } else { Err(KeyError::ConditionFailed { condition, current }) }
}

/// Saturates: a moment beyond the end of log time never comes.
fn after(now: LogTime, ttl_ms: u64) -> LogTime {
    LogTime(now.0.saturating_add(ttl_ms))
}
