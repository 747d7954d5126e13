//! Tests of the operation table: the life of a sub-operation, and its rules under any order of events.

use std::collections::BTreeMap;

use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;

use longshore_raft::consensus::config::ANSWER_BYTES_MAX;

use super::*;
use crate::blocks::{BlockError, BlockReader, BlockWriter};
use crate::codec;
use crate::image::{ImageReference, MAX_REFERENCE_LENGTH};
use crate::operations::{BuildContext, BuildSpec, IMAGES_MAX};
use crate::partition::{Answer, PartitionId, PartitionRange};

const NODE: NodeId = NodeId(1);

fn submission(nodes: &[u64], key: Option<u8>) -> Submission {
    Submission {
        session: session(),
        kind: OperationKind::Pull { images: vec!["busybox".parse().unwrap()] },
        strategy: Strategy::Replicated,
        places: Default::default(),
        parts: nodes.iter().map(|n| part(NodeId(*n), 0)).collect(),
        left_out: Vec::new(),
        timeout_ms: 600_000,
        submitted_by: NODE,
        unix_ms: 0,
        retry_of: None,
        asked: [7; 32],
        key: key.map(|k| [k; 32]),
    }
}

fn part(node: NodeId, work: u32) -> Part {
    Part { node, work, why: None }
}

fn session() -> SessionId {
    "nightly".parse().unwrap()
}

fn id(index: u64) -> OperationId {
    OperationId { index, position: 0, partition: session().partition() }
}

fn table() -> (Operations, SubKey) {
    let mut table = Operations::default();
    table.submit(id(1), LogTime(0), submission(&[1], None)).unwrap();
    (table, SubKey { operation: id(1), index: 0 })
}

fn failure(error: &str, transient: bool) -> Result<String, Failure> {
    let kind = if transient { FailureKind::Transient } else { FailureKind::Final };
    Err(Failure { error: error.into(), kind })
}

/// Through a snapshot and back.
fn through_a_snapshot(table: &Operations) -> Result<Operations, BlockError> {
    let mut blocks = BlockWriter::new(b"v");
    table.write(&mut blocks);
    let bytes = blocks.finish();
    Operations::read(PartitionRange::new(0..=255).unwrap(), &mut BlockReader::new(b"v", &bytes[1..]))
}

fn granted(reply: ClaimReply) -> u32 {
    match reply {
        ClaimReply::Granted { token, .. } => token,
        other => panic!("expected a grant, got {other:?}"),
    }
}

#[test]
fn a_result_counts_only_under_the_token_of_the_lease() {
    let (mut t, key) = table();
    let first = granted(t.claim(key, NODE, 7, LogTime(0), 0));
    assert_eq!(t.claim(key, NodeId(2), 7, LogTime(0), 0), ClaimReply::Gone, "another node's");
    assert!(matches!(t.claim(key, NODE, 7, LogTime(0), 0), ClaimReply::NotYet { .. }));
    let second = granted(t.claim(key, NODE, 8, LogTime(1), 0));
    let old = t.finish(key, first, Ok("old".into()), LogTime(2), 0);
    assert_eq!(old, Finished::LeaseLost, "the restarted node's old attempt");
    assert_eq!(t.report(&[(key, first, Progress::default())], LogTime(2)), [key]);
    assert_eq!(t.finish(key, second, Ok("new".into()), LogTime(2), 0), Finished::Ended);
    let op = t.get(id(1)).unwrap();
    assert_eq!((op.state(), op.ended), (OperationState::Succeeded, Some(LogTime(2))));
    assert_eq!(t.claim(key, NODE, 9, LogTime(3), 0), ClaimReply::Gone);
}

