//! Operations in a snapshot: a record for each operation, one for each of its sub-operations, and one at the end.
//!
//! Reading trusts nothing: what breaks an invariant of the table is refused.

use bincode::{Decode, Encode};

use super::record::{Operation, SubOperation};
use super::table::Operations;
use super::upkeep::Kept;
use crate::blocks::{BlockError, BlockReader, BlockWriter};
use crate::partition::PartitionRange;

/// Written with borrowed parts, read with owned ones; the encoding is the same. Part of the format: only ever add at the end.
#[derive(Debug, Encode, Decode)]
enum Record<O, S> {
    /// Without its sub-operations, of which there are `subs`, and with its idempotency key.
    Operation {
        operation: O,
        subs: u32,
        key: Option<[u8; 32]>,
    },
    Sub(S),
    End {
        operations: u64,
    },
    /// A run that is kept up; after all operations.
    Kept(Box<Kept>),
}

type Read = Record<Operation, SubOperation>;

impl Operations {
    pub(crate) fn write(&self, out: &mut BlockWriter) {
        type Written<'a> = Record<Operation, &'a SubOperation>;
        let keys = self.keys_by_id();
        for operation in self.all() {
            let subs = operation.subs.len() as u32;
            let key = keys.get(&operation.id).copied();
            out.record(&Written::Operation { operation: operation.without_subs(), subs, key });
            operation.subs.iter().for_each(|sub| out.record(&Written::Sub(sub)));
        }
        self.kept().for_each(|kept| out.record(&Written::Kept(Box::new(kept.clone()))));
        out.record(&Written::End { operations: self.all().len() as u64 });
    }

    pub(crate) fn read(range: PartitionRange, from: &mut BlockReader<'_>) -> Result<Self, BlockError> {
        let mut operations = Self::default();
        let mut next = || from.record::<Read>()?.ok_or_else(|| invalid("the operations have no end"));
        loop {
            match next()? {
                Record::Operation { mut operation, subs, key } => {
                    for _ in 0..subs {
                        let Record::Sub(sub) = next()? else {
                            return Err(invalid(format!("{} has fewer parts than it should", operation.id)));
                        };
                        operation.subs.push(sub);
                    }
                    if !range.contains(operation.id.partition) {
                        return Err(invalid(format!("{} is of another group", operation.id)));
                    }
                    operations.load(operation, key).map_err(invalid)?;
                }
                Record::Kept(kept) if range.contains(kept.run.partition) => {
                    operations.load_kept(*kept).map_err(invalid)?;
                }
                Record::Kept(kept) => return Err(invalid(format!("{} is of another group", kept.run))),
                Record::Sub(_) => return Err(invalid("a sub-operation is of no operation")),
                Record::End { operations: written } => {
                    let read = operations.all().len() as u64;
                    return match read == written {
                        true => Ok(operations),
                        false => Err(invalid(format!("{read} operations were read, {written} written"))),
                    };
                }
            }
        }
    }
}

fn invalid(why: impl ToString) -> BlockError {
    BlockError::Invalid(why.to_string())
}
