//! `longshore token create | ls | revoke`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::args::{Format, ListArgs};
use super::error::CliError;
use super::output::{self, Text};
use super::session::Session;
use crate::api::types::{TokenCreate, TokenCreated, TokenState, TokenView};
use crate::config::units::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token for hosts to join with; it is shown this once
    #[command(after_help = "\
Examples:
  longshore token create
  longshore token create --ttl 10m --uses 3
  longshore token create -q > token")]
    Create(CreateArgs),
    /// List tokens, without their secrets
    #[command(alias = "list")]
    Ls(ListArgs),
    /// Revoke a token
    Revoke {
        /// Id, as `longshore token ls` shows it
        id: String,
    },
}

#[derive(Debug, Args)]
pub(super) struct CreateArgs {
    /// How long it is good for, at most 30 days
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    ttl: Duration,
    /// How many nodes may join with it; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 1)]
    uses: u32,
    /// Print the token only
    #[arg(long, short, conflicts_with = "format")]
    quiet: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

pub(super) async fn token(session: &mut Session<'_>, command: TokenCommand) -> Result<(), CliError> {
    match command {
        TokenCommand::Create(args) => {
            let ttl_ms = u64::try_from(args.ttl.as_millis()).unwrap_or(u64::MAX);
            let request = TokenCreate { ttl_ms: Some(ttl_ms), uses: Some(args.uses) };
            let created = session.client.create_token(&request).await?;
            if args.quiet {
                return session.print(&format!("{}\n", created.token));
            }
            session.show(args.format, &created, |created, _| render_created(created))
        }
        TokenCommand::Ls(args) => {
            let tokens = session.client.list_tokens().await?;
            if args.quiet {
                let ids: String = tokens.iter().map(|token| format!("{}\n", token.id)).collect();
                return session.print(&ids);
            }
            session.show(args.format, &tokens, |tokens, colour| render_list(tokens, colour))
        }
        TokenCommand::Revoke { id } => {
            let revoked = session.client.revoke_token(&id).await;
            let token = revoked
                .map_err(|error| CliError::from(error).or_hint("`longshore token ls` lists the tokens"))?;
            session.print(&format!("{} was revoked\n", token.id))
        }
    }
}

pub(super) fn render_created(created: &TokenCreated) -> String {
    let info = &created.info;
    let fields = output::fields(&[
        ("token", created.token.clone()),
        ("id", info.id.clone()),
        ("expires in", output::span(info.expires_in_ms)),
        ("uses", uses(info.uses_max)),
    ]);
    format!("{fields}\nTo add a host, run on it:\n    {}\n", created.join_command)
}

pub(super) fn render_list(tokens: &[TokenView], colour: bool) -> String {
    let rows = tokens.iter().map(|token| {
        let left = match token.state {
            TokenState::Valid | TokenState::UsedUp => output::span(token.expires_in_ms),
            TokenState::Expired | TokenState::Revoked => output::NONE.to_owned(),
        };
        vec![
            token.id.as_str().into(),
            output::token_state(token.state),
            Text(format!("{} of {}", token.uses, uses(token.uses_max)), None),
            left.into(),
        ]
    });
    output::table(&["ID", "STATE", "USED", "EXPIRES IN"], rows.collect(), colour)
}

fn uses(uses_max: u32) -> String {
    if uses_max == 0 { "any number".to_owned() } else { uses_max.to_string() }
}
