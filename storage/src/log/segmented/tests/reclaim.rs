//! Segments are dropped, used anew and rewritten; what was in them never comes back.

use super::super::format::{HeaderFound, SegmentHeader};
use super::*;
use crate::disk::SeededChance;

/// Appends to A and purges behind it, so that the log moves on through many segments.
fn churn(bench: &mut Bench, rounds: u64) {
    let first = bench.log.state(A).unwrap().last.map_or(1, |last| last + 1);
    for round in 0..rounds {
        bench.put(vec![filler(A, first + round * 10, 10, 1500)]);
        bench.put(vec![purge(A, first + round * 10 + 8)]);
    }
}

#[test]
fn purged_segments_are_used_again() {
    let (_, mut bench) = Bench::in_memory();
    churn(&mut bench, 100);
    assert!(bench.files().len() <= 6, "{:?}", bench.files());
    let bench = bench.reopen();
    assert_eq!(bench.held(A).len(), 1);
    assert_eq!(bench.log.state(A).unwrap().purged.unwrap().0, 999);
}

#[test]
fn an_idle_stream_does_not_pin_segments() {
    let (_, mut bench) = Bench::in_memory();
    bench.put(vec![filler(B, 5, 3, 200), vote(B, "vote of b"), committed(B, "c")]);
    bench.put(vec![purge(B, 5)]);
    bench.put(vec![filler(StreamId { group: 7, replica: 7 }, 1, 1, 10)]);
    bench.put(vec![LogOp::Tombstone { stream: StreamId { group: 7, replica: 7 } }]);
    churn(&mut bench, 100);
    assert!(bench.files().len() <= 6, "{:?}", bench.files());
    for _ in 0..2 {
        let state = bench.log.state(B).unwrap();
        assert_eq!(
            (state.vote.unwrap(), state.committed.unwrap()),
            (Bytes::from("vote of b"), Bytes::from("c"))
        );
        assert_eq!(state.purged, Some((5, Bytes::from("purged to 5"))));
        assert_eq!(bench.held(B).iter().map(|(index, _)| *index).collect::<Vec<_>>(), [6, 7]);
        assert!(bench.log.state(StreamId { group: 7, replica: 7 }).unwrap().tombstoned);
        bench = bench.reopen();
    }
}

#[test]
fn a_tombstone_frees_what_the_stream_held() {
    let (_, mut bench) = Bench::in_memory();
    bench.put(vec![filler(B, 1, 400, 1000)]);
    let before = bench.files().len();
    bench.put(vec![LogOp::Tombstone { stream: B }]);
    bench.settle();
    assert!(bench.files().len() < before && bench.files().len() <= 5, "{:?}", bench.files());
    let mut bench = bench.reopen();
    assert_eq!(bench.log.streams(), []);
    churn(&mut bench, 50);
    assert!(bench.reopen().log.state(B).unwrap().tombstoned);
}

#[test]
fn entries_that_were_cut_off_do_not_come_back_when_the_cut_is_moved() {
    let (_, mut bench) = Bench::in_memory();
    let idle = StreamId { group: 7, replica: 7 };
    // The first segment stays, with dead entries of B in it; the second, with B's truncation, is rewritten.
    bench.put(vec![filler(idle, 1, 58, 1000), filler(B, 1, 4, 50)]);
    bench.put(vec![LogOp::TruncateAfter { stream: B, last: None }, filler(B, 7, 2, 50)]);
    churn(&mut bench, 30);
    bench.put(vec![filler(B, 9, 1, 50)]);
    let bench = bench.reopen();
    assert_eq!(bench.held(B).iter().map(|(index, _)| *index).collect::<Vec<_>>(), [7, 8, 9]);
    assert_eq!(bench.held(idle).len(), 58);
}

#[test]
fn a_spare_segment_is_durable_before_it_is_handed_over() {
    let (disk, mut bench) = Bench::in_memory();
    bench.settle();
    disk.crash(&mut |bound: u64| u64::from(bound == 5));
    let path = format!("log/{}", bench.files()[0]);
    let mut block = [0; 4096];
    disk.open(&path, false).unwrap().read_at(&mut block, 0).unwrap();
    assert!(matches!(SegmentHeader::decode(&block), HeaderFound::Valid(_)));
}

