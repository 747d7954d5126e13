//! `longshore op ...`.

mod view;

use std::time::Duration;

use clap::{Args, Subcommand};
use longshore_raft::Runtime as _;

use super::args::{Format, FormatArgs, ListArgs};
use super::build::{self, BuildArgs};
use super::containers::{self, ContainersArgs, RemoveArgs, RunArgs, StopArgs};
use super::engines::{self, EngineListArgs, PsArgs};
use super::error::{CliError, Exit};
use super::follow;
use super::progress;
use super::session::{Runtime, Session};
use super::streams::{self, ExecArgs, LogsArgs};
use super::submit::{self, PullArgs, PushArgs, RetryArgs, TagArgs};
use crate::api::types::{OperationQuery, OperationState};
use crate::config::units::parse_duration;
pub(super) use view::{progress as progress_of, render, render_list, unit};

#[derive(Debug, Subcommand)]
pub(super) enum OpCommand {
    /// Bring images to the fleet's engines
    #[command(after_help = "\
Examples:
  longshore op pull nginx:1.27
  longshore op pull nginx:1.27 redis:7 --on web-1 --on web-2
  longshore op pull registry.example:5000/app:3 --strategy local
  longshore op pull nginx:1.27 --label disk=ssd --zone north
  longshore op pull nginx:1.27 --replicas 2
  longshore op pull a:1 b:1 c:1 --strategy distributed
  longshore op pull huge:1 --min-storage 40GiB --prefer-zone north --replicas 1
  longshore op pull nginx:1.27 --session nightly --detach")]
    Pull(PullArgs),
    /// Send images from an engine to their registries
    #[command(after_help = "\
Examples:
  longshore op push registry.example:5000/app:3
  longshore op push registry.example:5000/app:3 --on web-1")]
    Push(PushArgs),
    /// Give an image of an engine further names
    #[command(after_help = "\
Examples:
  longshore op tag nginx:1.27 registry.example:5000/nginx:1.27
  longshore op tag app:3 app:stable --strategy replicated")]
    Tag(TagArgs),
    /// Build an image from a folder, on as many engines as it is wanted on
    #[command(after_help = "\
The folder is sent to the node that is asked, once; nodes that build fetch it from there. Like docker build, it leaves out what
.dockerignore lists. Build arguments are kept in the record of the operation.

Examples:
  longshore op build -t app:3
  longshore op build ./app -t registry.example:5000/app:3 -t registry.example:5000/app:latest --strategy replicated
  longshore op build ./app -f ./app/docker/Dockerfile -t app:3 --build-arg VERSION=3 --target runtime
  longshore op build ./app -t app:3 --label disk=ssd --no-cache --detach")]
    Build(Box<BuildArgs>),
    /// Run containers, where the fleet finds room for them
    #[command(after_help = "\
Examples:
  longshore op run nginx:1.27 --name web -p 8080:80
  longshore op run worker:3 --replicas 3 --env LEVEL=debug --memory 512MiB --cpus 0.5
  longshore op run nginx:1.27 --name web --replicas 3 --restart-on-failure
  longshore op run trainer:2 --capability gpu --min-memory 32GiB
  longshore op run busybox --on web-2 -v data:/data -- sh -c 'date > /data/now'")]
    Run(Box<RunArgs>),
    /// Stop containers, or runs that the fleet keeps up
    #[command(after_help = "\
Examples:
  longshore op stop web
  longshore op stop 4f1a9c --grace 1s")]
    Stop(StopArgs),
    /// Start containers that were stopped; a run is made anew
    #[command(after_help = "\
Examples:
  longshore op start web")]
    Start(ContainersArgs),
    /// Remove containers, or runs that the fleet keeps up
    #[command(
        alias = "remove",
        after_help = "\
Examples:
  longshore op rm web
  longshore op rm --force web
  longshore op ps -qa | xargs longshore op rm"
    )]
    Rm(RemoveArgs),
    /// Run a command in a container, wherever it is; the exit code is the command's
    #[command(after_help = "\
