//! The rules of one stream: which operations it takes, and what it holds afterwards. Pure.
//!
//! Every log uses them, so that the real one and the fake agree on each edge. Invariants of a [`StreamState`]:
//! - `first` and `last` are both there or both not; `first <= last`;
//! - with a purge point, `first`, if there, is the index after it;
//! - a tombstoned stream holds nothing.

use std::ops::RangeInclusive;

use bytes::Bytes;

use super::{LogOp, MAX_ENTRY_BYTES, MAX_RECORD_META_BYTES, StreamId, StreamState};
use crate::{StorageError, StorageResult};

/// What an operation did to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The stream is as it was.
    Nothing,
    /// Entries were added at the end.
    Appended,
    /// Entries were removed, or the purge point moved.
    Bounded,
    Voted,
    Committed,
    Tombstoned,
}

impl LogOp {
    /// The stream that the operation is about.
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Append { stream, .. }
            | Self::TruncateAfter { stream, .. }
            | Self::PurgeTo { stream, .. }
            | Self::SaveVote { stream, .. }
            | Self::SaveCommitted { stream, .. }
            | Self::Tombstone { stream } => *stream,
        }
    }
}

impl StreamState {
    /// Indexes held.
    pub(super) fn held(&self) -> Option<RangeInclusive<u64>> {
        self.first.zip(self.last).map(|(first, last)| first..=last)
    }

    /// The only index that an append may start at; none if any will do.
    pub(super) fn next_index(&self) -> Option<u64> {
        self.last.or(self.purged.as_ref().map(|(index, _)| *index)).map(|last| last + 1)
    }

    /// Takes an operation, or leaves the state as it was.
    pub(super) fn take(&mut self, op: &LogOp, entry_limit: usize) -> StorageResult<Change> {
        check_sizes(op, entry_limit)?;
        if self.tombstoned {
            return match op {
                LogOp::Tombstone { .. } => Ok(Change::Nothing),
                _ => Err(StorageError::Invalid(format!("{} was given up", op.stream()))),
            };
        }
        match op {
            LogOp::Append { stream, first, entries } => self.append(*stream, *first, entries.len() as u64),
            LogOp::TruncateAfter { last, .. } => Ok(self.truncate_after(*last)),
            LogOp::PurgeTo { stream, index, marker } => {
                if *index == u64::MAX {
                    return Err(StorageError::Invalid(format!("{stream} has no index after {index}")));
                }
                self.purge_to(op.stream(), *index, marker.clone())
            }
            LogOp::SaveVote { vote, .. } => {
                self.vote = Some(vote.clone());
                Ok(Change::Voted)
            }
            LogOp::SaveCommitted { committed, .. } => {
                self.committed = Some(committed.clone());
                Ok(Change::Committed)
            }
            LogOp::Tombstone { .. } => {
                *self = Self { tombstoned: true, ..Self::default() };
                Ok(Change::Tombstoned)
            }
        }
    }

    fn append(&mut self, stream: StreamId, first: u64, count: u64) -> StorageResult<Change> {
        if count == 0 {
            return Ok(Change::Nothing);
        }
        if let Some(next) = self.next_index()
            && first != next
        {
            return Err(StorageError::Invalid(format!("{stream} goes on at index {next}, not at {first}")));
        }
        // The last index has a successor, so that `last + 1` never overflows.
        let last = first.checked_add(count).map(|end| end - 1).ok_or_else(|| {
            StorageError::Invalid(format!("{stream} can not hold {count} entries from {first}"))
        })?;
        self.first = self.first.or(Some(first));
        self.last = Some(last);
        Ok(Change::Appended)
    }

    fn truncate_after(&mut self, after: Option<u64>) -> Change {
        let Some((first, last)) = self.first.zip(self.last) else { return Change::Nothing };
        match after {
            Some(after) if after >= last => return Change::Nothing,
            Some(after) if after >= first => self.last = Some(after),
            _ => (self.first, self.last) = (None, None),
        }
        Change::Bounded
    }

    fn purge_to(&mut self, stream: StreamId, index: u64, marker: Bytes) -> StorageResult<Change> {
        match &self.purged {
            Some((purged, _)) if *purged > index => return Ok(Change::Nothing),
            Some((purged, old)) if *purged == index && *old == marker => return Ok(Change::Nothing),
            _ => {}
        }
        match self.held() {
            Some(held) if *held.start() > index + 1 => {
                let first = held.start();
                return Err(StorageError::Invalid(format!(
                    "purging {stream} to {index} would leave a hole: its first entry is {first}"
                )));
            }
            Some(held) if *held.end() > index => self.first = Some(index + 1),
            _ => (self.first, self.last) = (None, None),
        }
        self.purged = Some((index, marker));
        Ok(Change::Bounded)
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "group {} replica {}", self.group, self.replica)
    }
}

