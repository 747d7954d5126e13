//! Batches: what one write and one sync make durable together. Pure.
//!
//! A batch is a 192-byte header, its records, and zeros up to a block boundary. At most one batch at a time is not yet
//! durable, so a batch proves that the one before it, whose start it names, was acknowledged (`FORMAT.md`, "Torn tail or
//! rot"). A batch counts only if all of it is whole.

use super::super::StreamId;
use super::bloom::{BLOOM_BYTES, Bloom};
use super::format::{Cursor, Position, crc_seed, padded};
use super::record::{Decoded, Item, Kind, RECORD_HEADER_BYTES, Record, decode};

pub(super) const BATCH_HEADER_BYTES: usize = 192;
const MAGIC: u32 = u32::from_le_bytes(*b"LSBT");
/// Where the header's fixed fields end and the filter starts.
const BLOOM_OFFSET: usize = BATCH_HEADER_BYTES - BLOOM_BYTES;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) position: Position,
    /// Counts batches over the whole life of the log.
    pub(super) sequence: u64,
    pub(super) previous: Option<Previous>,
    pub(super) body_len: u32,
    pub(super) record_count: u32,
}

/// The batch before, durable when this one was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Previous {
    pub(super) position: Position,
    /// Streams that it touched.
    pub(super) streams: Bloom,
}

/// The last batch of a segment or of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastBatch {
    pub(super) sequence: u64,
    /// What the next batch says of it.
    pub(super) as_previous: Previous,
}

impl BatchHeader {
    /// Where the next batch starts, if it is in the same segment.
    pub(super) fn end(&self) -> u32 {
        padded(self.position.offset + BATCH_HEADER_BYTES as u32 + self.body_len)
    }

    fn encode_into(&self, out: &mut [u8]) {
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u64::from(self.position.epoch).to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        let before = self.previous.map(|previous| previous.position);
        bytes.extend(before.map_or(0, |before| u64::from(before.epoch)).to_le_bytes());
        bytes.extend(before.map_or(0, |before| before.offset).to_le_bytes());
        bytes.extend(self.body_len.to_le_bytes());
        bytes.extend(self.record_count.to_le_bytes());
        bytes.resize(BLOOM_OFFSET, 0);
        bytes.extend(self.previous.map_or(Bloom::EMPTY, |previous| previous.streams).as_bytes());
        let crc = crc32c::crc32c_append(crc_seed(self.position), &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        out.copy_from_slice(&bytes);
    }

    /// Reads the header at the front of `bytes`. `segment_bytes` bounds the batch.
    pub(super) fn decode(bytes: &[u8], position: Position, segment_bytes: u32) -> Option<Self> {
        let bytes = bytes.get(..BATCH_HEADER_BYTES)?;
        let mut cursor = Cursor(bytes);
        if cursor.u32()? != MAGIC {
            return None;
        }
        if cursor.u32()? != crc32c::crc32c_append(crc_seed(position), &bytes[8..]) {
            return None;
        }
        if !is_of_use(cursor.u64()?, position) {
            return None;
        }
        let sequence = cursor.u64()?;
        let before = Position { epoch: u32::try_from(cursor.u64()?).ok()?, offset: cursor.u32()? };
        let (body_len, record_count) = (cursor.u32()?, cursor.u32()?);
        let streams = Bloom::from_bytes(Cursor(&bytes[BLOOM_OFFSET..]).array()?);
        // No batch starts at offset 0: a header is there.
        let previous = (before.offset != 0).then_some(Previous { position: before, streams });
        let room = segment_bytes.checked_sub(position.offset)?.checked_sub(BATCH_HEADER_BYTES as u32)?;
        let header = Self { position, sequence, previous, body_len, record_count };
        (body_len <= room && record_count as usize * RECORD_HEADER_BYTES <= body_len as usize)
            .then_some(header)
    }
}

/// Whether a batch was written for the present use of its file.
fn is_of_use(epoch: u64, position: Position) -> bool {
    crate::mutant!("resurrect-recycled-bytes" => return true);
    epoch == u64::from(position.epoch)
}

/// The records of a batch's body; after a damaged header, `Err` and the end.
#[derive(Debug)]
pub(super) struct Records<'a> {
    body: &'a [u8],
    position: Position,
    left: u32,
}

