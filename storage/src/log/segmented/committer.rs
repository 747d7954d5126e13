//! The committer: takes what is queued, writes it, syncs it, then calls back. A state machine without thread or clock.
//!
//! Each [`Committer::step`] makes at most one call of weight to the disk: the write of a batch, or its sync. So a simulation
//! can let time pass, or the power fail, between the two. Invariants:
//! - one batch at a time is not durable; the next is written only after its sync returned;
//! - callbacks fire in the order of the submits, after the sync, without a lock held;
//! - a failed write or sync ends everything: nothing is retried (see [`crate::StorageError::Poisoned`]).

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use crossbeam::channel::{Receiver, RecvTimeoutError, TryRecvError};

use super::super::{OnDurable, StreamId};
use super::batch::{BATCH_HEADER_BYTES, BatchBuilder, LastBatch};
use super::footer::FooterBuilder;
use super::format::{DATA_START, Position, padded};
use super::handle::SegmentedLog;
use super::maintenance::{Maintenance, Upkeep};
use super::publish::Finished;
use super::record::Record;
use super::segment::Segment;
use super::shared::{Message, Seal, SegmentState, Shared, Stopped, Submit, Wake};
use crate::StorageError;

/// Bytes of moved records that ride along with a batch, so that rewriting delays commits by less than a millisecond.
const MOVED_BYTES_PER_BATCH: usize = 128 << 10;

/// Makes submits durable. Made by [`super::SegmentedLog::open`]; driven by [`super::spawn_committer`] or a simulation.
pub struct Committer {
    shared: Arc<Shared>,
    maintenance: Maintenance,
    receiver: Receiver<Message>,
    /// Received and not yet wholly written; of the first, this many records are.
    incoming: VecDeque<Submit>,
    incoming_written: usize,
    active: Option<Active>,
    batch: BatchBuilder,
    /// Callbacks of submits whose last record is in the batch.
    finished: Vec<Finished>,
    /// Committed positions that wait for a batch to ride along with.
    hints: BTreeMap<StreamId, Bytes>,
    last: Option<LastBatch>,
    phase: Phase,
    /// Nothing was written or hinted at since the mark.
    marked: bool,
    disconnected: bool,
    /// Maintenance has something to write.
    nudged: bool,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    /// Where the next batch goes.
    pub(super) tail: u32,
    pub(super) footer: FooterBuilder,
}

/// Where recovery left the log.
#[derive(Debug)]
pub(super) struct Resume {
    pub(super) active: Option<Active>,
    pub(super) last: Option<LastBatch>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Idle,
    /// A batch that ends there was written.
    Written {
        end: u32,
    },
    Stopped,
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing: nothing is queued.
    Idle,
    /// Wrote a batch of this many bytes. It is not durable yet; the next step syncs it.
    Wrote { bytes: usize },
    /// Made the batch durable and called back this many submits.
    Synced { submits: usize },
    /// Worked on a fresh segment, since none was ready.
    Prepared,
    /// There is no room for a segment. Step again after a pause.
    Stalled,
    /// The log is closed or poisoned, and every callback was made. There will be nothing more to do.
    Stopped,
}

/// Why no batch could be put together.
enum NoRoom {
    Prepared,
    Stalled,
    Poisoned,
}

impl Committer {
    pub(super) fn new(
        shared: Arc<Shared>,
        maintenance: Maintenance,
        receiver: Receiver<Message>,
        resume: Resume,
    ) -> Self {
        Self {
            shared,
            maintenance,
            receiver,
            incoming: VecDeque::new(),
            incoming_written: 0,
            active: resume.active,
            batch: BatchBuilder::new(),
            finished: Vec::new(),
            hints: BTreeMap::new(),
            last: resume.last,
            phase: Phase::Idle,
            marked: true,
            disconnected: false,
            nudged: true,
        }
    }

    /// The log that it makes durable.
    pub fn log(&self) -> SegmentedLog {
        SegmentedLog::new(self.shared.clone())
    }

    /// The work in the background that belongs to this log, to be driven beside the committer.
    pub fn maintenance(&self) -> Maintenance {
        self.maintenance.clone()
    }

    /// Takes the next step. Blocks only on the disk.
    pub fn step(&mut self) -> Step {
        match self.phase {
            Phase::Idle => self.begin(),
            Phase::Written { end } => self.sync(end),
            Phase::Stopped => Step::Stopped,
        }
    }

