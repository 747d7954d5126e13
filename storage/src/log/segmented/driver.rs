//! Threads that drive a committer and its maintenance in a real process. Owns the only clock and threads of the log.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::committer::{Committer, Step};
use super::config::MonotonicMs;
use super::handle::SegmentedLog;
use super::maintenance::{Maintenance, Upkeep};
use super::pace::{FULL_PAUSE, QUIET, UPKEEP_INTERVAL, UPKEEP_PAUSE};

/// How long the committer looks for more before it sleeps. A writer that waits for its callback and then writes again takes
/// less; waking a thread takes as long.
const SPIN: Duration = Duration::from_micros(40);

/// A clock for [`super::LogConfig`]: milliseconds since it was made.
#[expect(clippy::disallowed_methods, reason = "this is where the real clock comes in")]
pub fn monotonic_clock() -> MonotonicMs {
    let start = Instant::now();
    Arc::new(move || start.elapsed().as_millis() as u64)
}

/// The threads of one log. Dropping it closes the log and waits for them.
#[derive(Debug)]
pub struct CommitterThreads {
    log: SegmentedLog,
    threads: Vec<JoinHandle<()>>,
}

impl CommitterThreads {
    /// Closes the log: makes durable what was taken, makes all callbacks, ends the threads.
    pub fn close(self) {
        drop(self);
    }
}

impl Drop for CommitterThreads {
    fn drop(&mut self) {
        self.log.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the log panicked");
            }
        }
    }
}

/// Drives the committer and its maintenance on a thread each.
pub fn spawn_committer(committer: Committer) -> io::Result<CommitterThreads> {
    let maintenance = committer.maintenance();
    let mut driver = CommitterThreads { log: committer.log(), threads: Vec::new() };
    let spawn = |name: &str, body: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.to_owned()).spawn(body)
    };
    driver.threads.push(spawn("log-commit", Box::new(move || drive_committer(committer)))?);
    driver.threads.push(spawn("log-upkeep", Box::new(move || drive_maintenance(&maintenance)))?);
    Ok(driver)
}

fn drive_committer(mut committer: Committer) {
    loop {
        match committer.step() {
            Step::Wrote { .. } | Step::Prepared => {}
            Step::Synced { .. } => spin(&mut committer),
            Step::Idle => {
                if !committer.wait(Some(QUIET)) {
                    committer.mark();
                    committer.wait(None);
                }
            }
            // Whoever closes the log does not wait for room.
            Step::Stalled if committer.is_closing() => return,
            #[expect(clippy::disallowed_methods, reason = "nothing will tell when there is room again")]
            Step::Stalled => std::thread::sleep(FULL_PAUSE),
            Step::Stopped => return,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a spin is bounded by real time")]
fn spin(committer: &mut Committer) {
    let start = Instant::now();
    while !committer.has_work() && start.elapsed() < SPIN {
        std::hint::spin_loop();
    }
}

fn drive_maintenance(maintenance: &Maintenance) {
    loop {
        let pause = match maintenance.step() {
            Upkeep::Stopped => return,
            // The committer is waiting: no pause.
            Upkeep::Worked if maintenance.is_behind() => continue,
            Upkeep::Worked => UPKEEP_PAUSE,
            Upkeep::Full => FULL_PAUSE,
            Upkeep::Idle => {
                maintenance.wait(UPKEEP_INTERVAL);
                continue;
            }
        };
        #[expect(clippy::disallowed_methods, reason = "a pause that leaves the disk to the commits")]
        std::thread::sleep(pause);
    }
}