/// A record's header is damaged, so neither it nor what follows in its batch can be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RecordsEnd {
    pub(super) offset: u32,
}

impl<'a> Records<'a> {
    /// `bytes` starts at the batch's header.
    pub(super) fn new(header: &BatchHeader, bytes: &'a [u8]) -> Self {
        let body = bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default();
        let body = &body[..body.len().min(header.body_len as usize)];
        let offset = header.position.offset + BATCH_HEADER_BYTES as u32;
        let position = Position { epoch: header.position.epoch, offset };
        Self { body, position, left: header.record_count }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Decoded<'a>, RecordsEnd>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.left == 0 {
            return None;
        }
        let Some(decoded) = decode(self.body, self.position) else {
            self.left = 0;
            return Some(Err(RecordsEnd { offset: self.position.offset }));
        };
        let len = RECORD_HEADER_BYTES + decoded.item.location.len as usize;
        self.body = &self.body[len..];
        self.position.offset += len as u32;
        self.left -= 1;
        Some(Ok(decoded))
    }
}

/// A batch being put together. Its buffer is used again.
#[derive(Debug)]
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
    items: Vec<Item>,
    streams: Bloom,
    position: Position,
}

/// Bytes of buffer that are kept from one batch to the next; a larger one was for a large entry.
const BUFFER_KEPT_BYTES: usize = 4 << 20;

impl BatchBuilder {
    pub(super) fn new() -> Self {
        let position = Position { epoch: 0, offset: 0 };
        let mut builder = Self { bytes: Vec::new(), items: Vec::new(), streams: Bloom::EMPTY, position };
        builder.begin(position);
        builder
    }

    /// Starts over, for a batch at `position`.
    pub(super) fn begin(&mut self, position: Position) {
        self.bytes.clear();
        self.bytes.shrink_to(BUFFER_KEPT_BYTES);
        self.bytes.resize(BATCH_HEADER_BYTES, 0);
        self.items.clear();
        self.streams = Bloom::EMPTY;
        self.position = position;
    }

    pub(super) fn push(&mut self, record: &Record) {
        let offset = self.position.offset + self.bytes.len() as u32;
        let item = record.encode(&mut self.bytes, Position { offset, ..self.position });
        if let Some(stream) = record.stream() {
            self.streams.insert(stream);
        }
        self.items.push(item);
    }

    /// Bytes so far, header included, without padding.
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has no records but perhaps the segment's manifest.
    pub(super) fn has_no_content(&self) -> bool {
        self.items.iter().all(|item| item.kind == Kind::Manifest)
    }

    pub(super) fn items(&self) -> &[Item] {
        &self.items
    }

    /// What the next batch says of this one.
    pub(super) fn as_previous(&self) -> Previous {
        Previous { position: self.position, streams: self.streams }
    }

    /// Writes the header; returns all bytes, whole blocks.
    pub(super) fn finish(&mut self, sequence: u64, previous: Option<Previous>) -> &[u8] {
        let body_len = (self.bytes.len() - BATCH_HEADER_BYTES) as u32;
        let record_count = self.items.len() as u32;
        let header = BatchHeader { position: self.position, sequence, previous, body_len, record_count };
        header.encode_into(&mut self.bytes[..BATCH_HEADER_BYTES]);
        let len = padded(self.bytes.len() as u32) as usize;
        self.bytes.resize(len, 0);
        &self.bytes
    }
}

