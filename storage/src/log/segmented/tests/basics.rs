//! Order, syncs, limits, poison, closing.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use super::*;

#[test]
fn a_batch_takes_all_that_is_queued_with_one_write_and_one_sync() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(A, "v")]);
    let before = (disk.calls(DiskCall::Write), disk.calls(DiskCall::Sync));
    for id in 0..50 {
        bench.submit(id, vec![filler(if id % 2 == 0 { A } else { B }, 1 + id / 2, 1, 50)]).unwrap();
    }
    assert!(matches!(bench.committer.step(), Step::Wrote { .. }));
    assert_eq!(bench.fired(), [], "written is not durable");
    assert_eq!(bench.committer.step(), Step::Synced { submits: 50 });
    assert_eq!(bench.fired(), (0..50).map(|id| (id, true)).collect::<Vec<_>>());
    let after = (disk.calls(DiskCall::Write), disk.calls(DiskCall::Sync));
    assert_eq!(after, (before.0 + 1, before.1 + 1));
    assert_eq!(bench.committer.step(), Step::Idle);
}

#[test]
fn a_committed_position_neither_causes_nor_awaits_a_sync() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 1, 10)]);
    let before = (disk.calls(DiskCall::Write), disk.calls(DiskCall::Sync));
    bench.submit(1, vec![committed(A, "c1")]).unwrap();
    bench.submit(2, vec![committed(A, "c2")]).unwrap();
    assert_eq!(bench.fired(), [(1, true), (2, true)]);
    assert!(!bench.committer.has_work(), "nobody is woken");
    assert_eq!(bench.committer.step(), Step::Idle);
    assert_eq!((disk.calls(DiskCall::Write), disk.calls(DiskCall::Sync)), before);
    // It rides along with the next batch, and stays in its place behind an append.
    bench.submit(3, vec![filler(A, 2, 1, 10)]).unwrap();
    bench.submit(4, vec![committed(B, "c3")]).unwrap();
    assert!(matches!(bench.committer.step(), Step::Wrote { .. }));
    assert_eq!(bench.fired().len(), 2);
    bench.settle();
    assert_eq!(bench.fired(), [(1, true), (2, true), (3, true), (4, true)]);
    let bench = bench.reopen();
    assert_eq!(bench.log.state(A).unwrap().committed.unwrap(), "c2");
    assert_eq!(bench.log.state(B).unwrap().committed.unwrap(), "c3");
}

#[test]
fn a_quiet_log_marks_its_end_without_a_sync() {
    let (disk, mut bench) = Bench::in_memory();
    assert!(!bench.committer.mark(), "there is nothing to mark");
    bench.put(vec![filler(A, 1, 1, 10)]);
    bench.submit(1, vec![committed(A, "c1")]).unwrap();
    bench.settle();
    let syncs = disk.calls(DiskCall::Sync);
    assert!(bench.committer.mark());
    assert!(!bench.committer.mark(), "once is enough");
    assert_eq!(disk.calls(DiskCall::Sync), syncs);
    let mut bench = bench.reopen();
    assert_eq!(bench.log.state(A).unwrap().committed.unwrap(), "c1");
    assert_eq!(bench.held(A).len(), 1);
    bench.put(vec![filler(A, 2, 1, 10)]);
    assert_eq!(bench.reopen().held(A).len(), 2);
}

#[test]
fn a_submit_larger_than_a_batch_or_a_segment_is_split() {
    let (_, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 300, 1000), vote(A, "v"), filler(B, 7, 1, bench.config.entry_limit())]);
    assert_eq!(bench.held(A).len(), 300);
    let bench = bench.reopen();
    let held = bench.held(A);
    assert!(held.iter().all(|(index, entry)| entry[..8] == index.to_le_bytes() && entry.len() == 1000));
    assert_eq!(held.len(), 300);
    assert_eq!(bench.held(B)[0].1.len(), bench.config.entry_limit());
    assert_eq!(bench.log.state(A).unwrap().vote.unwrap(), "v");
}

