//! The QUIC transport: the conformance suite over real sockets on loopback, and how two nodes agree on a connection.

use std::net::{Ipv4Addr, UdpSocket};

use futures_util::future::join_all;
use openraft_rt::AsyncRuntime as _;
use parking_lot::Mutex;

use super::super::conformance::{self, Network, Probe, ask_until_answered, introduce, within};
use super::super::test_net::TestNet;
use super::super::{TransportRef, pki::Authority};
use super::*;
use crate::consensus::runtime::TokioRuntime;
use crate::model::ids::FleetId;

pub(crate) type Rt = TokioRuntime;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

/// A fleet's nodes on loopback.
pub(crate) struct Loopback {
    pub(crate) authority: Authority,
}

pub(crate) fn loopback_socket() -> QuicSocket {
    QuicSocket::from_std(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap()
}

pub(crate) fn start(
    identity: Identity,
    socket: QuicSocket,
    handler: Arc<dyn Handler>,
    join: Option<Arc<dyn JoinHandler>>,
) -> Arc<QuicTransport<Rt>> {
    QuicTransport::start(QuicOptions { identity, socket, handler, join, crypto: None }).unwrap()
}

impl Loopback {
    pub(crate) fn new() -> Self {
        Self { authority: Authority::create::<Rt>(FleetId([0x11; 16])).unwrap() }
    }

    pub(crate) fn identity(&self, node: NodeId) -> Identity {
        self.authority.issue::<Rt>(node).unwrap()
    }

    pub(crate) fn quic(&self, node: NodeId, handler: Arc<dyn Handler>) -> Arc<QuicTransport<Rt>> {
        start(self.identity(node), loopback_socket(), handler, None)
    }
}

impl Network for Loopback {
    fn start(&self, node: NodeId, handler: Arc<dyn Handler>) -> TransportRef {
        self.quic(node, handler)
    }

    fn dead_address(&self) -> SocketAddr {
        // Bound and closed: nobody answers there.
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
    }
}

macro_rules! case {
    ($($rule:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            conformance::$rule(&Loopback::new()).await;
        }
    )* };
}

crate::transport_rules!(all, case);

