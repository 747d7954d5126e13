//! What a fleet costs that has nothing to do.

use std::time::Duration;

use longshore_tests::wait::{Stopwatch, pause};
use longshore_tests::{Fleet, machine, procfs};

/// How long CPU time is counted.
const INTERVAL: Duration = Duration::from_secs(30);
/// Share of one core.
const CPU_MAX: f64 = 0.01;
const RESIDENT_BYTES_MAX: u64 = 60 << 20;

/// Other work on the machine only ever adds to what is counted (cold caches, a disk that is busy), so the best of so many
/// intervals is taken.
const INTERVALS: usize = 3;

#[test]
fn an_idle_fleet_costs_next_to_nothing() {
    let _machine = machine::alone();
    let fleet = Fleet::of(3, "idle");
    let mut wrong = Vec::new();
    for interval in 1..=INTERVALS {
        wrong = measure(&fleet, interval);
        if wrong.is_empty() {
            break;
        }
    }
    fleet.settle();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Prints what each peer costs, and gives the lines of those that are over a limit.
fn measure(fleet: &Fleet, interval: usize) -> Vec<String> {
    let used = || -> Vec<Duration> { fleet.peers.iter().map(|peer| procfs::cpu_time(peer.pid())).collect() };
    let (before, watch) = (used(), Stopwatch::start());
    pause(INTERVAL);
    let (after, elapsed) = (used(), watch.elapsed());
    let mut wrong = Vec::new();
    for (index, peer) in fleet.peers.iter().enumerate() {
        let share = (after[index] - before[index]).as_secs_f64() / elapsed.as_secs_f64();
        let resident_bytes = procfs::resident_bytes(peer.pid());
        let line = format!(
            "interval {interval}, {}: {:.2} % of a core (limit {:.0}), {:.1} MiB resident (limit {})",
            peer.name(),
            share * 100.0,
            CPU_MAX * 100.0,
            resident_bytes as f64 / f64::from(1 << 20),
            RESIDENT_BYTES_MAX >> 20
        );
        println!("{line}");
        if share > CPU_MAX || resident_bytes > RESIDENT_BYTES_MAX {
            wrong.push(line);
        }
    }
    wrong
}
