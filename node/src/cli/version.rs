//! `longshore version`.

use serde::Serialize;

use super::args::{Format, FormatArgs};
use super::error::CliError;
use super::output;
use super::terminal::Terminal;

/// The version of this binary.
pub(super) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Version {
    version: &'static str,
}

pub(super) fn version(args: FormatArgs, terminal: &mut Terminal) -> Result<(), CliError> {
    match args.format {
        Format::Table => terminal.print(&format!("longshore {VERSION}\n")),
        Format::Json => terminal.print(&output::json(&Version { version: VERSION })),
    }
}
