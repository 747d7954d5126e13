//! Child processes whose output is passed on line by line, each line with the child's name in front.
//!
//! A child is signalled only by the task that waits for it, while it has not been waited for: its process id cannot have gone
//! to another process.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use longshore_raft::consensus::runtime::AsyncRuntime as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncRead;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::sync::CancellationToken;

use super::error::{CliError, Exit};
use super::server::READY_LINE;
use super::session::Runtime;
use super::terminal::Terminal;
use crate::api::timer::within;

/// Lines that wait to be printed; children wait when there are more.
const LINES_QUEUED_MAX: usize = 256;

/// Longest line passed on; what is over is cut away.
const LINE_MAX_BYTES: usize = 64 << 10;

/// A node stops within 5 s; one that takes twice as long is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// How to start a child.
#[derive(Debug)]
pub(super) struct Spec {
    pub(super) name: String,
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    pub(super) variables: Vec<(&'static str, String)>,
}

/// A child that has ended.
struct Ended {
    name: String,
    /// How it failed, if it did. To end by itself, once it was ready, is no failure: it may have left its fleet.
    failure: Option<String>,
}

enum Event {
    Line { child: usize, text: String, is_error: bool },
    Ended { child: usize, status: std::io::Result<ExitStatus> },
}

struct Running {
    name: String,
    ready: bool,
    ended: bool,
    stop: CancellationToken,
    kill: CancellationToken,
}

pub(super) struct Children {
    children: Vec<Running>,
    name_width: usize,
    sender: mpsc::Sender<Event>,
    events: mpsc::Receiver<Event>,
}

impl Children {
    pub(super) fn new(name_width: usize) -> Self {
        let (sender, events) = mpsc::channel(LINES_QUEUED_MAX);
        Self { children: Vec::new(), name_width, sender, events }
    }

    pub(super) fn running(&self) -> usize {
        self.children.iter().filter(|child| !child.ended).count()
    }

    pub(super) fn start(&mut self, spec: Spec) -> Result<(), CliError> {
        let mut command = Command::new(&spec.program);
        command
            .args(&spec.args)
            .envs(spec.variables.iter().map(|(name, value)| (name, value)))
            // They would clash with the arguments.
            .env_remove("LONGSHORE_JOIN_TOKEN_FILE")
            .env_remove("LONGSHORE_JOIN_PEERS")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C goes to this process alone, which stops the others in its own way.
            .process_group(0)
            .kill_on_drop(true);
        let failed = |error| CliError::new(Exit::Failed, format!("cannot start {}: {error}", spec.name));
        let mut child = command.spawn().map_err(failed)?;
        let index = self.children.len();
        let output = child.stdout.take().expect("standard output is piped");
        let errors = child.stderr.take().expect("standard error is piped");
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let out = Runtime::spawn(pass_on(index, output, false, self.sender.clone()));
        let err = Runtime::spawn(pass_on(index, errors, true, self.sender.clone()));
        let (sender, stop_asked, kill_asked) = (self.sender.clone(), stop.clone(), kill.clone());
        // Detached: it reports through the channel.
        drop(Runtime::spawn(async move {
            let status = wait(&mut child, &stop_asked, &kill_asked).await;
            // All that it said comes before its end. A grandchild that holds the pipes open must not hold this up.
            let _ = within::<Runtime, _>(Duration::from_secs(1), async {
                let _ = out.await;
                let _ = err.await;
            })
            .await;
            let _ = sender.send(Event::Ended { child: index, status }).await;
        }));
        self.children.push(Running { name: spec.name, ready: false, ended: false, stop, kill });
        Ok(())
    }

    /// Passes lines on until all children have said that they are ready. An error if one fails.
    pub(super) async fn until_ready(&mut self, terminal: &mut Terminal) -> Result<(), CliError> {
        while self.children.iter().any(|child| !child.ready) {
            self.step_unless_failed(terminal).await?;
        }
        Ok(())
    }

