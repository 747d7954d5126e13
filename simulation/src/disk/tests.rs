//! The host's disk and its driver: suites of storage, deaths, power losses, slow syncs, rot, planted bugs.

use std::io::ErrorKind;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use longshore_node::node::StartedCommitter;
use longshore_storage::log::conformance::Fixture;
use longshore_storage::log::{LogConfig, SegmentedLog};
use longshore_storage::{LogOp, LogStore, StorageError, StreamId};

use super::*;
use crate::runtime::{Context, HostClock, Pieces, global_ns, run, sleep_global, spawn_in};
use crate::{random, trace};

const USUAL: Latency = Latency::even(100, 400);
const A: StreamId = StreamId { group: 0, replica: 1 };

fn context(name: &str) -> Arc<Context> {
    Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random::stream(7, name))
}

fn disk(seed: u64) -> HostDisk {
    HostDisk::new(1, USUAL, random::stream(seed, "disk 1"))
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config() -> LogConfig {
    LogConfig {
        segment_bytes: 64 << 10,
        max_segments: 64,
        ..LogConfig::new(Arc::new(|| global_ns() / 1_000_000))
    }
}

/// A log that runs on a host's disk.
struct Running {
    log: SegmentedLog,
    started: StartedCommitter,
}

fn start(disk: &HostDisk) -> Result<Running, StorageError> {
    let (log, committer, report) = SegmentedLog::open(Arc::new(disk.clone()), config())?;
    match report.damaged.into_iter().next() {
        Some((_, damage)) => {
            Err(StorageError::Damaged { file: damage.file, offset: damage.offset, detail: damage.detail })
        }
        None => Ok(Running { log, started: drive(disk)(committer).expect("nothing can go wrong") }),
    }
}

fn entry(index: u64) -> Bytes {
    Bytes::from(format!("entry {index} {}", "x".repeat((index * 37 % 900) as usize)))
}

/// Appends one entry after the other, each when the one before is durable; `acked` says how far it came.
async fn append(log: SegmentedLog, acked: Arc<AtomicU64>) {
    let first = log.state(A).expect("the stream is whole").last.unwrap_or(0) + 1;
    for index in first.. {
        let (done, durable) = tokio::sync::oneshot::channel();
        let op = LogOp::Append { stream: A, first: index, entries: vec![entry(index)] };
        let fire = Box::new(move |result| drop(done.send(result)));
        if log.submit(vec![op], fire).is_err() || !matches!(durable.await, Ok(Ok(()))) {
            return;
        }
        acked.fetch_max(index, Ordering::Relaxed);
        sleep_global(ms(1)).await;
    }
}

#[test]
fn the_disk_conforms() {
    let world = context("world");
    run(&world, async {
        longshore_storage::disk::conformance::run(|| (Arc::new(disk(1)), Box::new(())));
    });
}

struct Driven {
    pieces: Rc<Pieces>,
    disk: HostDisk,
    running: Running,
}

impl Fixture for Driven {
    fn log(&self) -> Arc<dyn LogStore> {
        Arc::new(self.running.log.clone())
    }

    fn settle(&mut self) {
        let (done, called_back) = tokio::sync::oneshot::channel();
        let fire = Box::new(move |result| drop(done.send(result)));
        self.running.log.submit(Vec::new(), fire).expect("there is room");
        self.pieces.run(called_back).expect("it is called back").expect("the disk has no faults");
    }

    fn reopen(self: Box<Self>) -> Option<Box<dyn Fixture>> {
        let Self { pieces, disk, running } = *self;
        pieces.run(running.started);
        Some(Box::new(Self { running: start(&disk).expect("it opens again"), pieces, disk }))
    }
}

#[test]
fn a_driven_log_conforms() {
    let pieces = Rc::new(Pieces::new(&context("world")));
    pieces.enter(|| {
        longshore_storage::log::conformance::run(|| {
            let disk = disk(1);
            let running = start(&disk).expect("an empty disk opens");
            Box::new(Driven { pieces: Rc::clone(&pieces), disk, running })
        });
    });
}

#[test]
fn the_dead_write_no_more_and_what_they_wrote_stays() {
    let world = context("world");
    run(&world, async {
        let disk = disk(1);
        let file = disk.open("file", true).unwrap();
        file.write_at(b"unsynced", 0).unwrap();
        disk.process_died();
        assert!(file.write_at(b"x", 0).is_err() && file.sync_data().is_err() && file.len().is_err());
        let mut found = [0; 9];
        assert_eq!(disk.open("file", false).unwrap().read_at(&mut found, 0).unwrap(), 8);
        assert_eq!(&found[..8], b"unsynced");

        let process = context("process");
        process.enter(|| assert!(disk.open("file", false).is_ok()));
        process.kill();
        process.enter(|| assert!(disk.open("file", false).is_err(), "nor does it open anything"));

        let file = disk.open("file", false).unwrap();
        disk.power_loss(&mut random::stream(3, "fault"));
        assert!(file.read_at(&mut found, 0).is_err());
        disk.open("file", true).unwrap();
        disk.wipe();
        assert_eq!(disk.list("").unwrap(), [""; 0]);
    });
}

#[test]
fn injected_faults_strike_once_or_until_they_are_healed() {
    let world = context("world");
    run(&world, async {
        let disk = disk(1);
        let file = disk.open("file", true).unwrap();
        file.write_at(b"abc", 0).unwrap();
        disk.fail_next_sync();
        assert!(file.sync_data().is_err());
        assert!(file.sync_data().is_ok());
        disk.create_dir(LOG_DIR).unwrap();
        let in_log = disk.open("log/file", true).unwrap();
        disk.fail_next_read();
        let failed = (0..50).filter(|_| {
            assert!(file.read_at(&mut [0], 0).is_ok(), "only the log's and snapshots' reads fail");
            in_log.read_at(&mut [0], 0).is_err()
        });
        assert_eq!(failed.count(), 1);
        disk.set_full(true);
        assert!(file.write_at(b"xyz", 0).is_ok());
        assert_eq!(file.write_at(b"d", 3).unwrap_err().kind(), ErrorKind::StorageFull);
        disk.wipe();
        let file = disk.open("file", true).unwrap();
        assert!(file.write_at(b"d", 0).is_err(), "whatever fills it is not ours to wipe");
        disk.fail_next_sync();
        disk.heal(USUAL);
        assert!(file.write_at(b"d", 0).is_ok() && file.sync_data().is_ok());
        assert_eq!(disk.stats()["failed"], 4);
    });
}

#[test]
fn power_can_be_lost_within_any_call() {
    let world = context("world");
    run(&world, async {
        let mut outcomes = std::collections::BTreeSet::new();
        for nth in 1..=20 {
            let (disk, lost) = (disk(nth), Arc::new(AtomicBool::new(false)));
            let (of_world, told) = (disk.clone(), lost.clone());
            let save = |disk: &HostDisk, text: &str| -> std::io::Result<()> {
                let file = disk.open("new", true)?;
                file.write_at(text.as_bytes(), 0)?;
                file.sync_data()?;
                disk.rename("new", "file")?;
                disk.sync_dir("")
            };
            save(&disk, "old").unwrap();
            disk.lose_power_at_call(nth, move || {
                of_world.power_loss(&mut random::stream(nth, "fault"));
                told.store(true, Ordering::Relaxed);
            });
            let saved = save(&disk, "new");
            assert_eq!(saved.is_err(), lost.load(Ordering::Relaxed));
            assert_eq!(saved.is_err(), nth <= 5, "it makes five calls");
            disk.heal(USUAL);
            let mut found = [0; 3];
            disk.open("file", false).unwrap().read_at(&mut found, 0).unwrap();
            outcomes.insert((saved.is_ok(), String::from_utf8_lossy(&found).into_owned()));
        }
        assert!(
            outcomes.contains(&(true, "new".to_owned())) && outcomes.contains(&(false, "old".to_owned()))
        );
        assert!(!outcomes.contains(&(true, "old".to_owned())));

        let disk = disk(1);
        disk.lose_power_at_call(1, || {});
        assert!(disk.list("").is_err() && disk.list("").is_err(), "it stays dark");
        disk.power_loss(&mut random::stream(1, "fault"));
        assert!(disk.list("").is_ok());
        disk.lose_power_at_call(1, || unreachable!("the process has ended before"));
        disk.process_died();
        assert!(disk.list("").is_ok());
    });
}

#[test]
fn slow_syncs_show_in_the_age_of_the_oldest_write_and_crashes_fall_in_between() {
    let world = context("world");
    run(&world, async {
        let disk = disk(1);
        let Running { log, started: _started } = start(&disk).unwrap();
        let acked = Arc::new(AtomicU64::new(0));
        sleep_global(ms(500)).await;
        disk.set_sync_latency(Latency::even(3_000_000, 3_000_000));
        drop(spawn_in(&world_of(), append(log.clone(), acked.clone())));
        sleep_global(ms(2_000)).await;
        assert!((1_900..=2_000).contains(&log.oldest_unsynced_ms()), "{}", log.oldest_unsynced_ms());
        assert_eq!(acked.load(Ordering::Relaxed), 0);
        assert_eq!(disk.stats()["sync"], stats_after(&disk, ms(900)).await, "the sync comes at its end");
        sleep_global(ms(200)).await;
        assert_eq!(acked.load(Ordering::Relaxed), 1);
        assert!(log.oldest_unsynced_ms() < 200);
    });
}

fn world_of() -> Arc<Context> {
    crate::runtime::current()
}

async fn stats_after(disk: &HostDisk, pause: Duration) -> u64 {
    sleep_global(pause).await;
    disk.stats()["sync"]
}

#[test]
fn a_full_disk_stalls_the_log_until_there_is_room() {
    let world = context("world");
    run(&world, async {
        let disk = disk(1);
        let Running { log, started: _started } = start(&disk).unwrap();
        let acked = Arc::new(AtomicU64::new(0));
        drop(spawn_in(&world_of(), append(log.clone(), acked.clone())));
        sleep_global(ms(100)).await;
        disk.set_full(true);
        sleep_global(ms(10_000)).await;
        let stalled_at = acked.load(Ordering::Relaxed);
        assert!(stalled_at > 10 && log.oldest_unsynced_ms() > 5_000, "{stalled_at}");
        disk.set_full(false);
        sleep_global(ms(1_000)).await;
        assert!(acked.load(Ordering::Relaxed) > stalled_at);
    });
}

/// Rounds of a process that appends until it is killed or loses power; each must find all that was acknowledged. Returns how
/// often it did not.
fn losses(seed: u64, mutant: Option<DiskMutant>) -> u64 {
    let world = context("world");
    run(&world, async {
        let disk = disk(seed);
        disk.set_mutant(mutant);
        let mut random = random::stream(seed, "fault");
        let acked = Arc::new(AtomicU64::new(0));
        let mut lost = 0;
        for round in 0..12u64 {
            let process = context(&format!("process {round}"));
            let opened = process.enter(|| {
                let running = start(&disk)?;
                let last = running.log.state(A)?.last.unwrap_or(0);
                Ok((running, last))
            });
            let (Running { log, started: _started }, last) = match opened {
                Ok(opened) => opened,
                Err(error) if mutant.is_some() => {
                    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
                    return lost + 1;
                }
                Err(error) => panic!("seed {seed}, round {round}: {error}"),
            };
            if last < acked.swap(last, Ordering::Relaxed) {
                assert!(mutant.is_some(), "seed {seed}, round {round}: {acked:?}, but {last} is left");
                lost += 1;
            }
            let held = log.read(A, 0..u64::MAX, usize::MAX).expect("the stream is whole");
            assert!(held.iter().all(|(index, bytes)| *bytes == entry(*index)));
            assert_eq!(held.len() as u64, last);
            if random.random_range(0..3) == 0 {
                disk.set_sync_latency(Latency::even(20_000, 200_000));
            }
            drop(spawn_in(&process, append(log, acked.clone())));
            sleep_global(ms(random.random_range(1..400))).await;
            process.kill();
            if random.random_range(0..3) == 0 {
                disk.process_died();
            } else {
                disk.power_loss(&mut random);
            }
            disk.heal(USUAL);
        }
        assert!(
            mutant.is_some() || acked.load(Ordering::Relaxed) > 100,
            "seed {seed} got nowhere: {acked:?}"
        );
        lost
    })
}

#[test]
fn a_driven_log_loses_nothing_that_was_acknowledged() {
    assert_eq!((0..15).map(|seed| losses(seed, None)).sum::<u64>(), 0);
}

#[test]
fn each_planted_bug_loses_something() {
    for mutant in
        [DiskMutant::AcknowledgeBeforeSync, DiskMutant::SkipDirectorySync, DiskMutant::CallBackEarly]
    {
        let struck = (0..12).filter(|seed| losses(*seed, Some(mutant)) > 0).count();
        assert!(struck >= 3, "{mutant:?} struck in {struck} of 12 seeds");
    }
}

#[test]
fn rot_is_found_and_the_last_batch_is_spared() {
    let (mut found, mut harmless) = (0, 0);
    for seed in 0..40 {
        let world = context("world");
        run(&world, async {
            let disk = disk(seed);
            let mut random = random::stream(seed, "fault");
            assert!(!disk.rot(&mut random), "an empty disk has nothing to rot");
            let running = start(&disk).unwrap();
            let acked = Arc::new(AtomicU64::new(0));
            drop(spawn_in(&world_of(), append(running.log.clone(), acked.clone())));
            sleep_global(ms(300)).await;
            let acked = acked.load(Ordering::Relaxed);
            assert!(disk.rot(&mut random), "the log was written");
            disk.power_loss(&mut random);
            // Whatever was struck: it is noticed, or all that was acknowledged is there.
            match start(&disk).and_then(|running| running.log.read(A, 0..u64::MAX, usize::MAX)) {
                Ok(held) => {
                    assert!(held.len() as u64 >= acked, "seed {seed}: {} of {acked}", held.len());
                    assert!(held.iter().all(|(index, bytes)| *bytes == entry(*index)));
                    harmless += 1;
                }
                Err(error) => {
                    assert!(matches!(error, StorageError::Damaged { .. }), "{error}");
                    found += 1;
                }
            }
        });
    }
    assert!(found > 5 && harmless > 0, "{found} {harmless}");
}

#[test]
fn a_seed_is_one_course() {
    let course = |seed: u64| {
        let whole_run = move || {
            trace::begin(None);
            assert_eq!(losses(seed, None), 0);
            trace::end().unwrap()
        };
        std::thread::scope(|scope| scope.spawn(whole_run).join().unwrap())
    };
    let first = course(1);
    assert!(first.events > 1_000, "{first:?}");
    assert_eq!(course(1), first);
    assert_ne!(course(2).hash, first.hash);
}
