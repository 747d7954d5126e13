//! The transport port: requests and replies between nodes, over lanes that keep order.
//!
//! A *lane* is an ordered stream of requests from one node to another. Requests on one lane reach the peer's
//! [`Handler`] in the order they were sent (when they reach it at all); replies may come back in any order. Lanes do
//! not hold each other up. Owns connections, framing, limits and peer identity. Must never: interpret a body, or retry.
//!
//! Who calls whom, from the top: `quic` (the port) -> `endpoint` (dial, answer, greet) -> `link` (a connection's streams)
//! -> `peer` (what waits for it) -> `admission`, `gate`, `outbox`, `answers`, `frame`, `lanes` (pure). `pki`, `name`,
//! `pem` and `tls` say who is who; `join` is for those who have no certificate yet.

mod admission;
mod agenda;
mod answers;
pub mod conformance;
mod endpoint;
mod frame;
mod gate;
#[cfg(test)]
mod hostile_tests;
pub mod join;
mod lanes;
mod link;
mod name;
mod outbox;
mod peer;
mod pem;
pub mod pki;
pub mod quic;
#[cfg(test)]
mod test_net;
mod tls;
mod warnings;

pub mod memory;
#[cfg(test)]
mod memory_tests;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::model::ids::NodeId;

pub use name::{fleet_of, node_id_of};
pub use tls::{TlsError, default_crypto};

/// A boxed future that owns what it needs.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send + 'static>>;

/// What a request is for; decides its stream, its priority and its size limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Failure detector and Raft heartbeats. Small; ahead of everything.
    Heartbeat,
    /// Votes, forwarded commands, read indexes, leadership transfers.
    Control,
    /// Log replication. Groups are spread over a few streams by `key % APPEND_STREAMS`; order holds per key.
    Append { key: u32 },
    /// Snapshots and blobs, in chunks; behind everything else.
    Bulk,
}

/// Number of append streams per peer: enough that one lost packet does not hold all groups up, few enough for quinn's
/// limit of 100 bidirectional streams.
pub const APPEND_STREAMS: u32 = 4;

impl Lane {
    /// Most bytes of one request or reply body on this lane.
    pub const fn max_body_bytes(self) -> usize {
        match self {
            Lane::Heartbeat => 64 << 10,
            Lane::Control => 4 << 20,
            Lane::Append { .. } => 20 << 20,
            Lane::Bulk => 1 << 20,
        }
    }

    /// Most requests to one peer that may wait for their answers on one stream of this kind; more are turned away.
    pub const fn max_unanswered(self) -> usize {
        match self {
            // A peer that leaves this many heartbeats unanswered is long suspected.
            Lane::Heartbeat => 64,
            // Forwarded commands: as many as a busy front keeps in flight.
            Lane::Control => 4096,
            // 64 groups a stream at the largest, with several batches each in flight.
            Lane::Append { .. } => 1024,
            // A window of chunks; more would only wait here instead of at their source.
            Lane::Bulk => 64,
        }
    }
}

/// Why a request got no reply.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TransportError {
    /// Certainly not delivered: no address, no connection, or the queue was full. Safe to retry elsewhere.
    #[error("node {to} cannot be reached: {reason}")]
    Unreachable { to: NodeId, reason: String },
    /// Sent, no reply: connection lost, timed out, or cancelled. The outcome is unknown.
    #[error("no reply from node {to}: {reason}")]
    NoReply { to: NodeId, reason: String },
    /// The peer's handler refused the request.
    #[error("node {to} refused: {reason}")]
    Refused { to: NodeId, reason: String },
    /// Body over the lane's limit; not sent.
    #[error("a message of {len} bytes is over the limit of {limit} bytes")]
    TooLarge { len: usize, limit: usize },
    /// The peer closed the connection since this node is no longer in the fleet.
    #[error("node {to} says that this node was removed from the fleet")]
    Removed { to: NodeId },
}

/// Sends requests to peers. Cheap to clone behind an `Arc`.
pub trait Transport: Send + Sync + 'static {
    /// Sends `body` to `to` and resolves with its reply. The request takes its place in the lane when this is called, not
    /// when the future is first polled; dropping the future forgets the reply but does not unsend.
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, TransportError>>;
    /// Fails every request to `to` that waits for its reply, at once (the peer is suspected).
    fn cancel_pending(&self, to: NodeId);
    /// Says where peers are, and which nodes the fleet has removed. A removed node's connections are closed at once, it
    /// learns why ([`Handler::on_removed`]), and it is never let in again: ids are not reused, so that `removed` only
    /// adds to what was said before. A node in neither list stays as it is: it may have joined since, and shows a
    /// certificate. The own node may be listed or not. Addresses are hints; identity is the certificate's.
    fn set_peers(&self, peers: Vec<(NodeId, SocketAddr)>, removed: Vec<NodeId>);
    /// The address that this node can be reached at, as bound.
    fn local_addr(&self) -> SocketAddr;
    /// Closes all connections and stops listening.
    fn close(&self) -> BoxFuture<()>;
}

/// Answers one request. Dropped unanswered, the sender sees `Refused`.
pub struct Replier {
    /// `None` once answered.
    send: Option<SendAnswer>,
}

type SendAnswer = Box<dyn FnOnce(Result<Bytes, String>) + Send>;

impl Replier {
    /// A replier that hands the answer to `send`, exactly once; for transports.
    pub fn new(send: impl FnOnce(Result<Bytes, String>) + Send + 'static) -> Self {
        Self { send: Some(Box::new(send)) }
    }

    pub fn reply(self, body: Bytes) {
        self.answer(Ok(body));
    }

    /// Refuses, with a reason that the sender can log.
    pub fn refuse(self, reason: impl Into<String>) {
        self.answer(Err(reason.into()));
    }

    fn answer(mut self, answer: Result<Bytes, String>) {
        if let Some(send) = self.send.take() {
            send(answer);
        }
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(send) = self.send.take() {
            send(Err("the handler dropped the request".into()));
        }
    }
}

impl std::fmt::Debug for Replier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Replier")
    }
}

/// Receives requests, in order per lane. Called on the transport's tasks: must not block; long work is spawned.
pub trait Handler: Send + Sync + 'static {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier);
    /// A connection to or from `peer` came up (`true`) or the last one went down.
    fn on_connection(&self, peer: NodeId, up: bool) {
        let _ = (peer, up);
    }
    /// A peer refused this node as removed from the fleet.
    fn on_removed(&self, by: NodeId) {
        let _ = by;
    }
}

/// Answers a joiner, who has no certificate yet, on the joining ALPN. One request, one reply, at most 64 KiB each.
pub trait JoinHandler: Send + Sync + 'static {
    fn on_join(&self, from: SocketAddr, body: Bytes) -> BoxFuture<Result<Bytes, String>>;
}

/// Shared handles, as the composition root passes them around.
pub type TransportRef = Arc<dyn Transport>;
