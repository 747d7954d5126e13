//! `longshore leave`.

use clap::Args;

use super::error::CliError;
use super::session::Session;

#[derive(Debug, Args)]
pub(super) struct LeaveArgs {
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
    let left = session.client.leave().await?;
    let leader = left.new_leader.map_or(String::new(), |leader| format!("; {leader} leads now"));
    session.print(&format!("{} has left the fleet{leader}\n", left.node))
}
