//! What the QUIC transport costs on loopback: idle, one request at a time, many at once, and heartbeats behind bulk.
//!
//! All nodes run in this process; CPU time is that of all its threads.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::transport::pki::Authority;
use longshore_raft::transport::quic::{QuicOptions, QuicSocket, QuicTransport};
use longshore_raft::transport::{Handler, Lane, Replier, Transport};
use longshore_raft::{FleetId, NodeId};

const TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_FOR: Duration = Duration::from_secs(10);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(100);
const ROUND_TRIPS: usize = 5_000;
const BURST: usize = 100_000;

type Node = Arc<QuicTransport<TokioRuntime>>;

struct Acknowledge;

impl Handler for Acknowledge {
    fn on_request(&self, _: NodeId, _: Lane, _: Bytes, replier: Replier) {
        replier.reply(Bytes::from_static(b"ok"));
    }
}

fn fleet(size: u64) -> Vec<Node> {
    let authority = Authority::create::<TokioRuntime>(FleetId([7; 16])).expect("an authority");
    let start = |node| {
        let identity = authority.issue::<TokioRuntime>(NodeId(node)).expect("an identity");
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
        let socket = QuicSocket::from_std(socket).expect("a socket");
        QuicTransport::start(QuicOptions {
            identity,
            socket,
            handler: Arc::new(Acknowledge),
            join: None,
            crypto: None,
        })
        .expect("a transport")
    };
    let nodes: Vec<Node> = (1..=size).map(start).collect();
    let peers: Vec<(NodeId, SocketAddr)> =
        (1..).map(NodeId).zip(nodes.iter().map(|n| n.local_addr())).collect();
    nodes.iter().for_each(|n| n.set_peers(peers.clone(), vec![]));
    nodes
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

fn quantile(sorted: &[Duration], q: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * q) as usize]
}

async fn ask(from: &Node, to: NodeId, lane: Lane, body: Bytes) {
    from.request(to, lane, body, TIMEOUT).await.expect("a reply");
}

#[expect(clippy::disallowed_methods, reason = "this measures real time")]
async fn beat(from: Node, to: NodeId) {
    loop {
        ask(&from, to, Lane::Heartbeat, Bytes::from_static(&[0; 32])).await;
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
    }
}

/// Nodes that send each other nothing but heartbeats, ten a second each way.
#[expect(clippy::disallowed_methods, reason = "this measures real time")]
async fn idle(size: u64) {
    let nodes = fleet(size);
    let mut beats = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let others = (1..=size).filter(|n| *n != i as u64 + 1);
        beats.extend(others.map(|to| tokio::spawn(beat(node.clone(), NodeId(to)))));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu();
    tokio::time::sleep(IDLE_FOR).await;
    let used = cpu() - before;
    beats.iter().for_each(tokio::task::JoinHandle::abort);
    let share = used.as_secs_f64() / IDLE_FOR.as_secs_f64() / size as f64 * 100.0;
    println!("idle, {size} nodes, 10 heartbeats/s each way: {share:.2} % of a core per node");
}

async fn round_trips() {
    let nodes = fleet(2);
    ask(&nodes[0], NodeId(2), Lane::Control, Bytes::new()).await;
    let body = Bytes::from(vec![1; 256]);
    let mut times = Vec::with_capacity(ROUND_TRIPS);
    for _ in 0..ROUND_TRIPS {
        let start = now();
        ask(&nodes[0], NodeId(2), Lane::Control, body.clone()).await;
        times.push(start.elapsed());
    }
    times.sort();
    println!("round trip of 256 B: p50 {:?}, p99 {:?}", quantile(&times, 0.5), quantile(&times, 0.99));
}

async fn throughput(in_flight: usize) {
    let nodes = fleet(2);
    let body = Bytes::from(vec![1; 256]);
    ask(&nodes[0], NodeId(2), Lane::Control, Bytes::new()).await;
    let mut waiting = FuturesUnordered::new();
    let (start, before) = (now(), cpu());
    for i in 0..BURST {
        if waiting.len() >= in_flight {
            waiting.next().await;
        }
        waiting.push(ask(&nodes[0], NodeId(2), Lane::Append { key: i as u32 }, body.clone()));
    }
    while waiting.next().await.is_some() {}
    let (rate, used) = (BURST as f64 / start.elapsed().as_secs_f64(), (cpu() - before).as_micros() as usize);
    println!("256 B, {in_flight:4} in flight: {rate:.0} requests/s, {} us of CPU each", used / BURST);
}

#[expect(clippy::disallowed_methods, reason = "this measures real time")]
async fn heartbeats_behind_bulk() {
    let nodes = fleet(2);
    ask(&nodes[0], NodeId(2), Lane::Heartbeat, Bytes::new()).await;
    let chunk = Bytes::from(vec![9; Lane::Bulk.max_body_bytes()]);
    const CHUNKS: usize = 256;
    let sender = nodes[0].clone();
    let start = now();
    let bulk = tokio::spawn(async move {
        futures_util::stream::iter(0..CHUNKS)
            .for_each_concurrent(16, |_| ask(&sender, NodeId(2), Lane::Bulk, chunk.clone()))
            .await;
    });
    let mut times = Vec::new();
    while !bulk.is_finished() {
        let start = now();
        ask(&nodes[0], NodeId(2), Lane::Heartbeat, Bytes::new()).await;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = CHUNKS as f64 / start.elapsed().as_secs_f64();
    times.sort();
    println!(
        "bulk {rate:.0} MiB/s; heartbeats meanwhile: p50 {:?}, p99 {:?}, worst {:?}",
        quantile(&times, 0.5),
        quantile(&times, 0.99),
        quantile(&times, 1.0)
    );
}

#[tokio::main]
async fn main() {
    idle(2).await;
    idle(3).await;
    round_trips().await;
    for in_flight in [1, 32, 1000] {
        throughput(in_flight).await;
    }
    heartbeats_behind_bulk().await;
}
