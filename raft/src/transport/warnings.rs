//! Warnings about others, at most one in a while: whoever misbehaves must not fill the log.

use std::time::Duration;

use openraft_rt::Instant as _;
use parking_lot::Mutex;

use crate::consensus::runtime::Runtime;

/// At most one warning in this time.
const INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Warnings<R: Runtime> {
    /// When the last one was given, and how many were withheld since.
    last: Mutex<(Option<R::Instant>, u32)>,
}

impl<R: Runtime> Default for Warnings<R> {
    fn default() -> Self {
        Self { last: Mutex::new((None, 0)) }
    }
}

impl<R: Runtime> Warnings<R> {
    /// Runs `warn` with the number of warnings that were withheld, unless this one must be, too.
    pub(super) fn give(&self, warn: impl FnOnce(u32)) {
        let mut last = self.last.lock();
        let now = R::Instant::now();
        if last.0.is_some_and(|at| now.saturating_duration_since(at) < INTERVAL) {
            last.1 = last.1.saturating_add(1);
            return;
        }
        let (_, withheld) = std::mem::replace(&mut *last, (Some(now), 0));
        drop(last);
        warn(withheld);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::runtime::TokioRuntime;

    #[test]
    fn one_warning_then_silence() {
        let warnings = Warnings::<TokioRuntime>::default();
        let mut given = Vec::new();
        for _ in 0..5 {
            warnings.give(|withheld| given.push(withheld));
        }
        assert_eq!((given, warnings.last.lock().1), (vec![0], 4));
    }
}
