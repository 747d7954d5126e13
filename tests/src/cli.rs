//! Running `longshore` commands to their end, the way a script does.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::binary;
use crate::wait::{Stopwatch, pause};

/// A command that has not ended by then is killed, and the test fails.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// What a command left.
#[derive(Debug, Clone)]
pub struct Ended {
    pub command: String,
    /// The exit code; 128 + n when a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ended {
    /// The standard output of a command that must have succeeded.
    #[track_caller]
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self}");
        &self.stdout
    }

    /// Asserts a failure: the code, an `error:` line holding each of `error`, and a `hint:` line holding each of `hint`.
    /// Compares without regard to case. An empty `hint` asks for no hint.
    #[track_caller]
    pub fn fails(&self, code: i32, error: &[&str], hint: &[&str]) -> &Self {
        assert_eq!(self.code, code, "exit code\n{self}");
        let (said, hinted) = split_error(&self.stderr);
        let said = said.unwrap_or_else(|| panic!("no line starts with `error:`\n{self}"));
        for part in error {
            assert!(contains(&said, part), "the error does not say {part:?}\n{self}");
        }
        if !hint.is_empty() {
            let hinted = hinted.unwrap_or_else(|| panic!("no line starts with `hint:`\n{self}"));
            for part in hint {
                assert!(contains(&hinted, part), "the hint does not say {part:?}\n{self}");
            }
        }
        assert!(!self.stderr.contains("panicked at"), "a user must never see a panic\n{self}");
        self
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "$ {}\nexit code {} after {:.2} s", self.command, self.code, self.took.as_secs_f64())?;
        writeln!(f, "--- stdout\n{}--- stderr\n{}---", self.stdout, self.stderr)
    }
}

/// The text from `error:` up to `hint:`, and from there on. Log lines before are skipped.
fn split_error(stderr: &str) -> (Option<String>, Option<String>) {
    let (mut error, mut hint): (Option<String>, Option<String>) = (None, None);
    for line in stderr.lines() {
        if let Some(rest) = line.strip_prefix("error:") {
            (error, hint) = (Some(rest.to_owned()), None);
        } else if let Some(rest) = line.strip_prefix("hint:") {
            hint = Some(rest.to_owned());
        } else if let Some(text) = hint.as_mut().or(error.as_mut()) {
            text.push('\n');
            text.push_str(line);
        }
    }
    (error, hint)
}

fn contains(text: &str, part: &str) -> bool {
    text.to_lowercase().contains(&part.to_lowercase())
}

/// A command being put together.
#[derive(Debug)]
pub struct Cli {
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
    timeout: Duration,
}

impl Cli {
    pub fn new<I, S>(args: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<OsString>,
    {
        Self { args: args.into_iter().map(Into::into).collect(), env: Vec::new(), timeout: DEFAULT_TIMEOUT }
    }

    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command, with nothing of the caller's own configuration in its environment.
    pub fn command(&self) -> Command {
        let mut command = Command::new(binary::longshore());
        command.args(&self.args).stdin(Stdio::null());
        clean_environment(&mut command);
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs it to the end.
    ///
    /// # Panics
    /// When it has not ended in time; it is killed then.
    #[track_caller]
    pub fn run(&self) -> Ended {
        self.start().wait(self.timeout)
    }

    /// Starts it and returns at once.
    pub fn start(&self) -> Running {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (stdout, stderr) = (dir.path().join("stdout"), dir.path().join("stderr"));
        let mut command = self.command();
        command.stdout(create(&stdout)).stderr(create(&stderr));
        let text = format!("{command:?}");
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {text}: {error}"));
        Running { child: Some(child), text, stdout, stderr, watch: Stopwatch::start(), _dir: dir }
    }
}

/// Removes every variable that would change what `longshore` does.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("LONGSHORE_") || name_text.starts_with("DOCKER_") {
            command.env_remove(&name);
        }
    }
    command.env("RUST_BACKTRACE", "1");
}

fn create(path: &Path) -> File {
    File::create(path).unwrap_or_else(|error| panic!("cannot create {}: {error}", path.display()))
}

/// A command under way. Killed when dropped.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    text: String,
    stdout: PathBuf,
    stderr: PathBuf,
    watch: Stopwatch,
    _dir: tempfile::TempDir,
}

impl Running {
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a command under way has a process").id()
    }

    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Sends a signal to it.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.pid() as i32).expect("a process id is not 0");
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it has not ended in time; it is killed then.
    #[track_caller]
    pub fn wait(mut self, timeout: Duration) -> Ended {
        let mut child = self.child.take().expect("a command under way has a process");
        let status = loop {
            match child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if self.watch.elapsed() > timeout => {
                    let _ = child.kill();
                    let _ = child.wait();
                    panic!(
                        "$ {}\nhas not ended after {timeout:?}\n--- stdout\n{}--- stderr\n{}---",
                        self.text,
                        self.stdout(),
                        self.stderr()
                    );
                }
                None => pause(Duration::from_millis(10)),
            }
        };
        Ended {
            command: self.text.clone(),
            code: exit_code(status),
            stdout: self.stdout(),
            stderr: self.stderr(),
            took: self.watch.elapsed(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// As a shell gives it: the code, or 128 + the signal.
pub fn exit_code(status: std::process::ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(mut file) = File::open(path) {
        file.read_to_end(&mut bytes)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(code: i32, stderr: &str) -> Ended {
        let stderr = stderr.to_owned();
        Ended { command: "x".to_owned(), code, stdout: String::new(), stderr, took: Duration::ZERO }
    }

    #[test]
    fn finds_error_and_hint_behind_log_lines() {
        ended(3, "INFO starting\nerror: the token\n  has expired\nhint: make a New one\n").fails(
            3,
            &["TOKEN", "expired"],
            &["new one"],
        );
    }

    #[test]
    #[should_panic(expected = "no line starts with `hint:`")]
    fn a_missing_hint_is_a_failure() {
        ended(1, "error: no\n").fails(1, &["no"], &["do this"]);
    }

    #[test]
    #[should_panic(expected = "exit code")]
    fn another_code_is_a_failure() {
        ended(1, "error: no\n").fails(2, &["no"], &[]);
    }
}
