//! Joining: one request from a node that has no certificate yet, and its reply.
//!
//! The joiner knows the fingerprint of the fleet's authority from its token, and sends nothing before the other side has
//! shown a certificate under that very authority. The server takes one bounded request per connection, from a bounded
//! number of joiners. Must never: interpret a request; whether it is granted is the [`super::JoinHandler`]'s business.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::sync::OwnedSemaphorePermit;

use super::endpoint::Core;
use super::frame::reason_bytes;
use super::link::{CloseCode, close};
use super::name;
use super::pki::fingerprint;
use super::quic::QuicSocket;
use super::tls::{self, TlsError};
use crate::consensus::runtime::Runtime;

/// Most bytes of a request to join, and of its reply.
pub const JOIN_MAX_BYTES: usize = 64 << 10;

/// A joiner that has connected must send its request within this.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// The fleet must decide within this: a few elections, and a write to the log.
pub const DECISION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the server waits for a reply to be read.
const LINGER: Duration = Duration::from_secs(2);
/// How long a joiner tries one address.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a joiner waits for the reply; longer than the server takes to decide.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(30);
/// Addresses that are tried; more is a mistake.
pub const ADDRESSES_MAX: usize = 64;

/// First byte of a reply.
const GRANTED: u8 = 0;
const REFUSED: u8 = 1;

/// The name that a joiner asks for: it does not know a node's.
const ANY_NODE: &str = "join.longshore";

/// Why joining failed.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Nothing was sent. Try other addresses, or later.
    #[error("no node of the fleet could be reached: {}", list(.0))]
    Unreachable(Vec<(SocketAddr, String)>),
    /// Nothing was sent. The token is of another fleet, or that is not the fleet's address.
    #[error("the node at {address} belongs to another fleet than the join token (its certificate authority is {}, not {})",
            hex(.found), hex(.expected))]
    CaMismatch { address: SocketAddr, expected: [u8; 32], found: [u8; 32] },
    /// The fleet decided against it.
    #[error("the fleet refused: {0}")]
    Refused(String),
    /// Sent, but no reply came: the join may have been carried out. Joining again with the same key is safe only if the
    /// fleet recognises it.
    #[error("no reply from {address}, so that the outcome is not known: {reason}")]
    NoReply { address: SocketAddr, reason: String },
    /// The other side does not speak this protocol, or what was asked is over its limits.
    #[error("{0}")]
    Protocol(String),
}

impl From<TlsError> for JoinError {
    fn from(error: TlsError) -> Self {
        Self::Protocol(error.to_string())
    }
}

fn list(failures: &[(SocketAddr, String)]) -> String {
    let each: Vec<String> = failures.iter().map(|(address, reason)| format!("{address}: {reason}")).collect();
    each.join("; ")
}

fn hex(fingerprint: &[u8; 32]) -> String {
    data_encoding::HEXLOWER.encode(&fingerprint[..8])
}

/// Asks the fleet whose authority has the fingerprint `authority` to let this node in. Tries `addresses` in their order
/// until one takes the request. `body` and the reply are at most [`JOIN_MAX_BYTES`].
pub async fn request<R: Runtime>(
    socket: QuicSocket,
    addresses: &[SocketAddr],
    authority: [u8; 32],
    body: Bytes,
    crypto: Option<CryptoProvider>,
) -> Result<Bytes, JoinError> {
    if body.len() > JOIN_MAX_BYTES {
        let len = body.len();
        return Err(JoinError::Protocol(format!(
            "a request of {len} bytes is over the limit of {JOIN_MAX_BYTES}"
        )));
    }
    if addresses.len() > ADDRESSES_MAX {
        return Err(JoinError::Protocol(format!("more than {ADDRESSES_MAX} addresses to join")));
    }
    let crypto = Arc::new(crypto.unwrap_or_else(tls::default_crypto::<R>));
    let mut secret = [0u8; 32];
    R::entropy(&mut secret);
    let endpoint = socket
        .endpoint(tls::endpoint_config::<R>(&secret), None)
        .map_err(|e| JoinError::Protocol(format!("the UDP socket cannot be used: {e}")))?;
    let mut failures = Vec::new();
    let mut mismatch = None;
    for &address in addresses {
        let verifier = Arc::new(AuthorityVerifier::new(authority, crypto.clone()));
        let config = tls::joiner_config::<R>(verifier.clone(), &crypto)?;
        match ask::<R>(&endpoint, config, address, body.clone()).await {
            Ok(reply) => return finish(&endpoint, reply),
            Err(Attempt::Unsent(reason)) => match verifier.mismatch() {
                Some(found) => mismatch = Some(JoinError::CaMismatch { address, expected: authority, found }),
                None => failures.push((address, reason)),
            },
            Err(Attempt::Unanswered(reason)) => return Err(JoinError::NoReply { address, reason }),
        }
    }
    Err(mismatch.unwrap_or(JoinError::Unreachable(failures)))
}

fn finish(endpoint: &quinn::Endpoint, mut reply: Bytes) -> Result<Bytes, JoinError> {
    endpoint.close((CloseCode::Done as u32).into(), b"");
    if reply.is_empty() {
        return Err(JoinError::Protocol("the reply is empty".into()));
    }
    let rest = reply.split_off(1);
    match reply[0] {
        GRANTED => Ok(rest),
        REFUSED => Err(JoinError::Refused(String::from_utf8_lossy(&rest).into_owned())),
        other => Err(JoinError::Protocol(format!("the reply begins with {other}, which is unknown"))),
    }
}

