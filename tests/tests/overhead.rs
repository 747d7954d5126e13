//! What an operation takes besides what it can not do without: three entries in a group's log (it is asked for, it is claimed, it has ended) and what
//! its engine takes for what it is asked (the API that it speaks, the work, what came of it). Of each operation its own engine's time is taken off, as a proxy in front of it saw it, and that of three entries
//! written right after it, since machines are noisy.

use std::time::Duration;

use longshore_node::api::types::{Action, OperationRequest, OperationState, Strategy};
use longshore_tests::counting_proxy::Logged;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::Yard;
use longshore_tests::{Stopwatch, machine};

/// Entries of the log of one operation with one part.
const ENTRIES: usize = 3;
/// Most that `scripts/bench operations` lets 19 of 20 operations take beyond what 19 of 20 take for that alone.
const OVERHEAD_MAX_MS: f64 = 1.0;
/// What half of them take at most beyond that, everywhere: a watch that looks every 100 ms only takes longer.
const SEEN_WITHIN_MS: f64 = 80.0;

/// Of a sorted list, the value that so many of a hundred are not above.
fn percentile(times: &[f64], percent: usize) -> f64 {
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
    let (http, proxy) = (yard.fleet.peers[0].http(), &yard.proxies[0]);
    let operate = || {
        // One name, so that the engine and the inventory have as much to do with the last as with the first.
        let targets = vec![format!("{}:op-0", image.name())];
        let tag = Action::Tag { source: image.to_string(), targets };
        let id = http.submit(&OperationRequest::new(tag, Strategy::Local), None).expect("submitted").id;
        // As `longshore op` does: the node says when it has ended.
        let state = http.watch_operation(&id).expect("watched").last().expect("it is there").state;
        assert_eq!(state, OperationState::Succeeded, "{id}");
    };
    // The inventory asks for the same, so that of each only the quickest counts as the operation's.
    let engine_of = |asked: &[Logged]| {
        let quickest = |of: fn(&str) -> bool| {
            let taken =
                asked.iter().filter(|asked| of(&asked.target)).filter_map(|asked| asked.answered_after);
            taken.min().unwrap_or_else(|| panic!("one is missing: {asked:?}"))
        };
        let calls: [fn(&str) -> bool; 3] = [
            |call| call.ends_with("/_ping"),
            |call| call.contains("/tag?"),
            |call| call.ends_with(":op-0/json"),
        ];
        calls.map(quickest).iter().sum::<Duration>()
    };
    let enter = |number: usize| {
        for entry in 0..ENTRIES {
            http.set_key("overhead", &format!("k{number}-{entry}"), vec![0; 256], None).expect("written");
        }
    };
    // Groups wake, connections and caches warm up.
    (0..10).for_each(|number| {
        operate();
        enter(number);
    });
    let mut times: [Vec<f64>; 3] = Default::default();
    for number in 0..rounds {
        let asked_before = proxy.log().len();
        let whole = timed(operate);
        let engine = engine_of(&proxy.log()[asked_before..]);
        let floor = engine + timed(|| enter(number));
        let [whole, floor] = [whole, floor].map(|time| time.as_secs_f64() * 1e3);
        for (times, time) in times.iter_mut().zip([whole, floor, whole - floor]) {
            times.push(time);
        }
    }
    times.iter_mut().for_each(|times| times.sort_unstable_by(f64::total_cmp));
    let [p50, p95] = [50, 95].map(|percent| times.each_ref().map(|times| percentile(times, percent)));
    for (name, [whole, floor, own]) in [("p50", p50), ("p95", p95)] {
        println!(
            "{rounds} operations, one after the other, {name}: {whole:.2} ms; their engine and three entries: {floor:.2} ms, so {:.2} ms less \
             (and {name} of the difference of each, with the noise of both: {own:.2} ms)",
            whole - floor
        );
    }
    let [half, most] = [p50, p95].map(|[whole, floor, _]| whole - floor);
    assert!(half <= SEEN_WITHIN_MS, "{p50:?}");
    assert!(!is_limited || most <= OVERHEAD_MAX_MS, "{p95:?}");
}
