//! How operations are recorded in tables, and found again. Calls block.
//!
//! A record's key begins with the time at which its operation was submitted, so that the oldest are first and a listing reads only what it is asked for.

use std::ops::Bound;

use bincode::{Decode, Encode};
use longshore_model::codec;
use longshore_model::operations::{Listing, Operation, OperationId};
use longshore_model::partition::PartitionId;
use longshore_storage::tables::{Batch, Scan, Table, Tables, TablesResult, VALUE_BYTES_MAX};

/// Operations by time and id.
const OPERATIONS: Table = Table::new("operations");
/// The time of each, by id.
const TIMES: Table = Table::new("times");
/// First byte of a record.
const RECORD_VERSION: u8 = 3;

/// Most operations that a node records; the oldest go first.
pub(super) const RECORDS_MAX: u64 = 100_000;
/// Most operations in a page, and about the most bytes of them: the first may have more.
pub(super) const PAGE_OPERATIONS_MAX: usize = 256;
const PAGE_BYTES_MAX: usize = 1 << 20;
/// Most records that are looked at for one page.
const PAGE_LOOKS_MAX: usize = 4_096;
/// Records that are read, and removed, at a time.
const SCAN_ROWS: usize = 256;
const SCAN_BYTES: usize = 1 << 20;
/// A batch is applied when it has so many changes or bytes.
const BATCH_CHANGES: usize = 1_024;
const BATCH_BYTES: usize = 4 << 20;

/// An operation's place in listings, newest last: when it was submitted, and its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(crate) struct Moment {
    pub(crate) unix_ms: u64,
    pub(crate) id: OperationId,
}

impl Moment {
    pub(crate) fn of(operation: &Operation) -> Self {
        Self { unix_ms: operation.submitted_unix_ms, id: operation.id }
    }

    fn key(self) -> Vec<u8> {
        [&self.unix_ms.to_be_bytes()[..], &id_key(self.id)].concat()
    }

    fn read(key: &[u8]) -> Option<Self> {
        let (unix_ms, rest) = key.split_first_chunk()?;
        let (index, rest) = rest.split_first_chunk()?;
        let (position, rest) = rest.split_first_chunk()?;
        let [partition] = rest else { return None };
        let id = OperationId {
            index: u64::from_be_bytes(*index),
            position: u32::from_be_bytes(*position),
            partition: PartitionId(*partition),
        };
        Some(Self { unix_ms: u64::from_be_bytes(*unix_ms), id })
    }
}

/// In the order of ids.
fn id_key(id: OperationId) -> Vec<u8> {
    [&id.index.to_be_bytes()[..], &id.position.to_be_bytes(), &[id.partition.0]].concat()
}

fn encoded(operation: &Operation) -> Vec<u8> {
    let mut bytes = vec![RECORD_VERSION];
    codec::encode_into(operation, &mut bytes);
    bytes
}

/// None if another release wrote it: then it is as if it were not there.
fn decoded(record: &[u8]) -> Option<Operation> {
    match record.split_first() {
        Some((&RECORD_VERSION, operation)) => codec::decode(operation).ok(),
        _ => None,
    }
}

/// Records ended operations, those that are not there yet; how many these are.
pub(super) fn record(tables: &dyn Tables, operations: &[Operation]) -> TablesResult<usize> {
    let (mut batch, mut new) = (Batch::default(), 0);
    for operation in operations {
        let moment = Moment::of(operation);
        let key = moment.key();
        if tables.get(OPERATIONS, &key)?.is_some_and(|record| record.first() == Some(&RECORD_VERSION)) {
            continue;
        }
        let record = encoded(operation);
        if record.len() > VALUE_BYTES_MAX {
            tracing::warn!(operation = %operation.id, bytes = record.len(), "an operation is too large for the history");
            continue;
        }
        if batch.len() >= BATCH_CHANGES || batch.bytes() + record.len() > BATCH_BYTES {
            tables.apply(&std::mem::take(&mut batch))?;
        }
        batch.put(TIMES, id_key(operation.id), moment.unix_ms.to_be_bytes());
        batch.put(OPERATIONS, key, record);
        new += 1;
    }
    tables.apply(&batch)?;
    Ok(new)
}

pub(super) fn find(tables: &dyn Tables, id: OperationId) -> TablesResult<Option<Operation>> {
    let Some(unix_ms) = tables.get(TIMES, &id_key(id))?.and_then(|time| time.try_into().ok()) else {
        return Ok(None);
    };
    let moment = Moment { unix_ms: u64::from_be_bytes(unix_ms), id };
    Ok(tables.get(OPERATIONS, &moment.key())?.and_then(|record| decoded(&record)))
}

/// Part of a listing, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Page {
    pub(crate) operations: Vec<Operation>,
    /// Where the next page begins; none if there is none. A page may be empty and not be the last.
    pub(crate) next: Option<Moment>,
}

/// The operations that a listing asks for, from `before` on.
pub(super) fn page(tables: &dyn Tables, listing: &Listing, before: Option<Moment>) -> TablesResult<Page> {
    let limit = PAGE_OPERATIONS_MAX.min(listing.limit as usize);
    let (mut page, mut bytes, mut looks) = (Page { operations: Vec::new(), next: before }, 0, 0);
    loop {
        let scan = Scan {
            from: Bound::Included(listing.since_unix_ms.to_be_bytes().to_vec()),
            to: page.next.map_or(Bound::Unbounded, |before| Bound::Excluded(before.key())),
            backward: true,
            limit: SCAN_ROWS,
            bytes: SCAN_BYTES,
            ..Scan::all(OPERATIONS)
        };
        let rows = tables.scan(&scan)?;
        if rows.is_empty() || page.operations.len() >= limit {
            let is_last = rows.is_empty() || limit == 0;
            return Ok(if is_last { Page { next: None, ..page } } else { page });
        }
        for (key, record) in rows {
            let wanted = decoded(&record).filter(|operation| listing.wants(operation));
            if wanted.is_some() {
                let is_full = bytes + record.len() > PAGE_BYTES_MAX && !page.operations.is_empty();
                if is_full || page.operations.len() >= limit {
                    return Ok(page);
                }
                bytes += record.len();
            }
            page.operations.extend(wanted);
            // A key that is none of ours is passed over.
            page.next = Moment::read(&key).or(page.next);
            looks += 1;
        }
        if looks >= PAGE_LOOKS_MAX {
            return Ok(page);
        }
    }
}

/// Removes the records of operations that were submitted before a moment, and the oldest of those beyond `records_max`; how many these were.
pub(super) fn prune(tables: &dyn Tables, before_unix_ms: u64, records_max: u64) -> TablesResult<u64> {
    let mut removed = 0;
    loop {
        let surplus = tables.len(OPERATIONS)?.saturating_sub(records_max);
        let rows = tables.scan(&Scan { limit: SCAN_ROWS, bytes: SCAN_BYTES, ..Scan::all(OPERATIONS) })?;
        let mut batch = Batch::default();
        let mut count = 0;
        for (key, _) in rows {
            let moment = Moment::read(&key);
            if moment.is_some_and(|moment| moment.unix_ms >= before_unix_ms) && count >= surplus {
                break;
            }
            if let Some(moment) = moment {
                batch.delete(TIMES, id_key(moment.id));
            }
            batch.delete(OPERATIONS, key);
            count += 1;
        }
        if count == 0 {
            return Ok(removed);
        }
        tables.apply(&batch)?;
        removed += count;
    }
}

/// How many operations are recorded.
pub(super) fn count(tables: &dyn Tables) -> TablesResult<u64> {
    tables.len(OPERATIONS)
}
