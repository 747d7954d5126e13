//! What every [`LogStore`] must do, as tests that any implementation can run. Panics at the first thing that is wrong.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{LogOp, LogStore, MAX_ENTRY_BYTES, MAX_RECORD_META_BYTES, StreamId, StreamState};
use crate::{StorageError, StorageResult};

/// A log under test.
pub trait Fixture {
    /// The log, empty at first.
    fn log(&self) -> Arc<dyn LogStore>;
    /// Returns when everything submitted so far was called back.
    fn settle(&mut self);
    /// Closes the log and opens it again from what is durable; `None` if nothing outlives it.
    fn reopen(self: Box<Self>) -> Option<Box<dyn Fixture>>;
}

type Case = fn(Box<dyn Fixture>);

const CASES: [(&str, Case); 13] = [
    ("a fresh stream is empty", a_fresh_stream_is_empty),
    ("what was taken is readable at once", what_was_taken_is_readable_at_once),
    ("callbacks fire once and in order", callbacks_fire_once_and_in_order),
    ("a submit is taken whole or not at all", a_submit_is_taken_whole_or_not_at_all),
    ("holes are refused", holes_are_refused),
    ("truncate removes the end", truncate_removes_the_end),
    ("purge removes the front", purge_removes_the_front),
    ("reads are cut by range and by bytes", reads_are_cut_by_range_and_by_bytes),
    ("votes and hints are kept apart", votes_and_hints_are_kept_apart),
    ("a tombstone is final", a_tombstone_is_final),
    ("limits are enforced", limits_are_enforced),
    ("ready resolves when there is room", ready_resolves_when_there_is_room),
    ("everything outlives the process", everything_outlives_the_process),
];

/// Runs every case, each on a log of its own.
pub fn run(make: impl Fn() -> Box<dyn Fixture>) {
    for (name, case) in CASES {
        tracing::debug!(name, "log conformance case");
        case(make());
    }
}

const A: StreamId = StreamId { group: 0, replica: 1 };
const B: StreamId = StreamId { group: 1, replica: 1 };
const C: StreamId = StreamId { group: 1, replica: 2 };

fn entry(stream: StreamId, index: u64, round: u64) -> Bytes {
    Bytes::from(format!("{stream}, index {index}, written in round {round}"))
}

fn append(stream: StreamId, indexes: std::ops::RangeInclusive<u64>, round: u64) -> LogOp {
    let first = *indexes.start();
    LogOp::Append { stream, first, entries: indexes.map(|index| entry(stream, index, round)).collect() }
}

fn vote(stream: StreamId, text: &'static str) -> LogOp {
    LogOp::SaveVote { stream, vote: Bytes::from_static(text.as_bytes()) }
}

fn committed(stream: StreamId, text: &'static str) -> LogOp {
    LogOp::SaveCommitted { stream, committed: Bytes::from_static(text.as_bytes()) }
}

fn purge(stream: StreamId, index: u64) -> LogOp {
    LogOp::PurgeTo { stream, index, marker: Bytes::from(format!("marker {index}")) }
}

/// Callbacks, as they fired: who and whether it went well.
type Fired = Arc<Mutex<Vec<(u32, bool)>>>;

fn submit(log: &dyn LogStore, ops: Vec<LogOp>, id: u32, fired: &Fired) -> StorageResult<()> {
    let fired = fired.clone();
    log.submit(ops, Box::new(move |result| fired.lock().push((id, result.is_ok()))))
}

/// Submits operations that must be taken, and waits for them.
fn put(fixture: &mut dyn Fixture, ops: Vec<LogOp>) {
    let fired = Fired::default();
    submit(&*fixture.log(), ops, 0, &fired).expect("the operations are valid");
    fixture.settle();
    assert_eq!(*fired.lock(), [(0, true)]);
}

#[track_caller]
fn assert_holds(log: &dyn LogStore, stream: StreamId, expect: &[(u64, Bytes)]) {
    let state = log.state(stream).expect("nothing is damaged");
    let ends = expect.first().zip(expect.last()).map(|(first, last)| (first.0, last.0));
    assert_eq!(state.first.zip(state.last), ends);
    let found = log.read(stream, 0..u64::MAX, usize::MAX).expect("nothing is damaged");
    assert_eq!(found, expect);
}

