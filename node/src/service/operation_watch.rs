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

/// Least time between two items of a watch, so that a busy log does not flood a client. The last item does not wait.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// Least and most time from a look at this node's replica that was in vain to the next; between them the [`LOOKS_PER_AGE`]th part of the time that has
/// been watched. Whatever is applied in the group ends the wait, and much may be; but who has just asked for something small wants to know at once.
const LOOK_PAUSE: [Duration; 2] = [Duration::from_millis(1), WATCH_PAUSE];
const LOOKS_PER_AGE: u32 = 16;
/// Most time between two reads of an operation whose group this node has no replica of, and of one that did not change.
const WATCH_LOOK: Duration = Duration::from_millis(300);
/// Least time between two such reads; between them a quarter of the time that has been watched.
const ASK_PAUSE: Duration = Duration::from_millis(10);
/// How long a watch waits for a group that cannot be read: an election, and more.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);

/// The operation now and after every change, until it has ended.
pub(super) fn watch<R: Runtime>(
    core: Arc<Core<R>>,
    front: Front<R>,
    id: OperationId,
) -> ApiStream<OperationView> {
    let started = R::Instant::now();
    let start = Watch {
        core,
        front,
        id,
        started,
        seen: 0,
        here: None,
        shown: None,
        next_item: started,
        ended: false,
    };
    Box::pin(stream::unfold(start, Watch::next))
}

struct Watch<R: Runtime> {
    core: Arc<Core<R>>,
    front: Front<R>,
    id: OperationId,
    started: R::Instant,
    seen: u64,
    /// What this node's replica said last. It may be behind what was shown.
    here: Option<model::Operation>,
    shown: Option<model::Operation>,
    /// When something that is not the end may be shown.
    next_item: R::Instant,
    ended: bool,
}

impl<R: Runtime> Watch<R> {
    async fn next(mut self) -> Option<(Result<OperationView, ApiError>, Self)> {
        if self.ended {
            return None;
        }
        let mut give_up = R::Instant::now() + WATCH_PATIENCE;
        if self.shown.is_none() {
            // Before the look: what changes after it is news.
            self.seen = self.front.news(self.id.partition, 0, Duration::ZERO).await;
            self.front.differs_here(self.id, &mut self.here);
        }
        loop {
            // What has ended stays as it is, so that nobody else need be asked.
            let read = match self.here.take_if(|here| here.ended.is_some()) {
                Some(ended) => Ok(Some(ended)),
                None => self.front.followed_operation(self.id).await,
            };
            match read {
                Ok(Some(operation)) => {
                    let now = R::Instant::now();
                    give_up = now + WATCH_PATIENCE;
                    let is_news = self.shown.as_ref() != Some(&operation);
                    if is_news && (operation.ended.is_some() || now >= self.next_item) {
                        let view = self.core.group.with_state(|state| operation_view(state, &operation));
                        self.ended = operation.ended.is_some();
                        self.shown = Some(operation);
                        self.next_item = now + WATCH_PAUSE;
                        return Some((Ok(view), self));
                    }
                    let patience = match is_news {
                        true => self.next_item - now,
                        false => WATCH_LOOK,
                    };
                    drop(R::timeout(patience, self.changed_here()).await);
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

    /// Resolves when this node's replica has something else to say of the operation.
    async fn changed_here(&mut self) {
        loop {
            let age = R::Instant::now() - self.started;
            let patience = (age / 4).clamp(ASK_PAUSE, WATCH_LOOK);
            self.seen = self.front.news(self.id.partition, self.seen, patience).await;
            if self.front.differs_here(self.id, &mut self.here) {
                return;
            }
            R::sleep((age / LOOKS_PER_AGE).clamp(LOOK_PAUSE[0], LOOK_PAUSE[1])).await;
        }
    }
}
