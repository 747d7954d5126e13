//! What a joiner and the node that admits it say to each other, inside the joining ALPN. Versioned; at most 64 KiB.

use std::net::SocketAddr;

use bincode::{Decode, Encode};
use longshore_model::codec;
use longshore_raft::model::membership::NodeProfile;
use longshore_raft::model::token::TokenId;
use longshore_raft::{FleetId, NodeId, ReplicaId};

/// Version of both messages; a node of another version is refused with a sentence that says so.
pub(crate) const JOIN_VERSION: u16 = 2;

/// Sent only after the joiner has verified the fleet's authority. Carries the token's secret: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct JoinRequest {
    pub(crate) token: TokenId,
    pub(crate) secret: [u8; 20],
    /// A signing request for the joiner's own key.
    pub(crate) csr_der: Vec<u8>,
    pub(crate) profile: NodeProfile,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct JoinGrant {
    pub(crate) fleet: FleetId,
    pub(crate) node: NodeId,
    pub(crate) replica: ReplicaId,
    pub(crate) certificate_der: Vec<u8>,
    pub(crate) authority_der: Vec<u8>,
    /// Where the other members are.
    pub(crate) peers: Vec<(NodeId, SocketAddr)>,
}

impl std::fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinRequest")
            .field("token", &self.token)
            .field("profile", &self.profile)
            .finish_non_exhaustive()
    }
}

/// Why a joiner was turned away; decides its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum TurnedAway {
    /// The token, or a retired key.
    Denied,
    /// The name is taken, or is none.
    Name,
    /// The request itself: a label, the signing request.
    Invalid,
    /// Nobody could decide just now; try again.
    Unavailable,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum JoinReply {
    Granted(JoinGrant),
    TurnedAway { why: TurnedAway, message: String },
}

/// Encodes a message with its version.
pub(crate) fn encode<T: Encode>(message: &T) -> Vec<u8> {
    let mut bytes = JOIN_VERSION.to_le_bytes().to_vec();
    bytes.extend(codec::encode(message).expect("a join message is small"));
    bytes
}

/// Decodes a message of this version, or says in a sentence why not.
pub(crate) fn decode<T: Decode<()>>(bytes: &[u8]) -> Result<T, String> {
    let Some((version, body)) = bytes.split_first_chunk::<2>() else {
        return Err("the join message is cut short".into());
    };
    match u16::from_le_bytes(*version) {
        JOIN_VERSION => codec::decode(body).map_err(|e| format!("the join message is damaged: {e}")),
        other => Err(format!(
            "the other side speaks version {other} of the join protocol, this one {JOIN_VERSION}: run the same longshore on all hosts"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_and_garbage_are_refused_with_a_sentence() {
        let reply = JoinReply::TurnedAway { why: TurnedAway::Denied, message: "no".into() };
        let mut bytes = encode(&reply);
        assert_eq!(decode::<JoinReply>(&bytes), Ok(reply));
        bytes[0] = 9;
        assert!(decode::<JoinReply>(&bytes).unwrap_err().contains("version 9"));
        assert!(decode::<JoinReply>(&[]).is_err());
        assert!(decode::<JoinReply>(&[2, 0, 255, 255, 255]).unwrap_err().contains("damaged"));
    }
}