#[test]
fn a_full_queue_is_busy_until_there_is_room() {
    let clock = TestClock::default();
    let config = LogConfig { max_queued_submits: 3, max_queued_bytes: 1000, ..small(&clock) };
    let mut bench = Bench::open(Arc::new(MemDisk::new()), config);
    (0..3).for_each(|id| bench.submit(id, vec![filler(A, 1 + id, 1, 10)]).unwrap());
    let refused = bench.submit(9, vec![filler(A, 4, 1, 10)]);
    assert!(matches!(refused, Err(StorageError::Busy { queued: 3, limit: 3 })), "{refused:?}");
    let log = bench.log.clone();
    let mut ready = pin!(log.ready(10));
    let mut context = Context::from_waker(Waker::noop());
    assert!(ready.as_mut().poll(&mut context).is_pending());
    bench.settle();
    assert!(matches!(ready.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    assert_eq!(bench.held(A).len(), 3, "a refused submit leaves nothing behind");

    let refused = bench.submit(9, vec![filler(A, 4, 20, 60)]);
    assert!(matches!(refused, Err(StorageError::TooLarge { limit: 1000, .. })), "{refused:?}");
    bench.submit(4, vec![filler(A, 4, 9, 60)]).unwrap();
    assert!(matches!(bench.submit(9, vec![filler(B, 1, 9, 60)]), Err(StorageError::Busy { .. })));
    bench.settle();
    assert_eq!(bench.fired().len(), 4);
}

#[test]
fn who_waits_for_room_is_woken() {
    let clock = TestClock::default();
    let config = LogConfig { max_queued_submits: 1, ..small(&clock) };
    let mut bench = Bench::open(Arc::new(MemDisk::new()), config);
    bench.submit(1, vec![vote(A, "v")]).unwrap();
    let log = bench.log.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let waiting = std::thread::Builder::new().spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut ready = log.ready(10);
            let first =
                std::future::poll_fn(|context| Poll::Ready(ready.as_mut().poll(context).is_pending()));
            sender.send(first.await).unwrap();
            ready.await
        })
    });
    assert!(receiver.recv().unwrap(), "it has to wait");
    bench.settle();
    waiting.unwrap().join().unwrap().unwrap();
}

#[test]
fn the_age_of_the_oldest_write_is_told() {
    let clock = TestClock::default();
    let mut bench = Bench::open(Arc::new(MemDisk::new()), small(&clock));
    bench.put(vec![vote(A, "v")]);
    clock.set(1000);
    bench.submit(1, vec![filler(A, 1, 1, 10)]).unwrap();
    clock.set(1300);
    bench.submit(2, vec![filler(A, 2, 1, 10)]).unwrap();
    assert_eq!(bench.log.oldest_unsynced_ms(), 300);
    bench.committer.step();
    clock.set(1500);
    assert_eq!(bench.log.oldest_unsynced_ms(), 500);
    bench.committer.step();
    assert_eq!(bench.log.oldest_unsynced_ms(), 0);
}

#[test]
fn a_failed_write_or_sync_poisons_for_ever() {
    for call in [DiskCall::Write, DiskCall::Sync] {
        let (disk, mut bench) = Bench::in_memory();
        bench.put(vec![filler(A, 1, 1, 10)]);
        disk.fail_nth(call, 1);
        bench.submit(1, vec![filler(A, 2, 1, 10)]).unwrap();
        bench.submit(2, vec![vote(A, "v")]).unwrap();
        let calls = disk.calls(DiskCall::Sync);
        bench.settle();
        assert!(disk.calls(DiskCall::Sync) <= calls + 1, "a failed sync is not tried again");
        assert_eq!(bench.committer.step(), Step::Stopped);
        let fired = bench.fired.lock().clone();
        assert_eq!(fired.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [1, 2]);
        assert!(fired.iter().all(|(_, result)| result.as_ref().unwrap_err().contains("injected fault")));
        let refused = bench.submit(3, vec![vote(A, "w")]);
        assert!(matches!(refused, Err(StorageError::Poisoned(_))), "{refused:?}");
        let log = bench.log.clone();
        let mut context = Context::from_waker(Waker::noop());
        let ready = pin!(log.ready(1)).poll(&mut context);
        assert!(matches!(ready, Poll::Ready(Err(StorageError::Poisoned(_)))));
        assert_eq!(bench.maintenance.step(), Upkeep::Stopped);
        assert_eq!(bench.log.read(A, 0..2, 100).unwrap().len(), 1, "reads go on");
    }
}

