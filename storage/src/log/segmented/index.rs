//! What the durable log holds, and where: the fold of all its records. Pure.
//!
//! The same [`Index::apply`] serves the committer, after each sync, and recovery, so that a restart can not see another
//! log than the running process did. It also counts what is live in each segment.
//!
//! Invariant: an item is live exactly if the index points at it; a segment without live items can be dropped without
//! changing the fold.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::StreamId;
use super::format::Location;
use super::record::{Bounds, Item, Kind, RECORD_HEADER_BYTES, Record, marker_of};
use super::runs::Runs;

#[derive(Debug, Default)]
pub(super) struct Index {
    streams: BTreeMap<StreamId, StreamIndex>,
    tombstones: BTreeMap<StreamId, Location>,
    lost: Option<Location>,
    usage: BTreeMap<u32, Usage>,
}

/// What one stream holds.
#[derive(Debug, Default)]
pub(super) struct StreamIndex {
    pub(super) entries: Runs,
    pub(super) bounds: Option<(Bounds, Location)>,
    pub(super) vote: Option<Location>,
    pub(super) committed: Option<Location>,
}

/// What is live in one segment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) records: u64,
    pub(super) bytes: u64,
}

impl Index {
    pub(super) fn add_segment(&mut self, epoch: u32) {
        let before = self.usage.insert(epoch, Usage::default());
        assert!(before.is_none(), "epoch {epoch} was begun twice");
    }

    pub(super) fn remove_segment(&mut self, epoch: u32) {
        let usage = self.usage.remove(&epoch);
        assert_eq!(usage, Some(Usage::default()), "epoch {epoch} still has live records");
    }

    pub(super) fn usage(&self, epoch: u32) -> Usage {
        self.usage.get(&epoch).copied().unwrap_or_default()
    }

    pub(super) fn stream(&self, stream: StreamId) -> Option<&StreamIndex> {
        self.streams.get(&stream)
    }

    pub(super) fn streams(&self) -> impl Iterator<Item = (StreamId, &StreamIndex)> {
        self.streams.iter().map(|(id, stream)| (*id, stream))
    }

    pub(super) fn tombstones(&self) -> impl Iterator<Item = StreamId> {
        self.tombstones.keys().copied()
    }

    pub(super) fn lost(&self) -> Option<Location> {
        self.lost
    }

    /// Takes the next record of the log.
    pub(super) fn apply(&mut self, item: &Item) {
        if item.kind.has_stream()
            && self.tombstones.contains_key(&item.stream)
            && item.kind != Kind::Tombstone
        {
            return;
        }
        match item.kind {
            Kind::Entry | Kind::Moved => {
                let before = self.stream_mut(item.stream).entries.set(item.index, item.location);
                self.swap(before, item.location);
            }
            Kind::Bounds => self.bound(item),
            Kind::Vote => {
                let before = self.stream_mut(item.stream).vote.replace(item.location);
                self.swap(before, item.location);
            }
            Kind::Committed => {
                let before = self.stream_mut(item.stream).committed.replace(item.location);
                self.swap(before, item.location);
            }
            Kind::Tombstone => self.bury(item),
            Kind::Lost => {
                let before = self.lost.replace(item.location);
                self.swap(before, item.location);
            }
            // Of these the newest segment's count, whatever lives in them.
            Kind::Manifest | Kind::Reclaim => {}
        }
    }

    fn bound(&mut self, item: &Item) {
        let stream = self.streams.entry(item.stream).or_default();
        let before = stream.bounds.replace((item.bounds, item.location));
        let usage = &mut self.usage;
        stream.entries.cut(item.bounds.held, |location| release(usage, location));
        self.swap(before.map(|(_, location)| location), item.location);
    }

    fn bury(&mut self, item: &Item) {
        let before = self.tombstones.insert(item.stream, item.location);
        self.swap(before, item.location);
        if let Some(stream) = self.streams.remove(&item.stream) {
            let small = [stream.bounds.map(|(_, location)| location), stream.vote, stream.committed];
            for location in small.into_iter().flatten().chain(stream.entries.into_locations()) {
                release(&mut self.usage, location);
            }
        }
    }

    fn stream_mut(&mut self, stream: StreamId) -> &mut StreamIndex {
        self.streams.entry(stream).or_default()
    }

    fn swap(&mut self, before: Option<Location>, after: Location) {
        if let Some(before) = before {
            release(&mut self.usage, before);
        }
        let usage = self.usage.get_mut(&after.epoch).expect("a segment is added before its records");
        usage.records += 1;
        usage.bytes += record_bytes(after);
    }

    pub(super) fn is_live(&self, item: &Item) -> bool {
        let location = match item.kind {
            Kind::Tombstone => self.tombstones.get(&item.stream).copied(),
            Kind::Lost => self.lost,
            Kind::Manifest | Kind::Reclaim => None,
            kind => self.streams.get(&item.stream).and_then(|stream| match kind {
                Kind::Bounds => stream.bounds.map(|(_, location)| location),
                Kind::Vote => stream.vote,
                Kind::Committed => stream.committed,
                _ => stream.entries.get(item.index),
            }),
        };
        location == Some(item.location)
    }

