//! `longshore-sim sweep`: many seeds.

use super::args::{Format, SweepArgs};
use super::error::CliError;
use super::progress::Progress;
use super::run::build_digest;
use super::{Console, Harness, output, report};
use crate::batch::child::Children;
use crate::batch::results::{Record, Results};
use crate::batch::sweep::{Summary, Sweep};
use crate::plan::TransportKind;
use crate::random;
use crate::request::Request;
use crate::result::{VERSION, Verdict};

pub(super) fn sweep(
    harness: &Harness,
    args: &SweepArgs,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let requests = args.what.requests(args.profile, args.transport)?;
    let quic_percent = args.quic_percent;
    // By the seed alone, so that every part of a range is done in the same way as the whole.
    let request = |seed: u64| {
        let mut request: Request = requests[(seed % requests.len() as u64) as usize].clone();
        if let Some(percent) = quic_percent {
            request.transport = Some(transport(seed, percent));
        }
        request
    };
    std::fs::create_dir_all(&args.capsules).map_err(|error| CliError::unwritable(&args.capsules, &error))?;
    let build = build_digest()?;
    let mut results = Results::open(&args.results, VERSION, &build)?;
    let children = Children { program: harness.program.clone(), timeout: args.children.timeout };
    let sweep = Sweep {
        children: &children,
        seeds: args.seeds,
        request: &request,
        jobs: args.children.jobs(),
        build: &build,
        capsules: args.capsules.clone(),
        keep: args.keep,
    };
    let todo = sweep.todo(&results).len() as u64;
    if todo < args.seeds.count() {
        let there = output::count(args.seeds.count() - todo, "seed");
        console.report(&format!("{there} of {} in {} already\n", args.seeds, args.results.display()));
    }
    let mut progress = Progress::new(todo, "seeds", console);
    let mut failed = 0;
    let ran = super::error::interruptible(async |stop| {
        let mut told = |record: &Record, _left: u64| {
            if record.verdict != Verdict::Pass {
                failed += 1;
                progress.note(&failure(record), console);
            }
            progress.advance(&format!("{failed} did not pass"), console);
        };
        sweep.run(&mut results, stop, &mut told).await
    })?;
    progress.finish();
    ran?;
    let summary = sweep.summary(&results);
    console.print(&match args.format.format {
        Format::Json => output::json(&summary),
        Format::Text => text(&summary, args),
    })?;
    if summary.ran < summary.seeds {
        console.report("interrupted: the same command carries on\n");
        return Err(CliError::interrupted());
    }
    Ok(summary.verdict())
}

fn transport(seed: u64, quic_percent: u8) -> TransportKind {
    use rand::RngExt;
    let drawn: u8 = random::stream(seed, "sweep/transport").random_range(0..100);
    if drawn < quic_percent { TransportKind::Quic } else { TransportKind::Memory }
}

/// One that did not pass, in a line.
fn failure(record: &Record) -> String {
    let why = match (&record.violation, &record.harness_error) {
        (Some(violation), _) => report::violation(violation),
        (None, Some(error)) => error.clone(),
        (None, None) => format!("{} undecided", record.undecided),
    };
    let capsule = record.capsule.as_ref().map_or_else(String::new, |path| format!("; {}", path.display()));
    let why = why.replace('\n', " ");
    format!("seed {} ({}): {}: {why}{capsule}", record.seed, record.what, record.verdict.name())
}

fn text(summary: &Summary, args: &SweepArgs) -> String {
    let mut text = format!(
        "{} of {}: {} passed, {} safety, {} liveness, {} harness, {} undecided\n",
        output::number(summary.ran),
        output::count(summary.seeds, "seed"),
        output::number(summary.passed),
        summary.safety,
        summary.liveness,
        summary.harness,
        summary.undecided,
    );
    let speed = summary.virtual_ms as f64 / summary.cpu_ms.max(1) as f64;
    text.push_str(&output::fields(&[
        (
            "time",
            format!(
                "{} virtual, {} CPU: {speed:.0} virtual seconds per CPU second",
                output::time(summary.virtual_ms),
                output::time(summary.cpu_ms)
            ),
        ),
        ("elections", output::number(summary.elections)),
        (
            "seeds with",
            format!(
                "an election {}, a crash {}, a partition {}",
                output::number(summary.with_election),
                output::number(summary.with_crash),
                output::number(summary.with_partition)
            ),
        ),
        ("faults", output::counts(&summary.faults)),
        ("operations", output::number(summary.calls)),
        ("events", output::number(summary.events)),
        ("results", args.results.display().to_string()),
    ]));
    for record in &summary.failures {
        text.push_str(&failure(record));
        text.push('\n');
    }
    text
}
