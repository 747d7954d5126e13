//! The transport over QUIC: one UDP socket, one connection per peer, mutual TLS.
//!
//! Owns the endpoint and what it knows of peers. Needs a [`Runtime`] for tasks and time; quinn's own drivers run on the
//! [`quinn::Runtime`] that comes with the socket. Must never: send to a node that the fleet has removed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::Instant as _;
use rustls::crypto::CryptoProvider;

use super::agenda::Agenda;
use super::endpoint::{self, Core, CoreParts, Directory};
use super::link::CloseCode;
use super::peer::{Peer, Why};
use super::pki::Identity;
use super::tls::{self, TlsError};
use super::{BoxFuture, Handler, JoinHandler, Lane, Transport, TransportError};
use crate::consensus::runtime::Runtime;
use crate::model::ids::NodeId;

/// How long closing waits for peers to be told.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);

const RESET_SECRET: &str = "longshore 2026-11 quic stateless reset key";
const TOKEN_SECRET: &str = "longshore 2026-11 quic retry token key";

/// A UDP socket, and the runtime that quinn's drivers run on: the operating system's, or a simulation's.
#[derive(Debug, Clone)]
pub struct QuicSocket {
    socket: Arc<dyn quinn::AsyncUdpSocket>,
    runtime: Arc<dyn quinn::Runtime>,
}

impl QuicSocket {
    /// A bound socket, on tokio. Must be called within a tokio runtime.
    pub fn from_std(socket: std::net::UdpSocket) -> io::Result<Self> {
        let runtime: Arc<dyn quinn::Runtime> = Arc::new(quinn::TokioRuntime);
        let socket = runtime.wrap_udp_socket(socket)?;
        Ok(Self { socket, runtime })
    }

    /// Any socket and runtime that quinn can use; for simulations.
    pub fn from_parts(socket: Arc<dyn quinn::AsyncUdpSocket>, runtime: Arc<dyn quinn::Runtime>) -> Self {
        Self { socket, runtime }
    }

    pub(super) fn endpoint(
        self,
        config: quinn::EndpointConfig,
        server: Option<quinn::ServerConfig>,
    ) -> io::Result<quinn::Endpoint> {
        quinn::Endpoint::new_with_abstract_socket(config, server, self.socket, self.runtime)
    }
}

/// What a transport is made of.
pub struct QuicOptions {
    pub identity: Identity,
    pub socket: QuicSocket,
    pub handler: Arc<dyn Handler>,
    /// Who answers joiners; without, they are turned away.
    pub join: Option<Arc<dyn JoinHandler>>,
    /// Cryptography; [`tls::default_crypto`] unless a simulation needs another key exchange. All other randomness, and
    /// the time, are the runtime's.
    pub crypto: Option<CryptoProvider>,
}

impl std::fmt::Debug for QuicOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicOptions").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// The transport could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the UDP socket cannot be used: {0}")]
    Socket(#[from] io::Error),
}

/// The transport over QUIC. Closes when dropped.
pub struct QuicTransport<R: Runtime> {
    core: Arc<Core<R>>,
    local_addr: SocketAddr,
}

impl<R: Runtime> std::fmt::Debug for QuicTransport<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicTransport")
            .field("node", &self.core.me)
            .field("local_addr", &self.local_addr)
            .finish()
    }
}

impl<R: Runtime> QuicTransport<R> {
    /// Starts to listen. Peers are dialled once they are known and something is to be sent to them.
    pub fn start(options: QuicOptions) -> Result<Arc<Self>, StartError> {
        let QuicOptions { identity, socket, handler, join, crypto } = options;
        let crypto = Arc::new(crypto.unwrap_or_else(tls::default_crypto::<R>));
        let server = tls::server_config::<R>(&identity, &crypto, &identity.key().derive(TOKEN_SECRET))?;
        let client = tls::client_config::<R>(&identity, &crypto)?;
        let config = tls::endpoint_config::<R>(&identity.key().derive(RESET_SECRET));
        let endpoint = socket.endpoint(config, Some(server))?;
        let local_addr = endpoint.local_addr()?;
        let agenda = Arc::new(Agenda::default());
        let (me, fleet) = (identity.node(), identity.fleet());
        let core = Core::new(CoreParts { me, fleet, endpoint, client, handler, join, agenda });
        drop(R::spawn(endpoint::supervise(core.clone())));
        drop(R::spawn(endpoint::accept(core.clone())));
        Ok(Arc::new(Self { core, local_addr }))
    }

    /// Connections that are open at present, those that are being set up or wound down included.
    pub fn open_connections(&self) -> usize {
        self.core.endpoint.open_connections()
    }

    fn peer(&self, node: NodeId) -> Option<Arc<Peer<R>>> {
        self.core.directory.lock().peers.get(&node).cloned()
    }

    fn shut(&self) {
        let peers = {
            let mut directory = self.core.directory.lock();
            directory.closed = true;
            std::mem::take(&mut directory.peers)
        };
        self.core.agenda.close();
        for peer in peers.into_values() {
            peer.end(Why::Unreachable("the transport is closed".into()), CloseCode::Shutdown);
        }
        self.core.endpoint.close((CloseCode::Shutdown as u32).into(), b"shutting down");
    }
}

impl<R: Runtime> Drop for QuicTransport<R> {
    fn drop(&mut self) {
        self.shut();
    }
}

fn failed(error: TransportError) -> BoxFuture<Result<Bytes, TransportError>> {
    Box::pin(std::future::ready(Err(error)))
}

impl<R: Runtime> Transport for QuicTransport<R> {
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let (len, limit) = (body.len(), lane.max_body_bytes());
        if len > limit {
            return failed(TransportError::TooLarge { len, limit });
        }
        let Some(peer) = self.peer(to) else {
            return failed(TransportError::Unreachable { to, reason: "it is not a known node".into() });
        };
        match peer.enqueue(lane, body) {
            Ok(waiter) => Box::pin(peer.wait(waiter, R::Instant::now() + timeout)),
            Err(error) => failed(error),
        }
    }

    fn cancel_pending(&self, to: NodeId) {
        if let Some(peer) = self.peer(to) {
            peer.cancel_pending();
        }
    }

    fn set_peers(&self, peers: Vec<(NodeId, SocketAddr)>, removed: Vec<NodeId>) {
        let mut directory = self.core.directory.lock();
        if directory.closed {
            return;
        }
        directory.removed.extend(removed);
        for (node, address) in peers {
            if node != self.core.me && !directory.removed.contains(&node) {
                let new = || Peer::new(node, self.core.agenda.clone());
                directory.peers.entry(node).or_insert_with(new).set_address(address);
            }
        }
        let Directory { peers, removed, .. } = &mut *directory;
        let gone: Vec<_> = peers.extract_if(.., |node, _| removed.contains(node)).collect();
        drop(directory);
        for (_, peer) in gone {
            peer.end(Why::Unreachable("it was removed from the fleet".into()), CloseCode::Removed);
        }
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    fn close(&self) -> BoxFuture<()> {
        self.shut();
        let endpoint = self.core.endpoint.clone();
        Box::pin(async move {
            // Peers that do not acknowledge find out by themselves.
            let _ = R::timeout(CLOSE_TIMEOUT, endpoint.wait_idle()).await;
        })
    }
}

#[cfg(test)]
#[path = "quic_tests.rs"]
pub(super) mod tests;