The command has no standard input. Ctrl-C leaves it running.

Examples:
  longshore op exec web.1 -- ls -l /
  longshore op exec web.1 --user www -- sh -c 'echo $PATH'")]
    Exec(ExecArgs),
    /// Show what containers wrote, wherever they are
    #[command(after_help = "\
Examples:
  longshore op logs web.1 --tail 20
  longshore op logs web -f
  longshore op logs web --since 10m --timestamps")]
    Logs(LogsArgs),
    /// List the containers of all engines, whoever made them; those of an engine that is away, as last seen
    #[command(after_help = "\
Examples:
  longshore op ps
  longshore op ps --all --on web-2
  longshore op ps --format json")]
    Ps(PsArgs),
    /// List the images of all engines; those of an engine that is away, as last seen
    #[command(after_help = "\
Examples:
  longshore op images
  longshore op images --on web-2 --format json")]
    Images(EngineListArgs),
    /// List the volumes of all engines; those of an engine that is away, as last seen
    #[command(after_help = "\
Examples:
  longshore op volumes
  longshore op volumes --on web-2")]
    Volumes(EngineListArgs),
    /// List the runs that the fleet keeps up, and where their copies are
    #[command(after_help = "\
Examples:
  longshore op runs
  longshore op runs --format json")]
    Runs(ListArgs),
    /// List operations, newest first
    #[command(
        alias = "list",
        after_help = "\
Examples:
  longshore op ls
  longshore op ls --active -q
  longshore op ls --session nightly
  longshore op ls --filter state=failed --filter kind=pull --since 1h"
    )]
    Ls(OpListArgs),
    /// Show one operation
    Inspect {
        /// Id, as `longshore op ls` shows it
        id: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Cancel what has not ended of an operation
    #[command(after_help = "\
What has ended stands; work under way stops.

Examples:
  longshore op cancel op-171-42-0
  longshore op ls --active -q | xargs -n1 longshore op cancel")]
    Cancel {
        /// Id, as `longshore op ls` shows it
        id: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Do again what failed of an operation, or was cancelled
    #[command(after_help = "\
Examples:
  longshore op retry op-171-42-0")]
    Retry(RetryArgs),
    /// Wait for operations to end, and print the id of each; the exit code is that of the worst
    #[command(after_help = "\
Examples:
  longshore op wait op-171-42-0 op-3-7-1
  longshore op wait $(longshore op pull nginx:1.27 --detach)")]
    Wait {
        /// Ids, as `longshore op ls` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<String>,
    },
    /// Follow an operation to its end
    #[command(after_help = "\
Examples:
  longshore op watch $(longshore op pull nginx:1.27 --detach)")]
    Watch {
        /// Id, as `longshore op ls` shows it
        id: String,
        #[command(flatten)]
        output: ListArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct OpListArgs {
    /// Only those that have not ended
    #[arg(long)]
    active: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// Only those of this session
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// Only those of a kind (kind=pull) or in a state (state=failed)
    #[arg(long = "filter", value_name = "kind=KIND|state=STATE", value_parser = parse_filter)]
    filters: Vec<Filter>,
    /// Only those submitted in the last so long
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Clone)]
enum Filter {
    Kind(String),
    State(OperationState),
}

fn parse_filter(text: &str) -> Result<Filter, String> {
    match text.split_once('=') {
        Some(("kind", kind)) if !kind.is_empty() => Ok(Filter::Kind(kind.to_owned())),
        Some(("state", state)) => {
            let states: Vec<&str> = OperationState::ALL.iter().map(|state| state.name()).collect();
            let found = OperationState::ALL.into_iter().find(|known| known.name() == state);
            found
                .map(Filter::State)
                .ok_or_else(|| format!("there is no state {state:?}; there are {}", states.join(", ")))
        }
        _ => Err("write kind=KIND, such as kind=pull, or state=STATE, such as state=failed".to_owned()),
    }
}

pub(super) async fn op(session: &mut Session<'_>, command: OpCommand) -> Result<(), CliError> {
    match command {
        OpCommand::Pull(args) => submit::pull(session, args).await,
        OpCommand::Push(args) => submit::push(session, args).await,
        OpCommand::Tag(args) => submit::tag(session, args).await,
        OpCommand::Build(args) => build::build(session, *args).await,
        OpCommand::Run(args) => containers::run(session, *args).await,
        OpCommand::Stop(args) => containers::stop(session, args).await,
        OpCommand::Start(args) => containers::start(session, args).await,
        OpCommand::Rm(args) => containers::remove(session, args).await,
        OpCommand::Exec(args) => streams::exec(session, args).await,
        OpCommand::Logs(args) => streams::logs(session, args).await,
        OpCommand::Ps(args) => engines::ps(session, args).await,
        OpCommand::Images(args) => engines::images(session, args).await,
        OpCommand::Volumes(args) => engines::volumes(session, args).await,
        OpCommand::Runs(list) => engines::runs(session, list).await,
        OpCommand::Retry(args) => submit::retry(session, args).await,
        OpCommand::Cancel { id, format } => {
            let operation = session.client.cancel_operation(&id).await.map_err(listed)?;
            session
                .show(format.format, &operation, |operation, _| format!("{}\n", progress::summary(operation)))
        }
        OpCommand::Wait { ids } => wait(session, ids).await,
        OpCommand::Ls(args) => {
            let now_ms = Runtime::unix_time_ms();
            let ago = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            let mut query = OperationQuery {
                limit: Some(args.limit),
                active: args.active,
                session: args.session,
                since_ms: args.since.map(|since| now_ms.saturating_sub(ago(since))),
                ..OperationQuery::default()
            };
            for filter in args.filters {
                let is_new = match filter {
                    Filter::Kind(kind) => query.kind.replace(kind).is_none(),
                    Filter::State(state) => query.state.replace(state).is_none(),
                };
                if !is_new {
                    return Err(CliError::new(Exit::Usage, "one kind and one state can be asked for"));
                }
            }
            let operations = session.client.list_operations(&query).await?;
            if args.list.quiet {
                let ids: String = operations.iter().map(|operation| format!("{}\n", operation.id)).collect();
                return session.print(&ids);
            }
            session.show(args.list.format, &operations, |list, colour| render_list(list, now_ms, colour))
        }
        OpCommand::Inspect { id, format } => {
            let operation = session.client.inspect_operation(&id).await.map_err(listed)?;
            session.show(format.format, &operation, render)
        }
        OpCommand::Watch { id, output } => {
            let mut watch = session.client.watch_operation(&id).await.map_err(listed)?;
            match watch.next().await? {
                Some(operation) => {
                    let views = follow::Views::of(session.client.clone(), id, Some(watch));
                    follow::follow_to_end(session, operation, views, output.format, output.quiet).await
                }
                None => Err(CliError::new(Exit::Failed, "the node has stopped")
                    .hint("try again, or name another node with --host")),
            }
        }
    }
}

/// Waits for all of them, whatever becomes of each.
async fn wait(session: &mut Session<'_>, ids: Vec<String>) -> Result<(), CliError> {
    let mut worst: Option<CliError> = None;
    for id in ids {
        let ended = match follow::find(session, &id).await {
            Ok(operation) => {
                let views = follow::Views::of(session.client.clone(), operation.id.clone(), None);
                follow::follow_to_end(session, operation, views, Format::Table, true).await
            }
            Err(error) => Err(error),
        };
        match ended {
            Ok(()) => {}
            Err(error) if error.exit == Exit::Interrupted => return Err(error),
            Err(error) if worst.as_ref().is_none_or(|worst| worst.exit == Exit::Partial) => {
                worst = Some(error)
            }
            Err(_) => {}
        }
    }
    worst.map_or(Ok(()), Err)
}

pub(super) fn listed(error: impl Into<CliError>) -> CliError {
    error.into().or_hint("`longshore op ls` lists the operations")
}

/// For `--format json` of a followed operation.
pub(super) fn is_json(format: Format) -> bool {
    format == Format::Json
}
