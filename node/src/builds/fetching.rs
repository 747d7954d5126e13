//! Brings a context from another node: from whoever has a sound copy, in pieces, a few of which are on their way at a time.
//!
//! A piece that does not come is asked for again; a node whose copy is damaged is told so, and the next one is asked.
//! Must never: keep bytes that do not have the digest.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use longshore_model::operations::BuildContext;
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};
use longshore_storage::{BlobDigest, BlobError, BlobReader};

use super::calls::{BuildCall, BuildReply, PIECE_BYTES};
use super::contexts::{ContextError, Contexts};
use crate::docker::{EngineError, OnProgress, PullProgress};
use crate::wire;

/// How long a node may take to say whether it has a context, and for a piece of it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const PIECE_PATIENCE: Duration = Duration::from_secs(15);
/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// Pieces that are on their way at a time: enough that the next one is there when this one is written, few enough to be held in memory.
const PIECES_AT_ONCE: usize = 4;
/// How often a piece is asked for, and the pause after the first time, which doubles: 6 s in all, beside what the node takes to answer.
const PIECE_TRIES: u32 = 6;
const PIECE_PAUSE: Duration = Duration::from_millis(200);

/// Which nodes may have a context.
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    /// That it was sent to, and its name; none if that is this node, or has left.
    pub(super) holder: Option<(NodeId, String)>,
    /// That are there, and may have built it.
    pub(super) others: Vec<NodeId>,
    /// How many more there are that are not there just now.
    pub(super) away: usize,
}

/// See the module's docs.
pub(super) struct Fetcher<'a, R: Runtime> {
    pub(super) contexts: &'a Arc<Contexts<R>>,
    pub(super) transport: &'a TransportRef,
    pub(super) on_progress: &'a OnProgress,
}

/// What asking for a context came to.
enum Asked {
    Has,
    Missing,
    /// Why there is no answer.
    Silent(String),
}

/// Why a context was not brought from a node.
enum Failed {
    /// It did not come.
    Broken(String),
    /// It came, and is not what it should be.
    Damaged,
    /// It can not be kept here.
    Here(EngineError),
}

pub(super) fn unavailable(detail: impl Into<String>) -> EngineError {
    EngineError::ContextUnavailable { detail: detail.into() }
}

/// What this node's own disk says.
pub(super) fn own(error: impl Into<ContextError>) -> EngineError {
    match error.into() {
        ContextError::Blob(BlobError::TooLarge { bytes, limit }) => {
            EngineError::ContextTooLarge { bytes, limit }
        }
        ContextError::Blob(error @ BlobError::Full { .. }) => unavailable(format!(
            "this node waits for room: {error}; raise limits.build_contexts here if builds wait for long"
        )),
        ContextError::Blob(error @ BlobError::NoSpace { .. }) => unavailable(format!(
            "this node waits for room: {error}; make some on the disk of its data, or lower limits.disk_floor"
        )),
        error => {
            unavailable(format!("on this node: {error}; see its log, and whether its data folder is its own"))
        }
    }
}

