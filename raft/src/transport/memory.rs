//! A transport in memory, for tests: nodes in one process, links that can be slow, lossy, one-way or cut.
//!
//! Keeps the port's promises: requests on one lane arrive in the order they were made; lanes do not hold each other up.
//! What a cut link loses stays unanswered until its timeout or [`Transport::cancel_pending`], as behind a firewall; a
//! message lost by chance is noticed after [`LOSS_NOTICED`], as a broken stream is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::Instant as _;
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use super::{BoxFuture, Handler, Lane, Replier, Transport, TransportError};
use crate::Runtime;
use crate::model::ids::NodeId;

/// Requests that wait on one lane. At the limit a request counts as not delivered.
const LANE_QUEUE_MAX: usize = 4096;

/// After which time the sender learns that a message was lost by chance.
pub const LOSS_NOTICED: Duration = Duration::from_millis(300);

/// How one direction between two nodes behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    pub fate: Fate,
    /// Messages in a million that are lost by chance; requests and replies alike, replies by the link they travel on.
    pub loss_ppm: u32,
    /// Requests on the bulk lane in a million in which one bit of the later half is flipped: a fault that the real transport keeps out, and
    /// that memory or a disk can still make.
    pub bulk_damage_ppm: u32,
    /// One-way delay in milliseconds, drawn anew for each message.
    pub delay_ms: Range<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Deliver,
    /// Everything is lost, silently.
    Lose,
    /// Requests fail at once, as without a connection.
    Unreachable,
}

impl Default for Link {
    fn default() -> Self {
        Self { fate: Fate::Deliver, loss_ppm: 0, bulk_damage_ppm: 0, delay_ms: 0..1 }
    }
}

/// All nodes of one test, and the links between them. Clones share it.
pub struct MemoryNetwork<R> {
    shared: Arc<Shared>,
    runtime: PhantomData<fn() -> R>,
}

struct Shared {
    nodes: Mutex<BTreeMap<NodeId, Arc<dyn Handler>>>,
    links: Mutex<BTreeMap<(NodeId, NodeId), Link>>,
    random: Mutex<SmallRng>,
    /// Which nodes each node was told are removed.
    removed: Mutex<BTreeMap<NodeId, BTreeSet<NodeId>>>,
    /// Messages delivered, by kind of lane: what an idle fleet costs.
    delivered: AtomicU64,
}

impl<R> Clone for MemoryNetwork<R> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), runtime: PhantomData }
    }
}

impl<R> fmt::Debug for MemoryNetwork<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryNetwork").field("links", &*self.shared.links.lock()).finish_non_exhaustive()
    }
}