fn entries(stream: StreamId, indexes: std::ops::RangeInclusive<u64>, round: u64) -> Vec<(u64, Bytes)> {
    indexes.map(|index| (index, entry(stream, index, round))).collect()
}

fn a_fresh_stream_is_empty(fixture: Box<dyn Fixture>) {
    let log = fixture.log();
    assert_eq!(log.state(A).expect("nothing is damaged"), StreamState::default());
    assert!(log.read(A, 0..u64::MAX, usize::MAX).expect("nothing is damaged").is_empty());
    assert!(log.is_cached(A, 0..10), "nothing is not on disk");
    assert!(log.streams().is_empty());
    assert_eq!(log.oldest_unsynced_ms(), 0);
}

fn what_was_taken_is_readable_at_once(mut fixture: Box<dyn Fixture>) {
    let log = fixture.log();
    let fired = Fired::default();
    submit(&*log, vec![append(A, 5..=7, 1), vote(A, "v")], 0, &fired).expect("valid");
    assert_holds(&*log, A, &entries(A, 5..=7, 1));
    assert!(log.is_cached(A, 0..100));
    assert_eq!(log.state(A).expect("nothing is damaged").vote.as_deref(), Some(&b"v"[..]));
    fixture.settle();
    assert_holds(&*log, A, &entries(A, 5..=7, 1));
    assert_eq!(log.streams(), [A]);
    assert_eq!(log.oldest_unsynced_ms(), 0);
}

fn callbacks_fire_once_and_in_order(mut fixture: Box<dyn Fixture>) {
    let log = fixture.log();
    let fired = Fired::default();
    let count = 200;
    for id in 0..count {
        let ops = match id % 5 {
            0 | 1 => vec![append(
                A,
                u64::from(id) / 5 * 2 + u64::from(id % 5)..=u64::from(id) / 5 * 2 + u64::from(id % 5),
                1,
            )],
            2 => vec![append(B, u64::from(id)..=u64::from(id) + 4, 1)],
            3 => vec![committed(A, "c")],
            _ => Vec::new(),
        };
        submit(&*log, ops, id, &fired).expect("valid and below the limits");
        if id == count / 2 {
            fixture.settle();
        }
    }
    fixture.settle();
    let expect: Vec<_> = (0..count).map(|id| (id, true)).collect();
    assert_eq!(*fired.lock(), expect);
    assert_eq!(log.streams(), [A, B]);
}

fn a_submit_is_taken_whole_or_not_at_all(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![append(A, 1..=2, 1)]);
    let log = fixture.log();
    let fired = Fired::default();
    let bad = vec![append(A, 3..=3, 2), vote(B, "v"), append(A, 9..=9, 2)];
    assert!(matches!(submit(&*log, bad, 0, &fired), Err(StorageError::Invalid(_))));
    fixture.settle();
    assert_eq!(*fired.lock(), [], "the callback of a refused submit never fires");
    assert_holds(&*log, A, &entries(A, 1..=2, 1));
    assert_eq!(log.state(B).expect("nothing is damaged"), StreamState::default());
    assert_eq!(log.streams(), [A]);
    put(&mut *fixture, vec![append(A, 3..=3, 3), append(A, 4..=4, 3)]);
    assert_eq!(log.state(A).expect("nothing is damaged").last, Some(4));
}

fn holes_are_refused(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![append(A, 10..=12, 1)]);
    let log = fixture.log();
    for first in [0, 10, 12, 14] {
        let refused = log.submit(vec![append(A, first..=first, 2)], Box::new(|_| {}));
        assert!(matches!(refused, Err(StorageError::Invalid(_))), "{first}");
    }
    assert_holds(&*log, A, &entries(A, 10..=12, 1));
}

