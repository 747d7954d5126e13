//! Whether the engine answers: its signs of life, and doubts.
//!
//! An engine that stands still tells of nothing, so that what is known of it looks right for ever. So whoever asks it something and gets no answer in
//! time raises a doubt, and the engine's next answer or event settles it. Knows no rows, and asks nothing of its own accord.

use std::time::Duration;

use longshore_raft::Runtime;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::docker::EngineError;

/// How long an engine may take before it is doubted: for a question about itself or one thing, for all of a kind, and for changing something.
pub(super) const FIND_WITHIN: Duration = Duration::from_millis(2_500);
pub(super) const LIST_WITHIN: Duration = Duration::from_secs(10);
pub(super) const CHANGE_WITHIN: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    is_doubted: bool,
    heard_unix_ms: Option<u64>,
}

/// See the module's docs. One per inventory.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    state: Mutex<State>,
    doubts: Notify,
}

/// What an outcome says of the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    Answers,
    Silent,
    /// It was not asked.
    Nothing,
}

fn sign<T>(outcome: &Result<T, EngineError>) -> Sign {
    match outcome {
        Err(EngineError::Unavailable { .. } | EngineError::Interrupted { .. }) => Sign::Silent,
        Err(
            EngineError::Forbidden { .. }
            | EngineError::Disabled
            | EngineError::Undecided { .. }
            | EngineError::ContextGone
            | EngineError::ContextUnavailable { .. },
        ) => Sign::Nothing,
        Ok(_) | Err(_) => Sign::Answers,
    }
}

impl Pulse {
    /// The engine answered somebody, or told of an event.
    pub(super) fn beat(&self, now_unix_ms: u64) {
        *self.state.lock() = State { is_doubted: false, heard_unix_ms: Some(now_unix_ms) };
    }

    /// It did not answer somebody.
    pub(super) fn doubt(&self) {
        self.state.lock().is_doubted = true;
        self.doubts.notify_waiters();
    }

    pub(super) fn is_doubted(&self) -> bool {
        self.state.lock().is_doubted
    }

    /// Until when, in milliseconds since 1970, what is known of the engine was so: now, or when a doubted one was heard last.
    pub(super) fn sure_until(&self, now_unix_ms: u64) -> u64 {
        let state = self.state.lock();
        match state.heard_unix_ms {
            Some(heard) if state.is_doubted => heard.min(now_unix_ms),
            _ => now_unix_ms,
        }
    }

    /// Resolves when the engine is doubted.
    pub(super) async fn doubted(&self) {
        loop {
            let mut doubts = std::pin::pin!(self.doubts.notified());
            doubts.as_mut().enable();
            if self.is_doubted() {
                return;
            }
            doubts.await;
        }
    }

    /// A call to the engine, with what its outcome says of the engine. `within`: how long it may take before the engine is doubted; the call goes on.
    pub(super) async fn sense<R: Runtime, T: Send>(
        &self,
        within: Option<Duration>,
        on_doubt: impl Fn() + Send,
        call: impl Future<Output = Result<T, EngineError>> + Send,
    ) -> Result<T, EngineError> {
        let mut call = std::pin::pin!(call);
        let outcome = match within {
            None => call.await,
            Some(within) => match R::timeout(within, call.as_mut()).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.doubt();
                    on_doubt();
                    call.await
                }
            },
        };
        match sign(&outcome) {
            Sign::Answers => self.beat(R::unix_time_ms()),
            Sign::Silent => {
                self.doubt();
                on_doubt();
            }
            Sign::Nothing => {}
        }
        outcome
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;
    use longshore_raft::consensus::runtime::TokioRuntime;
    use tokio::time::advance;

    use super::*;

    fn refused() -> EngineError {
        EngineError::Refused { detail: "no".to_owned() }
    }

    fn away() -> EngineError {
        EngineError::Unavailable { endpoint: "fake".to_owned(), detail: "nothing listens".to_owned() }
    }

    #[test]
    fn a_doubt_lasts_until_the_engine_is_heard() {
        let pulse = Pulse::default();
        assert_eq!((pulse.is_doubted(), pulse.sure_until(7)), (false, 7));
        pulse.beat(10);
        assert_eq!(pulse.sure_until(20), 20);
        let mut waits = std::pin::pin!(pulse.doubted());
        assert_eq!(waits.as_mut().now_or_never(), None);
        pulse.doubt();
        assert_eq!(waits.now_or_never(), Some(()));
        assert_eq!((pulse.is_doubted(), pulse.sure_until(20), pulse.sure_until(5)), (true, 10, 5));
        pulse.beat(30);
        assert_eq!((pulse.is_doubted(), pulse.sure_until(40)), (false, 40));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_tell_whether_the_engine_answers() {
        let pulse = Pulse::default();
        let sense = |outcome: Result<(), EngineError>| {
            pulse.sense::<TokioRuntime, _>(None, || {}, async { outcome }).now_or_never().unwrap().err()
        };
        for (outcome, is_doubted) in [
            (Err(away()), true),
            (Err(EngineError::Disabled), true),
            (Err(refused()), false),
            (Err(EngineError::Disabled), false),
            (Err(away()), true),
            (Ok(()), false),
        ] {
            sense(outcome);
            assert_eq!(pulse.is_doubted(), is_doubted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_waits_too_long_doubts_and_goes_on_waiting() {
        let pulse = Pulse::default();
        let (answer, answered) = tokio::sync::oneshot::channel::<u32>();
        let call = async { Ok(answered.await.expect("it is sent")) };
        let mut call =
            std::pin::pin!(pulse.sense::<TokioRuntime, _>(Some(Duration::from_secs(2)), || {}, call));
        assert!(call.as_mut().now_or_never().is_none());
        advance(Duration::from_millis(1_999)).await;
        assert!(call.as_mut().now_or_never().is_none() && !pulse.is_doubted());
        advance(Duration::from_millis(2)).await;
        assert!(call.as_mut().now_or_never().is_none() && pulse.is_doubted());
        answer.send(7).unwrap();
        assert_eq!(call.now_or_never().unwrap().unwrap(), 7);
        assert!(!pulse.is_doubted());
    }
}
