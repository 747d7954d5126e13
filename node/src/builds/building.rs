//! An attempt to build: the context from this node, or from another that has it, and then the engine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use longshore_model::operations::{BuildContext, BuildSpec};
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};
use longshore_storage::{BlobDigest, BlobError, BlobReader};
use parking_lot::Mutex;

use super::calls::{BuildCall, BuildReply};
use super::contexts::Contexts;
use crate::core::Core;
use crate::credentials::all_credentials;
use crate::docker::{
    BuildOrder, ContainerEngine, ContextBytes, EngineError, LocalImage, OnProgress, PullProgress,
};
use crate::wire;

/// How long a node may take to say whether it has a context, and for a piece of it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const PIECE_PATIENCE: Duration = Duration::from_secs(15);
/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// Bytes that go to the engine at a time.
const SENT_BYTES: usize = 256 << 10;

/// See the module's docs. One per node.
pub(crate) struct Builds<R: Runtime> {
    core: Arc<Core<R>>,
    contexts: Arc<Contexts<R>>,
    transport: TransportRef,
}

/// What asking for a context came to.
enum Asked {
    Has,
    Missing,
    /// Why there is no answer.
    Silent(String),
}

fn unavailable(detail: impl Into<String>) -> EngineError {
    EngineError::ContextUnavailable { detail: detail.into() }
}

/// What this node's own disk says.
fn own(error: BlobError) -> EngineError {
    match error {
        BlobError::TooLarge { limit } => EngineError::Refused {
            detail: format!(
                "this node takes build contexts of {limit} bytes at most: see limits.build_context"
            ),
        },
        BlobError::Full { .. } | BlobError::Io { .. } => unavailable(format!("on this node: {error}")),
    }
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
        let reader = match self.context(&spec.context, &on_progress).await {
            Some(reader) => reader?,
            None => return Err(EngineError::ContextGone),
        };
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

    /// None if no node has it any more.
    async fn context(
        &self,
        context: &BuildContext,
        on_progress: &OnProgress,
    ) -> Option<Result<BlobReader, EngineError>> {
        let digest = BlobDigest(context.digest);
        match self.contexts.read_checked(digest).await {
            Ok(Some(reader)) => return Some(Ok(reader)),
            Ok(None) => {}
            Err(error) => return Some(Err(own(error))),
        }
        let from = match self.who_has(context).await {
            Ok(Some(node)) => node,
            Ok(None) => return None,
            Err(error) => return Some(Err(error)),
        };
        tracing::debug!(%digest, %from, bytes = context.bytes, "the build context comes from another node");
        if let Err(error) = self.fetch(context, from, on_progress).await {
            return Some(Err(error));
        }
        self.contexts.read_checked(digest).await.map_err(own).transpose()
    }

    /// The node that it was sent to first, then all others: whoever has built it has it.
    async fn who_has(&self, context: &BuildContext) -> Result<Option<NodeId>, EngineError> {
        let (name, others) = self.core.group.with_state(|state| {
            let holder = state.membership.get(context.holder).filter(|node| node.standing.is_member());
            let others = state.membership.members().map(|node| node.id);
            let others = others.filter(|id| *id != context.holder && *id != self.core.me);
            (holder.map(|node| node.profile.name.clone()), others.collect::<Vec<_>>())
        });
        let mut silent = None;
        if let Some(name) = name
            && context.holder != self.core.me
        {
            match self.ask(context, context.holder).await {
                Asked::Has => return Ok(Some(context.holder)),
                Asked::Missing => {}
                Asked::Silent(why) => {
                    silent = Some(format!(
                        "it is on {name}, which does not answer ({why}); bring it back, or build again"
                    ));
                }
            }
        }
        let (others, away): (Vec<NodeId>, Vec<NodeId>) =
            others.into_iter().partition(|id| self.core.is_alive(*id));
        let mut unheard = away.len();
        let asked = others.into_iter().map(|node| async move { (node, self.ask(context, node).await) });
        let mut asked = stream::iter(asked).buffered(ASKED_AT_ONCE);
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Asked::Has => return Ok(Some(node)),
                Asked::Missing => {}
                Asked::Silent(_) => unheard += 1,
            }
        }
        match silent {
            Some(why) => Err(unavailable(why)),
            None if unheard > 0 => Err(unavailable(format!(
                "{unheard} nodes that may have it do not answer; build again if they are gone"
            ))),
            None => Ok(None),
        }
    }

    async fn ask(&self, context: &BuildContext, node: NodeId) -> Asked {
        let call = BuildCall::Has { digest: context.digest };
        match self.call(node, Lane::Control, call, ANSWER_PATIENCE).await {
            Ok(BuildReply::Has { bytes }) if bytes == context.bytes => Asked::Has,
            Ok(BuildReply::Failed(why)) | Err(why) => Asked::Silent(why),
            Ok(_) => Asked::Missing,
        }
    }

    async fn fetch(
        &self,
        context: &BuildContext,
        from: NodeId,
        on_progress: &OnProgress,
    ) -> Result<(), EngineError> {
        let digest = BlobDigest(context.digest);
        let mut upload = self.contexts.begin().await.map_err(own)?;
        let mut offset = 0;
        while offset < context.bytes {
            let call = BuildCall::Piece { digest: context.digest, offset };
            let piece = match self.call(from, Lane::Bulk, call, PIECE_PATIENCE).await {
                Ok(BuildReply::Piece(piece)) if !piece.is_empty() => piece,
                Ok(BuildReply::Failed(why)) | Err(why) => return Err(unavailable(format!("{from}: {why}"))),
                Ok(_) => return Err(unavailable(format!("{from} has dropped it meanwhile"))),
            };
            upload.push(&piece).await.map_err(own)?;
            offset += piece.len() as u64;
            on_progress(PullProgress {
                current_bytes: offset.min(context.bytes),
                total_bytes: context.bytes,
                ..PullProgress::default()
            });
        }
        if upload.finish(Some(digest)).await.map_err(own)?.is_some() {
            return Ok(());
        }
        let call = BuildCall::Doubt { digest: context.digest };
        let doubted = self.call(from, Lane::Control, call, PIECE_PATIENCE).await;
        tracing::warn!(%digest, %from, ?doubted, "a build context came over damaged");
        Err(unavailable(format!("what {from} sent does not have its digest")))
    }

    async fn call(
        &self,
        node: NodeId,
        lane: Lane,
        call: BuildCall,
        patience: Duration,
    ) -> Result<BuildReply, String> {
        let sent = self.transport.request(node, lane, wire::encode(&call), patience).await;
        sent.map_err(|error| error.to_string()).and_then(|body| wire::decode_reply(&body))
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
