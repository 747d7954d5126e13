//! What a bench counted, and its report.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use longshore_raft::GroupId;
use serde::Serialize;

use crate::cli::output;

/// Longest latency that is told apart: what a client waits for a reply at most.
const LATENCY_MAX_US: u64 = 60_000_000;
/// Significant decimal digits of a latency.
const DIGITS: u8 = 3;

/// Counts of a bench under way.
#[derive(Debug)]
pub(super) struct Tally {
    reads: Histogram<u64>,
    writes: Histogram<u64>,
    absent: u64,
    errors: BTreeMap<&'static str, u64>,
    writes_by_group: BTreeMap<GroupId, u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        let histogram =
            || Histogram::new_with_bounds(1, LATENCY_MAX_US, DIGITS).expect("the bounds are sound");
        Self {
            reads: histogram(),
            writes: histogram(),
            absent: 0,
            errors: BTreeMap::new(),
            writes_by_group: BTreeMap::new(),
        }
    }

    pub(super) fn read(&mut self, took: Duration, found: bool) {
        self.reads.saturating_record(micros(took));
        self.absent += u64::from(!found);
    }

    pub(super) fn write(&mut self, took: Duration, group: GroupId) {
        self.writes.saturating_record(micros(took));
        *self.writes_by_group.entry(group).or_default() += 1;
    }

    pub(super) fn error(&mut self, kind: &'static str) {
        *self.errors.entry(kind).or_default() += 1;
    }
}

fn micros(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX).max(1)
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(super) struct Setup {
    pub(super) nodes: Vec<String>,
    pub(super) clients: u32,
    pub(super) value_bytes: u64,
    pub(super) read_share: f64,
    pub(super) keys: u32,
    pub(super) distribution: &'static str,
    pub(super) seed: u64,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    setup: Setup,
    measured_ms: u64,
    /// That succeeded.
    pub(super) operations: u64,
    operations_per_s: f64,
    reads: Latencies,
    /// Reads that found no such key.
    reads_absent: u64,
    writes: Latencies,
    errors: BTreeMap<&'static str, u64>,
    /// By group's id, those that had any.
    writes_by_group: BTreeMap<String, u64>,
}

/// Latencies of one kind of operation, in microseconds. Errors are not among them.
#[derive(Debug, Serialize)]
struct Latencies {
    count: u64,
    per_s: f64,
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p99_9_us: u64,
    max_us: u64,
}

impl Latencies {
    fn new(histogram: &Histogram<u64>, measured: Duration) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile);
        Self {
            count: histogram.len(),
            per_s: per_second(histogram.len(), measured),
            mean_us: histogram.mean(),
            p50_us: at(0.5),
            p90_us: at(0.9),
            p99_us: at(0.99),
            p99_9_us: at(0.999),
            max_us: histogram.max(),
        }
    }
}

fn per_second(count: u64, measured: Duration) -> f64 {
    if measured.is_zero() { 0.0 } else { count as f64 / measured.as_secs_f64() }
}

impl Report {
    pub(super) fn new(setup: Setup, measured: Duration, tally: &Tally) -> Self {
        let operations = tally.reads.len() + tally.writes.len();
        let by_group = tally.writes_by_group.iter().map(|(group, writes)| (group.to_string(), *writes));
        Self {
            setup,
            measured_ms: measured.as_millis() as u64,
            operations,
            operations_per_s: per_second(operations, measured),
            reads: Latencies::new(&tally.reads, measured),
            reads_absent: tally.absent,
            writes: Latencies::new(&tally.writes, measured),
            errors: tally.errors.clone(),
            writes_by_group: by_group.collect(),
        }
    }
}

pub(super) fn render(report: &Report, colour: bool) -> String {
    let Setup { nodes, clients, value_bytes, read_share, keys, distribution, seed } = &report.setup;
    let errors: Vec<String> = report.errors.iter().map(|(kind, count)| format!("{kind} {count}")).collect();
    let fields = output::fields(&[
        (
            "load",
            format!(
                "{} on {} for {:.1} s, {:.0} % reads\n{} of {value_bytes} bytes, {distribution}, seed {seed}",
                output::count(*clients as usize, "client"),
                output::count(nodes.len(), "node"),
                report.measured_ms as f64 / 1000.0,
                read_share * 100.0,
                output::count(*keys as usize, "key"),
            ),
        ),
        ("throughput", format!("{:.0} per s", report.operations_per_s)),
        ("errors", if errors.is_empty() { "none".to_owned() } else { errors.join(", ") }),
        ("absent", format!("{} of {} reads", report.reads_absent, report.reads.count)),
        ("groups", groups(&report.writes_by_group)),
    ]);
    let row = |name: &str, l: &Latencies| {
        let mut row = vec![name.into(), l.count.to_string().into(), format!("{:.0}", l.per_s).into()];
        let latencies = [l.p50_us, l.p90_us, l.p99_us, l.p99_9_us, l.max_us];
        row.extend(latencies.map(|us| (if l.count == 0 { output::NONE.into() } else { ms(us) }).into()));
        row
    };
    let rows = vec![row("reads", &report.reads), row("writes", &report.writes)];
    let head = ["", "COUNT", "PER S", "P50 MS", "P90 MS", "P99 MS", "P99.9 MS", "MAX MS"];
    format!("{fields}\n{}", output::table(&head, rows, colour))
}

