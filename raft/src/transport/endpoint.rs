//! How connections come to be: dialling, answering, and the greeting by which two nodes agree on one connection.
//!
//! After the TLS handshake the dialler opens a stream and says hello; the other side welcomes it, waits for its own dial
//! to settle, or closes. Nothing is sent before the welcome, so that a refused connection never leaves an outcome
//! unknown. Must never: take a node for another than its certificate says, or serve a stranger but for joining.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Buf, BufMut};
use openraft_rt::Instant as _;
use parking_lot::Mutex;
use quinn::crypto::rustls::HandshakeData;
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::admission::Stamp;
use super::agenda::Agenda;
use super::link::{CloseCode, Link, close};
use super::name;
use super::peer::{Admission, Peer, Why};
use super::tls::{ALPN_JOIN, ALPN_RAFT, PEER_STREAMS, RECEIVE_WINDOW_BYTES};
use super::warnings::Warnings;
use super::{Handler, JoinHandler, join};
use crate::consensus::runtime::Runtime;
use crate::model::ids::{FleetId, NodeId};

/// A dial that takes longer is given up: many round trips on any network, and short against a person's patience.
const DIAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Likewise for whoever dials us, from the first packet until the greeting.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a peer's dial waits for ours to settle. Ours may be to an address that the peer has left.
const WAIT_FOR_OWN_DIAL: Duration = Duration::from_millis(250);

/// Strangers whose handshakes may be under way at a time; each may have us hold `STRANGER_WINDOW_BYTES`.
const HANDSHAKES_MAX: usize = 64;
/// With fewer places left than this, a stranger must first prove that its address is its own.
const HANDSHAKES_UNCHECKED: usize = HANDSHAKES_MAX / 2;
/// Joiners served at a time. Each costs a signature and a write to the log.
const JOINS_MAX: usize = 8;
/// Nodes that are known at a time: far more than a fleet may have, so that certificates alone cannot fill memory.
const PEERS_MAX: usize = 8192;

/// Hello and welcome: magic, version, then the sender's stamp. Big endian.
const GREETING_BYTES: usize = 20;
const GREETING_MAGIC: u32 = u32::from_be_bytes(*b"LSG\x01");

/// What all tasks of a transport share.
pub(super) struct Core<R: Runtime> {
    pub(super) me: NodeId,
    pub(super) fleet: FleetId,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) client: quinn::ClientConfig,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) join: Option<Arc<dyn JoinHandler>>,
    pub(super) agenda: Arc<Agenda<R>>,
    /// Locked before any peer's state.
    pub(super) directory: Mutex<Directory<R>>,
    pub(super) handshakes: Arc<Semaphore>,
    pub(super) joins: Arc<Semaphore>,
    /// Of whoever is not a known peer.
    warnings: Warnings<R>,
    incarnation: u64,
    sequence: AtomicU64,
    generation: AtomicU64,
}

pub(super) struct Directory<R: Runtime> {
    /// Invariant: holds no removed node.
    pub(super) peers: BTreeMap<NodeId, Arc<Peer<R>>>,
    /// Only grows; as long as the fleet's own list of those who left.
    pub(super) removed: BTreeSet<NodeId>,
    pub(super) closed: bool,
}

pub(super) struct CoreParts<R: Runtime> {
    pub(super) me: NodeId,
    pub(super) fleet: FleetId,
    pub(super) endpoint: quinn::Endpoint,
    pub(super) client: quinn::ClientConfig,
    pub(super) handler: Arc<dyn Handler>,
    pub(super) join: Option<Arc<dyn JoinHandler>>,
    pub(super) agenda: Arc<Agenda<R>>,
}

impl<R: Runtime> Core<R> {
    pub(super) fn new(parts: CoreParts<R>) -> Arc<Self> {
        let CoreParts { me, fleet, endpoint, client, handler, join, agenda } = parts;
        let mut incarnation = [0u8; 8];
        R::entropy(&mut incarnation);
        let directory = Directory { peers: BTreeMap::new(), removed: BTreeSet::new(), closed: false };
        Arc::new(Self {
            me,
            fleet,
            endpoint,
            client,
            handler,
            join,
            agenda,
            directory: Mutex::new(directory),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            joins: Arc::new(Semaphore::new(JOINS_MAX)),
            warnings: Warnings::default(),
            incarnation: u64::from_be_bytes(incarnation),
            sequence: AtomicU64::new(1),
            generation: AtomicU64::new(1),
        })
    }