#[test]
fn a_lease_that_is_not_renewed_is_given_up_after_the_grace() {
    let (mut t, key) = table();
    granted(t.claim(key, NODE, 7, LogTime(0), 0));
    assert_eq!(t.report(&[(key, 1, Progress::default())], LogTime(5_000)), []);
    let due = LogTime(5_000 + LEASE_MS + GRACE_MS);
    assert_eq!(t.next_deadline(), Some(due));
    t.sweep(LogTime(due.0 - 1), 0, &[]);
    assert!(matches!(t.get(id(1)).unwrap().subs[0].state, SubState::Running(_)));
    t.sweep(due, 0, &[]);
    assert!(matches!(t.get(id(1)).unwrap().subs[0].state, SubState::Assigned { .. }));
    assert_eq!(granted(t.claim(key, NODE, 7, due, 0)), 2);
}

#[test]
fn transient_failures_back_off_and_end_after_the_last_attempt() {
    let (mut t, key) = table();
    let mut now = LogTime(0);
    for attempt in 1..=ATTEMPTS_MAX {
        let token = granted(t.claim(key, NODE, 7, now, 0));
        assert_eq!(token, attempt);
        let finished = t.finish(key, token, failure("registry down", true), now, 0);
        if attempt < ATTEMPTS_MAX {
            assert_eq!(finished, Finished::Again { after_ms: backoff_ms(attempt) });
            let ClaimReply::NotYet { wait_ms } = t.claim(key, NODE, 7, now, 0) else { panic!("no backoff") };
            assert_eq!(wait_ms, backoff_ms(attempt));
            now.0 += wait_ms;
        }
    }
    let op = t.get(id(1)).unwrap();
    assert_eq!(op.state(), OperationState::Failed);
    assert_eq!(op.subs[0].state, SubState::Failed { error: "registry down".into() });
}

#[test]
fn what_waits_for_something_is_tried_until_the_operation_is_late() {
    let (mut t, key) = table();
    let mut now = LogTime(0);
    let away = || Err(Failure { error: "its holder is away".into(), kind: FailureKind::Waiting });
    for attempt in 1..=2 * ATTEMPTS_MAX {
        let token = granted(t.claim(key, NODE, 7, now, 0));
        let finished = t.finish(key, token, away(), now, 0);
        assert_eq!(finished, Finished::Again { after_ms: backoff_ms(attempt) });
        now.0 += backoff_ms(attempt);
    }
    // They do not count as attempts that were in vain.
    for left in (0..ATTEMPTS_MAX).rev() {
        let token = granted(t.claim(key, NODE, 7, now, 0));
        let finished = t.finish(key, token, failure("registry down", true), now, 0);
        assert_eq!(finished == Finished::Ended, left == 0, "{left} left");
        now.0 += backoff_ms(u32::MAX);
    }
    let (mut t, key) = table();
    let token = granted(t.claim(key, NODE, 7, LogTime(0), 0));
    t.finish(key, token, away(), LogTime(0), 0);
    t.sweep(LogTime(600_000), 0, &[]);
    let SubState::Failed { error } = &t.get(id(1)).unwrap().subs[0].state else { panic!("not failed") };
    assert_eq!(error, "timed out; the last attempt said: its holder is away");
}

#[test]
fn partial_success_and_timeouts_are_told_apart() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), submission(&[1, 2], None)).unwrap();
    let key = |index| SubKey { operation: id(1), index };
    let token = granted(t.claim(key(0), NodeId(1), 7, LogTime(0), 0));
    t.finish(key(0), token, Ok("sha256:x".into()), LogTime(1), 0);
    let token = granted(t.claim(key(1), NodeId(2), 7, LogTime(0), 0));
    t.finish(key(1), token, failure("no route", true), LogTime(1), 0);
    t.sweep(LogTime(600_000), 42, &[]);
    let op = t.get(id(1)).unwrap();
    assert_eq!((op.state(), op.ended_unix_ms), (OperationState::Partial, Some(42)));
    let SubState::Failed { error } = &op.subs[1].state else { panic!("not failed") };
    assert_eq!(error, "timed out; the last attempt said: no route");
}

