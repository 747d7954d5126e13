//! `longshore config show | check | default`.

use std::path::PathBuf;

use clap::Subcommand;
use serde::Serialize;

use super::args::{Format, FormatArgs, GlobalArgs};
use super::error::CliError;
use super::output;
use super::server::ServerArgs;
use super::terminal::Terminal;
use crate::config::{self, Settings, Source};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Show every setting, its value, and where that comes from
    #[command(after_help = "\
Examples:
  longshore config show
  longshore config show --zone east --format json
  LONGSHORE_ZONE=east longshore config show --config longshore.toml")]
    Show {
        #[command(flatten)]
        server: Box<ServerArgs>,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Check a configuration file
    Check {
        /// The file
        file: PathBuf,
    },
    /// Print a configuration file with every setting explained and none set
    #[command(after_help = "\
Examples:
  longshore config default > longshore.toml")]
    Default,
}

#[derive(Serialize)]
struct Row {
    key: &'static str,
    value: String,
    from: String,
}

pub(super) fn config(
    global: &GlobalArgs,
    command: ConfigCommand,
    terminal: &mut Terminal,
) -> Result<(), CliError> {
    match command {
        ConfigCommand::Show { server, format } => {
            let settings = super::settings(global, server.flags(), terminal)?;
            for warning in &settings.warnings {
                terminal.report(&format!("warning: {warning}\n"));
            }
            let text = match format.format {
                Format::Json => output::json(&rows(&settings)),
                Format::Table => render(&settings, terminal.stdout_colour),
            };
            terminal.print(&text)
        }
        ConfigCommand::Check { file } => {
            Settings::check_file(&file)?;
            terminal.print(&format!("{}: good\n", file.display()))
        }
        ConfigCommand::Default => terminal.print(&config::template()),
    }
}

fn rows(settings: &Settings) -> Vec<Row> {
    let row =
        |(key, value, source): (&'static str, String, Source)| Row { key, value, from: source.to_string() };
    settings.rows().into_iter().map(row).collect()
}

pub(super) fn render(settings: &Settings, colour: bool) -> String {
    let rows = rows(settings).into_iter().map(|row| {
        let value = if row.value.is_empty() { output::NONE.to_owned() } else { row.value };
        vec![row.key.into(), value.into(), row.from.into()]
    });
    output::table(&["KEY", "VALUE", "FROM"], rows.collect(), colour)
}
