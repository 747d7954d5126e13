//! Joining over real sockets.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::super::conformance::{Network, Probe, within};
use super::super::quic::tests::{Loopback, Rt, loopback_socket, start};
use super::super::{BoxFuture, JoinHandler, Transport};
use super::*;
use crate::model::ids::NodeId;

/// Answers by the request's first byte, and keeps what it saw.
struct Door {
    seen: Mutex<Vec<Bytes>>,
    /// Requests that begin with `w` wait for a permit.
    wait: Arc<Semaphore>,
}

impl Door {
    fn new() -> Arc<Self> {
        Arc::new(Self { seen: Mutex::default(), wait: Arc::new(Semaphore::new(0)) })
    }
}

impl JoinHandler for Door {
    fn on_join(&self, from: SocketAddr, body: Bytes) -> BoxFuture<Result<Bytes, String>> {
        assert!(from.ip().is_loopback());
        self.seen.lock().push(body.clone());
        let wait = self.wait.clone();
        Box::pin(async move {
            match body.first() {
                Some(b'w') => {
                    let _permit = wait.acquire().await;
                    Ok(body)
                }
                Some(b'n') => Err("the token has expired".into()),
                Some(b'h') => Ok(vec![0; JOIN_MAX_BYTES + 1].into()),
                _ => Ok(body),
            }
        })
    }
}

async fn join(
    addresses: &[SocketAddr],
    authority: [u8; 32],
    body: &'static [u8],
) -> Result<Bytes, JoinError> {
    let request = request::<Rt>(loopback_socket(), addresses, authority, Bytes::from_static(body), None);
    within("joining", request).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_joiner_is_answered_or_told_why_not() {
    let network = Loopback::new();
    let door = Door::new();
    let node = start(network.identity(NodeId(1)), loopback_socket(), Probe::echo(), Some(door.clone()));
    let at = [node.local_addr()];
    let authority = network.authority.fingerprint();
    assert_eq!(join(&at, authority, b"yes").await.unwrap(), "yes");
    assert_eq!(join(&at, authority, b"").await.unwrap(), "");
    let largest: &'static [u8] = vec![b'y'; JOIN_MAX_BYTES].leak();
    assert_eq!(join(&at, authority, largest).await.unwrap(), largest);
    let refused = join(&at, authority, b"no").await;
    assert!(
        matches!(&refused, Err(JoinError::Refused(reason)) if reason == "the token has expired"),
        "{refused:?}"
    );
    // What was done stands, so that this is no refusal.
    let huge = join(&at, authority, b"huge reply").await;
    assert!(matches!(huge, Err(JoinError::NoReply { .. })), "{huge:?}");
    let too_large = join(&at, authority, vec![b'y'; JOIN_MAX_BYTES + 1].leak()).await;
    assert!(matches!(too_large, Err(JoinError::Protocol(_))), "{too_large:?}");
    assert_eq!(door.seen.lock().len(), 5);
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_to_another_fleet() {
    let (ours, theirs) = (Loopback::new(), Loopback::new());
    let door = Door::new();
    let node = start(theirs.identity(NodeId(1)), loopback_socket(), Probe::echo(), Some(door.clone()));
    let refused = join(&[node.local_addr()], ours.authority.fingerprint(), b"secret").await;
    let Err(JoinError::CaMismatch { expected, found, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!((expected, found), (ours.authority.fingerprint(), theirs.authority.fingerprint()));
    assert!(door.seen.lock().is_empty());

    // One that shows our authority's certificate, but has no certificate under it.
    let stolen = theirs.identity(NodeId(1));
    let mut chain = stolen.chain();
    chain[1] = ours.authority.certificate().to_vec().into();
    let mut tls = rustls::ServerConfig::builder_with_provider(Arc::new(tls::default_crypto::<Rt>()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, stolen.key().to_rustls())
        .unwrap();
    tls.alpn_protocols = vec![tls::ALPN_JOIN.to_vec()];
    let tls = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(tls));
    let impostor = loopback_socket().endpoint(tls::endpoint_config::<Rt>(&[1; 32]), Some(server)).unwrap();
    let accepting = impostor.clone();
    let accepted = async move {
        while let Some(incoming) = accepting.accept().await {
            if let Ok(connection) = incoming.await {
                assert!(connection.accept_bi().await.is_err(), "the joiner sent something");
            }
        }
    };
    let at = [impostor.local_addr().unwrap()];
    let joining = join(&at, ours.authority.fingerprint(), b"secret");
    tokio::select! {
        biased;
        refused = joining => {
            let Err(JoinError::Unreachable(why)) = refused else { panic!("{refused:?}") };
            assert!(why[0].1.contains("certificate"), "{why:?}");
        }
        () = accepted => panic!("the impostor stopped"),
    }
    node.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_tried_in_turn() {
    let network = Loopback::new();
    let dead = network.dead_address();
    let authority = network.authority.fingerprint();
    let no_door = start(network.identity(NodeId(1)), loopback_socket(), Probe::echo(), None);
    let foreign = Loopback::new().quic(NodeId(1), Probe::echo());
    let node = start(network.identity(NodeId(2)), loopback_socket(), Probe::echo(), Some(Door::new()));
    let good = [foreign.local_addr(), no_door.local_addr(), node.local_addr()];
    assert_eq!(join(&good, authority, b"yes").await.unwrap(), "yes");
    let bad = join(&[dead, no_door.local_addr()], authority, b"yes").await;
    let Err(JoinError::Unreachable(why)) = bad else { panic!("{bad:?}") };
    assert_eq!(why.iter().map(|(a, _)| *a).collect::<Vec<_>>(), [dead, no_door.local_addr()]);
    // That an address is another fleet's says more than that one is dead.
    let mixed = join(&[foreign.local_addr(), no_door.local_addr()], authority, b"yes").await;
    assert!(matches!(mixed, Err(JoinError::CaMismatch { .. })), "{mixed:?}");
    assert!(matches!(join(&[], authority, b"yes").await, Err(JoinError::Unreachable(why)) if why.is_empty()));
    let unusable = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let v6 = "[::1]:9".parse().unwrap();
    let socket = QuicSocket::from_std(unusable).unwrap();
    let refused = within("joining", request::<Rt>(socket, &[v6], authority, Bytes::new(), None)).await;
    assert!(matches!(refused, Err(JoinError::Unreachable(_))), "{refused:?}");
    for node in [no_door, foreign, node] {
        node.close().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_joiners_is_told_to_come_back() {
    let network = Loopback::new();
    let door = Door::new();
    let node = start(network.identity(NodeId(1)), loopback_socket(), Probe::echo(), Some(door.clone()));
    let (at, authority) = ([node.local_addr()], network.authority.fingerprint());
    let crowd = futures_util::future::join_all((0..12).map(|_| join(&at, authority, b"wait")));
    let let_in = async {
        // All have their answer but those who wait in the door.
        while door.seen.lock().len() < 8 {
            tokio::task::yield_now().await;
        }
        door.wait.add_permits(100);
    };
    let (results, ()) = within("the crowd", futures_util::future::join(crowd, let_in)).await;
    let busy = |r: &&Result<Bytes, JoinError>| matches!(r, Err(JoinError::Unreachable(_)));
    let granted = results.iter().filter(|r| r.is_ok()).count();
    assert_eq!(granted + results.iter().filter(busy).count(), 12, "{results:?}");
    assert!(granted >= 8, "{results:?}");
    assert_eq!(join(&at, authority, b"yes").await.unwrap(), "yes");
    node.close().await;
}
