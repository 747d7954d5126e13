//! What one node asks of another one's contexts, as messages.

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::codec;

/// First byte of a call, its version included. Consensus has 0xC0 to 0xCF, offers 0xD1 and 0xD2, engines 0xD3 and 0xD4, farewells 0xD5, histories
/// 0xD6.
pub(crate) const BUILD_TAG: u8 = 0xD7;
/// Most bytes of a piece: with what is around it, it fits into a message of the bulk lane.
pub(super) const PIECE_BYTES: u32 = 512 << 10;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum BuildCall {
    /// Whether it is there.
    Has { digest: [u8; 32] },
    /// A piece of it, [`PIECE_BYTES`] or to its end.
    Piece { digest: [u8; 32], offset: u64 },
    /// It came over damaged: it is read through, and removed if it is.
    Doubt { digest: [u8; 32] },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum BuildReply {
    /// It is there, and so long.
    Has {
        bytes: u64,
    },
    Missing,
    Piece(Vec<u8>),
    /// For people.
    Failed(String),
}

impl BuildCall {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = vec![BUILD_TAG];
        codec::encode_into(self, &mut bytes);
        bytes.into()
    }

    /// Of a message, its tag included.
    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        match body.split_first() {
            Some((&BUILD_TAG, call)) => codec::decode(call).map_err(|error| error.to_string()),
            _ => Err("not a call about a build".to_owned()),
        }
    }
}

impl BuildReply {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        codec::encode_into(self, &mut bytes);
        bytes.into()
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        codec::decode(body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::transport::Lane;

    use super::*;

    #[test]
    fn calls_and_replies_are_read_as_they_are_written() {
        let digest = [7; 32];
        for call in [
            BuildCall::Has { digest },
            BuildCall::Piece { digest, offset: u64::MAX },
            BuildCall::Doubt { digest },
        ] {
            assert_eq!(BuildCall::decode(&call.encode()), Ok(call));
        }
        for reply in [BuildReply::Has { bytes: 9 }, BuildReply::Missing, BuildReply::Failed("why".into())] {
            assert_eq!(BuildReply::decode(&reply.encode()), Ok(reply));
        }
        for bad in [&b""[..], &[0xD6, 0], &[BUILD_TAG], &[BUILD_TAG, 99]] {
            assert!(BuildCall::decode(bad).is_err(), "{bad:?}");
        }
        let largest = BuildReply::Piece(vec![255; PIECE_BYTES as usize]);
        assert!(largest.encode().len() <= Lane::Bulk.max_body_bytes());
    }
}
