//! TLS 1.3 and QUIC settings: who is trusted, and every source of time and chance that quinn and rustls take.
//!
//! A peer must present a certificate that the fleet's authority signed for the node id that was dialled; a joiner has
//! none, and gets no further than the joining protocol. Time and randomness come from the runtime parameter, so that a
//! simulation decides them; the one exception is the key exchange, for which it passes its own [`CryptoProvider`].

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::RootCertStore;
use rustls::crypto::{CryptoProvider, GetRandomFailed, SecureRandom};
use rustls::pki_types::UnixTime;
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;

use super::lanes::STREAMS;
use super::pki::Identity;
use crate::consensus::runtime::Runtime;

/// Protocols, told apart by ALPN. A change that older nodes cannot read takes a new name. `longshore-ops/1` is reserved
/// for operators' tools.
pub(super) const ALPN_RAFT: &[u8] = b"longshore-raft/1";
pub(super) const ALPN_JOIN: &[u8] = b"longshore-join/1";

/// A connection on which nothing was heard for this long is given up. Death is detected by heartbeats, much sooner; this
/// only frees what a dead peer holds.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);

/// A packet is sent after this much silence, so that a slow reply does not cost an otherwise silent connection. Never
/// needed between nodes that send heartbeats.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

/// Round trip that is assumed before one was measured: a lost first packet is sent again after three times this.
const INITIAL_RTT: Duration = Duration::from_millis(33);

/// A receiver acknowledges this many packets at once, or what it has after this time (RFC 9000's defaults: every other one, 25 ms). Requests
/// are answered sooner and acknowledged with the answer; a packet that brings nothing else costs as much as one that does.
const ACK_EVERY_PACKETS: u32 = 10;
const ACK_DELAY: Duration = Duration::from_millis(5);

/// Bytes that a peer may send on one stream ahead of our reading it: 40 MB/s at a round trip of 50 ms.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// Streams that carry data towards us: the peer's requests, and the answers to ours.
const INBOUND_STREAMS: u32 = 2 * STREAMS as u32;

/// Enough for every stream's whole window, so that a lane whose receiver is slow never holds the others up.
pub(super) const RECEIVE_WINDOW_BYTES: u32 = INBOUND_STREAMS * STREAM_WINDOW_BYTES;

/// Likewise for what is sent and not acknowledged; twice, since windows move on before acknowledgements arrive.
const SEND_WINDOW_BYTES: u64 = 2 * RECEIVE_WINDOW_BYTES as u64;

/// Bytes that whoever has not yet shown a certificate may have us hold.
pub(super) const STRANGER_WINDOW_BYTES: u32 = 128 << 10;

/// Streams that a stranger may open: the greeting, or the request to join.
const STRANGER_STREAMS: u32 = 1;

/// Streams that a peer may open: the greeting and its lanes.
pub(super) const PEER_STREAMS: u32 = STREAMS as u32 + 1;

/// Attempts that wait to be looked at; quinn refuses more. They are looked at as soon as they come.
const INCOMING_MAX: usize = 256;

/// Bytes of early packets kept per attempt, and for all of them.
const INCOMING_BUFFER_BYTES: u64 = 16 << 10;
const INCOMING_BUFFER_TOTAL_BYTES: u64 = 1 << 20;

/// The operating parameters could not be turned into a TLS configuration.
#[derive(Debug, Clone, thiserror::Error)]
#[error("TLS cannot be set up: {0}")]
pub struct TlsError(String);

impl TlsError {
    fn new(e: impl fmt::Display) -> Self {
        Self(e.to_string())
    }
}

/// The runtime parameter as rustls's and quinn's source of time and randomness.
struct Ambient<R>(PhantomData<fn() -> R>);

impl<R: Runtime> Ambient<R> {
    const INSTANCE: &'static Self = &Self(PhantomData);
}

impl<R> fmt::Debug for Ambient<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ambient")
    }
}

impl<R: Runtime> SecureRandom for Ambient<R> {
    fn fill(&self, buf: &mut [u8]) -> Result<(), GetRandomFailed> {
        R::entropy(buf);
        Ok(())
    }
}

impl<R: Runtime> TimeProvider for Ambient<R> {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(R::unix_time_ms())))
    }
}

impl<R: Runtime> quinn::TimeSource for Ambient<R> {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(R::unix_time_ms())
    }
}

/// Random connection ids.
struct ConnectionIds<R>(PhantomData<fn() -> R>);

const CONNECTION_ID_BYTES: usize = 8;

impl<R: Runtime> quinn::ConnectionIdGenerator for ConnectionIds<R> {
    fn generate_cid(&mut self) -> quinn::ConnectionId {
        random_connection_id::<R, CONNECTION_ID_BYTES>()
    }
    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }
    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn random_connection_id<R: Runtime, const N: usize>() -> quinn::ConnectionId {
    let mut bytes = [0u8; N];
    R::entropy(&mut bytes);
    quinn::ConnectionId::new(&bytes)
}

