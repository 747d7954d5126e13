//! Watches the machine while something is timed: how long a thread oversleeps, and how long a small durable write takes.
//!
//! A machine that stands still for half a second (other work, a disk that flushes somebody else's gigabyte) delays any system.
//! With a canary beside it, a measurement can tell such a moment from a fault of what is measured.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(20);

/// Runs until dropped.
#[derive(Debug)]
pub struct Canary {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    worst_us: AtomicU64,
}

impl Canary {
    /// Writes to a file of its own in `dir`, which must be on the disk that matters.
    pub fn start(dir: &Path) -> Self {
        let shared = Arc::new(Shared::default());
        let file = File::create(dir.join("canary")).expect("the canary's file can be made");
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                while !shared.stop.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    std::thread::sleep(INTERVAL);
                    let overslept = begin.elapsed().saturating_sub(INTERVAL);
                    let written = Instant::now();
                    file.write_all_at(&[7; 4096], 0).expect("the canary can write");
                    file.sync_data().expect("the canary can sync");
                    let worst = overslept.max(written.elapsed());
                    shared.worst_us.fetch_max(worst.as_micros() as u64, Ordering::Relaxed);
                }
            }
        });
        Self { shared, thread: Some(thread) }
    }

    /// The longest that the machine stood still since this was asked last.
    pub fn worst(&self) -> Duration {
        Duration::from_micros(self.shared.worst_us.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Canary {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_sings() {
        let dir = tempfile::tempdir().expect("a folder");
        let canary = Canary::start(dir.path());
        crate::eventually("a first measurement", Duration::from_secs(10), || canary.worst() > Duration::ZERO);
    }
}
