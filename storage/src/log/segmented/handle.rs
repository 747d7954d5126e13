//! The handle of a segmented log: what callers do with it. Never blocks on the disk but to read.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Range, RangeInclusive};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use crossbeam::channel::TrySendError;

use super::super::stream::Change;
use super::super::{BoxFuture, LogOp, LogStore, OnDurable, StreamId, StreamState};
use super::format::Location;
use super::record::{Bounds, RECORD_HEADER_BYTES, Record};
use super::segment::Segment;
use super::shared::{Damage, Message, Shared, State, Stopped, Stream, Submit};
use crate::{StorageError, StorageResult};

/// One log of many streams in segment files; clones share it. Made by [`SegmentedLog::open`].
#[derive(Clone)]
pub struct SegmentedLog {
    shared: Arc<Shared>,
}

impl fmt::Debug for SegmentedLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(f)
    }
}

/// Where the entries of a read are.
enum Source {
    Cached(Bytes),
    Disk(Arc<Segment>, Location),
}

impl SegmentedLog {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Takes no more submits. The committer still makes durable what was taken, then stops.
    pub fn close(&self) {
        self.shared.stop(Stopped::Closed);
    }

    /// Plans a read under the lock.
    fn locate(
        &self,
        stream: StreamId,
        range: &Range<u64>,
        max_bytes: usize,
    ) -> StorageResult<Vec<(u64, Source)>> {
        let state = self.shared.state.lock();
        if let Some(damage) = state.damage_of(stream) {
            return Err(damage.clone().into());
        }
        let Some(held) = state.held_in(stream, range) else { return Ok(Vec::new()) };
        let mut plan = Vec::new();
        let mut bytes = 0;
        for index in held {
            let source = state.source_of(stream, index);
            bytes += match &source {
                Source::Cached(entry) => entry.len(),
                Source::Disk(_, location) => location.len as usize,
            };
            if bytes > max_bytes && !plan.is_empty() {
                break;
            }
            plan.push((index, source));
        }
        Ok(plan)
    }

    /// After a read found damage: the error, if the log still says that the entries are where they were looked for. If not,
    /// they were moved or purged, and their segment was used anew while it was being read.
    fn first_damaged(
        &self,
        stream: StreamId,
        first: u64,
        segment: &Segment,
        locations: &[Location],
    ) -> Option<StorageError> {
        let (index, location, error) = (first..).zip(locations).find_map(|(index, location)| {
            let error = segment.read_record(*location).err()?;
            Some((index, *location, error))
        })?;
        let mut state = self.shared.state.lock();
        if state.index.stream(stream).and_then(|held| held.entries.get(index)) != Some(location) {
            return None;
        }
        if let StorageError::Damaged { file, offset, detail } = &error
            && let Some(stream) = state.streams.get_mut(&stream)
        {
            stream.damaged = Some(Damage { file: file.clone(), offset: *offset, detail: detail.clone() });
        }
        Some(error)
    }
}

impl State {
    fn held_in(&self, stream: StreamId, range: &Range<u64>) -> Option<RangeInclusive<u64>> {
        let held = self.streams.get(&stream)?.state.held()?;
        let last = (*held.end()).min(range.end.checked_sub(1)?);
        let first = (*held.start()).max(range.start);
        (first <= last).then_some(first..=last)
    }

    /// The index is held.
    fn source_of(&self, stream: StreamId, index: u64) -> Source {
        let held = &self.streams[&stream];
        let last = held.state.last.expect("the caller found the index held");
        if let Some(entry) = held.cache.get(index, last) {
            return Source::Cached(entry.clone());
        }
        let location = self
            .index
            .stream(stream)
            .and_then(|held| held.entries.get(index))
            .expect("an entry that is not cached is durable, and so in the index");
        let segment =
            &self.segments.get(&location.epoch).expect("a live record is in a live segment").segment;
        Source::Disk(segment.clone(), location)
    }

    /// Whether every operation can be taken, one after the other.
    fn check(&self, ops: &[LogOp], entry_limit: usize) -> StorageResult<()> {
        let mut copies: BTreeMap<StreamId, StreamState> = BTreeMap::new();
        for op in ops {
            let stream = op.stream();
            let is_tombstone = matches!(op, LogOp::Tombstone { .. });
            if let Some(damage) = self.damage_of(stream).filter(|_| !is_tombstone) {
                return Err(damage.clone().into());
            }
            let of_stream = || self.streams.get(&stream).map(|held| held.state.clone()).unwrap_or_default();
            copies.entry(stream).or_insert_with(of_stream).take(op, entry_limit)?;
        }
        Ok(())
    }

