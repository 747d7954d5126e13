//! A fleet in one process: groups over the memory transport, logs and snapshots that survive a node's death, and a state
//! machine that shows every application.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_raft::consensus::config::{ANSWER_BYTES_MAX, Timings};
use longshore_raft::consensus::group::{Group, GroupOptions};
use longshore_raft::consensus::machine::{ApplyContext, GroupStatus, LogTime, Member, Queries, StateMachine};
use longshore_raft::consensus::monitor::{Monitor, MonitorOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::consensus::snapshots::MemorySnapshots;
use longshore_raft::model::detector::DetectorConfig;
use longshore_raft::transport::TransportRef;
use longshore_raft::transport::memory::MemoryNetwork;
use longshore_raft::{GroupId, NodeId, ReplicaId};
use longshore_storage::disk::MemDisk;
use longshore_storage::log::{
    BoxFuture, CommitterThreads, LogConfig, MemLog, SegmentedLog, monotonic_clock, spawn_committer,
};
use longshore_storage::{LogOp, LogStore, OnDurable, StorageResult, StreamId, StreamState};

pub(crate) use crate::traffic::Traffic;

pub(crate) type Rt = TokioRuntime;
pub(crate) type TestGroup = Group<Rt, Ledger>;
pub(crate) const GROUP: GroupId = GroupId(7);
/// A query whose answer is over the limit.
pub(crate) const HUGE_ANSWER: &str = "huge";

/// Keeps every command in the order applied, so that a command applied twice shows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ledger {
    pub(crate) lines: Vec<(u64, String)>,
    pub(crate) last_time: LogTime,
}

impl Ledger {
    pub(crate) fn count(&self, text: &str) -> usize {
        self.lines.iter().filter(|(_, line)| line == text).count()
    }
}

impl StateMachine for Ledger {
    type Command = String;
    /// Its number in the ledger, from 1.
    type Reply = u64;

    fn apply(&mut self, at: ApplyContext, command: String) -> u64 {
        assert!(at.time >= self.last_time, "log time went back");
        self.last_time = at.time;
        self.lines.push((at.index, command));
        self.lines.len() as u64
    }
    fn snapshot(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).unwrap()
    }
    fn restore(bytes: &[u8]) -> Result<Self, String> {
        let decoded = bincode::decode_from_slice(bytes, bincode::config::standard());
        decoded.map(|(ledger, _)| ledger).map_err(|e| e.to_string())
    }
}

impl Queries for Ledger {
    /// A line.
    type Query = String;
    /// How often it was applied; log time; something that can be large.
    type Answer = (u64, LogTime, String);

    fn query(&self, now: LogTime, line: String) -> (u64, LogTime, String) {
        let ballast = if line == HUGE_ANSWER { "x".repeat(ANSWER_BYTES_MAX) } else { String::new() };
        (self.count(&line) as u64, now, ballast)
    }
}

/// What outlives a node's process.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) log: MemLog,
    pub(crate) snapshots: Arc<MemorySnapshots>,
    /// What the log tells as the age of its oldest unsynced write.
    pub(crate) unsynced_ms: Arc<AtomicU64>,
    /// How long a sync takes.
    pub(crate) sync_ms: Arc<AtomicU64>,
    /// When the last sync ends.
    pub(crate) synced: Arc<Mutex<Option<tokio::time::Instant>>>,
    /// If it is one that can lose power: the real log is on it, and `log` is not used.
    pub(crate) power: Option<MemDisk>,
}

impl Disk {
    pub(crate) fn new() -> Self {
        Self {
            log: MemLog::new(),
            snapshots: Arc::default(),
            unsynced_ms: Arc::default(),
            sync_ms: Arc::default(),
            synced: Arc::default(),
            power: None,
        }
    }

    /// Opens the log, and whatever drives it.
    fn open(&self) -> (Arc<dyn LogStore>, Option<CommitterThreads>) {
        let Some(disk) = &self.power else { return (Arc::new(self.clone()), None) };
        let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::new(monotonic_clock()) };
        let (log, committer, report) = SegmentedLog::open(Arc::new(disk.clone()), config).unwrap();
        assert!(report.damaged.is_empty(), "a power cut is no damage: {report:?}");
        (Arc::new(log), Some(spawn_committer(committer).unwrap()))
    }
}

