//! One listing of the engine for all who want one at the same time.
//!
//! Whoever comes before the engine is asked shares the answer. Whoever comes while it is being asked shares the next one: this one may be older than what
//! it has just done itself. So at most one is under way, and one waits, however many want to know. Keeps no answer that nobody waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use parking_lot::Mutex;

use super::Unanswered;
use crate::docker::BoxFuture;

/// What the engine answered, for whoever waited for it.
pub(super) type Answer<T> = Shared<BoxFuture<'static, Result<Arc<Vec<T>>, Unanswered>>>;

#[derive(Debug)]
struct Flight<T> {
    /// The engine is being asked, or was.
    begun: Arc<AtomicBool>,
    answer: WeakShared<BoxFuture<'static, Result<Arc<Vec<T>>, Unanswered>>>,
}

/// See the module's docs. One per kind.
#[derive(Debug)]
pub(super) struct Flights<T> {
    last: Mutex<Option<Flight<T>>>,
}

impl<T> Default for Flights<T> {
    fn default() -> Self {
        Self { last: Mutex::new(None) }
    }
}

impl<T: Send + Sync + 'static> Flights<T> {
    /// An answer that is not older than this moment. `question`: asks the engine; it must end.
    pub(super) fn join(
        &self,
        question: impl FnOnce() -> BoxFuture<'static, Result<Vec<T>, Unanswered>>,
    ) -> Answer<T> {
        let mut last = self.last.lock();
        let before = last.as_ref().and_then(|flight| flight.answer.upgrade());
        if let (Some(flight), Some(answer)) = (&*last, &before)
            && !flight.begun.load(Ordering::Acquire)
        {
            return answer.clone();
        }
        let begun = Arc::new(AtomicBool::new(false));
        let (begins, question) = (Arc::clone(&begun), question());
        let asked: BoxFuture<'static, _> = Box::pin(async move {
            if let Some(before) = before {
                drop(before.await);
            }
            begins.store(true, Ordering::Release);
            question.await.map(Arc::new)
        });
        let answer = asked.shared();
        *last = answer.downgrade().map(|answer| Flight { begun, answer });
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use tokio::sync::Notify;

    use super::*;

    /// An engine that answers when it is told to, with the number of the question.
    #[derive(Default)]
    struct Slow {
        asked: AtomicU32,
        answers: Notify,
    }

    fn question(slow: &Arc<Slow>) -> BoxFuture<'static, Result<Vec<u32>, Unanswered>> {
        let slow = Arc::clone(slow);
        Box::pin(async move {
            let number = slow.asked.fetch_add(1, Ordering::Relaxed) + 1;
            slow.answers.notified().await;
            Ok(vec![number])
        })
    }

    fn is(answer: &mut Answer<u32>) -> Option<u32> {
        answer.now_or_never().map(|answered| answered.unwrap()[0])
    }

    #[test]
    fn whoever_comes_late_shares_the_next_one() {
        let (flights, slow) = (Flights::default(), Arc::new(Slow::default()));
        let join = || flights.join(|| question(&slow));
        let (mut first, mut with_first) = (join(), join());
        assert_eq!((is(&mut first), slow.asked.load(Ordering::Relaxed)), (None, 1));
        let mut late: Vec<Answer<u32>> = (0..100).map(|_| join()).collect();
        assert!(late.iter_mut().all(|answer| is(answer).is_none()));
        assert_eq!(slow.asked.load(Ordering::Relaxed), 1, "one at a time");
        slow.answers.notify_one();
        assert_eq!((is(&mut first), is(&mut with_first)), (Some(1), Some(1)));
        assert!(late.iter_mut().all(|answer| is(answer).is_none()));
        slow.answers.notify_one();
        assert!(late.iter_mut().all(|answer| is(answer) == Some(2)));
        assert_eq!(slow.asked.load(Ordering::Relaxed), 2);
        let mut again = join();
        assert_eq!(is(&mut again), None, "an answer is not kept");
        assert_eq!(slow.asked.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn what_nobody_waits_for_any_more_is_given_up() {
        let (flights, slow) = (Flights::default(), Arc::new(Slow::default()));
        let join = || flights.join(|| question(&slow));
        let mut first = join();
        assert_eq!(is(&mut first), None);
        drop(first);
        let mut second = join();
        assert_eq!(
            (is(&mut second), slow.asked.load(Ordering::Relaxed)),
            (None, 2),
            "it does not wait for it"
        );
    }
}
