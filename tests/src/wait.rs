//! Waiting for conditions, and measuring how long they took.

use std::time::{Duration, Instant};

/// Between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Time since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Waits until `condition` holds. Panics with `what` when it does not within `timeout`.
#[track_caller]
pub fn eventually(what: &str, timeout: Duration, mut condition: impl FnMut() -> bool) {
    eventually_value(what, timeout, || if condition() { Ok(()) } else { Err("not yet".to_owned()) });
}

/// Waits until `look` gives a value. Panics with `what` and the last reason it gave when it does not within `timeout`.
/// Looks at least once, and once more after the time is up, so that a test that was itself held up is not failed for it.
#[track_caller]
pub fn eventually_value<T>(what: &str, timeout: Duration, mut look: impl FnMut() -> Result<T, String>) -> T {
    let watch = Stopwatch::start();
    loop {
        let last_look = watch.elapsed() >= timeout;
        match look() {
            Ok(value) => return value,
            Err(reason) if last_look => {
                panic!(
                    "waited {:.1} s in vain for: {what}; last seen: {reason}",
                    watch.elapsed().as_secs_f64()
                )
            }
            Err(_) => pause(POLL_INTERVAL),
        }
    }
}

/// Sleeps. For pacing (a load, a measuring interval) only; a test that waits for something uses [`eventually`].
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_again_until_there_is_a_value() {
        let mut looks = 0;
        let value = eventually_value("three looks", Duration::from_secs(5), || {
            looks += 1;
            if looks == 3 { Ok(looks) } else { Err(format!("look {looks}")) }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "in vain for: pigs to fly; last seen: no pig")]
    fn says_what_it_waited_for_and_what_it_saw_last() {
        eventually_value("pigs to fly", Duration::from_millis(30), || Err::<(), _>("no pig".to_owned()));
    }
}
