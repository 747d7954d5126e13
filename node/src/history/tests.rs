//! The history over tables in memory: what is recorded, found, listed and removed, on one node and on several.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::operations::{
    Failure, FailureKind, Listing, Operation, OperationId, OperationKind, OperationState, Operations, Part,
    SubKey, Submission,
};
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::transport::memory::MemoryNetwork;
use longshore_raft::transport::{Handler, Lane, Replier};
use longshore_raft::{NodeId, Runtime as _};
use longshore_storage::tables::{MemTables, Opened, Tables, TablesError};

use super::calls::{HistoryCall, HistoryReply};
use super::recorder::Known;
use super::records::{self, Moment, PAGE_OPERATIONS_MAX, Page};
use super::*;

const DAY_MS: u64 = 24 * 3_600_000;

/// Operations of one session, submitted at these times, each with one part; those with an odd number fail, none has ended yet.
fn submitted(unix_ms: &[u64]) -> Operations {
    let mut operations = Operations::default();
    for (index, unix_ms) in (1..).zip(unix_ms) {
        let submission = Submission {
            session: "nightly".parse().unwrap(),
            kind: OperationKind::Pull { images: vec!["busybox".parse().unwrap()] },
            strategy: longshore_model::operations::Strategy::Local,
            places: Default::default(),
            parts: vec![Part { node: NodeId(1), work: 0, why: None }],
            left_out: Vec::new(),
            timeout_ms: 60_000,
            submitted_by: NodeId(1),
            unix_ms: *unix_ms,
            retry_of: None,
            asked: [0; 32],
            key: None,
        };
        operations.submit(id(index), LogTime(*unix_ms), submission).unwrap();
    }
    operations
}

fn id(index: u64) -> OperationId {
    let session: longshore_model::operations::SessionId = "nightly".parse().unwrap();
    OperationId { index, position: 0, partition: session.partition() }
}

fn end(operations: &mut Operations, index: u64) {
    let key = SubKey { operation: id(index), index: 0 };
    let at = operations.get(id(index)).unwrap().submitted_unix_ms;
    operations.claim(key, NodeId(1), 1, LogTime(at), at);
    let failure = Failure { error: "no such image".into(), kind: FailureKind::Final };
    let outcome = if index.is_multiple_of(2) { Ok("done".to_owned()) } else { Err(failure) };
    operations.finish(key, 1, outcome, LogTime(at + 1), at + 1);
}

/// Ended operations, submitted at these times.
fn ended(unix_ms: &[u64]) -> Vec<Operation> {
    let mut operations = submitted(unix_ms);
    (1..=unix_ms.len() as u64).for_each(|index| end(&mut operations, index));
    operations.all().cloned().collect()
}

fn indexes(operations: &[Operation]) -> Vec<u64> {
    operations.iter().map(|operation| operation.id.index).collect()
}

fn everything(limit: u32) -> Listing {
    Listing { limit, ..Listing::default() }
}

fn recorded(unix_ms: &[u64]) -> MemTables {
    let tables = MemTables::new();
    assert_eq!(records::record(&tables, &ended(unix_ms)).unwrap(), unix_ms.len());
    tables
}

#[test]
fn what_is_recorded_is_found_as_it_was_and_recorded_once() {
    let tables = recorded(&[10, 5, 7]);
    let operations = ended(&[10, 5, 7]);
    assert_eq!(records::record(&tables, &operations).unwrap(), 0);
    for operation in &operations {
        assert_eq!(records::find(&tables, operation.id).unwrap().as_ref(), Some(operation));
    }
    assert_eq!(records::find(&tables, id(4)).unwrap(), None);
    let Page { operations, next } = records::page(&tables, &everything(9), None).unwrap();
    assert_eq!((indexes(&operations), next), (vec![1, 3, 2], None), "newest first");
}

