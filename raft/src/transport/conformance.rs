//! What every transport must do, as tests that any implementation can run over its own [`Network`]. Each panics at the
//! first thing that is wrong. [`crate::transport_rules!`] lists them.
//!
//! A test here waits for a condition, with a limit that is far beyond what it takes; nothing waits for a fixed time. Waits
//! and limits are tokio's, so that the suite runs on tokio and, under its paused clock, in a simulation; it spawns nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::{APPEND_STREAMS, BoxFuture, Handler, Lane, Replier, TransportError, TransportRef};
use crate::consensus::runtime::TokioRuntime;
use crate::model::ids::NodeId;

/// Makes nodes that can reach each other once they know each other's addresses.
pub trait Network {
    /// Starts node `node`; again after its transport was closed, too, and then under another address.
    fn start(&self, node: NodeId, handler: Arc<dyn Handler>) -> TransportRef;
    /// An address that nobody answers at.
    fn dead_address(&self) -> SocketAddr;
}

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

/// Limit of every wait: generous, since test machines are slow.
const LIMIT: Duration = Duration::from_secs(20);

/// What a handler does with a request.
type Behaviour = dyn Fn(NodeId, Lane, Bytes, Replier) + Send + Sync;

/// A handler that keeps what it saw.
pub struct Probe {
    behaviour: Box<Behaviour>,
    seen: Mutex<Vec<(NodeId, Lane, Bytes)>>,
    connections: Mutex<Vec<(NodeId, bool)>>,
    removed_by: Mutex<Vec<NodeId>>,
    changed: Notify,
}

impl Probe {
    /// A probe that answers as `behaviour` does.
    pub fn new(behaviour: impl Fn(NodeId, Lane, Bytes, Replier) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            behaviour: Box::new(behaviour),
            seen: Mutex::default(),
            connections: Mutex::default(),
            removed_by: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Replies with what it got.
    pub fn echo() -> Arc<Self> {
        Self::new(|_, _, body, replier| replier.reply(body))
    }

    /// Keeps every replier, so that nothing is answered until `held` lets go.
    pub fn silent(held: &Arc<Mutex<Vec<(Bytes, Replier)>>>) -> Arc<Self> {
        let held = held.clone();
        Self::new(move |_, _, body, replier| held.lock().push((body, replier)))
    }

    /// How many requests came.
    pub fn seen(&self) -> usize {
        self.seen.lock().len()
    }

    /// The bodies that came, in order.
    pub fn bodies(&self) -> Vec<Bytes> {
        self.seen.lock().iter().map(|(_, _, body)| body.clone()).collect()
    }

    /// Who said that this node was removed.
    pub fn removed_by(&self) -> Vec<NodeId> {
        self.removed_by.lock().clone()
    }

    /// What was said of connections, in order.
    pub fn connections(&self) -> Vec<(NodeId, bool)> {
        self.connections.lock().clone()
    }

    /// Whether a connection with `to` is up, by what the handler was told last.
    pub fn is_connected(&self, to: NodeId) -> bool {
        self.connections.lock().iter().rev().find(|(node, _)| *node == to).is_some_and(|(_, up)| *up)
    }

    /// Waits until `condition` holds; it is looked at whenever the handler was called.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool + Send + Sync) {
        let wait = async {
            loop {
                let changed = self.changed.notified();
                if condition(self) {
                    return;
                }
                changed.await;
            }
        };
        within(what, wait).await;
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").field("seen", &self.seen()).finish_non_exhaustive()
    }
}

impl Handler for Probe {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        self.seen.lock().push((from, lane, body.clone()));
        (self.behaviour)(from, lane, body, replier);
        self.changed.notify_waiters();
    }

    fn on_connection(&self, peer: NodeId, up: bool) {
        self.connections.lock().push((peer, up));
        self.changed.notify_waiters();
    }

    fn on_removed(&self, by: NodeId) {
        self.removed_by.lock().push(by);
        self.changed.notify_waiters();
    }
}

