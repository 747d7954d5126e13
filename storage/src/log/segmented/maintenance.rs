//! Work that must not delay commits: fresh segments, footers of full ones, dropping and rewriting old ones.
//!
//! Steppable like the committer, and driven beside it: by a thread of its own, or by a simulation. Each step is one piece of
//! bounded size. Invariants:
//! - a segment is handed to the committer only when its header (with an epoch never used before), its length and its
//!   name are durable;
//! - footers are written oldest first, so that a segment without one is followed by its direct successor;
//! - a segment is dropped only when nothing in it is live, its footer and all older ones are durable; its file is used
//!   anew only when the record that drops it is durable.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::format::{BLOCK_BYTES, SegmentHeader};
use super::record::{Item, RECORD_HEADER_BYTES};
use super::segment::Segment;
use super::shared::{Seal, Shared, State, Wake};
use crate::disk::DiskFile;

/// Bytes of zeros that one step writes and syncs: a commit that comes in between waits for a quarter of a
/// megabyte at most.
const FILL_BYTES: u32 = 256 << 10;
/// The same when the committer has nothing to go on with, so that there are no commits to come in between.
const URGENT_FILL_BYTES: u32 = 8 << 20;
/// Bytes of live records that wait to be moved; more are read when these are written.
const MOVE_QUEUE_BYTES: usize = 256 << 10;
/// Records of a segment being rewritten that one step looks up under the lock.
const REWRITE_LOOKUPS: usize = 1024;
/// Files kept for use anew; more are removed.
const MAX_FREE_FILES: usize = 2;

/// The background work of one log; clones share it.
#[derive(Debug, Clone)]
pub struct Maintenance {
    shared: Arc<Shared>,
    jobs: Arc<Mutex<Jobs>>,
}

/// What a step of maintenance did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upkeep {
    /// Nothing: there is nothing to do until the committer has written more.
    Idle,
    /// One piece of work; there may be more.
    Worked,
    /// There is no room for another segment. Try again after a pause.
    Full,
    /// The log is closed or poisoned.
    Stopped,
}

#[derive(Debug, Default)]
struct Jobs {
    filling: Option<Filling>,
    rewriting: Option<Rewriting>,
}

/// A new file being filled with zeros: overwriting allocated blocks later takes no change of metadata, and so a sync half as
/// long.
#[derive(Debug)]
struct Filling {
    path: String,
    file: Arc<dyn DiskFile>,
    filled: u32,
}

/// An old segment whose live records are being moved.
#[derive(Debug)]
struct Rewriting {
    segment: Arc<Segment>,
    /// Records not yet looked up, last first.
    items: Vec<Item>,
}

