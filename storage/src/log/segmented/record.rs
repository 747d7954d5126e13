//! The records of the log and their encoding. Pure.
//!
//! A record is a 40-byte header and a payload. The header's checksum covers the payload's, so that rot in a payload
//! still leaves known which stream it hits.
//!
//! What records mean when replayed in order (the proof that segments may be dropped and records moved is in
//! `FORMAT.md`, "Replay"):
//! - `Entry` and `Moved` say where the entry of an index is; the later one wins;
//! - `Bounds` says which indexes, of all that came before it, are still held;
//! - of `Vote`, `Committed`, `Bounds`, the latest of a stream counts; `Tombstone` ends it.

use bytes::Bytes;

use super::super::{MAX_ENTRY_BYTES, MAX_RECORD_META_BYTES, StreamId};
use super::bloom::{BLOOM_BYTES, Bloom};
use super::format::{Cursor, Location, Position, crc_seed};

pub(super) const RECORD_HEADER_BYTES: usize = 40;
/// Flags, first and last index in front of the marker of a `Bounds` record.
const BOUNDS_BYTES: usize = 17;
const HAS_PURGED: u8 = 1;
const HAS_HELD: u8 = 2;
/// Most segments that a manifest lists; with 64 MiB segments, 256 GiB of log.
pub(super) const MAX_SEGMENTS: usize = 4096;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// An entry that was appended.
    Entry = 1,
    /// An entry copied from an older segment.
    Moved = 2,
    Bounds = 3,
    Vote = 4,
    Committed = 5,
    Tombstone = 6,
    /// The segments that were live when this one was begun; first record of each segment.
    Manifest = 7,
    /// A segment, named by `index`, has nothing live left.
    Reclaim = 8,
    /// Streams that may have lost acknowledged records to rot.
    Lost = 9,
}

impl Kind {
    pub(super) fn from_u8(byte: u8) -> Option<Self> {
        use Kind::*;
        [Entry, Moved, Bounds, Vote, Committed, Tombstone, Manifest, Reclaim, Lost]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }

    /// Whether it belongs to a stream, not to the log itself.
    pub(super) fn has_stream(self) -> bool {
        !matches!(self, Self::Manifest | Self::Reclaim | Self::Lost)
    }

    fn max_len(self) -> usize {
        match self {
            Self::Entry | Self::Moved => MAX_ENTRY_BYTES,
            Self::Bounds => BOUNDS_BYTES + MAX_RECORD_META_BYTES,
            Self::Vote | Self::Committed => MAX_RECORD_META_BYTES,
            Self::Tombstone | Self::Reclaim => 0,
            Self::Manifest => MAX_SEGMENTS * 8,
            Self::Lost => BLOOM_BYTES,
        }
    }
}

/// What a stream still holds of what was written before. Both ends are stated, always: a moved record stands far behind the
/// truncation it was written for, with entries before it that the truncation had cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bounds {
    pub(super) purged: Option<u64>,
    /// The first and the last index held.
    pub(super) held: Option<(u64, u64)>,
}

/// A record to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Record {
    Entry { stream: StreamId, index: u64, data: Bytes },
    Moved { stream: StreamId, index: u64, data: Bytes },
    Bounds { stream: StreamId, bounds: Bounds, marker: Bytes },
    Vote { stream: StreamId, vote: Bytes },
    Committed { stream: StreamId, committed: Bytes },
    Tombstone { stream: StreamId },
    Manifest { epochs: Vec<u32> },
    Reclaim { epoch: u32 },
    Lost { streams: Bloom },
}

/// What replay needs of a record; the payload stays on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub(super) kind: Kind,
    /// Zero for the log's own records.
    pub(super) stream: StreamId,
    /// The index of an entry, the epoch of a reclaim, else zero.
    pub(super) index: u64,
    /// Of a `Bounds` record.
    pub(super) bounds: Bounds,
    pub(super) location: Location,
}

const NO_STREAM: StreamId = StreamId { group: 0, replica: 0 };

