//! Watches all peers of a node: heartbeats out, verdicts in, and what follows from them for every group.
//!
//! One heartbeat a pair and 100 ms, whatever the number of groups. The lower node id asks, the higher answers: the
//! request proves the asker alive to the other, the answer the other to the asker. That one direction of asking is enough
//! for both to notice a link that works one way only: an asker whose requests or answers get lost hears nothing, suspects,
//! and says in its next request how long it has been deaf, whereupon the other suspects as well.
//!
//! Must never: judge groups one by one, or wake up more often than the heartbeat and the next deadline ask for.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_storage::LogStore;
use openraft::Instant as _;
use parking_lot::Mutex;

use super::changes::Changes;
use super::link;
use super::router::{PingPort, Router};
use super::runtime::Runtime;
use super::wire::{Message, Ping, Reply};
use crate::model::detector::{Detector, DetectorConfig, Heard, News, Transition};
use crate::model::ids::NodeId;
use crate::transport::{Lane, TransportRef};

pub use crate::model::detector::PeerState;

/// Time between two heartbeats of a pair.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// An answer later than this is no longer waited for; the next heartbeats are under way.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(1000);
/// Pause between two attempts to get rid of leaderships because of a slow disk.
const STEP_ASIDE_PAUSE: Duration = Duration::from_secs(5);

/// What a monitor is made of.
pub struct MonitorOptions {
    pub node: NodeId,
    pub transport: TransportRef,
    pub router: Arc<Router>,
    /// Its oldest unsynced write is this node's disk health.
    pub log: Arc<dyn LogStore>,
    pub config: DetectorConfig,
}

impl fmt::Debug for MonitorOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MonitorOptions").field("node", &self.node).finish_non_exhaustive()
    }
}

/// A peer as this node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerHealth {
    pub node: NodeId,
    pub state: PeerState,
    /// Milliseconds since anything was heard; `None` if nothing ever was.
    pub last_heard_ms: Option<u64>,
    pub slow_disk: bool,
    /// How far its wall clock is ahead of this node's.
    pub clock_skew_ms: Option<i64>,
}

/// The failure detector of one node, at work.
pub struct Monitor<R: Runtime> {
    node: NodeId,
    transport: TransportRef,
    router: Arc<Router>,
    log: Arc<dyn LogStore>,
    config: DetectorConfig,
    detector: Mutex<Detector>,
    started: R::Instant,
    /// Of this process.
    incarnation: u64,
    /// Peers, verdicts, or the order to stop.
    changes: Changes,
    /// The peers were replaced, or the monitor is to stop.
    orders: Changes,
    stop: Mutex<bool>,
}

impl<R: Runtime> fmt::Debug for Monitor<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor").field("node", &self.node).field("detector", &*self.detector.lock()).finish()
    }
}

impl<R: Runtime> Monitor<R> {
    /// Starts watching; whom, says [`Monitor::set_peers`]. Registers itself with the router.
    pub fn start(options: MonitorOptions) -> Arc<Self> {
        let MonitorOptions { node, transport, router, log, config } = options;
        let mut incarnation = [0; 8];
        R::entropy(&mut incarnation);
        let monitor = Arc::new(Self {
            node,
            transport,
            router,
            log,
            config,
            detector: Mutex::new(Detector::new(config, 0)),
            started: R::Instant::now(),
            incarnation: u64::from_le_bytes(incarnation),
            changes: Changes::default(),
            orders: Changes::default(),
            stop: Mutex::new(false),
        });
        monitor.router.set_pings(Some(monitor.clone()));
        let _task = R::spawn(monitor.clone().run());
        monitor
    }

    /// Replaces the peers to watch. This node itself is left out.
    pub fn set_peers(&self, mut peers: BTreeSet<NodeId>) {
        peers.remove(&self.node);
        self.detector.lock().set_peers(self.now_ms(), &peers);
        self.router.keep_suspects(&peers);
        self.orders.bump();
        self.changes.bump();
    }

    /// The verdict on a peer. One that is not watched has failed.
    pub fn state(&self, node: NodeId) -> PeerState {
        self.detector.lock().state(node)
    }

    /// Milliseconds since a peer was last heard; `None` if it never was.
    pub fn last_heard_ms(&self, node: NodeId) -> Option<u64> {
        self.detector.lock().heard_ms_ago(self.now_ms(), node)
    }

    /// How far a peer's wall clock is ahead of this node's, in milliseconds.
    pub fn clock_skew_ms(&self, node: NodeId) -> Option<i64> {
        self.detector.lock().skew_ms(node)
    }

    /// All peers, by id.
    pub fn peers(&self) -> Vec<PeerHealth> {
        let (detector, now) = (self.detector.lock(), self.now_ms());
        let health = |node| PeerHealth {
            node,
            state: detector.state(node),
            last_heard_ms: detector.heard_ms_ago(now, node),
            slow_disk: detector.has_slow_disk(node),
            clock_skew_ms: detector.skew_ms(node),
        };
        detector.peers().map(health).collect()
    }

