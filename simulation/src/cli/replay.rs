//! `longshore-sim replay`: a failure again, and made smaller.

use std::path::{Path, PathBuf};
use std::pin::Pin;

use serde::Serialize;

use super::args::{Format, ReplayArgs};
use super::error::{CliError, interruptible};
use super::run::build_digest;
use super::{Console, Harness, execute, output, report};
use crate::batch::child::{Children, Ran, Report};
use crate::batch::shrink::{AsyncFails, Shrunk, shrink};
use crate::capsule::{Capsule, Replayed};
use crate::plan::Plan;
use crate::result::{RunResult, Verdict};

pub(super) fn replay(
    harness: &Harness,
    args: &ReplayArgs,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let capsule = Capsule::read(&args.capsule)?;
    if let Some(mutant) = &capsule.plan.mutant {
        crate::mutants::find(mutant)?;
    }
    if args.shrink {
        return shrunk(harness, args, &capsule, console);
    }
    let trace = execute::create(args.trace.as_deref())?;
    let result = execute::execute(harness.simulate, &capsule.plan, trace);
    let build = build_digest()?;
    let compared = Compared {
        replayed: capsule.compare(&result),
        same_build: capsule.build == build,
        report: Report {
            verdict: result.verdict(),
            capsule: None,
            reproduce: format!("longshore-sim replay {}", args.capsule.display()),
            result,
        },
    };
    console.print(&match args.format.format {
        Format::Json => output::json(&compared),
        Format::Text => {
            format!("{}{}\n", report::report(&compared.report, Some(&build)), compared.words(&capsule))
        }
    })?;
    Ok(compared.verdict())
}

/// A run beside its capsule.
#[derive(Debug, Serialize)]
struct Compared {
    replayed: Replayed,
    same_build: bool,
    #[serde(flatten)]
    report: Report,
}

impl Compared {
    /// The same build that does something else is not deterministic: nothing that it says counts.
    fn verdict(&self) -> Verdict {
        if self.same_build && self.replayed != Replayed::Same {
            Verdict::Harness
        } else {
            self.report.verdict
        }
    }

    fn words(&self, capsule: &Capsule) -> String {
        match (self.replayed, self.same_build) {
            (Replayed::Same, _) => "replayed: the same to the byte, as in the capsule".to_owned(),
            (_, true) => format!(
                "NOT replayed: the capsule, of this very build, has trace {} over {} events; the simulation is not \
                 deterministic",
                capsule.trace.hash, capsule.trace.events
            ),
            (Replayed::OtherTrace, false) => {
                format!("another build ({} wrote the capsule) fails in the same way", capsule.build)
            }
            (Replayed::OtherOutcome, false) => {
                let before =
                    capsule.violation.as_ref().map_or_else(|| "no violation".into(), report::violation);
                format!("another build wrote the capsule ({}); there it was: {before}", capsule.build)
            }
        }
    }
}

/// Runs plans in children and looks whether the same checker objects.
struct Trials<'a> {
    children: Children,
    wanted: Wanted,
    /// Where plans go for children to read.
    plan_file: PathBuf,
    /// Of the smallest plan so far.
    last: Option<RunResult>,
    tried: u64,
    console: &'a mut dyn FnMut(u64, &Plan),
    failed: Option<CliError>,
}

#[derive(Debug, Clone, PartialEq)]
enum Wanted {
    Checker(String),
    /// Any trouble of the harness.
    Harness,
}

impl Wanted {
    fn of(capsule: &Capsule) -> Result<Self, CliError> {
        match (&capsule.violation, &capsule.harness_error) {
            (Some(violation), _) => Ok(Self::Checker(violation.checker.clone())),
            (None, Some(_)) => Ok(Self::Harness),
            (None, None) => Err(CliError::new("the capsule has no failure: there is nothing to shrink")),
        }
    }

    fn is(&self, ran: &Ran) -> bool {
        match (self, ran) {
            (Self::Checker(checker), Ran::Reported(report)) => {
                report.result.violation.as_ref().is_some_and(|violation| violation.checker == *checker)
            }
            (Self::Harness, ran) => ran.verdict() == Verdict::Harness,
            (Self::Checker(_), Ran::Broken(_)) => false,
        }
    }
}

