//! An attempt to build: the context from this node, or from another that has it, and then the engine.

use std::io;
use std::sync::Arc;

use futures_util::stream;
use longshore_model::operations::{BuildContext, BuildSpec};
use longshore_raft::transport::TransportRef;
use longshore_raft::{NodeId, Runtime};
use longshore_storage::{BlobDigest, BlobReader};
use parking_lot::Mutex;

use super::contexts::Contexts;
use super::fetching::{Fetcher, Sources, own, unavailable};
use crate::core::Core;
use crate::credentials::all_credentials;
use crate::docker::{BuildOrder, ContainerEngine, ContextBytes, EngineError, LocalImage, OnProgress};

/// Bytes that go to the engine at a time.
const SENT_BYTES: usize = 256 << 10;

/// See the module's docs. One per node.
pub(crate) struct Builds<R: Runtime> {
    core: Arc<Core<R>>,
    contexts: Arc<Contexts<R>>,
    transport: TransportRef,
}

impl<R: Runtime> Builds<R> {
    pub(crate) fn new(core: Arc<Core<R>>, contexts: Arc<Contexts<R>>, transport: TransportRef) -> Arc<Self> {
        Arc::new(Self { core, contexts, transport })
    }

    /// Progress has the context's bytes while it is on its way, and then the steps of the Dockerfile.
    pub(crate) async fn build(
        &self,
        engine: &Arc<dyn ContainerEngine>,
        spec: BuildSpec,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let reader = self.context(&spec.context, &on_progress).await?.ok_or(EngineError::ContextGone)?;
        let broken = Arc::new(Mutex::new(None));
        // Held until the end: it may be needed again, and the engine is through with it long before its last step.
        let kept = reader.clone();
        let context = sent::<R>(reader, Arc::clone(&broken));
        let order = BuildOrder {
            tags: spec.tags,
            dockerfile: spec.dockerfile,
            args: spec.args,
            target: spec.target,
            no_cache: spec.no_cache,
            pull: spec.pull,
            credentials: self.core.group.with_state(all_credentials),
        };
        let built = engine.build(&order, context, on_progress).await;
        drop(kept);
        // Counts as used now, however long it took.
        let _ = self.contexts.find(BlobDigest(spec.context.digest)).await;
        match (built, broken.lock().take()) {
            // The engine only saw its connection break.
            (Err(_), Some(why)) => Err(unavailable(why)),
            (built, _) => built,
        }
    }

    /// None if no node has a sound one any more.
    async fn context(
        &self,
        context: &BuildContext,
        on_progress: &OnProgress,
    ) -> Result<Option<BlobReader>, EngineError> {
        match self.contexts.read_checked(BlobDigest(context.digest)).await.map_err(own)? {
            Some(reader) if reader.bytes() == context.bytes => return Ok(Some(reader)),
            _ => {}
        }
        let fetcher = Fetcher { contexts: &self.contexts, transport: &self.transport, on_progress };
        fetcher.get(context, self.sources(context)).await
    }

    /// The node that it was sent to, and all others: whoever has built it has it.
    fn sources(&self, context: &BuildContext) -> Sources {
        let (holder, others) = self.core.group.with_state(|state| {
            let holder = state.membership.get(context.holder).filter(|node| node.standing.is_member());
            let holder = holder.filter(|_| context.holder != self.core.me);
            let others = state.membership.members().map(|node| node.id);
            let others = others.filter(|id| *id != context.holder && *id != self.core.me);
            let named = holder.map(|node| (node.id, node.profile.name.clone()));
            (named, others.collect::<Vec<_>>())
        });
        let (others, away): (Vec<NodeId>, Vec<NodeId>) =
            others.into_iter().partition(|id| self.core.is_alive(*id));
        Sources { holder, others, away: away.len() }
    }
}

/// The bytes as an engine takes them. `broken` gets why they end too early, if they do.
fn sent<R: Runtime>(reader: BlobReader, broken: Arc<Mutex<Option<String>>>) -> ContextBytes {
    Box::pin(stream::try_unfold(0, move |offset| {
        let (reader, broken) = (reader.clone(), Arc::clone(&broken));
        async move {
            if offset >= reader.bytes() {
                return Ok(None);
            }
            let read = R::blocking(move || reader.piece(offset, SENT_BYTES)).await;
            let why = match read {
                Ok(Ok(piece)) if !piece.is_empty() => {
                    let next = offset + piece.len() as u64;
                    return Ok(Some((piece, next)));
                }
                Ok(Ok(_)) => "it has become shorter".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            *broken.lock() = Some(why.clone());
            Err(io::Error::other(why))
        }
    }))
}
