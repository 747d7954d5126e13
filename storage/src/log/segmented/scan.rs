//! Reads a segment batch by batch, and judges what it can not read.
//!
//! The question at each unreadable place is whether it was acknowledged. It was if anything proves that the log went on
//! behind it: a later batch in the segment, or the first batch of the next segment. Then it is rot. Otherwise it is the
//! torn tail of the one write that was under way, and is cut off (`FORMAT.md`, "Torn tail or rot").

use super::batch::{BATCH_HEADER_BYTES, BatchHeader, LastBatch, Previous, Records, streams_of};
use super::bloom::Bloom;
use super::format::{BLOCK_BYTES, DATA_START, Position, padded};
use super::record::{Decoded, Item, Kind};
use super::segment::Segment;
use crate::StorageResult;

/// Most bytes read ahead of the scan. It begins with one block and reads [`WINDOW_GROWTH`] times as much each time: of most segments
/// only the first header is wanted.
const WINDOW_BYTES: u32 = 1 << 20;
const WINDOW_GROWTH: u32 = 4;

/// What is known of the end of the segment's data from elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) enum Successor {
    /// It is the newest: its end is where its batches end.
    None,
    /// The next segment says so.
    Known(Previous),
    /// There is a next segment, but it does not say.
    Unknown,
}

/// What a segment holds.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// In the order of the log.
    pub(super) items: Vec<Item>,
    /// Where the next batch would go.
    pub(super) tail: u32,
    pub(super) last: Option<LastBatch>,
    /// The batch before the first one.
    pub(super) first_previous: Option<Previous>,
    pub(super) rot: Vec<Rot>,
    /// Where a batch was begun that never became durable.
    pub(super) torn: Option<u32>,
}

/// Acknowledged bytes that are damaged.
#[derive(Debug, Clone)]
pub(super) struct Rot {
    pub(super) offset: u32,
    /// Records of these may be gone without a trace.
    pub(super) lost: Bloom,
    /// A record of which only the payload is damaged.
    pub(super) record: Option<Item>,
}

/// Reads a segment through a window, so that small batches cost no call each.
struct Reader<'a> {
    segment: &'a Segment,
    window: Vec<u8>,
    start: u32,
    /// Bytes to read next time.
    ahead: u32,
}

impl<'a> Reader<'a> {
    fn new(segment: &'a Segment) -> Self {
        Self { segment, window: Vec::new(), start: 0, ahead: BLOCK_BYTES }
    }

    fn bytes(&mut self, offset: u32, len: u32) -> StorageResult<&[u8]> {
        let inside = offset >= self.start && (offset - self.start + len) as usize <= self.window.len();
        if !inside {
            let count = len.max(self.ahead.min(self.segment.bytes - offset));
            self.ahead = (self.ahead * WINDOW_GROWTH).min(WINDOW_BYTES);
            self.window.resize(count as usize, 0);
            self.segment.read(&mut self.window, offset)?;
            self.start = offset;
        }
        let from = (offset - self.start) as usize;
        Ok(&self.window[from..from + len as usize])
    }

    fn header(&mut self, offset: u32) -> StorageResult<Option<BatchHeader>> {
        if offset > self.segment.bytes - BLOCK_BYTES {
            return Ok(None);
        }
        let position = Position { epoch: self.segment.epoch, offset };
        let segment_bytes = self.segment.bytes;
        let bytes = self.bytes(offset, BATCH_HEADER_BYTES as u32)?;
        Ok(BatchHeader::decode(bytes, position, segment_bytes))
    }

    /// The first batch header at or after `offset`.
    fn find_header(&mut self, mut offset: u32) -> StorageResult<Option<BatchHeader>> {
        while offset <= self.segment.bytes - BLOCK_BYTES {
            if let Some(header) = self.header(offset)? {
                return Ok(Some(header));
            }
            offset += BLOCK_BYTES;
        }
        Ok(None)
    }
}

/// A batch whose header is whole.
struct Batch {
    items: Vec<Item>,
    /// Items of which only the payload is damaged.
    rotten: Vec<Item>,
    /// Where a damaged record header made the rest unreadable.
    cut_short: Option<u32>,
}

