//! The binary encoding of commands, replies and state: bincode with limits, so that no length field allocates more
//! than the input could hold.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use bincode::{Decode, Encode};

/// Most bytes of one encoded value. Snapshots are the largest; see `NODES_MAX` and the limits of operations.
pub const ENCODED_BYTES_MAX: usize = 256 << 20;

type Config = Configuration<LittleEndian, Fixint, Limit<ENCODED_BYTES_MAX>>;

fn config() -> Config {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<ENCODED_BYTES_MAX>()
}

/// Why bytes are not the value they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("cannot encode: {0}")]
    Encode(String),
    #[error("cannot decode: {0}")]
    Decode(String),
    #[error("{0} bytes are left over after the value")]
    TrailingBytes(usize),
}

/// Encodes a value; an error only if it is over [`ENCODED_BYTES_MAX`].
pub fn encode<T: Encode>(value: &T) -> Result<Vec<u8>, CodecError> {
    // Not `encode_to_vec`, which encodes twice: once to learn the length.
    let mut bytes = Vec::new();
    bincode::encode_into_std_write(value, &mut bytes, config())
        .map_err(|e| CodecError::Encode(e.to_string()))?;
    if bytes.len() > ENCODED_BYTES_MAX {
        return Err(CodecError::Encode(format!(
            "{} bytes are over the limit of {ENCODED_BYTES_MAX}",
            bytes.len()
        )));
    }
    Ok(bytes)
}

/// Appends an encoded value; its length is the caller's to limit.
pub fn encode_into<T: Encode>(value: &T, out: &mut Vec<u8>) {
    let config = bincode::config::standard().with_fixed_int_encoding();
    bincode::encode_into_std_write(value, out, config).expect("encoding our types to memory does not fail");
}

/// Decodes the value that `bytes` begin with, allocating at most `BYTES_MAX`; gives its length too.
pub fn decode_first<T: Decode<()>, const BYTES_MAX: usize>(bytes: &[u8]) -> Result<(T, usize), CodecError> {
    let config = bincode::config::standard().with_fixed_int_encoding().with_limit::<BYTES_MAX>();
    bincode::decode_from_slice(bytes, config).map_err(|e| CodecError::Decode(e.to_string()))
}

/// Decodes a value that fills `bytes` exactly.
pub fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, used) =
        bincode::decode_from_slice(bytes, config()).map_err(|e| CodecError::Decode(e.to_string()))?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(CodecError::TrailingBytes(left)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lying_length_field_is_refused_without_allocating_for_it() {
        let mut bytes = encode(&vec![1u8, 2, 3]).unwrap();
        bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(matches!(decode::<Vec<u8>>(&bytes), Err(CodecError::Decode(_))));
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = encode(&7u32).unwrap();
        bytes.push(0);
        assert_eq!(decode::<u32>(&bytes), Err(CodecError::TrailingBytes(1)));
    }
}