/// The log of a disk whose slowness can be set.
impl LogStore for Disk {
    fn submit(&self, ops: Vec<LogOp>, on_durable: OnDurable) -> StorageResult<()> {
        let sync_ms = self.sync_ms.load(Ordering::Relaxed);
        if sync_ms == 0 {
            return self.log.submit(ops, on_durable);
        }
        let mut synced = self.synced.lock().unwrap();
        let end = now() + Duration::from_millis(sync_ms);
        // One after the other, in their order.
        let end = synced.map_or(end, |last| end.max(last + Duration::from_millis(1)));
        *synced = Some(end);
        let late = Box::new(move |result| {
            spawn(async move {
                sleep_ms((end - now()).as_millis() as u64).await;
                on_durable(result);
            });
        });
        self.log.submit(ops, late)
    }
    fn ready(&self, bytes: usize) -> BoxFuture<'_, StorageResult<()>> {
        self.log.ready(bytes)
    }
    fn read(
        &self,
        stream: StreamId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> StorageResult<Vec<(u64, Bytes)>> {
        self.log.read(stream, range, max_bytes)
    }
    fn is_cached(&self, _: StreamId, range: Range<u64>) -> bool {
        // Some reads take the way through the blocking pool.
        !range.start.is_multiple_of(3)
    }
    fn state(&self, stream: StreamId) -> StorageResult<StreamState> {
        self.log.state(stream)
    }
    fn streams(&self) -> Vec<StreamId> {
        self.log.streams()
    }
    fn oldest_unsynced_ms(&self) -> u64 {
        self.unsynced_ms.load(Ordering::Relaxed)
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) transport: TransportRef,
    pub(crate) monitor: Arc<Monitor<Rt>>,
    pub(crate) group: Arc<TestGroup>,
    committer: Option<CommitterThreads>,
}

/// Nodes 1..=n with replicas 1..=n of one group; ids above n are spares.
pub(crate) struct Fleet {
    pub(crate) net: MemoryNetwork<Rt>,
    pub(crate) nodes: BTreeMap<u64, Node>,
    pub(crate) disks: BTreeMap<u64, Disk>,
    /// Replica id by node; changes when a node comes back empty.
    pub(crate) replicas: BTreeMap<u64, u64>,
    pub(crate) timings: Timings,
    pub(crate) traffic: Traffic,
}

pub(crate) fn member(fleet: &Fleet, node: u64) -> Member {
    Member { replica: ReplicaId(fleet.replicas[&node]), node: NodeId(node) }
}

impl Fleet {
    pub(crate) fn new(seed: u64, timings: Timings) -> Self {
        Self {
            net: MemoryNetwork::new(seed),
            nodes: BTreeMap::new(),
            disks: BTreeMap::new(),
            replicas: BTreeMap::new(),
            timings,
            traffic: Traffic::default(),
        }
    }

    /// `n` voters, led by someone.
    pub(crate) async fn of(n: u64, seed: u64, timings: Timings) -> Self {
        let mut fleet = Self::new(seed, timings);
        fleet.form(n).await;
        fleet
    }

    /// Starts nodes 1..=n and makes them voters.
    pub(crate) async fn form(&mut self, n: u64) {
        for id in 1..=n {
            self.start(id).await;
        }
        let fleet = &*self;
        fleet.group(1).bootstrap().await.unwrap();
        for id in 2..=n {
            fleet.group(1).add_learner(member(fleet, id)).await.unwrap();
        }
        if n > 1 {
            let voters = (1..=n).map(ReplicaId).collect::<BTreeSet<_>>();
            fleet.group(1).change_voters(voters).await.unwrap();
        }
        fleet.all(|s| s.voters.len() as u64 == n && s.leader.is_some()).await;
    }