    /// Takes an operation that was checked; says what is to be written.
    fn take(&mut self, op: LogOp, submit: u64, records: &mut Vec<Record>) {
        let id = op.stream();
        let stream = self.streams.entry(id).or_default();
        let last = stream.state.last;
        let change = stream.state.take(&op, usize::MAX).expect("the operation was checked");
        if let Some(last) = last
            && matches!(change, Change::Bounded | Change::Tombstoned)
        {
            self.cache.keep(&mut stream.cache, last, stream.state.held());
        }
        crate::mutant!("forget-a-truncation" => if matches!(op, LogOp::TruncateAfter { .. }) { return });
        match (change, op) {
            (Change::Nothing, _) => {}
            (_, LogOp::Append { first, entries, .. }) => {
                for (index, data) in (first..).zip(entries) {
                    self.cache.push(id, &mut stream.cache, submit, data.clone());
                    records.push(Record::Entry { stream: id, index, data });
                }
            }
            (_, LogOp::TruncateAfter { .. } | LogOp::PurgeTo { .. }) => {
                let (purged, marker) = stream.state.purged.clone().unzip();
                let bounds = Bounds { purged, held: stream.state.first.zip(stream.state.last) };
                records.push(Record::Bounds { stream: id, bounds, marker: marker.unwrap_or_default() });
            }
            (_, LogOp::SaveVote { vote, .. }) => records.push(Record::Vote { stream: id, vote }),
            (_, LogOp::SaveCommitted { committed, .. }) => {
                records.push(Record::Committed { stream: id, committed });
            }
            (_, LogOp::Tombstone { .. }) => {
                stream.damaged = None;
                records.push(Record::Tombstone { stream: id });
            }
        }
    }

    /// Keeps what does not have to become durable for the next batch. With a wake-up for each, a committer on its own disk would do little else.
    fn hint(&mut self, records: Vec<Record>) {
        for record in records {
            let Record::Committed { stream, committed } = record else { unreachable!("only hints") };
            self.queue.hints.insert(stream, committed);
        }
        if std::mem::take(&mut self.queue.quiet) {
            self.nudge_committer();
        }
    }

    fn has_room(&self, shared: &Shared, bytes: usize) -> bool {
        let fits = self.queue.bytes + bytes <= shared.config.max_queued_bytes;
        fits && self.queue.taken_at_ms.len() < shared.config.max_queued_submits
    }
}

/// What operations count for in the queue: their records, as they will be on disk.
fn queued_bytes(ops: &[LogOp]) -> usize {
    let bytes_of = |op: &LogOp| match op {
        LogOp::Append { entries, .. } => {
            entries.iter().map(|entry| entry.len() + RECORD_HEADER_BYTES).sum::<usize>()
        }
        LogOp::PurgeTo { marker: bytes, .. }
        | LogOp::SaveVote { vote: bytes, .. }
        | LogOp::SaveCommitted { committed: bytes, .. } => bytes.len() + RECORD_HEADER_BYTES,
        LogOp::TruncateAfter { .. } | LogOp::Tombstone { .. } => RECORD_HEADER_BYTES,
    };
    ops.iter().map(bytes_of).sum()
}

impl LogStore for SegmentedLog {
    fn submit(&self, ops: Vec<LogOp>, on_durable: OnDurable) -> StorageResult<()> {
        let config = &self.shared.config;
        let bytes = queued_bytes(&ops);
        let now_ms = (config.clock)();
        let mut guard = self.shared.state.lock();
        let state = &mut *guard;
        state.check_running()?;
        if !state.has_room(&self.shared, bytes) {
            state.check(&ops, config.entry_limit())?;
            return Err(if bytes > config.max_queued_bytes {
                StorageError::TooLarge { len: bytes, limit: config.max_queued_bytes }
            } else {
                StorageError::Busy { queued: state.queue.taken_at_ms.len(), limit: config.max_queued_submits }
            });
        }
        state.check(&ops, config.entry_limit())?;
        let number = state.queue.taken + 1;
        let mut records = Vec::with_capacity(ops.len());
        ops.into_iter().for_each(|op| state.take(op, number, &mut records));
        if state.queue.taken == state.queue.durable && records.iter().all(Record::is_hint) {
            state.hint(records);
            drop(guard);
            on_durable(Ok(()));
            return Ok(());
        }
        state.queue.taken = number;
        state.queue.bytes += bytes;
        state.queue.taken_at_ms.push_back(now_ms);
        let submit = Message::Submit(Submit { number, records, bytes, on_durable });
        let sender = state.queue.sender.as_ref().expect("a running log has its channel");
        match sender.try_send(submit) {
            Ok(()) => {
                state.queue.wake();
                Ok(())
            }
            Err(TrySendError::Full(_)) => {
                unreachable!("the channel has room for every submit that is counted")
            }
            // Only a committer that died without a word drops its end first; what is taken fails with it.
            Err(TrySendError::Disconnected(_)) => Err(StorageError::Closed),
        }
    }

