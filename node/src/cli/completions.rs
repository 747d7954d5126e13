//! `longshore completions SHELL`, and what the shell asks on TAB.
//!
//! The script calls this program for every completion, so that names that are there now can be offered: nodes, groups, operations, tokens,
//! images, zones. They are asked of the running node, which has [`ANSWER_LIMIT`] to tell them. Must never: print anything else, or keep the person
//! at the prompt waiting; a node that does not answer has no names.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::builder::ValueHint;
use clap::{Arg, Args, ColorChoice, Command, CommandFactory, ValueEnum};
use clap_complete::CompleteEnv;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{Bash, Elvish, EnvCompleter, Fish, Powershell, Zsh};

use longshore_model::image::ImageReference;

use super::args::{Cli, ColourChoice, GlobalArgs};
use super::error::{CliError, Exit};
use super::session::{self, Client, Runtime};
use super::terminal::Terminal;
use super::{api, output};
use crate::api::client::ClientError;
use crate::api::timer::within;
use crate::api::types::{
    ContainerView, EngineView, GroupQuery, OperationQuery, OperationState, OperationView, RunView,
};

/// Set by the script when it asks for completions.
const VARIABLE: &str = "LONGSHORE_COMPLETE";

/// How long the node may take to tell names.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_millis(300);

/// bash takes a colon for the end of a word, and would complete no tag of an image.
const BASH_WORDS: &str = "COMP_WORDBREAKS=\"${COMP_WORDBREAKS//:/}\"\n";

/// Most operations that are looked at, the newest.
const OPERATIONS_MAX: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

impl Shell {
    fn completer(self) -> &'static dyn EnvCompleter {
        match self {
            Self::Bash => &Bash,
            Self::Zsh => &Zsh,
            Self::Fish => &Fish,
            Self::Powershell => &Powershell,
            Self::Elvish => &Elvish,
        }
    }
}

#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that is to complete
    shell: Shell,
}

/// Prints the script that makes the shell ask this program.
pub(super) fn completions(args: &CompletionsArgs, terminal: &mut Terminal) -> Result<(), CliError> {
    let program = std::env::args_os().next().unwrap_or_default();
    let script = script(args.shell.completer(), PathBuf::from(program), std::env::current_dir().ok());
    let script =
        script.map_err(|error| CliError::new(Exit::Failed, format!("the script cannot be made: {error}")))?;
    terminal.print_bytes(&script)
}

/// A program that was called by its name alone is found on the PATH again; any other is where it is now.
fn script(shell: &dyn EnvCompleter, program: PathBuf, here: Option<PathBuf>) -> std::io::Result<Vec<u8>> {
    let program = match here {
        Some(here) if program.components().count() > 1 => here.join(program),
        _ => program,
    };
    let mut script = Vec::new();
    if shell.is("bash") {
        script.extend_from_slice(BASH_WORDS.as_bytes());
    }
    shell.write_registration(VARIABLE, "longshore", "longshore", &program.to_string_lossy(), &mut script)?;
    Ok(script)
}

/// Answers the shell, if it is the shell that runs this process; to be called before anything else.
pub(super) fn answered() -> Option<ExitCode> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let asker = NodeAsker { global: global_args(&words), limit: ANSWER_LIMIT };
    let completed = CompleteEnv::with_factory(|| command(Arc::new(asker.clone())))
        .var(VARIABLE)
        .try_complete(words, std::env::current_dir().ok().as_deref());
    match completed {
        Ok(false) => None,
        Ok(true) => Some(ExitCode::SUCCESS),
        // The shell that asks shows nothing of it; a person who set the variable reads why.
        Err(error) => {
            let _ = error.print();
            Some(ExitCode::from(Exit::Usage.code()))
        }
    }
}

/// What can be completed with names that are there now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    Nodes,
    Zones,
    Capabilities,
    Groups,
    Tokens,
    Images,
    /// And runs that the fleet keeps up.
    Containers,
    Registries,
    Operations(Which),
    /// Of the API; these need no node.
    Endpoints,
}

/// Operations that a command can do something with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Which {
    All,
    UnderWay,
    /// Something of it failed, or was cancelled.
    Retriable,
}

impl Which {
    fn has(self, state: OperationState) -> bool {
        match self {
            Self::All => true,
            Self::UnderWay => !state.is_terminal(),
            Self::Retriable => state.is_terminal() && state != OperationState::Succeeded,
        }
    }
}