#[test]
fn a_sync_error_in_the_background_poisons_too() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(A, "v")]);
    bench.submit(1, vec![filler(A, 1, 60, 1000)]).unwrap();
    while bench.committer.step() != Step::Idle {}
    disk.fail_nth(DiskCall::Sync, 1);
    while !matches!(bench.maintenance.step(), Upkeep::Stopped) {}
    bench.submit(2, vec![vote(A, "w")]).expect_err("it is poisoned");
    assert!(bench.committer.has_work(), "the committer is told");
    assert_eq!(bench.committer.step(), Step::Stopped);
}

#[test]
fn after_a_failed_sync_a_restart_does_not_trust_the_page_cache() {
    // The batch is readable after its sync failed, but will never be written by a later sync.
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 1, 10)]);
    disk.fail_nth(DiskCall::Sync, 1);
    bench.submit(1, vec![filler(A, 2, 1, 10)]).unwrap();
    bench.settle();
    let bench = bench.reopen();
    let seen = bench.held(A).len();
    // What a restarted node saw as durable must be: it may have acted on it.
    disk.crash(&mut |bound: u64| u64::from(bound == 5));
    assert_eq!(bench.reopen().held(A).len(), seen);
    assert_eq!(seen, 2);
}

#[test]
fn closing_makes_durable_what_was_taken() {
    let (_, mut bench) = Bench::in_memory();
    (0..10).for_each(|id| bench.submit(id, vec![filler(A, 1 + id, 1, 10)]).unwrap());
    bench.log.close();
    assert!(matches!(bench.submit(99, Vec::new()), Err(StorageError::Closed)));
    bench.settle();
    assert_eq!(bench.committer.step(), Step::Stopped);
    assert_eq!(bench.fired(), (0..10).map(|id| (id, true)).collect::<Vec<_>>());
    assert_eq!(bench.reopen().held(A).len(), 10);
}

#[test]
fn a_sync_that_fails_while_closing_is_told_as_such() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(A, "v")]);
    bench.submit(1, vec![vote(A, "w")]).unwrap();
    bench.log.close();
    disk.fail_nth(DiskCall::Sync, 1);
    bench.settle();
    assert!(bench.fired.lock()[0].1.as_ref().unwrap_err().contains("poisoned"));
}

#[test]
fn a_committer_that_is_dropped_fails_what_waits() {
    let (_, bench) = Bench::in_memory();
    bench.submit(1, vec![vote(A, "v")]).unwrap();
    let Bench { committer, log, fired, .. } = bench;
    drop(committer);
    assert_eq!(*fired.lock(), [(1, Err(StorageError::Closed.to_string()))]);
    assert!(matches!(log.submit(Vec::new(), Box::new(|_| {})), Err(StorageError::Closed)));
}

#[test]
fn entries_beyond_the_cache_are_read_from_disk() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 200, 100)]);
    let reads = disk.calls(DiskCall::Read);
    assert!(bench.log.is_cached(A, 190..300) && !bench.log.is_cached(A, 1..300));
    assert_eq!(bench.log.read(A, 190..300, usize::MAX).unwrap().len(), 11);
    assert_eq!(disk.calls(DiskCall::Read), reads, "cached entries need no disk");
    let held = bench.held(A);
    assert!(held.iter().all(|(index, entry)| entry[..8] == index.to_le_bytes()));
    assert_eq!(held.len(), 200);
    let reads = disk.calls(DiskCall::Read) - reads;
    assert!((1..=3).contains(&reads), "neighbours are fetched together: {reads} reads");
}

