//! The disk of a host: it outlives the host's processes, loses power, fails, fills up, slows down and rots.
//!
//! ```text
//! Node::run -> Disk port -> file.rs: trace, faults, who may -> MemDisk (what is durable)
//! Ports::drive -> drive.rs: steps the log's committer in virtual time
//! checkers <- durable.rs: what production recovery would find
//! ```
//!
//! Invariants: a call of a process that is dead, or through a handle from before a death or a power loss, fails and changes
//! nothing; every call that is carried out is in the trace. Must never: decide what survives but through the chance it is given.

mod drive;
mod durable;
#[cfg(test)]
mod durable_tests;
mod file;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use longshore_node::node::OpenTables;
use longshore_storage::disk::DiskCall;
use longshore_storage::tables::{MemTables, Opened, Tables};
use longshore_storage::{Disk, MemDisk};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::SmallRng;

pub use self::drive::drive;
pub use self::durable::read_durable;
use crate::event;
use crate::plan::{HostId, Latency};
use crate::random::draw;

/// Tables for one process. They are gone with it: whatever is in tables can be made anew.
pub fn tables_of_a_process() -> OpenTables {
    Arc::new(|| Ok((Arc::new(MemTables::new()) as Arc<dyn Tables>, Opened::Fresh)))
}

/// Where the log of a node lies (`LogConfig::new`), and its snapshots (`Node::run`).
const LOG_DIR: &str = "log";
const SNAPSHOT_DIR: &str = "snapshots";

/// As many of the latest writes to the log are spared by rot: the last batch and whatever was written around it. Whether that
/// batch was acknowledged is known only from what follows it, so damage there can not be told from a torn tail (ARCHITECTURE.md,
/// "Storage"): a promise that the product does not make.
const SPARED_WRITES: usize = 8;

/// A read error strikes one of so many reads: a recovery makes a few for each segment.
const FAILING_READS: u32 = 12;

/// After this long a lying disk has written what it said was synced.
const LIE_MS: u64 = 500;
/// How long a sync in the background waits for more to sync.
const BACKGROUND_SYNC_MS: u64 = 100;

/// A bug planted into the disk or its driver. See [`crate::mutants`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskMutant {
    /// A sync of the log returns at once; the bytes reach the medium half a second later.
    AcknowledgeBeforeSync,
    /// A sync of a folder does nothing.
    SkipDirectorySync,
    /// The log calls back when a batch is written; its sync follows in the background, within a tenth of a second on a fast disk.
    CallBackEarly,
}

/// A host's disk; clones share it. Made in the world, used by one process at a time.
#[derive(Clone)]
pub struct HostDisk {
    shared: Arc<Shared>,
}

struct Shared {
    host: HostId,
    state: Mutex<State>,
}

struct State {
    disk: MemDisk,
    /// A handle works only in the generation it was opened in.
    generation: u64,
    is_full: bool,
    sync: Latency,
    /// For latencies. What a power loss or rot strikes is drawn from the fault's own stream.
    random: SmallRng,
    /// Of the log and of snapshots; the last of them fails.
    reads_until_failure: Option<u32>,
    cut: Option<Cut>,
    /// Power is lost; nothing works until the world says what survived.
    is_dark: bool,
    mutant: Option<DiskMutant>,
    latest_log_writes: VecDeque<(String, Range<u64>)>,
    counts: BTreeMap<&'static str, u64>,
}

/// Power that is lost in the middle of what a process does.
struct Cut {
    calls_left: u64,
    lost: Box<dyn FnOnce() + Send>,
}

impl fmt::Debug for HostDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostDisk({})", self.shared.host)
    }
}

/// The first byte of a part of a file, from `from` on and around, that is not zero.
fn next_written(disk: &MemDisk, path: &str, part: &Range<u64>, from: u64) -> u64 {
    let mut bytes = vec![0; (part.end - part.start) as usize];
    let image = disk.durable_image();
    let read = image.open(path, false).and_then(|file| file.read_at(&mut bytes, part.start));
    read.expect("durable bytes can be read");
    let mut around = (from..part.end).chain(part.start..from);
    around.find(|at| bytes[(at - part.start) as usize] != 0).unwrap_or(from)
}