#[test]
fn a_key_names_one_request() {
    let mut t = Operations::default();
    assert_eq!(t.submit(id(1), LogTime(0), submission(&[1], Some(5))), Ok(id(1)));
    assert_eq!(t.submit(id(2), LogTime(0), submission(&[1, 2], Some(5))), Ok(id(1)), "nodes may differ");
    let mut other = submission(&[1], Some(5));
    other.asked = [8; 32];
    assert_eq!(t.submit(id(3), LogTime(0), other), Err(SubmitError::KeyReused(id(1))));
    assert_eq!(t.all().count(), 1);
}

#[test]
fn limits() {
    let mut t = Operations::default();
    assert_eq!(t.submit(id(1), LogTime(0), submission(&[], None)), Err(SubmitError::Empty));
    let many: Vec<u64> = (0..=SUBS_MAX as u64).collect();
    assert_eq!(t.submit(id(1), LogTime(0), submission(&many, None)), Err(SubmitError::TooManySubs(64)));
    let astray = Submission { parts: vec![part(NODE, 1)], ..submission(&[1], None) };
    assert_eq!(t.submit(id(1), LogTime(0), astray), Err(SubmitError::Part));
    let late = Submission { timeout_ms: TIMEOUT_MAX_MS + 1, ..submission(&[1], None) };
    assert_eq!(t.submit(id(1), LogTime(0), late), Err(SubmitError::Timeout));
    for i in 0..ACTIVE_MAX as u64 {
        t.submit(id(i), LogTime(0), submission(&[1], None)).unwrap();
    }
    assert_eq!(t.submit(id(9_999), LogTime(0), submission(&[1], None)), Err(SubmitError::Busy));
}

#[test]
fn ended_records_are_kept_for_a_day_and_in_bounded_number() {
    let mut t = Operations::default();
    for i in 0..(ENDED_MAX as u64 + 10) {
        t.submit(id(i), LogTime(i), submission(&[1], Some((i % 200) as u8))).ok();
        let key = SubKey { operation: id(i), index: 0 };
        if let ClaimReply::Granted { token, .. } = t.claim(key, NODE, 7, LogTime(i), 0) {
            t.finish(key, token, failure(&"x".repeat(LONG_TEXT_BYTES_MAX * 2), false), LogTime(i), 0);
        }
    }
    assert!(t.all().count() <= ENDED_MAX + 1);
    let SubState::Failed { error } = &t.all().next().unwrap().subs[0].state else { panic!("not failed") };
    assert_eq!(error.len(), LONG_TEXT_BYTES_MAX);
    t.sweep(LogTime(ENDED_KEPT_MS + 5_000), 0, &[]);
    assert_eq!((t.all().count(), t.next_deadline(), t.next_forgotten()), (0, None, None));
}

#[test]
fn sub_operations_are_bounded_too() {
    let mut t = Operations::default();
    let many: Vec<u64> = (1..=SUBS_MAX as u64).collect();
    let fit = (ACTIVE_SUBS_MAX / SUBS_MAX) as u64;
    for i in 0..fit {
        t.submit(id(i), LogTime(0), submission(&many, None)).unwrap();
    }
    assert_eq!(t.submit(id(fit), LogTime(0), submission(&[1], None)), Err(SubmitError::Busy));
    // All of them end, and as many again: the oldest go.
    t.sweep(LogTime(600_000), 0, &[]);
    assert_eq!(t.all().len() as u64, fit);
    for i in fit..fit + 3 {
        t.submit(id(i), LogTime(600_000), submission(&many, None)).unwrap();
    }
    t.sweep(LogTime(1_200_000), 0, &[]);
    let kept: Vec<OperationId> = t.all().map(|o| o.id).collect();
    assert_eq!(kept, (3..fit + 3).map(id).collect::<Vec<_>>());
}

#[test]
fn what_is_left_to_a_node_that_is_gone_fails() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), submission(&[1, 2], None)).unwrap();
    let at_work = |t: &Operations| t.open_subs().map(|(_, sub)| sub.node).collect::<Vec<_>>();
    assert_eq!(at_work(&t), [NodeId(1), NodeId(2)]);
    t.sweep(LogTime(1), 5, &[NodeId(2)]);
    assert_eq!(at_work(&t), [NodeId(1)]);
    let SubState::Failed { error } = &t.get(id(1)).unwrap().subs[1].state else { panic!("not failed") };
    assert_eq!(error, "its node has left the fleet");
    t.sweep(LogTime(2), 6, &[NodeId(1)]);
    assert_eq!(t.get(id(1)).unwrap().ended_unix_ms, Some(6));
}

