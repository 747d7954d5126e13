//! Hints for commands that there are not: where another tool has them, or a part of this one.
//!
//! clap itself suggests what is spelled alike at the same place (`nodes` for `node`, `--nmae` for `--name`). Here is what it cannot know.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{ColorChoice, CommandFactory, FromArgMatches};

use super::args::Cli;

/// What people write who come from Docker, Swarm or Kubernetes, and what it is here.
pub(super) const HABITS: &[(&str, &[&str])] = &[
    ("help", &["--help"]),
    ("service", &["op runs"]),
    ("containers", &["op ps"]),
    ("info", &["status"]),
    ("health", &["status"]),
    ("members", &["node ls"]),
    ("swarm", &["init", "join"]),
    ("stack", &["op ls"]),
    ("kv", &["cache get"]),
    ("put", &["cache set"]),
    ("stop", &["op stop", "leave"]),
    ("start", &["op start", "run"]),
    ("up", &["launch", "run"]),
    ("demo", &["launch"]),
    ("shards", &["ring show"]),
    ("partitions", &["ring show"]),
    ("completion", &["completions"]),
    ("dashboard", &["top"]),
    ("monitor", &["top"]),
    ("curl", &["api"]),
];

/// Most commands in one hint.
const SUGGESTIONS_MAX: usize = 4;

/// How alike a word and a command's name must be (Jaro similarity, 1: the same), as in clap.
const SIMILAR: f64 = 0.8;

/// Parses a command line, the program's name first. An error of an unknown command says where it may be.
///
/// # Errors
/// clap's, to be printed; help and version are such "errors" too.
pub(super) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let args: Vec<OsString> = args.into_iter().collect();
    let mut command = Cli::command().color(colour(&args));
    let mut matches = command.try_get_matches_from_mut(args).map_err(|error| hinted(error, &command))?;
    Cli::from_arg_matches_mut(&mut matches).map_err(|error| error.format(&mut command))
}

/// What `--color` says of help and of errors that come before arguments are understood. `NO_COLOR` is honoured by clap itself.
pub(super) fn colour(args: &[OsString]) -> ColorChoice {
    let args = args.iter().take_while(|arg| *arg != "--").map(|arg| arg.to_str().unwrap_or_default());
    let mut choice = ColorChoice::Auto;
    let mut is_next = false;
    for arg in args {
        let value = if is_next { Some(arg) } else { arg.strip_prefix("--color=") };
        is_next = arg == "--color";
        choice = match value {
            Some("never") => ColorChoice::Never,
            Some("always") => ColorChoice::Always,
            _ => choice,
        };
    }
    choice
}

fn hinted(mut error: clap::Error, command: &clap::Command) -> clap::Error {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return error;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return error };
    let found =
        commands_like(command, &word.to_lowercase(), error.get(ContextKind::SuggestedSubcommand).is_some());
    if !found.is_empty() {
        let found: Vec<String> = found.iter().map(|path| format!("`longshore {path}`")).collect();
        let tip = format!("did you mean {}?", found.join(" or "));
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

/// Commands that `word` may mean: by habit, by their own last word, or, if there is nothing better, by one that is spelled alike.
fn commands_like(command: &clap::Command, word: &str, has_better: bool) -> Vec<String> {
    if let Some((_, paths)) = HABITS.iter().find(|(habit, _)| *habit == word) {
        return paths.iter().map(|path| (*path).to_owned()).collect();
    }
    let mut all = Vec::new();
    for group in command.get_subcommands() {
        for leaf in group.get_subcommands().filter(|leaf| leaf.get_name() != "help") {
            all.push((format!("{} {}", group.get_name(), leaf.get_name()), leaf));
        }
    }
    let named: Vec<String> = all
        .iter()
        .filter(|(_, leaf)| leaf.get_name() == word || leaf.get_all_aliases().any(|alias| alias == word))
        .map(|(path, _)| path.clone())
        .take(SUGGESTIONS_MAX)
        .collect();
    if !named.is_empty() || has_better {
        return named;
    }
    let mut alike: Vec<(f64, String)> =
        all.into_iter().map(|(path, leaf)| (strsim::jaro(word, leaf.get_name()), path)).collect();
    alike.retain(|(likeness, _)| *likeness >= SIMILAR);
    alike.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    alike.into_iter().map(|(_, path)| path).take(SUGGESTIONS_MAX).collect()
}