impl Batch {
    fn read(reader: &mut Reader<'_>, header: &BatchHeader) -> StorageResult<Self> {
        let len = header.end() - header.position.offset;
        let bytes = reader.bytes(header.position.offset, len)?;
        let mut batch = Self { items: Vec::new(), rotten: Vec::new(), cut_short: None };
        for record in Records::new(header, bytes) {
            match record {
                Ok(Decoded { item, payload: Ok(_) }) => batch.items.push(item),
                // Its header says where it is and whose; if it is live in the end, its stream is damaged. Not so bounds,
                // whose payload says what they cut off.
                Ok(Decoded { item, payload: Err(_) }) => {
                    batch.rotten.push(item);
                    if !matches!(item.kind, Kind::Bounds | Kind::Manifest | Kind::Lost) {
                        batch.items.push(item);
                    }
                }
                Err(end) => batch.cut_short = Some(end.offset),
            }
        }
        Ok(batch)
    }

    fn is_whole(&self) -> bool {
        self.rotten.is_empty() && self.cut_short.is_none()
    }
}

/// Whether a segment was ever written to: without it, nothing after its header counts.
pub(super) fn is_begun(segment: &Segment) -> StorageResult<bool> {
    let mut reader = Reader::new(segment);
    if let Some(header) = reader.header(DATA_START)?
        && Batch::read(&mut reader, &header)?.is_whole()
    {
        return Ok(true);
    }
    // A later batch proves that the first was acknowledged, whatever became of it.
    Ok(reader.find_header(DATA_START + BLOCK_BYTES)?.is_some())
}

/// What the first batch of a segment says of the one before it.
pub(super) fn previous_of_first(segment: &Segment) -> StorageResult<Option<Previous>> {
    Ok(Reader::new(segment).header(DATA_START)?.and_then(|header| header.previous))
}

/// Reads all of a segment.
pub(super) fn scan(segment: &Segment, successor: Successor) -> StorageResult<Scan> {
    let mut reader = Reader::new(segment);
    let mut scan = Scan { tail: DATA_START, ..Scan::default() };
    loop {
        let here = scan.tail;
        let header = reader.header(here)?.filter(|header| scan.is_next(header));
        let batch = header.map(|header| Batch::read(&mut reader, &header)).transpose()?;
        if let (Some(header), Some(batch)) = (&header, &batch)
            && batch.is_whole()
        {
            scan.take(header, batch);
            continue;
        }
        // Not readable, or not wholly. What comes behind it?
        let behind = header.map_or(here + BLOCK_BYTES, |header| header.end());
        let next = reader.find_header(behind)?;
        let proof = match (next, successor) {
            (Some(next), _) => Some(next.previous),
            (None, Successor::Known(last)) if last.position.offset >= here => Some(Some(last)),
            (None, Successor::Unknown) => Some(None),
            (None, _) => None,
        };
        let Some(after) = proof else {
            scan.torn = header.map(|header| header.position.offset);
            return Ok(scan);
        };
        // The batch behind names the streams of the one before it. If that is not this one, more than one is missing.
        let position = Position { epoch: segment.epoch, offset: here };
        let named =
            after.filter(|after| after.position == position).map_or(Bloom::ALL, |after| after.streams);
        match (&header, &batch) {
            (Some(header), Some(batch)) => {
                scan.take_rotten(batch, named);
                scan.take(header, batch);
            }
            _ => scan.rot.push(Rot { offset: here, lost: named, record: None }),
        }
        let Some(next) = next else {
            scan.tail = scan.tail.max(padded(here + BLOCK_BYTES));
            return Ok(scan);
        };
        scan.tail = next.position.offset;
        scan.last = None;
    }
}

impl Scan {
    /// Whether a batch continues the ones read so far.
    fn is_next(&self, header: &BatchHeader) -> bool {
        crate::mutant!("resurrect-recycled-bytes" => return true);
        self.last.is_none_or(|last| header.sequence == last.sequence + 1)
    }

    fn take(&mut self, header: &BatchHeader, batch: &Batch) {
        if header.position.offset == DATA_START {
            self.first_previous = header.previous;
        }
        let streams =
            streams_of(batch.items.iter().filter(|item| item.kind.has_stream()).map(|item| item.stream));
        let as_previous = Previous { position: header.position, streams };
        self.last = Some(LastBatch { sequence: header.sequence, as_previous });
        self.items.extend(&batch.items);
        self.tail = header.end();
    }

    fn take_rotten(&mut self, batch: &Batch, named: Bloom) {
        for item in &batch.rotten {
            let lost = match item.kind {
                Kind::Bounds => streams_of(std::iter::once(item.stream)),
                Kind::Lost => Bloom::ALL,
                _ => Bloom::EMPTY,
            };
            self.rot.push(Rot { offset: item.location.offset, lost, record: Some(*item) });
        }
        if let Some(offset) = batch.cut_short {
            self.rot.push(Rot { offset, lost: named, record: None });
        }
    }
}
