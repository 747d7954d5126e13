//! The index footer behind a sealed segment: its records without their payloads, so that recovery reads kilobytes
//! instead of the segment. Pure.
//!
//! Invariant: a footer is written only after all batches of its segment were durable, and never while the segment
//! may still take one. So a segment with a valid footer has no torn tail, and is never written to again.

use std::collections::BTreeMap;

use super::super::StreamId;
use super::batch::{LastBatch, Previous};
use super::bloom::{BLOOM_BYTES, Bloom};
use super::format::{BLOCK_BYTES, Cursor, Location, Position, crc_seed, padded, put_varint};
use super::record::{Bounds, Item, Kind};

const MAGIC: u32 = u32::from_le_bytes(*b"LSFT");
pub(super) const FOOTER_HEADER_BYTES: usize = 192;
/// Where the header's fixed fields end and the filter of the last batch starts.
const BLOOM_OFFSET: usize = FOOTER_HEADER_BYTES - BLOOM_BYTES;
/// A varint of a 64-bit number has at most ten bytes; an item has a kind, flags and at most six of them.
#[cfg(test)]
const MAX_ITEM_BYTES: usize = 2 + 6 * 10;

/// Collects the items of a segment while it is being filled; about ten bytes for each.
#[derive(Debug, Default)]
pub(super) struct FooterBuilder {
    streams: BTreeMap<StreamId, u64>,
    table: Vec<u8>,
    items: Vec<u8>,
    count: u32,
    last_offset: u32,
}

impl FooterBuilder {
    /// Items come in the order of their offsets.
    pub(super) fn add(&mut self, item: &Item) {
        let offset = item.location.offset;
        assert!(self.count == 0 || offset > self.last_offset, "items come in order");
        self.items.push(item.kind as u8);
        if item.kind.has_stream() {
            let next = self.streams.len() as u64;
            let number = *self.streams.entry(item.stream).or_insert_with(|| {
                self.table.extend(item.stream.group.to_le_bytes());
                self.table.extend(item.stream.replica.to_le_bytes());
                next
            });
            put_varint(&mut self.items, number);
        }
        put_varint(&mut self.items, u64::from(offset - self.last_offset));
        put_varint(&mut self.items, u64::from(item.location.len));
        if has_index(item.kind) {
            put_varint(&mut self.items, item.index);
        }
        if item.kind == Kind::Bounds {
            let Bounds { purged, held } = item.bounds;
            self.items.push(u8::from(purged.is_some()) + 2 * u8::from(held.is_some()));
            let ends = held.into_iter().flat_map(|(first, last)| [first, last]);
            purged.into_iter().chain(ends).for_each(|index| put_varint(&mut self.items, index));
        }
        self.last_offset = offset;
        self.count += 1;
    }

    /// The footer's bytes, whole blocks, to be written at `segment_bytes`. `last` is the segment's last batch, if it is
    /// readable.
    pub(super) fn finish(&self, epoch: u32, segment_bytes: u32, last: Option<LastBatch>) -> Vec<u8> {
        let body_len = self.table.len() + self.items.len();
        let mut bytes = Vec::with_capacity(FOOTER_HEADER_BYTES + body_len + BLOCK_BYTES as usize);
        let seed = crc_seed(Position { epoch, offset: segment_bytes });
        let body_crc = crc32c::crc32c_append(crc32c::crc32c_append(seed, &self.table), &self.items);
        bytes.extend(MAGIC.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u64::from(epoch).to_le_bytes());
        bytes.extend(last.map_or(0, |last| last.sequence).to_le_bytes());
        bytes.extend(last.map_or(0, |last| last.as_previous.position.offset).to_le_bytes());
        bytes.extend((self.streams.len() as u32).to_le_bytes());
        bytes.extend(self.count.to_le_bytes());
        bytes.extend((body_len as u32).to_le_bytes());
        bytes.extend(body_crc.to_le_bytes());
        bytes.resize(BLOOM_OFFSET, 0);
        bytes.extend(last.map_or(Bloom::EMPTY, |last| last.as_previous.streams).as_bytes());
        let crc = crc32c::crc32c_append(seed, &bytes[8..]);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        bytes.extend_from_slice(&self.table);
        bytes.extend_from_slice(&self.items);
        bytes.resize(padded(bytes.len() as u32) as usize, 0);
        bytes
    }
}

