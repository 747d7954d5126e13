//! The same world twice is the same to the byte; any difference shows in the hash.

use futures_util::future::join_all;

use super::*;
use crate::runtime::sleep_global;

/// Five virtual seconds of three nodes who talk on all lanes over a bad network, with a restart.
fn little_world(kind: TransportKind, seed: u64, body: &'static str) -> TraceSummary {
    let ((), trace) = traced(seed, async || {
        let shape = NetworkShape { duplicate_ppm: 20_000, reorder_ppm: 20_000, ..shape(50_000) };
        let world = World::new(kind, seed, shape, vec![]);
        let (a, b, c) = (Probe::echo(), Probe::echo(), Probe::echo());
        let nodes = world.fleet(&[&a, &b, &c]);
        for round in 0..50u64 {
            let lanes = [Lane::Heartbeat, Lane::Control, Lane::Append { key: round as u32 % 7 }, Lane::Bulk];
            let asked = nodes.iter().flat_map(|from| nodes.iter().map(move |to| (from, to)));
            let asked = asked.filter(|(from, to)| from.id != to.id);
            let limit = Duration::from_millis(400);
            let replies =
                asked.map(|(from, to)| from.asks_within(to, lanes[round as usize % 4], body, limit));
            join_all(replies).await;
            sleep_global(Duration::from_millis(10)).await;
        }
        world.kill(3, &nodes[2]);
        let again = world.start_on(3, 3, Probe::echo());
        let peers = vec![(NodeId(1), nodes[0].transport.local_addr())];
        again.context.enter(|| again.transport.set_peers(peers, vec![]));
        for _ in 0..50 {
            let _ = again.asks_within(&nodes[0], Lane::Control, body, Duration::from_millis(100)).await;
        }
        assert!(a.seen() > 50, "hardly anything arrived");
    });
    trace
}

fn in_a_thread(kind: TransportKind, seed: u64, body: &'static str) -> TraceSummary {
    #[expect(clippy::disallowed_methods, reason = "a run has a thread of its own")]
    std::thread::spawn(move || little_world(kind, seed, body)).join().unwrap()
}

fn same_seed_same_trace(kind: TransportKind) {
    let first = in_a_thread(kind, 1, "payload");
    assert!(first.events > 500, "{first:?}");
    assert_eq!(first, in_a_thread(kind, 1, "payload"));
    assert_ne!(first.hash, in_a_thread(kind, 2, "payload").hash, "another seed");
    assert_ne!(first.hash, in_a_thread(kind, 1, "paylobd").hash, "another byte");
}

#[test]
fn memory_runs_are_reproducible() {
    same_seed_same_trace(TransportKind::Memory);
}

#[test]
fn quic_runs_are_reproducible_ciphertext_included() {
    same_seed_same_trace(TransportKind::Quic);
}