impl Record {
    /// It does not have to become durable.
    pub(super) fn is_hint(&self) -> bool {
        matches!(self, Self::Committed { .. })
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Entry { .. } => Kind::Entry,
            Self::Moved { .. } => Kind::Moved,
            Self::Bounds { .. } => Kind::Bounds,
            Self::Vote { .. } => Kind::Vote,
            Self::Committed { .. } => Kind::Committed,
            Self::Tombstone { .. } => Kind::Tombstone,
            Self::Manifest { .. } => Kind::Manifest,
            Self::Reclaim { .. } => Kind::Reclaim,
            Self::Lost { .. } => Kind::Lost,
        }
    }

    pub(super) fn stream(&self) -> Option<StreamId> {
        match self {
            Self::Entry { stream, .. }
            | Self::Moved { stream, .. }
            | Self::Bounds { stream, .. }
            | Self::Vote { stream, .. }
            | Self::Committed { stream, .. }
            | Self::Tombstone { stream } => Some(*stream),
            Self::Manifest { .. } | Self::Reclaim { .. } | Self::Lost { .. } => None,
        }
    }

    /// Bytes that the record takes on disk.
    pub(super) fn encoded_len(&self) -> usize {
        RECORD_HEADER_BYTES
            + match self {
                Self::Entry { data, .. } | Self::Moved { data, .. } => data.len(),
                Self::Bounds { marker, .. } => BOUNDS_BYTES + marker.len(),
                Self::Vote { vote: bytes, .. } | Self::Committed { committed: bytes, .. } => bytes.len(),
                Self::Tombstone { .. } | Self::Reclaim { .. } => 0,
                Self::Manifest { epochs } => epochs.len() * 8,
                Self::Lost { .. } => BLOOM_BYTES,
            }
    }

    /// Appends the record to `out`; it will be at `position` of the log.
    pub(super) fn encode(&self, out: &mut Vec<u8>, position: Position) -> Item {
        let start = out.len();
        out.resize(start + RECORD_HEADER_BYTES, 0);
        let mut bounds = Bounds::default();
        let index = match self {
            Self::Entry { index, data, .. } | Self::Moved { index, data, .. } => {
                out.extend_from_slice(data);
                *index
            }
            Self::Bounds { bounds: of_stream, marker, .. } => {
                bounds = *of_stream;
                let flags = u8::from(bounds.purged.is_some()) * HAS_PURGED
                    + u8::from(bounds.held.is_some()) * HAS_HELD;
                let (first, last) = bounds.held.unwrap_or_default();
                out.push(flags);
                out.extend(first.to_le_bytes());
                out.extend(last.to_le_bytes());
                out.extend_from_slice(marker);
                bounds.purged.unwrap_or(0)
            }
            Self::Vote { vote: bytes, .. } | Self::Committed { committed: bytes, .. } => {
                out.extend_from_slice(bytes);
                0
            }
            Self::Tombstone { .. } => 0,
            Self::Manifest { epochs } => {
                epochs.iter().for_each(|epoch| out.extend(u64::from(*epoch).to_le_bytes()));
                0
            }
            Self::Reclaim { epoch } => u64::from(*epoch),
            Self::Lost { streams } => {
                out.extend(streams.as_bytes());
                0
            }
        };
        let stream = self.stream().unwrap_or(NO_STREAM);
        let (header, payload) = out[start..].split_at_mut(RECORD_HEADER_BYTES);
        let len = u32::try_from(payload.len()).expect("records are limited to far below 4 GiB");
        assert!(payload.len() <= self.kind().max_len(), "the limits were checked when the record was taken");
        let seed = crc_seed(position);
        header[4..8].copy_from_slice(&crc32c::crc32c_append(seed, payload).to_le_bytes());
        header[8] = self.kind() as u8;
        header[12..16].copy_from_slice(&stream.group.to_le_bytes());
        header[16..24].copy_from_slice(&stream.replica.to_le_bytes());
        header[24..32].copy_from_slice(&index.to_le_bytes());
        header[32..36].copy_from_slice(&len.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &header[4..]);
        header[..4].copy_from_slice(&crc.to_le_bytes());
        let location = Location { epoch: position.epoch, offset: position.offset, len };
        let index = if self.kind() == Kind::Bounds { 0 } else { index };
        Item { kind: self.kind(), stream, index, bounds, location }
    }
}

