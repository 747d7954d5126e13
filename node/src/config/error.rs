//! What is wrong with a configuration.

use std::path::PathBuf;

use super::layers::Source;

/// One mistake, with its place. All of them are mended by whoever wrote the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{at}: unknown key `{key}`{}", suggestion(nearest))]
    UnknownKey { at: Source, key: String, nearest: Option<&'static str> },
    #[error("{at}: `{key}` must be {expected}")]
    WrongType { at: Source, key: &'static str, expected: &'static str },
    #[error("{at}: {message}")]
    BadValue { at: Source, message: String },
    #[error("{}:{line}: {message}", path.display())]
    Syntax { path: PathBuf, line: usize, message: String },
    #[error("cannot read {}: {message}", path.display())]
    Unreadable { path: PathBuf, message: String },
    /// Something that no default can stand for.
    #[error("{0}")]
    Missing(String),
}

fn suggestion(nearest: &Option<&'static str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// Everything that is wrong with a configuration; at least one problem.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n"))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

/// Collects problems, so that all are told at once.
#[derive(Debug, Default)]
pub(super) struct Problems(Vec<Problem>);

impl Problems {
    pub(super) fn push(&mut self, problem: Problem) {
        self.0.push(problem);
    }

    /// The value, or `None` with the problem noted.
    pub(super) fn take<T>(&mut self, at: &Source, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|message| self.push(Problem::BadValue { at: at.clone(), message })).ok()
    }

    /// `value` if there are no problems.
    ///
    /// # Panics
    /// If there is neither a value nor a problem.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<T, ConfigError> {
        if self.0.is_empty() {
            return Ok(value.expect("a value that is missing has left a problem behind"));
        }
        Err(ConfigError { problems: self.0 })
    }
}
