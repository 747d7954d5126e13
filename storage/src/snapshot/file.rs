//! The format of one snapshot file: a 72-byte header, meta, data. Pure.

use bytes::Bytes;

use crate::{StorageError, StorageResult, StreamId};

/// Most bytes of a snapshot's meta.
pub const MAX_SNAPSHOT_META_BYTES: usize = 64 << 10;
/// Most bytes of a snapshot's data. It is held in memory whole; large payloads belong into blobs.
pub const MAX_SNAPSHOT_DATA_BYTES: usize = 1 << 30;

pub(super) const FORMAT_VERSION: u32 = 1;
pub(super) const HEADER_BYTES: usize = 72;
pub(super) const MAX_FILE_BYTES: u64 =
    (HEADER_BYTES + MAX_SNAPSHOT_META_BYTES + MAX_SNAPSHOT_DATA_BYTES) as u64;

const MAGIC: [u8; 8] = *b"LNGSSNAP";
/// Magic, version, meta length, data length, group, four zero bytes, replica; then the hash.
const HASH_OFFSET: usize = 40;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    Newer(u32),
    Damaged(&'static str),
}

/// The header of a file with these parts, and its hash: blake3 of the header before the hash, meta and data.
pub(super) fn header(stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<(Vec<u8>, [u8; 32])> {
    for (len, limit) in [(meta.len(), MAX_SNAPSHOT_META_BYTES), (data.len(), MAX_SNAPSHOT_DATA_BYTES)] {
        if len > limit {
            return Err(StorageError::TooLarge { len, limit });
        }
    }
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(FORMAT_VERSION.to_le_bytes());
    bytes.extend((meta.len() as u32).to_le_bytes());
    bytes.extend((data.len() as u64).to_le_bytes());
    bytes.extend(stream.group.to_le_bytes());
    bytes.extend([0; 4]);
    bytes.extend(stream.replica.to_le_bytes());
    assert_eq!(bytes.len(), HASH_OFFSET);
    let hash = hash(&bytes, meta, data);
    bytes.extend(hash);
    Ok((bytes, hash))
}

fn hash(fixed: &[u8], meta: &[u8], data: &[u8]) -> [u8; 32] {
    *blake3::Hasher::new().update(fixed).update(meta).update(data).finalize().as_bytes()
}

/// Meta, data and hash of a whole file.
pub(super) fn decode(stream: StreamId, bytes: Bytes) -> Result<(Bytes, Bytes, [u8; 32]), Unreadable> {
    let fixed = bytes.get(..HEADER_BYTES).ok_or(Unreadable::Damaged("the file is too short"))?;
    if fixed[..8] != MAGIC {
        return Err(Unreadable::Damaged("it is not a snapshot"));
    }
    let int = |at: usize, len: usize| {
        let mut le = [0; 8];
        le[..len].copy_from_slice(&fixed[at..at + len]);
        u64::from_le_bytes(le)
    };
    let version = int(8, 4) as u32;
    // A rotten version can not be told from a newer one, whose hash this release may not know how to check.
    if version > FORMAT_VERSION {
        return Err(Unreadable::Newer(version));
    }
    let (meta_len, data_len) = (int(12, 4), int(16, 8));
    let len = (HEADER_BYTES as u64).checked_add(meta_len).and_then(|len| len.checked_add(data_len));
    if len != Some(bytes.len() as u64) {
        return Err(Unreadable::Damaged("its length is not that of its parts"));
    }
    let meta_end = HEADER_BYTES + meta_len as usize;
    let (meta, data) = (bytes.slice(HEADER_BYTES..meta_end), bytes.slice(meta_end..));
    let hash = hash(&fixed[..HASH_OFFSET], &meta, &data);
    if hash != fixed[HASH_OFFSET..] {
        return Err(Unreadable::Damaged("its contents do not match its hash"));
    }
    if (int(24, 4), int(32, 8)) != (u64::from(stream.group), stream.replica) {
        return Err(Unreadable::Damaged("it is of another stream"));
    }
    Ok((meta, data, hash))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: StreamId = StreamId { group: 3, replica: 4 };

    fn whole(meta: &[u8], data: &[u8]) -> Vec<u8> {
        let (header, _) = header(STREAM, meta, data).unwrap();
        [&header[..], meta, data].concat()
    }

    proptest! {
        #[test]
        fn a_file_is_read_back(meta: Vec<u8>, data: Vec<u8>) {
            let (found_meta, found_data, _) = decode(STREAM, Bytes::from(whole(&meta, &data))).unwrap();
            prop_assert_eq!((&found_meta[..], &found_data[..]), (&meta[..], &data[..]));
        }

        #[test]
        fn any_flipped_bit_is_seen(meta: Vec<u8>, data: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = whole(&meta, &data);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(STREAM, Bytes::from(bytes)).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, garbage in proptest::collection::vec(any::<u8>(), 28)) {
            prop_assert!(decode(STREAM, Bytes::from(bytes)).is_err());
            let mut bytes = whole(b"meta", b"data");
            bytes[12..40].copy_from_slice(&garbage);
            prop_assert!(decode(STREAM, Bytes::from(bytes)).is_err());
        }
    }

    #[test]
    fn the_hash_covers_the_stream() {
        let other = StreamId { group: 3, replica: 5 };
        let moved = decode(other, Bytes::from(whole(b"m", b"d")));
        assert_eq!(moved, Err(Unreadable::Damaged("it is of another stream")));
        assert_ne!(header(STREAM, b"m", b"d").unwrap().1, header(other, b"m", b"d").unwrap().1);
        assert_ne!(header(STREAM, b"m", b"d").unwrap().1, header(STREAM, b"", b"md").unwrap().1);
    }

    #[test]
    fn limits_and_versions_are_checked() {
        let long = vec![0; MAX_SNAPSHOT_META_BYTES + 1];
        assert!(matches!(header(STREAM, &long, b""), Err(StorageError::TooLarge { .. })));
        let mut bytes = whole(b"m", b"d");
        bytes[8] = 2;
        assert_eq!(decode(STREAM, Bytes::from(bytes)), Err(Unreadable::Newer(2)));
    }
}
