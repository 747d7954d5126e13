//! `longshore node drain`: takes a node out of service, and follows until nothing is left for it to do.
//!
//! The drain itself is a word in the fleet's record; following it changes nothing, and ends without ending it.

use std::time::Duration;

use clap::Args;
use longshore_raft::consensus::runtime::AsyncRuntime as _;

use super::error::{CliError, Exit};
use super::follow::RECONNECT_PATIENCE;
use super::output;
use super::session::{Runtime, Session};
use crate::api::timer::Stopwatch;
use crate::api::types::{
    NodeAvailability, NodeState, NodeUpdate, NodeWorkView, OpenPartView, SubOperationState,
};
use crate::config::units::{format_duration, parse_duration};

/// How often the node's work is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
/// Looks that find nothing before nothing is taken to be left: a submission that was placed before may be on its way.
const EMPTY_LOOKS: u32 = 2;
/// Parts that a message names.
const NAMED_MAX: usize = 4;

#[derive(Debug, Args)]
pub(super) struct DrainArgs {
    /// Name, id, or self
    node: String,
    /// Give up following after so long, with exit code 1; the node stays drained
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "detach")]
    deadline: Option<Duration>,
    /// Do not wait until nothing is left
    #[arg(long, short)]
    detach: bool,
    /// Why, for whoever looks at the node
    #[arg(long, short, value_name = "TEXT")]
    message: Option<String>,
}

pub(super) async fn drain(session: &mut Session<'_>, args: DrainArgs) -> Result<(), CliError> {
    let update = NodeUpdate {
        availability: Some(NodeAvailability::Draining),
        message: args.message,
        ..NodeUpdate::default()
    };
    let node = session.client.update_node(&args.node, &update).await?;
    if args.detach {
        return session.print(&format!("{} ({}) is being drained\n", node.id, node.name));
    }
    session.terminal.report(&format!("{} is being drained; Ctrl-C stops following only\n", node.name));
    follow(session, &node.id, &node.name, args.deadline).await
}

/// Looks at what is left until nothing is, or the deadline has passed.
pub(super) async fn follow(
    session: &mut Session<'_>,
    id: &str,
    name: &str,
    deadline: Option<Duration>,
) -> Result<(), CliError> {
    let since = Stopwatch::<Runtime>::start();
    let (mut empty, mut told) = (0, None);
    let mut lost: Option<Stopwatch<Runtime>> = None;
    loop {
        let client = session.client.clone().with_reply_timeout(LOOK_PATIENCE);
        let looked = tokio::select! {
            biased;
            () = &mut session.interrupt => return Err(interrupted(session, name)),
            looked = client.node_work(id) => looked,
        };
        let last = match looked {
            Ok(work) => {
                if work.state == NodeState::Left {
                    return session.print(&format!("{name} is no longer in the fleet\n"));
                }
                if work.availability != NodeAvailability::Draining {
                    let message = format!("{name} is no longer being drained: somebody has ended that");
                    return Err(CliError::new(Exit::Failed, message)
                        .hint(format!("`longshore node inspect {name}` tells who")));
                }
                empty = if work.open == 0 { empty + 1 } else { 0 };
                if empty >= EMPTY_LOOKS {
                    return drained(session, name);
                }
                if work.open > 0 && told != Some(work.open) {
                    told = Some(work.open);
                    session.terminal.report(&format!("{}\n", left(&work)));
                }
                lost = None;
                Some(work)
            }
            Err(error) if error.is_transient() => {
                empty = 0;
                match &lost {
                    None => {
                        session.terminal.report(&format!("note: {error}; trying again\n"));
                        lost = Some(Stopwatch::start());
                    }
                    Some(lost) if lost.elapsed() > RECONNECT_PATIENCE => {
                        let message = format!("lost sight of {name}, which stays drained: {error}");
                        return Err(CliError::new(Exit::Failed, message)
                            .hint(format!("on another node: longshore node drain {name}")));
                    }
                    Some(_) => {}
                }
                None
            }
            Err(error) => return Err(error.into()),
        };
        if deadline.is_some_and(|deadline| since.elapsed() + LOOK_EVERY > deadline) {
            return match &last {
                Some(work) if work.open == 0 => drained(session, name),
                last => Err(too_late(name, deadline.unwrap_or_default(), last.as_ref())),
            };
        }
        tokio::select! {
            biased;
            () = &mut session.interrupt => return Err(interrupted(session, name)),
            () = Runtime::sleep(LOOK_EVERY) => {}
        }
    }
}

fn drained(session: &mut Session<'_>, name: &str) -> Result<(), CliError> {
    session.print(&format!("{name} is drained: nothing is open on it\n"))
}

fn interrupted(session: &mut Session<'_>, name: &str) -> CliError {
    let text = format!("The drain goes on. Follow it with: longshore node drain {name}\n");
    session.terminal.report(&text);
    CliError::quiet(Exit::Interrupted)
}

fn left(work: &NodeWorkView) -> String {
    let are = if work.open == 1 { "is" } else { "are" };
    format!("{} of operations {are} open on {}", output::count(work.open as usize, "part"), work.node)
}

fn too_late(name: &str, deadline: Duration, last: Option<&NodeWorkView>) -> CliError {
    let what = match last {
        Some(work) => format!("{}: {}", left(work), named(&work.parts, work.open)),
        None => format!("what is open on {name} is not known"),
    };
    let message =
        format!("the deadline of {} has passed, and {what}; {name} stays drained", format_duration(deadline));
    CliError::new(Exit::Failed, message).hint(format!(
        "follow on with `longshore node drain {name}`, end what remains with `longshore op cancel ID`, or end the drain with \
         `longshore node update {name} --availability active`"
    ))
}

/// The first few parts, for a sentence; `open` is how many there are.
pub(super) fn named(parts: &[OpenPartView], open: u32) -> String {
    let one = |part: &OpenPartView| {
        let running = if part.state == SubOperationState::Running { ", running" } else { "" };
        format!("{} ({} {}{running})", part.operation, part.kind, output::one_line(&part.subject))
    };
    let mut words: Vec<String> = parts.iter().take(NAMED_MAX).map(one).collect();
    let more = (open as usize).saturating_sub(words.len());
    if more > 0 {
        words.push(format!("{more} more"));
    }
    words.join(", ")
}