#[test]
fn pages_together_are_the_listing() {
    let times: Vec<u64> = (0..700).map(|number| number / 2 * 10).collect();
    let tables = recorded(&times);
    let all = |listing: &Listing| {
        let (mut all, mut before, mut pages) = (Vec::new(), None, 0);
        loop {
            let page = records::page(&tables, listing, before).unwrap();
            assert!(page.operations.len() <= PAGE_OPERATIONS_MAX);
            all.extend(indexes(&page.operations));
            pages += 1;
            match page.next {
                Some(next) => before = Some(next),
                None => return (all, pages),
            }
        }
    };
    let newest_first: Vec<u64> = (1..=700).rev().collect();
    assert_eq!(all(&everything(1_000)), (newest_first.clone(), 3));
    let failed = Listing { state: Some(OperationState::Failed), ..everything(1_000) };
    let odd: Vec<u64> = newest_first.iter().copied().filter(|index| index % 2 == 1).collect();
    assert_eq!(all(&failed).0, odd);
    let since = Listing { since_unix_ms: 3_490, ..everything(1_000) };
    assert_eq!(all(&since).0, [700, 699]);
    for nothing in [
        Listing { kind: Some("push".into()), ..everything(9) },
        Listing { active: true, ..everything(9) },
        Listing { session: Some("other".parse().unwrap()), ..everything(9) },
        everything(0),
    ] {
        assert_eq!(all(&nothing).0, Vec::<u64>::new());
    }
    let first = records::page(&tables, &everything(2), None).unwrap();
    assert_eq!(indexes(&first.operations), [700, 699]);
    assert_eq!(first.next, Some(Moment { unix_ms: 3_490, id: id(699) }));
}

#[test]
fn what_is_too_old_goes_and_the_oldest_of_too_many() {
    let tables = recorded(&(0..600).collect::<Vec<u64>>());
    assert_eq!(records::prune(&tables, 0, 1_000).unwrap(), 0);
    assert_eq!(records::prune(&tables, 50, 1_000).unwrap(), 50);
    assert_eq!(records::find(&tables, id(50)).unwrap(), None);
    assert!(records::find(&tables, id(51)).unwrap().is_some());
    assert_eq!(records::prune(&tables, 50, 7).unwrap(), 543);
    assert_eq!(records::count(&tables).unwrap(), 7);
    let left = records::page(&tables, &everything(9), None).unwrap();
    assert_eq!(indexes(&left.operations), (594..=600).rev().collect::<Vec<u64>>());
    assert_eq!(records::prune(&tables, u64::MAX, 7).unwrap(), 7);
    assert_eq!(records::find(&tables, id(600)).unwrap(), None);
}

#[test]
fn ended_operations_are_taken_once_and_only_those_not_too_old() {
    let mut operations = submitted(&[10, 20, 30]);
    let mut known = Known::default();
    assert_eq!(known.take_new(&operations, 0), (Vec::new(), true));
    end(&mut operations, 3);
    end(&mut operations, 1);
    let (new, all) = known.take_new(&operations, 15);
    assert_eq!((indexes(&new), all), (vec![3], true));
    end(&mut operations, 2);
    assert_eq!(indexes(&known.take_new(&operations, 15).0), [2]);
    assert_eq!(known.take_new(&operations, 15), (Vec::new(), true));
}

#[test]
fn many_are_taken_some_at_a_time() {
    let mut operations = submitted(&vec![0; 300]);
    (1..=300).for_each(|index| end(&mut operations, index));
    let (mut known, mut taken, mut looks) = (Known::default(), BTreeSet::new(), 0);
    loop {
        let (new, all) = known.take_new(&operations, 0);
        taken.extend(indexes(&new));
        looks += 1;
        if all {
            break;
        }
    }
    assert!(taken.len() == 300 && looks > 1, "{} in {looks} looks", taken.len());
}

#[test]
fn histories_are_asked_only_for_what_groups_can_not_have() {
    let now = 10 * DAY_MS;
    let hour_ago = Listing { since_unix_ms: now - DAY_MS / 24, ..everything(5) };
    let (few, enough) = (ended(&[1, 2]), ended(&[1, 2, 3, 4, 5]));
    assert!(!reaches_beyond(&hour_ago, &few, now), "groups have all that ended in the last hour");
    for listing in [
        everything(5),
        Listing { since_unix_ms: now - 2 * DAY_MS, ..everything(5) },
        Listing { since_unix_ms: now - DAY_MS, ..everything(5) },
        Listing { kind: Some("pull".into()), ..hour_ago.clone() },
    ] {
        assert!(reaches_beyond(&listing, &few, now), "{listing:?}");
        assert!(!reaches_beyond(&listing, &enough, now), "{listing:?}: it is full");
        assert!(
            !reaches_beyond(&Listing { active: true, ..listing }, &few, now),
            "what is active is in a group"
        );
    }
}

