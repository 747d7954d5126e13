//! Whoever does not play by the rules: noise, foreign certificates, and peers that break the protocol.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quinn::ConnectionError;
use rustls::pki_types::CertificateDer;

use super::conformance::{Probe, within};
use super::frame::{Batch, HEADER_BYTES, Kind};
use super::lanes::StreamIndex;
use super::link::CloseCode;
use super::pki::{Authority, Identity};
use super::quic::QuicTransport;
use super::quic::tests::{Loopback, Rt, loopback_socket};
use super::{Lane, Transport, TransportError, name, tls};
use crate::consensus::runtime::Runtime;
use crate::model::ids::{FleetId, NodeId};

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
/// Who misbehaves.
const X: NodeId = NodeId(9);

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rt::entropy(&mut bytes);
    bytes
}

/// A bare QUIC client, with a configuration of the caller's.
fn client(config: quinn::ClientConfig) -> quinn::Endpoint {
    let mut endpoint = loopback_socket().endpoint(tls::endpoint_config::<Rt>(&[1; 32]), None).unwrap();
    endpoint.set_default_client_config(config);
    endpoint
}

fn peer_config(identity: &Identity) -> quinn::ClientConfig {
    tls::client_config::<Rt>(identity, &Arc::new(tls::default_crypto::<Rt>())).unwrap()
}

/// Connects to node A as `identity`, with a valid handshake but no greeting yet.
async fn connect(identity: &Identity, to: SocketAddr) -> quinn::Connection {
    let name = name::dns_name(A, identity.fleet());
    let endpoint = client(peer_config(identity));
    within("a connection", endpoint.connect(to, &name).unwrap()).await.unwrap()
}

async fn greet(connection: &quinn::Connection) {
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut hello = b"LSG\x01".to_vec();
    hello.extend_from_slice(&noise(16));
    send.write_all(&hello).await.unwrap();
    within("the welcome", recv.read_to_end(100)).await.unwrap();
}

async fn close_code(connection: &quinn::Connection) -> Option<CloseCode> {
    let error = within("the connection to be closed", connection.closed()).await;
    CloseCode::of(&error)
}

