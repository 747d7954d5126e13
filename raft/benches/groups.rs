//! What many groups cost three nodes in one process: memory and tasks a replica, CPU time awake and at rest, one command in every group
//! at once. Over the transport in memory, then over QUIC on loopback.
//!
//! Logs and snapshots are in memory, so that what is measured is consensus. CPU time is that of all threads; datagrams are those of the whole
//! machine, so nothing else should run.
//!
//! `cargo bench -p longshore-raft --bench groups [-- GROUPS [ROUNDS]]`, ROUNDS of commands in every group: 20 unless told.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use longshore_raft::consensus::config::{Quiescence, Timings};
use longshore_raft::consensus::group::{Group, GroupOptions};
use longshore_raft::consensus::inspect_wire::{MessageKind, kind_of};
use longshore_raft::consensus::machine::{ApplyContext, Member, StateMachine};
use longshore_raft::consensus::monitor::{Monitor, MonitorOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::consensus::snapshots::MemorySnapshots;
use longshore_raft::model::detector::DetectorConfig;
use longshore_raft::transport::memory::MemoryNetwork;
use longshore_raft::transport::pki::Authority;
use longshore_raft::transport::quic::{QuicOptions, QuicSocket, QuicTransport};
use longshore_raft::transport::{Handler, Lane, Replier, Transport, TransportRef};
use longshore_raft::{FleetId, GroupId, NodeId, ReplicaId};
use longshore_storage::log::MemLog;

const NODES: u64 = 3;
const IDLE_FOR: Duration = Duration::from_secs(10);

/// Keeps nothing, so that memory is consensus' own.
struct Counter(u64);

impl StateMachine for Counter {
    type Command = Vec<u8>;
    type Reply = u64;

    fn apply(&mut self, _: ApplyContext, _: Vec<u8>) -> u64 {
        self.0 += 1;
        self.0
    }
    fn snapshot(&self) -> Vec<u8> {
        self.0.to_le_bytes().to_vec()
    }
    fn restore(bytes: &[u8]) -> Result<Self, String> {
        Ok(Self(u64::from_le_bytes(bytes.try_into().map_err(|_| "eight bytes")?)))
    }
}

type TestGroup = Arc<Group<TokioRuntime, Counter>>;

/// Counts requests of groups that arrive anywhere.
struct Counting {
    router: Arc<Router>,
    requests: Arc<AtomicU64>,
}

impl Handler for Counting {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        if kind_of(&body) != MessageKind::Ping {
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        self.router.on_request(from, lane, body, replier);
    }
}

struct Fleet {
    /// By group, then node.
    groups: Vec<Vec<TestGroup>>,
    requests: Arc<AtomicU64>,
    monitors: Vec<Arc<Monitor<TokioRuntime>>>,
    transports: Vec<TransportRef>,
}

fn transports(quic: bool, routers: &[Arc<Router>], requests: &Arc<AtomicU64>) -> Vec<TransportRef> {
    let handler = |router: &Arc<Router>| Counting { router: router.clone(), requests: requests.clone() };
    let nodes = (1..).map(NodeId);
    if !quic {
        let network = MemoryNetwork::<TokioRuntime>::new(1);
        let attach = |(node, router): (NodeId, &Arc<Router>)| -> TransportRef {
            network.attach(node, Arc::new(handler(router)));
            network.transport(node)
        };
        return nodes.zip(routers).map(attach).collect();
    }
    let authority = Authority::create::<TokioRuntime>(FleetId([7; 16])).expect("an authority");
    let start = |(node, router): (NodeId, &Arc<Router>)| {
        let identity = authority.issue::<TokioRuntime>(node).expect("an identity");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let socket = QuicSocket::from_std(socket).expect("a socket");
        let handler = Arc::new(handler(router));
        let options = QuicOptions { identity, socket, handler, join: None, crypto: None };
        QuicTransport::<TokioRuntime>::start(options).expect("a transport")
    };
    let started: Vec<_> = nodes.zip(routers).map(start).collect();
    let peers: Vec<(NodeId, SocketAddr)> =
        (1..).map(NodeId).zip(started.iter().map(|t| t.local_addr())).collect();
    started.iter().for_each(|transport| transport.set_peers(peers.clone(), vec![]));
    started.into_iter().map(|transport| transport as TransportRef).collect()
}

impl Fleet {
    async fn form(groups: u32, quic: bool, timings: Timings) -> Self {
        let routers: Vec<_> = (1..=NODES).map(|node| Router::new(NodeId(node))).collect();
        let requests = Arc::<AtomicU64>::default();
        let transports = transports(quic, &routers, &requests);
        let logs: Vec<_> = routers.iter().map(|_| Arc::new(MemLog::new())).collect();
        let mut monitors = Vec::new();
        for (i, router) in routers.iter().enumerate() {
            let monitor = Monitor::<TokioRuntime>::start(MonitorOptions {
                node: NodeId(i as u64 + 1),
                transport: transports[i].clone(),
                router: router.clone(),
                log: logs[i].clone(),
                config: DetectorConfig::default(),
            });
            monitor.set_peers((1..=NODES).map(NodeId).collect());
            monitors.push(monitor);
        }
        let replica = |group: u32, node: u64| ReplicaId(u64::from(group) * NODES + node);
        let mut all = Vec::new();
        for group in 0..groups {
            let mut replicas: Vec<TestGroup> = Vec::new();
            for node in 1..=NODES {
                let i = node as usize - 1;
                let options = GroupOptions {
                    group: GroupId(group),
                    replica: replica(group, node),
                    node: NodeId(node),
                    machine: Counter(0),
                    log: logs[i].clone(),
                    snapshots: Arc::new(MemorySnapshots::default()),
                    transport: transports[i].clone(),
                    router: routers[i].clone(),
                    timings: timings.clone(),
                    hints: vec![],
                };
                replicas.push(Group::open(options).await.expect("a replica"));
            }
            let first = u64::from(group) % NODES + 1;
            let leader = &replicas[first as usize - 1];
            leader.bootstrap().await.expect("a leader");
            for node in (1..=NODES).filter(|&node| node != first) {
                let member = Member { replica: replica(group, node), node: NodeId(node) };
                leader.add_learner(member).await.expect("a learner");
            }
            let voters = (1..=NODES).map(|node| replica(group, node)).collect();
            leader.change_voters(voters).await.expect("three voters");
            all.push(replicas);
        }
        Self { groups: all, requests, monitors, transports }
    }

    fn replicas(&self) -> usize {
        self.groups.len() * NODES as usize
    }

    /// One command in every group at once, from the node after the leader's, so that it is forwarded.
    async fn write(&self, each: usize) {
        let writes = self.groups.iter().enumerate().flat_map(|(group, replicas)| {
            let from = &replicas[(group + 1) % replicas.len()];
            (0..each).map(move |_| from.propose(vec![1; 256]))
        });
        for written in join_all(writes).await {
            written.expect("a reply");
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this measures real time")]
    async fn until_quiescent(&self) {
        while !self.groups.iter().flatten().all(|group| group.is_quiescent()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn close(self) {
        self.monitors.iter().for_each(|monitor| monitor.stop());
        join_all(self.groups.iter().flatten().map(|group| group.shutdown())).await;
        join_all(self.transports.iter().map(|transport| transport.close())).await;
    }
}

#[expect(clippy::disallowed_methods, reason = "this measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// CPU time of all threads of this process.
fn cpu() -> Duration {
    let of_thread = |task: std::fs::DirEntry| -> Option<u64> {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok()
    };
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux's /proc");
    Duration::from_nanos(tasks.flatten().filter_map(of_thread).sum())
}

fn rss_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux's /proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process has memory");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// UDP datagrams sent on this machine.
fn datagrams() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").expect("Linux's /proc");
    let line = snmp.lines().filter(|line| line.starts_with("Udp:")).nth(1).expect("numbers after names");
    line.split_whitespace().nth(4).and_then(|sent| sent.parse().ok()).expect("a number")
}

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[expect(clippy::disallowed_methods, reason = "this measures real time")]
async fn idle(what: &str, fleet: &Fleet) {
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (used, sent, asked) = (cpu(), datagrams(), fleet.requests.load(Ordering::Relaxed));
    tokio::time::sleep(IDLE_FOR).await;
    let share = (cpu() - used).as_secs_f64() / IDLE_FOR.as_secs_f64() * 100.0;
    let per_s = |n: u64| n as f64 / IDLE_FOR.as_secs_f64();
    println!(
        "  {what}: {share:.2} % of a core for {} replicas and three failure detectors; {:.0} requests/s between replicas, {:.0} \
         datagrams/s",
        fleet.replicas(),
        per_s(fleet.requests.load(Ordering::Relaxed) - asked),
        per_s(datagrams() - sent),
    );
}

async fn commands(fleet: &Fleet, rounds: u32, each: usize) {
    let (start, used, sent, asked) = (now(), cpu(), datagrams(), fleet.requests.load(Ordering::Relaxed));
    for _ in 0..rounds {
        fleet.write(each).await;
    }
    let entries = f64::from(rounds) * fleet.groups.len() as f64;
    println!(
        "  {each} commands of 256 B in each group at once: {:.0} commands/s; {:.0} us of CPU, {:.1} requests, {:.1} datagrams a group and \
         round",
        entries * each as f64 / start.elapsed().as_secs_f64(),
        (cpu() - used).as_micros() as f64 / entries,
        (fleet.requests.load(Ordering::Relaxed) - asked) as f64 / entries,
        (datagrams() - sent) as f64 / entries,
    );
}

async fn measure(groups: u32, rounds: u32, quic: bool) {
    println!("{groups} groups, {NODES} nodes, {}", if quic { "QUIC" } else { "in memory" });
    let (rss, alive) = (rss_kib(), tasks());
    let never = Quiescence { idle: Duration::from_secs(3600) };
    let timings = |quiescence| Timings { quiescence: Some(quiescence), ..Timings::partition() };
    let fleet = Fleet::form(groups, quic, timings(never)).await;
    println!(
        "  {} KiB and {:.1} tasks a replica",
        (rss_kib() - rss) / fleet.replicas(),
        (tasks() - alive) as f64 / fleet.replicas() as f64
    );
    idle("awake", &fleet).await;
    fleet.close().await;

    let fleet = Fleet::form(groups, quic, timings(Quiescence { idle: Duration::from_secs(2) })).await;
    fleet.write(1).await;
    fleet.until_quiescent().await;
    println!("  at rest, {:.1} tasks a replica", (tasks() - alive) as f64 / fleet.replicas() as f64);
    idle("at rest", &fleet).await;
    let start = now();
    fleet.write(1).await;
    println!("  waking all groups and a command in each: {} ms", start.elapsed().as_millis());
    for each in [1, 16] {
        commands(&fleet, rounds, each).await;
    }
    fleet.until_quiescent().await;
    println!("  at rest again: {} KiB a replica", (rss_kib() - rss) / fleet.replicas());
    fleet.close().await;
}

/// What a replica holds after much work, its log and snapshot apart: openraft's queues are rings, and a ring is in memory as far as it
/// was ever written.
async fn worn(groups: u32) {
    const COMMANDS: usize = 3000;
    let idle = Duration::from_secs(1);
    let timings = Timings { quiescence: Some(Quiescence { idle }), ..Timings::partition() };
    let timings = Timings { snapshot_every_entries: 100, keep_entries: 10, ..timings };
    let rss = rss_kib();
    let fleet = Fleet::form(groups, false, timings).await;
    fleet.until_quiescent().await;
    let new = (rss_kib() - rss) / fleet.replicas();
    for _ in 0..COMMANDS {
        fleet.write(1).await;
    }
    fleet.until_quiescent().await;
    let worn = (rss_kib() - rss) / fleet.replicas();
    println!("{groups} groups: {new} KiB a replica, and {worn} KiB after {COMMANDS} commands in each");
    fleet.close().await;
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let mut numbers = std::env::args().filter_map(|arg| arg.parse::<u32>().ok());
    let (groups, rounds) = (numbers.next().unwrap_or(256), numbers.next().unwrap_or(20));
    worn(groups.min(16)).await;
    for quic in [false, true] {
        measure(groups, rounds, quic).await;
    }
}