fn is_in(dir: &str, path: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/'))
}

impl HostDisk {
    /// An empty disk, a sync of which takes `sync`. `random` is its own stream of chance, for latencies.
    pub fn new(host: HostId, sync: Latency, random: SmallRng) -> Self {
        let state = State {
            disk: MemDisk::new(),
            generation: 0,
            is_full: false,
            sync,
            random,
            reads_until_failure: None,
            cut: None,
            is_dark: false,
            mutant: None,
            latest_log_writes: VecDeque::new(),
            counts: BTreeMap::new(),
        };
        Self { shared: Arc::new(Shared { host, state: Mutex::new(state) }) }
    }

    /// The next sync of a file fails, once.
    pub fn fail_next_sync(&self) {
        self.fault("fail_next_sync").disk.fail_nth(DiskCall::Sync, 1);
    }

    /// One of the next few reads of a file of the log or of a snapshot fails, once: which, by chance, so that not only the first read
    /// of a recovery is ever struck.
    pub fn fail_next_read(&self) {
        let mut state = self.fault("fail_next_read");
        state.reads_until_failure = Some(state.random.random_range(1..=FAILING_READS));
    }

    /// No file can grow, until it is said that there is room again.
    pub fn set_full(&self, is_full: bool) {
        let mut state = self.fault(if is_full { "full" } else { "room" });
        state.is_full = is_full;
        state.disk.set_capacity(is_full.then_some(0));
    }

    /// How long a sync of the log takes from now on.
    pub fn set_sync_latency(&self, sync: Latency) {
        self.fault("sync_latency").sync = sync;
    }

    /// There is room, a sync takes `sync` again, and faults that have not struck yet are forgotten. What is lost or rotten stays so.
    pub fn heal(&self, sync: Latency) {
        let mut state = self.fault("heal");
        state.disk.clear_faults();
        state.disk.set_capacity(None);
        state.is_full = false;
        state.sync = sync;
        state.reads_until_failure = None;
        state.cut = None;
    }

    pub fn set_mutant(&self, mutant: Option<DiskMutant>) {
        self.shared.state.lock().mutant = mutant;
    }

    /// The host's process has ended: what it wrote stays, also what it did not sync; its handles fail from now on. A loss of power
    /// in one of its calls, if it did not come to that, does not strike the next process instead.
    pub fn process_died(&self) {
        let mut state = self.fault("process_died");
        state.generation += 1;
        state.cut = None;
    }

    /// Power is lost: each unsynced write is kept, dropped or torn, of each folder's unsynced names a prefix is kept. Also tells
    /// what is left after [`lose_power_at_call`](Self::lose_power_at_call) struck; then the disk works again.
    pub fn power_loss(&self, random: &mut SmallRng) {
        let mut state = self.fault("power_loss");
        state.disk.crash(&mut |bound| random.random_range(0..bound));
        state.generation += 1;
        state.is_dark = false;
        state.cut = None;
    }

    /// The `nth` call from now (1 is the next) and all that follow fail, since power is lost in that moment; `lost` is told then, once,
    /// from within the call. It is to see to it that the process is killed and [`power_loss`](Self::power_loss) called; it may do
    /// both at once.
    pub fn lose_power_at_call(&self, nth: u64, lost: impl FnOnce() + Send + 'static) {
        assert!(nth > 0, "the next call is the first");
        self.fault("lose_power_at_call").cut = Some(Cut { calls_left: nth, lost: Box::new(lost) });
    }