    fn stamp(&self) -> Stamp {
        Stamp { incarnation: self.incarnation, sequence: self.sequence.fetch_add(1, Ordering::Relaxed) }
    }

    fn link(&self, connection: quinn::Connection) -> Arc<Link> {
        Link::new(self.generation.fetch_add(1, Ordering::Relaxed), connection)
    }

    fn warn(&self, address: SocketAddr, why: &str) {
        self.warnings.give(|withheld| tracing::warn!(%address, withheld, "refused a connection: {why}"));
    }

    /// The entry of a node that has connected; one that is not known yet may be newer than what we know.
    fn peer_that_connects(&self, node: NodeId) -> Result<Arc<Peer<R>>, (CloseCode, &'static str)> {
        let mut directory = self.directory.lock();
        if directory.closed {
            return Err((CloseCode::Shutdown, "shutting down"));
        }
        if node == self.me {
            return Err((
                CloseCode::Unauthorised,
                "this node has the same id; is a data folder in use twice?",
            ));
        }
        if directory.removed.contains(&node) {
            return Err((CloseCode::Removed, "this node was removed from the fleet"));
        }
        if directory.peers.len() >= PEERS_MAX && !directory.peers.contains_key(&node) {
            return Err((CloseCode::Busy, "too many nodes"));
        }
        Ok(directory.peers.entry(node).or_insert_with(|| Peer::new(node, self.agenda.clone())).clone())
    }
}

/// Works the agenda off: dials, and tells the handler of connections.
pub(super) async fn supervise<R: Runtime>(core: Arc<Core<R>>) {
    while let Some(peer) = core.agenda.next().await {
        let steps = peer.steps();
        if let Some((attempt, address)) = steps.dial {
            drop(R::spawn(dial(core.clone(), peer.clone(), attempt, address)));
        }
        if steps.announce_down {
            core.handler.on_connection(peer.id, false);
        }
        if steps.announce_up {
            core.handler.on_connection(peer.id, true);
        }
        if steps.announce_removed {
            core.handler.on_removed(peer.id);
        }
    }
}

/// Why a dial led to no connection.
struct DialEnd {
    why: Why,
    /// Likely to last, so that the next pause is longer.
    failed: bool,
}

impl From<String> for DialEnd {
    fn from(reason: String) -> Self {
        Self { why: Why::Unreachable(reason), failed: true }
    }
}

async fn dial<R: Runtime>(core: Arc<Core<R>>, peer: Arc<Peer<R>>, attempt: u64, address: SocketAddr) {
    let dialled = R::timeout(DIAL_TIMEOUT, connect(&core, &peer, attempt, address)).await;
    let end = match dialled {
        Ok(Ok(link)) => return link.run(peer, core.handler.clone()).await,
        Ok(Err(end)) => end,
        Err(_) => format!("no answer from {address} within {} s", DIAL_TIMEOUT.as_secs()).into(),
    };
    tracing::debug!(peer = %peer.id, %address, why = ?end.why, "dial failed");
    peer.dial_ended(attempt, end.why, end.failed);
}

