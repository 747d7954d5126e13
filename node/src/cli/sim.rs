//! `longshore sim ...`: hands over to `longshore-sim`, the way `git foo` runs `git-foo`.
//!
//! The simulator is a program of its own, so that the product's binary contains nothing of it. This process becomes it: arguments,
//! output and exit code are the simulator's.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;
use rustix::fs::Access;

use super::error::{CliError, Exit};
use super::terminal::Terminal;

const PROGRAM: &str = "longshore-sim";

#[derive(Debug, Args)]
pub(super) struct SimArgs {
    /// What is said to longshore-sim
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(super) args: Vec<OsString>,
}

pub(super) fn sim(args: SimArgs, terminal: &Terminal) -> Result<(), CliError> {
    let beside = std::env::current_exe().ok().and_then(|own| own.parent().map(Path::to_owned));
    let path = terminal.variables.get("PATH").map(String::as_str).unwrap_or_default();
    let program = find(beside.as_deref(), path)?;
    let error = Command::new(&program).args(args.args).exec();
    // Returning from `exec` means that it failed.
    Err(CliError::new(Exit::Failed, format!("cannot run {}: {error}", program.display())))
}

/// The simulator's file: beside this program's, else the first on the path.
pub(super) fn find(beside: Option<&Path>, path: &str) -> Result<PathBuf, CliError> {
    let folders = beside.map(Path::to_owned).into_iter().chain(std::env::split_paths(path));
    let found = folders
        .map(|folder| folder.join(PROGRAM))
        .find(|file| file.is_file() && rustix::fs::access(file, Access::EXEC_OK).is_ok());
    found.ok_or_else(|| {
        CliError::new(
            Exit::Failed,
            format!(
                "the simulator is not installed: there is no {PROGRAM} beside this program or on the PATH"
            ),
        )
        .hint("build it with `cargo build --release --package longshore-simulation`")
    })
}
