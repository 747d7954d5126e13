//! What was measured, as JSON, as a table in Markdown and as a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The part of the report of `longshore cache bench --format json` that is compared.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LoadReport {
    pub reads: Latencies,
    pub writes: Latencies,
    pub reads_absent: u64,
    pub errors: BTreeMap<String, u64>,
    pub writes_by_group: BTreeMap<String, u64>,
}

/// Of one kind of operation.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub struct Latencies {
    pub count: u64,
    pub per_s: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

impl Latencies {
    pub fn of(histogram: &Histogram<u64>, measured: Duration) -> Self {
        Self {
            count: histogram.len(),
            per_s: histogram.len() as f64 / measured.as_secs_f64(),
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            max_us: histogram.max(),
        }
    }
}

/// Runs of one kind of load on both systems.
#[derive(Debug, Clone, Serialize)]
pub struct CaseReport {
    pub name: &'static str,
    /// Longshore's throughput is to be at least so many times etcd's; none: reported only.
    pub wanted: Option<f64>,
    pub longshore: Vec<Latencies>,
    pub etcd: Vec<Latencies>,
    pub errors: u64,
}

/// The middle run by throughput, of an odd number of runs.
pub fn median(runs: &[Latencies]) -> Latencies {
    let mut sorted = runs.to_vec();
    sorted.sort_by(|a, b| a.per_s.total_cmp(&b.per_s));
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

impl CaseReport {
    pub fn ratio(&self) -> f64 {
        median(&self.longshore).per_s / median(&self.etcd).per_s.max(f64::MIN_POSITIVE)
    }

    /// Whether throughput is as wanted, with a p99 no worse, and nothing failed.
    pub fn is_met(&self) -> bool {
        let p99 = |runs| median(runs).p99_us;
        self.wanted.is_none_or(|wanted| {
            self.ratio() >= wanted && p99(&self.longshore) <= p99(&self.etcd) && self.errors == 0
        })
    }
}

/// The whole comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Comparison {
    pub machine: String,
    pub longshore: String,
    pub etcd: String,
    pub groups: u32,
    pub seconds: u64,
    pub cases: Vec<CaseReport>,
}

fn ms(us: u64) -> String {
    format!("{:.2}", us as f64 / 1000.0)
}

pub fn markdown(report: &Comparison) -> String {
    let Comparison { machine, longshore, etcd, groups, seconds, cases } = report;
    let runs = cases.first().map_or(0, |case| case.longshore.len());
    let mut text = format!(
        "{machine}. {longshore}, {groups} groups, three peers; etcd {etcd}, three members. Values of 256 bytes; medians of {runs} runs of \
         {seconds} s, interleaved.\n\n"
    );
    text.push_str(
        "| load | Longshore per s | etcd per s | ratio | wanted | p50 ms | p99 ms | etcd p50 | etcd p99 |\n",
    );
    text.push_str("|---|---:|---:|---:|---:|---:|---:|---:|---:|\n");
    for case in cases {
        let (ours, theirs) = (median(&case.longshore), median(&case.etcd));
        let wanted = case.wanted.map_or("-".to_owned(), |wanted| format!("{wanted}"));
        let _ = writeln!(
            text,
            "| {}{} | {:.0} | {:.0} | {:.2} | {wanted} | {} | {} | {} | {} |",
            case.name,
            if case.is_met() { "" } else { " (not met)" },
            ours.per_s,
            theirs.per_s,
            case.ratio(),
            ms(ours.p50_us),
            ms(ours.p99_us),
            ms(theirs.p50_us),
            ms(theirs.p99_us),
        );
    }
    text
}

const ROW: f64 = 46.0;
const LEFT: f64 = 190.0;
const WIDTH: f64 = 420.0;

/// Bars of throughput, each pair against its own longest: what is compared are the two of a pair.
pub fn svg(report: &Comparison) -> String {
    let height = ROW.mul_add(report.cases.len() as f64, 50.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"760\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"12\" y=\"24\" font-size=\"14\">Operations per second, median of runs: <tspan fill=\"#0b6e99\">Longshore</tspan>, \
         <tspan fill=\"#999999\">etcd {}</tspan></text>\n",
        report.etcd
    );
    for (row, case) in report.cases.iter().enumerate() {
        let y = ROW.mul_add(row as f64, 44.0);
        let _ = writeln!(svg, "<text x=\"12\" y=\"{}\">{}</text>", y + 20.0, case.name);
        let (ours, theirs) = (median(&case.longshore).per_s, median(&case.etcd).per_s);
        let most = ours.max(theirs).max(1.0);
        for (line, (value, fill)) in [(ours, "#0b6e99"), (theirs, "#999999")].into_iter().enumerate() {
            let (top, length) = (y + 18.0 * line as f64, value / most * WIDTH);
            let _ = writeln!(
                svg,
                "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{length:.1}\" height=\"15\" fill=\"{fill}\"/>\
                 <text x=\"{:.1}\" y=\"{}\">{value:.0}</text>",
                LEFT + length + 6.0,
                top + 12.0
            );
        }
        let _ = writeln!(svg, "<text x=\"700\" y=\"{}\">{:.2} x</text>", y + 20.0, case.ratio());
    }
    svg.push_str("</svg>\n");
    svg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(per_s: f64, p99_us: u64) -> Latencies {
        Latencies { per_s, p99_us, ..Latencies::default() }
    }

    fn case(wanted: Option<f64>, errors: u64) -> CaseReport {
        let longshore = vec![run(100.0, 9), run(3_000.0, 5), run(2_000.0, 7)];
        CaseReport { name: "puts", wanted, longshore, etcd: vec![run(1_000.0, 8)], errors }
    }

    #[test]
    fn medians_ratios_and_what_is_met() {
        assert_eq!(median(&case(None, 0).longshore).per_s, 2_000.0);
        assert_eq!(case(None, 0).ratio(), 2.0);
        for (wanted, errors, met) in
            [(None, 5, true), (Some(2.0), 0, true), (Some(2.1), 0, false), (Some(1.0), 1, false)]
        {
            assert_eq!(case(wanted, errors).is_met(), met, "{wanted:?} {errors}");
        }
        let slow = CaseReport { etcd: vec![run(1_000.0, 6)], ..case(Some(1.0), 0) };
        assert!(!slow.is_met(), "its p99 is worse");
    }

    #[test]
    fn the_table_and_the_plot_have_every_case() {
        let report = Comparison {
            machine: "2 cores".into(),
            longshore: "longshore 1".into(),
            etcd: "3".into(),
            groups: 32,
            seconds: 1,
            cases: vec![case(Some(1.5), 0), case(Some(9.0), 0)],
        };
        let text = markdown(&report);
        assert!(text.contains("| puts | 2000 | 1000 | 2.00 | 1.5 | 0.00 | 0.01 | 0.00 | 0.01 |"), "{text}");
        assert!(text.contains("| puts (not met) |"), "{text}");
        let svg = svg(&report);
        assert_eq!((svg.matches("<rect").count(), svg.matches("2.00 x").count()), (5, 2), "{svg}");
    }
}