#[test]
fn groups_come_before_histories_and_each_operation_once() {
    let histories = ended(&[10, 20, 30, 40]);
    let mut groups = histories[1..3].to_vec();
    groups[0].cancelled_by = Some(NodeId(9));
    let all = merged(groups, histories, 3);
    assert_eq!(indexes(&all), [4, 3, 2]);
    assert_eq!(all[2].cancelled_by, Some(NodeId(9)));
}

#[tokio::test]
async fn what_is_kept_goes_by_the_time_of_day() {
    let now = TokioRuntime::unix_time_ms();
    let tables = Arc::new(recorded(&[now - 3 * DAY_MS, now - 2 * DAY_MS, now - DAY_MS / 2, now]));
    let history = of_tables(tables, Duration::from_millis(DAY_MS)).await;
    assert_eq!((history.prune().await, history.prune().await), (Ok(2), Ok(0)));
    let HistoryReply::Page(page) =
        history.answer(HistoryCall::Page { listing: everything(9), before: None }).await
    else {
        panic!("it is open")
    };
    assert_eq!(indexes(&page.operations), [4, 3]);
    history.close().await;
    let closed = history.answer(HistoryCall::Find(id(4))).await;
    assert!(matches!(closed, HistoryReply::Unavailable(_)), "{closed:?}");
}

async fn of_tables(tables: Arc<MemTables>, keep: Duration) -> Arc<History<TokioRuntime>> {
    let history = History::new(Arc::new(move || Ok((tables.clone() as Arc<dyn Tables>, Opened::Kept))), keep);
    assert!(history.open_tables().await);
    history
}

/// Passes on what comes in, as the intake does.
struct Gate(Arc<History<TokioRuntime>>);

impl Handler for Gate {
    fn on_request(&self, _: NodeId, _: Lane, body: Bytes, replier: Replier) {
        self.0.receive(&body, replier);
    }

    fn on_connection(&self, _: NodeId, _: bool) {}

    fn on_removed(&self, _: NodeId) {}
}

/// A node's history with operations of these indexes, all submitted at one time each.
async fn history(indexes: &[u64]) -> Arc<History<TokioRuntime>> {
    let tables = Arc::new(MemTables::new());
    let all = ended(&(1..=9).map(|index| index * 10).collect::<Vec<u64>>());
    let some: Vec<Operation> = all.into_iter().filter(|o| indexes.contains(&o.id.index)).collect();
    records::record(&*tables, &some).unwrap();
    of_tables(tables, Duration::from_secs(3_600)).await
}

#[tokio::test(start_paused = true)]
async fn a_listing_puts_the_histories_of_nodes_together() {
    let network = MemoryNetwork::<TokioRuntime>::new(1);
    let mine = history(&[1, 2, 3]).await;
    for (node, indexes) in [(2, &[2, 3, 4][..]), (3, &[9])] {
        network.attach(NodeId(node), Arc::new(Gate(history(indexes).await)));
    }
    network.attach(NodeId(1), Arc::new(Gate(Arc::clone(&mine))));
    // Its tables can not be opened.
    let broken = History::new(
        Arc::new(|| {
            let source = std::io::Error::other("a full disk");
            Err(TablesError::Io { context: "cannot make tables".into(), source })
        }),
        Duration::from_secs(3_600),
    );
    assert!(!broken.open_tables().await);
    network.attach(NodeId(4), Arc::new(Gate(broken)));
    let histories = Histories::new(NodeId(1), mine, network.transport(NodeId(1)));
    // Nobody is at 5.
    let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
    let listed = async |limit| indexes(&histories.list(nodes.clone(), &everything(limit)).await);
    assert_eq!(listed(100).await, [9, 4, 3, 2, 1]);
    assert_eq!(listed(2).await, [9, 4]);
    let found = async |index| histories.find(nodes.clone(), id(index)).await.map(|o| o.id.index);
    assert_eq!((found(1).await, found(9).await, found(5).await), (Some(1), Some(9), None));
}
