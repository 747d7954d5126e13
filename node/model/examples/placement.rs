//! How long it takes to decide where work goes, and how even it comes out: `cargo run --release -p longshore-model --example placement`.
//!
//! Fails if a decision among 100 nodes takes 1 ms or more at the 99th percentile, or if 1,000 operations over nodes of unequal capacity make less
//! than 95 % of what their capacities allow.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use longshore_model::operations::placement::{Candidate, LabelRequirement, Requirements, eligible};
use longshore_raft::NodeId;

const DECISIONS: usize = 20_000;
const OPERATIONS: u32 = 1_000;
const DECISION_MAX: Duration = Duration::from_millis(1);
const EFFICIENCY_MIN: f64 = 0.95;

fn fleet(nodes: u64, weight: impl Fn(u64) -> u32) -> Vec<Candidate> {
    let node = |id| Candidate {
        node: NodeId(id),
        name: format!("host-{id}"),
        zone: Some(format!("zone-{}", id % 5)),
        labels: BTreeMap::from([("disk".to_owned(), if id % 2 == 0 { "ssd" } else { "hdd" }.to_owned())]),
        capacity: None,
        weight: weight(id),
        open: 0,
        unable: (id % 17 == 0).then(|| "is dead".to_owned()),
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

/// What is done when all are at work until the last one ends, of what could be done in that time.
fn efficiency(weights: &[u32]) -> f64 {
    let mut fleet: Vec<Candidate> = fleet(weights.len() as u64, |id| weights[id as usize - 1])
        .into_iter()
        .map(|c| Candidate { unable: None, ..c })
        .collect();
    // One by one, as operations come.
    for _ in 0..OPERATIONS {
        let chosen = eligible(&fleet, &Requirements::default()).expect("all can").distribute(1);
        let at = (chosen[0].node.0 - 1) as usize;
        fleet[at].open += 1;
    }
    let longest = fleet.iter().map(|c| f64::from(c.open) / f64::from(c.weight)).fold(0.0, f64::max);
    f64::from(OPERATIONS) / (longest * f64::from(weights.iter().sum::<u32>()))
}

fn main() -> ExitCode {
    let mut failed = false;
    for nodes in [3, 100, 1_000] {
        let (p50, p99) = decisions(nodes);
        println!("a decision among {nodes} nodes: p50 {:.1} us, p99 {:.1} us", micros(p50), micros(p99));
        failed |= nodes == 100 && p99 >= DECISION_MAX;
    }
    for weights in [[1, 2, 4], [1_024, 1_500, 16_384], [3, 3, 4]] {
        let efficiency = efficiency(&weights);
        println!(
            "{OPERATIONS} operations over nodes of weight {weights:?}: {:.1} % of the ideal",
            100.0 * efficiency
        );
        failed |= efficiency < EFFICIENCY_MIN;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