    fn ready(&self, bytes: usize) -> BoxFuture<'_, StorageResult<()>> {
        Box::pin(Ready { shared: &self.shared, bytes })
    }

    fn read(
        &self,
        stream: StreamId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> StorageResult<Vec<(u64, Bytes)>> {
        'again: loop {
            let plan = self.locate(stream, &range, max_bytes)?;
            let mut found = Vec::with_capacity(plan.len());
            let mut rest = plan.into_iter().peekable();
            while let Some((index, source)) = rest.next() {
                let (segment, location) = match source {
                    Source::Cached(entry) => {
                        found.push((index, entry));
                        continue;
                    }
                    Source::Disk(segment, location) => (segment, location),
                };
                // Entries that follow in the same segment are fetched together.
                let mut locations = vec![location];
                while let Some((_, Source::Disk(_, next))) = rest.next_if(
                    |(_, source)| matches!(source, Source::Disk(next, _) if next.epoch == segment.epoch),
                ) {
                    locations.push(next);
                }
                match segment.read_payloads(&locations) {
                    Ok(entries) => found.extend((index..).zip(entries)),
                    Err(error @ StorageError::Damaged { .. }) => {
                        match self.first_damaged(stream, index, &segment, &locations) {
                            Some(error) => return Err(error),
                            None => {
                                tracing::debug!(%error, "a segment was used anew while it was read");
                                continue 'again;
                            }
                        }
                    }
                    Err(error) => return Err(error),
                }
            }
            return Ok(found);
        }
    }

    fn is_cached(&self, stream: StreamId, range: Range<u64>) -> bool {
        let state = self.shared.state.lock();
        if state.damage_of(stream).is_some() {
            return true;
        }
        // A stream caches a run up to its last entry, so the first one asked for decides.
        state
            .held_in(stream, &range)
            .is_none_or(|held| matches!(state.source_of(stream, *held.start()), Source::Cached(_)))
    }

    fn state(&self, stream: StreamId) -> StorageResult<StreamState> {
        let state = self.shared.state.lock();
        if let Some(damage) = state.damage_of(stream) {
            return Err(damage.clone().into());
        }
        Ok(state.streams.get(&stream).map(|stream| stream.state.clone()).unwrap_or_default())
    }

    fn streams(&self) -> Vec<StreamId> {
        let state = self.shared.state.lock();
        let listed = |stream: &Stream| {
            !stream.state.tombstoned && (stream.damaged.is_some() || stream.state != StreamState::default())
        };
        state.streams.iter().filter(|(_, stream)| listed(stream)).map(|(id, _)| *id).collect()
    }

    fn oldest_unsynced_ms(&self) -> u64 {
        let now_ms = (self.shared.config.clock)();
        let oldest = self.shared.state.lock().queue.taken_at_ms.front().copied();
        oldest.map_or(0, |taken_at_ms| now_ms.saturating_sub(taken_at_ms))
    }
}

/// Resolves when the queue has room.
struct Ready<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl Future for Ready<'_> {
    type Output = StorageResult<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.shared.state.lock();
        if let Err(error) = state.check_running() {
            return Poll::Ready(Err(error));
        }
        let limit = self.shared.config.max_queued_bytes;
        if self.bytes > limit {
            return Poll::Ready(Err(StorageError::TooLarge { len: self.bytes, limit }));
        }
        if state.has_room(self.shared, self.bytes) {
            return Poll::Ready(Ok(()));
        }
        // One for each task that waits; all are woken, and forgotten, whenever a batch is durable.
        if !state.queue.wakers.iter().any(|waker| waker.will_wake(context.waker())) {
            state.queue.wakers.push(context.waker().clone());
        }
        Poll::Pending
    }
}
