//! Planted bugs of the network: replies that are not what the receiver said. For testing checkers; memory transport only.

use bytes::Bytes;
use longshore_raft::consensus::inspect_wire::{MessageKind, acknowledge_append, grant_pre_vote};

/// A way of falsifying replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tamper {
    /// Every reply to a pre-vote request is a grant.
    GrantPreVotes,
    /// Append requests are dropped and answered as success at once: a leader commits what only it holds.
    ForgeAppendSuccess,
}

impl Tamper {
    /// The answer to a request that is not sent, then.
    pub(super) fn instead_of_sending(self, kind: MessageKind, request: &Bytes) -> Option<Bytes> {
        match (self, kind) {
            (Self::ForgeAppendSuccess, MessageKind::Append { .. }) => acknowledge_append(request),
            _ => None,
        }
    }

    /// What is sent in place of the reply to this request.
    pub(super) fn instead_of_reply(self, kind: MessageKind, request: &Bytes) -> Option<Bytes> {
        match (self, kind) {
            (Self::GrantPreVotes, MessageKind::PreVote(_)) => grant_pre_vote(request),
            _ => None,
        }
    }
}