    /// Starts a node, or starts it again on what its disk holds.
    pub(crate) async fn start(&mut self, id: u64) {
        let node = NodeId(id);
        let disk = self.disks.entry(id).or_insert_with(Disk::new);
        let disk = disk.clone();
        let replica = ReplicaId(*self.replicas.entry(id).or_insert(id));
        let transport: TransportRef = self.net.transport(node);
        let router = Router::new(node);
        let (log, committer) = disk.open();
        let monitor = Monitor::start(MonitorOptions {
            node,
            transport: transport.clone(),
            router: router.clone(),
            log: log.clone(),
            config: DetectorConfig::default(),
        });
        let group = Group::open_answering(GroupOptions {
            group: GROUP,
            replica,
            node,
            machine: Ledger::default(),
            log,
            snapshots: disk.snapshots,
            transport: transport.clone(),
            router: router.clone(),
            timings: self.timings.clone(),
            hints: vec![NodeId(1), NodeId(2), NodeId(3)],
        });
        let group = group.await.unwrap();
        self.net.attach(node, self.traffic.handler(node, router));
        self.nodes.insert(id, Node { id: node, transport, monitor, group, committer });
        self.introduce();
    }

    /// Tells every monitor who is there.
    fn introduce(&self) {
        let all: BTreeSet<NodeId> = self.disks.keys().map(|&id| NodeId(id)).collect();
        self.nodes.values().for_each(|node| node.monitor.set_peers(all.clone()));
    }

    /// The process is gone at once, without a word; what was acknowledged is on its disk.
    pub(crate) async fn kill(&mut self, id: u64) {
        self.net.detach(NodeId(id));
        let node = self.nodes.remove(&id).unwrap();
        node.monitor.stop();
        node.group.shutdown().await;
        node.transport.close().await;
        drop(node.committer);
    }

    /// The disk is gone too: the node gets another replica id.
    pub(crate) fn wipe(&mut self, id: u64, replica: u64) {
        self.disks.insert(id, Disk::new());
        self.replicas.insert(id, replica);
    }

    pub(crate) fn group(&self, id: u64) -> Arc<TestGroup> {
        self.nodes[&id].group.clone()
    }

    /// The node that leads in the highest term, by its own account.
    pub(crate) fn leader(&self) -> Option<u64> {
        let leads = |node: &&Node| node.group.is_leader();
        self.nodes.values().filter(leads).max_by_key(|n| n.group.status().term).map(|n| n.id.0)
    }

    /// Waits until all nodes that run fulfil a condition.
    pub(crate) async fn all(&self, condition: impl Fn(&GroupStatus) -> bool) {
        for node in self.nodes.values() {
            let waited = node.group.wait_for(&condition).await;
            waited.unwrap_or_else(|e| panic!("node {}: {e}\n{:?}", node.id, node.group.status()));
        }
    }

    /// Waits until all nodes that run have applied the same, and no command twice; returns the lines.
    pub(crate) async fn agree(&self) -> Vec<String> {
        let someone = self.nodes.values().next().unwrap();
        let index = someone.group.read_barrier().await.unwrap();
        self.all(|s| s.applied >= Some(index)).await;
        let lines = |node: &Node| {
            node.group.with_state(|l| {
                l.lines.iter().filter(|(at, _)| *at <= index).map(|(_, t)| t.clone()).collect::<Vec<_>>()
            })
        };
        let expected = lines(someone);
        for node in self.nodes.values() {
            assert_eq!(lines(node), expected, "node {} disagrees", node.id);
        }
        expected
    }
}

/// Milliseconds since `start`, in the runtime's time.
pub(crate) fn ms_since(start: tokio::time::Instant) -> u64 {
    start.elapsed().as_millis() as u64
}

/// Waits for a condition by looking often; for what nothing announces.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let start = now();
    while !condition() {
        assert!(ms_since(start) < 30_000, "{what} did not happen in 30 s");
        sleep_ms(5).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "tests run on tokio's clock")]
pub(crate) fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "tests run on tokio's clock")]
pub(crate) async fn sleep_ms(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// A runtime of one thread whose clock jumps to the next timer when nothing is left to do.
pub(crate) fn virtual_time<T>(test: impl Future<Output = T>) -> T {
    // `RUST_LOG=longshore_raft=info` tells what happens; the first test of the process sets it up.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().without_time().try_init();
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap().block_on(test)
}

#[expect(clippy::disallowed_methods, reason = "tests run on tokio")]
pub(crate) fn spawn<T: Send + 'static>(
    task: impl Future<Output = T> + Send + 'static,
) -> tokio::task::JoinHandle<T> {
    tokio::spawn(task)
}