/// The fixed part of a footer; says how much more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FooterHeader {
    epoch: u32,
    segment_bytes: u32,
    pub(super) last: Option<LastBatch>,
    stream_count: u32,
    item_count: u32,
    pub(super) body_len: u32,
    body_crc: u32,
}

impl FooterHeader {
    /// `None` if there is no footer of this epoch.
    pub(super) fn decode(bytes: &[u8], epoch: u32, segment_bytes: u32) -> Option<Self> {
        let bytes = bytes.get(..FOOTER_HEADER_BYTES)?;
        let seed = crc_seed(Position { epoch, offset: segment_bytes });
        let mut cursor = Cursor(bytes);
        if cursor.u32()? != MAGIC || cursor.u32()? != crc32c::crc32c_append(seed, &bytes[8..]) {
            return None;
        }
        if cursor.u64()? != u64::from(epoch) {
            return None;
        }
        let (sequence, offset) = (cursor.u64()?, cursor.u32()?);
        let streams = Bloom::from_bytes(Cursor(&bytes[BLOOM_OFFSET..]).array()?);
        let as_previous = Previous { position: Position { epoch, offset }, streams };
        let last = (offset != 0).then_some(LastBatch { sequence, as_previous });
        let (stream_count, item_count) = (cursor.u32()?, cursor.u32()?);
        let (body_len, body_crc) = (cursor.u32()?, cursor.u32()?);
        Some(Self { epoch, segment_bytes, last, stream_count, item_count, body_len, body_crc })
    }

    /// The items of the footer whose body this is; `None` if it is damaged.
    pub(super) fn items(&self, body: &[u8]) -> Option<Vec<Item>> {
        let body = body.get(..self.body_len as usize)?;
        let seed = crc_seed(Position { epoch: self.epoch, offset: self.segment_bytes });
        if crc32c::crc32c_append(seed, body) != self.body_crc {
            return None;
        }
        let mut cursor = Cursor(body);
        // Each takes bytes of the body, so that neither count allocates more than a small multiple of it.
        let mut streams = Vec::with_capacity((self.stream_count as usize).min(body.len() / 12));
        for _ in 0..self.stream_count {
            streams.push(StreamId { group: cursor.u32()?, replica: cursor.u64()? });
        }
        let mut items = Vec::with_capacity((self.item_count as usize).min(body.len() / 3));
        let mut offset = 0u32;
        for _ in 0..self.item_count {
            let item = self.item(&mut cursor, &streams, offset)?;
            offset = item.location.offset;
            items.push(item);
        }
        cursor.0.is_empty().then_some(items)
    }

    fn item(&self, cursor: &mut Cursor<'_>, streams: &[StreamId], after: u32) -> Option<Item> {
        let kind = Kind::from_u8(cursor.u8()?)?;
        let stream = if kind.has_stream() {
            *streams.get(usize::try_from(cursor.varint()?).ok()?)?
        } else {
            StreamId { group: 0, replica: 0 }
        };
        let offset = after.checked_add(u32::try_from(cursor.varint()?).ok()?)?;
        let len = u32::try_from(cursor.varint()?).ok()?;
        let index = if has_index(kind) { cursor.varint()? } else { 0 };
        let mut bounds = Bounds::default();
        if kind == Kind::Bounds {
            let flags = cursor.u8()?;
            if flags & 1 != 0 {
                bounds.purged = Some(cursor.varint()?);
            }
            if flags & 2 != 0 {
                bounds.held = Some((cursor.varint()?, cursor.varint()?));
            }
        }
        let location = Location { epoch: self.epoch, offset, len };
        Some(Item { kind, stream, index, bounds, location })
    }
}