/// How an attempt at one address failed.
enum Attempt {
    Unsent(String),
    Unanswered(String),
}

async fn ask<R: Runtime>(
    endpoint: &quinn::Endpoint,
    config: quinn::ClientConfig,
    address: SocketAddr,
    body: Bytes,
) -> Result<Bytes, Attempt> {
    let unsent = |e: &dyn fmt::Display| Attempt::Unsent(e.to_string());
    let connecting = endpoint.connect_with(config, address, ANY_NODE).map_err(|e| unsent(&e))?;
    let connection = match R::timeout(CONNECT_TIMEOUT, connecting).await {
        Ok(connection) => connection.map_err(|e| unsent(&e))?,
        Err(_) => return Err(Attempt::Unsent(format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()))),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| unsent(&e))?;
    let exchange = async {
        send.write_all(&body).await.map_err(|e| e.to_string())?;
        send.finish().map_err(|e| e.to_string())?;
        recv.read_to_end(JOIN_MAX_BYTES + 1).await.map_err(|e| e.to_string())
    };
    let reason = match R::timeout(REPLY_TIMEOUT, exchange).await {
        Ok(Ok(reply)) => return Ok(reply.into()),
        Ok(Err(reason)) => reason,
        Err(_) => format!("nothing within {} s", REPLY_TIMEOUT.as_secs()),
    };
    match connection.close_reason() {
        // Said before the request is looked at.
        Some(error) if matches!(CloseCode::of(&error), Some(CloseCode::Busy | CloseCode::Unauthorised)) => {
            Err(Attempt::Unsent(error.to_string()))
        }
        _ => Err(Attempt::Unanswered(reason)),
    }
}

/// Accepts any certificate of a node under the one authority that has the expected fingerprint.
struct AuthorityVerifier {
    expected: [u8; 32],
    crypto: Arc<CryptoProvider>,
    /// Fingerprint of the authority that the server showed, when it was another.
    mismatch: Mutex<Option<[u8; 32]>>,
}

impl fmt::Debug for AuthorityVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorityVerifier")
    }
}

impl AuthorityVerifier {
    fn new(expected: [u8; 32], crypto: Arc<CryptoProvider>) -> Self {
        Self { expected, crypto, mismatch: Mutex::new(None) }
    }

    fn mismatch(&self) -> Option<[u8; 32]> {
        *self.mismatch.lock()
    }
}

impl ServerCertVerifier for AuthorityVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(authority) = intermediates.iter().find(|c| fingerprint(c) == self.expected) else {
            let shown = intermediates.last().unwrap_or(end_entity);
            *self.mismatch.lock() = Some(fingerprint(shown));
            return Err(CertificateError::UnknownIssuer.into());
        };
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let algorithms = self.crypto.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, algorithms)?;
        let bad_name = |_| rustls::Error::from(CertificateError::NotValidForName);
        let fleet = name::fleet_of(authority).map_err(bad_name)?;
        name::node_id_of(end_entity, fleet).map_err(bad_name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.crypto.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.crypto.signature_verification_algorithms.supported_schemes()
    }
}

/// Serves one joiner. `_handshake` is held until it is done, so that joiners never crowd peers out beyond their share.
pub(super) async fn serve<R: Runtime>(
    core: &Core<R>,
    connection: quinn::Connection,
    _handshake: OwnedSemaphorePermit,
) {
    let Some(handler) = &core.join else {
        return close(&connection, CloseCode::Unauthorised, "this node does not take joiners");
    };
    let Ok(_place) = core.joins.clone().try_acquire_owned() else {
        return close(&connection, CloseCode::Busy, "too many nodes are joining; try again");
    };
    let read = async {
        let (send, mut recv) = connection.accept_bi().await.map_err(|e| e.to_string())?;
        let body = recv.read_to_end(JOIN_MAX_BYTES).await.map_err(|e| e.to_string())?;
        Ok::<_, String>((send, Bytes::from(body)))
    };
    let (mut send, body) = match R::timeout(REQUEST_TIMEOUT, read).await {
        Ok(Ok(request)) => request,
        Ok(Err(reason)) => {
            tracing::debug!(address = %connection.remote_address(), reason, "a joiner sent no request");
            return close(&connection, CloseCode::Violation, "no request, or one over the limit");
        }
        Err(_) => return close(&connection, CloseCode::Violation, "no request came"),
    };
    let decided = R::timeout(DECISION_TIMEOUT, handler.on_join(connection.remote_address(), body)).await;
    let mut reply = BytesMut::new();
    match decided {
        Ok(Ok(body)) if body.len() <= JOIN_MAX_BYTES => {
            reply.extend_from_slice(&[GRANTED]);
            reply.extend_from_slice(&body);
        }
        Ok(Err(reason)) => {
            reply.extend_from_slice(&[REFUSED]);
            reply.extend_from_slice(&reason_bytes(reason));
        }
        // What was done stands; to the joiner the outcome is unknown.
        Ok(Ok(_)) => return close(&connection, CloseCode::Violation, "the reply is over the limit"),
        Err(_) => return close(&connection, CloseCode::Shutdown, "the fleet did not decide in time"),
    }
    if send.write_chunk(reply.freeze()).await.is_ok() && send.finish().is_ok() {
        // Closing at once could overtake the reply.
        let _ = R::timeout(LINGER, connection.closed()).await;
    }
}

#[cfg(test)]
#[path = "join_tests.rs"]
mod tests;
