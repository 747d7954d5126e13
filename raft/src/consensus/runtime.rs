//! The runtime parameter: spawn, sleep, now, wall clock and entropy, real or simulated.

use std::io;

pub use openraft_rt::{AsyncRuntime, Instant};
pub use openraft_rt_tokio::TokioRuntime;

/// Everything that code above the ports may know of time and chance. The supertrait gives `spawn`, `sleep`,
/// `timeout`, `Instant` and `spawn_blocking`; both come from the same object so that a simulation controls all of it.
pub trait Runtime: AsyncRuntime {
    /// Wall clock, milliseconds since the Unix epoch. Only for what people see and for certificates: it rules no state machine.
    fn unix_time_ms() -> u64;
    /// Fills `buf` with random bytes fit for keys.
    fn entropy(buf: &mut [u8]);
    /// Runs `work`, which may block, off the runtime's threads. Like `spawn_blocking`, but from a pool where there is one.
    fn blocking<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> impl Future<Output = io::Result<T>> + Send {
        Self::spawn_blocking(work)
    }
}

impl Runtime for TokioRuntime {
    #[expect(clippy::disallowed_methods, reason = "this is the port's real implementation")]
    fn unix_time_ms() -> u64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |d| d.as_millis() as u64)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the port's real implementation")]
    fn entropy(buf: &mut [u8]) {
        // No randomness means no keys: there is nothing sensible to go on with.
        getrandom::fill(buf).expect("the operating system gives random bytes");
    }

    /// openraft's `spawn_blocking` makes a thread each time, and lets paused time run on meanwhile.
    #[expect(clippy::disallowed_methods, reason = "this is the port's real implementation")]
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
    }
}
