//! What containers, and commands in them, write: live, from any node's engine.

use data_encoding::BASE64;
use futures_util::stream::{self, StreamExt};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::engines::call_error;
use super::views::name_of;
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::docker::{Container, ExecSpec, LogQuery, Stream};
use crate::engines::{EngineCall, EngineStream, OutputPiece, StreamEnd};

/// Most containers whose output is followed by one request.
const FOLLOWED_MAX: usize = 256;
/// Most lines of each that can be asked for.
const TAIL_MAX: u32 = 1_000_000;

/// A container whose output is read.
struct Source<R: Runtime> {
    stream: EngineStream<R>,
    node: String,
    container: String,
    ended: bool,
}

impl<R: Runtime> Service<R> {
    /// Of all containers that the name means.
    pub(super) async fn container_logs(
        &self,
        name: String,
        query: LogsQuery,
    ) -> Result<ApiStream<OutputView>, ApiError> {
        let LogsQuery { follow, tail, since_ms, timestamps, on } = query;
        if tail.is_some_and(|tail| tail > TAIL_MAX) {
            let message = format!("{TAIL_MAX} lines can be asked for at most");
            return Err(ApiError::new(ErrorCode::Invalid, message).hint("without a number all are told"));
        }
        let found = self.containers_named(&[name], on.as_deref(), false).await?;
        if found.len() > FOLLOWED_MAX {
            let message = format!(
                "{} containers are more than the {FOLLOWED_MAX} that can be read at once",
                found.len()
            );
            return Err(
                ApiError::new(ErrorCode::Invalid, message).hint("name one of them, or a node with --on")
            );
        }
        let since_unix_s = i64::try_from(since_ms.unwrap_or(0) / 1_000).unwrap_or(i64::MAX);
        let query = LogQuery { follow, tail, since_unix_s, timestamps };
        let mut sources = Vec::new();
        for (node, container) in &found {
            let call = EngineCall::Logs { container: container.id.clone(), query: query.clone() };
            sources.push(self.source(*node, container, call).await?.boxed());
        }
        Ok(Box::pin(stream::select_all(sources)))
    }

    /// In the one running container that the name means.
    pub(super) async fn exec_in(
        &self,
        name: String,
        request: ExecRequest,
    ) -> Result<ApiStream<OutputView>, ApiError> {
        let ExecRequest { command, env, user, working_dir, on } = request;
        if command.is_empty() || command[0].is_empty() {
            return Err(ApiError::new(ErrorCode::Invalid, "there is no command to be run"));
        }
        if let Some(bad) = env.iter().find(|var| !var.contains('=')) {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                format!("{bad:?} is not a variable such as LEVEL=debug"),
            ));
        }
        let found = self.containers_named(std::slice::from_ref(&name), on.as_deref(), true).await?;
        let [(node, container)] = &found[..] else {
            let names: Vec<&str> = found.iter().map(|(_, container)| container.name.as_str()).collect();
            let message = format!("{name:?} means several containers: {}", names.join(", "));
            return Err(ApiError::new(ErrorCode::Conflict, message).hint("a command runs in one: name it"));
        };
        if !container.state.is_up() {
            let message = format!("container {} is not running", container.name);
            return Err(
                ApiError::new(ErrorCode::Conflict, message).hint("`longshore op logs` tells what it said")
            );
        }
        let command = ExecSpec { command, env, user, working_dir };
        let call = EngineCall::Exec { container: container.id.clone(), command };
        Ok(Box::pin(self.source(*node, container, call).await?))
    }

    async fn source(
        &self,
        node: NodeId,
        container: &Container,
        call: EngineCall,
    ) -> Result<impl futures_util::Stream<Item = Result<OutputView, ApiError>> + Send + use<R>, ApiError>
    {
        let stream = self.work.engines.open(node, call).await.map_err(call_error)?;
        let name = self.core.group.with_state(|state| name_of(state, node));
        let source = Source { stream, node: name, container: container.name.clone(), ended: false };
        Ok(stream::unfold(source, Source::next).flat_map(stream::iter))
    }
}

impl<R: Runtime> Source<R> {
    /// What came next; it may be nothing, so that who has gone away is noticed.
    async fn next(mut self) -> Option<(Vec<Result<OutputView, ApiError>>, Self)> {
        if self.ended {
            return None;
        }
        let views = match self.stream.more().await {
            Ok((pieces, end)) => {
                let mut views: Vec<_> = pieces.into_iter().map(|piece| self.piece(piece)).collect();
                self.ended = end.is_some();
                match end {
                    None | Some(StreamEnd::Done) => {}
                    Some(StreamEnd::Exit(code)) => views.push(OutputView::Exit { code }),
                    Some(StreamEnd::Failed(error)) => views.push(self.lost(error.message)),
                }
                views
            }
            Err(error) => {
                self.ended = true;
                vec![self.lost(error.message)]
            }
        };
        Some((views.into_iter().map(Ok).collect(), self))
    }

    fn piece(&self, piece: OutputPiece) -> OutputView {
        OutputView::Piece {
            node: self.node.clone(),
            container: self.container.clone(),
            stream: match piece.stream {
                Stream::Stdout => OutputStream::Stdout,
                Stream::Stderr => OutputStream::Stderr,
            },
            data: BASE64.encode(&piece.bytes),
        }
    }

    fn lost(&self, why: String) -> OutputView {
        OutputView::Lost { node: self.node.clone(), container: self.container.clone(), why }
    }
}
