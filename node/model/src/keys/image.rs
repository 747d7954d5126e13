//! Keys in a snapshot: one record for each partition, namespace and key, in order, and one at the end.
//!
//! Reading trusts nothing: order, versions, limits and totals are checked, since state that breaks an invariant would fail
//! much later, and on every replica at once.

use bincode::{Decode, Encode};
use longshore_raft::consensus::machine::LogTime;

use super::limits::{GROUP_BYTES_MAX, check_key, check_namespace, check_value};
use super::shard::Entry;
use super::table::Keys;
use super::value::Value;
use crate::blocks::{BlockError, BlockReader, BlockWriter};
use crate::partition::{PartitionId, PartitionRange, partition_of};

/// Written with borrowed parts, read with owned ones; the encoding is the same. Part of the format: only ever add at the end.
#[derive(Debug, Encode, Decode)]
enum Record<N, K, V> {
    Partition { partition: PartitionId, last_version: u64, writes: u64 },
    Namespace { name: N },
    Key { key: K, value: V, version: u64, expires: Option<LogTime> },
    End { keys: u64 },
}

type Read = Record<String, Vec<u8>, Value>;

impl Keys {
    pub(crate) fn write(&self, out: &mut BlockWriter) {
        type Written<'a> = Record<&'a str, &'a [u8], &'a Value>;
        for (partition, shard) in self.range.iter().zip(&self.shards) {
            let (last_version, writes) = (shard.last_version, shard.writes);
            out.record(&Written::Partition { partition, last_version, writes });
            for (name, entries) in shard.namespaces() {
                out.record(&Written::Namespace { name });
                for (key, e) in entries {
                    let (version, expires) = (e.version, e.expires);
                    out.record(&Written::Key { key, value: &e.value, version, expires });
                }
            }
        }
        out.record(&Written::End { keys: self.shards.iter().map(|s| s.keys).sum() });
    }

    pub(crate) fn read(range: PartitionRange, from: &mut BlockReader<'_>) -> Result<Self, BlockError> {
        let mut keys = Self::new(range);
        let mut shards_seen = 0;
        let mut namespace: Option<String> = None;
        let mut last_key: Option<Vec<u8>> = None;
        loop {
            let record = from.record::<Read>()?.ok_or_else(|| invalid("the keys have no end"))?;
            match record {
                Record::Partition { partition, last_version, writes } => {
                    if shards_seen == keys.shards.len() || partition != range.at(shards_seen) {
                        return Err(invalid(format!("partition {partition} is out of place")));
                    }
                    let shard = &mut keys.shards[shards_seen];
                    (shard.last_version, shard.writes) = (last_version, writes);
                    shards_seen += 1;
                    (namespace, last_key) = (None, None);
                }
                Record::Namespace { name } => {
                    check_namespace(&name).map_err(invalid)?;
                    if shards_seen == 0 || namespace.as_ref().is_some_and(|n| *n >= name) {
                        return Err(invalid(format!("namespace {name} is out of place")));
                    }
                    (namespace, last_key) = (Some(name), None);
                }
                Record::Key { key, value, version, expires } => {
                    let Some(namespace) = &namespace else {
                        return Err(invalid("a key is in no namespace"));
                    };
                    if last_key.as_ref().is_some_and(|k| *k >= key) {
                        return Err(invalid("keys are out of order"));
                    }
                    keys.load(shards_seen - 1, namespace, &key, Entry { value, version, expires })?;
                    last_key = Some(key);
                }
                Record::End { keys: counted } => {
                    let loaded: u64 = keys.shards.iter().map(|s| s.keys).sum();
                    if counted != loaded || shards_seen != keys.shards.len() {
                        return Err(invalid(format!("{loaded} keys were read, {counted} written")));
                    }
                    return Ok(keys);
                }
            }
        }
    }

    /// Adds an entry that was read.
    fn load(&mut self, shard: usize, namespace: &str, key: &[u8], entry: Entry) -> Result<(), BlockError> {
        check_key(key).map_err(invalid)?;
        check_value(&entry.value).map_err(invalid)?;
        let partition = self.range.at(shard);
        if partition_of(key) != partition {
            return Err(invalid(format!("a key of {} is in {partition}", partition_of(key))));
        }
        let (version, expires) = (entry.version, entry.expires);
        let shard = &mut self.shards[shard];
        if version == 0 || version > shard.last_version {
            return Err(invalid(format!("version {version} is above the partition's last")));
        }
        let before = shard.bytes;
        let (place, _) = shard.put(namespace, key, entry);
        self.bytes = self.bytes - before + shard.bytes;
        if self.bytes > GROUP_BYTES_MAX {
            return Err(invalid(format!("more than {GROUP_BYTES_MAX} bytes of keys")));
        }
        if let Some(at) = expires
            && self.expiries.insert((at, partition, version), place).is_some()
        {
            return Err(invalid(format!("two keys have version {version}")));
        }
        Ok(())
    }
}

fn invalid(why: impl ToString) -> BlockError {
    BlockError::Invalid(why.to_string())
}
