//! A log in memory, for tests of what is built on a log. Everything is durable at once and lost with the process.
//!
//! Callbacks fire inside `submit`, in order, without a lock held.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::stream::Change;
use super::{BoxFuture, LogOp, LogStore, MAX_ENTRY_BYTES, OnDurable, StreamId, StreamState};
use crate::{StorageError, StorageResult};

/// A [`LogStore`] without a disk; clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemLog {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    streams: BTreeMap<StreamId, Stream>,
    poisoned: Option<String>,
}

#[derive(Clone, Default)]
struct Stream {
    state: StreamState,
    /// The entries held, from `state.first`.
    entries: VecDeque<Bytes>,
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("streams", &self.streams.len())
            .field("poisoned", &self.poisoned)
            .finish()
    }
}

impl MemLog {
    pub fn new() -> Self {
        Self::default()
    }

    /// Fails every later submit, as a failed sync would.
    pub fn poison(&self, reason: &str) {
        self.state.lock().poisoned = Some(reason.to_owned());
    }
}

impl State {
    fn check(&self) -> StorageResult<()> {
        self.poisoned.clone().map_or(Ok(()), |reason| Err(StorageError::Poisoned(reason)))
    }
}

impl Stream {
    fn take(&mut self, op: &LogOp) -> StorageResult<()> {
        let before = self.state.first;
        let change = self.state.take(op, MAX_ENTRY_BYTES)?;
        match op {
            LogOp::Append { entries, .. } => self.entries.extend(entries.iter().cloned()),
            _ if change == Change::Bounded || change == Change::Tombstoned => match self.state.held() {
                Some(held) => {
                    let gone = before.map_or(0, |before| held.start() - before);
                    self.entries.drain(..gone as usize);
                    self.entries.truncate((held.end() - held.start() + 1) as usize);
                }
                None => self.entries.clear(),
            },
            _ => {}
        }
        Ok(())
    }
}

impl LogStore for MemLog {
    fn submit(&self, ops: Vec<LogOp>, on_durable: OnDurable) -> StorageResult<()> {
        {
            let mut state = self.state.lock();
            state.check()?;
            let mut changed: BTreeMap<StreamId, Stream> = BTreeMap::new();
            for op in &ops {
                let stream = op.stream();
                changed
                    .entry(stream)
                    .or_insert_with(|| state.streams.get(&stream).cloned().unwrap_or_default())
                    .take(op)?;
            }
            state.streams.append(&mut changed);
        }
        on_durable(Ok(()));
        Ok(())
    }

    fn ready(&self, _bytes: usize) -> BoxFuture<'_, StorageResult<()>> {
        let ready = self.state.lock().check();
        Box::pin(std::future::ready(ready))
    }

    fn read(
        &self,
        stream: StreamId,
        range: Range<u64>,
        max_bytes: usize,
    ) -> StorageResult<Vec<(u64, Bytes)>> {
        let state = self.state.lock();
        let Some(stream) = state.streams.get(&stream) else { return Ok(Vec::new()) };
        let Some(first) = stream.state.first else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        let mut bytes = 0;
        for (index, entry) in (first..).zip(&stream.entries).filter(|(index, _)| range.contains(index)) {
            bytes += entry.len();
            if bytes > max_bytes && !found.is_empty() {
                break;
            }
            found.push((index, entry.clone()));
        }
        Ok(found)
    }

    fn is_cached(&self, _stream: StreamId, _range: Range<u64>) -> bool {
        true
    }

    fn state(&self, stream: StreamId) -> StorageResult<StreamState> {
        Ok(self.state.lock().streams.get(&stream).map(|stream| stream.state.clone()).unwrap_or_default())
    }

    fn streams(&self) -> Vec<StreamId> {
        let state = self.state.lock();
        state.streams.iter().filter(|(_, stream)| !stream.state.tombstoned).map(|(id, _)| *id).collect()
    }

    fn oldest_unsynced_ms(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::conformance;

    struct Fixture(MemLog);

    impl conformance::Fixture for Fixture {
        fn log(&self) -> Arc<dyn LogStore> {
            Arc::new(self.0.clone())
        }

        fn settle(&mut self) {}

        fn reopen(self: Box<Self>) -> Option<Box<dyn conformance::Fixture>> {
            None
        }
    }

    #[test]
    fn conforms() {
        conformance::run(|| Box::new(Fixture(MemLog::new())));
    }

    #[test]
    fn a_poisoned_log_takes_nothing() {
        let log = MemLog::new();
        log.poison("a test");
        let refused = log.submit(Vec::new(), Box::new(|_| panic!("must not fire")));
        assert!(matches!(refused, Err(StorageError::Poisoned(_))));
    }
}
