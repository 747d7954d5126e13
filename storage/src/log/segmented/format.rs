//! Sizes, checksums and the segment header; see `FORMAT.md`. Pure.
//!
//! Invariants: integers are little-endian; no byte is used before its checksum was checked; no length field is
//! believed beyond what its container holds.

/// The version written, and the newest one read.
pub(super) const FORMAT_VERSION: u32 = 1;
/// Batches, headers and footers start at multiples of this and are padded to it: no write ever touches a block that
/// holds acknowledged bytes, so a disk that tears whole blocks can not tear those.
pub(super) const BLOCK_BYTES: u32 = 4096;
/// Where the first batch of a segment starts: behind the header and its copy.
pub(super) const DATA_START: u32 = 2 * BLOCK_BYTES;

const MAGIC: [u8; 8] = *b"LNGSHLOG";
const HEADER_BYTES: usize = 64;

/// A place in the log. An epoch numbers the uses of segment files: each use has a higher one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    pub(super) epoch: u32,
    pub(super) offset: u32,
}

/// Where a record is: its header starts at `offset`, `len` bytes of payload follow it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) epoch: u32,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// The start of every checksum: bytes that were written for another use of the file, or for another place in it,
/// never pass.
pub(super) fn crc_seed(position: Position) -> u32 {
    crate::mutant!("resurrect-recycled-bytes" => return position.offset);
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&position.epoch.to_le_bytes());
    bytes[4..].copy_from_slice(&position.offset.to_le_bytes());
    crc32c::crc32c(&bytes)
}

/// `bytes` rounded up to whole blocks.
pub(super) fn padded(bytes: u32) -> u32 {
    bytes.div_ceil(BLOCK_BYTES) * BLOCK_BYTES
}

/// Reads integers from the front of a slice; `None` once it runs dry.
#[derive(Debug)]
pub(super) struct Cursor<'a>(pub(super) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        Some(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        Some(u32::from_le_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    /// LEB128, as long as it fits 64 bits.
    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }
}

/// Appends `value` as LEB128.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// The first block of a segment, repeated in the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) epoch: u32,
    /// Where the footer starts; batches end before it.
    pub(super) segment_bytes: u32,
}

/// What was found where a header should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderFound {
    Valid(SegmentHeader),
    /// Written by a newer release.
    Newer(u32),
    /// All zeros: never written.
    Blank,
    Invalid,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES as usize);
        bytes.extend(MAGIC);
        bytes.extend(FORMAT_VERSION.to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(u64::from(self.epoch).to_le_bytes());
        bytes.extend(u64::from(self.segment_bytes).to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        let crc = header_crc(&bytes);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(BLOCK_BYTES as usize, 0);
        bytes
    }

    /// Judges one copy of the header.
    pub(super) fn decode(block: &[u8]) -> HeaderFound {
        if block.iter().all(|byte| *byte == 0) {
            return HeaderFound::Blank;
        }
        Self::decode_written(block).unwrap_or(HeaderFound::Invalid)
    }

    fn decode_written(block: &[u8]) -> Option<HeaderFound> {
        let bytes = block.get(..HEADER_BYTES)?;
        let mut cursor = Cursor(bytes);
        let magic: [u8; 8] = cursor.array()?;
        let version = cursor.u32()?;
        let crc = cursor.u32()?;
        if magic != MAGIC || crc != header_crc(bytes) {
            return None;
        }
        if version > FORMAT_VERSION {
            return Some(HeaderFound::Newer(version));
        }
        let epoch = u32::try_from(cursor.u64()?).ok()?;
        let segment_bytes = u32::try_from(cursor.u64()?).ok()?;
        let valid = segment_bytes > DATA_START && segment_bytes.is_multiple_of(BLOCK_BYTES) && version > 0;
        valid.then_some(HeaderFound::Valid(Self { epoch, segment_bytes }))
    }
}

/// The same in all versions: of the header without its own four bytes.
fn header_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[16..HEADER_BYTES])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_header_is_read_back_and_rot_in_it_is_seen() {
        let header = SegmentHeader { epoch: 7, segment_bytes: 1 << 20 };
        let block = header.encode();
        assert_eq!(SegmentHeader::decode(&block), HeaderFound::Valid(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut rotten = block.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&rotten), HeaderFound::Invalid, "bit {bit}");
        }
        assert_eq!(SegmentHeader::decode(&[0; 4096]), HeaderFound::Blank);
        assert_eq!(SegmentHeader::decode(&block[..63]), HeaderFound::Invalid);
    }

    #[test]
    fn a_newer_version_is_told_from_rot() {
        let mut block = SegmentHeader { epoch: 7, segment_bytes: 1 << 20 }.encode();
        block[8] = FORMAT_VERSION as u8 + 1;
        assert_eq!(SegmentHeader::decode(&block), HeaderFound::Invalid);
        let crc = header_crc(&block);
        block[12..16].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&block), HeaderFound::Newer(FORMAT_VERSION + 1));
    }

    proptest! {
        #[test]
        fn varints_are_read_back(value: u64, rest: Vec<u8>) {
            let mut bytes = Vec::new();
            put_varint(&mut bytes, value);
            bytes.extend(&rest);
            let mut cursor = Cursor(&bytes);
            prop_assert_eq!(cursor.varint(), Some(value));
            prop_assert_eq!(cursor.0, &rest[..]);
        }

        #[test]
        fn garbage_is_no_header(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            SegmentHeader::decode(&bytes);
            let mut cursor = Cursor(&bytes);
            while cursor.varint().is_some() {}
        }
    }
}
