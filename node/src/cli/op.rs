//! `longshore op pull | ls | inspect | watch`.

use clap::{Args, Subcommand};
use longshore_raft::Runtime as _;

use super::args::{Format, FormatArgs, ListArgs};
use super::error::{CliError, Exit};
use super::output::{self, Text};
use super::pull::{self, PullArgs};
use super::session::{Runtime, Session};
use crate::api::types::{OperationQuery, OperationView, SubOperationView};

#[derive(Debug, Subcommand)]
pub(super) enum OpCommand {
    /// Bring images to the fleet's engines
    #[command(after_help = "\
Examples:
  longshore op pull nginx:1.27
  longshore op pull nginx:1.27 redis:7 --on web-1 --on web-2
  longshore op pull registry.example:5000/app:3 --strategy local
  longshore op pull nginx:1.27 --session nightly --detach")]
    Pull(PullArgs),
    /// List operations, newest first
    #[command(
        alias = "list",
        after_help = "\
Examples:
  longshore op ls
  longshore op ls --active -q
  longshore op ls --session nightly"
    )]
    Ls(OpListArgs),
    /// Show one operation
    Inspect {
        /// Id, as `longshore op ls` shows it
        id: String,
        #[command(flatten)]
        format: FormatArgs,
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
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn op(session: &mut Session<'_>, command: OpCommand) -> Result<(), CliError> {
    match command {
        OpCommand::Pull(args) => pull::pull(session, args).await,
        OpCommand::Ls(args) => {
            let query =
                OperationQuery { limit: Some(args.limit), active: args.active, session: args.session };
            let operations = session.client.list_operations(&query).await?;
            if args.list.quiet {
                let ids: String = operations.iter().map(|operation| format!("{}\n", operation.id)).collect();
                return session.print(&ids);
            }
            let now_ms = Runtime::unix_time_ms();
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
                    let views = pull::Views::of(session.client.clone(), id, Some(watch));
                    pull::follow_to_end(session, operation, views, output.format, output.quiet).await
                }
                None => Err(CliError::new(Exit::Failed, "the node has stopped")
                    .hint("try again, or name another node with --host")),
            }
        }
    }
}

pub(super) fn listed(error: impl Into<CliError>) -> CliError {
    error.into().or_hint("`longshore op ls` lists the operations")
}

pub(super) fn render_list(operations: &[OperationView], now_ms: u64, colour: bool) -> String {
    let rows = operations.iter().map(|operation| {
        let ended = operation.sub_operations.iter().filter(|sub| sub.ended_at_ms.is_some()).count();
        vec![
            operation.id.as_str().into(),
            operation.kind.as_str().into(),
            output::operation_state(operation.state),
            Text(format!("{ended} of {}", operation.sub_operations.len()), None),
            operation.images.join(", ").into(),
            operation.submitted_by.as_str().into(),
            output::ago(now_ms.saturating_sub(operation.submitted_at_ms)).into(),
        ]
    });
    let head = ["ID", "KIND", "STATE", "ENDED", "IMAGES", "SUBMITTED BY", "SUBMITTED"];
    output::table(&head, rows.collect(), colour)
}

pub(super) fn render(operation: &OperationView, colour: bool) -> String {
    let mut pairs = vec![
        ("id", operation.id.clone()),
        ("session", operation.session.clone()),
        ("kind", operation.kind.clone()),
        ("state", output::operation_state(operation.state).0),
        ("strategy", output::strategy(operation.strategy).to_owned()),
        ("images", operation.images.join("\n")),
        ("submitted", format!("{} by {}", output::time(operation.submitted_at_ms), operation.submitted_by)),
    ];
    if let Some(ended_at_ms) = operation.ended_at_ms {
        let took_ms = ended_at_ms.saturating_sub(operation.submitted_at_ms);
        pairs.push(("ended", format!("{}, after {}", output::time(ended_at_ms), output::span(took_ms))));
    }
    let rows = operation.sub_operations.iter().map(|sub| {
        vec![
            sub.node.as_str().into(),
            sub.image.as_str().into(),
            output::sub_operation_state(sub.state),
            sub.attempts.to_string().into(),
            progress(sub).into(),
            sub.error.as_deref().or(sub.result.as_deref()).unwrap_or(output::NONE).into(),
        ]
    });
    let head = ["NODE", "IMAGE", "STATE", "ATTEMPTS", "PROGRESS", "RESULT"];
    format!("{}\n{}", output::fields(&pairs), output::table(&head, rows.collect(), colour))
}

/// `2 of 5 layers, 12.0 MiB of 40.0 MiB`; so far as the engine has told.
pub(super) fn progress(sub: &SubOperationView) -> String {
    if sub.layers_total == 0 {
        return output::NONE.to_owned();
    }
    let layers = format!("{} of {} layers", sub.layers_done, sub.layers_total);
    if sub.total_bytes == 0 {
        return layers;
    }
    format!("{layers}, {} of {}", output::bytes(sub.current_bytes), output::bytes(sub.total_bytes))
}

/// For `--format json` of a followed operation.
pub(super) fn is_json(format: Format) -> bool {
    format == Format::Json
}
