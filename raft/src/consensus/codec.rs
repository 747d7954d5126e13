//! bincode with limits: the one way bytes become values in this crate.
//!
//! Invariant: decoding never panics, never reads past its input, refuses trailing bytes, and allocates at most
//! a small multiple of what it was given (see [`decode`]), whatever the bytes claim.

use std::ops::Deref;

use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use bytes::Bytes;

/// Why bytes were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CodecError {
    #[error("format version {found} is not known (this program reads {known})")]
    Version { found: u8, known: u8 },
    #[error("malformed: {0}")]
    Malformed(String),
    #[error("{0} bytes after the end of the value")]
    Trailing(usize),
    #[error("empty")]
    Empty,
}

/// Encodes a value, without a version.
pub(crate) fn encode<T: Encode>(value: &T) -> Vec<u8> {
    // A Vec takes any number of bytes, and none of our types refuses to be encoded. Not `encode_to_vec`, which encodes twice.
    let mut out = Vec::new();
    bincode::encode_into_std_write(value, &mut out, bincode::config::standard())
        .expect("encoding to memory does not fail");
    out
}

/// Encodes a value after one byte of format version.
pub(crate) fn encode_versioned<T: Encode>(version: u8, value: &T) -> Bytes {
    let mut out = vec![version];
    bincode::encode_into_std_write(value, &mut out, bincode::config::standard())
        .expect("encoding to memory does not fail");
    out.into()
}

/// Decodes a whole value: all bytes must belong to it.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    const KIB: usize = 1 << 10;
    const MIB: usize = 1 << 20;
    // bincode counts bytes in memory against its limit, and an empty log entry takes 4 bytes encoded, about 60 decoded: hence
    // 16 times the input. The limit is a constant, hence the steps.
    let config = bincode::config::standard();
    let decoded = match bytes.len() {
        len if len <= 4 * KIB => bincode::decode_from_slice(bytes, config.with_limit::<{ 64 * KIB }>()),
        len if len <= 64 * KIB => bincode::decode_from_slice(bytes, config.with_limit::<MIB>()),
        len if len <= MIB => bincode::decode_from_slice(bytes, config.with_limit::<{ 16 * MIB }>()),
        len if len <= 16 * MIB => bincode::decode_from_slice(bytes, config.with_limit::<{ 256 * MIB }>()),
        _ => bincode::decode_from_slice(bytes, config.with_limit::<{ 4096 * MIB }>()),
    };
    let (value, used) = decoded.map_err(|e| CodecError::Malformed(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::Trailing(left)),
    }
}

/// Decodes a value that more follows on; gives the rest. For small values without lengths in them.
pub(crate) fn decode_prefix<T: Decode<()>>(bytes: &[u8]) -> Option<(T, &[u8])> {
    const SMALL: usize = 1 << 10;
    let config = bincode::config::standard().with_limit::<SMALL>();
    let (value, used) = bincode::decode_from_slice(bytes, config).ok()?;
    Some((value, &bytes[used..]))
}

/// Decodes what [`encode_versioned`] made, of this version only.
pub(crate) fn decode_versioned<T: Decode<()>>(known: u8, bytes: &[u8]) -> Result<T, CodecError> {
    let (&found, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if found != known {
        return Err(CodecError::Version { found, known });
    }
    decode(rest)
}

/// Decodes the first fields of what [`encode_versioned`] made, and does not look at the rest.
pub(crate) fn decode_front<T: Decode<()>>(known: u8, bytes: &[u8]) -> Result<T, CodecError> {
    const FRONT_BYTES: usize = 1 << 10;
    let (&found, rest) = bytes.split_first().ok_or(CodecError::Empty)?;
    if found != known {
        return Err(CodecError::Version { found, known });
    }
    let config = bincode::config::standard().with_limit::<FRONT_BYTES>();
    let (front, _) =
        bincode::decode_from_slice(rest, config).map_err(|e| CodecError::Malformed(e.to_string()))?;
    Ok(front)
}

/// Bytes inside an encoded value, cheap to clone.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Blob(pub(crate) Bytes);

impl Deref for Blob {
    type Target = Bytes;
    fn deref(&self) -> &Bytes {
        &self.0
    }
}

impl From<Vec<u8>> for Blob {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Encode for Blob {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.0.len() as u64).encode(encoder)?;
        encoder.writer().write(&self.0)
    }
}

impl<C> Decode<C> for Blob {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u64::decode(decoder)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::OutsideUsizeRange(len))?;
        decoder.claim_bytes_read(len)?;
        let mut bytes = vec![0; len];
        decoder.reader().read(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Blob {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refuses_what_is_not_exactly_one_value() {
        let bytes = encode_versioned(3, &(7u64, Blob::from(vec![1, 2, 3])));
        assert_eq!(decode_versioned::<(u64, Blob)>(3, &bytes), Ok((7, vec![1, 2, 3].into())));
        assert_eq!(
            decode_versioned::<(u64, Blob)>(4, &bytes),
            Err(CodecError::Version { found: 3, known: 4 })
        );
        let mut longer = bytes.to_vec();
        longer.push(0);
        assert_eq!(decode_versioned::<(u64, Blob)>(3, &longer), Err(CodecError::Trailing(1)));
        let shorter = &bytes[..bytes.len() - 1];
        assert!(matches!(decode_versioned::<(u64, Blob)>(3, shorter), Err(CodecError::Malformed(_))));
        assert_eq!(decode_versioned::<u64>(3, &[]), Err(CodecError::Empty));
    }

    #[test]
    fn a_length_that_lies_allocates_nothing_large() {
        // A vector that claims 2^40 elements in a dozen bytes.
        let lie = encode(&(1u64 << 40));
        assert!(matches!(decode::<Vec<u8>>(&lie), Err(CodecError::Malformed(_))));
        assert!(matches!(decode::<Blob>(&lie), Err(CodecError::Malformed(_))));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode::<Vec<(u64, Blob, Option<String>)>>(&bytes);
        }
    }
}