#[test]
fn bytes_of_an_earlier_use_never_come_back() {
    // Every use of a segment file has batches of the same layout. A batch of which only the first sector reached the disk is
    // followed by the records of the earlier use, each where a record of this one should be.
    let (disk, mut bench) = Bench::in_memory();
    churn(&mut bench, 60);
    let files = bench.files().len();
    let mut torn = 0;
    for seed in 0..60 {
        churn(&mut bench, 2);
        let before = bench.held(A);
        let next = before.last().unwrap().0 + 1;
        bench.submit(1, vec![filler(A, next, 10, 1500)]).unwrap();
        while !matches!(bench.committer.step(), Step::Wrote { .. }) {}
        let mut first = true;
        // Keeps the first sector of the unsynced write and drops the rest.
        disk.crash(&mut |bound: u64| match bound {
            8 if std::mem::take(&mut first) => 0,
            8 => 7,
            5 => 4,
            7 => 0,
            other => seed % other,
        });
        bench = bench.reopen();
        torn += u32::from(bench.report.torn_tail.is_some());
        assert_eq!(bench.report.damaged, []);
        assert_eq!(bench.held(A), before, "seed {seed}");
    }
    assert!(torn > 50, "only {torn} of the tails were torn");
    assert!(bench.files().len() <= files + 1);
}

#[test]
fn reading_while_segments_are_dropped_and_moved_never_sees_damage() {
    let root = tempfile::tempdir().unwrap();
    let disk = Arc::new(RealDisk::open(root.path()).unwrap());
    let config = LogConfig {
        segment_bytes: 128 << 10,
        max_segments: 64,
        cache_bytes: 0,
        ..LogConfig::new(monotonic_clock())
    };
    let (log, committer, _) = SegmentedLog::open(disk, config).unwrap();
    let threads = spawn_committer(committer).unwrap();
    let put = |ops: Vec<LogOp>| {
        let (sender, receiver) = std::sync::mpsc::channel();
        log.submit(ops, Box::new(move |result| sender.send(result).unwrap())).unwrap();
        receiver.recv().unwrap().unwrap();
    };
    put(vec![filler(B, 1, 20, 100)]);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut reads = 0;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for stream in [A, B] {
                    let held = log.read(stream, 0..u64::MAX, usize::MAX).expect("nothing is damaged");
                    assert!(held.iter().all(|(index, entry)| entry[..8] == index.to_le_bytes()));
                    assert!(held.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
                    assert!(stream == A || held.len() == 20);
                    reads += 1;
                }
            }
            reads
        });
        for round in 0..150 {
            put(vec![filler(A, 1 + round * 20, 20, 1000)]);
            put(vec![purge(A, round * 20 + 15)]);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(reader.join().unwrap() > 10);
    });
    threads.close();
}

#[test]
fn a_full_disk_stalls_and_goes_on_when_there_is_room() {
    let (disk, mut bench) = Bench::in_memory();
    bench.put(vec![filler(A, 1, 10, 1000)]);
    disk.set_capacity(Some(disk.used_bytes() + 10_000));
    bench.submit(1, vec![filler(A, 11, 100, 1000)]).unwrap();
    bench.submit(2, vec![vote(B, "v")]).unwrap();
    bench.settle();
    assert_eq!(bench.committer.step(), Step::Stalled);
    assert_eq!(bench.fired(), [], "nothing is acknowledged that has no place");
    assert!(bench.log.submit(vec![vote(B, "w")], Box::new(|_| {})).is_ok(), "it is not poisoned");
    disk.set_capacity(None);
    bench.settle();
    assert_eq!(bench.fired(), [(1, true), (2, true)]);
    let bench = bench.reopen();
    assert_eq!((bench.held(A).len(), bench.log.state(B).unwrap().vote.unwrap()), (110, Bytes::from("w")));
}

#[test]
fn at_the_most_segments_writes_wait_for_a_purge() {
    let config = LogConfig { max_segments: 4, ..small(&TestClock::default()) };
    let mut bench = Bench::open(Arc::new(MemDisk::new()), config);
    bench.put(vec![filler(A, 1, 100, 1000)]);
    bench.submit(1, vec![filler(A, 101, 300, 1000)]).unwrap();
    bench.settle();
    assert_eq!(bench.committer.step(), Step::Stalled);
    assert!(bench.files().len() <= 4);
    assert_eq!(bench.fired(), []);
}

#[test]
fn crashes_during_churn_lose_nothing() {
    for seed in 0..30 {
        let (disk, mut bench) = Bench::in_memory();
        bench.put(vec![filler(B, 1, 3, 200), vote(B, "b")]);
        for round in 0..6 {
            churn(&mut bench, 3);
            let last = bench.log.state(A).unwrap().last.unwrap();
            bench.submit(1, vec![filler(A, last + 1, 10, 1500)]).unwrap();
            bench.submit(2, vec![purge(A, last)]).unwrap();
            for _ in 0..(seed + round) % 7 {
                bench.committer.step();
                bench.maintenance.step();
            }
            disk.crash(&mut SeededChance::new(seed * 100 + round));
            bench = bench.reopen();
            assert_eq!(bench.report.damaged, [], "seed {seed}, round {round}");
            assert_eq!(bench.held(B).len(), 3);
            assert_eq!(bench.log.state(B).unwrap().vote.unwrap(), "b");
            assert!(bench.log.state(A).unwrap().last.unwrap() >= last);
        }
    }
}