async fn connect<R: Runtime>(
    core: &Core<R>,
    peer: &Arc<Peer<R>>,
    attempt: u64,
    address: SocketAddr,
) -> Result<Arc<Link>, DialEnd> {
    let name = name::dns_name(peer.id, core.fleet);
    let connecting = core
        .endpoint
        .connect_with(core.client.clone(), address, &name)
        .map_err(|e| format!("cannot dial {address}: {e}"))?;
    let connection = connecting.await.map_err(|e| lost(&e, address))?;
    // The handshake has checked the name already; what an identity rests on is worth checking by the id, too.
    if certified_node(&connection, core.fleet) != Some(peer.id) {
        close(&connection, CloseCode::Unauthorised, "another node answered");
        return Err(format!("another node answered at {address}").into());
    }
    let superseded =
        || DialEnd { why: Why::Unreachable("another connection was made".into()), failed: false };
    let broken = |what: String| match connection.close_reason() {
        Some(error) => lost(&error, address),
        None => what.into(),
    };
    let (mut send, mut recv) = connection.open_bi().await.map_err(|e| lost(&e, address))?;
    let Some(ours) = peer.may_greet(attempt, || core.stamp()) else {
        close(&connection, CloseCode::Superseded, "another connection is in use");
        return Err(superseded());
    };
    send.write_all(&encode_greeting(ours)).await.map_err(|e| broken(e.to_string()))?;
    // Nothing follows the hello; should finishing fail, so does reading the welcome.
    let _ = send.finish();
    let mut welcome = [0u8; GREETING_BYTES];
    recv.read_exact(&mut welcome).await.map_err(|e| broken(e.to_string()))?;
    let theirs = decode_greeting(welcome).ok_or_else(|| String::from("its welcome makes no sense"))?;
    let link = core.link(connection.clone());
    if !peer.dialled(attempt, &link, theirs) {
        link.close(CloseCode::Superseded, "another connection is in use");
        return Err(superseded());
    }
    tracing::debug!(peer = %peer.id, %address, "connected");
    Ok(link)
}

fn lost(error: &quinn::ConnectionError, address: SocketAddr) -> DialEnd {
    let failed = CloseCode::of(error) != Some(CloseCode::Superseded);
    let why = match Why::from(error) {
        Why::Unreachable(reason) => Why::Unreachable(format!("{address}: {reason}")),
        Why::Removed => Why::Removed,
    };
    DialEnd { why, failed }
}

/// Answers whoever connects, until the endpoint is closed.
pub(super) async fn accept<R: Runtime>(core: Arc<Core<R>>) {
    while let Some(incoming) = core.endpoint.accept().await {
        let Ok(permit) = core.handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let crowded = core.handshakes.available_permits() < HANDSHAKES_UNCHECKED;
        if crowded && !incoming.remote_address_validated() {
            // An address that has just been validated is never asked again, so that this cannot fail.
            let _ = incoming.retry();
            continue;
        }
        drop(R::spawn(answer(core.clone(), incoming, permit)));
    }
}

/// A caller that has passed the handshake.
enum Caller<R: Runtime> {
    Peer { peer: Arc<Peer<R>>, link: Arc<Link>, hello: Stamp, reply: quinn::SendStream },
    Joiner(quinn::Connection),
}

async fn answer<R: Runtime>(core: Arc<Core<R>>, incoming: quinn::Incoming, permit: OwnedSemaphorePermit) {
    let address = incoming.remote_address();
    match R::timeout(HANDSHAKE_TIMEOUT, identify(&core, incoming)).await {
        Ok(Ok(Caller::Peer { peer, link, hello, reply })) => {
            drop(permit);
            if welcome(&core, &peer, &link, hello, reply).await {
                tracing::debug!(peer = %peer.id, %address, "accepted");
                link.run(peer, core.handler.clone()).await;
            }
        }
        // The permit is kept: a joiner remains a stranger.
        Ok(Ok(Caller::Joiner(connection))) => join::serve(&core, connection, permit).await,
        Ok(Err(reason)) => tracing::debug!(%address, reason, "connection refused"),
        Err(_) => tracing::debug!(%address, "handshake timed out"),
    }
}

