//! The terminal, or whatever stands in its place.

use std::fmt;
use std::io::{self, BufRead, IsTerminal, Read, Write};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

use super::args::ColourChoice;
use super::error::{CliError, Exit};
use crate::config::Variables;

/// Where a command reads and writes. Tests have their own.
pub struct Terminal {
    pub stdin: Box<dyn BufRead + Send>,
    pub stdout: Box<dyn Write + Send>,
    pub stderr: Box<dyn Write + Send>,
    pub stdin_is_terminal: bool,
    pub stdout_is_terminal: bool,
    pub stderr_is_terminal: bool,
    /// The environment.
    pub variables: Variables,
    pub(super) stdout_colour: bool,
    pub(super) stderr_colour: bool,
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Terminal")
    }
}

/// The process's terminal does not show what is typed, for as long as this lives.
struct Silent(Option<Termios>);

impl Silent {
    fn begin() -> Self {
        let before = tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut silent = before.clone();
            silent.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &silent);
        }
        Self(before)
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
        }
    }
}

impl Terminal {
    /// The process's own.
    pub fn system() -> Self {
        let variables = std::env::vars_os()
            // What is not UTF-8 is none of ours: our names and values are.
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self {
            stdin: Box::new(io::BufReader::new(io::stdin())),
            stdout: Box::new(io::stdout()),
            stderr: Box::new(io::stderr()),
            stdin_is_terminal: io::stdin().is_terminal(),
            stdout_is_terminal: io::stdout().is_terminal(),
            stderr_is_terminal: io::stderr().is_terminal(),
            variables,
            stdout_colour: false,
            stderr_colour: false,
        }
    }

    /// `NO_COLOR` (no-color.org) counts when it is set and not empty; `--color always` is stronger.
    pub(super) fn set_colour(&mut self, choice: ColourChoice) {
        let unwanted = self.variables.get("NO_COLOR").is_some_and(|value| !value.is_empty())
            || self.variables.get("TERM").is_some_and(|term| term == "dumb");
        let colour = |is_terminal: bool| match choice {
            ColourChoice::Always => true,
            ColourChoice::Never => false,
            ColourChoice::Auto => is_terminal && !unwanted,
        };
        self.stdout_colour = colour(self.stdout_is_terminal);
        self.stderr_colour = colour(self.stderr_is_terminal);
        if self.stdout_colour || self.stderr_colour {
            // It was decided here; crossterm, which colours tables, would look at NO_COLOR by itself and not at `--color always`.
            crossterm::style::force_color_output(true);
        }
    }

    /// Prints a result, whole lines, at once. A reader that has gone (`| head`) ends the command quietly.
    pub(super) fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.print_bytes(text.as_bytes())
    }

    /// The same, of bytes as they are.
    pub(super) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        let written = self.stdout.write_all(bytes).and_then(|()| self.stdout.flush());
        written.map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::quiet(Exit::Failed),
            _ => CliError::new(Exit::Failed, format!("cannot write to standard output: {error}")),
        })
    }

    /// All of standard input as a value, `limit` bytes at most.
    pub(super) fn read_value(&mut self, limit: usize) -> Result<Vec<u8>, CliError> {
        let mut bytes = Vec::new();
        // One more, to tell what is too long from what just fits.
        let read = (&mut self.stdin).take(limit as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|error| CliError::new(Exit::Failed, format!("cannot read standard input: {error}")))?;
        match bytes.len() > limit {
            true => Err(CliError::new(
                Exit::Usage,
                format!("standard input has more than the limit of {limit} bytes"),
            )
            .hint("split it over several keys")),
            false => Ok(bytes),
        }
    }

    /// Prints to standard error. There is nobody left to tell when that fails.
    pub(super) fn report(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes()).and_then(|()| self.stderr.flush());
    }

    /// The same, of bytes as they are.
    pub(super) fn report_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stderr.write_all(bytes).and_then(|()| self.stderr.flush());
    }

    /// A line from the terminal; an error where there is nobody to ask.
    pub(super) fn ask(&mut self, question: &str) -> Result<String, CliError> {
        if !self.stdin_is_terminal {
            let message = format!("there is nobody to ask for: {}", question.trim_end_matches([':', ' ']));
            return Err(CliError::new(Exit::Usage, message).hint("say it with a flag"));
        }
        self.report(question);
        let mut answer = String::new();
        let read = self.stdin.read_line(&mut answer);
        read.map_err(|error| CliError::new(Exit::Failed, format!("cannot read the answer: {error}")))?;
        Ok(answer.trim_end_matches(['\r', '\n']).to_owned())
    }

    /// The same, without showing what is typed.
    pub(super) fn ask_secret(&mut self, question: &str) -> Result<String, CliError> {
        let silent = Silent::begin();
        let answer = self.ask(question);
        drop(silent);
        self.report("\n");
        answer
    }

    /// Asks, on a terminal, before something that cannot be taken back. Off a terminal there is nobody to ask: a script
    /// knows what it does.
    pub(super) fn confirm(&mut self, question: &str, yes: bool) -> Result<(), CliError> {
        if yes || !self.stdin_is_terminal {
            return Ok(());
        }
        self.report(&format!("{question} [y/N] "));
        let mut answer = String::new();
        let read = self.stdin.read_line(&mut answer);
        read.map_err(|error| CliError::new(Exit::Failed, format!("cannot read the answer: {error}")))?;
        match answer.trim().to_ascii_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => {
                Err(CliError::new(Exit::Failed, "not confirmed; nothing was done").hint("--yes does not ask"))
            }
        }
    }
}
