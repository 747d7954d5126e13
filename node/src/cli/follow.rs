//! Following an operation to its end, over restarts of the node that shows it.

use std::time::Duration;

use longshore_raft::consensus::runtime::AsyncRuntime as _;

use super::args::Format;
use super::error::{CliError, Exit};
use super::op::{is_json, listed};
use super::output;
use super::progress::{self, Bars, Lines, Progress};
use super::session::{Client, Runtime, Session};
use crate::api::client::OperationWatch;
use crate::api::timer::Stopwatch;
use crate::api::types::{OperationState, OperationView};

/// How long a node that went away is waited for while following; a restart takes a few seconds.
pub(super) const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Pauses between attempts: doubled from the shortest to the longest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    pub(super) next: Duration,
    pub(super) longest: Duration,
}

pub(super) const PAUSES: Pauses =
    Pauses { next: Duration::from_millis(200), longest: Duration::from_secs(2) };

impl Pauses {
    pub(super) async fn pause(&mut self) {
        Runtime::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}

/// The operation as it is now. A node that cannot say is waited for as long as while following.
pub(super) async fn find(session: &mut Session<'_>, id: &str) -> Result<OperationView, CliError> {
    let (since, mut pauses) = (Stopwatch::<Runtime>::start(), PAUSES);
    loop {
        let found = tokio::select! {
            biased;
            () = &mut session.interrupt => return Err(CliError::quiet(Exit::Interrupted)),
            found = session.client.inspect_operation(id) => found,
        };
        match found {
            Ok(operation) => return Ok(operation),
            Err(error) if error.is_transient() && since.elapsed() < RECONNECT_PATIENCE => {
                pauses.pause().await
            }
            Err(error) => return Err(listed(error)),
        }
    }
}

/// Shows progress from `operation` on until it has ended, then the result; the exit code is the operation's.
pub(super) async fn follow_to_end(
    session: &mut Session<'_>,
    operation: OperationView,
    views: Views,
    format: Format,
    quiet: bool,
) -> Result<(), CliError> {
    let mut progress = if quiet {
        Progress::Silent
    } else if session.terminal.stderr_is_terminal && session.terminal.stdout_is_terminal {
        Progress::Bars(Bars::new(session.terminal.stderr_colour))
    } else {
        Progress::Lines { lines: Lines::default(), to_stderr: is_json(format) }
    };
    let followed = follow(session, operation, views, &mut progress).await;
    progress.finish(session.terminal);
    let operation = followed?;
    match (format, quiet) {
        (_, true) => session.print(&format!("{}\n", operation.id))?,
        (Format::Json, _) => session.print(&output::json(&operation))?,
        (Format::Table, _) => {}
    }
    let exit = match operation.state {
        OperationState::Succeeded if is_json(format) || quiet => return Ok(()),
        OperationState::Succeeded => return session.print(&format!("{}\n", progress::summary(&operation))),
        OperationState::Partial => Exit::Partial,
        OperationState::Failed | OperationState::Cancelled => Exit::Failed,
        OperationState::Planned | OperationState::Running => {
            unreachable!("an operation is followed until its state is terminal")
        }
    };
    let mut message = progress::summary(&operation);
    if !progress.tells_failures() {
        message.push_str(&progress::failures(&operation));
    }
    Err(CliError::new(exit, message).hint(format!("longshore op inspect {}", operation.id)))
}

/// Watches until the operation has ended, over restarts of the node.
async fn follow(
    session: &mut Session<'_>,
    mut operation: OperationView,
    mut views: Views,
    progress: &mut Progress,
) -> Result<OperationView, CliError> {
    let watch = Stopwatch::<Runtime>::start();
    let now_ms = || watch.elapsed().as_millis() as u64;
    progress.update(&operation, now_ms(), session.terminal);
    while !operation.state.is_terminal() {
        let next = tokio::select! {
            biased;
            () = &mut session.interrupt => {
                progress.finish(session.terminal);
                let text = format!("The operation goes on. Follow it with: longshore op watch {}\n", operation.id);
                session.terminal.report(&text);
                return Err(CliError::quiet(Exit::Interrupted));
            }
            next = views.next() => next?,
        };
        match next {
            Next::View(view) => {
                operation = *view;
                progress.update(&operation, now_ms(), session.terminal);
            }
            Next::Lost(why) => progress.note(&format!("note: {why}; trying again"), session.terminal),
        }
    }
    Ok(operation)
}

enum Next {
    View(Box<OperationView>),
    /// The node went away, for the first time since the last view.
    Lost(String),
}

/// The views of one operation, from one watch after the other.
pub(super) struct Views {
    client: Client,
    id: String,
    watch: Option<OperationWatch>,
    /// Since when the node has not answered.
    lost: Option<Stopwatch<Runtime>>,
    pauses: Pauses,
}

impl Views {
    /// Goes on with `watch`, or begins with one of its own.
    pub(super) fn of(client: Client, id: String, watch: Option<OperationWatch>) -> Self {
        Self { client, id, watch, lost: None, pauses: PAUSES }
    }

    /// The next view. Dropping the future loses no view that was there.
    async fn next(&mut self) -> Result<Next, CliError> {
        loop {
            let outcome = match &mut self.watch {
                Some(watch) => watch.next().await,
                None => match self.client.watch_operation(&self.id).await {
                    Ok(watch) => {
                        self.watch = Some(watch);
                        continue;
                    }
                    Err(error) => Err(error),
                },
            };
            let why = match outcome {
                Ok(Some(view)) => {
                    self.lost = None;
                    self.pauses = PAUSES;
                    return Ok(Next::View(Box::new(view)));
                }
                Ok(None) => "the node has stopped".to_owned(),
                Err(error) if error.is_transient() => error.to_string(),
                Err(error) => return Err(listed(error)),
            };
            self.watch = None;
            match &self.lost {
                None => {
                    self.lost = Some(Stopwatch::start());
                    return Ok(Next::Lost(why));
                }
                Some(lost) if lost.elapsed() > RECONNECT_PATIENCE => {
                    let message = format!("lost sight of operation {}: {why}", self.id);
                    return Err(CliError::new(Exit::Failed, message)
                        .hint(format!("it goes on; on another node: longshore op watch {}", self.id)));
                }
                Some(_) => {}
            }
            self.pauses.pause().await;
        }
    }
}
