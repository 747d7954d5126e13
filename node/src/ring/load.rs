//! How much there is to do in a group, as its leader sees it. Pure; what is done about it is decided elsewhere.

use std::time::Duration;

/// Commands a second by which a group's load must have changed to be worth saying: it is an entry in the control group's log.
const NEWS_MIN: u64 = 50;
/// Share of what was said before, by which it must have changed too.
const NEWS_SHARE: u64 = 2;
/// Time in which what was measured before loses most of its weight.
const MEMORY: Duration = Duration::from_secs(5);

/// Measures commands a second. Not entries: a busy group has many commands in each.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Gauge {
    applied: u64,
    per_second: f64,
}

impl Gauge {
    /// Begins at this count with what the leader before measured, so that a group does not look idle because it changed hands.
    pub(super) fn new(applied: u64, said: u64) -> Self {
        Self { applied, per_second: said as f64 }
    }

    /// Commands applied so far, so long after the count before.
    pub(super) fn see(&mut self, applied: u64, after: Duration) {
        let after_s = after.as_secs_f64().max(0.001);
        let measured = applied.saturating_sub(self.applied) as f64 / after_s;
        let weight = (after_s / MEMORY.as_secs_f64()).min(1.0);
        self.per_second += (measured - self.per_second) * weight;
        self.applied = applied;
    }

    pub(super) fn per_second(&self) -> u64 {
        self.per_second.round() as u64
    }
}

/// Whether a load is another than the one that was said.
pub(super) fn is_news(said: u64, now: u64) -> bool {
    let change = said.abs_diff(now);
    change >= NEWS_MIN && change >= said / NEWS_SHARE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_load_is_measured_and_forgotten() {
        let mut gauge = Gauge::new(1_000, 0);
        let second = Duration::from_secs(1);
        for i in 1..=30 {
            gauge.see(1_000 + i * 400, second);
        }
        assert!((395..=400).contains(&gauge.per_second()), "{gauge:?}");
        gauge.see(13_000, second);
        assert!((300..=330).contains(&gauge.per_second()), "one quiet second is not rest: {gauge:?}");
        (0..40).for_each(|_| gauge.see(13_000, second));
        assert_eq!(gauge.per_second(), 0);
        gauge.see(5_000, second);
        assert_eq!(gauge.per_second(), 0, "a replica that was made anew begins below");
        assert_eq!(Gauge::new(5_000, 120).per_second(), 120);
        gauge.see(5_100, Duration::ZERO);
        assert!(gauge.per_second.is_finite());
    }

    #[test]
    fn only_a_great_change_is_news() {
        let cases = [
            (0, 49, false),
            (0, 50, true),
            (100, 149, false),
            (100, 150, true),
            (100, 50, true),
            (100, 51, false),
        ];
        for (said, now, news) in
            cases.into_iter().chain([(1_000, 1_499, false), (1_000, 499, true), (60, 0, true)])
        {
            assert_eq!(is_news(said, now), news, "{said} {now}");
        }
    }
}