impl AsyncFails for Trials<'_> {
    fn fails<'a>(&'a mut self, plan: &'a Plan) -> Pin<Box<dyn Future<Output = bool> + 'a>> {
        Box::pin(async move {
            let text = serde_json::to_vec(plan).expect("a plan encodes as JSON");
            if let Err(error) = std::fs::write(&self.plan_file, text) {
                self.failed.get_or_insert(CliError::unwritable(&self.plan_file, &error));
                return false;
            }
            let file = self.plan_file.display().to_string();
            let args = ["--plan".to_owned(), file, "--capsule".to_owned(), "none".to_owned()];
            let ran = self.children.run(&args).await;
            self.tried += 1;
            let fails = self.wanted.is(&ran);
            if fails {
                self.last = ran.result().cloned();
                (self.console)(self.tried, plan);
            }
            fails
        })
    }
}

fn shrunk(
    harness: &Harness,
    args: &ReplayArgs,
    capsule: &Capsule,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let wanted = Wanted::of(capsule)?;
    let output = args.output.clone().unwrap_or_else(|| args.capsule.with_extension("small.json"));
    execute::can_be_written(&output)?;
    let plan_file = output.with_extension("plan.json");
    let mut failed = RunResult::empty(capsule.plan.clone());
    failed.violation.clone_from(&capsule.violation);
    let mut tell = |tried: u64, plan: &Plan| {
        let faults = output::count(plan.faults.len() as u64, "fault");
        console.report(&format!("try {tried}: still fails with {faults}\n"));
    };
    let mut trials = Trials {
        children: Children { program: harness.program.clone(), timeout: args.timeout },
        wanted,
        plan_file: plan_file.clone(),
        last: None,
        tried: 0,
        console: &mut tell,
        failed: None,
    };
    let ended = interruptible(async |stop| {
        // It must fail here and now, or everything would be taken out for nothing.
        let search = async {
            match trials.fails(&capsule.plan).await {
                true => Some(shrink(&failed, &mut trials).await),
                false => None,
            }
        };
        tokio::select! {
            biased;
            () = stop => Err(CliError::interrupted()),
            shrunk = search => Ok(shrunk),
        }
    })?;
    let (last, trouble) = (trials.last.take(), trials.failed.take());
    // It was ours, and may not have been written.
    let _ = std::fs::remove_file(&plan_file);
    if let Some(error) = trouble {
        return Err(error);
    }
    let Some(shrunk) = ended? else {
        return Err(CliError::new("the capsule's plan does not fail in that way any more")
            .hint("`longshore-sim replay` without --shrink shows what it does"));
    };
    let result = last.unwrap_or(failed);
    Capsule::of(&result, &build_digest()?)
        .write(&output)
        .map_err(|error| CliError::unwritable(&output, &error))?;
    console.print(&told(args.format.format, capsule, &shrunk, &result, &output))?;
    Ok(result.verdict())
}

#[derive(Serialize)]
struct Smaller<'a> {
    capsule: &'a Path,
    tried: u64,
    faults_before: usize,
    faults: usize,
    result: &'a RunResult,
}

fn told(format: Format, before: &Capsule, shrunk: &Shrunk, result: &RunResult, output: &Path) -> String {
    let (faults_before, faults) = (before.plan.faults.len(), shrunk.plan.faults.len());
    match format {
        Format::Json => {
            output::json(&Smaller { capsule: output, tried: shrunk.tried, faults_before, faults, result })
        }
        Format::Text => {
            let mut text = format!(
                "{faults} of {faults_before} faults are left after {} tries: {}\n",
                shrunk.tried,
                output.display()
            );
            for scheduled in &shrunk.plan.faults {
                text.push_str(&format!("  {:>8} ms  {:?}\n", scheduled.at_ms, scheduled.fault));
            }
            if let Some(violation) = &result.violation {
                text.push_str(&format!("{}\n", report::violation(violation)));
            }
            text
        }
    }
}