fn check_sizes(op: &LogOp, entry_limit: usize) -> StorageResult<()> {
    let (len, limit) = match op {
        LogOp::Append { entries, .. } => {
            (entries.iter().map(Bytes::len).max().unwrap_or(0), entry_limit.min(MAX_ENTRY_BYTES))
        }
        LogOp::PurgeTo { marker: bytes, .. }
        | LogOp::SaveVote { vote: bytes, .. }
        | LogOp::SaveCommitted { committed: bytes, .. } => (bytes.len(), MAX_RECORD_META_BYTES),
        LogOp::TruncateAfter { .. } | LogOp::Tombstone { .. } => return Ok(()),
    };
    if len > limit { Err(StorageError::TooLarge { len, limit }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const STREAM: StreamId = StreamId { group: 1, replica: 2 };

    fn append(first: u64, count: usize) -> LogOp {
        LogOp::Append { stream: STREAM, first, entries: vec![Bytes::from_static(b"e"); count] }
    }

    fn purge(index: u64) -> LogOp {
        LogOp::PurgeTo { stream: STREAM, index, marker: Bytes::from_static(b"m") }
    }

    fn truncate(last: Option<u64>) -> LogOp {
        LogOp::TruncateAfter { stream: STREAM, last }
    }

    #[test]
    fn what_is_held_after_a_sequence_of_operations() {
        type Held = Option<(u64, u64)>;
        let cases: [(&str, Vec<LogOp>, Held, Option<u64>); 14] = [
            ("fresh", vec![], None, None),
            ("append", vec![append(7, 3)], Some((7, 9)), Some(10)),
            ("append nothing", vec![append(7, 0)], None, None),
            ("append twice", vec![append(7, 3), append(10, 1)], Some((7, 10)), Some(11)),
            ("truncate some", vec![append(7, 3), truncate(Some(8))], Some((7, 8)), Some(9)),
            ("truncate beyond the end", vec![append(7, 3), truncate(Some(9))], Some((7, 9)), Some(10)),
            ("truncate all", vec![append(7, 3), truncate(None)], None, None),
            ("truncate below the first", vec![append(7, 3), truncate(Some(3))], None, None),
            ("purge some", vec![append(7, 3), purge(7)], Some((8, 9)), Some(10)),
            ("purge all", vec![append(7, 3), purge(9)], None, Some(10)),
            ("purge beyond the end", vec![append(7, 3), purge(20)], None, Some(21)),
            ("purge backwards", vec![append(7, 3), purge(8), purge(3)], Some((9, 9)), Some(10)),
            ("purge below the first", vec![append(7, 3), purge(6)], Some((7, 9)), Some(10)),
            ("truncate into the purged", vec![append(7, 3), purge(8), truncate(Some(7))], None, Some(9)),
        ];
        for (name, ops, held, next) in cases {
            let mut state = StreamState::default();
            for op in &ops {
                state.take(op, MAX_ENTRY_BYTES).unwrap_or_else(|error| panic!("{name}: {error}"));
            }
            assert_eq!(state.first.zip(state.last), held, "{name}");
            assert_eq!(state.next_index(), next, "{name}");
        }
    }

    #[test]
    fn holes_and_oversized_bytes_are_refused_and_change_nothing() {
        let mut state = StreamState::default();
        state.take(&append(5, 2), MAX_ENTRY_BYTES).unwrap();
        let before = state.clone();
        let vote = |len| LogOp::SaveVote { stream: STREAM, vote: vec![0; len].into() };
        for op in [append(5, 1), append(8, 1), append(6, 1), purge(3)] {
            assert!(matches!(state.take(&op, MAX_ENTRY_BYTES), Err(StorageError::Invalid(_))), "{op:?}");
        }
        let refused = state.take(&vote(MAX_RECORD_META_BYTES + 1), MAX_ENTRY_BYTES);
        assert!(matches!(refused, Err(StorageError::TooLarge { limit: MAX_RECORD_META_BYTES, .. })));
        assert!(matches!(state.take(&append(7, 1), 0), Err(StorageError::TooLarge { len: 1, limit: 0 })));
        assert!(state.take(&purge(u64::MAX), MAX_ENTRY_BYTES).is_err());
        assert_eq!(state, before);
        assert!(StreamState::default().take(&append(u64::MAX, 1), MAX_ENTRY_BYTES).is_err());
    }

    #[test]
    fn a_tombstone_is_for_ever() {
        let mut state = StreamState::default();
        state.take(&append(5, 2), MAX_ENTRY_BYTES).unwrap();
        let tombstone = LogOp::Tombstone { stream: STREAM };
        assert_eq!(state.take(&tombstone, MAX_ENTRY_BYTES).unwrap(), Change::Tombstoned);
        assert_eq!(state, StreamState { tombstoned: true, ..StreamState::default() });
        assert!(matches!(state.take(&append(7, 1), MAX_ENTRY_BYTES), Err(StorageError::Invalid(_))));
        assert_eq!(state.take(&tombstone, MAX_ENTRY_BYTES).unwrap(), Change::Nothing);
    }
}
