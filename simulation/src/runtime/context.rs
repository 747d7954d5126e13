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
use std::sync::atomic::{AtomicU64, Ordering};
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
    life: Mutex<Life>,
    /// Of tasks that were polled and are not done, by task; to wake them on death and on resume.
    wakers: Mutex<BTreeMap<u64, Waker>>,
    next_task: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// Tasks stand still; what happens to them meanwhile waits, as under SIGSTOP.
    Paused,
    Dead,
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Context({}, {:?})", self.name, *self.life.lock())
    }
}

impl Context {
    /// `random` is this context's own stream of chance.
    pub fn new(name: impl Into<String>, clock: Arc<HostClock>, random: SmallRng) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            clock,
            random: Mutex::new(random),
            life: Mutex::new(Life::Running),
            wakers: Mutex::default(),
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

    pub fn is_dead(&self) -> bool {
        *self.life.lock() == Life::Dead
    }

    pub fn is_paused(&self) -> bool {
        *self.life.lock() == Life::Paused
    }

    /// Drops every task of this context, at its next turn, without running it again: the process was killed.
    pub fn kill(&self) {
        self.change(Life::Dead);
    }

    /// Freezes every task of this context.
    pub fn pause(&self) {
        let mut life = self.life.lock();
        if *life == Life::Running {
            *life = Life::Paused;
        }
    }

    pub fn resume(&self) {
        if self.is_paused() {
            self.change(Life::Running);
        }
    }

    fn change(&self, to: Life) {
        {
            let mut life = self.life.lock();
            if *life == Life::Dead {
                return;
            }
            *life = to;
        }
        let wakers = std::mem::take(&mut *self.wakers.lock());
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
}

impl<F> fmt::Debug for InContext<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InContext({}, task {})", self.context.name, self.task)
    }
}

impl<F: Future> InContext<F> {
    pub fn new(context: &Arc<Context>, future: F) -> Self {
        let task = context.next_task.fetch_add(1, Ordering::Relaxed);
        Self { future: Some(Box::pin(future)), context: Arc::clone(context), task }
    }
}

impl<F> InContext<F> {
    /// Drops the inner future where it belongs: destructors, too, look at clocks and wake others.
    fn clear(&mut self) {
        if self.future.is_some() {
            let _guard = Guard::enter(&self.context);
            self.future = None;
        }
        self.context.wakers.lock().remove(&self.task);
    }
}

impl<F: Future> Future for InContext<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        let life = *self.context.life.lock();
        match life {
            Life::Dead => {
                self.clear();
                return Poll::Ready(None);
            }
            Life::Paused => {
                self.context.wakers.lock().insert(self.task, cx.waker().clone());
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
                let mut wakers = this.context.wakers.lock();
                let waker = wakers.entry(this.task).or_insert_with(|| cx.waker().clone());
                if !waker.will_wake(cx.waker()) {
                    waker.clone_from(cx.waker());
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