#[test]
fn what_is_cancelled_is_not_begun_and_loses_its_lease() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), submission(&[1, 2, 3], None)).unwrap();
    let key = |index| SubKey { operation: id(1), index };
    let token = granted(t.claim(key(0), NodeId(1), 7, LogTime(0), 0));
    t.finish(key(0), token, Ok("sha256:x".into()), LogTime(1), 0);
    let token = granted(t.claim(key(1), NodeId(2), 7, LogTime(1), 0));
    assert_eq!(t.cancel(id(2), NODE, LogTime(2), 9), Err(CancelError::Unknown));
    assert_eq!(t.cancel(id(1), NODE, LogTime(2), 9), Ok(()));
    assert_eq!(t.cancel(id(1), NodeId(2), LogTime(3), 10), Ok(()), "once more");
    let op = t.get(id(1)).unwrap();
    assert_eq!(
        (op.state(), op.ended, op.ended_unix_ms),
        (OperationState::Cancelled, Some(LogTime(2)), Some(9))
    );
    assert_eq!(op.cancelled_by, Some(NODE));
    assert!(matches!(op.subs[0].state, SubState::Succeeded { .. }), "what had ended stands");
    assert_eq!(t.report(&[(key(1), token, Progress::default())], LogTime(4)), [key(1)]);
    assert_eq!(t.finish(key(1), token, Ok("late".into()), LogTime(4), 0), Finished::LeaseLost);
    assert_eq!(t.claim(key(2), NodeId(3), 7, LogTime(4), 0), ClaimReply::Gone);
    assert_eq!((t.open_subs().count(), t.next_deadline()), (0, None));

    let (mut t, key) = table();
    let token = granted(t.claim(key, NODE, 7, LogTime(0), 0));
    t.finish(key, token, Ok("done".into()), LogTime(1), 0);
    assert_eq!(t.cancel(id(1), NODE, LogTime(2), 0), Err(CancelError::Ended));
}

#[test]
fn work_is_named_by_its_place() {
    let image = |text: &str| -> ImageReference { text.parse().unwrap() };
    let targets = vec![image("a:2"), image("a:3")];
    let kind = OperationKind::Tag { source: image("a:1"), targets };
    let mut t = Operations::default();
    let parts = vec![part(NodeId(2), 1), part(NodeId(1), 0)];
    t.submit(id(1), LogTime(0), Submission { kind, parts, ..submission(&[1], None) }).unwrap();
    let subs = &t.get(id(1)).unwrap().subs;
    assert_eq!((subs[0].node, subs[0].work), (NodeId(2), 1));
    let key = SubKey { operation: id(1), index: 0 };
    let ClaimReply::Granted { work, .. } = t.claim(key, NodeId(2), 7, LogTime(0), 0) else {
        panic!("not granted")
    };
    assert_eq!(*work, Work::Tag { source: image("a:1"), target: image("a:3") });
    assert_eq!(work.subject(), "a:3");
}

#[test]
fn errors_of_operations_with_many_parts_are_short() {
    let nodes: Vec<u64> = (1..=LONG_TEXT_PARTS_MAX as u64 + 1).collect();
    for (nodes, bytes_max) in [(&nodes[1..], LONG_TEXT_BYTES_MAX), (&nodes[..], TEXT_BYTES_MAX)] {
        let mut t = Operations::default();
        t.submit(id(1), LogTime(0), submission(nodes, None)).unwrap();
        let before = t.get(id(1)).unwrap().size();
        for (index, node) in nodes.iter().enumerate() {
            let key = SubKey { operation: id(1), index: index as u32 };
            let token = granted(t.claim(key, NodeId(*node), 7, LogTime(0), 0));
            t.finish(key, token, failure(&"x".repeat(LONG_TEXT_BYTES_MAX * 2), false), LogTime(1), 0);
        }
        let operation = t.get(id(1)).unwrap();
        let SubState::Failed { error } = &operation.subs[0].state else { panic!("not failed") };
        assert_eq!(error.len(), bytes_max);
        assert_eq!(operation.size() > before, bytes_max > TEXT_BYTES_MAX, "long ones count");
    }
}

