//! What one node asks of another one's contexts, as messages.

use bincode::{Decode, Encode};

use crate::wire::{Kind, Message};

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

impl Message for BuildCall {
    const KIND: Kind = Kind::Build;
}

#[cfg(test)]
mod tests {
    use longshore_raft::transport::Lane;

    use super::*;
    use crate::wire;

    #[test]
    fn calls_and_replies_are_read_as_they_are_written() {
        let digest = [7; 32];
        for call in [
            BuildCall::Has { digest },
            BuildCall::Piece { digest, offset: u64::MAX },
            BuildCall::Doubt { digest },
        ] {
            wire::tests::survives(&call);
        }
        for reply in [BuildReply::Has { bytes: 9 }, BuildReply::Missing, BuildReply::Failed("why".into())] {
            wire::tests::reply_survives(&reply);
        }
        let largest = BuildReply::Piece(vec![255; PIECE_BYTES as usize]);
        assert!(wire::encode_reply(&largest).len() <= Lane::Bulk.max_body_bytes());
    }
}
