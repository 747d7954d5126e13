//! hyper's timer over the runtime parameter, so that header timeouts follow the runtime's clock.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use parking_lot::Mutex;

/// hyper speaks of `std::time::Instant`s; they are made here from an arbitrary origin plus the runtime's elapsed time.
pub(super) struct RuntimeTimer<R: Runtime> {
    origin: Instant,
    elapsed: Stopwatch<R>,
}

impl<R: Runtime> Clone for RuntimeTimer<R> {
    fn clone(&self) -> Self {
        Self { origin: self.origin, elapsed: self.elapsed }
    }
}

impl<R: Runtime> RuntimeTimer<R> {
    #[expect(clippy::disallowed_methods, reason = "an opaque origin: only differences to it are ever used")]
    pub(super) fn new() -> Self {
        Self { origin: Instant::now(), elapsed: Stopwatch::start() }
    }
}

impl<R: Runtime> hyper::rt::Timer for RuntimeTimer<R> {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(RuntimeSleep::<R>(Mutex::new(Box::pin(R::sleep(duration)))))
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        self.sleep(deadline.saturating_duration_since(self.now()))
    }

    fn now(&self) -> Instant {
        self.origin + self.elapsed.elapsed()
    }
}

/// hyper wants its sleeps `Sync`; a lock that is never contended gives that to any runtime's.
struct RuntimeSleep<R: Runtime>(Mutex<Pin<Box<R::Sleep>>>);

impl<R: Runtime> Future for RuntimeSleep<R> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.get_mut().as_mut().poll(cx)
    }
}

impl<R: Runtime> hyper::rt::Sleep for RuntimeSleep<R> {}

/// Time since it was started, by the runtime's clock.
#[derive(Debug)]
pub(crate) struct Stopwatch<R: Runtime>(R::Instant);

impl<R: Runtime> Clone for Stopwatch<R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: Runtime> Copy for Stopwatch<R> {}

impl<R: Runtime> Stopwatch<R> {
    pub(crate) fn start() -> Self {
        Self(R::Instant::now())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// What `future` gives, or `None` if it takes longer than `limit`. Unlike [`Runtime`]'s own `timeout` it names no type of
/// the future, so that callers borrowing from their surroundings stay `Send`.
pub(crate) async fn within<R: Runtime, F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = std::pin::pin!(future);
    let mut sleep = std::pin::pin!(R::sleep(limit));
    tokio::select! {
        biased;
        output = future.as_mut() => Some(output),
        () = sleep.as_mut() => None,
    }
}