#[test]
fn a_build_is_one_piece_of_work_and_checked() {
    let spec = BuildSpec {
        context: BuildContext { digest: [7; 32], bytes: 1, holder: NODE },
        tags: vec!["app:1".parse().unwrap(), "app:2".parse().unwrap()],
        dockerfile: "Dockerfile".into(),
        args: Vec::new(),
        target: None,
        no_cache: false,
        pull: false,
    };
    let kind = OperationKind::Build(Box::new(spec.clone()));
    assert_eq!((kind.works(), kind.works_max(), kind.images().len()), (1, 1, 2));
    assert!(kind.may_run_twice() && kind.may_move());
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), Submission { kind, ..submission(&[1], None) }).unwrap();
    let ClaimReply::Granted { work, .. } = t.claim(key_of(1), NODE, 7, LogTime(0), 0) else {
        panic!("not granted")
    };
    assert_eq!(*work, Work::Build(Box::new(spec.clone())));
    assert_eq!(work.subject(), "app:1");
    let kind = OperationKind::Build(Box::new(BuildSpec { tags: Vec::new(), ..spec }));
    let refused = t.submit(id(2), LogTime(0), Submission { kind, ..submission(&[1], None) });
    assert!(matches!(refused, Err(SubmitError::Build(why)) if why.contains("-t")));
}

fn key_of(operation: u64) -> SubKey {
    SubKey { operation: id(operation), index: 0 }
}

#[test]
fn a_session_has_its_place() {
    let mut t = Operations::default();
    let other = (0..=255).map(PartitionId).find(|p| *p != session().partition()).unwrap();
    let astray = OperationId { partition: other, ..id(1) };
    let refused = t.submit(astray, LogTime(0), submission(&[1], None));
    assert_eq!(refused, Err(SubmitError::Session("nightly".into())));
}

#[test]
fn pages_have_a_limit_and_follow_each_other() {
    let mut t = Operations::default();
    let weekly: SessionId = (0..)
        .map(|i| format!("weekly{i}").parse().unwrap())
        .find(|s: &SessionId| s.partition() == session().partition())
        .unwrap();
    for i in 0..10 {
        let nodes: Vec<u64> = (1..=if i == 7 { SUBS_MAX as u64 } else { 2 }).collect();
        let of = if i % 3 == 0 { weekly.clone() } else { session() };
        t.submit(id(i), LogTime(0), Submission { session: of, ..submission(&nodes, None) }).unwrap();
    }
    t.cancel(id(3), NODE, LogTime(1), 0).unwrap();
    let page = |listing: Listing| {
        let Listed { operations, more, last } = t.list(&listing);
        assert_eq!(last, Some(id(9)), "whatever is asked for");
        (operations.iter().map(|o| o.id.index).collect::<Vec<_>>(), more)
    };
    let all = |before| Listing { limit: 100, before, ..Listing::default() };
    assert_eq!(page(all(None)), (vec![9, 8], true));
    assert_eq!(page(all(Some(id(8)))), (vec![7], true), "however large, one at least");
    assert_eq!(page(all(Some(id(7)))), (vec![6, 5, 4, 3, 2, 1, 0], false));
    assert_eq!(page(Listing { limit: 2, ..all(Some(id(7))) }), (vec![6, 5], false));
    assert_eq!(page(Listing { session: Some(weekly), ..all(None) }), (vec![9, 6, 3, 0], false));
    let cancelled = Listing { state: Some(OperationState::Cancelled), ..all(None) };
    assert_eq!(page(cancelled.clone()), (vec![3], false));
    assert_eq!(page(Listing { kind: Some("pull".into()), ..cancelled.clone() }), (vec![3], false));
    assert_eq!(page(Listing { kind: Some("push".into()), ..cancelled.clone() }), (vec![], false));
    assert_eq!(page(Listing { since_unix_ms: 1, ..cancelled }), (vec![], false));
}

