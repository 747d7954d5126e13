//! What the simulated network costs: an otherwise idle fleet's messages, in virtual seconds per CPU second.
//!
//! Nodes are their transports only: what a run costs on top of this is the nodes', the disks' and the checkers'.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::transport::pki::Authority;
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, Lane, Replier, TransportRef};
use longshore_raft::{FleetId, NodeId};
use longshore_simulation::network::{Fabric, network_port};
use longshore_simulation::plan::{NetworkShape, TransportKind};
use longshore_simulation::random;
use longshore_simulation::runtime::{Context, HostClock, SimRuntime, current, run, sleep_global, spawn_in};
use longshore_simulation::trace;

const VIRTUAL: Duration = Duration::from_secs(600);
/// The failure detector's.
const PING_INTERVAL: Duration = Duration::from_millis(100);
/// The control group's.
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(200);

struct Acknowledge;

impl Handler for Acknowledge {
    fn on_request(&self, _: NodeId, _: Lane, body: Bytes, replier: Replier) {
        replier.reply(body);
    }
}

impl JoinHandler for Acknowledge {
    fn on_join(&self, _: std::net::SocketAddr, body: Bytes) -> BoxFuture<Result<Bytes, String>> {
        Box::pin(std::future::ready(Ok(body)))
    }
}

fn context(name: String) -> Arc<Context> {
    let random = random::stream(1, &name);
    Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random)
}

/// CPU time of this process.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux tells");
    let nanos = stat.split(' ').next().and_then(|n| n.parse().ok()).expect("nanoseconds first");
    Duration::from_nanos(nanos)
}

async fn exchange(transport: TransportRef, to: NodeId, interval: Duration) {
    loop {
        let reply = transport.request(to, Lane::Heartbeat, Bytes::from_static(&[0; 40]), PING_INTERVAL);
        let _ = reply.await;
        sleep_global(interval).await;
    }
}

async fn fleet(kind: TransportKind, size: u32) -> Arc<Fabric> {
    let fabric = Fabric::new(1, NetworkShape::default(), vec![], current());
    let authority = Authority::create::<SimRuntime>(FleetId([7; 16])).expect("an authority");
    let peers: Vec<_> = (1..=size).map(|h| (NodeId(h.into()), Fabric::address(h))).collect();
    for host in 1..=size {
        let identity = authority.issue::<SimRuntime>(NodeId(host.into())).expect("an identity");
        let context = context(format!("h{host}"));
        let start = || {
            network_port(kind, &fabric, host).start(&identity, Arc::new(Acknowledge), Arc::new(Acknowledge))
        };
        let transport = context.enter(start).expect("a transport");
        transport.set_peers(peers.clone(), vec![]);
        for peer in host + 1..=size {
            drop(spawn_in(&context, exchange(transport.clone(), NodeId(peer.into()), PING_INTERVAL)));
        }
        for peer in (2..=size).filter(|_| host == 1) {
            drop(spawn_in(&context, exchange(transport.clone(), NodeId(peer.into()), HEARTBEAT_INTERVAL)));
        }
        // Kept by whoever talks; the last one only listens.
        drop(spawn_in(&context, async move {
            let _transport = transport;
            std::future::pending::<()>().await;
        }));
    }
    sleep_global(VIRTUAL).await;
    fabric
}

fn main() {
    for kind in [TransportKind::Memory, TransportKind::Quic] {
        for size in [3, 10] {
            trace::begin(None);
            let before = cpu();
            let fabric = run(&context("world".into()), fleet(kind, size));
            let took = cpu() - before;
            let (stats, trace) = (fabric.stats(), trace::end().expect("no file is written"));
            println!(
                "{kind:?}, {size} nodes: {:.0} virtual seconds per CPU second; {} sent, {:.1} us each; {} events, {}",
                VIRTUAL.as_secs_f64() / took.as_secs_f64(),
                stats.sent,
                took.as_secs_f64() * 1e6 / stats.sent as f64,
                trace.events,
                trace.hash,
            );
        }
    }
}
