//! Answers for this node's engine.

use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::Runtime;
use longshore_raft::transport::Replier;
use tokio::sync::Semaphore;

use super::calls::{CallError, CallErrorKind, EngineCall, EngineReply, Listing, StreamEnd};
use super::streams::Streams;
use crate::docker::{ContainerEngine, EngineError};

/// Most calls that are being answered at a time.
const CALLS_MAX: usize = 512;

/// See the module's docs. One per node.
pub(crate) struct Desk<R: Runtime> {
    engine: Option<Arc<dyn ContainerEngine>>,
    streams: Streams<R>,
    places: Semaphore,
}

impl<R: Runtime> Desk<R> {
    pub(crate) fn new(engine: Option<Arc<dyn ContainerEngine>>) -> Arc<Self> {
        Arc::new(Self { engine, streams: Streams::new(), places: Semaphore::new(CALLS_MAX) })
    }

    /// Takes a call from another node. Returns at once.
    pub(crate) fn receive(self: &Arc<Self>, body: &Bytes, replier: Replier) {
        let call = match EngineCall::decode(body) {
            Ok(call) => call,
            Err(error) => return replier.refuse(error),
        };
        let this = Arc::clone(self);
        drop(R::spawn(async move { replier.reply(this.answer(call).await.encode()) }));
    }

    pub(crate) async fn answer(&self, call: EngineCall) -> EngineReply {
        // It makes room, and needs none.
        if let EngineCall::Close { stream } = call {
            self.streams.close(stream);
            return EngineReply::Closed;
        }
        let Ok(_place) = self.places.try_acquire() else {
            let message =
                format!("the node is answering {CALLS_MAX} calls, the most there can be; try again");
            return EngineReply::Failed(CallError { kind: CallErrorKind::Busy, message });
        };
        self.carry_out(call).await.unwrap_or_else(EngineReply::Failed)
    }

    async fn carry_out(&self, call: EngineCall) -> Result<EngineReply, CallError> {
        let engine = self.engine.as_ref().ok_or(EngineError::Disabled)?;
        Ok(match call {
            EngineCall::Containers => EngineReply::Containers(Listing::of(engine.list_containers().await?)),
            EngineCall::Images => EngineReply::Images(Listing::of(engine.list_images().await?)),
            EngineCall::Volumes => EngineReply::Volumes(Listing::of(engine.list_volumes().await?)),
            EngineCall::Logs { container, query } => {
                self.must_be_there(engine, &container).await?;
                let engine = Arc::clone(engine);
                let stream = self.streams.open(|sink| async move {
                    match engine.logs(&container, &query, sink).await {
                        Ok(()) => StreamEnd::Done,
                        Err(error) => StreamEnd::Failed(error.into()),
                    }
                })?;
                EngineReply::Opened { stream }
            }
            EngineCall::Exec { container, command } => {
                self.must_be_there(engine, &container).await?;
                let engine = Arc::clone(engine);
                let stream = self.streams.open(|sink| async move {
                    match engine.exec(&container, &command, sink).await {
                        Ok(code) => StreamEnd::Exit(code),
                        Err(error) => StreamEnd::Failed(error.into()),
                    }
                })?;
                EngineReply::Opened { stream }
            }
            EngineCall::More { stream } => {
                let (pieces, end) = self.streams.more(stream).await?;
                EngineReply::Output { pieces, end }
            }
            EngineCall::Close { stream } => {
                self.streams.close(stream);
                EngineReply::Closed
            }
        })
    }

    /// An error now reads better than one on the stream.
    async fn must_be_there(
        &self,
        engine: &Arc<dyn ContainerEngine>,
        container: &str,
    ) -> Result<(), CallError> {
        match engine.inspect_container(container).await? {
            Some(_) => Ok(()),
            None => Err(EngineError::NoSuchContainer { container: container.to_owned() }.into()),
        }
    }
}
