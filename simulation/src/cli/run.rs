//! `longshore-sim run`: one seed, in this process.

use std::path::{Path, PathBuf};

use super::args::{Format, ProfileChoice, RunArgs};
use super::error::CliError;
use super::{Console, Harness, execute, output, report};
use crate::batch::child::Report;
use crate::capsule::{Capsule, this_build};
use crate::plan::Plan;
use crate::plan::fair::is_fair;
use crate::plan::profile::Profile;
use crate::result::{RunResult, Verdict};

/// Says that there shall be no capsule.
const NONE: &str = "none";

pub(super) fn run(harness: &Harness, args: &RunArgs, console: &mut Console<'_>) -> Result<Verdict, CliError> {
    let (plan, reproduce) = plan(args)?;
    plan.check().map_err(|what| CliError::new(format!("the plan cannot be run: {what}")))?;
    if let Err(what) = is_fair(&plan) {
        console.report(&format!("warning: this plan asks for more than a fleet can survive: {what}\n"));
    }
    let capsule = match &args.capsule {
        Some(path) if path == Path::new(NONE) => None,
        Some(path) => {
            execute::can_be_written(path)?;
            Some(path.clone())
        }
        None => Some(PathBuf::from(format!("longshore-sim-{}.json", plan.seed))),
    };
    let trace = execute::create(args.trace.as_deref())?;
    let result = execute::execute(harness.simulate, &plan, trace);
    tell(result, capsule, reproduce, args.format.format, console)
}

fn plan(args: &RunArgs) -> Result<(Plan, String), CliError> {
    if let Some(path) = &args.plan {
        let text = std::fs::read(path)
            .map_err(|error| CliError::new(format!("cannot read {}: {error}", path.display())))?;
        let plan = serde_json::from_slice(&text)
            .map_err(|error| CliError::new(format!("{} is not a plan: {error}", path.display())))?;
        return Ok((plan, format!("longshore-sim run --plan {}", path.display())));
    }
    let seed = args.seed.expect("clap wants a seed or a plan");
    let profile = args.profile.unwrap_or(Profile::Swarm);
    let mut request = args.what.requests(ProfileChoice::One(profile), args.transport)?.remove(0);
    request.flip_payload = args.flip_payload;
    Ok((request.plan(seed), request.reproduce(seed)))
}

/// Reports a run, and keeps it in a capsule if it failed.
pub(super) fn tell(
    result: RunResult,
    capsule: Option<PathBuf>,
    reproduce: String,
    format: Format,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let verdict = result.verdict();
    let failed = !matches!(verdict, Verdict::Pass | Verdict::Undecided);
    let capsule = capsule.filter(|_| failed);
    let mut build = None;
    if let Some(path) = &capsule {
        let digest = build_digest()?;
        Capsule::of(&result, &digest).write(path).map_err(|error| CliError::unwritable(path, &error))?;
        build = Some(digest);
    }
    let report = Report { verdict, capsule, reproduce, result };
    console.print(&match format {
        Format::Json => output::json(&report),
        Format::Text => report::report(&report, build.as_deref()),
    })?;
    Ok(verdict)
}

pub(super) fn build_digest() -> Result<String, CliError> {
    this_build().map_err(|error| CliError::new(format!("cannot read this program's own file: {error}")))
}