async fn identify<R: Runtime>(core: &Core<R>, incoming: quinn::Incoming) -> Result<Caller<R>, String> {
    let address = incoming.remote_address();
    let connection = incoming.await.map_err(|e| {
        // A broken handshake is anybody's; a certificate that does not hold is worth knowing of.
        if matches!(e, quinn::ConnectionError::TransportError(_)) {
            core.warn(address, &e.to_string());
        }
        e.to_string()
    })?;
    let refuse = |code: CloseCode, reason: &str| {
        close(&connection, code, reason);
        Err(reason.to_owned())
    };
    match alpn(&connection).as_deref() {
        Some(ALPN_RAFT) => {}
        Some(ALPN_JOIN) => return Ok(Caller::Joiner(connection)),
        _ => return refuse(CloseCode::Violation, "unknown protocol"),
    }
    let Some(node) = certified_node(&connection, core.fleet) else {
        core.warn(address, "it did not show the certificate of a node of this fleet");
        return refuse(CloseCode::Unauthorised, "peers must show the certificate of a node of this fleet");
    };
    let peer = match core.peer_that_connects(node) {
        Ok(peer) => peer,
        Err((code, reason)) => {
            if code == CloseCode::Unauthorised {
                core.warn(address, reason);
            }
            return refuse(code, reason);
        }
    };
    connection.set_receive_window(RECEIVE_WINDOW_BYTES.into());
    connection.set_max_concurrent_bi_streams(PEER_STREAMS.into());
    let (reply, mut recv) = connection.accept_bi().await.map_err(|e| e.to_string())?;
    let mut hello = [0u8; GREETING_BYTES];
    recv.read_exact(&mut hello).await.map_err(|e| e.to_string())?;
    let Some(hello) = decode_greeting(hello) else {
        peer.warn("refused a connection: its greeting makes no sense");
        return refuse(CloseCode::Violation, "the greeting makes no sense");
    };
    Ok(Caller::Peer { peer, link: core.link(connection), hello, reply })
}

/// Decides on a peer's wish to be connected, and says so. `true` if the link is in use now.
async fn welcome<R: Runtime>(
    core: &Core<R>,
    peer: &Arc<Peer<R>>,
    link: &Arc<Link>,
    hello: Stamp,
    mut reply: quinn::SendStream,
) -> bool {
    let deadline = R::Instant::now() + WAIT_FOR_OWN_DIAL;
    let ours = loop {
        let settled = peer.settled();
        let waited = R::Instant::now() >= deadline;
        match peer.admit(core.me, link, hello, waited, || core.stamp()) {
            Admission::Welcome(ours) => break ours,
            Admission::Duplicate => {
                link.close(CloseCode::Superseded, "another connection is in use");
                return false;
            }
            Admission::Gone => {
                let (code, reason) = match core.peer_that_connects(peer.id) {
                    Err(refusal) => refusal,
                    Ok(_) => (CloseCode::Superseded, "this node was removed and came back"),
                };
                link.close(code, reason);
                return false;
            }
            // Either way the question is asked again.
            Admission::Wait => drop(R::timeout_at(deadline, settled).await),
        }
    };
    // Should either fail then the connection is lost, and whoever runs the link learns of it.
    let _ = reply.write_all(&encode_greeting(ours)).await;
    let _ = reply.finish();
    true
}

fn encode_greeting(stamp: Stamp) -> [u8; GREETING_BYTES] {
    let mut bytes = [0u8; GREETING_BYTES];
    let mut out = &mut bytes[..];
    out.put_u32(GREETING_MAGIC);
    out.put_u64(stamp.incarnation);
    out.put_u64(stamp.sequence);
    bytes
}

fn decode_greeting(bytes: [u8; GREETING_BYTES]) -> Option<Stamp> {
    let mut input = &bytes[..];
    (input.get_u32() == GREETING_MAGIC)
        .then(|| Stamp { incarnation: input.get_u64(), sequence: input.get_u64() })
}

fn alpn(connection: &quinn::Connection) -> Option<Vec<u8>> {
    connection.handshake_data()?.downcast::<HandshakeData>().ok()?.protocol
}

/// The node that the other side's certificate names; the handshake has verified its chain.
fn certified_node(connection: &quinn::Connection, fleet: FleetId) -> Option<NodeId> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    name::node_id_of(chain.first()?, fleet).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_round_trip_and_others_are_refused() {
        let stamp = Stamp { incarnation: 0x0123_4567_89ab_cdef, sequence: 42 };
        let bytes = encode_greeting(stamp);
        assert_eq!(decode_greeting(bytes), Some(stamp));
        let mut other_version = bytes;
        other_version[3] = 2;
        assert_eq!(decode_greeting(other_version), None);
        assert_eq!(decode_greeting([0; GREETING_BYTES]), None);
    }
}