/// ring's algorithms, TLS 1.3 only, with the runtime's randomness.
pub fn default_crypto<R: Runtime>() -> CryptoProvider {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites.retain(|suite| suite.tls13().is_some());
    provider.secure_random = Ambient::<R>::INSTANCE;
    provider
}

/// Settings of the endpoint. `secret` makes the tokens by which a peer recognises that its connection is gone; from the
/// node's key, so that a restarted node can tell its peers at once.
pub(super) fn endpoint_config<R: Runtime>(secret: &[u8; 32]) -> quinn::EndpointConfig {
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let mut config = quinn::EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(ConnectionIds::<R>(PhantomData)));
    let mut seed = [0u8; 32];
    R::entropy(&mut seed);
    config.rng_seed(Some(seed));
    config
}

fn transport_config(streams: u32, receive_window: u32) -> Arc<quinn::TransportConfig> {
    let mut config = quinn::TransportConfig::default();
    let mut acks = quinn::AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(ACK_EVERY_PACKETS.into()).max_ack_delay(Some(ACK_DELAY));
    let idle = quinn::IdleTimeout::try_from(IDLE_TIMEOUT).expect("three seconds fit in QUIC's range");
    config
        .max_idle_timeout(Some(idle))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .max_concurrent_bidi_streams(streams.into())
        .max_concurrent_uni_streams(0u32.into())
        .datagram_receive_buffer_size(None)
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(receive_window.into())
        .send_window(SEND_WINDOW_BYTES)
        .ack_frequency_config(Some(acks));
    Arc::new(config)
}

fn roots(identity: &Identity) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority().clone()).map_err(TlsError::new)?;
    Ok(Arc::new(roots))
}

/// What this node answers connections with. A client certificate is checked when there is one; that a peer has one is
/// checked after the handshake, since only joiners may do without.
pub(super) fn server_config<R: Runtime>(
    identity: &Identity,
    crypto: &Arc<CryptoProvider>,
    token_secret: &[u8; 32],
) -> Result<quinn::ServerConfig, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(identity)?, crypto.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::new)?;
    let mut tls =
        rustls::ServerConfig::builder_with_details(crypto.clone(), Arc::new(Ambient::<R>(PhantomData)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::new)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(identity.chain(), identity.key().to_rustls())
            .map_err(TlsError::new)?;
    tls.alpn_protocols = vec![ALPN_RAFT.to_vec(), ALPN_JOIN.to_vec()];
    // Sessions are never resumed: a removed node must show its certificate again.
    tls.send_tls13_tickets = 0;
    let tls = QuicServerConfig::try_from(tls).map_err(TlsError::new)?;
    let token_key = ring::hkdf::Salt::new(ring::hkdf::HKDF_SHA256, &[]).extract(token_secret);
    let mut config = quinn::ServerConfig::new(Arc::new(tls), Arc::new(token_key));
    config
        .transport_config(transport_config(STRANGER_STREAMS, STRANGER_WINDOW_BYTES))
        .time_source(Arc::new(Ambient::<R>(PhantomData)))
        .max_incoming(INCOMING_MAX)
        .incoming_buffer_size(INCOMING_BUFFER_BYTES)
        .incoming_buffer_size_total(INCOMING_BUFFER_TOTAL_BYTES);
    Ok(config)
}

/// What this node dials its peers with.
pub(super) fn client_config<R: Runtime>(
    identity: &Identity,
    crypto: &Arc<CryptoProvider>,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut tls =
        rustls::ClientConfig::builder_with_details(crypto.clone(), Arc::new(Ambient::<R>(PhantomData)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::new)?
            .with_root_certificates(roots(identity)?)
            .with_client_auth_cert(identity.chain(), identity.key().to_rustls())
            .map_err(TlsError::new)?;
    tls.alpn_protocols = vec![ALPN_RAFT.to_vec()];
    finish_client::<R>(tls, PEER_STREAMS)
}

/// What a joiner dials with: no certificate, and a verifier of its own.
pub(super) fn joiner_config<R: Runtime>(
    verifier: Arc<dyn rustls::client::danger::ServerCertVerifier>,
    crypto: &Arc<CryptoProvider>,
) -> Result<quinn::ClientConfig, TlsError> {
    let mut tls =
        rustls::ClientConfig::builder_with_details(crypto.clone(), Arc::new(Ambient::<R>(PhantomData)))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::new)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
    finish_client::<R>(tls, 0)
}

fn finish_client<R: Runtime>(
    mut tls: rustls::ClientConfig,
    streams: u32,
) -> Result<quinn::ClientConfig, TlsError> {
    tls.resumption = rustls::client::Resumption::disabled();
    let tls = QuicClientConfig::try_from(tls).map_err(TlsError::new)?;
    let mut config = quinn::ClientConfig::new(Arc::new(tls));
    config.transport_config(transport_config(streams, RECEIVE_WINDOW_BYTES));
    config.initial_dst_cid_provider(Arc::new(random_connection_id::<R, 20>));
    Ok(config)
}