fn has_index(kind: Kind) -> bool {
    matches!(kind, Kind::Entry | Kind::Moved | Kind::Reclaim)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EPOCH: u32 = 6;
    const SEGMENT_BYTES: u32 = 1 << 20;
    const LAST: LastBatch = LastBatch {
        sequence: 99,
        as_previous: Previous { position: Position { epoch: EPOCH, offset: 8192 }, streams: Bloom::ALL },
    };

    fn items() -> impl Strategy<Value = Vec<Item>> {
        let bounds = (any::<Option<u64>>(), any::<Option<(u64, u64)>>());
        let one = (1u8..=9, 0u64..5, any::<u64>(), bounds, 1u32..10_000, any::<u16>());
        proptest::collection::vec(one, 0..50).prop_map(|raw| {
            let mut offset = 0;
            let item = |(kind, replica, index, (purged, held), step, len): (_, _, _, _, _, u16)| {
                offset += step;
                let kind = Kind::from_u8(kind).unwrap();
                let replica = if kind.has_stream() { replica } else { 0 };
                Item {
                    kind,
                    stream: StreamId { group: 0, replica },
                    index: if has_index(kind) { index } else { 0 },
                    bounds: if kind == Kind::Bounds { Bounds { purged, held } } else { Bounds::default() },
                    location: Location { epoch: EPOCH, offset, len: len.into() },
                }
            };
            raw.into_iter().map(item).collect()
        })
    }

    fn footer(items: &[Item]) -> Vec<u8> {
        let mut builder = FooterBuilder::default();
        items.iter().for_each(|item| builder.add(item));
        builder.finish(EPOCH, SEGMENT_BYTES, Some(LAST))
    }

    fn read(bytes: &[u8]) -> Option<(Option<LastBatch>, Vec<Item>)> {
        let header = FooterHeader::decode(bytes, EPOCH, SEGMENT_BYTES)?;
        Some((header.last, header.items(bytes.get(FOOTER_HEADER_BYTES..)?)?))
    }

    proptest! {
        #[test]
        fn a_footer_is_read_back(items in items()) {
            let bytes = footer(&items);
            prop_assert!(bytes.len() <= items.len() * (MAX_ITEM_BYTES + 12) + 2 * BLOCK_BYTES as usize);
            prop_assert_eq!(bytes.len() % BLOCK_BYTES as usize, 0);
            prop_assert_eq!(read(&bytes), Some((Some(LAST), items)));
        }

        #[test]
        fn any_flipped_bit_outside_the_padding_is_seen(items in items(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = footer(&items);
            let header = FooterHeader::decode(&bytes, EPOCH, SEGMENT_BYTES).unwrap();
            let len = FOOTER_HEADER_BYTES + header.body_len as usize;
            bytes[at.index(len)] ^= 1 << bit;
            prop_assert_eq!(read(&bytes), None);
        }

        #[test]
        fn a_footer_of_another_epoch_is_none(items in items(), epoch in 0u32..20) {
            prop_assume!(epoch != EPOCH);
            prop_assert_eq!(FooterHeader::decode(&footer(&items), epoch, SEGMENT_BYTES), None);
        }

        // With right checksums, so that the checks behind them are reached.
        #[test]
        fn well_summed_garbage_never_panics(body: Vec<u8>, stream_count: u32, item_count: u32) {
            let seed = crc_seed(Position { epoch: EPOCH, offset: SEGMENT_BYTES });
            let header = FooterHeader {
                epoch: EPOCH,
                segment_bytes: SEGMENT_BYTES,
                last: None,
                stream_count: stream_count % 3,
                item_count,
                body_len: body.len() as u32,
                body_crc: crc32c::crc32c_append(seed, &body),
            };
            header.items(&body);
            read(&body);
        }
    }
}