    /// Passes lines on until all children have ended. An error if one fails.
    pub(super) async fn until_none_runs(&mut self, terminal: &mut Terminal) -> Result<(), CliError> {
        while self.running() > 0 {
            self.step_unless_failed(terminal).await?;
        }
        Ok(())
    }

    async fn step_unless_failed(&mut self, terminal: &mut Terminal) -> Result<(), CliError> {
        match self.step(terminal).await? {
            Some(Ended { name, failure: Some(how) }) => {
                Err(CliError::new(Exit::Failed, format!("{name} {how}"))
                    .hint("what it said last is above; all others were stopped"))
            }
            Some(Ended { name, failure: None }) => {
                terminal.report(&format!("{name} has stopped\n"));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Stops all children and waits for their ends, passing on what they say. Kills those that take too long.
    pub(super) async fn stop_all(&mut self, terminal: &mut Terminal) {
        for child in &self.children {
            child.stop.cancel();
        }
        if within::<Runtime, _>(STOP_TIMEOUT, self.until_all_ended(terminal)).await.is_none() {
            for child in self.children.iter().filter(|child| !child.ended) {
                terminal.report(&format!("{} does not stop; killing it\n", child.name));
                child.kill.cancel();
            }
            self.until_all_ended(terminal).await;
        }
    }

    async fn until_all_ended(&mut self, terminal: &mut Terminal) {
        while self.running() > 0 {
            // Standard output may have gone; that is no reason to leave children behind.
            if let Ok(Some(Ended { name, failure: Some(how) })) = self.step(terminal).await {
                terminal.report(&format!("{name} {how}\n"));
            }
        }
    }

    /// Handles one event.
    async fn step(&mut self, terminal: &mut Terminal) -> Result<Option<Ended>, CliError> {
        let event = self.events.recv().await.expect("this has a sender of its own");
        match event {
            Event::Line { child, text, is_error } => {
                let child = &mut self.children[child];
                child.ready |= !is_error && text == READY_LINE;
                let line = format!("{:width$} | {text}\n", child.name, width = self.name_width);
                if is_error {
                    terminal.report(&line);
                } else {
                    terminal.print(&line)?;
                }
                Ok(None)
            }
            Event::Ended { child, status } => {
                let child = &mut self.children[child];
                child.ended = true;
                let failure = match status {
                    Ok(status) if status.success() && child.ready => None,
                    Ok(status) if status.success() => Some("ended before it was ready".to_owned()),
                    Ok(status) => Some(format!("died: {status}")),
                    Err(error) => Some(format!("cannot be waited for: {error}")),
                };
                Ok(Some(Ended { name: child.name.clone(), failure }))
            }
        }
    }
}

/// Waits for the end of a child, signalling it when asked to.
async fn wait(
    child: &mut Child,
    stop: &CancellationToken,
    kill: &CancellationToken,
) -> std::io::Result<ExitStatus> {
    let mut stopping = false;
    loop {
        tokio::select! {
            biased;
            status = child.wait() => return status,
            () = kill.cancelled() => {
                child.start_kill()?;
                return child.wait().await;
            }
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                // It has an id until it has been waited for.
                let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
                if let Some(pid) = pid {
                    kill_process(pid, Signal::TERM)?;
                }
            }
        }
    }
}

/// Reads lines until the stream ends.
async fn pass_on(child: usize, stream: impl AsyncRead + Unpin, is_error: bool, sender: mpsc::Sender<Event>) {
    let mut lines = FramedRead::new(stream, LinesCodec::new_with_max_length(LINE_MAX_BYTES));
    while let Some(line) = lines.next().await {
        let text = match line {
            Ok(text) => text,
            Err(LinesCodecError::MaxLineLengthExceeded) => "(a line that is too long)".to_owned(),
            Err(LinesCodecError::Io(error)) => format!("(output lost: {error})"),
        };
        if sender.send(Event::Line { child, text, is_error }).await.is_err() {
            return;
        }
    }
}
