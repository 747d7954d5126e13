//! The simulated runtime: tokio on one thread under paused time, with a context per process.
//!
//! `tokio`'s clock is the *global* clock of a run; it jumps to the next timer when nothing can run. What a node sees
//! of time is its host's clock. tokio's own watch channel and unbiased `select!` draw on tokio's own random numbers and are
//! not used: openraft gets `SimWatch`. One run per process and thread: the random numbers of tokio's scheduler are not seeded.

mod clock;
mod context;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use longshore_raft::Runtime;
use openraft_rt::{AsyncRuntime, OptionalSend};
use openraft_rt_tokio::TokioRuntime;
use rand::SeedableRng;
use rand::rngs::SmallRng;

pub use self::clock::{EPOCH_UNIX_MS, HostClock};
pub use self::context::{Context, InContext, current, with_current};

thread_local! {
    /// tokio's time at the beginning of the run.
    static BEGIN: Cell<Option<tokio::time::Instant>> = const { Cell::new(None) };
    /// Nanoseconds since then. Paused time moves only while the runtime's thread is parked, so it is read once after each time.
    static NOW_NS: Cell<u64> = const { Cell::new(0) };
}

/// Virtual nanoseconds since the run began, by the true clock.
pub fn global_ns() -> u64 {
    debug_assert_eq!(NOW_NS.get(), read_ns(), "time stands still while something runs");
    NOW_NS.get()
}

fn read_ns() -> u64 {
    let begin = BEGIN.get().expect("time is asked for within a run");
    now().duration_since(begin).as_nanos() as u64
}

/// tokio's name for a moment of global time; for timers that are reset rather than made anew.
pub fn instant_at(global_ns: u64) -> tokio::time::Instant {
    BEGIN.get().expect("time is asked for within a run") + Duration::from_nanos(global_ns)
}

#[expect(clippy::disallowed_methods, reason = "this is the port's implementation: paused time")]
fn now() -> tokio::time::Instant {
    tokio::time::Instant::now()
}

/// Runs `main` in the context `world` until it is done; virtual time starts at zero. What is still running then is dropped.
pub fn run<F: Future>(world: &Arc<Context>, main: F) -> F::Output {
    Pieces::new(world).run(main)
}

/// A run that is taken further a piece at a time: for suites of tests that are not asynchronous. Between the pieces nothing runs,
/// and no time passes.
#[derive(Debug)]
pub struct Pieces {
    /// There until it is dropped.
    runtime: Option<tokio::runtime::Runtime>,
    world: Arc<Context>,
}

impl Pieces {
    pub fn new(world: &Arc<Context>) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .on_thread_unpark(|| NOW_NS.set(read_ns()))
            .build()
            .expect("a runtime without I/O can be built");
        {
            let _clock = runtime.enter();
            BEGIN.set(Some(now()));
            NOW_NS.set(0);
        }
        Self { runtime: Some(runtime), world: Arc::clone(world) }
    }

    fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().expect("it is there until it is dropped")
    }

    /// Runs everything until `main` is done.
    pub fn run<F: Future>(&self, main: F) -> F::Output {
        self.runtime().block_on(InContext::new(&self.world, main)).expect("nobody kills the world")
    }

    /// Does something between two pieces, in the world's context.
    pub fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let _clock = self.runtime().enter();
        self.world.enter(work)
    }
}

impl Drop for Pieces {
    fn drop(&mut self) {
        // Destructors of tasks record events and look at clocks, which are virtual only as long as tokio's context is there.
        let handle = self.runtime().handle().clone();
        let _virtual_time = handle.enter();
        let runtime = self.runtime.take();
        self.world.enter(|| drop(runtime));
    }
}

/// Starts a task in a context of one's choice; `R::spawn` stays in the current one.
pub fn spawn_in<F>(context: &Arc<Context>, future: F) -> Join<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (done, joined) = tokio::sync::oneshot::channel();
    let (task, context) = (InContext::new(context, future), Arc::clone(context));
    let task = async move {
        if let Some(output) = task.await {
            // Whoever does not wait for it does not need it; its destructor may start tasks.
            if let Err(unwanted) = done.send(output) {
                context.enter(|| drop(unwanted));
            }
        }
    };
    #[expect(clippy::disallowed_methods, reason = "this is the port's implementation")]
    drop(tokio::spawn(task));
    Join(joined)
}

/// Sleeps in global time.
#[expect(clippy::disallowed_methods, reason = "this is the port's implementation")]
pub fn sleep_global(duration: Duration) -> tokio::time::Sleep {
    tokio::time::sleep(duration)
}

/// A task was dropped with its process, or panicked.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the task's process was killed")]
pub struct Killed;

/// Resolves with a task's output, also when its process was killed.
#[derive(Debug)]
pub struct Join<T>(tokio::sync::oneshot::Receiver<T>);

impl<T> Future for Join<T> {
    type Output = Result<T, Killed>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx).map(|output| output.map_err(|_| Killed))
    }
}

/// Monotonic time of a host; nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimInstant(u64);

impl Add<Duration> for SimInstant {
    type Output = Self;
    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by.as_nanos().min(u128::from(u64::MAX)) as u64))
    }
}

impl AddAssign<Duration> for SimInstant {
    fn add_assign(&mut self, by: Duration) {
        *self = *self + by;
    }
}

impl Sub<Duration> for SimInstant {
    type Output = Self;
    fn sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by.as_nanos().min(u128::from(u64::MAX)) as u64))
    }
}

impl SubAssign<Duration> for SimInstant {
    fn sub_assign(&mut self, by: Duration) {
        *self = *self - by;
    }
}

impl Sub for SimInstant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl openraft_rt::Instant for SimInstant {
    fn now() -> Self {
        let global_ns = global_ns();
        Self(with_current(|context| context.clock().local_ns(global_ns)))
    }
}

/// The runtime parameter of simulated nodes, clients and transports.
#[derive(Debug)]
pub struct SimRuntime;

impl AsyncRuntime for SimRuntime {
    type JoinError = Killed;
    type JoinHandle<T: OptionalSend + 'static> = Join<T>;
    type Sleep = tokio::time::Sleep;
    type Instant = SimInstant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = openraft_rt_sim::SimWatch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn_in(&current(), future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        sleep_global(current().clock().to_global(duration))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        Self::sleep(deadline - <SimInstant as openraft_rt::Instant>::now())
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(current().clock().to_global(duration), future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Self::timeout(deadline - <SimInstant as openraft_rt::Instant>::now(), future)
    }

    fn is_panic(_: &Self::JoinError) -> bool {
        false
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(current().random_u64())
    }

    fn new(_threads: usize) -> Self {
        Self
    }

    fn block_on<F, T>(&mut self, _future: F) -> T
    where
        F: Future<Output = T>,
    {
        unreachable!("a run is started by `runtime::run` only")
    }

    async fn spawn_blocking<F, T>(work: F) -> Result<T, io::Error>
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        Ok(work())
    }
}

/// How long blocking work takes at most, in microseconds, before it is done at one go: so that others run in between.
const BLOCKING_MAX_US: u64 = 2_000;

impl Runtime for SimRuntime {
    fn unix_time_ms() -> u64 {
        current().clock().unix_ms(global_ns())
    }

    fn entropy(buf: &mut [u8]) {
        current().fill(buf);
    }

    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let micros = current().random_u64() % BLOCKING_MAX_US;
        Self::sleep(Duration::from_micros(micros)).await;
        Ok(work())
    }
}

#[cfg(test)]
mod tests;