fn truncate_removes_the_end(mut fixture: Box<dyn Fixture>) {
    let truncate = |last| LogOp::TruncateAfter { stream: A, last };
    put(&mut *fixture, vec![append(A, 1..=9, 1), append(B, 1..=9, 1)]);
    put(&mut *fixture, vec![truncate(Some(5))]);
    let log = fixture.log();
    assert_holds(&*log, A, &entries(A, 1..=5, 1));
    put(&mut *fixture, vec![append(A, 6..=7, 2), truncate(Some(6)), append(A, 7..=7, 3)]);
    let mut expect = entries(A, 1..=5, 1);
    expect.extend(entries(A, 6..=6, 2));
    expect.extend(entries(A, 7..=7, 3));
    assert_holds(&*log, A, &expect);
    assert_holds(&*log, B, &entries(B, 1..=9, 1));
    put(&mut *fixture, vec![truncate(None)]);
    assert_holds(&*log, A, &[]);
    put(&mut *fixture, vec![append(A, 3..=4, 4)]);
    assert_holds(&*log, A, &entries(A, 3..=4, 4));
}

fn purge_removes_the_front(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![append(A, 1..=9, 1)]);
    put(&mut *fixture, vec![purge(A, 4)]);
    let log = fixture.log();
    assert_holds(&*log, A, &entries(A, 5..=9, 1));
    let purged = log.state(A).expect("nothing is damaged").purged;
    assert_eq!(purged, Some((4, Bytes::from_static(b"marker 4"))));
    put(&mut *fixture, vec![purge(A, 2), LogOp::TruncateAfter { stream: A, last: Some(3) }]);
    let state = log.state(A).expect("nothing is damaged");
    assert_eq!(state.purged, Some((4, Bytes::from_static(b"marker 4"))), "the purge point never goes back");
    assert_holds(&*log, A, &[]);
    put(&mut *fixture, vec![append(A, 5..=5, 2), purge(A, 30)]);
    assert_holds(&*log, A, &[]);
    put(&mut *fixture, vec![append(A, 31..=32, 3)]);
    assert_holds(&*log, A, &entries(A, 31..=32, 3));
    put(&mut *fixture, vec![purge(B, 100), append(B, 101..=101, 1)]);
    assert_holds(&*log, B, &entries(B, 101..=101, 1));
}

fn reads_are_cut_by_range_and_by_bytes(mut fixture: Box<dyn Fixture>) {
    let sized = |len: usize| Bytes::from(vec![len as u8; len]);
    let all: Vec<_> = (10..20).map(|index| (index, sized(index as usize))).collect();
    let ops = all.iter().map(|(index, bytes)| LogOp::Append {
        stream: A,
        first: *index,
        entries: vec![bytes.clone()],
    });
    put(&mut *fixture, ops.collect());
    let log = fixture.log();
    let read = |range, max_bytes| log.read(A, range, max_bytes).expect("nothing is damaged");
    assert_eq!(read(0..u64::MAX, usize::MAX), all);
    assert_eq!(read(12..14, usize::MAX), all[2..4]);
    assert_eq!(read(18..100, usize::MAX), all[8..]);
    assert_eq!(read(0..11, usize::MAX), all[..1]);
    assert_eq!(read(10..20, 0), all[..1], "at least one");
    assert_eq!(read(10..20, 33), all[..3], "10 + 11 + 12 bytes");
    assert_eq!(read(10..20, 32), all[..2]);
    for (from, to) in [(0, 10), (20, 30), (14, 14)] {
        assert!(read(from..to, usize::MAX).is_empty());
    }
    let (from, to) = (15, 12);
    assert!(read(from..to, usize::MAX).is_empty(), "a range that is upside down is empty");
}

fn votes_and_hints_are_kept_apart(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![vote(A, "a1"), vote(B, "b1"), committed(A, "ca")]);
    put(&mut *fixture, vec![vote(A, "a2"), vote(C, "c1"), committed(B, "cb")]);
    let log = fixture.log();
    let states = [A, B, C].map(|stream| log.state(stream).expect("nothing is damaged"));
    let text =
        |bytes: &Option<Bytes>| bytes.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert_eq!(states.each_ref().map(|state| text(&state.vote)), ["a2", "b1", "c1"].map(|v| Some(v.into())));
    let hints = states.each_ref().map(|state| text(&state.committed));
    assert_eq!(hints, [Some("ca".to_owned()), Some("cb".to_owned()), None]);
    assert_eq!(log.streams(), [A, B, C]);
}

