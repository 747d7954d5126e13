//! News of commits: what a leader has to tell followers that lack no entry.
//!
//! openraft sends a message of its own for every commit that no entry carries. Where many groups take few entries each that is as many
//! messages again as the entries take, so a pipeline (`network.rs`) keeps news for a moment, in which the next entries mostly come.
//! Whoever needs a commit sooner says so here. Nothing rests on when news arrive; heartbeats carry them too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

#[derive(Debug)]
pub(crate) struct News {
    /// How long news may wait; zero: not at all.
    hold: Duration,
    /// Followers need to hear of commits up to this index at once.
    wanted: AtomicU64,
    asked: Notify,
}

impl News {
    pub(crate) fn new(hold: Duration) -> Self {
        Self { hold, wanted: AtomicU64::new(0), asked: Notify::new() }
    }

    /// How long news of this commit may wait, if they may.
    pub(crate) fn hold(&self, commit: u64) -> Option<Duration> {
        (!self.hold.is_zero() && commit > self.wanted.load(Ordering::Acquire)).then_some(self.hold)
    }

    /// A follower waits for this commit.
    pub(crate) fn want(&self, commit: u64) {
        if self.wanted.fetch_max(commit, Ordering::AcqRel) < commit {
            self.asked.notify_waiters();
        }
    }

    /// Resolves once news of this commit may not wait.
    pub(crate) async fn until_wanted(&self, commit: u64) {
        loop {
            // Registered before the check, so that a call in between is not missed.
            let mut asked = std::pin::pin!(self.asked.notified());
            asked.as_mut().enable();
            if self.wanted.load(Ordering::Acquire) >= commit {
                return;
            }
            asked.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn news_wait_until_somebody_wants_them() {
        let news = News::new(Duration::from_millis(20));
        assert_eq!(news.hold(5), Some(Duration::from_millis(20)));
        let mut waits = Box::pin(news.until_wanted(5));
        news.want(4);
        assert!(waits.as_mut().now_or_never().is_none());
        news.want(7);
        assert!(waits.now_or_never().is_some());
        news.want(6);
        assert_eq!((news.hold(7), news.hold(8)), (None, Some(Duration::from_millis(20))));
        assert_eq!(News::new(Duration::ZERO).hold(1), None);
    }
}