/// Waits until each node has one connection. Closed ones linger in quinn for a few round trips.
async fn one_connection_each(nodes: &[&Arc<QuicTransport<Rt>>]) {
    within("exactly one connection", async {
        while nodes.iter().any(|node| node.open_connections() != 1) {
            Rt::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

/// Two nodes that dial each other at the same moment.
async fn dial_each_other(network: &Loopback, socket_a: QuicSocket, socket_b: QuicSocket) {
    let (probe_a, probe_b) = (Probe::echo(), Probe::echo());
    let quic_a = start(network.identity(A), socket_a, probe_a.clone(), None);
    let quic_b = start(network.identity(B), socket_b, probe_b.clone(), None);
    let (a, b): (TransportRef, TransportRef) = (quic_a.clone(), quic_b.clone());
    introduce(&[(A, &a), (B, &b)]);
    let lanes = [Lane::Heartbeat, Lane::Control, Lane::Append { key: 1 }];
    let requests = lanes.iter().flat_map(|lane| {
        let ask = |from: &TransportRef, to| from.request(to, *lane, "x".into(), Duration::from_secs(10));
        [ask(&a, B), ask(&b, A)]
    });
    // No request is lost to the contest.
    for reply in within("the replies", join_all(requests)).await {
        assert_eq!(reply.unwrap(), "x");
    }
    one_connection_each(&[&quic_a, &quic_b]).await;
    // Nor does anybody see more than one connection come up.
    probe_a.until("A hears of it", |p| !p.connections().is_empty()).await;
    probe_b.until("B hears of it", |p| !p.connections().is_empty()).await;
    assert_eq!((probe_a.connections(), probe_b.connections()), (vec![(B, true)], vec![(A, true)]));
    join_all([a.close(), b.close()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_dial_at_once_and_one_connection_stays() {
    let network = Loopback::new();
    for _ in 0..5 {
        dial_each_other(&network, loopback_socket(), loopback_socket()).await;
    }
    // So slow that each has greeted the other before it hears from it.
    for _ in 0..3 {
        let net = TestNet::new();
        net.delay(Duration::from_millis(10));
        dial_each_other(&network, net.bind(1), net.bind(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_died_and_restarted_is_noticed_at_its_first_packet() {
    let (network, net) = (Loopback::new(), TestNet::new());
    let identity = network.identity(B);
    let probe_a = Probe::echo();
    let a = start(network.identity(A), net.bind(1), probe_a.clone(), None);
    let b = start(identity.clone(), net.bind(2), Probe::echo(), None);
    a.set_peers(vec![(B, b.local_addr())], vec![]);
    let a: TransportRef = a;
    assert_eq!(ask_until_answered(&a, B, "one").await, "one");
    // B dies without a word, and is back under the same address before anybody has noticed; it does not dial.
    net.crash(2);
    let again = start(identity, net.bind(2), Probe::echo(), None);
    let before = std::time::Duration::from_millis(Rt::unix_time_ms());
    assert_eq!(ask_until_answered(&a, B, "two").await, "two");
    let took = std::time::Duration::from_millis(Rt::unix_time_ms()) - before;
    // By its silence alone it would have taken the idle timeout of three seconds.
    assert!(took < Duration::from_millis(2500), "took {took:?}");
    join_all([a.close(), again.close()]).await;
    drop(b);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_node_that_dials_takes_the_old_connection_over() {
    let (network, net) = (Loopback::new(), TestNet::new());
    for (survivor, dies) in [(A, B), (B, A)] {
        let identity = network.identity(dies);
        let probe = Probe::echo();
        let s = start(network.identity(survivor), net.bind(survivor.0 as u16), probe.clone(), None);
        let held = Arc::new(Mutex::new(Vec::new()));
        let silent = Probe::silent(&held);
        let d = start(identity.clone(), net.bind(dies.0 as u16), silent.clone(), None);
        s.set_peers(vec![(dies, d.local_addr())], vec![]);
        let s: TransportRef = s;
        let waits = s.request(dies, Lane::Control, "never answered".into(), Duration::from_secs(20));
        silent.until("the request", |p| p.seen() == 1).await;
        net.crash(dies.0 as u16);
        let again: TransportRef = start(identity, net.bind(dies.0 as u16), Probe::echo(), None);
        again.set_peers(vec![(survivor, s.local_addr())], vec![]);
        assert_eq!(ask_until_answered(&again, survivor, "back").await, "back");
        let lost = within("the old request to fail", waits).await;
        assert!(matches!(lost, Err(TransportError::NoReply { .. })), "{lost:?}");
        probe
            .until("down and up again", |p| p.connections() == [(dies, true), (dies, false), (dies, true)])
            .await;
        join_all([s.close(), again.close()]).await;
        drop(d);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_first_packets_cost_little() {
    let (network, net) = (Loopback::new(), TestNet::new());
    let a = start(network.identity(A), net.bind(1), Probe::echo(), None);
    let b = start(network.identity(B), net.bind(2), Probe::echo(), None);
    a.set_peers(vec![(B, b.local_addr())], vec![]);
    net.lose_next(2);
    // Within one dial: had the first packets waited for the usual initial timeouts, it would have been given up.
    let reply = within("the reply", a.request(B, Lane::Control, "x".into(), Duration::from_secs(20))).await;
    assert_eq!(reply.unwrap(), "x");
    join_all([a.close(), b.close()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_on_a_bad_network() {
    let (network, net) = (Loopback::new(), TestNet::new());
    net.lose_one_in(10);
    let probe = Probe::echo();
    let a: TransportRef = start(network.identity(A), net.bind(1), Probe::echo(), None);
    let b: TransportRef = start(network.identity(B), net.bind(2), probe.clone(), None);
    introduce(&[(A, &a), (B, &b)]);
    assert_eq!(ask_until_answered(&a, B, "connect").await, "connect");
    let before = probe.seen();
    let requests = (0..300u32).map(|i| {
        let body = Bytes::copy_from_slice(&i.to_be_bytes());
        a.request(B, Lane::Append { key: 0 }, body, Duration::from_secs(20))
    });
    for (i, reply) in within("the replies", join_all(requests)).await.into_iter().enumerate() {
        assert_eq!(reply.unwrap(), Bytes::copy_from_slice(&(i as u32).to_be_bytes()));
    }
    let seen: Vec<u32> =
        probe.bodies()[before..].iter().map(|b| u32::from_be_bytes(b[..].try_into().unwrap())).collect();
    assert_eq!(seen, (0..300).collect::<Vec<_>>());
    join_all([a.close(), b.close()]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_a_transport_closes_it() {
    let network = Loopback::new();
    let probe = Probe::echo();
    let a: TransportRef = network.quic(A, probe.clone());
    let b: TransportRef = network.quic(B, Probe::echo());
    introduce(&[(A, &a), (B, &b)]);
    assert_eq!(ask_until_answered(&a, B, "x").await, "x");
    drop(b);
    probe.until("A to learn of it", |p| p.connections() == [(B, true), (B, false)]).await;
    within("closing", a.close()).await;
}
