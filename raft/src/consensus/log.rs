//! openraft's log storage over one stream of a [`LogStore`].
//!
//! Invariants: operations reach the store in the order openraft made them; `IOFlushed` fires only when the entries are
//! durable (the store fires callbacks in submission order); a vote is durable before `save_vote` returns; a committed
//! position is a hint and waits for nothing. Must never: block an async task on the disk, or hide a storage error.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, Range, RangeBounds};
use std::sync::Arc;

use bytes::Bytes;
use longshore_storage::{LogOp, LogStore, StorageError, StreamId};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::codec::CodecError;
use super::config::APPEND_BYTES_MAX;
use super::promises::Promises;
use super::runtime::Runtime;
use super::types::{Entry, LogId, Payload, Types, Vote};
use super::wire;

/// Bytes of one read when a whole range is wanted: bounds what is in flight, not what is returned.
const READ_BYTES: usize = 4 << 20;

/// The log of one replica. Clones share the stream.
pub(crate) struct GroupLog<R> {
    store: Arc<dyn LogStore>,
    stream: StreamId,
    promises: Arc<Promises>,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for GroupLog<R> {
    fn clone(&self) -> Self {
        let (store, promises) = (self.store.clone(), self.promises.clone());
        Self { store, stream: self.stream, promises, runtime: PhantomData }
    }
}

fn io_error(e: StorageError) -> io::Error {
    io::Error::other(e)
}

fn decode_error(what: &str, e: CodecError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} in the log: {e}"))
}

impl<R: Runtime> GroupLog<R> {
    pub(crate) fn new(store: Arc<dyn LogStore>, stream: StreamId, promises: Arc<Promises>) -> Self {
        Self { store, stream, promises, runtime: PhantomData }
    }

    /// Submits when there is room. `on_durable` fires once; it is dropped unfired if this returns an error.
    async fn submit(
        &self,
        op: LogOp,
        bytes: usize,
        on_durable: impl FnOnce(Result<(), io::Error>) + Send + 'static,
    ) -> Result<(), io::Error> {
        // `submit` takes its callback even when it is busy, so the real one stays here for the next attempt.
        let slot = Arc::new(Mutex::new(Some(on_durable)));
        loop {
            self.store.ready(bytes).await.map_err(io_error)?;
            let taken = slot.clone();
            let fire = Box::new(move |result: Result<(), StorageError>| {
                if let Some(on_durable) = taken.lock().take() {
                    on_durable(result.map_err(io_error));
                }
            });
            match self.store.submit(vec![op.clone()], fire) {
                Ok(()) => return Ok(()),
                // Another group took the room; `ready` waits for the next.
                Err(StorageError::Busy { .. }) => continue,
                Err(e) => return Err(io_error(e)),
            }
        }
    }

    async fn read(&self, range: Range<u64>, max_bytes: usize) -> Result<Vec<Entry>, io::Error> {
        let raw = if self.store.is_cached(self.stream, range.clone()) {
            self.store.read(self.stream, range, max_bytes)
        } else {
            let (store, stream) = (self.store.clone(), self.stream);
            R::blocking(move || store.read(stream, range, max_bytes)).await?
        };
        raw.map_err(io_error)?.into_iter().map(|(index, bytes)| decode_entry(index, &bytes)).collect()
    }

    async fn last_log_id(&self) -> Result<Option<LogId>, io::Error> {
        let state = self.store.state(self.stream).map_err(io_error)?;
        let purged = state.purged.as_ref().map(|(_, marker)| marker);
        let purged =
            purged.map(|m| wire::decode_log_id(m)).transpose().map_err(|e| decode_error("purge", e))?;
        let Some(last) = state.last.filter(|&last| purged.is_none_or(|p| p.index < last)) else {
            return Ok(purged);
        };
        let entries = self.read(last..last + 1, READ_BYTES).await?;
        let entry = entries.last().ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("entry {last} of {:?} is missing", self.stream),
            )
        })?;
        Ok(Some(entry.log_id))
    }
}

fn decode_entry(index: u64, bytes: &Bytes) -> Result<Entry, io::Error> {
    let entry = wire::decode_entry(bytes).map_err(|e| decode_error("entry", e))?;
    if entry.log_id.index != index {
        let found = entry.log_id.index;
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("entry {index} says it is {found}")));
    }
    Ok(entry)
}

