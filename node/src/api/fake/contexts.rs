//! The scripted fleet's build contexts: digests and sizes of what was sent.

use futures_util::StreamExt;

use super::FakeFleet;
use crate::api::service::{ApiFuture, ApiStream, BuildService};
use crate::api::types::*;

/// Most bytes of one.
pub(crate) const CONTEXT_MAX_BYTES: u64 = 1 << 20;

impl BuildService for FakeFleet {
    fn list_contexts(&self) -> ApiFuture<'_, ContextList> {
        Box::pin(async {
            self.enter("list_contexts", "").await?;
            let contexts = self.state.lock().contexts.clone();
            Ok(ContextList {
                contexts,
                context_max_bytes: CONTEXT_MAX_BYTES,
                kept_max_bytes: 4 * CONTEXT_MAX_BYTES,
            })
        })
    }

    fn find_context(&self, digest: String) -> ApiFuture<'_, ContextView> {
        Box::pin(async move {
            self.enter("find_context", &digest).await?;
            let state = self.state.lock();
            let found = state.contexts.iter().find(|context| context.digest == digest).cloned();
            found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, "there is no such context"))
        })
    }

    fn take_context(
        &self,
        announced: Option<u64>,
        mut pieces: ApiStream<bytes::Bytes>,
    ) -> ApiFuture<'_, ContextView> {
        Box::pin(async move {
            self.enter("take_context", &format!("{announced:?}")).await?;
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.next().await {
                bytes.extend_from_slice(&piece?);
            }
            let digest = blake3::hash(&bytes).to_hex().to_string();
            let view = ContextView { digest, bytes: bytes.len() as u64 };
            self.state.lock().contexts.push(view.clone());
            Ok(view)
        })
    }
}
