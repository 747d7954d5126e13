//! One segment file: reading its header, its footer and its records, with every checksum checked.

use std::sync::Arc;

use bytes::Bytes;

use super::batch::LastBatch;
use super::footer::{FOOTER_HEADER_BYTES, FooterHeader};
use super::format::{BLOCK_BYTES, DATA_START, HeaderFound, Location, Position, SegmentHeader};
use super::record::{Item, RECORD_HEADER_BYTES, decode};
use crate::disk::DiskFile;
use crate::{StorageError, StorageResult};

/// Most bytes that one read fetches, unless a single record is larger. Larger reads gain nothing on a disk.
const READ_BYTES: u32 = 256 << 10;
/// Records that are further apart are read one by one: skipped bytes cost less than another call up to here.
const READ_GAP_BYTES: u32 = 8 << 10;

/// An open segment in one use of its file.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) epoch: u32,
    /// The path on the disk.
    pub(super) path: String,
    /// Where the footer starts.
    pub(super) bytes: u32,
    pub(super) file: Arc<dyn DiskFile>,
}

/// What the front of a segment file says.
#[derive(Debug)]
pub(super) enum Front {
    Valid(SegmentHeader),
    Newer(u32),
    /// Never begun: nothing in it counts.
    Blank,
    /// Neither copy of the header is readable.
    Rotten,
}

/// Reads both copies of a file's header. Each is written whole (one sector), so that a crash leaves one of them valid or
/// the file blank. Of two valid ones the higher epoch counts: the file was being prepared for another use.
pub(super) fn read_front(file: &dyn DiskFile) -> std::io::Result<Front> {
    let mut front = vec![0; (DATA_START + BLOCK_BYTES) as usize];
    let len = file.read_at(&mut front, 0)?;
    let mut found = Front::Rotten;
    for copy in front[..DATA_START as usize].chunks(BLOCK_BYTES as usize) {
        match (SegmentHeader::decode(copy), &found) {
            (HeaderFound::Newer(version), _) => return Ok(Front::Newer(version)),
            (HeaderFound::Valid(header), Front::Valid(other)) if header.epoch <= other.epoch => {}
            (HeaderFound::Valid(header), _) => found = Front::Valid(header),
            (HeaderFound::Blank | HeaderFound::Invalid, _) => {}
        }
    }
    // A file that is being filled is zeros; one whose header rotted away still has its first batch.
    if matches!(found, Front::Rotten) && front[..len].iter().all(|byte| *byte == 0) {
        found = Front::Blank;
    }
    Ok(found)
}

impl Segment {
    pub(super) fn damaged(&self, offset: u32, detail: &str) -> StorageError {
        StorageError::Damaged { file: self.path.clone(), offset: offset.into(), detail: detail.to_owned() }
    }

    fn io(&self, doing: &str, source: std::io::Error) -> StorageError {
        StorageError::io(format!("{doing} {}", self.path), source)
    }

    /// Fills `buf`; what lies behind the end of the file reads as zeros.
    pub(super) fn read(&self, buf: &mut [u8], offset: u32) -> StorageResult<()> {
        let read = self.file.read_at(buf, offset.into());
        crate::mutant!("ignore-a-read-error" => if read.is_err() { buf.fill(0); return Ok(()) });
        let count = read.map_err(|error| self.io("reading", error))?;
        buf[count..].fill(0);
        Ok(())
    }

    /// The last batch and the items, by the footer; `None` if there is no valid one.
    pub(super) fn read_footer(&self) -> StorageResult<Option<(Option<LastBatch>, Vec<Item>)>> {
        let mut fixed = [0; FOOTER_HEADER_BYTES];
        self.read(&mut fixed, self.bytes)?;
        let Some(header) = FooterHeader::decode(&fixed, self.epoch, self.bytes) else { return Ok(None) };
        let mut body = vec![0; header.body_len as usize];
        self.read(&mut body, self.bytes + FOOTER_HEADER_BYTES as u32)?;
        Ok(header.items(&body).map(|items| (header.last, items)))
    }

    /// The record at a location; `Damaged` if it is not what was written there.
    pub(super) fn read_record(&self, location: Location) -> StorageResult<(Item, Bytes)> {
        let mut buf = vec![0; RECORD_HEADER_BYTES + location.len as usize];
        self.read(&mut buf, location.offset)?;
        let item = self.check_record(&buf, location)?;
        Ok((item, Bytes::from(buf).slice(RECORD_HEADER_BYTES..)))
    }

    /// The payloads of records of this segment, in the order asked for, with few reads.
    pub(super) fn read_payloads(&self, locations: &[Location]) -> StorageResult<Vec<Bytes>> {
        let mut payloads = Vec::with_capacity(locations.len());
        let mut rest = locations;
        while let Some(first) = rest.first() {
            let mut end = record_end(*first);
            let mut count = 1;
            for next in &rest[1..] {
                let near = next.offset >= end && next.offset - end <= READ_GAP_BYTES;
                if !near || record_end(*next) - first.offset > READ_BYTES {
                    break;
                }
                end = record_end(*next);
                count += 1;
            }
            let mut buf = vec![0; (end - first.offset) as usize];
            self.read(&mut buf, first.offset)?;
            let buf = Bytes::from(buf);
            for location in &rest[..count] {
                let from = (location.offset - first.offset) as usize;
                let to = from + RECORD_HEADER_BYTES + location.len as usize;
                self.check_record(&buf[from..to], *location)?;
                payloads.push(buf.slice(from + RECORD_HEADER_BYTES..to));
            }
            rest = &rest[count..];
        }
        Ok(payloads)
    }

    fn check_record(&self, bytes: &[u8], location: Location) -> StorageResult<Item> {
        let position = Position { epoch: self.epoch, offset: location.offset };
        let decoded =
            decode(bytes, position).filter(|decoded| decoded.item.location == location).ok_or_else(|| {
                self.damaged(location.offset, "the header of a record does not match its checksum")
            })?;
        if decoded.payload.is_err() {
            return Err(self.damaged(location.offset, "a record does not match its checksum"));
        }
        Ok(decoded.item)
    }
}

fn record_end(location: Location) -> u32 {
    location.offset + RECORD_HEADER_BYTES as u32 + location.len
}
