//! `longshore op run | stop | start | rm`: containers, and runs that the fleet keeps up.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use clap::Args;

use super::args::Format;
use super::engines::render_runs;
use super::error::{CliError, Exit};
use super::session::Session;
use super::streams::without_dashes;
use super::submit::{self, HowArgs, StrategyArg, WhereArgs};
use super::terminal::Terminal;
use crate::api::types::{Action, CopyStateView, RunChange, RunRequest, RunView};
use crate::config::names;
use crate::config::units::{parse_duration, parse_size};

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// A reference such as nginx:1.27; pulled where it is not there
    #[arg(value_name = "IMAGE")]
    image: String,
    /// What to run in it; the image's own command if there is none
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
    /// What the container is called; followed by .1, .2 and so on if there are more
    #[arg(long)]
    name: Option<String>,
    /// Keep all copies running: one that fails is started again, one whose host dies is started elsewhere
    #[arg(long, alias = "keep", conflicts_with = "restart")]
    restart_on_failure: bool,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    how: HowArgs,
}

/// What the container is.
#[derive(Debug, Args)]
#[command(next_help_heading = "Container")]
struct ContainerArgs {
    /// Set a variable, or take it from here if there is no value; may be repeated
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Take variables from a file, one NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Publish a port of the container on the host; may be repeated
    #[arg(long = "publish", short = 'p', value_name = "[IP:][HOST:]PORT[/udp]")]
    ports: Vec<String>,
    /// A volume of the engine, or a path of the host, for a path of the container; may be repeated
    #[arg(long = "volume", short = 'v', value_name = "[SOURCE:]TARGET[:ro]")]
    volumes: Vec<String>,
    /// What the engine itself does when the container ends: no, on-failure[:N], always or unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Most memory, such as 512MiB
    #[arg(long, short, value_name = "SIZE", value_parser = parse_size)]
    memory: Option<usize>,
    /// Processors, such as 1.5
    #[arg(long, value_name = "NUMBER", value_parser = parse_cpus)]
    cpus: Option<u32>,
    /// Label the container; may be repeated (--label chooses nodes)
    #[arg(long = "container-label", value_name = "KEY=VALUE", value_parser = names::parse_label)]
    container_labels: Vec<(String, String)>,
    /// User, or user:group, of its processes
    #[arg(long, short)]
    user: Option<String>,
    /// Folder in the container that the command begins in
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    /// A network of the engine
    #[arg(long)]
    network: Option<String>,
    /// Program to be run instead of the image's
    #[arg(long, value_name = "PROGRAM")]
    entrypoint: Option<String>,
    /// Time between the polite signal and the one that ends it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    stop_timeout: Option<std::time::Duration>,
}

/// Thousandths of a processor.
fn parse_cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse::<f64>().ok().filter(|cpus| cpus.is_finite() && (0.001..=10_000.0).contains(cpus));
    let cpus = cpus.ok_or_else(|| format!("{text:?} is not a number of processors such as 0.5 or 2"))?;
    Ok((cpus * 1_000.0).round() as u32)
}

#[derive(Debug, Args)]
pub(super) struct ContainersArgs {
    /// Names or ids of containers, or of runs that the fleet keeps up
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    /// Look for containers on this node only
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    /// Time between the polite signal and the one that ends it; the container's own if there is none
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<std::time::Duration>,
    #[command(flatten)]
    containers: ContainersArgs,
}

#[derive(Debug, Args)]
pub(super) struct RemoveArgs {
    /// Those too that run
    #[arg(long, short)]
    force: bool,
    #[command(flatten)]
    containers: ContainersArgs,
}

pub(super) async fn run(session: &mut Session<'_>, args: RunArgs) -> Result<(), CliError> {
    let RunArgs { image, command, name, restart_on_failure, container, place, how } = args;
    let env = variables(&container, session.terminal)?;
    let request = RunRequest {
        image,
        name,
        command: without_dashes(command),
        entrypoint: container.entrypoint.map(|program| vec![program]),
        env,
        ports: container.ports,
        volumes: container.volumes,
        restart: container.restart,
        memory_bytes: container.memory.map(|bytes| bytes as u64),
        cpu_millis: container.cpus,
        labels: container.container_labels.into_iter().collect(),
        user: container.user,
        working_dir: container.workdir,
        network: container.network,
        stop_grace_s: container.stop_timeout.map(seconds),
        keep: restart_on_failure,
    };
    let action = Action::Run(Box::new(request));
    submit::submit_and_follow(session, action, StrategyArg::Distributed, place, how).await
}

