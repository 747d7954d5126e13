//! A long encoding as a chain of checksummed blocks of records, so that it can be written and read piece by piece.
//!
//! Format: a prefix of the caller's (its version); blocks; a block without records. A block is a little-endian u32 length, a hash of 16
//! bytes, and that many bytes of records. The hash is blake3 over the hash before it (the first: of the prefix) and the
//! records: a block that is damaged, missing, repeated or out of order does not fit.
//!
//! Invariants: reading never panics and never allocates more than [`RECORD_BYTES_MAX`] for one record, whatever the bytes say.

use bincode::{Decode, Encode};

use crate::codec;

/// Bytes of records after which a block is closed: large against its header, small enough to be handled at once.
pub const BLOCK_BYTES: usize = 64 << 10;
/// Most bytes of one record: twice the largest value, see `keys::limits::VALUE_BYTES_MAX`.
pub const RECORD_BYTES_MAX: usize = 2 << 20;
const HASH_BYTES: usize = 16;
const HEADER_BYTES: usize = 4 + HASH_BYTES;

/// Why blocks can not be read. Nothing can be done but to get them from elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    #[error("block {0} is damaged")]
    Damaged(u64),
    #[error("cut short in block {0}")]
    CutShort(u64),
    #[error("{0} bytes are left over after the last block")]
    TrailingBytes(usize),
    /// The bytes are what was written, but not what should have been.
    #[error("{0}")]
    Invalid(String),
}

type Hash = [u8; HASH_BYTES];

fn chain(previous: &Hash, records: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(previous).update(records);
    let mut hash = Hash::default();
    hash.copy_from_slice(&hasher.finalize().as_bytes()[..HASH_BYTES]);
    hash
}

/// Writes blocks into memory, each record encoded in its place.
#[derive(Debug)]
pub struct BlockWriter {
    out: Vec<u8>,
    /// Where the header of the open block is.
    header: usize,
    last: Hash,
}

impl BlockWriter {
    /// Begins after `prefix`, which the first block is bound to.
    pub fn new(prefix: &[u8]) -> Self {
        let mut writer = Self { out: prefix.to_vec(), header: 0, last: chain(&Hash::default(), prefix) };
        writer.open();
        writer
    }

    /// Adds a record of at most [`RECORD_BYTES_MAX`] bytes.
    pub fn record<T: Encode>(&mut self, record: &T) {
        let start = self.out.len();
        codec::encode_into(record, &mut self.out);
        let len = self.out.len() - start;
        assert!(len > 0 && len <= RECORD_BYTES_MAX, "a record of {len} bytes could not be read again");
        if self.out.len() - self.header - HEADER_BYTES >= BLOCK_BYTES {
            self.close();
            self.open();
        }
    }

    /// Everything written, with its end marked.
    pub fn finish(mut self) -> Vec<u8> {
        if self.out.len() > self.header + HEADER_BYTES {
            self.close();
            self.open();
        }
        self.close();
        self.out
    }

    fn open(&mut self) {
        self.header = self.out.len();
        self.out.extend([0; HEADER_BYTES]);
    }

    fn close(&mut self) {
        let (header, records) = self.out[self.header..].split_at_mut(HEADER_BYTES);
        let len = u32::try_from(records.len()).expect("a block is closed long before 4 GiB");
        self.last = chain(&self.last, records);
        header[..4].copy_from_slice(&len.to_le_bytes());
        header[4..].copy_from_slice(&self.last);
    }
}

/// Reads what [`BlockWriter`] wrote.
#[derive(Debug)]
pub struct BlockReader<'a> {
    rest: &'a [u8],
    /// Records of the open block that were not read yet.
    records: &'a [u8],
    last: Hash,
    /// Number of the open block, from 1.
    block: u64,
    ended: bool,
}

impl<'a> BlockReader<'a> {
    /// `bytes` are what follows the prefix.
    pub fn new(prefix: &[u8], bytes: &'a [u8]) -> Self {
        Self { rest: bytes, records: &[], last: chain(&Hash::default(), prefix), block: 0, ended: false }
    }

    /// The next record; None after the last, when nothing is left over.
    pub fn record<T: Decode<()>>(&mut self) -> Result<Option<T>, BlockError> {
        if self.records.is_empty() && !self.ended {
            self.open()?;
        }
        if self.ended {
            return Ok(None);
        }
        let (record, used) = codec::decode_first::<T, RECORD_BYTES_MAX>(self.records)
            .map_err(|e| BlockError::Invalid(format!("block {}: {e}", self.block)))?;
        if used == 0 {
            return Err(BlockError::Invalid("a record has no bytes".into()));
        }
        self.records = &self.records[used..];
        Ok(Some(record))
    }

