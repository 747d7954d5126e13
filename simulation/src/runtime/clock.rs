//! The clocks of one host: a monotonic one that may run fast or slow, and a wall clock that may be off and may step.

use std::time::Duration;

use parking_lot::Mutex;

const MILLION: i128 = 1_000_000;

/// Outlives the processes of its host. Monotonic time never goes back, whatever is done to the clock.
#[derive(Debug)]
pub struct HostClock(Mutex<State>);

#[derive(Debug, Clone, Copy)]
struct State {
    /// Where the present rate began, on the global and on the local clock; nanoseconds.
    since_global: u64,
    since_local: u64,
    drift_ppm: i32,
    /// The wall clock is this far ahead of the truth.
    wall_ahead_ms: i64,
}

/// The wall clock's true time when a run begins: 2027-01-15T08:00:00Z.
pub const EPOCH_UNIX_MS: u64 = 1_800_000_000_000;

impl HostClock {
    /// `drift_ppm` in parts per million, positive for a clock that runs fast; within half of the true rate.
    pub fn new(boot_ns: u64, drift_ppm: i32, wall_ahead_ms: i64) -> Self {
        assert!(
            drift_ppm.abs() <= 500_000,
            "a clock runs at least at half, at most at one and a half of the true rate"
        );
        Self(Mutex::new(State { since_global: 0, since_local: boot_ns, drift_ppm, wall_ahead_ms }))
    }

    /// Monotonic nanoseconds since the host's boot.
    pub fn local_ns(&self, global_ns: u64) -> u64 {
        self.0.lock().local(global_ns)
    }

    /// The wall clock; milliseconds since the Unix epoch.
    pub fn unix_ms(&self, global_ns: u64) -> u64 {
        let state = self.0.lock();
        let since_start_ms = (state.local(global_ns) / 1_000_000) as i64;
        (EPOCH_UNIX_MS as i64 + since_start_ms + state.wall_ahead_ms).max(0) as u64
    }

    /// Global time that passes while `local` passes on this clock, rounded up: rounded down, a timer would fire just too
    /// early, look at its clock, and sleep again for nothing, for ever.
    pub fn to_global(&self, local: Duration) -> Duration {
        let ppm = i128::from(self.0.lock().drift_ppm);
        if ppm == 0 {
            return local;
        }
        let rate = MILLION + ppm;
        let nanos = (local.as_nanos() as i128 * MILLION + rate - 1) / rate;
        Duration::from_nanos(nanos.min(i128::from(u64::MAX)) as u64 + 1)
    }

    /// From now on the clock runs at another rate.
    pub fn set_drift(&self, global_ns: u64, drift_ppm: i32) {
        assert!(drift_ppm.abs() <= 500_000, "see new");
        let mut state = self.0.lock();
        let local = state.local(global_ns);
        *state = State { since_global: global_ns, since_local: local, drift_ppm, ..*state };
    }

    /// Steps the wall clock. The monotonic one does not notice.
    pub fn step_wall(&self, by_ms: i64) {
        self.0.lock().wall_ahead_ms += by_ms;
    }
}

impl State {
    fn local(&self, global_ns: u64) -> u64 {
        let passed = global_ns.saturating_sub(self.since_global);
        let passed_here = match self.drift_ppm {
            0 => passed,
            ppm => (i128::from(passed) * (MILLION + i128::from(ppm)) / MILLION) as u64,
        };
        self.since_local + passed_here
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_timer_is_never_early_and_time_never_goes_back(
            drifts in proptest::collection::vec((-500_000i32..=500_000, 0u64..10_000_000_000), 1..10),
            sleep_ns in 0u64..100_000_000_000,
        ) {
            let clock = HostClock::new(5, 0, 0);
            let (mut global, mut last) = (0u64, 0u64);
            for (ppm, pass) in drifts {
                global += pass;
                clock.set_drift(global, ppm);
                let before = clock.local_ns(global);
                prop_assert!(before >= last);
                let woken = clock.local_ns(global + clock.to_global(Duration::from_nanos(sleep_ns)).as_nanos() as u64);
                prop_assert!(woken >= before + sleep_ns, "{woken} {before} {sleep_ns}");
                last = before;
            }
        }
    }

    #[test]
    fn a_wall_clock_steps() {
        let clock = HostClock::new(0, 0, -3_600_000);
        assert_eq!(clock.unix_ms(0), EPOCH_UNIX_MS - 3_600_000);
        clock.step_wall(3_600_000);
        assert_eq!(clock.unix_ms(5_000_000), EPOCH_UNIX_MS + 5);
    }
}
