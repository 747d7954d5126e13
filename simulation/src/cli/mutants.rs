//! `longshore-sim mutants`: planted bugs, and how many seeds find them.

use serde::Serialize;

use super::args::{Format, MutantsArgs};
use super::error::{CliError, interruptible};
use super::{Console, Harness, output};
use crate::batch::child::Children;
use crate::batch::hunt::{Hunted, hunt};
use crate::mutants::{self, BUILD_HINT, Mutant, hooks_are_built};
use crate::result::Verdict;

pub(super) fn mutants(
    harness: &Harness,
    args: &MutantsArgs,
    console: &mut Console<'_>,
) -> Result<Verdict, CliError> {
    let chosen: Vec<&Mutant> = if args.names.is_empty() {
        harness.mutants.iter().collect()
    } else {
        args.names.iter().map(|name| known(harness, name)).collect::<Result<_, _>>()?
    };
    if args.list {
        console.print(&list(&chosen, args.format.format))?;
        return Ok(Verdict::Pass);
    }
    if let Some(missing) = chosen.iter().find(|mutant| mutant.needs_feature() && !hooks_are_built()) {
        return Err(CliError::new(format!("this build has no hook for {}", missing.name)).hint(BUILD_HINT));
    }
    let children = Children { program: harness.program.clone(), timeout: args.children.timeout };
    let hunted = interruptible(async |mut stop| {
        let mut all = Vec::new();
        for mutant in &chosen {
            let hunted = tokio::select! {
                biased;
                () = stop.as_mut() => return Err(CliError::interrupted()),
                hunted = hunt(&children, mutant, args.seeds_max, args.children.jobs()) => hunted,
            };
            console.report(&format!("{}\n", progress(&hunted)));
            all.push(hunted);
        }
        Ok(all)
    })??;
    let missed = hunted.iter().filter(|hunted| hunted.seed.is_none()).count();
    console.print(&match args.format.format {
        Format::Json => output::json(&hunted),
        Format::Text => format!("{}{} of {} found\n", text(&hunted), hunted.len() - missed, hunted.len()),
    })?;
    Ok(if missed == 0 { Verdict::Pass } else { Verdict::Harness })
}

fn known<'a>(harness: &'a Harness, name: &str) -> Result<&'a Mutant, CliError> {
    if let Some(found) = harness.mutants.iter().find(|mutant| mutant.name == name) {
        return Ok(found);
    }
    Err(mutants::find(name)
        .map_or_else(CliError::from, |_| CliError::new(format!("there is no planted bug {name:?}"))))
}

fn progress(hunted: &Hunted) -> String {
    let broken = match hunted.broken {
        0 => String::new(),
        broken => format!("; the harness failed in {broken}: {}", hunted.what.as_deref().unwrap_or("-")),
    };
    match (hunted.seed, &hunted.checker) {
        (Some(seed), Some(checker)) => format!("{}: found by {checker} in seed {seed}", hunted.mutant),
        _ => format!("{}: NOT found in {}{broken}", hunted.mutant, output::count(hunted.seeds, "seed")),
    }
}

fn text(hunted: &[Hunted]) -> String {
    let rows: Vec<Vec<String>> = hunted
        .iter()
        .map(|hunted| {
            vec![
                hunted.mutant.to_owned(),
                hunted.seeds.to_string(),
                format!("{:.1}", hunted.cpu_ms as f64 / 1000.0),
                hunted.checker.clone().unwrap_or_else(|| "NOT FOUND".to_owned()),
            ]
        })
        .collect();
    output::table(&["MUTANT", "SEEDS", "CPU SECONDS", "FOUND BY"], &rows)
}

#[derive(Serialize)]
struct Listed {
    name: &'static str,
    description: &'static str,
    exposed_by: &'static str,
    needs_feature: bool,
    profiles: Vec<&'static str>,
}

fn list(mutants: &[&Mutant], format: Format) -> String {
    let listed: Vec<Listed> = mutants
        .iter()
        .map(|mutant| Listed {
            name: mutant.name,
            description: mutant.description,
            exposed_by: mutant.exposed_by,
            needs_feature: mutant.needs_feature(),
            profiles: mutant.profiles.iter().map(|profile| profile.name()).collect(),
        })
        .collect();
    match format {
        Format::Json => output::json(&listed),
        Format::Text => {
            let lines = listed.iter().map(|mutant| {
                let feature = if mutant.needs_feature { " (needs a build with hooks)" } else { "" };
                (mutant.name, format!("{}{feature}", mutant.description))
            });
            output::fields(&lines.collect::<Vec<_>>())
        }
    }
}
