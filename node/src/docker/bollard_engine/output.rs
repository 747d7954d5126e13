//! What comes out of containers of the real engine: their logs, and commands in them.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error as BollardError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::query_parameters::LogsOptionsBuilder;
use bytes::Bytes;
use futures_util::StreamExt;

use super::super::classify::{self, Subject};
use super::super::connection::Connection;
use super::super::{EngineError, ExecSpec, LogQuery, Output, OutputSink, Stream};
use super::BollardEngine;
use super::containers::checked;

/// Begins what Docker writes into the command's own output if it could not begin.
const DID_NOT_BEGIN: &[u8] = b"OCI runtime exec failed";
/// Between two looks at a command whose output has ended and whose exit has not been noticed yet.
const EXIT_POLL: Duration = Duration::from_millis(20);

/// Bytes as the port tells them. A terminal has one stream only.
fn told(output: LogOutput) -> Output {
    let (stream, bytes) = match output {
        LogOutput::StdErr { message } => (Stream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::StdIn { message } | LogOutput::Console { message } => {
            (Stream::Stdout, message)
        }
    };
    Output { stream, bytes }
}

/// How a stream of output ended, if nothing went wrong.
enum Ended {
    /// All was told.
    Told,
    /// Nobody listens any more.
    Unheard,
    /// Docker wrote this in place of the command.
    DidNotBegin(Bytes),
}

impl BollardEngine {
    pub(super) async fn tell_output(
        &self,
        key: &str,
        query: &LogQuery,
        sink: OutputSink,
    ) -> Result<(), EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let tail = query.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
        let options = LogsOptionsBuilder::new()
            .follow(query.follow)
            .stdout(true)
            .stderr(true)
            .since(i32::try_from(query.since_unix_s.max(0)).unwrap_or(i32::MAX))
            .timestamps(query.timestamps)
            .tail(&tail)
            .build();
        let lines = connection.docker.logs(checked(key)?, Some(options));
        self.tell(Subject::of(key), lines, &sink, false).await.map(drop)
    }

    /// Passes output on until it ends, or nobody wants it.
    async fn tell(
        &self,
        subject: Subject<'_>,
        output: impl StreamExt<Item = Result<LogOutput, BollardError>>,
        sink: &OutputSink,
        of_command: bool,
    ) -> Result<Ended, EngineError> {
        let mut output = Box::pin(output);
        let mut first = of_command;
        loop {
            let next = tokio::select! {
                biased;
                () = sink.closed() => return Ok(Ended::Unheard),
                next = output.next() => next,
            };
            match next {
                None => return Ok(Ended::Told),
                Some(Err(error)) => return Err(self.container_error(subject, error)),
                Some(Ok(output)) => {
                    let output = told(output);
                    if std::mem::take(&mut first) && output.bytes.starts_with(DID_NOT_BEGIN) {
                        return Ok(Ended::DidNotBegin(output.bytes));
                    }
                    if sink.send(output).await.is_err() {
                        return Ok(Ended::Unheard);
                    }
                }
            }
        }
    }

    pub(super) async fn execute(
        &self,
        key: &str,
        command: &ExecSpec,
        sink: OutputSink,
    ) -> Result<i64, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let subject = Subject::of(key);
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(command.command.clone()),
            env: Some(command.env.clone()),
            user: command.user.clone(),
            working_dir: command.working_dir.clone(),
            ..CreateExecOptions::default()
        };
        let create = connection.docker.create_exec(checked(key)?, options);
        let id = self.demand(subject, self.limits.reply, create).await?.id;
        let start = connection.docker.start_exec(&id, None::<StartExecOptions>);
        let ended = match self.demand(subject, self.limits.silence, start).await? {
            StartExecResults::Attached { output, input: _input } => {
                self.tell(subject, output, &sink, true).await?
            }
            StartExecResults::Detached => Ended::Told,
        };
        match ended {
            Ended::Unheard => Err(self.interrupted("nobody listens to the command any more".to_owned())),
            Ended::Told => self.exit_code(&id).await,
            Ended::DidNotBegin(said) => {
                let detail = String::from_utf8_lossy(&said).into_owned();
                Err(classify::container_error(&self.endpoint(), subject, &detail))
            }
        }
    }

    /// Of a command whose output has ended. Its own connection is gone with that output.
    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn exit_code(&self, id: &str) -> Result<i64, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let exited = async {
            loop {
                let found = self.ask(connection.docker.inspect_exec(id)).await?;
                let found =
                    found.ok_or_else(|| self.interrupted("it has forgotten the command".to_owned()))?;
                match (found.running, found.exit_code) {
                    (Some(false), Some(code)) => return Ok(code),
                    _ => tokio::time::sleep(EXIT_POLL).await,
                }
            }
        };
        match tokio::time::timeout(self.limits.reply, exited).await {
            Ok(exited) => exited,
            Err(_) => Err(self.interrupted("it does not tell how the command ended".to_owned())),
        }
    }
}