/// Fails the test if `work` takes too long.
pub async fn within<T>(what: &str, work: impl Future<Output = T> + Send) -> T {
    match <TokioRuntime as openraft_rt::AsyncRuntime>::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {LIMIT:?} for: {what}"),
    }
}

/// Between two attempts: long enough for paused time to move on.
async fn pause() {
    <TokioRuntime as openraft_rt::AsyncRuntime>::sleep(Duration::from_millis(1)).await;
}

/// Tells each node where all are.
pub fn introduce(nodes: &[(NodeId, &TransportRef)]) {
    let peers: Vec<_> = nodes.iter().map(|(node, transport)| (*node, transport.local_addr())).collect();
    for (_, transport) in nodes {
        transport.set_peers(peers.clone(), vec![]);
    }
}

fn pair(network: &impl Network, a: Arc<Probe>, b: Arc<Probe>) -> (TransportRef, TransportRef) {
    let (a, b) = (network.start(A, a), network.start(B, b));
    introduce(&[(A, &a), (B, &b)]);
    (a, b)
}

type Reply = BoxFuture<Result<Bytes, TransportError>>;

fn ask(from: &TransportRef, to: NodeId, lane: Lane, body: impl Into<Bytes>) -> Reply {
    from.request(to, lane, body.into(), LIMIT)
}

async fn asked(
    from: &TransportRef,
    to: NodeId,
    lane: Lane,
    body: impl Into<Bytes>,
) -> Result<Bytes, TransportError> {
    within("a reply", ask(from, to, lane, body)).await
}

/// Asks until it works: for when a connection has just been lost.
pub async fn ask_until_answered(from: &TransportRef, to: NodeId, body: &'static str) -> Bytes {
    let work = async {
        loop {
            match from.request(to, Lane::Control, body.into(), LIMIT).await {
                Ok(reply) => return reply,
                Err(_) => pause().await,
            }
        }
    };
    within("an answer in the end", work).await
}

/// Passes the names of the rules to the macro `$case`, which makes a test of each:
/// `transport_rules!(all, case)`, or `transport_rules!(messages, case)` for a transport without connections, which loses
/// what cannot be delivered and takes no time over bytes. A rule is called as `conformance::rule(&network).await`.
#[macro_export]
macro_rules! transport_rules {
    (messages, $case:ident) => {
        $case! {
            every_lane_carries_requests_both_ways
            requests_on_a_lane_arrive_in_order
            replies_come_in_any_order
            requests_up_to_the_limit_and_not_beyond
            refusals_are_told
            cancelling_fails_all_who_wait
            timeouts_are_kept
            a_dropped_future_does_not_unsend
            a_removed_node_is_not_heard
        }
    };
    (connections, $case:ident) => {
        $case! {
            connections_are_announced
            replies_over_the_limit_are_no_refusals
            unreachable_nodes_are_told
            too_many_requests_are_turned_away
            a_removed_node_is_cut_off_at_once
            a_node_comes_back_under_another_address
            closing_fails_what_waits
            heartbeats_pass_bulk
        }
    };
    (all, $case:ident) => {
        $crate::transport_rules!(messages, $case);
        $crate::transport_rules!(connections, $case);
    };
}

pub async fn every_lane_carries_requests_both_ways(network: &impl Network) {
    let (probe_a, probe_b) = (Probe::echo(), Probe::echo());
    let (a, b) = pair(network, probe_a.clone(), probe_b.clone());
    let lanes =
        [Lane::Heartbeat, Lane::Control, Lane::Append { key: 0 }, Lane::Append { key: 77 }, Lane::Bulk];
    for lane in lanes {
        assert_eq!(asked(&a, B, lane, "there").await.unwrap(), "there");
        assert_eq!(asked(&b, A, lane, "and back").await.unwrap(), "and back");
        assert_eq!(asked(&a, B, lane, "").await.unwrap(), "");
    }
    let seen = probe_b.seen.lock().clone();
    assert!(seen.iter().all(|(from, _, _)| *from == A));
    assert_eq!(seen.iter().map(|(_, lane, _)| *lane).collect::<Vec<_>>(), lanes.map(|l| [l, l]).concat());
    join_all([a.close(), b.close()]).await;
}

