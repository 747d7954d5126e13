//! One peer's replica, as this one talks to it: requests out, replies in, errors in openraft's terms.

use std::time::Duration;

use openraft::error::{NetworkError, RPCError, Timeout, Unreachable};
use openraft::network::RPCTypes;

use super::codec::CodecError;
use super::runtime::Runtime;
use super::types::Types;
use super::wire::{self, GroupBody, GroupRequest, Message, Refusal, Reply};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::{BoxFuture, Lane, TransportError, TransportRef};

/// Why there is no usable reply.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum LinkError {
    #[error(transparent)]
    Transport(#[from] TransportError),
    #[error("bad reply: {0}")]
    Codec(#[from] CodecError),
    #[error("refused: {0}")]
    Refused(#[from] Refusal),
    #[error("unexpected reply")]
    Unexpected,
}

/// Asks node `to`. The request takes its place in the lane now; the future only waits.
pub(crate) fn ask(
    transport: &TransportRef,
    to: NodeId,
    lane: Lane,
    message: &Message,
    timeout: Duration,
) -> BoxFuture<Result<Reply, LinkError>> {
    let reply = transport.request(to, lane, wire::encode_message(message), timeout);
    Box::pin(async move {
        match wire::decode_reply(&reply.await?)? {
            Reply::Refused(refusal) => Err(refusal.into()),
            reply => Ok(reply),
        }
    })
}

/// The way to one replica.
#[derive(Clone)]
pub(crate) struct Link {
    pub(crate) transport: TransportRef,
    pub(crate) group: GroupId,
    pub(crate) from: ReplicaId,
    pub(crate) to: ReplicaId,
    pub(crate) node: NodeId,
}

impl Link {
    pub(crate) fn ask(
        &self,
        lane: Lane,
        body: GroupBody,
        timeout: Duration,
    ) -> BoxFuture<Result<Reply, LinkError>> {
        let request = GroupRequest { group: self.group, to: Some(self.to), body };
        ask(&self.transport, self.node, lane, &Message::Group(request), timeout)
    }

    /// openraft retries a `Network` error at once, backs off after `Unreachable`, and counts a `Timeout` as in between.
    pub(crate) fn rpc_error<R: Runtime>(
        &self,
        error: LinkError,
        action: RPCTypes,
        timeout: Duration,
    ) -> RPCError<Types<R>> {
        match &error {
            LinkError::Transport(TransportError::NoReply { .. }) => {
                RPCError::Timeout(Timeout { action, id: self.from, target: self.to, timeout })
            }
            LinkError::Transport(TransportError::Refused { .. })
            | LinkError::Refused(Refusal::BrokenPipeline) => RPCError::Network(NetworkError::new(&error)),
            LinkError::Transport(_) | LinkError::Codec(_) | LinkError::Refused(_) | LinkError::Unexpected => {
                RPCError::Unreachable(Unreachable::new(&error))
            }
        }
    }
}
