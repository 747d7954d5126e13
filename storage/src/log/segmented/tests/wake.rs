//! A driver that sleeps until it is woken misses nothing.

use std::sync::atomic::AtomicBool;

use super::*;

/// Steps each part only if it was woken since it rested, as an asynchronous driver does.
struct Sleepers {
    commit: Arc<AtomicBool>,
    upkeep: Arc<AtomicBool>,
}

impl Sleepers {
    fn of(bench: &Bench) -> Self {
        // Both begin awake.
        let sleepers =
            Self { commit: Arc::new(AtomicBool::new(true)), upkeep: Arc::new(AtomicBool::new(true)) };
        let (commit, upkeep) = (sleepers.commit.clone(), sleepers.upkeep.clone());
        bench.committer.set_wake(Arc::new(move || commit.store(true, Ordering::Relaxed)));
        bench.maintenance.set_wake(Arc::new(move || upkeep.store(true, Ordering::Relaxed)));
        sleepers
    }

    /// Runs until both sleep.
    fn run(&self, bench: &mut Bench) {
        loop {
            let commits = self.commit.swap(false, Ordering::Relaxed);
            if commits && !matches!(bench.committer.step(), Step::Idle | Step::Stopped) {
                self.commit.store(true, Ordering::Relaxed);
            }
            let keeps_up = self.upkeep.swap(false, Ordering::Relaxed);
            if keeps_up && bench.maintenance.step() == Upkeep::Worked {
                self.upkeep.store(true, Ordering::Relaxed);
            }
            if !commits && !keeps_up {
                return;
            }
        }
    }
}

#[test]
fn a_driver_that_is_woken_does_all_that_is_to_do() {
    let (disk, mut bench) = Bench::in_memory();
    let sleepers = Sleepers::of(&bench);
    sleepers.run(&mut bench);
    // Through many segments, so that fresh ones are asked for, old ones dropped and their files used anew.
    for round in 0..100 {
        bench.submit(round, vec![filler(A, 1 + round * 20, 20, 1000), vote(B, "b")]).unwrap();
        bench.submit(1000 + round, vec![purge(A, 1 + round * 20)]).unwrap();
        sleepers.run(&mut bench);
        assert_eq!(bench.fired().len() as u64, 2 * (round + 1), "nothing is left lying");
    }
    assert!(bench.fired().iter().all(|(_, well)| *well));
    assert!(bench.files().len() <= 8, "room was freed: {:?}", bench.files());
    let before = disk.calls(DiskCall::Write);
    sleepers.run(&mut bench);
    assert_eq!(disk.calls(DiskCall::Write), before, "a log at rest stays at rest");
}

#[test]
fn a_hint_wakes_a_driver_only_behind_a_mark() {
    let (_, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 1, 10)]);
    let sleepers = Sleepers::of(&bench);
    sleepers.run(&mut bench);
    let woken = |sleepers: &Sleepers| sleepers.commit.load(Ordering::Relaxed);
    bench.submit(1, vec![committed(A, "c1")]).unwrap();
    assert!(!woken(&sleepers), "the quiet moment is still to come");
    assert!(bench.committer.mark());
    for (n, text) in [(2, "c2"), (3, "c3")] {
        bench.submit(n, vec![committed(A, text)]).unwrap();
        assert!(woken(&sleepers), "{text}: nobody would write it");
        sleepers.run(&mut bench);
        bench.submit(10 + n, vec![committed(A, "more")]).unwrap();
        assert!(!woken(&sleepers), "{text}: a quiet moment will come");
        bench.submit(20 + n, vec![committed(A, text)]).unwrap();
        assert!(bench.committer.mark(), "{text}");
    }
    assert_eq!(bench.reopen().log.state(A).unwrap().committed.unwrap(), "c3");
}

#[test]
fn a_driver_is_woken_by_a_close_and_by_a_fault() {
    let (disk, mut bench) = Bench::in_memory();
    let sleepers = Sleepers::of(&bench);
    sleepers.run(&mut bench);
    bench.submit(1, vec![vote(A, "v")]).unwrap();
    bench.log.close();
    sleepers.run(&mut bench);
    assert_eq!(bench.fired(), [(1, true)]);
    assert_eq!((bench.committer.step(), bench.maintenance.step()), (Step::Stopped, Upkeep::Stopped));

    let mut bench = bench.reopen();
    let sleepers = Sleepers::of(&bench);
    sleepers.run(&mut bench);
    bench.submit(2, vec![vote(A, "w")]).unwrap();
    disk.fail_nth(DiskCall::Sync, 1);
    sleepers.run(&mut bench);
    assert_eq!(bench.fired(), [(2, false)]);
    assert_eq!((bench.committer.step(), bench.maintenance.step()), (Step::Stopped, Upkeep::Stopped));
}
