//! `longshore-sim expand` and `scenarios`: what would be run.

use serde::Serialize;

use super::args::{ExpandArgs, Format, FormatArgs, ProfileChoice};
use super::error::CliError;
use super::{Console, output};
use crate::plan::profile::Profile;
use crate::plan::scenario::{SHIPPED, Scenario};
use crate::result::Verdict;

pub(super) fn expand(args: &ExpandArgs, console: &mut Console<'_>) -> Result<Verdict, CliError> {
    let profile = ProfileChoice::One(args.profile.unwrap_or(Profile::Swarm));
    let request = args.what.requests(profile, args.transport)?.remove(0);
    console.print(&output::json(&request.plan(args.seed)))?;
    Ok(Verdict::Pass)
}

#[derive(Serialize)]
struct Listed {
    name: String,
    description: String,
}

pub(super) fn scenarios(args: &FormatArgs, console: &mut Console<'_>) -> Result<Verdict, CliError> {
    let mut listed = Vec::new();
    for (name, text) in SHIPPED {
        let Scenario { name, description, .. } = Scenario::parse(name, text)?;
        listed.push(Listed { name, description });
    }
    console.print(&match args.format {
        Format::Json => output::json(&listed),
        Format::Text => {
            let lines: Vec<(&str, String)> = listed
                .iter()
                .map(|scenario| (scenario.name.as_str(), scenario.description.clone()))
                .collect();
            output::fields(&lines)
        }
    })?;
    Ok(Verdict::Pass)
}