impl Names {
    /// What an argument is completed with: the commands that it stands in and the name of its value say it.
    fn of(path: &[String], value_name: &str) -> Option<Self> {
        let path: Vec<&str> = path.iter().map(String::as_str).collect();
        match (path.as_slice(), value_name) {
            (["join" | "init" | "run" | "sim" | "launch", ..], _) => None,
            (_, "NODE") => Some(Self::Nodes),
            (_, "GROUP") => Some(Self::Groups),
            (["token", ..], "ID") => Some(Self::Tokens),
            (["op", "cancel" | "wait" | "watch"], "ID") => Some(Self::Operations(Which::UnderWay)),
            (["op", "retry"], "ID") => Some(Self::Operations(Which::Retriable)),
            (["op", ..], "ID") => Some(Self::Operations(Which::All)),
            (["op", ..], "IMAGE") => Some(Self::Images),
            (["op", "stop" | "start" | "rm" | "exec" | "logs"], "NAME" | "CONTAINER") => {
                Some(Self::Containers)
            }
            (["logout"], "REGISTRY") => Some(Self::Registries),
            (["op", ..], "ZONE") => Some(Self::Zones),
            (["op", ..], "CAPABILITY") => Some(Self::Capabilities),
            (["api"], "METHOD|PATH" | "PATH") => Some(Self::Endpoints),
            _ => None,
        }
    }
}

/// A name, and a word about it for shells that show one.
type Named = (String, Option<String>);

/// Who knows the names.
pub(super) trait Asker: Send + Sync {
    /// All names of a kind, in the order in which they are to be offered; none on any failure.
    fn ask(&self, names: Names) -> Vec<Named>;
}

/// The command with everything that completes its arguments.
pub(super) fn command(asker: Arc<dyn Asker>) -> Command {
    completed(Cli::command().color(ColorChoice::Never), &[], &asker)
}

fn completed(command: Command, path: &[String], asker: &Arc<dyn Asker>) -> Command {
    let command = command.mut_args(|arg| completed_arg(arg, path, asker));
    command.mut_subcommands(|inner| {
        let path = [path, &[inner.get_name().to_owned()]].concat();
        completed(inner, &path, asker)
    })
}

fn completed_arg(arg: Arg, path: &[String], asker: &Arc<dyn Asker>) -> Arg {
    let value_name = arg.get_value_names().and_then(|names| names.first()).map(ToString::to_string);
    // A positional argument without a name of its own is called as its field is.
    let value_name = value_name.unwrap_or_else(|| arg.get_id().as_str().to_ascii_uppercase());
    if let Some(names) = Names::of(path, &value_name) {
        let asker = Arc::clone(asker);
        return arg.add(ArgValueCompleter::new(move |current: &std::ffi::OsStr| {
            let Some(current) = current.to_str() else { return Vec::new() };
            let named = asker.ask(names).into_iter().filter(|(name, _)| name.starts_with(current));
            named.map(|(name, word)| CompletionCandidate::new(name).help(word.map(Into::into))).collect()
        }));
    }
    match value_name.as_str() {
        "DIR" => arg.value_hint(ValueHint::DirPath),
        "FILE" => arg.value_hint(ValueHint::FilePath),
        "URL|PATH" => arg.value_hint(ValueHint::AnyPath),
        _ => arg,
    }
}

/// What the words typed so far say of the node to ask. Not parsed by clap: they are no whole command yet.
pub(super) fn global_args(words: &[OsString]) -> GlobalArgs {
    let words: Vec<&str> = words.iter().map(|word| word.to_str().unwrap_or_default()).collect();
    let values = |flag: &str| {
        let next = words.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].to_owned());
        let joined =
            words.iter().filter_map(|word| word.strip_prefix(flag)?.strip_prefix('=').map(str::to_owned));
        next.chain(joined).collect::<Vec<_>>()
    };
    GlobalArgs {
        host: values("--host"),
        data_dir: values("--data-dir").pop(),
        config: values("--config").pop().map(PathBuf::from),
        color: ColourChoice::Never,
        verbose: false,
    }
}

/// Asks the node that the words name.
#[derive(Debug, Clone)]
pub(super) struct NodeAsker {
    pub(super) global: GlobalArgs,
    /// How long it may take to answer.
    pub(super) limit: Duration,
}

