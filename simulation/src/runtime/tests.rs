//! The promises of the runtime: virtual time, death, pause, skewed clocks, one course.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::random;

fn context(name: &str, drift_ppm: i32) -> Arc<Context> {
    Context::new(name, Arc::new(HostClock::new(0, drift_ppm, 0)), random::stream(7, name))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Counts up each 10 ms.
async fn count(counter: Arc<AtomicU64>) {
    loop {
        SimRuntime::sleep(ms(10)).await;
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_killed_process_runs_no_more_and_its_tasks_resolve() {
    let world = context("world", 0);
    run(&world, async {
        let (node, counter) = (context("node", 0), Arc::new(AtomicU64::new(0)));
        let task = spawn_in(&node, count(counter.clone()));
        sleep_global(ms(105)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 10);
        node.kill();
        assert!(task.await.is_err());
        sleep_global(ms(1000)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 10);
        assert_eq!(Arc::strong_count(&counter), 1, "its futures are dropped");
        assert!(spawn_in(&node, async {}).await.is_err(), "the dead start nothing");
    });
}

/// What a task gives back that nobody waits for is dropped where the task ran.
#[test]
fn what_nobody_waits_for_may_start_a_task_when_it_is_dropped() {
    struct Starts(Arc<AtomicU64>);
    impl Drop for Starts {
        fn drop(&mut self) {
            let count = Arc::clone(&self.0);
            drop(SimRuntime::spawn(async move { count.fetch_add(1, Ordering::Relaxed) }));
        }
    }
    let world = context("world", 0);
    run(&world, async {
        let (node, started) = (context("node", 0), Arc::new(AtomicU64::new(0)));
        let last = Starts(Arc::clone(&started));
        drop(spawn_in(&node, async move { last }));
        sleep_global(ms(10)).await;
        assert_eq!(started.load(Ordering::Relaxed), 1);
    });
}

#[test]
fn a_paused_process_stands_still_and_goes_on() {
    let world = context("world", 0);
    run(&world, async {
        let (node, counter) = (context("node", 0), Arc::new(AtomicU64::new(0)));
        drop(spawn_in(&node, count(counter.clone())));
        sleep_global(ms(55)).await;
        node.pause();
        sleep_global(ms(1000)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 5);
        node.resume();
        sleep_global(ms(41)).await;
        assert_eq!(counter.load(Ordering::Relaxed), 10, "one timer was due, then 10 ms each");
    });
}

/// Each waking takes the wakers that tasks left, so they must leave them again.
#[test]
fn tasks_that_wait_for_ever_hear_of_each_change() {
    let world = context("world", 0);
    run(&world, async {
        let (node, counter) = (context("node", 0), Arc::new(AtomicU64::new(0)));
        let polls = counter.clone();
        let waiting = spawn_in(
            &node,
            std::future::poll_fn(move |_| {
                polls.fetch_add(1, Ordering::Relaxed);
                Poll::<()>::Pending
            }),
        );
        for goes_on in 1..4 {
            sleep_global(ms(5)).await;
            assert_eq!(counter.load(Ordering::Relaxed), goes_on);
            node.pause();
            sleep_global(ms(5)).await;
            node.resume();
        }
        sleep_global(ms(5)).await;
        node.kill();
        assert!(waiting.await.is_err());
        assert_eq!(Arc::strong_count(&counter), 1, "it is dropped");
    });
}

#[test]
fn a_fast_clock_counts_more() {
    let world = context("world", 0);
    run(&world, async {
        let (node, counter) = (context("node", 200_000), Arc::new(AtomicU64::new(0)));
        drop(spawn_in(&node, count(counter.clone())));
        sleep_global(ms(1000)).await;
        // Each sleep is rounded up to tokio's millisecond: 8.3 ms are 9.
        assert!((105..=120).contains(&counter.load(Ordering::Relaxed)), "{counter:?}");
    });
}

#[test]
fn tasks_inherit_their_context() {
    let world = context("world", 0);
    run(&world, async {
        let node = context("node", 0);
        let name = spawn_in(&node, async {
            SimRuntime::spawn(async { current().name().to_owned() }).await.expect("not killed")
        });
        assert_eq!(name.await.expect("not killed"), "node");
        assert_eq!(current().name(), "world");
    });
}
