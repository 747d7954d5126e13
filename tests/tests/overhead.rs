//! What an operation takes besides what it can not do without: three entries in a group's log (it is asked for, it is claimed, it has ended) and what
//! its engine is asked (the API that it speaks, the work, what came of it). Measured beside just that, in turn, since machines are noisy.

use std::time::Duration;

use hyper::Method;
use longshore_node::api::types::{Action, OperationRequest, OperationState, Strategy};
use longshore_tests::http::Http;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::Yard;
use longshore_tests::{Stopwatch, machine};

/// Entries of the log of one operation with one part.
const ENTRIES: usize = 3;
/// Most that `scripts/bench operations` lets it take beyond that, with 19 of 20 operations.
const OVERHEAD_MAX: Duration = Duration::from_millis(1);

/// What half of them take at most beyond that, everywhere: a watch that looks every 100 ms only takes longer.
const SEEN_WITHIN: Duration = Duration::from_millis(80);

/// Of a sorted list, the value that so many of a hundred are not above.
fn percentile(times: &mut [Duration], percent: usize) -> Duration {
    times.sort_unstable();
    times[(times.len() * percent).div_ceil(100) - 1]
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let watch = Stopwatch::start();
    work();
    watch.elapsed()
}

#[test]
fn an_operation_takes_its_engine_three_entries_and_little_more() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::alone();
    let rounds: usize =
        std::env::var("LONGSHORE_OVERHEAD_ROUNDS").map_or(30, |n| n.parse().expect("a number"));
    let is_limited = std::env::var_os("LONGSHORE_OVERHEAD_ROUNDS").is_some();
    let yard = Yard::of(3, "overhead", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image()).clone();
    yard.cli_pull(0, &[], &[&image]).ok();
    let (http, engine) = (yard.fleet.peers[0].http(), Http::unix(yard.proxies[0].socket()));
    let operate = |number: usize| {
        let targets = vec![format!("{}:op-{number}", image.name())];
        let tag = Action::Tag { source: image.to_string(), targets };
        let id = http.submit(&OperationRequest::new(tag, Strategy::Local), None).expect("submitted").id;
        // As `longshore op` does: the node says when it has ended.
        let state = http.watch_operation(&id).expect("watched").last().expect("it is there").state;
        assert_eq!(state, OperationState::Succeeded, "{id}");
    };
    let floor = |number: usize| {
        for entry in 0..ENTRIES {
            let key = format!("k{number}-{entry}");
            http.set_key("overhead", &key, vec![0; 256], None).expect("written");
        }
        let path = format!("/images/{image}/tag?repo={}&tag=raw-{number}", image.name());
        let made = format!("/images/{}:raw-{number}/json", image.name());
        for (method, path) in [(Method::GET, "/_ping"), (Method::POST, &path), (Method::GET, &made)] {
            assert!(engine.send(method, path, &[], None).expect("an answer").status.is_success());
        }
    };
    // Groups wake, connections and caches warm up.
    (0..10).for_each(|number| {
        operate(1_000_000 + number);
        floor(1_000_000 + number);
    });
    let (mut operations, mut floors) = (Vec::new(), Vec::new());
    for number in 0..rounds {
        operations.push(timed(|| operate(number)));
        floors.push(timed(|| floor(number)));
    }
    let mut extra = Vec::new();
    for percent in [50, 95] {
        let (whole, floor) = (percentile(&mut operations, percent), percentile(&mut floors, percent));
        extra.push(whole.saturating_sub(floor));
        println!(
            "{rounds} operations, one after the other, p{percent}: {:.2} ms; three entries and the engine alone: {:.2} ms; so Longshore's own: {:.2} ms",
            whole.as_secs_f64() * 1e3,
            floor.as_secs_f64() * 1e3,
            (whole.as_secs_f64() - floor.as_secs_f64()) * 1e3
        );
    }
    assert!(extra[0] <= SEEN_WITHIN, "{extra:?}");
    assert!(!is_limited || extra[1] <= OVERHEAD_MAX, "{extra:?}");
}