impl Asker for NodeAsker {
    fn ask(&self, names: Names) -> Vec<Named> {
        if names == Names::Endpoints {
            // Up to the first part that is left open.
            let begins = |(path, _): (String, _)| path.split('{').next().unwrap_or_default().to_owned();
            let begins: BTreeSet<String> = api::endpoints().into_iter().map(begins).collect();
            return begins.into_iter().map(|path| (path, None)).collect();
        }
        let Ok((client, _)) = session::clients(&self.global, &Terminal::system(), true) else {
            return Vec::new();
        };
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
            return Vec::new();
        };
        let asked =
            runtime.block_on(async { within::<Runtime, _>(self.limit, names_of(&client, names)).await });
        // A look-up of a host's name that hangs must not be waited for.
        runtime.shutdown_background();
        asked.and_then(Result::ok).unwrap_or_default()
    }
}

async fn names_of(client: &Client, names: Names) -> Result<Vec<Named>, ClientError> {
    let unique = |names: Vec<String>| {
        let mut seen = BTreeSet::new();
        names.into_iter().filter(|name| seen.insert(name.clone())).map(|name| (name, None)).collect()
    };
    Ok(match names {
        Names::Nodes => {
            let nodes = client.list_nodes().await?.nodes.into_iter();
            nodes
                .map(|node| (node.name, Some(format!("{}, {}", node.id, output::node_state(node.state).0))))
                .collect()
        }
        Names::Zones => {
            unique(client.list_nodes().await?.nodes.into_iter().filter_map(|node| node.zone).collect())
        }
        Names::Capabilities => {
            let capabilities =
                client.list_nodes().await?.nodes.into_iter().flat_map(|node| match node.engine {
                    EngineView::Ready { capabilities, .. } => capabilities,
                    EngineView::Unavailable { .. } | EngineView::NotConfigured | EngineView::Unknown => {
                        Vec::new()
                    }
                });
            unique(capabilities.collect())
        }
        Names::Groups => {
            let groups = client.list_groups(GroupQuery { keys: false }).await?.groups.into_iter();
            let word = |leader: Option<String>| leader.map(|leader| format!("led by {leader}"));
            groups.map(|group| (group.placement.group, word(group.placement.leader))).collect()
        }
        Names::Tokens => client.list_tokens().await?.into_iter().map(|token| (token.id, None)).collect(),
        Names::Operations(which) => {
            let operations = newest(client).await?.into_iter().filter(|operation| which.has(operation.state));
            let word = |operation: &OperationView| {
                let (kind, images) = (&operation.kind, operation.images.join(", "));
                output::one_line(&format!("{kind} of {images}, {}", operation.state.name()))
            };
            operations.map(|operation| (operation.id.clone(), Some(word(&operation)))).collect()
        }
        // Those that engines have, and then those that only operations speak of.
        Names::Images => {
            let there = client.list_images(None).await.unwrap_or_default().images.into_iter();
            let operations = newest(client).await?.into_iter();
            let spoken_of = operations.flat_map(|operation| operation.images);
            unique(there.flat_map(|image| image.tags).chain(spoken_of).map(familiar).collect())
        }
        Names::Containers => {
            let runs = client.list_runs().await?.into_iter();
            let run = |run: RunView| Some((run.name?, Some(format!("run of {}", run.image))));
            let containers = client.list_containers(None).await?.containers.into_iter();
            let container = |it: ContainerView| (it.name, Some(format!("{} on {}", it.image, it.node)));
            runs.filter_map(run).chain(containers.map(container)).collect()
        }
        Names::Registries => {
            let registries = client.list_registries().await?.into_iter();
            registries.map(|registry| (registry.registry, Some(registry.username))).collect()
        }
        Names::Endpoints => Vec::new(),
    })
}

/// As people write it.
fn familiar(image: String) -> String {
    image.parse::<ImageReference>().map_or(image, |reference| reference.familiar())
}

async fn newest(client: &Client) -> Result<Vec<OperationView>, ClientError> {
    let query = OperationQuery { limit: Some(OPERATIONS_MAX), ..OperationQuery::default() };
    client.list_operations(&query).await
}

/// For tests: the script of a shell as it would be printed.
#[cfg(test)]
pub(super) fn script_of(shell: &str, program: &str) -> String {
    let shell = Shell::from_str(shell, false).expect("a shell of ours");
    let script =
        script(shell.completer(), program.into(), Some("/here".into())).expect("writing to memory works");
    String::from_utf8(script).expect("scripts are text")
}