#[test]
fn a_failed_read_harms_nothing() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 200, 100)]);
    disk.fail_nth(DiskCall::Read, 1);
    let failed = bench.log.read(A, 1..5, usize::MAX);
    assert!(matches!(failed, Err(StorageError::Io { .. })), "{failed:?}");
    assert_eq!(bench.log.read(A, 1..5, usize::MAX).unwrap().len(), 4);
}

#[test]
fn a_wrong_configuration_is_refused() {
    let clock = TestClock::default();
    for config in [
        LogConfig { segment_bytes: 4097, ..small(&clock) },
        LogConfig { segment_bytes: 8192, ..small(&clock) },
        LogConfig { spare_segments: 0, ..small(&clock) },
        LogConfig { max_segments: 2, ..small(&clock) },
        LogConfig { rewrite_below_percent: 51, ..small(&clock) },
        LogConfig { max_queued_submits: 0, ..small(&clock) },
    ] {
        let refused = SegmentedLog::open(Arc::new(MemDisk::new()), config);
        assert!(matches!(refused, Err(StorageError::Invalid(_))));
    }
}

#[test]
fn segments_of_another_size_are_read_and_given_up_when_they_are_empty() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 3, 30_000), vote(B, "b"), filler(B, 1, 40, 1000)]);
    bench.put(vec![purge(B, 40)]);
    let large = bench.held(A);
    let Bench { config, committer, .. } = bench;
    drop(committer);
    // The entries of A fit no segment of the new size, and so can not be moved.
    let smaller = LogConfig { segment_bytes: 32 << 10, max_segments: 40, ..config };
    let mut bench = Bench::open(Arc::new(disk.clone()), smaller.clone());
    let refused = bench.submit(1, vec![filler(A, 4, 1, 30_000)]);
    assert!(matches!(refused, Err(StorageError::TooLarge { .. })));
    for round in 0..30 {
        bench.put(vec![filler(B, 41 + round * 20, 20, 1000)]);
        bench.put(vec![purge(B, 60 + round * 20)]);
    }
    assert_eq!(bench.held(A), large);
    bench.put(vec![purge(A, 3)]);
    bench.settle();
    let bench = bench.reopen();
    assert!(
        bench
            .files()
            .iter()
            .all(|name| { disk.open(&format!("log/{name}"), false).unwrap().len().unwrap() < 64 << 10 })
    );
    assert_eq!(bench.log.state(B).unwrap().vote.unwrap(), "b");
}

#[test]
fn a_limit_below_what_the_log_holds_is_refused() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 300, 1000)]);
    let Bench { config, committer, .. } = bench;
    drop(committer);
    let refused = SegmentedLog::open(Arc::new(disk), LogConfig { max_segments: 3, ..config }).unwrap_err();
    assert!(refused.to_string().contains("max_segments is 3"), "{refused}");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![vote(A, "v")]);
    let path = format!("log/{}", bench.files()[0]);
    let mut header = [0; 64];
    let file = disk.open(&path, false).unwrap();
    file.read_at(&mut header, 0).unwrap();
    header[8] += 1;
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..12]), &header[16..]);
    header[12..16].copy_from_slice(&crc.to_le_bytes());
    file.write_at(&header, 0).unwrap();
    let Bench { disk, config, .. } = bench;
    let refused = SegmentedLog::open(disk, config).unwrap_err();
    assert!(matches!(refused, StorageError::Newer { found: 2, supported: 1, .. }), "{refused}");
    assert!(refused.to_string().contains("newer release"), "{refused}");
}