impl<R: Runtime> MemoryNetwork<R> {
    /// A network whose chance is drawn from `seed`.
    pub fn new(seed: u64) -> Self {
        let shared = Shared {
            nodes: Mutex::default(),
            links: Mutex::default(),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            removed: Mutex::default(),
            delivered: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared), runtime: PhantomData }
    }

    /// A transport for `node`. It can be used at once; it is reached once [`MemoryNetwork::attach`] was called.
    pub fn transport(&self, node: NodeId) -> Arc<MemoryTransport<R>> {
        Arc::new(MemoryTransport {
            node,
            network: self.clone(),
            lanes: Mutex::default(),
            pending: Arc::default(),
            next: AtomicU64::new(0),
        })
    }

    /// Lets `handler` receive what is sent to `node`.
    pub fn attach(&self, node: NodeId, handler: Arc<dyn Handler>) {
        self.shared.nodes.lock().insert(node, handler);
    }

    /// Takes a node away, as when its process dies.
    pub fn detach(&self, node: NodeId) {
        self.shared.nodes.lock().remove(&node);
    }

    /// Sets one direction.
    pub fn set_link(&self, from: NodeId, to: NodeId, link: Link) {
        self.shared.links.lock().insert((from, to), link);
    }

    /// Loses everything between the two sides, both ways.
    pub fn partition(&self, one: &[NodeId], other: &[NodeId]) {
        for &a in one {
            for &b in other {
                self.cut(a, b);
                self.cut(b, a);
            }
        }
    }

    /// Loses everything from `from` to `to`.
    pub fn cut(&self, from: NodeId, to: NodeId) {
        let mut links = self.shared.links.lock();
        links.entry((from, to)).or_default().fate = Fate::Lose;
    }

    /// Delivers everywhere again; loss rates and delays stay.
    pub fn heal(&self) {
        self.shared.links.lock().values_mut().for_each(|link| link.fate = Fate::Deliver);
    }

    /// Requests and replies delivered so far.
    pub fn delivered(&self) -> u64 {
        self.shared.delivered.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn link(&self, from: NodeId, to: NodeId) -> Link {
        self.links.lock().get(&(from, to)).cloned().unwrap_or_default()
    }

    fn has_removed(&self, who: NodeId, whom: NodeId) -> bool {
        self.removed.lock().get(&who).is_some_and(|removed| removed.contains(&whom))
    }

    /// What becomes of a message now.
    fn travel(&self, from: NodeId, to: NodeId) -> Travel {
        let link = self.link(from, to);
        if link.fate != Fate::Deliver {
            return Travel::Vanishes;
        }
        if link.loss_ppm > 0 && self.random.lock().random_range(0..1_000_000) < link.loss_ppm {
            return Travel::IsLost;
        }
        self.delivered.fetch_add(1, Ordering::Relaxed);
        Travel::Arrives
    }

    /// What arrives of a request.
    fn damaged(&self, from: NodeId, to: NodeId, lane: Lane, body: Bytes) -> Bytes {
        let ppm = if lane == Lane::Bulk { self.link(from, to).bulk_damage_ppm } else { 0 };
        if ppm == 0 || body.is_empty() {
            return body;
        }
        let mut random = self.random.lock();
        if random.random_range(0..1_000_000) >= ppm {
            return body;
        }
        let mut bytes = body.to_vec();
        let at = random.random_range(bytes.len() / 2..bytes.len());
        bytes[at] ^= 1 << random.random_range(0..8);
        bytes.into()
    }

    fn delay(&self, from: NodeId, to: NodeId) -> Duration {
        let range = self.link(from, to).delay_ms;
        let ms =
            if range.end > range.start + 1 { self.random.lock().random_range(range) } else { range.start };
        Duration::from_millis(ms)
    }
}

/// The end of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Travel {
    Arrives,
    /// By chance; the sender notices.
    IsLost,
    /// Nobody will ever know.
    Vanishes,
}

type Answer = oneshot::Sender<Result<Bytes, TransportError>>;
type Lanes<R> = BTreeMap<(NodeId, Lane), mpsc::Sender<InTransit<R>>>;
type Pending = Arc<Mutex<BTreeMap<u64, (NodeId, Answer)>>>;

/// One node's end of a [`MemoryNetwork`].
pub struct MemoryTransport<R: Runtime> {
    node: NodeId,
    network: MemoryNetwork<R>,
    lanes: Mutex<Lanes<R>>,
    pending: Pending,
    next: AtomicU64,
}

struct InTransit<R: Runtime> {
    id: u64,
    arrives: R::Instant,
    body: Bytes,
}

impl<R: Runtime> fmt::Debug for MemoryTransport<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryTransport").field("node", &self.node).finish_non_exhaustive()
    }
}

impl<R: Runtime> MemoryTransport<R> {
    fn send(&self, to: NodeId, lane: Lane, id: u64, body: Bytes) -> Result<(), TransportError> {
        let limit = lane.max_body_bytes();
        if body.len() > limit {
            return Err(TransportError::TooLarge { len: body.len(), limit });
        }
        let unreachable = |reason: &str| Err(TransportError::Unreachable { to, reason: reason.into() });
        if self.network.shared.has_removed(self.node, to) {
            return unreachable("removed from the fleet");
        }
        if self.network.shared.link(self.node, to).fate == Fate::Unreachable {
            return unreachable("no connection");
        }
        let arrives = R::Instant::now() + self.network.shared.delay(self.node, to);
        let mut lanes = self.lanes.lock();
        let queue = lanes.entry((to, lane)).or_insert_with(|| {
            let (queue, in_transit) = mpsc::channel(LANE_QUEUE_MAX);
            let (shared, pending) = (self.network.shared.clone(), self.pending.clone());
            let _task = R::spawn(Way { shared, pending, from: self.node, to }.carry::<R>(lane, in_transit));
            queue
        });
        match queue.try_send(InTransit { id, arrives, body }) {
            Ok(()) => Ok(()),
            Err(_) => unreachable("the queue is full"),
        }
    }
}

/// The way from one node to another and back.
#[derive(Clone)]
struct Way {
    shared: Arc<Shared>,
    pending: Pending,
    from: NodeId,
    to: NodeId,
}

