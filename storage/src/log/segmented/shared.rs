//! What the log's handle, its committer and its maintenance share, behind one lock.
//!
//! Invariants: the lock is never held over a call to the disk or a callback; only the committer changes the index; a
//! stream's state runs ahead of the index by exactly what is queued.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::task::Waker;

use bytes::Bytes;
use crossbeam::channel::Sender;
use parking_lot::{Condvar, Mutex};

use super::super::{OnDurable, StreamId, StreamState};
use super::batch::LastBatch;
use super::bloom::Bloom;
use super::cache::{CacheOrder, StreamCache};
use super::config::LogConfig;
use super::footer::FooterBuilder;
use super::index::Index;
use super::record::{Item, Record};
use super::segment::Segment;
use crate::disk::Disk;
use crate::{StorageError, StorageResult};

/// Tells an asynchronous driver that there may be work (see [`super::Committer::set_wake`]).
pub type Wake = Arc<dyn Fn() + Send + Sync>;

pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) config: LogConfig,
    pub(super) state: Mutex<State>,
    /// Told when there may be something for maintenance to do.
    pub(super) maintenance_wanted: Condvar,
    /// The same, for a driver that does not block.
    pub(super) wake_maintenance: OnceLock<Wake>,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// As taken; every stream ever seen, the tombstoned too.
    pub(super) streams: BTreeMap<StreamId, Stream>,
    pub(super) cache: CacheOrder,
    /// As durable.
    pub(super) index: Index,
    pub(super) segments: BTreeMap<u32, SegmentState>,
    pub(super) queue: Queue,
    pub(super) work: Work,
    pub(super) lost: Option<Lost>,
    pub(super) stopped: Option<Stopped>,
}

#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) state: StreamState,
    pub(super) cache: StreamCache,
    pub(super) damaged: Option<Damage>,
}

#[derive(Debug)]
pub(super) struct SegmentState {
    pub(super) segment: Arc<Segment>,
    /// Its footer is durable.
    pub(super) sealed: bool,
    /// Rewriting it did not empty it; it stays until its streams let go of it.
    pub(super) rewrite_failed: bool,
    /// A record that drops it is on its way.
    pub(super) reclaiming: bool,
}

/// Submits that are not yet durable.
#[derive(Default)]
pub(super) struct Queue {
    /// Gone once the log is closed, so that the committer sees the end of the channel.
    pub(super) sender: Option<Sender<Message>>,
    /// The number of the last submit taken, and of the last one durable.
    pub(super) taken: u64,
    pub(super) durable: u64,
    pub(super) bytes: usize,
    /// When each was taken, oldest first.
    pub(super) taken_at_ms: VecDeque<u64>,
    pub(super) wakers: Vec<Waker>,
    /// A nudge is in the channel.
    pub(super) nudged: bool,
    /// Committed positions that came while everything was durable: nobody is woken to write them, they ride along with the next batch or mark.
    pub(super) hints: BTreeMap<StreamId, Bytes>,
    /// The committer has marked the end of the log and waits without a limit: the next hint has to wake it, to be in a mark.
    pub(super) quiet: bool,
    /// Called after each message into the channel, and when it ends.
    pub(super) wake: Option<Wake>,
}

/// What maintenance and the committer have for each other.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Full segments whose footers are to be written, oldest first.
    pub(super) to_seal: VecDeque<Seal>,
    /// Segments ready to be written, lowest epoch first.
    pub(super) spares: VecDeque<Arc<Segment>>,
    /// Segments durably dropped, whose files can be used again.
    pub(super) free: Vec<Arc<Segment>>,
    /// Segments to drop.
    pub(super) reclaims: VecDeque<u32>,
    /// Live records to be written again.
    pub(super) moves: VecDeque<(Item, Bytes)>,
    pub(super) next_epoch: u32,
    pub(super) next_file: u64,
    /// Maintenance should look for work.
    pub(super) wanted: bool,
}

/// A full segment that has no footer yet.
#[derive(Debug)]
pub(super) struct Seal {
    pub(super) segment: Arc<Segment>,
    pub(super) footer: FooterBuilder,
    pub(super) last: Option<LastBatch>,
}