/// Also the largest operation there can be, with the longest texts, is shown to nodes that have no replica of its group.
#[test]
fn the_largest_page_fits_into_an_answer() {
    let digest = format!("sha256:{}", "a".repeat(64));
    let path = "p".repeat(37);
    let image = |i: usize| -> ImageReference {
        let text = format!("registry.example/{path}:{i:0>128}@{digest}");
        assert_eq!(text.len(), MAX_REFERENCE_LENGTH);
        text.parse().unwrap()
    };
    let images: Vec<_> = (0..IMAGES_MAX).map(image).collect();
    let nodes: Vec<NodeId> = (1..=(SUBS_MAX / IMAGES_MAX) as u64).map(NodeId).collect();
    let mut t = Operations::default();
    for i in 0..2 {
        let targets = images.clone();
        let kind = match i {
            0 => OperationKind::Pull { images: images.clone() },
            _ => OperationKind::Tag { source: images[0].clone(), targets },
        };
        let why = Some("y".repeat(999));
        let each = nodes.iter().flat_map(|node| (0..IMAGES_MAX as u32).map(|work| (*node, work)));
        let parts = each.map(|(node, work)| Part { node, work, why: why.clone() }).collect();
        t.submit(id(i), LogTime(0), Submission { kind, parts, ..submission(&[1], None) }).unwrap();
        for (index, node) in nodes.iter().flat_map(|node| images.iter().map(move |_| *node)).enumerate() {
            let key = SubKey { operation: id(i), index: index as u32 };
            let token = granted(t.claim(key, node, 7, LogTime(0), 0));
            t.finish(key, token, failure(&"x".repeat(9_999), i == 0), LogTime(0), 0);
        }
    }
    let Listed { operations, more, last } = t.list(&Listing { limit: 100, ..Listing::default() });
    assert_eq!((operations.len(), more), (1, true));
    for operation in t.all() {
        let answer = Answer::Operations(Listed { operations: vec![operation.clone()], more: true, last });
        let len = codec::encode(&answer).unwrap().len();
        assert!(len <= ANSWER_BYTES_MAX, "{len} bytes");
    }
}

#[test]
fn a_snapshot_that_breaks_a_rule_is_refused() {
    let (t, _) = table();
    let good = t.get(id(1)).unwrap();
    let mut empty = good.clone();
    empty.subs.clear();
    let ended = Operation { ended: Some(LogTime(1)), ..good.clone() };
    let astray = Operation { id: OperationId { partition: PartitionId(0), ..id(1) }, ..good.clone() };
    let mut idle = good.clone();
    idle.subs[0].work = 1;
    let bad =
        [(empty, "no parts"), (ended, "has ended"), (astray, "another's session"), (idle, "none of it")];
    for (bad, why) in bad {
        assert!(Operations::default().load(bad, None).unwrap_err().contains(why), "{why}");
    }
    let mut twice = Operations::default();
    twice.load(good.clone(), Some([1; 32])).unwrap();
    assert!(twice.load(good.clone(), None).unwrap_err().contains("twice"));
    let second = Operation { id: id(2), ..good.clone() };
    assert!(twice.load(second, Some([1; 32])).unwrap_err().contains("key of another"));
    let mut blocks = BlockWriter::new(b"v");
    t.write(&mut blocks);
    let bytes = blocks.finish();
    let elsewhere = if session().partition().0 < 128 { 128..=255 } else { 0..=127 };
    let range = PartitionRange::new(elsewhere).unwrap();
    let refused = Operations::read(range, &mut BlockReader::new(b"v", &bytes[1..])).unwrap_err();
    assert!(refused.to_string().contains("another group"));
}

