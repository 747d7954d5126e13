//! `longshore leave`.

use std::time::Duration;

use clap::Args;

use super::drain::named;
use super::error::{CliError, Exit};
use super::output;
use super::session::Session;
use crate::api::types::{LeaveQuery, LeaveView};
use crate::config::units::parse_duration;

#[derive(Debug, Args)]
pub(super) struct LeaveArgs {
    /// How long to wait for the node's open work; then it leaves, and what is left fails
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = parse_duration)]
    deadline: Duration,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

pub(super) async fn leave(session: &mut Session<'_>, args: LeaveArgs) -> Result<(), CliError> {
    let question = format!(
        "Take the node at {} out of its fleet for good and stop it? Its data folder is of no use afterwards.",
        session.client.target()
    );
    session.terminal.confirm(&question, args.yes)?;
    let deadline_ms = Some(u64::try_from(args.deadline.as_millis()).unwrap_or(u64::MAX));
    let left = tokio::select! {
        biased;
        () = &mut session.interrupt => {
            session.terminal.report(
                "The node stays drained, and leaves if it was about to: see `longshore node ls`. To have it work again: \
                 longshore node update self --availability active\n",
            );
            return Err(CliError::quiet(Exit::Interrupted));
        }
        left = session.client.leave(LeaveQuery { deadline_ms }) => left?,
    };
    session.terminal.report(&unfinished(&left));
    let leader = left.new_leader.map_or(String::new(), |leader| format!("; {leader} leads now"));
    session.print(&format!("{} has left the fleet{leader}\n", left.node))
}

/// What it left behind.
fn unfinished(left: &LeaveView) -> String {
    match left.unfinished {
        Some(0) => String::new(),
        Some(open) => format!(
            "warning: {} of operations {} open on it, and fail{}: {}\n",
            output::count(open as usize, "part"),
            if open == 1 { "was still" } else { "were still" },
            if open == 1 { "s" } else { "" },
            named(&left.parts, open)
        ),
        None => "warning: whether work was open on it is not known: not every group answered\n".to_owned(),
    }
}