    /// The record that says at the end of the log what a live item said where it is.
    pub(super) fn rewritten(&self, item: &Item, payload: Bytes) -> Option<Record> {
        if !self.is_live(item) {
            return None;
        }
        let stream = item.stream;
        Some(match item.kind {
            Kind::Entry | Kind::Moved => Record::Moved { stream, index: item.index, data: payload },
            Kind::Vote => Record::Vote { stream, vote: payload },
            Kind::Committed => Record::Committed { stream, committed: payload },
            Kind::Tombstone => Record::Tombstone { stream },
            Kind::Lost => Record::Lost { streams: super::record::lost_of(&payload)? },
            // What was appended since must not be cut off, what was cut off must stay so: it states what is held now.
            Kind::Bounds => {
                let entries = &self.stream(stream)?.entries;
                let bounds = Bounds { purged: item.bounds.purged, held: entries.first().zip(entries.last()) };
                Record::Bounds { stream, bounds, marker: payload.slice_ref(marker_of(&payload)) }
            }
            Kind::Manifest | Kind::Reclaim => return None,
        })
    }
}

fn release(usage: &mut BTreeMap<u32, Usage>, location: Location) {
    let usage = usage.get_mut(&location.epoch).expect("a segment with live records is never removed");
    usage.records -= 1;
    usage.bytes -= record_bytes(location);
}

fn record_bytes(location: Location) -> u64 {
    RECORD_HEADER_BYTES as u64 + u64::from(location.len)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: StreamId = StreamId { group: 0, replica: 1 };
    const LEN: u32 = 60;

    struct Log {
        index: Index,
        offset: u32,
    }

    impl Log {
        fn new(segments: u32) -> Self {
            let mut index = Index::default();
            (1..=segments).for_each(|epoch| index.add_segment(epoch));
            Self { index, offset: 0 }
        }

        fn put(&mut self, epoch: u32, kind: Kind, index: u64, bounds: Bounds) -> Item {
            self.offset += 100;
            let location = Location { epoch, offset: self.offset, len: LEN };
            let item = Item { kind, stream: A, index, bounds, location };
            self.index.apply(&item);
            item
        }

        fn live(&self, epoch: u32) -> u64 {
            let usage = self.index.usage(epoch);
            assert_eq!(usage.bytes, usage.records * u64::from(RECORD_HEADER_BYTES as u32 + LEN));
            usage.records
        }
    }

    fn bounds(purged: Option<u64>, held: Option<(u64, u64)>) -> Bounds {
        Bounds { purged, held }
    }

    #[test]
    fn entries_live_until_they_are_cut_off_or_moved() {
        let mut log = Log::new(3);
        let entries: Vec<_> =
            (5..10).map(|index| log.put(1, Kind::Entry, index, Bounds::default())).collect();
        assert_eq!(log.live(1), 5);
        log.put(2, Kind::Bounds, 0, bounds(None, Some((5, 7))));
        assert_eq!((log.live(1), log.live(2)), (3, 1));
        assert!(log.index.is_live(&entries[2]) && !log.index.is_live(&entries[3]));
        log.put(2, Kind::Entry, 8, Bounds::default());
        log.put(2, Kind::Bounds, 0, bounds(Some(5), Some((6, 8))));
        assert_eq!((log.live(1), log.live(2)), (2, 2), "the later bounds replace the earlier");
        log.put(3, Kind::Moved, 6, Bounds::default());
        assert_eq!((log.live(1), log.live(3)), (1, 1));
        assert!(!log.index.is_live(&entries[1]));
    }

    #[test]
    fn a_tombstone_leaves_only_itself() {
        let mut log = Log::new(2);
        log.put(1, Kind::Entry, 1, Bounds::default());
        log.put(1, Kind::Vote, 0, Bounds::default());
        log.put(1, Kind::Committed, 0, Bounds::default());
        log.put(1, Kind::Bounds, 0, bounds(Some(0), Some((1, 1))));
        let tombstone = log.put(2, Kind::Tombstone, 0, Bounds::default());
        log.put(2, Kind::Vote, 0, Bounds::default());
        assert_eq!((log.live(1), log.live(2)), (0, 1));
        assert!(log.index.is_live(&tombstone) && log.index.stream(A).is_none());
        log.index.remove_segment(1);
    }

    #[test]
    fn bounds_are_rewritten_for_what_is_held_now() {
        let mut log = Log::new(1);
        log.put(1, Kind::Entry, 5, Bounds::default());
        let item = log.put(1, Kind::Bounds, 0, bounds(Some(4), Some((5, 5))));
        log.put(1, Kind::Entry, 6, Bounds::default());
        let payload = Bytes::from_static(b"\x03\x05\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0marker");
        let expect = Record::Bounds {
            stream: A,
            bounds: bounds(Some(4), Some((5, 6))),
            marker: Bytes::from_static(b"marker"),
        };
        assert_eq!(log.index.rewritten(&item, payload.clone()), Some(expect));
        log.put(1, Kind::Bounds, 0, bounds(Some(5), Some((6, 6))));
        assert_eq!(log.index.rewritten(&item, payload), None, "it no longer counts");
    }

    #[test]
    #[should_panic(expected = "still has live records")]
    fn a_segment_with_live_records_is_not_removed() {
        let mut log = Log::new(1);
        log.put(1, Kind::Vote, 0, Bounds::default());
        log.index.remove_segment(1);
    }
}
