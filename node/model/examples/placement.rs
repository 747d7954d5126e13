//! How long it takes to decide where work goes, and how even it comes out: `cargo run --release -p longshore-model --example placement`.
//!
//! Fails if a decision among 100 nodes takes 1 ms or more at the 99th percentile, or if 1,000 operations over nodes of unequal capacity make less
//! than 95 % of what their capacities allow.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use longshore_model::operations::load::Load;
use longshore_model::operations::placement::{Candidate, LabelRequirement, Miss, Requirements, eligible};
use longshore_raft::NodeId;

const DECISIONS: usize = 20_000;
const OPERATIONS: u32 = 1_000;
const DECISION_MAX: Duration = Duration::from_millis(1);
const EFFICIENCY_MIN: f64 = 0.95;

/// A host of which something between a tenth and all is free.
fn load(id: u64) -> Load {
    Load {
        cpu_busy: (id * 37 % 900) as u16,
        memory_bytes: 64 << 30,
        memory_free_bytes: (7 + id * 11 % 57) << 30,
        disk_bytes: 1 << 40,
        disk_free_bytes: 1 << 39,
        running: 0,
        engine_ms: Some(10),
    }
}

fn fleet(nodes: u64, weight: impl Fn(u64) -> u32) -> Vec<Candidate> {
    let node = |id| Candidate {
        node: NodeId(id),
        name: format!("host-{id}"),
        zone: Some(format!("zone-{}", id % 5)),
        labels: BTreeMap::from([("disk".to_owned(), if id % 2 == 0 { "ssd" } else { "hdd" }.to_owned())]),
        capacity: None,
        load: Some(load(id)),
        has: vec![id % 10 == 0],
        weight: weight(id),
        open: 0,
        placed: 0,
        is_suspect: id % 23 == 0,
        unable: (id % 17 == 0).then(|| Miss::Away("is dead".to_owned())),
    };
    (1..=nodes).map(node).collect()
}

/// The 50th and the 99th percentile of one decision: requirements, then the best of those that meet them.
fn decisions(nodes: u64) -> (Duration, Duration) {
    let mut fleet = fleet(nodes, |id| 1_024 * (1 + id as u32 % 7));
    let label: LabelRequirement = "disk=ssd".parse().expect("a label");
    let wanted = Requirements {
        labels: vec![label],
        zones: vec!["zone-1".into(), "zone-2".into()],
        storage_bytes: 1 << 30,
        preferred_zone: Some("zone-2".into()),
        ..Requirements::default()
    };
    let mut took: Vec<Duration> = Vec::with_capacity(DECISIONS);
    for _ in 0..DECISIONS {
        let begun = Instant::now();
        let chosen = eligible(&fleet, &wanted).expect("half have it").choose(1).expect("one");
        took.push(begun.elapsed());
        let at = (chosen[0].0.0 - 1) as usize;
        fleet[at].open += 1;
    }
    took.sort_unstable();
    (took[DECISIONS / 2], took[DECISIONS * 99 / 100])
}

/// What is done when all are at work until the last one ends, of what could be done in that time. Of each node so much is free, in per cent; an
/// image is on the first one only.
fn efficiency(weights: &[u32; 3], free: &[u32; 3]) -> f64 {
    let free_of = |id: u64| free[id as usize - 1];
    let host = |c: Candidate| {
        let cpu_busy = (1_000 - 10 * free_of(c.node.0)) as u16;
        let load = Load { cpu_busy, memory_free_bytes: 64 << 30, ..load(1) };
        let has = vec![c.node == NodeId(1)];
        Candidate { unable: None, is_suspect: false, zone: None, has, load: Some(load), ..c }
    };
    let mut fleet: Vec<Candidate> =
        fleet(weights.len() as u64, |id| weights[id as usize - 1]).into_iter().map(host).collect();
    // One by one, as operations come.
    for _ in 0..OPERATIONS {
        let chosen = eligible(&fleet, &Requirements::default()).expect("all can").distribute(1);
        let at = (chosen[0].node.0 - 1) as usize;
        fleet[at].open += 1;
    }
    let carries = |c: &Candidate| f64::from(c.weight) * f64::from(free_of(c.node.0));
    let longest = fleet.iter().map(|c| f64::from(c.open) / carries(c)).fold(0.0, f64::max);
    f64::from(OPERATIONS) / (longest * fleet.iter().map(carries).sum::<f64>())
}

fn main() -> ExitCode {
    let mut failed = false;
    for nodes in [3, 100, 1_000] {
        let (p50, p99) = decisions(nodes);
        println!("a decision among {nodes} nodes: p50 {:.1} us, p99 {:.1} us", micros(p50), micros(p99));
        failed |= nodes == 100 && p99 >= DECISION_MAX;
    }
    let idle = [100; 3];
    for (weights, free) in [
        ([1, 2, 4], idle),
        ([1_024, 1_500, 16_384], idle),
        ([3, 3, 4], idle),
        ([1_024; 3], [90, 50, 30]),
        ([1_024, 4_096, 16_384], [95, 70, 25]),
    ] {
        let efficiency = efficiency(&weights, &free);
        println!(
            "{OPERATIONS} operations over nodes of weight {weights:?}, {free:?} % free: {:.1} % of the ideal",
            100.0 * efficiency
        );
        failed |= efficiency < EFFICIENCY_MIN;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