impl Way {
    /// Carries one lane's requests, in order.
    async fn carry<R: Runtime>(self, lane: Lane, mut in_transit: mpsc::Receiver<InTransit<R>>) {
        while let Some(InTransit { id, arrives, body }) = in_transit.recv().await {
            if R::Instant::now() < arrives {
                R::sleep_until(arrives).await;
            }
            let handler = self.shared.nodes.lock().get(&self.to).cloned();
            let travel = self.shared.travel(self.from, self.to);
            match handler {
                Some(handler) if travel == Travel::Arrives => self.hand_over::<R>(&*handler, lane, id, body),
                _ if travel == Travel::IsLost => self.lose::<R>(id),
                _ => {}
            }
        }
    }

    fn hand_over<R: Runtime>(&self, handler: &dyn Handler, lane: Lane, id: u64, body: Bytes) {
        if self.shared.has_removed(self.to, self.from) {
            self.finish(id, Err(TransportError::Removed { to: self.to }));
            let sender = self.shared.nodes.lock().get(&self.from).cloned();
            return sender.into_iter().for_each(|sender| sender.on_removed(self.to));
        }
        let way = self.clone();
        let replier = Replier::new(move |answer| {
            let delay = way.shared.delay(way.to, way.from);
            if delay.is_zero() {
                return way.answer::<R>(id, answer);
            }
            let _task = R::spawn(async move {
                R::sleep(delay).await;
                way.answer::<R>(id, answer);
            });
        });
        let body = self.shared.damaged(self.from, self.to, lane, body);
        handler.on_request(self.from, lane, body, replier);
    }

    /// A reply arrives, or does not. A node that died meanwhile answers nothing, and one that died is not told.
    fn answer<R: Runtime>(&self, id: u64, answer: Result<Bytes, String>) {
        let live = |node: &NodeId| self.shared.nodes.lock().contains_key(node);
        if ![self.from, self.to].iter().all(live) {
            return;
        }
        match self.shared.travel(self.to, self.from) {
            Travel::Arrives => {
                self.finish(id, answer.map_err(|reason| TransportError::Refused { to: self.to, reason }));
            }
            Travel::IsLost => self.lose::<R>(id),
            Travel::Vanishes => {}
        }
    }

    fn lose<R: Runtime>(&self, id: u64) {
        let way = self.clone();
        let _task = R::spawn(async move {
            R::sleep(LOSS_NOTICED).await;
            way.finish(id, Err(TransportError::NoReply { to: way.to, reason: "lost".into() }));
        });
    }

    fn finish(&self, id: u64, answer: Result<Bytes, TransportError>) {
        let waiting = self.pending.lock().remove(&id);
        // Whoever stopped waiting is not there to be told.
        waiting.into_iter().for_each(|(_, waiting)| drop(waiting.send(answer.clone())));
    }
}

/// Forgets a request that nobody waits for.
struct Forget {
    id: u64,
    pending: Pending,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.pending.lock().remove(&self.id);
    }
}

impl<R: Runtime> Transport for MemoryTransport<R> {
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        self.pending.lock().insert(id, (to, answer));
        let forget = Forget { id, pending: self.pending.clone() };
        let sent = self.send(to, lane, id, body);
        let answered = R::timeout(timeout, answered);
        Box::pin(async move {
            let _forget = forget;
            sent?;
            let no_reply = |reason: &str| TransportError::NoReply { to, reason: reason.into() };
            match answered.await {
                Ok(answer) => answer.unwrap_or_else(|_| Err(no_reply("closed"))),
                Err(_) => Err(no_reply("timed out")),
            }
        })
    }

    fn cancel_pending(&self, to: NodeId) {
        let mut pending = self.pending.lock();
        let ids: Vec<u64> = pending.iter().filter(|(_, (n, _))| *n == to).map(|(id, _)| *id).collect();
        let cancelled: Vec<_> = ids.into_iter().filter_map(|id| pending.remove(&id)).collect();
        drop(pending);
        for (to, answer) in cancelled {
            let _ = answer.send(Err(TransportError::NoReply { to, reason: "cancelled".into() }));
        }
    }

    fn set_peers(&self, _peers: Vec<(NodeId, SocketAddr)>, removed: Vec<NodeId>) {
        self.network.shared.removed.lock().entry(self.node).or_default().extend(removed);
    }

    fn local_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1024 + (self.node.0 % 60_000) as u16))
    }

    fn close(&self) -> BoxFuture<()> {
        self.network.detach(self.node);
        self.lanes.lock().clear();
        self.pending.lock().clear();
        Box::pin(async {})
    }
}
