//! openraft's own suite for log storage and state machines, run on ours; and what it does not ask.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_storage::log::MemLog;
use longshore_storage::{LogStore, StorageError, StorageResult, StreamId};
use openraft::RaftSnapshotBuilder;
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt;

use super::changes::Changes;
use super::codec::{self, Blob};
use super::log::GroupLog;
use super::machine::{ApplyContext, LogTime, StateMachine};
use super::runtime::TokioRuntime;
use super::snapshots::{MemorySnapshots, Snapshots, StoredSnapshot};
use super::state::{State, Typed};
use super::types::{Batch, CommandId, CommittedLeaderId, Entry, LogId, Op, Payload, Types};
use crate::model::ids::{ClientId, ReplicaId};

type Rt = TokioRuntime;
type C = Types<Rt>;

impl From<u64> for ReplicaId {
    fn from(id: u64) -> Self {
        ReplicaId(id)
    }
}

/// Adds up.
#[derive(Debug, Default, PartialEq)]
struct Sum(u64);

impl StateMachine for Sum {
    type Command = u64;
    type Reply = u64;
    fn apply(&mut self, _: ApplyContext, command: u64) -> u64 {
        self.0 += command;
        self.0
    }
    fn snapshot(&self) -> Vec<u8> {
        codec::encode(&self.0)
    }
    fn restore(bytes: &[u8]) -> Result<Self, String> {
        codec::decode(bytes).map(Sum).map_err(|e| e.to_string())
    }
}

const STREAM: StreamId = StreamId { group: 1, replica: 1 };

fn state(snapshots: Arc<MemorySnapshots>) -> State<Rt> {
    State::new(Box::new(Typed::mute(Sum::default())), Arc::new(Changes::default()), snapshots, STREAM)
}

struct Builder;

impl StoreBuilder<C, GroupLog<Rt>, State<Rt>> for Builder {
    async fn build(&self) -> Result<((), GroupLog<Rt>, State<Rt>), openraft::StorageError<C>> {
        Ok(((), GroupLog::new(Arc::new(MemLog::new()), STREAM, Arc::default()), state(Arc::default())))
    }
}

#[test]
fn the_suite_of_openraft() {
    // The suite sleeps for seconds where it waits for callbacks: paused time makes that nothing.
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}

fn log_id(index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(1), index)
}

fn entry(index: u64, time: u64, ops: Vec<Op>) -> Entry {
    Entry { log_id: log_id(index), payload: Payload::Normal(Batch { time: LogTime(time), ops }) }
}

fn command(seq: u64, client: u64, amount: u64) -> Op {
    let id = CommandId { client: ClientId(client), seq, acked_below: 0 };
    Op::Command { id: Some(id), body: codec::encode(&amount).into() }
}

async fn apply(state: &mut State<Rt>, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    state.apply(futures_util::stream::iter(entries)).await.unwrap();
}

fn sum(state: &State<Rt>) -> u64 {
    state.applied.read().machine.as_any().downcast_ref::<Sum>().unwrap().0
}

#[test]
fn a_snapshot_carries_state_window_time_and_position() {
    C::run(async {
        let client = super::clients::client_id(1, 0).0;
        let mut first = state(Arc::default());
        let ops = vec![command(0, client, 5), command(2, client, 7)];
        apply(&mut first, vec![entry(1, 100, vec![Op::Register]), entry(2, 250, ops)]).await;
        let snapshot = first.get_snapshot_builder().await.build_snapshot().await.unwrap();

        let disk = Arc::new(MemorySnapshots::default());
        let mut second = state(disk.clone());
        second.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
        assert_eq!(second.applied_state().await.unwrap().0, Some(log_id(2)));
        assert!(second.applied.read().now() >= LogTime(250));
        // A retry is known, a late one is new; an undecodable one changes nothing.
        let odd = Op::Command { id: None, body: Blob::from(vec![0xFF; 3]) };
        apply(&mut second, vec![entry(3, 200, vec![command(2, client, 7), command(1, client, 1), odd])])
            .await;
        assert_eq!(sum(&second), 13);
        assert!(second.applied.read().now() >= LogTime(250), "an earlier stamp does not turn time back");

        // The installed snapshot is durable: a restart begins with it.
        let mut third = state(disk);
        let stored = third.get_current_snapshot().await.unwrap().unwrap();
        third.install_snapshot(&stored.meta, stored.snapshot).await.unwrap();
        assert_eq!(sum(&third), 12);
    });
}

#[test]
fn a_snapshot_that_was_built_slowly_does_not_replace_a_newer_one() {
    C::run(async {
        let disk = Arc::new(MemorySnapshots::default());
        let mut slow = state(disk.clone());
        apply(&mut slow, vec![entry(1, 0, vec![])]).await;
        let mut builder = slow.get_snapshot_builder().await;
        let mut other = state(Arc::default());
        apply(&mut other, vec![entry(1, 0, vec![]), entry(9, 0, vec![])]).await;
        let newer = other.get_snapshot_builder().await.build_snapshot().await.unwrap();
        slow.install_snapshot(&newer.meta, newer.snapshot).await.unwrap();
        builder.build_snapshot().await.unwrap();
        let kept = slow.get_current_snapshot().await.unwrap().unwrap();
        assert_eq!(kept.meta.last_log_id, Some(log_id(9)));
    });
}