pub async fn connections_are_announced(network: &impl Network) {
    let (probe_a, probe_b) = (Probe::echo(), Probe::echo());
    let (a, b) = pair(network, probe_a.clone(), probe_b.clone());
    assert_eq!(asked(&a, B, Lane::Control, "x").await.unwrap(), "x");
    probe_b.until("B hears of the connection", |p| p.connections() == [(A, true)]).await;
    probe_a.until("A hears of the connection", |p| p.connections() == [(B, true)]).await;
    within("closing", b.close()).await;
    probe_a.until("A hears that it is gone", |p| p.connections() == [(B, true), (B, false)]).await;
    within("closing", a.close()).await;
}

pub async fn requests_on_a_lane_arrive_in_order(network: &impl Network) {
    let probe = Probe::echo();
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    // Sent at once, before there is a connection, and of sizes that take different paths.
    let mut replies = Vec::new();
    for i in 0..200u32 {
        for key in 0..2 * APPEND_STREAMS {
            let mut body = i.to_be_bytes().to_vec();
            body.resize(4 + (i as usize * 37) % 3000, 0);
            replies.push(ask(&a, B, Lane::Append { key }, body));
        }
    }
    within("all replies", join_all(replies)).await.into_iter().for_each(|r| drop(r.unwrap()));
    let seen = probe.seen.lock().clone();
    for key in 0..2 * APPEND_STREAMS {
        let of_key = seen.iter().filter(|(_, lane, _)| *lane == Lane::Append { key });
        let order: Vec<u32> =
            of_key.map(|(_, _, b)| u32::from_be_bytes(b[..4].try_into().unwrap())).collect();
        assert_eq!(order, (0..200).collect::<Vec<_>>(), "key {key}");
    }
    join_all([a.close(), b.close()]).await;
}

pub async fn replies_come_in_any_order(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let probe = Probe::silent(&held);
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    let mut waiting: Vec<_> = (0..10u8).map(|i| Some(ask(&a, B, Lane::Control, vec![i]))).collect();
    probe.until("all requests there", |p| p.seen() == 10).await;
    // Answered last to first, each before the next is.
    for i in (0..10u8).rev() {
        let (body, replier) = held.lock().pop().unwrap();
        assert_eq!(body, vec![i]);
        replier.reply(vec![i, i].into());
        let reply = within("the reply", waiting[i as usize].take().unwrap()).await;
        assert_eq!(reply.unwrap(), vec![i, i]);
    }
    join_all([a.close(), b.close()]).await;
}

/// Replies with as many bytes as it is told.
fn obedient() -> Arc<Probe> {
    Probe::new(|_, _, body, replier| {
        let wanted = u32::from_be_bytes(body[..4].try_into().unwrap());
        replier.reply(vec![7; wanted as usize].into());
    })
}

fn wants(reply: usize, len: usize) -> Vec<u8> {
    let mut body = (reply as u32).to_be_bytes().to_vec();
    body.resize(len, 0);
    body
}

const EACH_LANE: [Lane; 4] = [Lane::Heartbeat, Lane::Control, Lane::Append { key: 3 }, Lane::Bulk];

pub async fn requests_up_to_the_limit_and_not_beyond(network: &impl Network) {
    let (a, b) = pair(network, Probe::echo(), obedient());
    for lane in EACH_LANE {
        let limit = lane.max_body_bytes();
        assert_eq!(asked(&a, B, lane, wants(limit, limit)).await.unwrap().len(), limit);
        let refused = asked(&a, B, lane, wants(0, limit + 1)).await;
        let told = TransportError::TooLarge { len: limit + 1, limit };
        assert_eq!(refused.unwrap_err().to_string(), told.to_string());
    }
    join_all([a.close(), b.close()]).await;
}