/// Milliseconds with three significant digits, or all of them from 100 on.
fn ms(us: u64) -> String {
    let ms = us as f64 / 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2}"),
        ms if ms < 100.0 => format!("{ms:.1}"),
        ms => format!("{ms:.0}"),
    }
}

/// How the writes fell on groups; each one's count is in the JSON.
fn groups(writes: &BTreeMap<String, u64>) -> String {
    let Some((most, count)) = writes.iter().max_by_key(|(group, count)| (**count, std::cmp::Reverse(*group)))
    else {
        return "no writes".to_owned();
    };
    let least = writes.values().min().expect("there is one");
    let mean = writes.values().sum::<u64>() as f64 / writes.len() as f64;
    let groups = output::count(writes.len(), "group");
    format!(
        "writes in {groups}: {least} to {count} each, most in {most}, max/mean {:.2}",
        *count as f64 / mean
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            nodes: vec!["a".into(), "b".into()],
            clients: 32,
            value_bytes: 256,
            read_share: 0.5,
            keys: 1000,
            distribution: "zipf",
            seed: 1,
        }
    }

    fn tally() -> Tally {
        let mut tally = Tally::new();
        for us in 1..=1000 {
            tally.read(Duration::from_micros(us * 10), us > 5);
        }
        tally.write(Duration::from_millis(1), GroupId(2));
        tally.write(Duration::from_millis(3), GroupId(2));
        tally.write(Duration::from_secs(90), GroupId(10));
        tally.error("busy");
        tally.error("busy");
        tally
    }

    #[test]
    fn percentiles_are_exact_to_three_digits() {
        let report = Report::new(setup(), Duration::from_secs(2), &tally());
        for (got, exact) in [
            (report.reads.p50_us, 5_000.0),
            (report.reads.p90_us, 9_000.0),
            (report.reads.p99_us, 9_900.0),
            (report.reads.p99_9_us, 9_990.0),
            (report.reads.max_us, 10_000.0),
        ] {
            assert!((got as f64 / exact - 1.0).abs() < 0.002, "{got} for {exact}");
        }
        assert_eq!((report.operations, report.operations_per_s, report.reads_absent), (1003, 501.5, 5));
        // What is too long is counted as the longest, not dropped.
        assert!(report.writes.count == 3 && report.writes.max_us >= LATENCY_MAX_US);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["clients"], &json["errors"]["busy"]), (&32.into(), &2.into()));
        assert_eq!(json["writes_by_group"], serde_json::json!({"g2": 2, "g10": 1}));
    }

    #[test]
    fn a_report_for_people() {
        let text = render(&Report::new(setup(), Duration::from_secs(2), &tally()), false);
        let load = "load:        32 clients on 2 nodes for 2.0 s, 50 % reads\n             1000 keys of 256 bytes, zipf, seed 1\n";
        assert!(text.starts_with(load), "{text}");
        assert!(
            text.contains("errors:      busy 2\n") && text.contains("absent:      5 of 1000 reads\n"),
            "{text}"
        );
        assert!(
            text.contains("groups:      writes in 2 groups: 1 to 2 each, most in g2, max/mean 1.33\n"),
            "{text}"
        );
        let reads = text.lines().find(|line| line.starts_with("reads")).unwrap();
        let words: Vec<&str> = reads.split_whitespace().collect();
        assert_eq!(words[..5], ["reads", "1000", "500", "5.00", "9.01"], "{text}");
        let nothing = render(&Report::new(setup(), Duration::ZERO, &Tally::new()), false);
        assert!(
            nothing.contains("groups:      no writes\n") && nothing.contains("writes   0       0       -"),
            "{nothing}"
        );
    }
}
