//! The production transport over simulated datagrams: quinn and rustls, with every source of chance the run's own.
//!
//! The ciphertext of a run is the same byte for byte each time. Besides what the transport takes from its runtime parameter, that
//! needs a key exchange of ours: ring's draws on the operating system.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use longshore_node::node::{Network, Seed};
use longshore_raft::transport::join::{self, JoinError};
use longshore_raft::transport::pki::Identity;
use longshore_raft::transport::quic::{QuicOptions, QuicTransport};
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, TransportRef, default_crypto};
use rustls::crypto::{ActiveKeyExchange, CryptoProvider, SharedSecret, SupportedKxGroup};
use rustls::{NamedGroup, PeerMisbehaved};
use x25519_dalek::{PublicKey, StaticSecret};

use super::datagram;
use super::fabric::Fabric;
use super::join::resolve;
use crate::plan::HostId;
use crate::runtime::{SimRuntime, current};

/// QUIC's port of one process.
pub(super) struct QuicNetwork {
    fabric: Arc<Fabric>,
    host: HostId,
}

impl QuicNetwork {
    /// Called in the process's context.
    pub(super) fn new(fabric: &Arc<Fabric>, host: HostId) -> Self {
        Self { fabric: fabric.clone(), host }
    }

    fn address(&self) -> SocketAddr {
        Fabric::address(self.host)
    }
}

impl Network for QuicNetwork {
    fn start(
        &self,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        join: Arc<dyn JoinHandler>,
    ) -> Result<TransportRef, String> {
        let socket = datagram::bind(&self.fabric, self.host, self.address()).map_err(|e| e.to_string())?;
        let options = QuicOptions {
            identity: identity.clone(),
            socket,
            handler,
            join: Some(join),
            crypto: Some(deterministic_crypto()),
        };
        let transport = QuicTransport::<SimRuntime>::start(options).map_err(|e| e.to_string())?;
        Ok(transport)
    }

    fn join(
        &self,
        seeds: Vec<Seed>,
        authority: [u8; 32],
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, JoinError>> {
        let (fabric, host) = (self.fabric.clone(), self.host);
        Box::pin(async move {
            let addresses = resolve(&seeds)?;
            let socket = datagram::bind(&fabric, host, fabric.ephemeral(host))
                .map_err(|e| JoinError::Protocol(format!("no UDP socket: {e}")))?;
            let crypto = Some(deterministic_crypto());
            join::request::<SimRuntime>(socket, &addresses, authority, request, crypto).await
        })
    }
}

/// Production's algorithms with the current context's randomness.
fn deterministic_crypto() -> CryptoProvider {
    CryptoProvider { kx_groups: vec![&X25519], ..default_crypto::<SimRuntime>() }
}

/// X25519 (RFC 7748) with secrets from the current context.
#[derive(Debug)]
struct X25519;

struct X25519Exchange {
    secret: StaticSecret,
    public: PublicKey,
}

impl SupportedKxGroup for X25519 {
    fn start(&self) -> Result<Box<dyn ActiveKeyExchange>, rustls::Error> {
        let mut bytes = [0u8; 32];
        current().fill(&mut bytes);
        let secret = StaticSecret::from(bytes);
        let public = PublicKey::from(&secret);
        Ok(Box::new(X25519Exchange { secret, public }))
    }

    fn name(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}

impl ActiveKeyExchange for X25519Exchange {
    fn complete(self: Box<Self>, peer: &[u8]) -> Result<SharedSecret, rustls::Error> {
        let invalid = rustls::Error::PeerMisbehaved(PeerMisbehaved::InvalidKeyShare);
        let Ok(peer) = <[u8; 32]>::try_from(peer) else { return Err(invalid) };
        let shared = self.secret.diffie_hellman(&PublicKey::from(peer));
        // RFC 8446, section 7.4.2: an all-zero result is refused.
        if !shared.was_contributory() {
            return Err(invalid);
        }
        Ok(SharedSecret::from(&shared.as_bytes()[..]))
    }

    fn pub_key(&self) -> &[u8] {
        self.public.as_bytes()
    }

    fn group(&self) -> NamedGroup {
        NamedGroup::X25519
    }
}