fn a_tombstone_is_final(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![append(B, 1..=3, 1), vote(B, "v"), append(C, 1..=1, 1)]);
    put(&mut *fixture, vec![LogOp::Tombstone { stream: B }]);
    put(&mut *fixture, vec![LogOp::Tombstone { stream: B }]);
    let log = fixture.log();
    let gone = StreamState { tombstoned: true, ..StreamState::default() };
    assert_eq!(log.state(B).expect("nothing is damaged"), gone);
    assert!(log.read(B, 0..10, usize::MAX).expect("nothing is damaged").is_empty());
    assert_eq!(log.streams(), [C]);
    for op in [append(B, 4..=4, 2), vote(B, "w"), committed(B, "c"), purge(B, 2)] {
        assert!(matches!(log.submit(vec![op], Box::new(|_| {})), Err(StorageError::Invalid(_))));
    }
    assert_holds(&*log, C, &entries(C, 1..=1, 1));
    if let Some(fixture) = fixture.reopen() {
        assert_eq!(fixture.log().state(B).expect("nothing is damaged"), gone);
        assert_eq!(fixture.log().streams(), [C]);
    }
}

fn limits_are_enforced(fixture: Box<dyn Fixture>) {
    let log = fixture.log();
    let long = Bytes::from(vec![0; MAX_RECORD_META_BYTES + 1]);
    let huge = Bytes::from(vec![0; MAX_ENTRY_BYTES + 1]);
    for op in [
        LogOp::SaveVote { stream: A, vote: long.clone() },
        LogOp::SaveCommitted { stream: A, committed: long.clone() },
        LogOp::PurgeTo { stream: A, index: 1, marker: long },
        LogOp::Append { stream: A, first: 1, entries: vec![huge] },
    ] {
        let refused = log.submit(vec![op], Box::new(|_| {}));
        assert!(matches!(refused, Err(StorageError::TooLarge { .. })));
    }
    assert!(log.streams().is_empty());
}

fn ready_resolves_when_there_is_room(mut fixture: Box<dyn Fixture>) {
    let log = fixture.log();
    let mut ready = pin!(log.ready(1000));
    let mut context = Context::from_waker(Waker::noop());
    assert!(matches!(ready.as_mut().poll(&mut context), Poll::Ready(Ok(()))));
    put(&mut *fixture, vec![append(A, 1..=1, 1)]);
}

fn everything_outlives_the_process(mut fixture: Box<dyn Fixture>) {
    put(&mut *fixture, vec![append(A, 1..=9, 1), append(B, 50..=60, 1), vote(A, "v1"), vote(C, "c")]);
    put(&mut *fixture, vec![purge(A, 3), LogOp::TruncateAfter { stream: A, last: Some(7) }, vote(A, "v2")]);
    put(&mut *fixture, vec![append(A, 8..=8, 2), committed(A, "hint"), vote(A, "v3")]);
    let ids = fixture.log().streams();
    let seen = |fixture: &dyn Fixture| -> BTreeMap<_, _> {
        let log = fixture.log();
        let whole = |stream: &StreamId| {
            let state = log.state(*stream).expect("nothing is damaged");
            let held = log.read(*stream, 0..u64::MAX, usize::MAX).expect("nothing is damaged");
            (*stream, (state, held))
        };
        ids.iter().map(whole).collect()
    };
    let before = seen(&*fixture);
    let Some(mut fixture) = fixture.reopen() else { return };
    assert_eq!(fixture.log().streams(), ids);
    assert_eq!(seen(&*fixture), before);
    put(&mut *fixture, vec![append(A, 9..=9, 3), append(C, 1..=1, 3)]);
    let before = seen(&*fixture);
    let fixture = fixture.reopen().expect("it was reopened before");
    assert_eq!(seen(&*fixture), before);
}
