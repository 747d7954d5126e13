//! `longshore login | logout`: credentials of registries, for every node's engine.

use clap::Args;
use longshore_raft::Runtime as _;

use super::args::{FormatArgs, ListArgs};
use super::error::{CliError, Exit};
use super::output::{self, Text};
use super::session::{Runtime, Session};
use crate::api::types::RegistryLogin;

/// Longest password that is read.
const PASSWORD_BYTES_MAX: usize = 8 << 10;

#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// Host and port, such as docker.io or registry.example:5000; without one, those that the fleet has are listed
    #[arg(value_name = "REGISTRY")]
    registry: Option<String>,
    /// The user's name
    #[arg(long, short, requires = "registry")]
    username: Option<String>,
    /// Take the password from standard input; without it a terminal asks. There is no flag for the password: everybody on the host could read it
    #[arg(long, requires = "username")]
    password_stdin: bool,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    /// Host and port, as `longshore login` lists it
    #[arg(value_name = "REGISTRY")]
    registry: String,
    #[command(flatten)]
    format: FormatArgs,
}

pub(super) async fn login(session: &mut Session<'_>, args: LoginArgs) -> Result<(), CliError> {
    let Some(registry) = args.registry else { return list(session, args.list).await };
    let username = match args.username {
        Some(username) => username,
        None => session.terminal.ask("Username: ")?,
    };
    let password = if args.password_stdin || !session.terminal.stdin_is_terminal {
        let bytes = session.terminal.read_value(PASSWORD_BYTES_MAX)?;
        let text = String::from_utf8(bytes)
            .map_err(|_| CliError::new(Exit::Usage, "the password on standard input is not text"))?;
        text.trim_end_matches(['\r', '\n']).to_owned()
    } else {
        session.terminal.ask_secret("Password: ")?
    };
    let view = session.client.log_in(&registry, &RegistryLogin { username, password }).await?;
    session.show(args.list.format, &view, |view, _| {
        format!(
            "{}: every node's engine is {} now; the next pull tells whether the password is right\n",
            view.registry, view.username
        )
    })
}

pub(super) async fn logout(session: &mut Session<'_>, args: LogoutArgs) -> Result<(), CliError> {
    let gone = session.client.log_out(&args.registry).await;
    let view =
        gone.map_err(|error| CliError::from(error).or_hint("`longshore login` lists the registries"))?;
    session
        .show(args.format.format, &view, |view, _| format!("{}: the password is forgotten\n", view.registry))
}

async fn list(session: &mut Session<'_>, list: ListArgs) -> Result<(), CliError> {
    let views = session.client.list_registries().await?;
    if list.quiet {
        let names: String = views.iter().map(|view| format!("{}\n", view.registry)).collect();
        return session.print(&names);
    }
    let now_ms = Runtime::unix_time_ms();
    session.show(list.format, &views, |views, colour| {
        let rows = views.iter().map(|view| -> Vec<Text> {
            vec![
                view.registry.as_str().into(),
                view.username.as_str().into(),
                view.set_by.as_str().into(),
                output::ago(now_ms.saturating_sub(view.set_at_ms)).into(),
            ]
        });
        output::table(&["REGISTRY", "USER", "SET AT", "SET"], rows.collect(), colour)
    })
}