impl<R: Runtime> RaftLogReader<Types<R>> for GroupLog<R> {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let mut next = match range.start_bound() {
            Bound::Included(&start) => start,
            Bound::Excluded(&start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(&end) => end + 1,
            Bound::Excluded(&end) => end,
            Bound::Unbounded => u64::MAX,
        };
        let state = self.store.state(self.stream).map_err(io_error)?;
        let (Some(first), Some(last)) = (state.first, state.last) else { return Ok(Vec::new()) };
        next = next.max(first);
        let end = end.min(last + 1);
        let mut entries: Vec<Entry> = Vec::new();
        while next < end {
            let part = self.read(next..end, READ_BYTES).await?;
            // Purged or truncated meanwhile: what was there is what is returned.
            let Some(at) = part.last().map(|e| e.log_id.index) else { break };
            let consecutive = part.iter().zip(next..).all(|(e, want)| e.log_id.index == want);
            if !consecutive {
                let detail = format!("a hole in {:?} at {next}..{end}", self.stream);
                return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
            }
            entries.extend(part);
            next = at + 1;
        }
        Ok(entries)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.store.state(self.stream).map_err(io_error)?.vote;
        let vote = vote.map(|v| wire::decode_vote(&v)).transpose().map_err(|e| decode_error("vote", e))?;
        vote.into_iter().for_each(|vote| self.promises.vote(vote));
        Ok(vote)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.read(start..end, APPEND_BYTES_MAX).await?;
        if entries.is_empty() {
            // openraft treats an empty answer as a heartbeat and would spin on it.
            let detail = format!("entry {start} of {:?} is missing", self.stream);
            return Err(io::Error::new(io::ErrorKind::NotFound, detail));
        }
        Ok(entries)
    }
}

impl<R: Runtime> RaftLogStorage<Types<R>> for GroupLog<R> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types<R>>, io::Error> {
        let state = self.store.state(self.stream).map_err(io_error)?;
        let purged = state.purged.map(|(_, marker)| wire::decode_log_id(&marker)).transpose();
        let last_purged_log_id = purged.map_err(|e| decode_error("purge marker", e))?;
        Ok(LogState { last_purged_log_id, last_log_id: self.last_log_id().await? })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.promises.vote(*vote);
        let (tx, rx) = oneshot::channel();
        let vote = wire::encode_vote(vote);
        let bytes = vote.len();
        let op = LogOp::SaveVote { stream: self.stream, vote };
        // A receiver that is gone means that openraft stopped waiting; the vote stands either way.
        self.submit(op, bytes, move |result| drop(tx.send(result))).await?;
        rx.await.unwrap_or_else(|_| Err(io::Error::other("the log closed before the vote was durable")))
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        let committed = wire::encode_log_id(&committed);
        let op = LogOp::SaveCommitted { stream: self.stream, committed };
        match self.store.submit(vec![op], Box::new(|_| {})) {
            // Only a hint, and the next one says more.
            Ok(()) | Err(StorageError::Busy { .. }) => Ok(()),
            Err(e) => Err(io_error(e)),
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = self.store.state(self.stream).map_err(io_error)?.committed;
        let committed = committed.map(|c| wire::decode_log_id(&c)).transpose();
        let committed = committed.map_err(|e| decode_error("committed position", e))?;
        // A hint that outlived the entries it speaks of would make openraft look for them and fail.
        Ok(committed.min(self.last_log_id().await?))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types<R>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let (mut first, mut raw, mut bytes) = (None, Vec::new(), 0);
        for entry in entries {
            first.get_or_insert(entry.log_id.index);
            if matches!(entry.payload, Payload::Membership(_)) {
                self.promises.membership(entry.log_id.index);
            }
            let encoded = wire::encode_entry(&entry);
            bytes += encoded.len();
            raw.push(encoded);
        }
        let Some(first) = first else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let op = LogOp::Append { stream: self.stream, first, entries: raw };
        self.submit(op, bytes, move |result| callback.io_completed(result)).await
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        self.promises.truncated(last.map(|l| l.index));
        // Durable with whatever is submitted next: the store keeps the order, so no callback is needed.
        let op = LogOp::TruncateAfter { stream: self.stream, last: last.map(|l| l.index) };
        self.submit(op, 0, |_| {}).await
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        let marker = wire::encode_log_id(&upto);
        let op = LogOp::PurgeTo { stream: self.stream, index: upto.index, marker };
        self.submit(op, 0, |_| {}).await
    }
}
