//! Answers for this node's engine: listings from the inventory, as long as that is what the engine has.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::Runtime;
use longshore_raft::transport::Replier;
use tokio::sync::Semaphore;

use super::calls::{
    CallError, CallErrorKind, EngineCall, EngineReply, LISTED_BYTES_MAX, Listing, SeenLast, StreamEnd,
};
use super::streams::Streams;
use crate::docker::{ContainerEngine, EngineError};
use crate::inventory::{Inventory, Item};
use crate::wire;

/// Most calls that are being answered at a time.
const CALLS_MAX: usize = 512;
/// How long the engine may take for a listing, before what it had when it was heard last is shown. Less than other nodes wait.
const LISTING_PATIENCE: Duration = Duration::from_secs(10);

/// See the module's docs. One per node.
pub(crate) struct Desk<R: Runtime> {
    host: Option<Host<R>>,
    streams: Streams<R>,
    places: Semaphore,
}

/// The engine, and what is known of it.
struct Host<R: Runtime> {
    engine: Arc<dyn ContainerEngine>,
    inventory: Arc<Inventory<R>>,
}

impl<R: Runtime> Host<R> {
    async fn list<T: Item + Clone>(&self) -> Result<Listing<T>, CallError> {
        if let Some(rows) = self.inventory.current(LISTED_BYTES_MAX).await {
            return Ok(Listing { items: rows.items, cut: rows.cut, last_seen: None });
        }
        let error = match self.inventory.ask::<T>(LISTING_PATIENCE).await {
            Ok(items) => return Ok(Listing::of(&items)),
            Err(error) => CallError::from(error),
        };
        if error.kind != CallErrorKind::Unavailable {
            return Err(error);
        }
        match self.inventory.last_seen(LISTED_BYTES_MAX).await {
            Some(seen) => Ok(Listing {
                items: seen.rows.items,
                cut: seen.rows.cut,
                last_seen: Some(SeenLast { age_ms: seen.age_ms, why: error.message }),
            }),
            None => Err(error),
        }
    }
}

impl<R: Runtime> Desk<R> {
    /// `None` if the node has no engine.
    pub(crate) fn new(inventory: Option<Arc<Inventory<R>>>) -> Arc<Self> {
        let host = inventory.map(|inventory| Host { engine: inventory.engine(), inventory });
        Arc::new(Self { host, streams: Streams::new(), places: Semaphore::new(CALLS_MAX) })
    }

    /// Takes a call from another node. Returns at once.
    pub(crate) fn receive(self: &Arc<Self>, body: &Bytes, replier: Replier) {
        let call = match wire::decode::<EngineCall>(body) {
            Ok(call) => call,
            Err(error) => return replier.refuse(error),
        };
        let this = Arc::clone(self);
        drop(R::spawn(async move { replier.reply(wire::encode_reply(&this.answer(call).await)) }));
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
        let host = self.host.as_ref().ok_or(EngineError::Disabled)?;
        let engine = &host.engine;
        Ok(match call {
            EngineCall::Containers => EngineReply::Containers(host.list().await?),
            EngineCall::Images => EngineReply::Images(host.list().await?),
            EngineCall::Volumes => EngineReply::Volumes(host.list().await?),
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