    /// Empties the disk. Handles fail from now on; full and slow stay.
    pub fn wipe(&self) {
        let mut state = self.fault("wipe");
        state.disk = MemDisk::new();
        state.disk.set_capacity(state.is_full.then_some(0));
        state.generation += 1;
        state.is_dark = false;
        state.cut = None;
        state.latest_log_writes.clear();
    }

    /// Empties the log and the snapshots, and leaves the rest, identity included: what a person does who "cleans up" the data of
    /// a node and starts it again. No fault that Longshore has to survive, but the mutant `reuse-replica-id`.
    pub fn lose_log_and_snapshots(&self) {
        let mut state = self.fault("lose_log_and_snapshots");
        for dir in [LOG_DIR, SNAPSHOT_DIR] {
            for name in state.disk.list(dir).unwrap_or_default() {
                state.disk.remove(&format!("{dir}/{name}")).expect("what is listed can be removed");
            }
            // A folder that is not there has nothing to lose.
            let _ = state.disk.sync_dir(dir);
        }
        state.generation += 1;
        state.latest_log_writes.clear();
    }

    /// Flips a bit of what a file of the log or a snapshot durably holds; false if there is nothing to strike.
    pub fn rot(&self, random: &mut SmallRng) -> bool {
        let mut state = self.fault("rot");
        let mut parts = Vec::new();
        for dir in [LOG_DIR, SNAPSHOT_DIR] {
            for name in state.disk.list(dir).unwrap_or_default() {
                let path = format!("{dir}/{name}");
                let written = state.disk.written_parts(&path).unwrap_or_default();
                let is_spared = |part: &Range<u64>| {
                    let overlaps = |range: &Range<u64>| part.start < range.end && range.start < part.end;
                    state.latest_log_writes.iter().any(|(latest, range)| *latest == path && overlaps(range))
                };
                let at_stake = written.into_iter().filter(|part| !is_spared(part));
                parts.extend(at_stake.map(|part| (path.clone(), part)));
            }
        }
        if parts.is_empty() {
            return false;
        }
        let (path, part) = parts.swap_remove(random.random_range(0..parts.len()));
        let (mut offset, bit) = (random.random_range(part.clone()), random.random_range(0..8u8));
        // Most of a block is the padding behind a small batch, where rot changes nothing that counts.
        if random.random_range(0..8) > 0 {
            offset = next_written(&state.disk, &path, &part, offset);
        }
        state.disk.flip_bit(&path, offset, bit).expect("durable bytes are there");
        *state.counts.entry("rotten").or_default() += 1;
        event!("disk h{} rot {path} {offset}.{bit}", self.shared.host);
        true
    }

    /// How many syncs of files were asked for.
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().counts.get("sync").copied().unwrap_or(0)
    }

    /// How many calls of each kind were made, and what of them failed.
    pub fn stats(&self) -> BTreeMap<String, u64> {
        let state = self.shared.state.lock();
        state.counts.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }

    /// What would be left after a power loss that keeps nothing unsynced.
    pub fn durable_image(&self) -> MemDisk {
        self.shared.state.lock().disk.durable_image()
    }

    fn fault(&self, what: &str) -> parking_lot::MutexGuard<'_, State> {
        event!("disk h{} fault {what}", self.shared.host);
        self.shared.state.lock()
    }

    /// How long the next sync takes.
    fn sync_pause(&self) -> Duration {
        let mut state = self.shared.state.lock();
        let sync = state.sync;
        draw(&mut state.random, &sync)
    }

    /// Whether a read error strikes this read.
    fn read_fails(&self, path: &str) -> bool {
        let mut state = self.shared.state.lock();
        let counts = [LOG_DIR, SNAPSHOT_DIR].iter().any(|dir| is_in(dir, path));
        let Some(left) = state.reads_until_failure.as_mut().filter(|_| counts) else { return false };
        *left -= 1;
        let strikes = *left == 0;
        if strikes {
            state.reads_until_failure = None;
        }
        strikes
    }

    fn mutant(&self) -> Option<DiskMutant> {
        self.shared.state.lock().mutant
    }
}
