//! `longshore op pull`, and following an operation to its end.

use std::time::Duration;

use clap::Args;
use data_encoding::HEXLOWER;
use longshore_raft::Runtime as _;
use longshore_raft::consensus::runtime::AsyncRuntime as _;

use super::args::Format;
use super::error::{CliError, Exit};
use super::op::{is_json, listed};
use super::output;
use super::progress::{self, Bars, Lines, Progress};
use super::session::{Client, Runtime, Session};
use crate::api::client::{ClientError, OperationWatch};
use crate::api::timer::Stopwatch;
use crate::api::types::{ErrorCode, OperationRequest, OperationState, OperationView, Strategy};
use crate::config::units::parse_duration;

/// How often a submission whose outcome is unknown is repeated, with the same key.
const SUBMIT_ATTEMPTS: u32 = 6;

/// How long a node that went away is waited for while following; a restart takes a few seconds.
const RECONNECT_PATIENCE: Duration = Duration::from_secs(60);

/// Pauses between attempts: doubled from the shortest to the longest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pauses {
    pub(super) next: Duration,
    pub(super) longest: Duration,
}

const PAUSES: Pauses = Pauses { next: Duration::from_millis(200), longest: Duration::from_secs(2) };

impl Pauses {
    async fn pause(&mut self) {
        Runtime::sleep(self.next).await;
        self.next = (self.next * 2).min(self.longest);
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum StrategyArg {
    /// The node that is asked, or the one named by --on
    Local,
    /// Every node that is alive, or those named by --on
    Replicated,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// References such as nginx:1.27 or registry.example:5000/app@sha256:...
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Which nodes pull
    #[arg(long, value_enum, default_value_t = StrategyArg::Replicated)]
    strategy: StrategyArg,
    /// A node, by name or id; may be repeated
    #[arg(long, value_name = "NODE")]
    on: Vec<String>,
    /// Give up after so long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    timeout: Duration,
    /// Print the operation's id and do not wait
    #[arg(long, short)]
    detach: bool,
    /// The same key, in the same session, gives the same operation, at every node
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The session that it belongs to, by a name of yours; without one it gets a session of its own
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    /// How to print the operation
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print the id only
    #[arg(long, short, conflicts_with = "format")]
    quiet: bool,
}

pub(super) async fn pull(session: &mut Session<'_>, args: PullArgs) -> Result<(), CliError> {
    let request = OperationRequest::Pull {
        images: args.images,
        strategy: match args.strategy {
            StrategyArg::Local => Strategy::Local,
            StrategyArg::Replicated => Strategy::Replicated,
        },
        on: args.on,
        timeout_ms: Some(u64::try_from(args.timeout.as_millis()).unwrap_or(u64::MAX)),
        session: args.session,
    };
    let key = args.idempotency_key.unwrap_or_else(new_key);
    let operation = tokio::select! {
        biased;
        () = &mut session.interrupt => {
            session.terminal.report("Interrupted; the operation may have been submitted: see `longshore op ls`.\n");
            return Err(CliError::quiet(Exit::Interrupted));
        }
        submitted = submit(&session.client, &request, &key, PAUSES) => submitted?,
    };
    if args.detach {
        return match args.format {
            Format::Json => session.print(&output::json(&operation)),
            Format::Table => session.print(&format!("{}\n", operation.id)),
        };
    }
    let views = Views::of(session.client.clone(), operation.id.clone(), None);
    follow_to_end(session, operation, views, args.format, args.quiet).await
}

fn new_key() -> String {
    let mut bytes = [0; 16];
    Runtime::entropy(&mut bytes);
    format!("cli-{}", HEXLOWER.encode(&bytes))
}

/// Submits, and repeats with the same key while it is unknown whether it was: that cannot make two operations.
pub(super) async fn submit(
    client: &Client,
    request: &OperationRequest,
    key: &str,
    mut pauses: Pauses,
) -> Result<OperationView, CliError> {
    let mut unknown: Option<CliError> = None;
    let mut attempts = 0;
    loop {
        let error = match client.submit_operation(request, Some(key)).await {
            Ok(operation) => return Ok(operation),
            Err(error) => error,
        };
        let (left, may_help) = if may_have_happened(&error) {
            let hint = format!("try again with --idempotency-key {key}: it will not be done twice");
            (CliError::from(error).hint(hint), true)
        } else {
            match unknown.take() {
                // A node has begun to leave, say: that undoes nothing of an earlier attempt.
                Some(earlier) if !is_wrong(&error) => (earlier, error.is_transient()),
                _ => return Err(error.into()),
            }
        };
        attempts += 1;
        if !may_help || attempts == SUBMIT_ATTEMPTS {
            return Err(left);
        }
        unknown = Some(left);
        pauses.pause().await;
    }
}

/// The request itself is: no attempt can have done anything.
fn is_wrong(error: &ClientError) -> bool {
    let wrong = [ErrorCode::Invalid, ErrorCode::TooLarge, ErrorCode::Denied];
    matches!(error, ClientError::Api { error, .. } if wrong.contains(&error.code))
}

fn may_have_happened(error: &ClientError) -> bool {
    match error {
        ClientError::Api { error, .. } => error.code == ErrorCode::OutcomeUnknown,
        ClientError::Interrupted { .. } => true,
        _ => false,
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
        OperationState::Failed => Exit::Failed,
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
