//! What a fleet costs that has nothing to do.

use std::time::Duration;

use longshore_tests::wait::{Stopwatch, pause};
use longshore_tests::{Fleet, machine, procfs};

/// CPU time is counted over each of these windows, and the cheapest one counts: whatever else runs on the machine makes
/// the same work dearer (cold caches, a slower clock), never cheaper.
const WINDOWS: usize = 4;
const WINDOW: Duration = Duration::from_secs(10);
/// What the project promises, of one core and in bytes, on a machine that does nothing else (`scripts/bench idle`).
const CPU_PROMISED: f64 = 0.01;
const RESIDENT_PROMISED_BYTES: u64 = 60 << 20;
/// What fails this test, which also runs on busy machines, where the same work has been seen to cost a third more.
const CPU_MAX: f64 = 1.5 * CPU_PROMISED;
const RESIDENT_BYTES_MAX: u64 = RESIDENT_PROMISED_BYTES * 5 / 4;

#[test]
fn an_idle_fleet_costs_next_to_nothing() {
    let _machine = machine::alone();
    let fleet = Fleet::of(3, "idle");
    let used = || -> Vec<Duration> { fleet.peers.iter().map(|peer| procfs::cpu_time(peer.pid())).collect() };
    let mut shares = vec![f64::INFINITY; fleet.peers.len()];
    for _ in 0..WINDOWS {
        let (before, watch) = (used(), Stopwatch::start());
        pause(WINDOW);
        let (after, elapsed) = (used(), watch.elapsed());
        for (share, (before, after)) in shares.iter_mut().zip(before.into_iter().zip(after)) {
            *share = share.min((after - before).as_secs_f64() / elapsed.as_secs_f64());
        }
    }
    let mut wrong = Vec::new();
    for (index, peer) in fleet.peers.iter().enumerate() {
        let share = shares[index];
        let resident_bytes = procfs::resident_bytes(peer.pid());
        let line = format!(
            "{}: {:.2} % of a core (promised {:.0}, limit {:.1}), {:.1} MiB resident (promised {}, limit {})",
            peer.name(),
            share * 100.0,
            CPU_PROMISED * 100.0,
            CPU_MAX * 100.0,
            resident_bytes as f64 / f64::from(1 << 20),
            RESIDENT_PROMISED_BYTES >> 20,
            RESIDENT_BYTES_MAX >> 20
        );
        println!("{line}");
        if share > CPU_MAX || resident_bytes > RESIDENT_BYTES_MAX {
            wrong.push(line);
        }
    }
    fleet.settle();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
