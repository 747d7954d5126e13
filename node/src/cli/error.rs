//! Errors of commands: what is printed and the exit code.

use crate::api::client::{ClientError, TargetError};
use crate::api::listener::BindError;
use crate::api::types::{ApiError, ErrorCode};
use crate::config::ConfigError;

/// How a command ended. The codes are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    Usage,
    Denied,
    NoQuorum,
    /// Some of it succeeded, some failed.
    Partial,
    /// Ctrl-C.
    Interrupted,
    /// That of a command that was run in a container.
    Command(u8),
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Denied => 3,
            Self::NoQuorum => 4,
            Self::Partial => 5,
            Self::Interrupted => 130,
            Self::Command(code) => code,
        }
    }

    fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Invalid | ErrorCode::TooLarge => Self::Usage,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::NoQuorum => Self::NoQuorum,
            ErrorCode::NotFound
            | ErrorCode::Conflict
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Busy
            | ErrorCode::Internal => Self::Failed,
        }
    }
}

/// A command that did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct CliError {
    pub exit: Exit,
    /// What went wrong. Empty: nothing is printed.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// The request that failed, for the node's log.
    pub request_id: Option<String>,
}

impl CliError {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), hint: None, request_id: None }
    }

    /// Ends with `exit` and says no more.
    pub fn quiet(exit: Exit) -> Self {
        Self::new(exit, "")
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a hint if there is none.
    pub fn or_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint.get_or_insert(hint.into());
        self
    }

    /// `error: ...` and `hint: ...`, each with a line end; nothing for a quiet one.
    pub(super) fn render(&self, colour: bool) -> String {
        if self.message.is_empty() {
            return String::new();
        }
        let label = |word: &str, code: u8| {
            if colour { format!("\x1b[1;{code}m{word}:\x1b[0m") } else { format!("{word}:") }
        };
        let mut text = format!("{} {}\n", label("error", 31), self.message);
        if let Some(hint) = &self.hint {
            text.push_str(&format!("{} {hint}\n", label("hint", 36)));
        }
        if let Some(id) = &self.request_id {
            text.push_str(&format!("{} {id}\n", label("request", 2)));
        }
        text
    }
}

impl From<ApiError> for CliError {
    fn from(error: ApiError) -> Self {
        let exit = Exit::of(error.code);
        let hint = error.hint.or_else(|| {
            let hint = match error.code {
                ErrorCode::NoQuorum => "nothing was done; `longshore node ls` shows which nodes are missing",
                ErrorCode::OutcomeUnknown => "it may have happened or not; look before you try again",
                ErrorCode::Busy => "nothing was done; try again in a moment",
                ErrorCode::Internal => "the node's log says more",
                _ => return None,
            };
            Some(hint.to_owned())
        });
        Self { exit, message: error.message, hint, request_id: None }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        let message = error.to_string();
        match error {
            ClientError::Api { error, request_id } => Self { request_id, ..error.into() },
            ClientError::NotRunning { .. } => Self::new(Exit::Failed, message).hint(
                "start it with `longshore run` (or `longshore init`), or name another node with --host",
            ),
            ClientError::NoPermission { .. } => {
                Self::new(Exit::Failed, message).hint("use it as the user that runs the node")
            }
            ClientError::Unreachable { .. } => {
                Self::new(Exit::Failed, message).hint("name another node with --host")
            }
            ClientError::Interrupted { .. } => Self::new(Exit::Failed, message)
                .hint("it may have happened or not; look before you try again"),
            ClientError::NotUnderstood { .. } => {
                Self::new(Exit::Failed, message).hint("is that a longshore node, and of this version?")
            }
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<TargetError> for CliError {
    fn from(error: TargetError) -> Self {
        Self::new(Exit::Usage, error.to_string())
    }
}

impl From<BindError> for CliError {
    fn from(error: BindError) -> Self {
        let hint = match &error {
            BindError::SocketInUse { .. } => Some("stop it, or choose another folder with --data-dir"),
            BindError::PathTooLong { .. } => Some("choose a shorter --data-dir"),
            BindError::PortInUse { .. } => Some("choose another with --api IP:PORT, or --api none"),
            BindError::NotASocket { .. } | BindError::Io { .. } => None,
        };
        Self { hint: hint.map(str::to_owned), ..Self::new(Exit::Failed, error.to_string()) }
    }
}
