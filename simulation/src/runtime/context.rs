//! Which process a piece of code runs in: its clock, its chance, and whether it lives.
//!
//! Every task belongs to a context, and so does every task that it spawns. That is what makes it possible to kill one node's
//! tasks (openraft's and quinn's included), to freeze them, and to give each node a clock of its own, all in one thread.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, RngExt};

use super::clock::HostClock;

thread_local! {
    static CURRENT: RefCell<Option<Arc<Context>>> = const { RefCell::new(None) };
}

/// One process of a host, the client side of a workload, or the world itself.
pub struct Context {
    name: String,
    clock: Arc<HostClock>,
    random: Mutex<SmallRng>,
    /// A [`Life`]. Looked at whenever a task is polled, as is the next but one.
    life: AtomicU8,
    /// Of tasks that were polled and are not done, by task; to wake them on death and on resume.
    wakers: Mutex<BTreeMap<u64, Waker>>,
    /// Counts how often all those were woken; each must then leave its waker anew.
    wakings: AtomicU64,
    next_task: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Life {
    Running,
    /// Tasks stand still; what happens to them meanwhile waits, as under SIGSTOP.
    Paused,
    Dead,
}

impl Life {
    fn of(stored: u8) -> Self {
        match stored {
            0 => Self::Running,
            1 => Self::Paused,
            _ => Self::Dead,
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({}, {:?})", self.name, self.life())
    }
}

impl Context {
    /// `random` is this context's own stream of chance.
    pub fn new(name: impl Into<String>, clock: Arc<HostClock>, random: SmallRng) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            clock,
            random: Mutex::new(random),
            life: AtomicU8::new(Life::Running as u8),
            wakers: Mutex::default(),
            wakings: AtomicU64::new(0),
            next_task: AtomicU64::new(0),
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn clock(&self) -> &HostClock {
        &self.clock
    }

    /// Fills `buf` from this context's stream.
    pub fn fill(&self, buf: &mut [u8]) {
        self.random.lock().fill_bytes(buf);
    }

    pub fn random_u64(&self) -> u64 {
        self.random.lock().random()
    }

    fn life(&self) -> Life {
        Life::of(self.life.load(Ordering::Acquire))
    }

    pub fn is_dead(&self) -> bool {
        self.life() == Life::Dead
    }

    pub fn is_paused(&self) -> bool {
        self.life() == Life::Paused
    }

    /// Drops every task of this context, at its next turn, without running it again: the process was killed.
    pub fn kill(&self) {
        self.change(Life::Dead);
    }

    /// Freezes every task of this context.
    pub fn pause(&self) {
        if self.life() == Life::Running {
            self.life.store(Life::Paused as u8, Ordering::Release);
        }
    }

    pub fn resume(&self) {
        if self.is_paused() {
            self.change(Life::Running);
        }
    }

    fn change(&self, to: Life) {
        if self.is_dead() {
            return;
        }
        self.life.store(to as u8, Ordering::Release);
        let wakers = {
            let mut wakers = self.wakers.lock();
            self.wakings.fetch_add(1, Ordering::Relaxed);
            std::mem::take(&mut *wakers)
        };
        wakers.into_values().for_each(Waker::wake);
    }

    /// Runs `work` with this as the current context: for calls that the world makes into a node.
    pub fn enter<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        let _guard = Guard::enter(self);
        work()
    }
}

/// The context of the code that runs now. Panics outside of a run.
pub fn current() -> Arc<Context> {
    CURRENT.with_borrow(Clone::clone).expect("code runs in a context, within a run")
}

/// As [`current`], for a look at it. `look` must not enter another context.
pub fn with_current<T>(look: impl FnOnce(&Context) -> T) -> T {
    CURRENT.with_borrow(|current| look(current.as_ref().expect("code runs in a context, within a run")))
}

struct Guard(Option<Arc<Context>>);

impl Guard {
    fn enter(context: &Arc<Context>) -> Self {
        Self(CURRENT.replace(Some(Arc::clone(context))))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

/// A future that runs in a context. When the context dies, it is dropped and resolves to `None`.
pub struct InContext<F> {
    future: Option<Pin<Box<F>>>,
    context: Arc<Context>,
    task: u64,
    /// The waker left with the context, and the count of wakings at that time: a task is nearly always polled with the same one.
    left: Option<(Waker, u64)>,
}

impl<F> fmt::Debug for InContext<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InContext({}, task {})", self.context.name, self.task)
    }
}

impl<F: Future> InContext<F> {
    pub fn new(context: &Arc<Context>, future: F) -> Self {
        let task = context.next_task.fetch_add(1, Ordering::Relaxed);
        Self { future: Some(Box::pin(future)), context: Arc::clone(context), task, left: None }
    }
}

impl<F> InContext<F> {
    /// Drops the inner future where it belongs: destructors, too, look at clocks and wake others.
    fn clear(&mut self) {
        if self.future.is_some() {
            let _guard = Guard::enter(&self.context);
            self.future = None;
        }
        if self.left.take().is_some() {
            self.context.wakers.lock().remove(&self.task);
        }
    }

    /// Sees to it that the context wakes this task when it dies or goes on.
    fn leave(&mut self, waker: &Waker) {
        let mut wakers = self.context.wakers.lock();
        let wakings = self.context.wakings.load(Ordering::Relaxed);
        wakers.insert(self.task, waker.clone());
        self.left = Some((waker.clone(), wakings));
    }

    fn has_left(&self, waker: &Waker) -> bool {
        let wakings = self.context.wakings.load(Ordering::Relaxed);
        self.left.as_ref().is_some_and(|(left, at)| *at == wakings && left.will_wake(waker))
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.context.life() {
            Life::Dead => {
                self.clear();
                return Poll::Ready(None);
            }
            Life::Paused => {
                self.leave(cx.waker());
                return Poll::Pending;
            }
            Life::Running => {}
        }
        let this = &mut *self;
        let guard = Guard::enter(&this.context);
        let future = this.future.as_mut().expect("a future is not polled again after it is ready");
        let polled = future.as_mut().poll(cx);
        drop(guard);
        match polled {
            Poll::Ready(output) => {
                self.clear();
                Poll::Ready(Some(output))
            }
            // It killed its own process.
            Poll::Pending if this.context.is_dead() => {
                self.clear();
                Poll::Ready(None)
            }
            Poll::Pending => {
                if !this.has_left(cx.waker()) {
                    this.leave(cx.waker());
                }
                Poll::Pending
            }
        }
    }
}

impl<F> Drop for InContext<F> {
    fn drop(&mut self) {
        self.clear();
    }
}