/// Streams that may have lost acknowledged records which nothing names any more.
#[derive(Debug, Clone)]
pub(super) struct Lost {
    pub(super) streams: Bloom,
    pub(super) damage: Damage,
    /// A record that says so is durable.
    pub(super) recorded: bool,
}

/// Where acknowledged bytes are damaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    pub file: String,
    pub offset: u64,
    pub detail: String,
}

#[derive(Debug, Clone)]
pub(super) enum Stopped {
    Poisoned(String),
    Closed,
}

pub(super) enum Message {
    Submit(Submit),
    /// Maintenance has something for the committer.
    Nudge,
}

pub(super) struct Submit {
    pub(super) number: u64,
    pub(super) records: Vec<Record>,
    /// What it counts for in the queue.
    pub(super) bytes: usize,
    pub(super) on_durable: OnDurable,
}

impl From<Damage> for StorageError {
    fn from(damage: Damage) -> Self {
        Self::Damaged { file: damage.file, offset: damage.offset, detail: damage.detail }
    }
}

impl From<&Stopped> for StorageError {
    fn from(stopped: &Stopped) -> Self {
        match stopped {
            Stopped::Poisoned(reason) => Self::Poisoned(reason.clone()),
            Stopped::Closed => Self::Closed,
        }
    }
}

impl Submit {
    /// Nothing in it has to become durable.
    pub(super) fn is_hint(&self) -> bool {
        self.records.iter().all(Record::is_hint)
    }
}

impl fmt::Debug for Submit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submit").field("number", &self.number).field("records", &self.records.len()).finish()
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { taken, durable, bytes, .. } = self;
        write!(f, "Queue {{ taken: {taken}, durable: {durable}, bytes: {bytes}, .. }}")
    }
}

impl Queue {
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

impl State {
    pub(super) fn check_running(&self) -> StorageResult<()> {
        self.stopped.as_ref().map_or(Ok(()), |stopped| Err(stopped.into()))
    }

    /// Why a stream can not be used, if it can not.
    pub(super) fn damage_of(&self, stream: StreamId) -> Option<&Damage> {
        match self.streams.get(&stream) {
            Some(stream) => stream.damaged.as_ref(),
            None => {
                self.lost.as_ref().filter(|lost| lost.streams.may_contain(stream)).map(|lost| &lost.damage)
            }
        }
    }

    /// Wakes the committer if it waits for submits.
    pub(super) fn nudge_committer(&mut self) {
        if let Some(sender) = &self.queue.sender
            && !self.queue.nudged
        {
            // The channel has one place more than there can be submits.
            self.queue.nudged = sender.try_send(Message::Nudge).is_ok();
            self.queue.wake();
        }
    }

    pub(super) fn evict(&mut self, limit: usize) {
        while let Some((stream, submit)) = self.cache.next_victim(limit, self.queue.durable) {
            if let Some(stream) = self.streams.get_mut(&stream) {
                self.cache.evict(&mut stream.cache, submit);
            }
        }
    }
}

impl Shared {
    /// Takes no more submits from now on. Returns who waits for room, to be woken without the lock.
    pub(super) fn stop(&self, stopped: Stopped) {
        let wakers = {
            let mut state = self.state.lock();
            // What was taken before closing can still fail.
            let counts = match (&state.stopped, &stopped) {
                (None, _) | (Some(Stopped::Closed), Stopped::Poisoned(_)) => true,
                (Some(_), _) => false,
            };
            if counts {
                if let Stopped::Poisoned(reason) = &stopped {
                    tracing::error!(reason, "the log is poisoned: it takes no more writes until restart");
                }
                state.stopped = Some(stopped);
            }
            state.nudge_committer();
            state.queue.sender = None;
            state.queue.wake();
            state.work.wanted = true;
            std::mem::take(&mut state.queue.wakers)
        };
        self.want_maintenance();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Wakes whoever drives maintenance; `wanted` was set before, under the lock.
    pub(super) fn want_maintenance(&self) {
        self.maintenance_wanted.notify_all();
        if let Some(wake) = self.wake_maintenance.get() {
            wake();
        }
    }

    pub(super) fn poison(&self, doing: &str, error: &std::io::Error) {
        self.stop(Stopped::Poisoned(format!("{doing}: {error}")));
    }
}
