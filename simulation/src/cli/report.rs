//! What a run is told by, for people.

use std::collections::BTreeMap;

use super::output::{count, counts, fields, number, time};
use crate::batch::child::Report;
use crate::observation::{Promise, Violation};
use crate::plan::Plan;
use crate::result::RunResult;

/// The whole of it, with how to do it again after a failure.
pub(super) fn report(report: &Report, build: Option<&str>) -> String {
    let result = &report.result;
    let mut text = format!("seed {}, {}: {}\n", result.plan.seed, fleet(&result.plan), report.verdict.name());
    let mut lines = details(result);
    if let Some(violation) = &result.violation {
        lines.push(("violation", self::violation(violation)));
    }
    if let Some(error) = &result.harness_error {
        lines.push(("harness", error.clone()));
    }
    let failed = result.violation.is_some() || result.harness_error.is_some();
    if failed {
        let build = build.map_or_else(String::new, |build| format!(" (build {build})"));
        lines.push(("version", format!("longshore-sim {}{build}", result.version)));
        lines.push(("configuration", configuration(&result.plan)));
        if let Some(capsule) = &report.capsule {
            lines.push(("capsule", capsule.display().to_string()));
        }
    }
    text.push_str(&fields(&lines));
    if failed {
        text.push_str(&format!("reproduce with: {}\n", report.reproduce));
    }
    text
}

/// `swarm, 5 hosts, memory`.
fn fleet(plan: &Plan) -> String {
    let hosts = count(plan.fleet.hosts.len() as u64, "host");
    let mutant = plan.mutant.as_ref().map_or_else(String::new, |mutant| format!(", mutant {mutant}"));
    format!("{}, {hosts}, {}{mutant}", plan.profile, plan.transport.name())
}

fn details(result: &RunResult) -> Vec<(&'static str, String)> {
    let wall = time(result.wall_ms);
    let speed = format!(
        "{} virtual, {} CPU, {wall} real: {:.0} virtual seconds per CPU second",
        time(result.virtual_ms),
        time(result.cpu_ms),
        result.speed()
    );
    let elections = format!("{}, with {}", number(result.elections), count(result.leaders, "leader"));
    vec![
        ("time", speed),
        ("elections", elections),
        ("faults", counts(&result.faults)),
        ("ends", counts(&result.ends)),
        ("operators", counts(&result.operators)),
        ("operations", calls(&result.calls)),
        ("outage", format!("{} at most without an acknowledged write", time(result.longest_outage_ms))),
        ("network", counts(&result.network)),
        ("disks", counts(&result.disk)),
        ("verified", verified(result)),
        ("trace", format!("{} over {}", result.trace.hash, count(result.trace.events, "event"))),
    ]
}

fn calls(calls: &BTreeMap<String, BTreeMap<String, u64>>) -> String {
    let each: Vec<String> =
        calls.iter().map(|(kind, outcomes)| format!("{kind}: {}", counts(outcomes))).collect();
    each.join("\n")
}

fn verified(result: &RunResult) -> String {
    let each = result.verified.iter().map(|verified| {
        let undecided = match verified.undecided {
            0 => String::new(),
            undecided => format!(", {} UNDECIDED", number(undecided)),
        };
        format!("{}: {} ({}{undecided})", verified.checker, verified.claim, count(verified.events, "event"))
    });
    each.collect::<Vec<_>>().join("\n")
}

pub(super) fn violation(violation: &Violation) -> String {
    let promise = match violation.promise {
        Promise::Safety => "safety",
        Promise::Liveness => "liveness",
    };
    format!(
        "{promise}, by {} at {}: {}",
        violation.checker,
        time(violation.at_ns / 1_000_000),
        violation.what
    )
}

/// What the seed came to, in a few words; the capsule has all of it.
fn configuration(plan: &Plan) -> String {
    let late = plan.fleet.hosts.iter().filter(|host| host.late).count();
    let late = if late > 0 { format!(", {late} late") } else { String::new() };
    let unhealed = match plan.unhealed.as_slice() {
        [] => String::new(),
        hosts => format!(", hosts {hosts:?} left unhealed"),
    };
    format!(
        "{}{late}; {} of faults ({} planned), {} to settle{unhealed}; {}; segments of {} KiB, snapshots every {} entries",
        fleet(plan),
        time(plan.fault_ms),
        plan.faults.len(),
        time(plan.settle_ms),
        count(u64::from(plan.load.clients), "client"),
        plan.fleet.segment_bytes >> 10,
        number(plan.fleet.snapshot_entries),
    )
}