impl Maintenance {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, jobs: Arc::default() }
    }

    /// Does one piece of work. Blocks on the disk.
    pub fn step(&self) -> Upkeep {
        let mut jobs = self.jobs.lock();
        let mut state = self.shared.state.lock();
        if state.stopped.is_some() {
            return Upkeep::Stopped;
        }
        state.work.wanted = false;
        // A loss must be on record before the footer hides it: recovery looks for rot only where there is no footer.
        let loss_is_recorded = state.lost.as_ref().is_none_or(|lost| lost.recorded);
        if loss_is_recorded && let Some(seal) = state.work.to_seal.pop_front() {
            drop(state);
            return self.seal(seal);
        }
        // What frees room comes before what needs it.
        if state.find_reclaims() {
            return Upkeep::Worked;
        }
        if state.work.free.len() > MAX_FREE_FILES
            && let Some(segment) = state.work.free.pop()
        {
            drop(state);
            return self.settle("removing a segment", self.remove(&segment.path));
        }
        let wants_spare = state.work.spares.len() < self.shared.config.spare_segments;
        drop(state);
        if !wants_spare {
            return self.rewrite(&mut jobs);
        }
        match self.prepare_with(&mut jobs) {
            Upkeep::Full if self.rewrite(&mut jobs) == Upkeep::Worked => Upkeep::Worked,
            upkeep => upkeep,
        }
    }

    /// Blocks until there may be work, or the time is over; false once the log is stopped.
    pub fn wait(&self, timeout: std::time::Duration) -> bool {
        let mut state = self.shared.state.lock();
        if !state.work.wanted && state.stopped.is_none() {
            self.shared.maintenance_wanted.wait_for(&mut state, timeout);
        }
        state.stopped.is_none()
    }

    /// For a driver that must not block in [`wait`](Self::wait): `wake` is called whenever `wait` would return. All that it may do is
    /// to wake a task. The first one stays.
    pub fn set_wake(&self, wake: Wake) {
        self.shared.wake_maintenance.get_or_init(|| wake);
    }

    /// Whether the committer has no fresh segment to go on to.
    pub fn is_behind(&self) -> bool {
        self.shared.state.lock().work.spares.is_empty()
    }

    /// A piece of the work to get a fresh segment, for the committer when it has none.
    pub(super) fn prepare(&self) -> Upkeep {
        let mut jobs = self.jobs.lock();
        // The background may have got there in the meantime.
        if !self.is_behind() {
            return Upkeep::Worked;
        }
        self.prepare_with(&mut jobs)
    }

    fn prepare_with(&self, jobs: &mut Jobs) -> Upkeep {
        let result = match jobs.filling.take() {
            Some(filling) => self.fill(filling, jobs),
            None => self.begin_spare(jobs),
        };
        match result {
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "there is no room for a log segment");
                Upkeep::Full
            }
            result => self.settle("preparing a segment", result),
        }
    }

    fn settle(&self, doing: &str, result: io::Result<()>) -> Upkeep {
        match result {
            Ok(()) => Upkeep::Worked,
            Err(error) => {
                self.shared.poison(doing, &error);
                Upkeep::Stopped
            }
        }
    }

    /// Takes a free file, or begins a new one.
    fn begin_spare(&self, jobs: &mut Jobs) -> io::Result<()> {
        let config = &self.shared.config;
        let mut state = self.shared.state.lock();
        if let Some(free) = state.work.free.pop() {
            drop(state);
            if free.bytes != config.segment_bytes {
                return self.remove(&free.path);
            }
            return self.hand_over(free.path.clone(), free.file.clone());
        }
        if state.segments.len() + state.work.spares.len() >= config.max_segments {
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, "the log has its most segments"));
        }
        let number = state.work.next_file;
        state.work.next_file += 1;
        drop(state);
        let path = segment_path(&config.dir, number);
        let file = self.shared.disk.open(&path, true)?;
        self.fill(Filling { path, file, filled: 0 }, jobs)
    }

    fn fill(&self, mut filling: Filling, jobs: &mut Jobs) -> io::Result<()> {
        let config = &self.shared.config;
        let step = if self.is_behind() { URGENT_FILL_BYTES } else { FILL_BYTES };
        let count = step.min(config.segment_bytes - filling.filled);
        let written = filling.file.write_zeros(filling.filled.into(), count.into());
        if let Err(error) = written.and_then(|()| filling.file.sync_data()) {
            // Give back what the file took; recovery would remove it too.
            if is_full(&error) {
                self.remove(&filling.path)?;
            }
            return Err(error);
        }
        filling.filled += count;
        if filling.filled < config.segment_bytes {
            jobs.filling = Some(filling);
            return Ok(());
        }
        self.shared.disk.sync_dir(&config.dir)?;
        self.hand_over(filling.path, filling.file)
    }

    /// Gives a file its next epoch, durably, and hands it to the committer.
    fn hand_over(&self, path: String, file: Arc<dyn DiskFile>) -> io::Result<()> {
        let epoch = {
            let mut state = self.shared.state.lock();
            let epoch = state.work.next_epoch;
            state.work.next_epoch = epoch.checked_add(1).expect("epochs last for exabytes");
            epoch
        };
        let bytes = self.shared.config.segment_bytes;
        let header = SegmentHeader { epoch, segment_bytes: bytes }.encode();
        file.write_at(&header, 0)?;
        file.write_at(&header, BLOCK_BYTES.into())?;
        file.sync_data()?;
        let mut state = self.shared.state.lock();
        state.work.spares.push_back(Arc::new(Segment { epoch, path, bytes, file }));
        // The committer may be waiting for room.
        state.nudge_committer();
        Ok(())
    }

    fn seal(&self, seal: Seal) -> Upkeep {
        let Segment { epoch, bytes, file, .. } = &*seal.segment;
        let footer = seal.footer.finish(*epoch, *bytes, seal.last);
        let result = file.write_at(&footer, u64::from(*bytes)).and_then(|()| file.sync_data());
        let mut state = self.shared.state.lock();
        match result {
            // The data of the segment is durable without its footer, so the whole footer can be written again.
            Err(error) if is_full(&error) => {
                tracing::warn!(%error, "there is no room for the footer of a log segment");
                state.work.to_seal.push_front(seal);
                return Upkeep::Full;
            }
            Ok(()) => {
                if let Some(status) = state.segments.get_mut(epoch) {
                    status.sealed = true;
                }
            }
            Err(_) => {}
        }
        drop(state);
        self.settle("sealing a segment", result)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.shared.disk.remove(path)?;
        self.shared.disk.sync_dir(&self.shared.config.dir)
    }

    /// Moves the live records of a segment that is mostly dead, a few at a time.
    fn rewrite(&self, jobs: &mut Jobs) -> Upkeep {
        let Some(rewriting) = jobs.rewriting.as_mut() else {
            let victim = self.shared.state.lock().find_victim(self.shared.config.rewrite_below_percent);
            let Some(segment) = victim else { return Upkeep::Idle };
            let items = match segment.read_footer() {
                Ok(Some((_, mut items))) => {
                    items.reverse();
                    items
                }
                Ok(None) => Vec::new(),
                Err(error) => {
                    tracing::warn!(%error, "a log segment can not be rewritten");
                    Vec::new()
                }
            };
            jobs.rewriting = Some(Rewriting { segment, items });
            return Upkeep::Worked;
        };
        let epoch = rewriting.segment.epoch;
        let mut live = Vec::new();
        {
            let mut state = self.shared.state.lock();
            if !state.work.moves.is_empty() {
                return Upkeep::Idle;
            }
            if rewriting.items.is_empty() {
                // All that could be moved has been; what is still live could not be read, or will not be needed long.
                let emptied = state.index.usage(epoch).records == 0;
                if let Some(status) = state.segments.get_mut(&epoch) {
                    status.rewrite_failed = !emptied;
                }
                jobs.rewriting = None;
                return Upkeep::Worked;
            }
            let mut bytes = 0;
            let from = rewriting.items.len().saturating_sub(REWRITE_LOOKUPS);
            while rewriting.items.len() > from
                && bytes < MOVE_QUEUE_BYTES
                && let Some(item) = rewriting.items.pop()
            {
                // An entry from larger segments may not fit one of today's size; it stays where it is.
                let fits = item.location.len as usize <= self.shared.config.entry_limit();
                if fits && state.index.is_live(&item) {
                    bytes += RECORD_HEADER_BYTES + item.location.len as usize;
                    live.push(item);
                }
            }
        }
        let read = |item: Item| match rewriting.segment.read_record(item.location) {
            Ok((_, payload)) => Some((item, payload)),
            Err(error) => {
                // Its stream learns of it when it reads the entry, or at the next start.
                tracing::warn!(%error, stream = %item.stream, "a live record can not be moved");
                None
            }
        };
        let moves: Vec<_> = live.into_iter().filter_map(read).collect();
        if !moves.is_empty() {
            let mut state = self.shared.state.lock();
            state.work.moves.extend(moves);
            state.nudge_committer();
        }
        Upkeep::Worked
    }
}