#[test]
fn damaged_snapshots_are_refused_and_change_nothing() {
    C::run(async {
        let mut whole = state(Arc::default());
        apply(
            &mut whole,
            vec![entry(1, 0, vec![Op::Command { id: None, body: codec::encode(&5u64).into() }])],
        )
        .await;
        let snapshot = whole.get_snapshot_builder().await.build_snapshot().await.unwrap();
        let mut target = state(Arc::default());
        let mut truncated = snapshot.snapshot.to_vec();
        truncated.pop();
        let mut newer = snapshot.snapshot.to_vec();
        newer[0] = 99;
        for damaged in [truncated, newer, Vec::new()] {
            target.install_snapshot(&snapshot.meta, damaged.into()).await.unwrap_err();
            assert_eq!(target.applied_state().await.unwrap().0, None);
        }
    });
}

#[test]
fn entries_survive_a_reopening_and_a_lie_in_the_log_is_found() {
    C::run(async {
        let store = MemLog::new();
        let mut log = GroupLog::<Rt>::new(Arc::new(store.clone()), STREAM, Arc::default());
        let entries: Vec<Entry> = (5..25).map(|i| Entry::new_blank(log_id(i))).collect();
        log.append(entries.clone(), IOFlushed::noop()).await.unwrap();
        log.save_committed(Some(log_id(20))).await.unwrap();
        log.truncate_after(Some(log_id(18))).await.unwrap();
        log.purge(log_id(7)).await.unwrap();

        let mut again = GroupLog::<Rt>::new(Arc::new(store.clone()), STREAM, Arc::default());
        let state = again.get_log_state().await.unwrap();
        assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(7)), Some(log_id(18))));
        assert_eq!(again.read_committed().await.unwrap(), Some(log_id(18)), "a hint beyond the log is cut");
        assert_eq!(again.try_get_log_entries(..).await.unwrap(), entries[3..14]);
        assert_eq!(again.try_get_log_entries(10..=12).await.unwrap(), entries[5..8]);
        again.limited_get_log_entries(30, 31).await.unwrap_err();

        // Another stream's bytes under this stream's index.
        let stray = super::wire::encode_entry(&Entry::new_blank(log_id(99)));
        let op = longshore_storage::LogOp::Append { stream: STREAM, first: 19, entries: vec![stray] };
        store.submit(vec![op], Box::new(|_| {})).unwrap();
        again.try_get_log_entries(19..20).await.unwrap_err();
    });
}

/// What a leader has said stands against entries that come late, and not against those stamped since.
#[test]
fn log_time_is_what_was_said_last() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut state = state(Arc::default());
        apply(&mut state, vec![entry(1, 1_000, vec![])]).await;
        state.hear(LogTime(9_000));
        apply(&mut state, vec![entry(2, 2_000, vec![])]).await;
        assert_eq!(state.applied.read().now(), LogTime(9_000), "an entry of before that");
        tokio::time::advance(Duration::from_millis(500)).await;
        state.hear(LogTime(9_400));
        assert_eq!(state.applied.read().now(), LogTime(9_500), "no news");
        apply(&mut state, vec![entry(3, 9_450, vec![])]).await;
        assert_eq!(state.applied.read().now(), LogTime(9_450), "this node's clock is fast");
    });
}

/// A disk that is full at times.
#[derive(Debug, Default)]
struct Full {
    disk: MemorySnapshots,
    is_full: AtomicBool,
}

impl Snapshots for Full {
    fn save(&self, stream: StreamId, meta: &[u8], data: &[u8]) -> StorageResult<()> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(StorageError::io("snapshot", io::ErrorKind::StorageFull.into())),
            false => self.disk.save(stream, meta, data),
        }
    }
    fn load(&self, stream: StreamId) -> StorageResult<Option<StoredSnapshot>> {
        self.disk.load(stream)
    }
}

#[test]
fn a_full_disk_puts_a_snapshot_off_and_does_not_end_the_replica() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let disk = Arc::new(Full::default());
        let mut state = State::<Rt>::new(
            Box::new(Typed::mute(Sum::default())),
            Arc::new(Changes::default()),
            disk.clone(),
            STREAM,
        );
        let built = async |state: &mut State<Rt>| {
            let mut builder = state.try_create_snapshot_builder(false).await?;
            Some(builder.build_snapshot().await.unwrap().meta.last_log_id)
        };
        disk.is_full.store(true, Ordering::Relaxed);
        apply(&mut state, vec![entry(1, 0, vec![])]).await;
        assert_eq!(built(&mut state).await, Some(None), "there was none before");
        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(built(&mut state).await, None, "not at once");
        assert!(state.try_create_snapshot_builder(true).await.is_some());
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(built(&mut state).await, Some(Some(log_id(1))));
        disk.is_full.store(true, Ordering::Relaxed);
        apply(&mut state, vec![entry(2, 0, vec![])]).await;
        assert_eq!(built(&mut state).await, Some(Some(log_id(1))), "the one that is durable");
        assert_eq!(state.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id, Some(log_id(1)));
    });
}
