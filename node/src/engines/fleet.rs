//! Asks the engine of any node, this one included.

use std::sync::Arc;
use std::time::Duration;

use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};

use super::calls::{CallError, CallErrorKind, EngineCall, EngineReply, OutputPiece, StreamEnd};
use super::desk::Desk;
use crate::wire;

/// How long another node's engine may take for an answer; ours has its own limits.
const ANSWER_PATIENCE: Duration = Duration::from_secs(15);

/// See the module's docs. A handle: cheap to clone.
pub(crate) struct Engines<R: Runtime> {
    me: NodeId,
    desk: Arc<Desk<R>>,
    transport: TransportRef,
}

impl<R: Runtime> Clone for Engines<R> {
    fn clone(&self) -> Self {
        Self { me: self.me, desk: Arc::clone(&self.desk), transport: Arc::clone(&self.transport) }
    }
}

impl<R: Runtime> Engines<R> {
    pub(crate) fn new(me: NodeId, desk: Arc<Desk<R>>, transport: TransportRef) -> Self {
        Self { me, desk, transport }
    }

    /// What the node answers; never [`EngineReply::Failed`].
    pub(crate) async fn ask(&self, node: NodeId, call: EngineCall) -> Result<EngineReply, CallError> {
        let reply = if node == self.me {
            self.desk.answer(call).await
        } else {
            let unavailable = |message: String| CallError { kind: CallErrorKind::Unavailable, message };
            let sent = self.transport.request(node, Lane::Control, wire::encode(&call), ANSWER_PATIENCE);
            let body = sent.await.map_err(|error| unavailable(error.to_string()))?;
            wire::decode_reply(&body).map_err(unavailable)?
        };
        match reply {
            EngineReply::Failed(error) => Err(error),
            reply => Ok(reply),
        }
    }

    /// Opens a stream with [`EngineCall::Logs`] or [`EngineCall::Exec`].
    pub(crate) async fn open(&self, node: NodeId, call: EngineCall) -> Result<EngineStream<R>, CallError> {
        match self.ask(node, call).await? {
            EngineReply::Opened { stream } => {
                Ok(EngineStream { engines: self.clone(), node, stream, is_open: true })
            }
            other => Err(nonsense(&other)),
        }
    }
}

pub(crate) fn nonsense(reply: &EngineReply) -> CallError {
    CallError {
        kind: CallErrorKind::Other,
        message: format!("the node gave an answer that makes no sense here: {reply:?}"),
    }
}

/// An output that is being read. Dropping it has its node close it.
pub(crate) struct EngineStream<R: Runtime> {
    engines: Engines<R>,
    node: NodeId,
    stream: u64,
    is_open: bool,
}

impl<R: Runtime> EngineStream<R> {
    /// What came since the last call; nothing, after a second or so, if nothing did. With the end, that was all.
    pub(crate) async fn more(&mut self) -> Result<(Vec<OutputPiece>, Option<StreamEnd>), CallError> {
        match self.engines.ask(self.node, EngineCall::More { stream: self.stream }).await? {
            EngineReply::Output { pieces, end } => {
                self.is_open &= end.is_none();
                Ok((pieces, end))
            }
            other => Err(nonsense(&other)),
        }
    }
}

impl<R: Runtime> Drop for EngineStream<R> {
    fn drop(&mut self) {
        if self.is_open {
            let (engines, node, stream) = (self.engines.clone(), self.node, self.stream);
            drop(R::spawn(async move { drop(engines.ask(node, EngineCall::Close { stream }).await) }));
        }
    }
}
