//! Tests of the whole log, mostly on a disk in memory that loses power.

mod basics;
mod crash;
mod damage;
mod reclaim;
mod wake;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;

use super::*;
use crate::disk::{DiskCall, MemDisk, RealDisk};
use crate::log::{LogOp, LogStore, StreamId};
use crate::{StorageError, StorageResult};

pub(super) const A: StreamId = StreamId { group: 0, replica: 1 };
pub(super) const B: StreamId = StreamId { group: 1, replica: 2 };

/// A clock that a test sets.
#[derive(Debug, Clone, Default)]
pub(super) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(super) fn set(&self, now_ms: u64) {
        self.0.store(now_ms, Ordering::Relaxed);
    }
}

/// Small segments, so that a test goes through many.
pub(super) fn small(clock: &TestClock) -> LogConfig {
    let now = clock.0.clone();
    LogConfig {
        segment_bytes: 64 << 10,
        max_segments: 64,
        max_batch_bytes: 16 << 10,
        cache_bytes: 4 << 10,
        ..LogConfig::new(Arc::new(move || now.load(Ordering::Relaxed)))
    }
}

/// What callbacks brought, in the order they fired.
pub(super) type Fired = Arc<Mutex<Vec<(u64, Result<(), String>)>>>;

/// A log driven by hand.
pub(super) struct Bench {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: LogConfig,
    pub(super) log: SegmentedLog,
    pub(super) committer: Committer,
    pub(super) maintenance: Maintenance,
    pub(super) report: RecoveryReport,
    pub(super) fired: Fired,
}

impl Bench {
    pub(super) fn open(disk: Arc<dyn Disk>, config: LogConfig) -> Self {
        Self::try_open(disk, config).expect("the log opens")
    }

    pub(super) fn try_open(disk: Arc<dyn Disk>, config: LogConfig) -> StorageResult<Self> {
        let (log, committer, report) = SegmentedLog::open(disk.clone(), config.clone())?;
        let maintenance = committer.maintenance();
        let fired = Fired::default();
        Ok(Self { disk, config, log, committer, maintenance, report, fired })
    }

    pub(super) fn in_memory() -> (MemDisk, Self) {
        let disk = MemDisk::new();
        let bench = Self::open(Arc::new(disk.clone()), small(&TestClock::default()));
        (disk, bench)
    }

    /// Opens the log again, without a word to the running one.
    pub(super) fn reopen(self) -> Self {
        let Self { disk, config, committer, .. } = self;
        drop(committer);
        Self::open(disk, config)
    }

    pub(super) fn submit(&self, id: u64, ops: Vec<LogOp>) -> StorageResult<()> {
        let fired = self.fired.clone();
        let done = move |result: StorageResult<()>| {
            fired.lock().push((id, result.map_err(|error| error.to_string())));
        };
        self.log.submit(ops, Box::new(done))
    }

    /// Submits and makes durable.
    pub(super) fn put(&mut self, ops: Vec<LogOp>) {
        self.submit(u64::MAX, ops).expect("the operations are valid");
        self.settle();
        assert_eq!(self.fired.lock().pop(), Some((u64::MAX, Ok(()))));
    }

    /// Steps until there is nothing to do, in the background neither.
    pub(super) fn settle(&mut self) {
        loop {
            let step = self.committer.step();
            let upkeep = self.maintenance.step();
            let rests = matches!(upkeep, Upkeep::Idle | Upkeep::Stopped | Upkeep::Full);
            match step {
                Step::Idle if rests && !self.committer.has_work() => return,
                Step::Stopped | Step::Stalled if rests => return,
                _ => {}
            }
        }
    }

    pub(super) fn fired(&self) -> Vec<(u64, bool)> {
        self.fired.lock().iter().map(|(id, result)| (*id, result.is_ok())).collect()
    }

    pub(super) fn held(&self, stream: StreamId) -> Vec<(u64, Bytes)> {
        self.log.read(stream, 0..u64::MAX, usize::MAX).expect("the stream is whole")
    }

    /// Files of segments, in use or not.
    pub(super) fn files(&self) -> Vec<String> {
        self.disk.list(&self.config.dir).expect("the folder is there")
    }
}

/// Entries of `len` bytes that say their index.
pub(super) fn filler(stream: StreamId, first: u64, count: u64, len: usize) -> LogOp {
    let entry = |index: u64| {
        let mut bytes = vec![0; len.max(8)];
        bytes[..8].copy_from_slice(&index.to_le_bytes());
        Bytes::from(bytes)
    };
    LogOp::Append { stream, first, entries: (first..first + count).map(entry).collect() }
}

pub(super) fn vote(stream: StreamId, text: &'static str) -> LogOp {
    LogOp::SaveVote { stream, vote: Bytes::from_static(text.as_bytes()) }
}

pub(super) fn committed(stream: StreamId, text: &'static str) -> LogOp {
    LogOp::SaveCommitted { stream, committed: Bytes::from_static(text.as_bytes()) }
}

pub(super) fn purge(stream: StreamId, index: u64) -> LogOp {
    LogOp::PurgeTo { stream, index, marker: Bytes::from(format!("purged to {index}")) }
}

mod conformance {
    use super::*;
    use crate::log::conformance::{Fixture, run};

    impl Fixture for Bench {
        fn log(&self) -> Arc<dyn LogStore> {
            Arc::new(self.log.clone())
        }

        fn settle(&mut self) {
            Bench::settle(self);
        }

        fn reopen(self: Box<Self>) -> Option<Box<dyn Fixture>> {
            Some(Box::new(Bench::reopen(*self)))
        }
    }

    #[test]
    fn a_log_on_a_memory_disk_conforms() {
        run(|| Box::new(Bench::in_memory().1));
    }

    struct Threaded {
        _root: tempfile::TempDir,
        disk: Arc<RealDisk>,
        log: SegmentedLog,
        threads: CommitterThreads,
    }

    impl Threaded {
        fn open(root: tempfile::TempDir, disk: Arc<RealDisk>) -> Self {
            let config = LogConfig { segment_bytes: 1 << 20, ..LogConfig::new(monotonic_clock()) };
            let (log, committer, report) = SegmentedLog::open(disk.clone(), config).unwrap();
            assert_eq!(report.damaged, []);
            let threads = spawn_committer(committer).unwrap();
            Self { _root: root, disk, log, threads }
        }
    }

    impl Fixture for Threaded {
        fn log(&self) -> Arc<dyn LogStore> {
            Arc::new(self.log.clone())
        }

        fn settle(&mut self) {
            let (sender, receiver) = std::sync::mpsc::channel();
            self.log.submit(Vec::new(), Box::new(move |result| sender.send(result).unwrap())).unwrap();
            receiver.recv().unwrap().unwrap();
        }

        fn reopen(self: Box<Self>) -> Option<Box<dyn Fixture>> {
            let Self { _root: root, disk, threads, .. } = *self;
            threads.close();
            Some(Box::new(Self::open(root, disk)))
        }
    }

    #[test]
    fn a_log_on_a_real_disk_conforms() {
        run(|| {
            let root = tempfile::tempdir().unwrap();
            let disk = Arc::new(RealDisk::open(root.path()).unwrap());
            Box::new(Threaded::open(root, disk))
        });
    }
}