/// Whole seconds, upwards: nobody asks for no time.
fn seconds(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Those of files first, so that the command line is stronger; each name once, as the last one has it.
fn variables(args: &ContainerArgs, terminal: &Terminal) -> Result<Vec<String>, CliError> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for file in &args.env_file {
        let text = std::fs::read_to_string(file).map_err(|error| {
            CliError::new(
                Exit::Usage,
                format!("the variables in {} can not be read: {error}", file.display()),
            )
        })?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) = variable(line, terminal).ok_or_else(|| {
                let place = format!("{} line {}", file.display(), number + 1);
                CliError::new(Exit::Usage, format!("{place} is not a variable such as LEVEL=debug"))
            })?;
            all.extend(value.map(|value| (name, value)));
        }
    }
    for text in &args.env {
        let (name, value) = variable(text, terminal).ok_or_else(|| {
            CliError::new(Exit::Usage, "what --env was given is not a variable such as LEVEL=debug")
        })?;
        all.extend(value.map(|value| (name, value)));
    }
    Ok(all.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

/// One without a value is taken from the environment; if it is not there, neither is it in the container, as in `docker run`.
fn variable(text: &str, terminal: &Terminal) -> Option<(String, Option<String>)> {
    match text.split_once('=') {
        Some(("", _)) => None,
        Some((name, value)) => Some((name.to_owned(), Some(value.to_owned()))),
        None if text.trim().is_empty() => None,
        None => Some((text.to_owned(), terminal.variables.get(text).cloned())),
    }
}

pub(super) async fn stop(session: &mut Session<'_>, args: StopArgs) -> Result<(), CliError> {
    let grace_s = args.grace.map(seconds);
    if grace_s.is_some()
        && let Some((name, _)) = runs_named(session, &args.containers).await?.first()
    {
        let message = format!(
            "{name} is a run that the fleet keeps up: its containers end with the time that they were given"
        );
        return Err(CliError::new(Exit::Usage, message)
            .hint("leave --grace out, or give the run another --stop-timeout when it is made"));
    }
    let act = |containers| Action::Stop { containers, grace_s };
    change(session, args.containers, RunChange::Stop, act).await
}

pub(super) async fn start(session: &mut Session<'_>, args: ContainersArgs) -> Result<(), CliError> {
    change(session, args, RunChange::Start, |containers| Action::Start { containers }).await
}

pub(super) async fn remove(session: &mut Session<'_>, args: RemoveArgs) -> Result<(), CliError> {
    let RemoveArgs { force, containers } = args;
    if !force {
        let runs = runs_named(session, &containers).await?;
        if let Some((name, _)) = runs.iter().find(|(_, run)| !run.stopped) {
            let message = format!("{name} is a run that the fleet keeps up");
            return Err(CliError::new(Exit::Failed, message)
                .hint(format!("stop it first with `longshore op stop {name}`, or remove it with --force")));
        }
    }
    change(session, containers, RunChange::Remove, |containers| Action::Rm { containers, force }).await
}

/// Which of the names are runs.
async fn runs_named(
    session: &mut Session<'_>,
    args: &ContainersArgs,
) -> Result<Vec<(String, RunView)>, CliError> {
    // A run is not on a node.
    if args.on.is_some() {
        return Ok(Vec::new());
    }
    let runs = session.client.list_runs().await?;
    let is = |run: &RunView, name: &str| run.id == name || run.name.as_deref() == Some(name);
    let found = args
        .names
        .iter()
        .filter_map(|name| Some((name.clone(), runs.iter().find(|run| is(run, name))?.clone())));
    Ok(found.collect())
}

/// Runs are changed in the log, and their containers follow; for the others an operation is submitted.
async fn change(
    session: &mut Session<'_>,
    args: ContainersArgs,
    change: RunChange,
    act: impl FnOnce(Vec<String>) -> Action,
) -> Result<(), CliError> {
    let runs = runs_named(session, &args).await?;
    let mut changed = Vec::new();
    for (name, _) in &runs {
        changed.push(session.client.change_run(name, change).await?);
    }
    let names: BTreeSet<&String> = runs.iter().map(|(name, _)| name).collect();
    let rest: Vec<String> = args.names.iter().filter(|name| !names.contains(name)).cloned().collect();
    if !changed.is_empty() {
        let before: Vec<&RunView> = runs.iter().map(|(_, run)| run).collect();
        tell(session, &before, &changed, change, &args.how)?;
    }
    if rest.is_empty() {
        return Ok(());
    }
    let place = WhereArgs::on_node(args.on);
    submit::submit_and_follow(session, act(rest), StrategyArg::Local, place, args.how).await
}

/// What a change does to a run that was like this before.
fn done(change: RunChange, before: &RunView) -> &'static str {
    let has_completed = || before.copies.iter().any(|copy| copy.state == CopyStateView::Completed);
    match change {
        RunChange::Stop if before.stopped => "was stopped already",
        RunChange::Stop => "stopped; its containers end",
        RunChange::Start if before.stopped => "started; its containers are made anew",
        RunChange::Start if has_completed() => "started; copies that were complete are made anew",
        RunChange::Start => "was not stopped; nothing to start",
        RunChange::Remove => "removed; its containers go, those of hosts that are away when they are back",
    }
}

fn tell(
    session: &mut Session<'_>,
    before: &[&RunView],
    runs: &[RunView],
    change: RunChange,
    how: &HowArgs,
) -> Result<(), CliError> {
    if how.is_quiet() {
        let ids: String = runs.iter().map(|run| format!("{}\n", run.id)).collect();
        return session.print(&ids);
    }
    if how.format() == Format::Json || change != RunChange::Remove {
        session.show(how.format(), &runs, |runs, colour| render_runs(runs, colour))?;
    }
    if how.format() == Format::Table {
        let line =
            |run: &&RunView| format!("run {}: {}\n", run.name.as_ref().unwrap_or(&run.id), done(change, run));
        let lines: String = before.iter().map(line).collect();
        session.print(&lines)?;
    }
    Ok(())
}
