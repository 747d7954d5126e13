//! When this node says how it is. Pure.

use std::time::Duration;

use longshore_model::operations::load::{Load, is_news};

/// The least between two reports, whatever happens.
pub(super) const LEAST: Duration = Duration::from_secs(2);
/// The most between two reports, if nothing happens: whoever missed some hears of it then.
pub(super) const MOST: Duration = Duration::from_secs(10);
/// A report that is older says nothing any more: two were missed, and the third is late.
pub(super) const KEPT: Duration = Duration::from_secs(30);

/// What a report says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) load: Load,
    /// Which images are there, by a hash of them all.
    pub(super) images: u64,
}

/// How long the next report has to wait; zero: it is due. `said`: the last one, and how long ago. `is_somebody_new`: a node that is there now was not
/// told that one.
pub(super) fn wait(said: Option<(&Report, Duration)>, now: &Report, is_somebody_new: bool) -> Duration {
    let Some((said, ago)) = said else { return Duration::ZERO };
    let is_news = is_somebody_new || said.images != now.images || is_news(&said.load, &now.load);
    (if is_news { LEAST } else { MOST }).saturating_sub(ago)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(running: u32, images: u64) -> Report {
        let load = Load {
            cpu_busy: 100,
            memory_bytes: 8 << 30,
            memory_free_bytes: 4 << 30,
            disk_bytes: 1 << 40,
            disk_free_bytes: 1 << 39,
            running,
            engine_ms: None,
        };
        Report { load, images }
    }

    #[test]
    fn news_wait_two_seconds_and_the_rest_ten() {
        let (quiet, busy, pulled) = (report(0, 1), report(1, 1), report(0, 2));
        let s = Duration::from_secs;
        assert_eq!(wait(None, &quiet, false), s(0));
        let cases = [
            (&quiet, false, 0, 10),
            (&quiet, false, 9, 1),
            (&quiet, false, 10, 0),
            (&quiet, true, 0, 2),
            (&busy, false, 0, 2),
            (&busy, false, 1, 1),
            (&busy, false, 2, 0),
            (&pulled, false, 1, 1),
            (&pulled, false, 60, 0),
        ];
        for (now, is_somebody_new, ago, waits) in cases {
            assert_eq!(wait(Some((&quiet, s(ago))), now, is_somebody_new), s(waits), "{now:?} {ago}");
        }
    }

    /// Whatever a host does: of ten minutes there is a report at least every ten seconds, and never two within two.
    #[test]
    fn reports_are_neither_many_nor_few() {
        let step = Duration::from_millis(250);
        let (mut said, mut times): (Option<(Report, Duration)>, Vec<Duration>) = (None, Vec::new());
        for tick in 0..2_400u32 {
            let now = step * tick;
            // Restless in every other minute.
            let report = report(if (tick / 240) % 2 == 0 { tick % 7 } else { 0 }, 1);
            if wait(said.as_ref().map(|(report, at)| (report, now - *at)), &report, false).is_zero() {
                said = Some((report, now));
                times.push(now);
            }
        }
        let gaps: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().all(|gap| (LEAST..=MOST).contains(gap)), "{gaps:?}");
        assert!(gaps.contains(&LEAST) && gaps.contains(&MOST), "{gaps:?}");
    }
}
