//! The live view of the ring's changes.
//!
//! Must never: keep anything of the ring alive, or wake up when the ring has settled and nothing happens.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use longshore_raft::Runtime;

use super::Service;
use super::ring::{Look, look};
use crate::api::service::ApiStream;
use crate::api::timer::Stopwatch;
use crate::api::types::*;
use crate::core::Core;
use crate::ring::Replicas;

/// Least time between two items, so that a busy log does not flood a client.
const PAUSE: Duration = Duration::from_millis(200);
/// How often the changes under way are looked at although the record says nothing new: their stages are in the groups' own logs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl<R: Runtime> Service<R> {
    pub(super) async fn ring_progress(
        &self,
        query: RingWatchQuery,
    ) -> Result<ApiStream<RingProgressView>, ApiError> {
        self.linearize_briefly().await;
        let start = RingWatch {
            core: Arc::clone(&self.core),
            replicas: Arc::clone(&self.replicas),
            forever: query.forever,
            seen: 0,
            shown: None,
            copies: Copies::default(),
            started: Stopwatch::start(),
            ended: false,
        };
        Ok(Box::pin(stream::unfold(start, RingWatch::next)))
    }
}

struct RingWatch<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    forever: bool,
    seen: u64,
    shown: Option<RingProgressView>,
    copies: Copies,
    started: Stopwatch<R>,
    ended: bool,
}

impl<R: Runtime> RingWatch<R> {
    async fn next(mut self) -> Option<(Result<RingProgressView, ApiError>, Self)> {
        if self.ended {
            return None;
        }
        if self.shown.is_some() {
            R::sleep(PAUSE).await;
        }
        loop {
            let now = match self.look() {
                Ok(now) => now,
                Err(error) => {
                    self.ended = true;
                    return Some((Err(error), self));
                }
            };
            let settled = now.settled;
            if self.shown.as_ref().is_none_or(|shown| is_news(shown, &now)) {
                self.ended = settled && !self.forever;
                self.shown = Some(now.clone());
                return Some((Ok(now), self));
            }
            if settled {
                self.seen = self.core.group.changed(self.seen).await;
                continue;
            }
            tokio::select! {
                biased;
                version = self.core.group.changed(self.seen) => self.seen = version,
                () = R::sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn look(&mut self) -> Result<RingProgressView, ApiError> {
        let Self { core, replicas, copies, started, .. } = self;
        let elapsed = started.elapsed();
        look(core, replicas, |look: &Look<'_, R>| {
            let figures = look.figures();
            let done = copies.count(figures.target_epoch, figures.to_copy);
            let change = |(group, placement): (_, &_)| {
                let change = look.change(group, placement)?;
                Some(RingChangeView { group: group.to_string(), change })
            };
            Ok(RingProgressView {
                epoch: figures.epoch,
                target_epoch: figures.target_epoch,
                paused: figures.paused,
                settled: look.is_settled(),
                changes: look.ring.placements().filter_map(change).collect(),
                copies_done: done,
                copies_left: figures.to_copy,
                copies_per_s: rate(done, elapsed),
                elapsed_ms: elapsed.as_millis() as u64,
            })
        })
    }
}

/// All but the time.
fn is_news(shown: &RingProgressView, now: &RingProgressView) -> bool {
    let timeless =
        |view: &RingProgressView| RingProgressView { copies_per_s: 0.0, elapsed_ms: 0, ..view.clone() };
    timeless(shown) != timeless(now)
}

fn rate(copies: u32, elapsed: Duration) -> f64 {
    if copies == 0 { 0.0 } else { f64::from(copies) / elapsed.as_secs_f64().max(0.001) }
}

/// Counts the copies that were made. Another target means other copies, not that any was made.
#[derive(Debug, Default)]
struct Copies {
    done: u32,
    /// Target's epoch, and copies left, at the last look.
    last: Option<(u64, u32)>,
}

impl Copies {
    fn count(&mut self, target_epoch: u64, left: u32) -> u32 {
        if let Some((epoch, before)) = self.last.filter(|(epoch, _)| *epoch == target_epoch) {
            debug_assert_eq!(epoch, target_epoch);
            self.done += before.saturating_sub(left);
        }
        self.last = Some((target_epoch, left));
        self.done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_counted_over_changes_of_target() {
        let mut copies = Copies::default();
        let counted: Vec<u32> = [(1, 10), (1, 8), (1, 8), (2, 30), (2, 27), (2, 28), (2, 0)]
            .into_iter()
            .map(|(epoch, left)| copies.count(epoch, left))
            .collect();
        assert_eq!(counted, [0, 2, 2, 2, 5, 5, 33]);
        assert_eq!(rate(0, Duration::ZERO), 0.0);
        assert_eq!(rate(30, Duration::from_secs(10)), 3.0);
    }
}