    fn open(&mut self) -> Result<(), BlockError> {
        self.block += 1;
        let cut_short = BlockError::CutShort(self.block);
        let (len, rest) = self.rest.split_first_chunk::<4>().ok_or(cut_short.clone())?;
        let (hash, rest) = rest.split_first_chunk::<HASH_BYTES>().ok_or(cut_short.clone())?;
        let len = u32::from_le_bytes(*len) as usize;
        let (records, rest) = rest.split_at_checked(len).ok_or(cut_short)?;
        if chain(&self.last, records) != *hash {
            return Err(BlockError::Damaged(self.block));
        }
        self.last = *hash;
        (self.records, self.rest) = (records, rest);
        self.ended = records.is_empty();
        if self.ended && !rest.is_empty() {
            return Err(BlockError::TrailingBytes(rest.len()));
        }
        Ok(())
    }
}

/// One block of these records, whatever they are, and the end: what only a faulty writer could have written.
#[cfg(test)]
pub(crate) fn seal(prefix: &[u8], records: &[u8]) -> Vec<u8> {
    let mut writer = BlockWriter::new(prefix);
    writer.out.extend(records);
    writer.finish()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(records: &[Vec<u8>]) -> Vec<u8> {
        let mut writer = BlockWriter::new(b"v1");
        records.iter().for_each(|r| writer.record(r));
        writer.finish()
    }

    fn read(bytes: &[u8]) -> Result<Vec<Vec<u8>>, BlockError> {
        let (prefix, rest) = bytes.split_at_checked(2).ok_or(BlockError::CutShort(0))?;
        let mut reader = BlockReader::new(prefix, rest);
        std::iter::from_fn(|| reader.record().transpose()).collect()
    }

    /// Three blocks: sizes around the limit of one.
    fn sample() -> Vec<Vec<u8>> {
        vec![vec![1; 10], vec![2; BLOCK_BYTES], vec![3; BLOCK_BYTES / 2], vec![], vec![4; BLOCK_BYTES]]
    }

    #[test]
    fn what_was_written_is_read() {
        for records in [vec![], vec![vec![]], sample()] {
            assert_eq!(read(&write(&records)), Ok(records));
        }
        let mut reader = BlockReader::new(b"v1", &[]);
        assert_eq!(reader.record::<u8>(), Err(BlockError::CutShort(1)));
    }

    #[test]
    fn blocks_do_not_fit_elsewhere() {
        let bytes = write(&sample());
        let len =
            |at: usize| HEADER_BYTES + u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let first = 2..2 + len(2);
        let second = first.end..first.end + len(first.end);
        let join = |parts: &[&[u8]]| parts.concat();
        let (one, two) = (&bytes[first.clone()], &bytes[second.clone()]);
        let end = &bytes[second.end..];
        assert_eq!(read(&join(&[b"v1", two, end])), Err(BlockError::Damaged(1)), "missing");
        assert_eq!(read(&join(&[b"v1", two, one, end])), Err(BlockError::Damaged(1)), "swapped");
        assert_eq!(read(&join(&[b"v1", one, one, two, end])), Err(BlockError::Damaged(2)), "repeated");
        assert_eq!(read(&join(&[b"v1", one])), Err(BlockError::CutShort(2)), "cut between blocks");
        assert_eq!(read(&join(&[b"v2", one, two, end])), Err(BlockError::Damaged(1)), "another prefix");
        assert_eq!(read(&join(&[&bytes, b"x"])), Err(BlockError::TrailingBytes(1)));
    }

    #[test]
    fn a_length_that_lies_allocates_no_more_than_a_record() {
        let mut writer = BlockWriter::new(b"v1");
        writer.record(&(100u64 << 20));
        let bytes = writer.finish();
        let Err(BlockError::Invalid(why)) = read(&bytes) else { panic!("100 MiB were believed") };
        assert!(why.contains("LimitExceeded"), "{why}");
    }

    proptest! {
        #[test]
        fn any_change_is_found(flip in any::<(prop::sample::Index, u8)>(), cut in any::<prop::sample::Index>()) {
            let bytes = write(&sample());
            let mut flipped = bytes.clone();
            let at = flip.0.index(bytes.len());
            flipped[at] ^= flip.1.max(1);
            prop_assert!(read(&flipped).is_err());
            prop_assert!(read(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }
}
