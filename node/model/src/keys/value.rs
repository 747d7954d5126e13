//! The bytes of a value: cheap to clone, never printed.

use std::fmt;
use std::ops::Deref;

use bincode::de::Decoder;
use bincode::de::read::Reader;
use bincode::enc::Encoder;
use bincode::enc::write::Writer;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Decode, Encode};
use bytes::Bytes;

/// A value. Clones share the bytes, so a read copies nothing. `Debug` gives the length only: values may be secret.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Value(pub Bytes);

impl Deref for Value {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Value {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Value({} bytes)", self.0.len())
    }
}

impl Encode for Value {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        (self.0.len() as u64).encode(encoder)?;
        encoder.writer().write(&self.0)
    }
}

impl<C> Decode<C> for Value {
    fn decode<D: Decoder<Context = C>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let len = u64::decode(decoder)?;
        let len = usize::try_from(len).map_err(|_| DecodeError::OutsideUsizeRange(len))?;
        decoder.claim_bytes_read(len)?;
        let mut bytes = vec![0; len];
        decoder.reader().read(&mut bytes)?;
        Ok(Self(bytes.into()))
    }
}

impl<'de, C> BorrowDecode<'de, C> for Value {
    fn borrow_decode<D: bincode::de::BorrowDecoder<'de, Context = C>>(
        decoder: &mut D,
    ) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_not_printed() {
        assert_eq!(format!("{:?}", Value::from(b"secret".to_vec())), "Value(6 bytes)");
    }

    #[test]
    fn a_clone_shares_the_bytes() {
        let value = Value::from(vec![7; 100]);
        assert_eq!(value.clone().as_ptr(), value.as_ptr());
    }
}