/// The request was carried out, so that the reply must not look as if it was refused.
pub async fn replies_over_the_limit_are_no_refusals(network: &impl Network) {
    let (a, b) = pair(network, Probe::echo(), obedient());
    for lane in EACH_LANE {
        let unsent = asked(&a, B, lane, wants(lane.max_body_bytes() + 1, 4)).await;
        assert!(matches!(unsent, Err(TransportError::NoReply { to: B, .. })), "{unsent:?}");
    }
    join_all([a.close(), b.close()]).await;
}

pub async fn refusals_are_told(network: &impl Network) {
    let probe = Probe::new(|_, _, body, replier| {
        if body.is_empty() {
            drop(replier);
        } else {
            replier.refuse("not today");
        }
    });
    let (a, b) = pair(network, Probe::echo(), probe);
    let refused = asked(&a, B, Lane::Control, "please").await;
    assert!(
        matches!(&refused, Err(TransportError::Refused { to: B, reason }) if reason == "not today"),
        "{refused:?}"
    );
    let dropped = asked(&a, B, Lane::Control, "").await;
    assert!(matches!(dropped, Err(TransportError::Refused { to: B, .. })), "{dropped:?}");
    join_all([a.close(), b.close()]).await;
}

pub async fn cancelling_fails_all_who_wait(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let probe = Probe::silent(&held);
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    let waiting: Vec<_> = [Lane::Heartbeat, Lane::Control, Lane::Append { key: 1 }, Lane::Bulk]
        .map(|l| ask(&a, B, l, "x"))
        .into();
    probe.until("all requests there", |p| p.seen() == 4).await;
    a.cancel_pending(B);
    for failed in within("all to fail", join_all(waiting)).await {
        assert!(matches!(failed, Err(TransportError::NoReply { to: B, .. })), "{failed:?}");
    }
    // Late answers are for nobody, and the lanes go on.
    held.lock().drain(..).for_each(|(_, replier)| replier.reply("late".into()));
    let next = ask(&a, B, Lane::Control, "next");
    probe.until("the next request", |p| p.seen() == 5).await;
    held.lock().pop().unwrap().1.reply("answer".into());
    assert_eq!(within("the answer", next).await.unwrap(), "answer");
    a.cancel_pending(NodeId(99));
    join_all([a.close(), b.close()]).await;
}

pub async fn timeouts_are_kept(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let probe = Probe::silent(&held);
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    let first = ask(&a, B, Lane::Control, "connects");
    probe.until("a connection", |p| p.seen() == 1).await;
    let late =
        within("the time out", a.request(B, Lane::Control, "x".into(), Duration::from_millis(50))).await;
    assert!(matches!(late, Err(TransportError::NoReply { to: B, .. })), "{late:?}");
    held.lock().drain(..).for_each(|(_, replier)| replier.reply("late".into()));
    assert_eq!(within("the first reply", first).await.unwrap(), "late");
    join_all([a.close(), b.close()]).await;
}

pub async fn unreachable_nodes_are_told(network: &impl Network) {
    let a = network.start(A, Probe::echo());
    let unknown = asked(&a, B, Lane::Control, "x").await;
    assert!(matches!(unknown, Err(TransportError::Unreachable { to: B, .. })), "{unknown:?}");
    a.set_peers(vec![(B, network.dead_address())], vec![]);
    let dead = asked(&a, B, Lane::Control, "x").await;
    assert!(matches!(dead, Err(TransportError::Unreachable { to: B, .. })), "{dead:?}");
    // Not sent within its time is certainly not delivered.
    let brief =
        within("the time out", a.request(B, Lane::Control, "x".into(), Duration::from_millis(20))).await;
    assert!(matches!(brief, Err(TransportError::Unreachable { to: B, .. })), "{brief:?}");
    within("closing", a.close()).await;
}

pub async fn a_dropped_future_does_not_unsend(network: &impl Network) {
    let probe = Probe::echo();
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    // Dropped before there is a connection, never polled.
    drop(ask(&a, B, Lane::Control, "first"));
    assert!(ask(&a, B, Lane::Control, "second").now_or_never().is_none());
    assert_eq!(asked(&a, B, Lane::Control, "third").await.unwrap(), "third");
    let bodies: Vec<_> = probe.seen.lock().iter().map(|(_, _, body)| body.clone()).collect();
    assert_eq!(bodies, ["first", "second", "third"]);
    join_all([a.close(), b.close()]).await;
}