/// A record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded<'a> {
    /// `bounds` is only right if the payload is.
    pub(super) item: Item,
    pub(super) payload: Result<&'a [u8], PayloadRot>,
}

/// The header is whole, the payload is not.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PayloadRot;

/// Reads the record at the front of `bytes`; `None` if its header is damaged.
pub(super) fn decode(bytes: &[u8], position: Position) -> Option<Decoded<'_>> {
    let header = bytes.get(..RECORD_HEADER_BYTES)?;
    let seed = crc_seed(position);
    let mut cursor = Cursor(header);
    if cursor.u32()? != crc32c::crc32c_append(seed, &header[4..]) {
        return None;
    }
    let payload_crc = cursor.u32()?;
    let kind = Kind::from_u8(cursor.u8()?)?;
    cursor.bytes(3)?;
    let stream = StreamId { group: cursor.u32()?, replica: cursor.u64()? };
    let index = cursor.u64()?;
    let len = cursor.u32()?;
    if len as usize > kind.max_len() {
        return None;
    }
    let payload = bytes[RECORD_HEADER_BYTES..].get(..len as usize)?;
    let location = Location { epoch: position.epoch, offset: position.offset, len };
    let mut item = Item { kind, stream, index, bounds: Bounds::default(), location };
    if crc32c::crc32c_append(seed, payload) != payload_crc {
        return Some(Decoded { item, payload: Err(PayloadRot) });
    }
    if kind == Kind::Bounds {
        let mut cursor = Cursor(payload);
        let flags = cursor.u8()?;
        let held = (cursor.u64()?, cursor.u64()?);
        let purged = (flags & HAS_PURGED != 0).then_some(index);
        item.bounds = Bounds { purged, held: (flags & HAS_HELD != 0).then_some(held) };
        item.index = 0;
    }
    Some(Decoded { item, payload: Ok(payload) })
}

/// The purge marker in the payload of a `Bounds` record.
pub(super) fn marker_of(payload: &[u8]) -> &[u8] {
    payload.get(BOUNDS_BYTES..).unwrap_or_default()
}

/// The epochs in the payload of a `Manifest` record.
pub(super) fn manifest_of(payload: &[u8]) -> Option<Vec<u32>> {
    payload.chunks(8).map(|chunk| u32::try_from(Cursor(chunk).u64()?).ok()).collect()
}