#[derive(Debug, Clone)]
enum Step {
    Claim { incarnation: u64 },
    Report { token: u32 },
    Finish { token: u32, ok: bool, transient: bool },
    Sweep,
    Cancel,
}

fn steps() -> impl proptest::strategy::Strategy<Value = Vec<(Step, u64)>> {
    let step = prop_oneof![
        8 => (0u64..3).prop_map(|incarnation| Step::Claim { incarnation }),
        8 => (0u32..5).prop_map(|token| Step::Report { token }),
        8 => (0u32..5, any::<bool>(), any::<bool>())
            .prop_map(|(token, ok, transient)| Step::Finish { token, ok, transient }),
        8 => Just(Step::Sweep),
        1 => Just(Step::Cancel),
    ];
    prop::collection::vec((step, 0u64..15_000), 1..60)
}

/// What an earlier start of a node asked for may arrive when a later one has claimed, and has failed already.
#[test]
fn a_late_claim_of_an_earlier_start_is_not_granted() {
    let (mut t, key) = table();
    for incarnation in [1, 2] {
        let granted = t.claim(key, NODE, incarnation, LogTime(0), 0);
        assert!(matches!(granted, ClaimReply::Granted { .. }), "{granted:?}");
    }
    let failure = Failure { error: "busy".into(), kind: FailureKind::Transient };
    t.finish(key, 2, Err(failure), LogTime(0), 0);
    assert_eq!(t.claim(key, NODE, 1, LogTime(60_000), 0), ClaimReply::Gone);
    assert!(matches!(t.claim(key, NODE, 2, LogTime(60_000), 0), ClaimReply::Granted { .. }));
}

proptest! {
    /// Whatever happens in whatever order: tokens are given out once, two attempts of one process never overlap within a lease,
    /// an ended sub-operation never changes, and an operation has ended exactly when its sub-operations have.
    #[test]
    fn rules_hold_under_any_order(steps in steps()) {
        let (mut t, key) = table();
        let mut now = LogTime(0);
        let mut leases: BTreeMap<u32, (u64, LogTime)> = BTreeMap::new();
        let mut end: Option<SubState> = None;
        for (step, ms) in steps {
            now.0 += ms;
            match step {
                Step::Claim { incarnation } => if let ClaimReply::Granted { token, .. } = t.claim(key, NODE, incarnation, now, 0) {
                    for (other, (inc, expires)) in &leases {
                        prop_assert!(*inc <= incarnation || expires.0 <= now.0, "granted to a process that was outlived");
                        prop_assert!(*other != token, "token {} twice", token);
                        prop_assert!(*inc != incarnation || expires.0 <= now.0, "two attempts at once");
                    }
                    leases.insert(token, (incarnation, LogTime(now.0 + LEASE_MS)));
                },
                Step::Report { token } => if t.report(&[(key, token, Progress::default())], now).is_empty() {
                    leases.get_mut(&token).expect("a renewed lease was granted").1 = LogTime(now.0 + LEASE_MS);
                },
                Step::Finish { token, ok, transient } => {
                    let outcome = if ok { Ok("r".into()) } else { failure("e", transient) };
                    if t.finish(key, token, outcome, now, 0) != Finished::LeaseLost {
                        leases.get_mut(&token).expect("a finished lease was granted").1 = now;
                    }
                }
                Step::Sweep => t.sweep(now, 0, &[]),
                Step::Cancel => if t.cancel(key.operation, NODE, now, 0).is_ok() {
                    prop_assert!(t.get(key.operation).is_some_and(|o| o.state() == OperationState::Cancelled));
                },
            }
            let Some(op) = t.get(key.operation) else { break };
            let state = &op.subs[0].state;
            if let Some(end) = &end {
                prop_assert_eq!(end, state, "an ended sub-operation changed");
            }
            if state.is_terminal() {
                end = Some(state.clone());
            }
            prop_assert_eq!(op.ended.is_some(), op.subs.iter().all(|s| s.state.is_terminal()));
        }
        prop_assert_eq!(through_a_snapshot(&t).unwrap(), t);
    }
}