pub async fn too_many_requests_are_turned_away(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let probe = Probe::silent(&held);
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    let mut waiting = Vec::new();
    let turned_away = loop {
        let mut reply = ask(&a, B, Lane::Heartbeat, "x");
        match reply.as_mut().now_or_never() {
            Some(result) => break result,
            None => waiting.push(reply),
        }
        assert!(waiting.len() < 100_000, "no limit");
    };
    let busy = |e: &TransportError| matches!(e, TransportError::Unreachable { to: B, reason } if reason.contains("busy"));
    assert!(busy(turned_away.as_ref().unwrap_err()), "{turned_away:?}");
    // Another lane is not affected; answers make room.
    let other = ask(&a, B, Lane::Control, "other lane");
    let all = waiting.len() + 1;
    probe.until("every request that was taken", |p| p.seen() == all).await;
    held.lock().drain(..).for_each(|(_, replier)| replier.reply("ok".into()));
    for reply in within("the replies", join_all(waiting)).await {
        assert_eq!(reply.unwrap(), "ok");
    }
    assert_eq!(within("the other lane", other).await.unwrap(), "ok");
    let again = ask(&a, B, Lane::Heartbeat, "again");
    probe.until("the next request", |p| p.seen() == all + 1).await;
    held.lock().drain(..).for_each(|(_, replier)| replier.reply("ok".into()));
    assert_eq!(within("a reply", again).await.unwrap(), "ok");
    join_all([a.close(), b.close()]).await;
}

pub async fn a_removed_node_is_not_heard(network: &impl Network) {
    let (probe_a, probe_b) = (Probe::echo(), Probe::echo());
    let (a, b) = pair(network, probe_a.clone(), probe_b.clone());
    a.set_peers(vec![], vec![B]);
    let refused = asked(&a, B, Lane::Control, "x").await;
    assert!(matches!(refused, Err(TransportError::Unreachable { to: B, .. })), "{refused:?}");
    let refused = asked(&b, A, Lane::Control, "let me in").await;
    assert!(matches!(refused, Err(TransportError::Removed { to: A })), "{refused:?}");
    probe_b.until("B to be told", |p| p.removed_by().contains(&A)).await;
    // Listing it again does not bring it back: ids are never reused.
    a.set_peers(vec![(B, b.local_addr())], vec![]);
    let refused = asked(&a, B, Lane::Control, "x").await;
    assert!(matches!(refused, Err(TransportError::Unreachable { to: B, .. })), "{refused:?}");
    assert_eq!((probe_a.seen(), probe_b.seen()), (0, 0), "a removed node's request was delivered");
    join_all([a.close(), b.close()]).await;
}

pub async fn a_removed_node_is_cut_off_at_once(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let (probe_a, probe_b) = (Probe::echo(), Probe::echo());
    let probe_c = Probe::silent(&held);
    let a = network.start(A, probe_a.clone());
    let b = network.start(B, probe_b.clone());
    let c = network.start(C, probe_c.clone());
    introduce(&[(A, &a), (B, &b), (C, &c)]);
    // A waits for C, which never answers.
    let waits = ask(&a, C, Lane::Control, "x");
    probe_c.until("the request", |p| p.seen() == 1).await;
    a.set_peers(vec![(B, b.local_addr())], vec![C]);
    let cut_off = within("the waiting request to fail", waits).await;
    assert!(matches!(cut_off, Err(TransportError::NoReply { to: C, .. })), "{cut_off:?}");
    probe_c.until("C to be told", |p| p.removed_by().contains(&A)).await;
    probe_c.until("C to see the connection go", |p| !p.is_connected(A)).await;
    let refused = asked(&a, C, Lane::Control, "x").await;
    assert!(matches!(refused, Err(TransportError::Unreachable { to: C, .. })), "{refused:?}");
    // It is not let in again, and learns why.
    let refused = within("C to be refused", async {
        loop {
            match c.request(A, Lane::Control, "let me in".into(), LIMIT).await {
                Err(TransportError::Removed { to: A }) => return,
                Err(_) => pause().await,
                Ok(reply) => panic!("a removed node got {reply:?}"),
            }
        }
    });
    refused.await;
    assert_eq!(probe_a.seen(), 0, "a removed node's request was delivered");
    // Others go on with it until they know.
    assert_eq!(ask_until_answered(&c, B, "still here?").await, "still here?");
    join_all([a.close(), b.close(), c.close()]).await;
}