/// The node goes on serving others.
async fn still_serves(network: &Loopback, node: &Arc<QuicTransport<Rt>>) {
    let b = network.quic(B, Probe::echo());
    b.set_peers(vec![(A, node.local_addr())], vec![]);
    let reply = within("a reply", b.request(A, Lane::Control, "well?".into(), Duration::from_secs(20))).await;
    assert_eq!(reply.unwrap(), "well?");
    b.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_of_noise_change_nothing() {
    let network = Loopback::new();
    let node = network.quic(A, Probe::echo());
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    for len in (0..1400).step_by(7) {
        let mut datagram = noise(len);
        // Half of them look like QUIC's long header, version 1.
        if len > 5 && len % 2 == 0 {
            datagram[..5].copy_from_slice(&[0xc3, 0, 0, 0, 1]);
        }
        // A full socket buffer loses some; that is noise, too.
        let _ = socket.send_to(&datagram, node.local_addr());
    }
    still_serves(&network, &node).await;
    node.close().await;
}

/// What a peer with a valid certificate sends on a stream, and that costs it the connection.
fn violations() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let header = |lane| StreamIndex::of(lane).header().to_vec();
    let frame = |kind, key, id, body: &'static [u8]| {
        let mut batch = Batch::default();
        batch.push(kind, key, id, Bytes::from_static(body));
        batch.chunks().concat()
    };
    let on = |lane, frames: &[Vec<u8>]| [vec![header(lane)], frames.to_vec()].concat().concat();
    let huge = {
        let mut bytes = BytesMut::new();
        bytes.put_u32(u32::MAX);
        bytes.put_bytes(0, HEADER_BYTES - 4);
        bytes.to_vec()
    };
    let request = |id| frame(Kind::Request, 0, id, b"x");
    vec![
        ("noise", vec![noise(500)]),
        ("an unknown lane", vec![vec![b'L', 1, 7, 0]]),
        ("half a lane header, then the end", vec![vec![b'L', 1]]),
        ("a huge length", vec![on(Lane::Bulk, &[huge])]),
        (
            "an unknown kind",
            vec![on(
                Lane::Control,
                &[frame(Kind::Request, 0, 1, b"")
                    .iter()
                    .enumerate()
                    .map(|(i, b)| if i == HEADER_BYTES - 1 { 200 } else { *b })
                    .collect()],
            )],
        ),
        ("an answer to nothing", vec![on(Lane::Control, &[frame(Kind::Reply, 0, 1, b"x")])]),
        ("an id twice", vec![on(Lane::Control, &[request(1), request(1)])]),
        ("ids that go back", vec![on(Lane::Control, &[request(5), request(4)])]),
        ("a key on a lane without", vec![on(Lane::Heartbeat, &[frame(Kind::Request, 7, 1, b"x")])]),
        ("a key of another stream", vec![on(Lane::Append { key: 0 }, &[frame(Kind::Request, 1, 1, b"x")])]),
        ("a lane twice", vec![on(Lane::Control, &[request(1)]), on(Lane::Control, &[request(1)])]),
        ("a lane that ends", vec![on(Lane::Control, &[request(1)])]),
        ("a frame cut short", vec![on(Lane::Control, &[request(1)[..HEADER_BYTES].to_vec()])]),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_breaks_the_protocol_loses_its_connection() {
    let network = Loopback::new();
    let node = network.quic(A, Probe::echo());
    let identity = network.identity(X);
    for (what, streams) in violations() {
        let connection = connect(&identity, node.local_addr()).await;
        greet(&connection).await;
        let mut open = Vec::new();
        for bytes in streams {
            let (mut send, recv) = connection.open_bi().await.unwrap();
            // The node may be faster in closing.
            let _ = send.write_all(&bytes).await;
            let _ = send.finish();
            open.push(recv);
        }
        assert_eq!(close_code(&connection).await, Some(CloseCode::Violation), "{what}");
    }
    still_serves(&network, &node).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn greetings_that_make_no_sense_are_refused() {
    let network = Loopback::new();
    let node = network.quic(A, Probe::echo());
    let identity = network.identity(X);
    let connection = connect(&identity, node.local_addr()).await;
    let (mut send, _recv) = connection.open_bi().await.unwrap();
    send.write_all(&noise(20)).await.unwrap();
    assert_eq!(close_code(&connection).await, Some(CloseCode::Violation));
    still_serves(&network, &node).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_get_no_further_than_the_handshake() {
    let network = Loopback::new();
    let probe = Probe::echo();
    let node = network.quic(A, probe.clone());
    let crypto = Arc::new(tls::default_crypto::<Rt>());
    let address = node.local_addr();
    let name = name::dns_name(A, network.authority.fleet());

    // Without a certificate.
    let bare = |alpn: &[u8]| {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(network.authority.certificate().to_vec())).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        client(quinn::ClientConfig::new(Arc::new(config))).connect(address, &name).unwrap()
    };
    let connection = within("a handshake", bare(tls::ALPN_RAFT)).await.unwrap();
    assert_eq!(close_code(&connection).await, Some(CloseCode::Unauthorised));

    // Another protocol.
    for alpn in ["h3", "longshore-raft/2", "longshore-ops/1"] {
        let refused = within("a handshake", bare(alpn.as_bytes())).await;
        assert!(refused.is_err(), "{alpn} was taken");
    }

    // A certificate of another fleet's authority, with the same fleet id and names.
    let foreign = Authority::create::<Rt>(network.authority.fleet()).unwrap().issue::<Rt>(X).unwrap();
    // As a client it trusts our authority, so that only its own certificate is in the way.
    let config = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from(network.authority.certificate().to_vec())).unwrap();
        let mut config = rustls::ClientConfig::builder_with_provider(crypto.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(foreign.chain(), foreign.key().to_rustls())
            .unwrap();
        config.alpn_protocols = vec![tls::ALPN_RAFT.to_vec()];
        quinn::ClientConfig::new(Arc::new(quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap()))
    };
    let refused = match within("a handshake", client(config).connect(address, &name).unwrap()).await {
        Ok(connection) => within("the end", connection.closed()).await,
        Err(error) => error,
    };
    assert!(!matches!(refused, ConnectionError::LocallyClosed | ConnectionError::TimedOut), "{refused}");

    // A node with our own id.
    let connection = connect(&network.identity(A), address).await;
    assert_eq!(close_code(&connection).await, Some(CloseCode::Unauthorised));

    assert_eq!(probe.seen(), 0);
    assert!(probe.connections().is_empty());
    still_serves(&network, &node).await;
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_answers_must_be_the_node_that_was_dialled() {
    let network = Loopback::new();
    let foreign_fleet = Loopback { authority: Authority::create::<Rt>(FleetId([0x22; 16])).unwrap() };
    let same_names = Loopback::new();
    let answers = [
        ("another node of the fleet", network.quic(X, Probe::echo())),
        ("a node of another fleet", foreign_fleet.quic(B, Probe::echo())),
        ("a node of an authority with the same name", same_names.quic(B, Probe::echo())),
    ];
    for (what, other) in answers {
        let a = network.quic(A, Probe::echo());
        a.set_peers(vec![(B, other.local_addr())], vec![]);
        let refused =
            within("a refusal", a.request(B, Lane::Control, "x".into(), Duration::from_secs(20))).await;
        let Err(TransportError::Unreachable { to: B, reason }) = refused else {
            panic!("{what}: {refused:?}")
        };
        assert!(reason.contains("certificate") || reason.contains("handshake"), "{what}: {reason}");
        a.close().await;
        other.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_stalling_strangers_does_not_shut_peers_out_for_good() {
    let network = Loopback::new();
    let node = network.quic(A, Probe::echo());
    let identity = network.identity(X);
    // Valid handshakes, and then nothing: each takes a place until it is given up.
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let endpoint = client(peer_config(&identity));
        let name = name::dns_name(A, identity.fleet());
        crowd.push((endpoint.connect(node.local_addr(), &name).unwrap(), endpoint));
    }
    let b = network.quic(B, Probe::echo());
    b.set_peers(vec![(A, node.local_addr())], vec![]);
    within("a peer to get in", async {
        while b.request(A, Lane::Control, "x".into(), Duration::from_secs(5)).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    node.close().await;
    b.close().await;
}