impl State {
    /// Looks for segments to drop; true if there are some.
    fn find_reclaims(&mut self) -> bool {
        let mut found = false;
        for (epoch, status) in &mut self.segments {
            if !status.sealed {
                break;
            }
            if !status.reclaiming && self.index.usage(*epoch).records == 0 {
                status.reclaiming = true;
                self.work.reclaims.push_back(*epoch);
                found = true;
            }
        }
        if found {
            self.nudge_committer();
        }
        found
    }

    /// The oldest segment with few live records.
    fn find_victim(&self, below_percent: u8) -> Option<Arc<Segment>> {
        let is_victim = |epoch: u32, bytes: u32| {
            let usage = self.index.usage(epoch);
            usage.records > 0 && usage.bytes * 100 < u64::from(bytes) * u64::from(below_percent)
        };
        self.segments
            .iter()
            .take_while(|(_, status)| status.sealed)
            .find(|(epoch, status)| !status.rewrite_failed && is_victim(**epoch, status.segment.bytes))
            .map(|(_, status)| status.segment.clone())
    }
}

/// The path of a segment file. Its number says nothing of its age: files are used again.
pub(super) fn segment_path(dir: &str, number: u64) -> String {
    format!("{dir}/{number:08}.segment")
}

/// The number in a file's name, if it is a segment's.
pub(super) fn segment_number(name: &str) -> Option<u64> {
    name.strip_suffix(".segment")?.parse().ok()
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