pub async fn a_node_comes_back_under_another_address(network: &impl Network) {
    let probe_a = Probe::echo();
    let (a, b) = pair(network, probe_a.clone(), Probe::echo());
    assert_eq!(asked(&a, B, Lane::Control, "one").await.unwrap(), "one");
    within("closing", b.close()).await;
    drop(b);
    probe_a.until("A to see it go", |p| !p.is_connected(B)).await;
    let b = network.start(B, Probe::echo());
    // It knows where A is; A knows only the old address.
    b.set_peers(vec![(A, a.local_addr())], vec![]);
    assert_eq!(ask_until_answered(&b, A, "two").await, "two");
    assert_eq!(asked(&a, B, Lane::Control, "three").await.unwrap(), "three");
    // And again, found by the new address.
    within("closing", b.close()).await;
    drop(b);
    probe_a.until("A to see it go", |p| !p.is_connected(B)).await;
    let b = network.start(B, Probe::echo());
    a.set_peers(vec![(B, b.local_addr())], vec![]);
    assert_eq!(ask_until_answered(&a, B, "four").await, "four");
    join_all([a.close(), b.close()]).await;
}

pub async fn closing_fails_what_waits(network: &impl Network) {
    let held = Arc::new(Mutex::new(Vec::new()));
    let probe = Probe::silent(&held);
    let (a, b) = pair(network, Probe::echo(), probe.clone());
    let (one, other) = (ask(&a, B, Lane::Control, "x"), ask(&b, A, Lane::Bulk, "echo"));
    probe.until("the request", |p| p.seen() == 1).await;
    assert_eq!(within("the echo", other).await.unwrap(), "echo");
    within("closing", b.close()).await;
    let lost = within("A to learn of it", one).await;
    assert!(matches!(lost, Err(TransportError::NoReply { to: B, .. })), "{lost:?}");
    let closed = asked(&b, A, Lane::Control, "x").await;
    assert!(matches!(closed, Err(TransportError::Unreachable { to: A, .. })), "{closed:?}");
    // Answers to a closed transport go nowhere.
    held.lock().drain(..).for_each(|(_, replier)| replier.reply("late".into()));
    within("closing", a.close()).await;
    within("closing twice", a.close()).await;
}

pub async fn heartbeats_pass_bulk(network: &impl Network) {
    let (a, b) = pair(network, Probe::echo(), Probe::new(|_, _, _, replier| replier.reply(Bytes::new())));
    asked(&a, B, Lane::Heartbeat, "connect").await.unwrap();
    let chunk = Bytes::from(vec![9; Lane::Bulk.max_body_bytes()]);
    let bulk: Vec<_> = (0..64).map(|_| ask(&a, B, Lane::Bulk, chunk.clone())).collect();
    let done = AtomicBool::new(false);
    let bulk = async {
        let replies = join_all(bulk).await;
        done.store(true, Ordering::Relaxed);
        replies
    };
    let heartbeats = async {
        let mut during = 0;
        while !done.load(Ordering::Relaxed) {
            asked(&a, B, Lane::Heartbeat, "still alive").await.unwrap();
            during += u32::from(!done.load(Ordering::Relaxed));
        }
        during
    };
    let (replies, during) = join(bulk, heartbeats).await;
    // One heartbeat that waits for all of the bulk would make this 0 or 1.
    assert!(during > 10, "only {during} heartbeats passed 64 MiB of bulk");
    for reply in replies {
        reply.unwrap();
    }
    join_all([a.close(), b.close()]).await;
}