    /// Goes up whenever a verdict changes or the peers are replaced.
    pub fn version(&self) -> u64 {
        self.changes.version()
    }

    /// Waits until [`Monitor::version`] is above `seen`; returns it.
    pub async fn changed(&self, seen: u64) -> u64 {
        self.changes.after(seen).await
    }

    /// Stops heartbeats. Peers will suspect this node.
    pub fn stop(&self) {
        *self.stop.lock() = true;
        self.router.set_pings(None);
        self.orders.bump();
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    async fn run(self: Arc<Self>) {
        let mut next_beat = R::Instant::now();
        let mut may_step_aside = next_beat;
        loop {
            let orders = self.orders.version();
            if *self.stop.lock() {
                return;
            }
            let now = R::Instant::now();
            let transitions = self.detector.lock().tick(self.now_ms());
            self.act(transitions);
            if now >= next_beat {
                self.beat();
                // After a pause beats are not made up for.
                next_beat = now + HEARTBEAT;
            }
            if now >= may_step_aside && self.log.oldest_unsynced_ms() > self.config.slow_disk_ms {
                self.step_aside();
                may_step_aside = now + STEP_ASIDE_PAUSE;
            }
            let (deadline, alone) = {
                let detector = self.detector.lock();
                (detector.next_deadline_ms(), detector.peers().next().is_none())
            };
            let wake = match deadline {
                Some(deadline) => next_beat.min(self.started + Duration::from_millis(deadline)),
                // Nobody to watch, nobody to ask, nobody to hand over to.
                None if alone => next_beat + Duration::from_secs(3600),
                None => next_beat,
            };
            tokio::select! {
                biased;
                _ = self.orders.after(orders) => {}
                () = R::sleep_until(wake) => {}
            }
        }
    }

    /// Asks every peer with a higher id; the others ask us.
    fn beat(self: &Arc<Self>) {
        let peers: Vec<NodeId> = self.detector.lock().peers().filter(|&peer| peer > self.node).collect();
        for peer in peers {
            let ping = {
                let (detector, now) = (self.detector.lock(), self.now_ms());
                Ping {
                    incarnation: self.incarnation,
                    unsynced_ms: self.log.oldest_unsynced_ms(),
                    unix_ms: R::unix_time_ms(),
                    deaf_ms: detector.deaf_to_ms(now, peer),
                    skew_ms: detector.skew_ms(peer),
                }
            };
            let sent = (R::Instant::now(), ping.unix_ms);
            let answer =
                link::ask(&self.transport, peer, Lane::Heartbeat, &Message::Ping(ping), ANSWER_TIMEOUT);
            let monitor = self.clone();
            let _task = R::spawn(async move {
                if let Ok(Reply::Pong { incarnation, unsynced_ms, unix_ms }) = answer.await {
                    let half_way = sent.1 + sent.0.elapsed().as_millis() as u64 / 2;
                    let skew_ms = Some(unix_ms.wrapping_sub(half_way) as i64);
                    let heard = Heard { incarnation, unsynced_ms, deaf_ms: 0, skew_ms };
                    monitor.hear(peer, heard);
                }
            });
        }
    }

    fn hear(&self, node: NodeId, heard: Heard) {
        let News { transition, restarted } = self.detector.lock().heard(self.now_ms(), node, heard);
        self.act(transition);
        if restarted {
            tracing::info!(peer = %node, "a peer's process restarted");
            self.router.restarted(node);
        }
    }

    /// Carries out what changes of verdict ask for.
    fn act(&self, transitions: impl IntoIterator<Item = Transition>) {
        for Transition { node, from, to } in transitions {
            tracing::info!(peer = %node, ?from, ?to, "the verdict on a peer changed");
            let suspect = to != PeerState::Alive;
            if suspect && from == PeerState::Alive {
                // Before the groups act on it, so that what they retry goes elsewhere.
                self.router.set_suspect(node, true);
                self.transport.cancel_pending(node);
            } else if !suspect {
                self.router.set_suspect(node, false);
            }
            self.changes.bump();
        }
    }

    /// This node's disk is slow: others should lead, if there are any whose disk is not.
    fn step_aside(&self) {
        let unfit: BTreeSet<NodeId> = self
            .peers()
            .into_iter()
            .filter(|peer| peer.state != PeerState::Alive || peer.slow_disk)
            .map(|peer| peer.node)
            .collect();
        self.router.step_aside(&|node| unfit.contains(&node));
    }
}

impl<R: Runtime> PingPort for Monitor<R> {
    fn on_ping(&self, from: NodeId, ping: Ping) -> Reply {
        let unix_ms = R::unix_time_ms();
        let heard = Heard {
            incarnation: ping.incarnation,
            unsynced_ms: ping.unsynced_ms,
            deaf_ms: ping.deaf_ms,
            // The asker knows the round trip; we only see one way.
            skew_ms: ping.skew_ms.map(|ours_ahead| ours_ahead.wrapping_neg()),
        };
        self.hear(from, heard);
        Reply::Pong { incarnation: self.incarnation, unsynced_ms: self.log.oldest_unsynced_ms(), unix_ms }
    }
}
