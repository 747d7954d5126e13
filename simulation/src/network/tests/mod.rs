//! Little worlds: a fabric, and nodes that are nothing but their transports.

mod conformance;
mod determinism;
mod faults;
mod joining;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::transport::conformance::{Network, Probe};
use longshore_raft::transport::pki::Authority;
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, Lane, TransportError, TransportRef};
use longshore_raft::{FleetId, NodeId};

use super::*;
use crate::plan::{Hosts, Latency, NetworkShape, Rule, Verdict};
use crate::random;
use crate::runtime::{Context, HostClock, SimRuntime, run};
use crate::trace::{self, TraceSummary};

const SEED: u64 = 11;

fn context(name: &str, seed: u64) -> Arc<Context> {
    Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random::stream(seed, name))
}

/// Runs `test` as a run of its own, and gives its trace.
fn traced<T, F: Future<Output = T>>(seed: u64, test: impl FnOnce() -> F) -> (T, TraceSummary) {
    trace::begin(None);
    let output = run(&context("world", seed), async move { test().await });
    (output, trace::end().unwrap())
}

fn shape(loss_ppm: u32) -> NetworkShape {
    NetworkShape { loss_ppm, ..NetworkShape::default() }
}

fn rule(name: &str, from: Hosts, to: Hosts, verdict: Verdict) -> Rule {
    Rule { name: name.into(), from, to, chance_ppm: 1_000_000, verdict }
}

/// Lets everybody in, and says who asked.
struct Doorman;

impl JoinHandler for Doorman {
    fn on_join(&self, from: SocketAddr, body: Bytes) -> BoxFuture<Result<Bytes, String>> {
        Box::pin(async move {
            match &body[..] {
                b"no" => Err("not you".into()),
                b"never" => std::future::pending().await,
                _ => Ok(format!("{} from {}", String::from_utf8_lossy(&body), from.ip()).into()),
            }
        })
    }
}

/// A started process of a node.
struct Node {
    id: NodeId,
    context: Arc<Context>,
    transport: TransportRef,
}

impl Node {
    fn asks(&self, to: &Node, lane: Lane, body: impl Into<Bytes>) -> Reply {
        self.asks_within(to, lane, body, Duration::from_secs(10))
    }

    fn asks_within(&self, to: &Node, lane: Lane, body: impl Into<Bytes>, limit: Duration) -> Reply {
        let (transport, to, body) = (self.transport.clone(), to.id, body.into());
        let ask = self.context.enter(|| transport.request(to, lane, body, limit));
        // Polled where it belongs, as a node's own futures are.
        let task = crate::runtime::spawn_in(&self.context, ask);
        Box::pin(async move { task.await.expect("the asking process lives") })
    }
}

type Reply = BoxFuture<Result<Bytes, TransportError>>;

/// A fleet of nodes on one fabric.
struct World {
    kind: TransportKind,
    seed: u64,
    fabric: Arc<Fabric>,
    authority: Authority,
    hosts: AtomicU32,
}

impl World {
    fn new(kind: TransportKind, seed: u64, shape: NetworkShape, zones: Vec<Option<String>>) -> Self {
        let fabric = Fabric::new(seed, shape, zones, crate::runtime::current());
        let authority = Authority::create::<SimRuntime>(FleetId([7; 16])).unwrap();
        Self { kind, seed, fabric, authority, hosts: AtomicU32::new(1) }
    }

    fn plain(kind: TransportKind) -> Self {
        Self::new(kind, SEED, shape(0), vec![])
    }

    /// Starts a process for `node` on `host`.
    fn start_on(&self, host: HostId, node: u64, handler: Arc<dyn Handler>) -> Node {
        let id = NodeId(node);
        let identity = self.authority.issue::<SimRuntime>(id).unwrap();
        let context = context(&format!("h{host}"), self.seed);
        let transport = context.enter(|| {
            let port = network_port(self.kind, &self.fabric, host);
            port.start(&identity, handler, Arc::new(Doorman)).unwrap()
        });
        Node { id, context, transport }
    }

    /// Nodes 1 to `probes.len()`, each on the host of its number, who know each other.
    fn fleet(&self, probes: &[&Arc<Probe>]) -> Vec<Node> {
        let hosts = 1..=probes.len() as u32;
        let start =
            |(host, probe): (u32, &&Arc<Probe>)| self.start_on(host, u64::from(host), Arc::clone(probe) as _);
        let nodes: Vec<Node> = hosts.zip(probes).map(start).collect();
        introduce(&nodes);
        nodes
    }

    /// Ends a process as kill -9 does.
    fn kill(&self, host: HostId, node: &Node) {
        node.context.kill();
        self.fabric.process_died(host);
    }
}

fn introduce(nodes: &[Node]) {
    let peers: Vec<_> = nodes.iter().map(|node| (node.id, node.transport.local_addr())).collect();
    for node in nodes {
        node.context.enter(|| node.transport.set_peers(peers.clone(), vec![]));
    }
}

impl Network for World {
    fn start(&self, node: NodeId, handler: Arc<dyn Handler>) -> TransportRef {
        let host = self.hosts.fetch_add(1, Ordering::Relaxed);
        self.start_on(host, node.0, handler).transport
    }

    fn dead_address(&self) -> SocketAddr {
        Fabric::address(9999)
    }
}