/// The filter in the payload of a `Lost` record.
pub(super) fn lost_of(payload: &[u8]) -> Option<Bloom> {
    payload.try_into().ok().map(Bloom::from_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams() -> impl Strategy<Value = StreamId> {
        (any::<u32>(), any::<u64>()).prop_map(|(group, replica)| StreamId { group, replica })
    }

    fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..=max).prop_map(Bytes::from)
    }

    fn records() -> impl Strategy<Value = Record> {
        let bounds = (any::<Option<u64>>(), any::<Option<(u64, u64)>>())
            .prop_map(|(purged, held)| Bounds { purged, held });
        prop_oneof![
            (streams(), any::<u64>(), bytes(300)).prop_map(|(stream, index, data)| Record::Entry {
                stream,
                index,
                data
            }),
            (streams(), any::<u64>(), bytes(300)).prop_map(|(stream, index, data)| Record::Moved {
                stream,
                index,
                data
            }),
            (streams(), bounds, bytes(100)).prop_map(|(stream, bounds, marker)| Record::Bounds {
                stream,
                bounds,
                marker
            }),
            (streams(), bytes(100)).prop_map(|(stream, vote)| Record::Vote { stream, vote }),
            (streams(), bytes(100)).prop_map(|(stream, committed)| Record::Committed { stream, committed }),
            streams().prop_map(|stream| Record::Tombstone { stream }),
            proptest::collection::vec(any::<u32>(), 0..20).prop_map(|epochs| Record::Manifest { epochs }),
            any::<u32>().prop_map(|epoch| Record::Reclaim { epoch }),
            streams().prop_map(|stream| {
                let mut streams = Bloom::EMPTY;
                streams.insert(stream);
                Record::Lost { streams }
            }),
        ]
    }

    fn positions() -> impl Strategy<Value = Position> {
        (any::<u32>(), any::<u32>()).prop_map(|(epoch, offset)| Position { epoch, offset })
    }

    fn check_payload(record: &Record, payload: &[u8]) {
        match record {
            Record::Entry { data: bytes, .. }
            | Record::Moved { data: bytes, .. }
            | Record::Vote { vote: bytes, .. }
            | Record::Committed { committed: bytes, .. } => assert_eq!(payload, bytes),
            Record::Bounds { marker, .. } => assert_eq!(marker_of(payload), marker),
            Record::Manifest { epochs } => assert_eq!(manifest_of(payload).as_ref(), Some(epochs)),
            Record::Lost { streams } => assert_eq!(lost_of(payload), Some(*streams)),
            Record::Tombstone { .. } | Record::Reclaim { .. } => assert!(payload.is_empty()),
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_back(record in records(), position in positions(), before: Vec<u8>, after: Vec<u8>) {
            let mut out = before.clone();
            let item = record.encode(&mut out, position);
            prop_assert_eq!(out.len(), before.len() + record.encoded_len());
            out.extend(&after);
            let decoded = decode(&out[before.len()..], position).expect("it was just written");
            prop_assert_eq!(decoded.item, item);
            check_payload(&record, decoded.payload.expect("it was just written"));
        }

        #[test]
        fn a_record_is_only_valid_in_its_place(record in records(), position in positions(), step in 1u32..) {
            let mut out = Vec::new();
            record.encode(&mut out, position);
            let epoch = position.epoch.wrapping_add(step);
            let offset = position.offset.wrapping_add(step);
            prop_assert_eq!(decode(&out, Position { epoch, ..position }), None);
            prop_assert_eq!(decode(&out, Position { offset, ..position }), None);
        }

        #[test]
        fn one_flipped_bit_is_seen(record in records(), position in positions(), at: prop::sample::Index, bit in 0u8..8) {
            let mut out = Vec::new();
            let item = record.encode(&mut out, position);
            let at = at.index(out.len());
            out[at] ^= 1 << bit;
            match decode(&out, position) {
                None => prop_assert!(at < RECORD_HEADER_BYTES),
                Some(decoded) => {
                    prop_assert!(at >= RECORD_HEADER_BYTES);
                    prop_assert_eq!(decoded.payload, Err(PayloadRot));
                    prop_assert_eq!((decoded.item.kind, decoded.item.stream), (item.kind, item.stream));
                }
            }
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, position in positions()) {
            prop_assert_eq!(decode(&bytes, position), None);
            manifest_of(&bytes);
            lost_of(&bytes);
            marker_of(&bytes);
        }

        // With a right checksum, so that the checks behind it are reached.
        #[test]
        fn well_summed_garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 40..200), kind in 0u8..12) {
            let position = Position { epoch: 1, offset: 2 };
            let len = bytes.len() - RECORD_HEADER_BYTES;
            bytes[8] = kind;
            if bytes[9] & 1 == 0 {
                bytes[32..36].copy_from_slice(&(len as u32).to_le_bytes());
            }
            let seed = crc_seed(position);
            let crc = crc32c::crc32c_append(seed, &bytes[40..]);
            bytes[4..8].copy_from_slice(&crc.to_le_bytes());
            let crc = crc32c::crc32c_append(seed, &bytes[4..40]);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            if let Some(decoded) = decode(&bytes, position) {
                prop_assert!(decoded.item.location.len as usize <= len);
            }
        }
    }
}
