//! A circuit breaker before this node's engine: when it fails as a whole, work waits for it instead of failing with it.
//!
//! Closed, until several attempts in a row have met an engine that is not there; then open for a while, in which nothing is begun; then the engine is
//! asked whether it is there (half open): a question that is answered at once, where an attempt may take hours. Source: M. Nygard, Release It!, "Circuit Breaker". Must never: count a failure that is the request's own.

use std::time::Duration;

/// Attempts in a row that met no engine before the breaker opens.
const FAILURES_MAX: u32 = 3;
/// How long it is open the first time; doubled each time that the trial fails, up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// See the module's docs. `I`: a moment.
#[derive(Debug, Clone)]
pub(super) struct Breaker<I> {
    failures: u32,
    /// Open until then, and for how long the next time.
    open: Option<(I, Duration)>,
    /// Somebody tries it.
    trial: bool,
}

/// Whether attempts may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gate<I> {
    Open,
    /// The engine is to be asked whether it is there; [`Breaker::begin_trial`] says that it is.
    Trial,
    /// None before this moment; with none, while the trial is under way.
    Closed(Option<I>),
}

impl<I: Copy + PartialOrd + std::ops::Add<Duration, Output = I>> Breaker<I> {
    pub(super) fn new() -> Self {
        Self { failures: 0, open: None, trial: false }
    }

    pub(super) fn gate(&self, now: I) -> Gate<I> {
        match self.open {
            None => Gate::Open,
            Some(_) if self.trial => Gate::Closed(None),
            Some((until, _)) if now < until => Gate::Closed(Some(until)),
            Some(_) => Gate::Trial,
        }
    }

    pub(super) fn begin_trial(&mut self) {
        self.trial = true;
    }

    /// The trial met an engine that is not there.
    pub(super) fn trial_failed(&mut self, now: I) {
        if let Some((_, pause)) = self.open {
            let pause = (pause * 2).min(PAUSE_MAX);
            self.open = Some((now + pause, pause));
        }
        self.trial = false;
    }

    /// An attempt met an engine that is not there. One that was begun before it opened changes nothing.
    pub(super) fn failed(&mut self, now: I) {
        self.failures = self.failures.saturating_add(1);
        if self.open.is_none() && self.failures >= FAILURES_MAX {
            self.open = Some((now + PAUSE, PAUSE));
        }
    }

    /// An attempt met an engine that answers, whatever it said.
    pub(super) fn answered(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Duration {
        Duration::from_secs(s)
    }

    #[test]
    fn it_opens_after_failures_in_a_row_and_tries_once_after_each_pause() {
        let mut breaker = Breaker::new();
        breaker.failed(at(0));
        breaker.failed(at(0));
        breaker.answered();
        breaker.failed(at(0));
        breaker.failed(at(0));
        assert_eq!(breaker.gate(at(0)), Gate::Open, "not three in a row");
        breaker.failed(at(0));
        let mut now = 0;
        for pause in [1, 2, 4, 8, 10, 10] {
            assert_eq!(breaker.gate(at(now)), Gate::Closed(Some(at(now + pause))), "{pause}");
            // Those that were under way before change nothing.
            breaker.failed(at(now));
            now += pause;
            assert_eq!(breaker.gate(at(now)), Gate::Trial);
            breaker.begin_trial();
            breaker.failed(at(now));
            assert_eq!(breaker.gate(at(now)), Gate::Closed(None), "one at a time");
            breaker.trial_failed(at(now));
        }
        assert_eq!(breaker.gate(at(now + 10)), Gate::Trial);
        breaker.begin_trial();
        breaker.answered();
        assert_eq!(breaker.gate(at(now + 10)), Gate::Open);
    }
}