/// The filter of the streams of some records.
pub(super) fn streams_of(streams: impl Iterator<Item = StreamId>) -> Bloom {
    let mut bloom = Bloom::EMPTY;
    streams.for_each(|stream| bloom.insert(stream));
    bloom
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::log::segmented::format::{BLOCK_BYTES, DATA_START};

    const STREAM: StreamId = StreamId { group: 3, replica: 9 };
    const AT: Position = Position { epoch: 5, offset: DATA_START };
    const BEFORE: Previous = Previous { position: Position { epoch: 4, offset: 4096 }, streams: Bloom::ALL };
    const SEGMENT_BYTES: u32 = 1 << 20;

    fn batch(payloads: &[usize]) -> Vec<u8> {
        let mut builder = BatchBuilder::new();
        builder.begin(AT);
        for (index, len) in payloads.iter().enumerate() {
            let data = Bytes::from(vec![index as u8; *len]);
            builder.push(&Record::Entry { stream: STREAM, index: index as u64, data });
        }
        builder.finish(17, Some(BEFORE)).to_vec()
    }

    #[test]
    fn a_batch_is_read_back() {
        let bytes = batch(&[10, 0, 5000]);
        assert_eq!(bytes.len(), 2 * BLOCK_BYTES as usize);
        let header = BatchHeader::decode(&bytes, AT, SEGMENT_BYTES).unwrap();
        assert_eq!((header.sequence, header.previous), (17, Some(BEFORE)));
        assert_eq!(header.end(), DATA_START + 2 * BLOCK_BYTES);
        let lens: Vec<_> =
            Records::new(&header, &bytes).map(|record| record.unwrap().payload.unwrap().len()).collect();
        assert_eq!(lens, [10, 0, 5000]);
    }

    #[test]
    fn a_batch_is_only_valid_in_its_place_and_within_its_segment() {
        let bytes = batch(&[10]);
        assert!(BatchHeader::decode(&bytes, Position { epoch: 6, ..AT }, SEGMENT_BYTES).is_none());
        assert!(BatchHeader::decode(&bytes, Position { offset: 0, ..AT }, SEGMENT_BYTES).is_none());
        assert!(BatchHeader::decode(&bytes, AT, DATA_START + 200).is_none());
        assert!(BatchHeader::decode(&bytes[..191], AT, SEGMENT_BYTES).is_none());
    }

    #[test]
    fn after_a_damaged_record_header_nothing_more_is_read() {
        let mut bytes = batch(&[10, 10, 10]);
        let second = BATCH_HEADER_BYTES + RECORD_HEADER_BYTES + 10;
        bytes[second + 20] ^= 1;
        let header = BatchHeader::decode(&bytes, AT, SEGMENT_BYTES).unwrap();
        let mut records = Records::new(&header, &bytes);
        assert!(records.next().unwrap().is_ok());
        let offset = DATA_START + second as u32;
        assert_eq!(records.next(), Some(Err(RecordsEnd { offset })));
        assert_eq!(records.next(), None);
    }

    proptest! {
        #[test]
        fn any_flipped_bit_outside_the_padding_is_seen(
            payloads in proptest::collection::vec(0usize..300, 1..8),
            at: prop::sample::Index,
            bit in 0u8..8,
        ) {
            let mut bytes = batch(&payloads);
            let len = BATCH_HEADER_BYTES + payloads.iter().map(|len| len + RECORD_HEADER_BYTES).sum::<usize>();
            bytes[at.index(len)] ^= 1 << bit;
            let whole = BatchHeader::decode(&bytes, AT, SEGMENT_BYTES)
                .is_some_and(|header| Records::new(&header, &bytes).all(|record| record.is_ok_and(|r| r.payload.is_ok())));
            prop_assert!(!whole);
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, body_len: u32, record_count: u32) {
            prop_assert_eq!(BatchHeader::decode(&bytes, AT, SEGMENT_BYTES), None);
            let header = BatchHeader { position: AT, sequence: 0, previous: None, body_len: body_len % 5000, record_count };
            prop_assert!(Records::new(&header, &bytes).count() <= 1);
        }
    }
}
