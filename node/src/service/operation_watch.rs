//! The live view of one operation, from any node.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use longshore_model::operations::{self as model, OperationId};
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;

use super::operations::operation_error;
use super::views::operation_view;
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::core::Core;
use crate::ring::Front;

/// Least time between two items of a watch, so that a busy log does not flood a client.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// How often a watch looks at an operation whose group this node has no replica of.
const WATCH_LOOK: Duration = Duration::from_millis(300);
/// How long a watch waits for a group that cannot be read: an election, and more.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);

/// The operation now and after every change, until it has ended.
pub(super) fn watch<R: Runtime>(
    core: Arc<Core<R>>,
    front: Front<R>,
    id: OperationId,
) -> ApiStream<OperationView> {
    let start = Watch { core, front, id, seen: 0, shown: None, ended: false };
    Box::pin(stream::unfold(start, Watch::next))
}

struct Watch<R: Runtime> {
    core: Arc<Core<R>>,
    front: Front<R>,
    id: OperationId,
    seen: u64,
    shown: Option<model::Operation>,
    ended: bool,
}

impl<R: Runtime> Watch<R> {
    async fn next(mut self) -> Option<(Result<OperationView, ApiError>, Self)> {
        if self.ended {
            return None;
        }
        let mut give_up = R::Instant::now() + WATCH_PATIENCE;
        loop {
            match self.front.operation(self.id).await {
                Ok(Some(operation)) if self.shown.as_ref() != Some(&operation) => {
                    let view = self.core.group.with_state(|state| operation_view(state, &operation));
                    self.ended = operation.ended.is_some();
                    if self.shown.replace(operation).is_some() {
                        R::sleep(WATCH_PAUSE).await;
                    }
                    return Some((Ok(view), self));
                }
                Ok(Some(_)) => {
                    give_up = R::Instant::now() + WATCH_PATIENCE;
                    // Whatever is applied in the group ends the wait, and much may be.
                    R::sleep(WATCH_PAUSE).await;
                    self.seen = self.front.news(self.id.partition, self.seen, WATCH_LOOK).await;
                }
                Ok(None) => {
                    self.ended = true;
                    let message = format!("operation {} is no longer on record", self.id);
                    return Some((Err(ApiError::new(ErrorCode::NotFound, message)), self));
                }
                Err(error) if R::Instant::now() >= give_up => {
                    self.ended = true;
                    return Some((Err(operation_error(error)), self));
                }
                Err(_) => R::sleep(WATCH_LOOK).await,
            }
        }
    }
}
