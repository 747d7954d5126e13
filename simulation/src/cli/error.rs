//! Errors of commands.

use std::io;
use std::path::Path;

use crate::batch::results::ResultsError;
use crate::batch::sweep::SweepError;
use crate::capsule::CapsuleError;
use crate::mutants::MutantError;
use crate::plan::scenario::ScenarioError;
use crate::result::Verdict;

/// As shells have it for SIGINT.
const INTERRUPTED: u8 = 130;

/// A command that found out nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(super) struct CliError {
    pub(super) code: u8,
    /// What went wrong. Empty: nothing is printed.
    pub(super) message: String,
    /// What to do about it.
    pub(super) hint: Option<String>,
}

impl CliError {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { code: Verdict::Harness.exit_code(), message: message.into(), hint: None }
    }

    /// Ctrl-C; what there is to say has been said.
    pub(super) fn interrupted() -> Self {
        Self { code: INTERRUPTED, ..Self::new("") }
    }

    pub(super) fn unwritable(path: &Path, error: &io::Error) -> Self {
        Self::new(format!("cannot write {}: {error}", path.display()))
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// `error: ...` and `hint: ...`, each with a line end; nothing for an empty one.
    pub(super) fn render(&self) -> String {
        match (self.message.as_str(), &self.hint) {
            ("", _) => String::new(),
            (message, None) => format!("error: {message}\n"),
            (message, Some(hint)) => format!("error: {message}\nhint: {hint}\n"),
        }
    }
}

impl From<ScenarioError> for CliError {
    fn from(error: ScenarioError) -> Self {
        let cli = Self::new(error.to_string());
        match error {
            ScenarioError::Unreadable { .. } => {
                cli.hint("`longshore-sim scenarios` lists those that can be named")
            }
            ScenarioError::Wrong { .. } => cli,
        }
    }
}

impl From<CapsuleError> for CliError {
    fn from(error: CapsuleError) -> Self {
        let cli = Self::new(error.to_string());
        match error {
            CapsuleError::OtherFormat { .. } | CapsuleError::OtherVersion { .. } => {
                cli.hint("build the version that wrote it, or run its seed anew")
            }
            CapsuleError::Unreadable { .. } | CapsuleError::NotACapsule { .. } => cli,
        }
    }
}

impl From<ResultsError> for CliError {
    fn from(error: ResultsError) -> Self {
        Self::new(error.to_string()).hint("choose another file with --results")
    }
}

impl From<SweepError> for CliError {
    fn from(error: SweepError) -> Self {
        Self::new(error.to_string()).hint("what was written before stays; the same command carries on")
    }
}

impl From<MutantError> for CliError {
    fn from(error: MutantError) -> Self {
        Self::new(error.to_string())
    }
}

/// Runs what starts processes, with a future that resolves at Ctrl-C.
pub(super) fn interruptible<T>(
    work: impl AsyncFnOnce(std::pin::Pin<Box<dyn Future<Output = ()>>>) -> T,
) -> Result<T, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime =
        runtime.map_err(|error| CliError::new(format!("the system gives no event queue: {error}")))?;
    Ok(runtime.block_on(async {
        work(Box::pin(async {
            if tokio::signal::ctrl_c().await.is_err() {
                // Ctrl-C keeps its default action then.
                std::future::pending::<()>().await;
            }
        }))
        .await
    }))
}
