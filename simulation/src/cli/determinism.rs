//! `longshore-sim verify-determinism`: each seed twice.

use futures_util::StreamExt;
use serde::Serialize;

use super::args::{Format, VerifyArgs};
use super::error::{CliError, interruptible};
use super::progress::Progress;
use super::{Console, Harness, output};
use crate::batch::child::Children;
use crate::batch::determinism::{Comparison, Divergence, Same, compare};
use crate::plan::TransportKind;
use crate::request::Request;
use crate::result::Verdict;

pub(super) fn verify(
    harness: &Harness,
    args: &VerifyArgs,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let kinds: Vec<Option<TransportKind>> = match args.transport {
        None => vec![None],
        Some(choice) => choice.kinds().iter().copied().map(Some).collect(),
    };
    let mut requests: Vec<Request> = Vec::new();
    for kind in kinds {
        requests.extend(args.what.requests(args.profile, kind)?);
    }
    let traces = args
        .traces
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("longshore-sim-{}", std::process::id())));
    if args.traces.is_some() {
        std::fs::create_dir_all(&traces).map_err(|error| CliError::unwritable(&traces, &error))?;
    }
    let children = Children { program: harness.program.clone(), timeout: args.children.timeout };
    let pairs: Vec<(u64, &Request)> =
        args.seeds.iter().flat_map(|seed| requests.iter().map(move |request| (seed, request))).collect();
    let mut progress = Progress::new(pairs.len() as u64, "seeds", console);
    let (children, traces) = (&children, traces.as_path());
    let comparisons = interruptible(async |mut stop| {
        let one = |(seed, request): (u64, &Request)| {
            // Not two of them into one folder: the same seed may differ in several profiles.
            let traces = traces.join(request.args().join("").trim_start_matches('-').replace("--", "-"));
            let request = request.clone();
            async move { compare(children, &request, seed, args.flip, &traces).await }
        };
        let mut running = futures_util::stream::iter(pairs).map(one).buffered(args.children.jobs());
        let (mut comparisons, mut different) = (Vec::new(), 0);
        loop {
            let next = tokio::select! {
                biased;
                () = stop.as_mut() => return Err(CliError::interrupted()),
                next = running.next() => next,
            };
            let Some(comparison) = next else { return Ok(comparisons) };
            different += u64::from(!comparison.is_same());
            progress.advance(&format!("{different} differ"), console);
            comparisons.push(comparison);
        }
    })?;
    progress.finish();
    let comparisons = comparisons?;
    console.print(&match args.format.format {
        Format::Json => output::json(&Verified {
            all_same: comparisons.iter().all(Comparison::is_same),
            comparisons: &comparisons,
        }),
        Format::Text => text(&comparisons, args.flip),
    })?;
    let differ = comparisons.iter().any(|comparison| !comparison.is_same()).then_some(Verdict::Harness);
    let runs = comparisons.iter().map(|comparison| comparison.verdict);
    // A run that cannot be repeated proves nothing, whatever it found.
    Ok(differ.unwrap_or_else(|| Verdict::worst(runs)))
}

#[derive(Serialize)]
struct Verified<'a> {
    all_same: bool,
    comparisons: &'a [Comparison],
}

fn text(comparisons: &[Comparison], flip: bool) -> String {
    let mut text = String::new();
    for comparison in comparisons {
        let name = format!("seed {} ({})", comparison.seed, comparison.what);
        match &comparison.same {
            Same::Yes { .. } if comparison.verdict == Verdict::Pass => {}
            Same::Yes { hash, .. } => {
                text.push_str(&format!(
                    "{name}: the same twice, {hash}, but {}\n",
                    comparison.verdict.name()
                ));
            }
            Same::No { hashes, divergence } => {
                text.push_str(&format!("{name}: NOT the same: {} and {}\n", hashes[0], hashes[1]));
                match divergence {
                    Some(divergence) => text.push_str(&diverged(divergence)),
                    None => text.push_str("  with traces written, the runs did not differ again\n"),
                }
            }
            Same::FlipUnnoticed { hash } => {
                text.push_str(&format!("{name}: a changed byte left the trace as it was: {hash}\n"));
            }
            Same::Broken { what } => text.push_str(&format!("{name}: {}\n", what.replace('\n', " "))),
        }
    }
    let same = comparisons.iter().filter(|comparison| comparison.is_same()).count();
    let (mut events, mut elections, mut flips) = (0, u64::MAX, 0);
    for comparison in comparisons {
        if let Same::Yes { events: of, elections: seen, flipped, .. } = &comparison.same {
            (events, elections) = (events + of, elections.min(*seen));
            flips += u64::from(flipped.is_some());
        }
    }
    let elections = if same > 0 { elections } else { 0 };
    let flipped = match flips {
        0 if !flip => String::new(),
        _ => format!(", another in {} with a byte of a payload changed", output::number(flips)),
    };
    text.push_str(&format!(
        "{same} of {} the same in two processes{flipped}: {}, at least {} each\n",
        output::count(comparisons.len() as u64, "run"),
        output::count(events, "event"),
        output::count(elections, "election"),
    ));
    text
}

fn diverged(divergence: &Divergence) -> String {
    let mut text = format!("  the first difference is in line {}:\n", divergence.line);
    let mut lines = |mark: &str, lines: &[String]| {
        lines.iter().for_each(|line| text.push_str(&format!("    {mark} {line}\n")));
    };
    lines(" ", &divergence.before);
    lines("a", &divergence.first);
    lines("b", &divergence.second);
    let [a, b] = &divergence.files;
    text.push_str(&format!("  a is {}\n  b is {}\n", a.display(), b.display()));
    text
}
