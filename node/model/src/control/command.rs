//! Commands of the control group and their replies. Both are versioned by the state's version (see `state.rs`).

use std::collections::BTreeMap;

use bincode::{Decode, Encode};
use longshore_raft::model::membership::{Announcement, MembershipError, NodeChange, NodeProfile};
use longshore_raft::{FleetId, GroupId, NodeId, ReplicaId};

use super::credentials::CredentialRecord;
use super::led::Office;
use super::ring::{RingCommand, RingShape};

/// The certificate authority of a fleet, as every member holds it. The key is secret: `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
pub struct AuthorityRecord {
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
}

impl std::fmt::Debug for AuthorityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthorityRecord(..)")
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Command {
    /// The first command of a fleet, once.
    Init {
        fleet: FleetId,
        authority: AuthorityRecord,
        key_hash: [u8; 32],
        profile: NodeProfile,
        ring: RingShape,
        unix_ms: u64,
    },
    /// Admit a node that showed a token's secret.
    Join {
        token: String,
        secret_hash: [u8; 32],
        key_hash: [u8; 32],
        profile: NodeProfile,
        unix_ms: u64,
    },
    /// A node says where it is and what it runs.
    Announce {
        node: NodeId,
        said: Announcement,
    },
    /// An operator changes a node: labels, weight, place, availability.
    UpdateNode {
        node: NodeId,
        change: Box<NodeChange>,
    },
    /// A node asks to leave: no new work, no vote. Refused if nobody would be left to take new work, as is removal.
    StartLeaving {
        node: NodeId,
    },
    /// The node is gone. `left`: by its own wish.
    Remove {
        node: NodeId,
        left: bool,
    },
    CreateToken {
        id: String,
        secret_hash: [u8; 32],
        ttl_ms: u64,
        uses_max: u32,
    },
    RevokeToken {
        id: String,
    },
    /// How the fleet is known to a registry.
    SetCredential {
        registry: String,
        record: CredentialRecord,
    },
    RemoveCredential {
        registry: String,
    },
    Ring(RingCommand),
    /// A node says which groups it leads, in which terms, and how much there is to do in them.
    Lead {
        node: NodeId,
        offices: BTreeMap<GroupId, Office>,
    },
}

/// Whose fault a refusal is, and so what the caller can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum RefusalKind {
    Invalid,
    NotFound,
    Conflict,
    Denied,
    Busy,
}

/// A command that changed nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    pub kind: RefusalKind,
    pub message: String,
}

impl Refusal {
    pub fn new(kind: RefusalKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}

impl From<MembershipError> for Refusal {
    fn from(error: MembershipError) -> Self {
        let kind = match &error {
            MembershipError::NameTaken(_)
            | MembershipError::NotAMember(_)
            | MembershipError::LastAvailable(_) => RefusalKind::Conflict,
            MembershipError::NameInvalid(_) | MembershipError::Labels(_) | MembershipError::Update(_) => {
                RefusalKind::Invalid
            }
            MembershipError::UnknownNode(_) => RefusalKind::NotFound,
            MembershipError::KeyRetired(_) => RefusalKind::Denied,
            MembershipError::Full(_) => RefusalKind::Busy,
        };
        Self::new(kind, error.to_string())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    Done,
    Refused(Refusal),
    Admitted { node: NodeId, replica: ReplicaId },
}

impl From<Result<Reply, Refusal>> for Reply {
    fn from(result: Result<Reply, Refusal>) -> Self {
        result.unwrap_or_else(Reply::Refused)
    }
}
