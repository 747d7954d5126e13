//! What a durable append costs, beside what the disk asks for one write and sync at the same time.
//!
//! `cargo bench -p longshore-storage` prints, in one run: the floor (median of one 4 KiB write + fdatasync on a zero-filled
//! file) and one writer's latency, taken in turns; the throughput of 1, 32 and 256 writers; the time to open a log of 1 GiB.
//! `-- latency`, `-- throughput` or `-- recovery` runs one part. The folder is a temporary one, below `LONGSHORE_BENCH_DIR` if that is set: it must be on the disk in question.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use longshore_storage::log::{
    CommitterThreads, LogConfig, RecoveryReport, SegmentedLog, monotonic_clock, spawn_committer,
};
use longshore_storage::{Disk, LogOp, LogStore, RealDisk, StreamId};

const ENTRY_BYTES: usize = 256;
const BLOCK: [u8; 4096] = [7; 4096];
/// Turns of floor and log, and samples of each in a turn.
const TURNS: usize = 60;
const SAMPLES: usize = 50;
/// For each number of writers.
const THROUGHPUT_TIME: Duration = Duration::from_secs(2);
const RECOVERY_BYTES: u64 = 1 << 30;

fn main() {
    // `cargo test --benches` runs this too; it is no test.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let parent = std::env::var_os("LONGSHORE_BENCH_DIR").map_or_else(std::env::temp_dir, Into::into);
    let root = tempfile::tempdir_in(parent).expect("the folder can be made");
    println!("folder {}", root.path().display());
    type Part = (&'static str, fn(&Path));
    let parts: [Part; 3] = [("latency", latency), ("throughput", throughput), ("recovery", recovery)];
    let chosen: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    for (name, part) in parts {
        if chosen.is_empty() || chosen.iter().any(|chosen| chosen == name) {
            part(&root.path().join(name));
        }
    }
}

fn open(root: &Path) -> (SegmentedLog, CommitterThreads, RecoveryReport) {
    let disk = Arc::new(RealDisk::open(root).expect("the folder opens"));
    let (log, committer, report) =
        SegmentedLog::open(disk, LogConfig::new(monotonic_clock())).expect("the log opens");
    let threads = spawn_committer(committer).expect("threads start");
    (log, threads, report)
}

#[expect(clippy::disallowed_methods, reason = "a benchmark measures real time")]
fn now() -> Instant {
    Instant::now()
}

fn append(stream: StreamId, first: u64, entry: &Bytes, count: usize) -> Vec<LogOp> {
    vec![LogOp::Append { stream, first, entries: vec![entry.clone(); count] }]
}

/// Submits and parks until it is durable, as a thread that has nothing else to do.
fn append_and_wait(log: &SegmentedLog, ops: Vec<LogOp>) {
    let done = Arc::new(AtomicBool::new(false));
    let (seen, waiter) = (done.clone(), std::thread::current());
    let callback = move |result: Result<(), _>| {
        let () = result.expect("the disk works");
        seen.store(true, Ordering::Release);
        waiter.unpark();
    };
    log.submit(ops, Box::new(callback)).expect("there is room");
    while !done.load(Ordering::Acquire) {
        std::thread::park();
    }
}

fn percentile(samples: &mut [Duration], percent: usize) -> Duration {
    samples.sort_unstable();
    samples[(samples.len() - 1) * percent / 100]
}

fn latency(root: &Path) {
    let (log, threads, _) = open(root);
    let disk = RealDisk::open(root).expect("the folder opens");
    let floor_file = disk.open("floor", true).expect("the file opens");
    for block in 0..(TURNS * SAMPLES) as u64 {
        floor_file.write_at(&[0; 4096], block * 4096).expect("there is room");
    }
    floor_file.sync_data().expect("the disk works");
    let stream = StreamId { group: 0, replica: 1 };
    let entry = Bytes::from(vec![1; ENTRY_BYTES]);
    let mut next = 1;
    let mut one = || {
        append_and_wait(&log, append(stream, next, &entry, 1));
        next += 1;
    };
    // Until the first segment and its spare are ready.
    (0..500).for_each(|_| one());
    std::thread::park_timeout(Duration::from_secs(2));
    let (mut floors, mut appends, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..TURNS {
        let mut floor: Vec<_> = (0..SAMPLES)
            .map(|sample| {
                let start = now();
                let offset = (turn * SAMPLES + sample) as u64 * 4096;
                floor_file.write_at(&BLOCK, offset).expect("the disk works");
                floor_file.sync_data().expect("the disk works");
                start.elapsed()
            })
            .collect();
        let mut append: Vec<_> = (0..SAMPLES)
            .map(|_| {
                let start = now();
                one();
                start.elapsed()
            })
            .collect();
        let ratio = percentile(&mut append, 50).as_secs_f64() / percentile(&mut floor, 50).as_secs_f64();
        ratios.push(ratio);
        floors.append(&mut floor);
        appends.append(&mut append);
    }
    ratios.sort_by(f64::total_cmp);
    let show = |name: &str, samples: &mut [Duration]| {
        let [p50, p90, p99] = [50, 90, 99].map(|percent| percentile(samples, percent).as_secs_f64() * 1e6);
        println!("{name:<44} p50 {p50:>8.1} us   p90 {p90:>8.1} us   p99 {p99:>8.1} us");
        p50
    };
    let floor = show("floor: 4 KiB write + fdatasync, zero-filled", &mut floors);
    let append = show("one writer: append of 256 B, durable", &mut appends);
    println!(
        "one writer / floor: {:.2} by medians, {:.2} by the median of {TURNS} turns (target <= 1.30)",
        append / floor,
        ratios[TURNS / 2]
    );
    threads.close();
}

/// Durable appends a second of so many writers, each a task with a stream of its own that waits for each append.
fn appends_per_second(log: &SegmentedLog, writers: u64, round: u64) -> f64 {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().expect("it starts");
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let start = now();
    let tasks: Vec<_> = (0..writers)
        .map(|writer| {
            let (log, stop, count) = (log.clone(), stop.clone(), count.clone());
            runtime.spawn(async move {
                let stream = StreamId { group: writer as u32, replica: round * 1000 + writers };
                let entry = Bytes::from(vec![1; ENTRY_BYTES]);
                let mut next = 1;
                while !stop.load(Ordering::Relaxed) {
                    let (sender, receiver) = tokio::sync::oneshot::channel();
                    let done = move |result| drop(sender.send(result));
                    log.submit(append(stream, next, &entry, 1), Box::new(done)).expect("there is room");
                    receiver.await.expect("it is called back").expect("the disk works");
                    next += 1;
                    count.fetch_add(1, Ordering::Relaxed);
                }
                log.submit(vec![LogOp::Tombstone { stream }], Box::new(|_| {})).expect("there is room");
            })
        })
        .collect();
    std::thread::park_timeout(THROUGHPUT_TIME);
    let done = count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    runtime.block_on(async {
        for task in tasks {
            task.await.expect("no writer panics");
        }
    });
    done
}

fn throughput(root: &Path) {
    let (log, threads, _) = open(root);
    appends_per_second(&log, 32, 0);
    let mut best = [0.0f64; 3];
    for round in 1..=3 {
        for (best, writers) in best.iter_mut().zip([1, 32, 256]) {
            *best = best.max(appends_per_second(&log, writers, round));
        }
    }
    for (writers, per_second) in [1, 32, 256].into_iter().zip(best) {
        println!("{writers:>4} writers: {per_second:>9.0} durable appends of 256 B a second (best of 3)");
    }
    println!("256 writers / 1 writer: {:.1} (target >= 30)", best[2] / best[0]);
    threads.close();
}

fn recovery(root: &Path) {
    let (log, threads, _) = open(root);
    let entry = Bytes::from(vec![1; ENTRY_BYTES]);
    let start = now();
    let (mut bytes, mut next) = (0, [1u64; 32]);
    // 32 streams, 40 bytes of record header an entry.
    for turn in 0.. {
        let at = turn % next.len();
        let stream = StreamId { group: at as u32, replica: 1 };
        let ops = append(stream, next[at], &entry, 64);
        next[at] += 64;
        bytes += 64 * (ENTRY_BYTES as u64 + 40);
        if bytes >= RECOVERY_BYTES {
            append_and_wait(&log, ops);
            break;
        }
        let mut ops = Some(ops);
        while let Some(waiting) = ops.take() {
            if log.submit(waiting.clone(), Box::new(|_| {})).is_err() {
                ops = Some(waiting);
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
    let rate = bytes as f64 / start.elapsed().as_secs_f64() / f64::from(1 << 20);
    println!("a log of {} MiB was written with {rate:.0} MiB/s", bytes >> 20);
    // The last full segment gets its footer, as it would in a process that lives on.
    std::thread::park_timeout(Duration::from_secs(2));
    threads.close();
    for cold in [false, true] {
        let disk = Arc::new(RealDisk::open(root).expect("the folder opens"));
        if cold {
            drop_page_cache(&root.join("log"));
        }
        let start = now();
        let (_log, _committer, report) =
            SegmentedLog::open(disk, LogConfig::new(monotonic_clock())).expect("the log opens");
        let took = start.elapsed();
        let cache = if cold { "cold" } else { "warm" };
        println!(
            "recovery of {} entries in {} segments, {} of them scanned, page cache {cache}: {:.2} s (target <= 2)",
            report.entries,
            report.segments,
            report.scanned_segments,
            took.as_secs_f64()
        );
    }
}

fn drop_page_cache(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("the folder is there").flatten() {
        let file = std::fs::File::open(entry.path()).expect("the file is there");
        file.sync_all().expect("the disk works");
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).expect("it is a file");
    }
}