impl<R: Runtime> Fetcher<'_, R> {
    /// None if no node has a sound one any more.
    pub(super) async fn get(
        &self,
        context: &BuildContext,
        sources: Sources,
    ) -> Result<Option<BlobReader>, EngineError> {
        let Sources { holder, others, away } = sources;
        let limit = self.contexts.limits().one_bytes;
        if context.bytes > limit {
            return Err(EngineError::ContextTooLarge { bytes: context.bytes, limit });
        }
        let (mut silent, mut broken, mut unheard) = (None, None, away);
        if let Some((node, name)) = holder {
            match self.ask(context, node).await {
                Asked::Has => match self.fetch(context, node).await {
                    Ok(reader) => return Ok(Some(reader)),
                    Err(Failed::Here(error)) => return Err(error),
                    Err(Failed::Broken(why)) => broken = Some(format!("{name}: {why}")),
                    Err(Failed::Damaged) => {}
                },
                Asked::Missing => {}
                Asked::Silent(why) => {
                    silent = Some(format!(
                        "it is on {name}, which does not answer ({why}); bring it back, or build again"
                    ));
                }
            }
        }
        let asked = others.into_iter().map(|node| async move { (node, self.ask(context, node).await) });
        let mut asked = stream::iter(asked).buffered(ASKED_AT_ONCE);
        while let Some((node, answer)) = asked.next().await {
            match answer {
                Asked::Has => match self.fetch(context, node).await {
                    Ok(reader) => return Ok(Some(reader)),
                    Err(Failed::Here(error)) => return Err(error),
                    Err(Failed::Broken(why)) => broken = Some(format!("{node}: {why}")),
                    Err(Failed::Damaged) => {}
                },
                Asked::Missing => {}
                Asked::Silent(_) => unheard += 1,
            }
        }
        match silent.or(broken) {
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

    async fn fetch(&self, context: &BuildContext, from: NodeId) -> Result<BlobReader, Failed> {
        let digest = BlobDigest(context.digest);
        let here = |error: ContextError| Failed::Here(own(error));
        tracing::debug!(%digest, %from, bytes = context.bytes, "the build context comes from another node");
        let mut upload = self.contexts.fetched(context.bytes).await.map_err(here)?;
        let offsets = (0..context.bytes).step_by(PIECE_BYTES as usize);
        let pieces = offsets.map(|offset| self.piece(context, from, offset));
        let mut pieces = stream::iter(pieces).buffered(PIECES_AT_ONCE);
        let mut current_bytes = 0;
        let mut is_whole = true;
        while let Some(piece) = pieces.next().await {
            let Some(piece) = piece? else {
                is_whole = false;
                break;
            };
            upload.push(&piece).await.map_err(here)?;
            current_bytes += piece.len() as u64;
            let total_bytes = context.bytes;
            (self.on_progress)(PullProgress { current_bytes, total_bytes, ..PullProgress::default() });
        }
        drop(pieces);
        if is_whole && upload.finish(Some(digest)).await.map_err(here)?.is_some() {
            let read = self.contexts.read_checked(digest).await.map_err(|error| Failed::Here(own(error)))?;
            return read.ok_or_else(|| {
                Failed::Here(unavailable(
                    "it came, and is not on this node's disk any more, or damaged there",
                ))
            });
        }
        let call = BuildCall::Doubt { digest: context.digest };
        let doubted = self.call(from, Lane::Control, call, PIECE_PATIENCE).await;
        tracing::warn!(%digest, %from, ?doubted, "a build context came over damaged");
        Err(Failed::Damaged)
    }

    /// None if it is not as long as it should be.
    async fn piece(
        &self,
        context: &BuildContext,
        from: NodeId,
        offset: u64,
    ) -> Result<Option<Vec<u8>>, Failed> {
        let wanted = (context.bytes - offset).min(u64::from(PIECE_BYTES));
        let (mut tries, mut pause) = (1, PIECE_PAUSE);
        loop {
            let call = BuildCall::Piece { digest: context.digest, offset };
            let why = match self.call(from, Lane::Bulk, call, PIECE_PATIENCE).await {
                Ok(BuildReply::Piece(piece)) => return Ok((piece.len() as u64 == wanted).then_some(piece)),
                Ok(BuildReply::Failed(why)) | Err(why) => why,
                Ok(_) => return Err(Failed::Broken("it has been dropped there meanwhile".to_owned())),
            };
            if tries == PIECE_TRIES {
                return Err(Failed::Broken(format!("{why}, {tries} times")));
            }
            tracing::debug!(%from, offset, %why, "a piece of a build context did not come; asking again");
            R::sleep(pause).await;
            (tries, pause) = (tries + 1, pause * 2);
        }
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

#[cfg(test)]
#[path = "fetching_tests.rs"]
mod tests;