    /// For a driver that must not block in [`wait`](Self::wait): `wake` is called whenever `wait` would return, so for each submit,
    /// a fresh segment, room that was freed, a close. It may come too often, never too late: step until `Idle`, then sleep until it
    /// is called. It runs on the caller's thread under the log's lock, so all that it may do is to wake a task. Maintenance has one of
    /// its own.
    pub fn set_wake(&self, wake: Wake) {
        self.shared.state.lock().queue.wake = Some(wake);
    }

    /// Whether a step would do something.
    pub fn has_work(&mut self) -> bool {
        match self.phase {
            Phase::Idle => {
                self.receive();
                !self.incoming.is_empty() || self.nudged || self.disconnected
            }
            Phase::Written { .. } => true,
            Phase::Stopped => false,
        }
    }

    /// Whether the log was closed; what it took before is still made durable.
    pub fn is_closing(&self) -> bool {
        self.shared.state.lock().stopped.is_some()
    }

    /// Waits until something is submitted, or the log is closed, or the time is over; true if there is work.
    pub fn wait(&mut self, timeout: Option<Duration>) -> bool {
        if self.has_work() {
            return true;
        }
        let message = match timeout {
            Some(timeout) => self.receiver.recv_timeout(timeout),
            None => self.receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match message {
            Ok(message) => self.take_message(message),
            Err(RecvTimeoutError::Disconnected) => self.disconnected = true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
        true
    }

    /// For a quiet moment: writes an empty batch behind the last one, once, without a sync. It proves to a later recovery
    /// that the last batch was acknowledged, and carries the committed positions that found no batch to ride along with.
    /// The next batch overwrites it. Returns whether it wrote.
    pub fn mark(&mut self) -> bool {
        self.take_hints(true);
        if self.phase != Phase::Idle || self.marked {
            return false;
        }
        let Some(active) = &self.active else { return false };
        let (tail, room) = (active.tail, active.segment.bytes - active.tail);
        if tail == DATA_START || (room as usize) < BATCH_HEADER_BYTES {
            return false;
        }
        self.batch.begin(Position { epoch: active.segment.epoch, offset: tail });
        for (stream, committed) in &self.hints {
            let record = Record::Committed { stream: *stream, committed: committed.clone() };
            if padded((self.batch.len() + record.encoded_len()) as u32) > room {
                break;
            }
            self.batch.push(&record);
        }
        let bytes = self.batch.finish(next_sequence(self.last), self.last.map(|last| last.as_previous));
        if let Err(error) = active.segment.file.write_at(bytes, tail.into()) {
            self.shared.poison(&format!("writing {}", active.segment.path), &error);
            self.stop();
        }
        self.marked = true;
        true
    }

    /// Takes the hints that nobody was woken for. They are older than all that was not received yet: they are taken only while all is durable.
    /// Returns whether the log was stopped by a fault.
    fn take_hints(&mut self, quiet: bool) -> bool {
        let mut state = self.shared.state.lock();
        state.queue.quiet = quiet;
        let hints = std::mem::take(&mut state.queue.hints);
        let poisoned = matches!(state.stopped, Some(Stopped::Poisoned(_)));
        drop(state);
        self.marked &= hints.is_empty();
        self.hints.extend(hints);
        poisoned
    }

    fn receive(&mut self) {
        loop {
            match self.receiver.try_recv() {
                Ok(message) => self.take_message(message),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.disconnected = true;
                    return;
                }
            }
        }
    }

    fn take_message(&mut self, message: Message) {
        match message {
            Message::Submit(submit) => self.incoming.push_back(submit),
            Message::Nudge => {
                self.shared.state.lock().queue.nudged = false;
                self.nudged = true;
            }
        }
    }

    fn begin(&mut self) -> Step {
        self.receive();
        self.nudged = false;
        if self.take_hints(false) {
            return self.stop();
        }
        let hinted = self.fire_leading_hints();
        match self.build() {
            Ok(true) => self.write(),
            Ok(false) if hinted > 0 => Step::Synced { submits: hinted },
            Ok(false) if self.disconnected => self.finish(),
            Ok(false) => Step::Idle,
            Err(NoRoom::Prepared) => Step::Prepared,
            Err(NoRoom::Stalled) => Step::Stalled,
            Err(NoRoom::Poisoned) => self.stop(),
        }
    }

    /// Calls back the submits at the front that have nothing to make durable; what they say waits for the next batch.
    fn fire_leading_hints(&mut self) -> usize {
        let mut fired = Vec::new();
        while self.incoming_written == 0
            && let Some(submit) = self.incoming.pop_front_if(|submit| submit.is_hint())
        {
            for record in submit.records {
                if let Record::Committed { stream, committed } = record {
                    self.hints.insert(stream, committed);
                }
            }
            fired.push(Finished {
                number: submit.number,
                bytes: submit.bytes,
                on_durable: submit.on_durable,
            });
        }
        if fired.is_empty() {
            return 0;
        }
        self.marked = false;
        let wakers = self.shared.settle(&fired);
        wakers.into_iter().for_each(std::task::Waker::wake);
        let count = fired.len();
        fired.into_iter().for_each(|finished| (finished.on_durable)(Ok(())));
        count
    }

    /// Puts a batch together; false if there is nothing to write.
    fn build(&mut self) -> Result<bool, NoRoom> {
        // The second turn is for a fresh segment; there everything fits that was let in.
        for _ in 0..2 {
            if let Some(active) = &self.active {
                let position = Position { epoch: active.segment.epoch, offset: active.tail };
                let room = active.segment.bytes - active.tail;
                self.batch.begin(position);
                if self.fill(room as usize) == Filled::Something {
                    return Ok(true);
                }
            }
            if self.incoming.is_empty() && !self.shared.has_log_records() {
                return Ok(false);
            }
            self.roll()?;
        }
        unreachable!("a fresh segment has room for any record that was taken")
    }

    /// Pushes what fits into `room`, in this order: the segment's manifest, what was lost, what can be dropped, hints, moved
    /// records, submits. Moved records come before the submits, which may cut them off again.
    fn fill(&mut self, room: usize) -> Filled {
        let max_bytes = self.shared.config.max_batch_bytes;
        let fits = |batch: &BatchBuilder, record: &Record| {
            let len = batch.len() + record.encoded_len();
            padded(len as u32) as usize <= room && (len <= max_bytes || batch.has_no_content())
        };
        if room < BATCH_HEADER_BYTES {
            return Filled::Nothing;
        }
        let fresh = self.active.as_ref().is_some_and(|active| active.tail == DATA_START);
        if let Some(active) = self.active.as_ref().filter(|_| fresh) {
            let epochs = self.shared.live_epochs(active.segment.epoch);
            self.batch.push(&Record::Manifest { epochs });
        }
        if let Some(lost) = self.shared.unrecorded_loss() {
            let record = Record::Lost { streams: lost };
            if !fits(&self.batch, &record) {
                return Filled::Nothing;
            }
            // On its own: what it says must be durable before anything else is acknowledged.
            self.batch.push(&record);
            return Filled::Something;
        }
        // In a fresh segment the largest record must fit behind the manifest.
        if !fresh || self.incoming.is_empty() {
            self.shared.take_log_records(MOVED_BYTES_PER_BATCH, |record| {
                let fits = fits(&self.batch, record);
                if fits {
                    self.batch.push(record);
                }
                fits
            });
            // Hints never make a batch; they ride along if there is one for another reason.
            if !self.incoming.is_empty() || !self.batch.has_no_content() {
                while let Some((stream, committed)) = self.hints.pop_first() {
                    let record = Record::Committed { stream, committed };
                    if !fits(&self.batch, &record) {
                        let Record::Committed { stream, committed } = record else { unreachable!() };
                        self.hints.insert(stream, committed);
                        break;
                    }
                    self.batch.push(&record);
                }
            }
        }
        self.fill_submits(fits);
        if self.batch.has_no_content() { Filled::Nothing } else { Filled::Something }
    }

    fn fill_submits(&mut self, fits: impl Fn(&BatchBuilder, &Record) -> bool) {
        while let Some(submit) = self.incoming.front() {
            for record in &submit.records[self.incoming_written..] {
                if !fits(&self.batch, record) {
                    return;
                }
                if let Record::Committed { stream, .. } | Record::Tombstone { stream } = record {
                    self.hints.remove(stream);
                }
                self.batch.push(record);
                self.incoming_written += 1;
            }
            self.incoming_written = 0;
            if let Some(submit) = self.incoming.pop_front() {
                let Submit { number, bytes, on_durable, .. } = submit;
                self.finished.push(Finished { number, bytes, on_durable });
            }
        }
    }

    /// Goes on to the next spare segment. If there is none, does a piece of the work to get one.
    fn roll(&mut self) -> Result<(), NoRoom> {
        let spare = self.shared.state.lock().work.spares.pop_front();
        let Some(segment) = spare else {
            return Err(match self.maintenance.prepare() {
                Upkeep::Full => NoRoom::Stalled,
                Upkeep::Stopped => NoRoom::Poisoned,
                Upkeep::Worked | Upkeep::Idle => NoRoom::Prepared,
            });
        };
        let fresh = Active { segment: segment.clone(), tail: DATA_START, footer: FooterBuilder::default() };
        let full = self.active.replace(fresh);
        let mut state = self.shared.state.lock();
        state.index.add_segment(segment.epoch);
        let epoch = segment.epoch;
        let status = SegmentState { segment, sealed: false, rewrite_failed: false, reclaiming: false };
        state.segments.insert(epoch, status);
        if let Some(full) = full {
            let seal = Seal { segment: full.segment, footer: full.footer, last: self.last };
            state.work.to_seal.push_back(seal);
        }
        state.work.wanted = true;
        drop(state);
        self.shared.want_maintenance();
        Ok(())
    }

    fn write(&mut self) -> Step {
        let active = self.active.as_ref().expect("a batch was built for the active segment");
        let bytes = self.batch.finish(next_sequence(self.last), self.last.map(|last| last.as_previous));
        let len = bytes.len();
        if let Err(error) = active.segment.file.write_at(bytes, active.tail.into()) {
            self.shared.poison(&format!("writing {}", active.segment.path), &error);
            return self.stop();
        }
        self.phase = Phase::Written { end: active.tail + len as u32 };
        Step::Wrote { bytes: len }
    }

    fn sync(&mut self, end: u32) -> Step {
        let active = self.active.as_mut().expect("a batch was written to the active segment");
        if let Err(error) = active.segment.file.sync_data() {
            self.shared.poison(&format!("syncing {}", active.segment.path), &error);
            return self.stop();
        }
        active.tail = end;
        let sequence = next_sequence(self.last);
        self.last = Some(LastBatch { sequence, as_previous: self.batch.as_previous() });
        self.batch.items().iter().for_each(|item| active.footer.add(item));
        self.phase = Phase::Idle;
        self.marked = false;
        let wakers = self.shared.publish(self.batch.items(), &self.finished);
        let submits = self.finished.len();
        self.finished.drain(..).for_each(|finished| (finished.on_durable)(Ok(())));
        wakers.into_iter().for_each(std::task::Waker::wake);
        Step::Synced { submits }
    }

    /// Everything is durable and nothing more will come.
    fn finish(&mut self) -> Step {
        self.mark();
        self.stop()
    }

    /// Ends the work; whatever was not called back fails.
    fn stop(&mut self) -> Step {
        self.phase = Phase::Stopped;
        self.shared.stop(Stopped::Closed);
        self.receive();
        let error = || match &self.shared.state.lock().stopped {
            Some(stopped) => StorageError::from(stopped),
            None => StorageError::Closed,
        };
        let written = self.finished.drain(..).map(|finished| finished.on_durable);
        let waiting = self.incoming.drain(..).map(|submit| submit.on_durable);
        let failed: Vec<OnDurable> = written.chain(waiting).collect();
        failed.into_iter().for_each(|on_durable| on_durable(Err(error())));
        Step::Stopped
    }
}

fn next_sequence(last: Option<LastBatch>) -> u64 {
    last.map_or(0, |last| last.sequence + 1)
}

#[derive(PartialEq, Eq)]
enum Filled {
    Nothing,
    Something,
}

impl Drop for Committer {
    fn drop(&mut self) {
        if self.phase != Phase::Stopped {
            self.stop();
        }
    }
}

impl fmt::Debug for Committer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Committer")
            .field("phase", &self.phase)
            .field("incoming", &self.incoming.len())
            .field("sequence", &self.last.map(|last| last.sequence))
            .field("active", &self.active.as_ref().map(|active| (active.segment.epoch, active.tail)))
            .finish_non_exhaustive()
    }
}
