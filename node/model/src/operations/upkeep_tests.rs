//! Tests of runs that are kept up, of moves, and of what a container is told.

use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as _;

use super::super::command::{Failure, FailureKind};
use super::super::table::ClaimReply;
use super::*;
use crate::blocks::{BlockReader, BlockWriter};
use crate::container::ContainerSpec;
use crate::partition::PartitionRange;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);

fn session() -> SessionId {
    "shop".parse().unwrap()
}

fn id(index: u64) -> OperationId {
    OperationId { index, position: 0, partition: session().partition() }
}

fn spec(copies: u32, upkeep: Upkeep) -> RunSpec {
    let container = ContainerSpec::of("web:1".parse().unwrap());
    RunSpec { container, name: Some("web".into()), copies, upkeep }
}

fn run(nodes: &[NodeId], upkeep: Upkeep) -> Submission {
    let part =
        |(work, node): (usize, &NodeId)| Part { node: *node, work: work as u32, why: Some("chosen".into()) };
    Submission {
        session: session(),
        kind: OperationKind::Run(Box::new(spec(nodes.len() as u32, upkeep))),
        strategy: Strategy::Distributed,
        places: Places::default(),
        parts: nodes.iter().enumerate().map(part).collect(),
        left_out: Vec::new(),
        timeout_ms: 600_000,
        submitted_by: A,
        unix_ms: 0,
        retry_of: None,
        asked: [7; 32],
        key: None,
    }
}

fn key(index: u64, part: u32) -> SubKey {
    SubKey { operation: id(index), index: part }
}

fn claim(t: &mut Operations, key: SubKey, node: NodeId, now: u64) -> u32 {
    match t.claim(key, node, 1, LogTime(now), 0) {
        ClaimReply::Granted { token, .. } => token,
        other => panic!("expected a grant, got {other:?}"),
    }
}

fn start(t: &mut Operations, key: SubKey, node: NodeId, now: u64) -> Origin {
    let token = claim(t, key, node, now);
    t.finish(key, token, Ok(format!("container of {key:?}")), LogTime(now), 0);
    origin(t, key, token)
}

fn origin(t: &Operations, key: SubKey, token: u32) -> Origin {
    let operation = t.get(key.operation).unwrap();
    let OperationKind::Run(spec) = &operation.kind else { panic!("a run") };
    let work = operation.subs[key.index as usize].work;
    Origin { sub: key, token, kept: spec.copy_of(key.operation, work) }
}

/// Two copies on A and B, up.
fn two_up() -> (Operations, [Origin; 2]) {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), run(&[A, B], Upkeep::Keep)).unwrap();
    let first = start(&mut t, key(1, 0), A, 0);
    let second = start(&mut t, key(1, 1), B, 0);
    (t, [first, second])
}

fn repair(
    t: &mut Operations,
    index: u64,
    of: &Origin,
    to: NodeId,
    now: u64,
) -> Option<Result<OperationId, SubmitError>> {
    let copy = of.kept.unwrap();
    let replaced = Replaced { copy, part: of.sub };
    t.repair(id(index), LogTime(now), run(&[to], Upkeep::Replaces(copy)), replaced)
}

fn through_a_snapshot(table: &Operations) -> Operations {
    let mut blocks = BlockWriter::new(b"v");
    table.write(&mut blocks);
    let bytes = blocks.finish();
    Operations::read(PartitionRange::new(0..=255).unwrap(), &mut BlockReader::new(b"v", &bytes[1..])).unwrap()
}

#[test]
fn copies_are_named_and_counted() {
    assert_eq!(spec(1, Upkeep::None).container_name(id(1), 0), "web");
    assert_eq!(spec(2, Upkeep::None).container_name(id(1), 1), "web.2");
    let unnamed = RunSpec { name: None, ..spec(1, Upkeep::None) };
    assert_eq!(unnamed.container_name(id(1), 0), format!("longshore-{}", id(1)));
    let (t, _) = two_up();
    let kept = t.kept_run(id(1)).unwrap();
    assert!(kept.is_up(0) && kept.is_up(1));
    assert_eq!(through_a_snapshot(&t), t);
    let mut short = run(&[A, B], Upkeep::Keep);
    short.parts.pop();
    assert_eq!(Operations::default().submit(id(1), LogTime(0), short), Err(SubmitError::Part));
    let mut both = run(&[A, B], Upkeep::None);
    both.parts[1].work = 0;
    assert_eq!(Operations::default().submit(id(1), LogTime(0), both), Err(SubmitError::Part));
}

#[test]
fn a_copy_of_a_dead_host_is_replaced_and_the_old_one_goes_when_it_is_back() {
    let (mut t, [first, second]) = two_up();
    assert_eq!(t.verdict(&second, B), Verdict::Keep);
    assert_eq!(repair(&mut t, 5, &second, C, 10), Some(Ok(id(5))));
    assert_eq!(repair(&mut t, 6, &second, C, 10), None, "it is being replaced already");
    assert_eq!(t.verdict(&second, B), Verdict::Leave, "until another runs in its place");
    let third = start(&mut t, key(5, 0), C, 20);
    assert_eq!(t.verdict(&third, C), Verdict::Keep);
    assert_eq!((t.verdict(&first, A), t.verdict(&second, B)), (Verdict::Keep, Verdict::Remove));
    assert!(
        !t.copy_news(&second, B, CopyNews::Lost { why: "gone".into() }, LogTime(30)),
        "it does not count"
    );
    assert_eq!(t.kept_run(id(1)).unwrap().copies[1].node, C);
}

#[test]
fn a_copy_that_goes_down_again_and_again_is_replaced_more_and_more_slowly() {
    let (mut t, [first, _]) = two_up();
    let (mut copy, mut now) = (first, 0);
    for (round, pause) in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000].into_iter().enumerate()
    {
        assert!(t.copy_news(&copy, A, CopyNews::Lost { why: "gone".into() }, LogTime(now)));
        let kept = t.kept_run(id(1)).unwrap();
        assert!(!kept.is_due(0, LogTime(now + pause - 1)) && kept.is_due(0, LogTime(now + pause)), "{pause}");
        now += pause;
        let index = 10 + round as u64;
        repair(&mut t, index, &copy, A, now).unwrap().unwrap();
        copy = start(&mut t, key(index, 0), A, now);
    }
    now += SETTLED_MS;
    t.copy_news(&copy, A, CopyNews::Lost { why: "gone".into() }, LogTime(now));
    assert!(t.kept_run(id(1)).unwrap().is_due(0, LogTime(now + 1_000)), "it had been up for long");
}

#[test]
fn a_part_that_fails_leaves_a_copy_that_is_down() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), run(&[A], Upkeep::Keep)).unwrap();
    let token = claim(&mut t, key(1, 0), A, 0);
    let failure = Failure { error: "port taken".into(), kind: FailureKind::Final };
    t.finish(key(1, 0), token, Err(failure), LogTime(5), 0);
    let kept = t.kept_run(id(1)).unwrap();
    assert!(matches!(&kept.copies[0].state, CopyState::Down { why, .. } if why == "port taken"));
    assert_eq!(t.verdict(&origin(&t, key(1, 0), token), A), Verdict::Remove);
}

#[test]
fn what_completed_is_not_replaced_until_it_is_started_again() {
    let (mut t, [first, _]) = two_up();
    assert!(t.copy_news(&first, A, CopyNews::Completed, LogTime(5)));
    assert_eq!(t.verdict(&first, A), Verdict::Leave);
    assert_eq!(repair(&mut t, 9, &first, C, 6), None);
    t.change_upkeep(id(1), UpkeepChange::Start, LogTime(7), 0).unwrap();
    assert!(t.kept_run(id(1)).unwrap().is_due(0, LogTime(7)));
}

#[test]
fn what_is_stopped_stays_and_what_is_released_goes() {
    let (mut t, [first, second]) = two_up();
    repair(&mut t, 5, &second, C, 10).unwrap().unwrap();
    t.change_upkeep(id(1), UpkeepChange::Stop, LogTime(11), 0).unwrap();
    assert_eq!(t.get(id(5)).unwrap().state(), OperationState::Cancelled, "nothing is begun for it");
    assert_eq!(t.verdict(&first, A), Verdict::Stop);
    assert_eq!(t.verdict(&second, B), Verdict::Remove, "replaced before");
    assert_eq!(repair(&mut t, 6, &first, C, 12), None);
    t.change_upkeep(id(1), UpkeepChange::Start, LogTime(13), 0).unwrap();
    assert_eq!(t.verdict(&first, A), Verdict::Remove, "it is made anew");
    assert!(t.kept_run(id(1)).unwrap().is_due(0, LogTime(13)));
    t.change_upkeep(id(1), UpkeepChange::Start, LogTime(13), 0).unwrap();
    t.change_upkeep(id(1), UpkeepChange::Release, LogTime(14), 0).unwrap();
    assert_eq!(t.verdict(&first, A), Verdict::Remove);
    let gone = t.change_upkeep(id(1), UpkeepChange::Release, LogTime(15), 0);
    assert_eq!(gone, Err(UpkeepError::Unknown(id(1))));
}

#[test]
fn a_run_that_is_cancelled_before_it_was_there_is_not_kept() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), run(&[A, B], Upkeep::Keep)).unwrap();
    let first = start(&mut t, key(1, 0), A, 0);
    t.cancel(id(1), A, LogTime(1), 0).unwrap();
    assert_eq!(t.verdict(&first, A), Verdict::Keep, "what is there stands");
    assert!(t.kept_run(id(1)).unwrap().is_due(1, LogTime(1_001)), "and the rest is tried again");
    t.submit(id(2), LogTime(2), run(&[A, B], Upkeep::Keep)).unwrap();
    let token = claim(&mut t, key(2, 0), A, 2);
    t.cancel(id(2), A, LogTime(3), 0).unwrap();
    assert!(t.kept_run(id(2)).is_none(), "nothing of it was there");
    let kept = Some(CopyOf { run: id(2), copy: 0 });
    assert_eq!(t.verdict(&Origin { sub: key(2, 0), token, kept }, A), Verdict::Remove);
}

#[test]
fn a_container_of_a_plain_run_goes_only_when_it_is_known_to_be_a_leftover() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), run(&[A], Upkeep::None)).unwrap();
    let token = claim(&mut t, key(1, 0), A, 0);
    let first = origin(&t, key(1, 0), token);
    assert_eq!(t.verdict(&first, A), Verdict::Wait, "its attempt is under way");
    let over = LEASE_MS + GRACE_MS;
    t.sweep(LogTime(over), 0, &[]);
    assert_eq!(t.verdict(&first, A), Verdict::Remove, "another attempt will make another");
    let second = start(&mut t, key(1, 0), A, over);
    assert_eq!((t.verdict(&first, A), t.verdict(&second, A)), (Verdict::Remove, Verdict::Leave));
    assert_eq!(t.verdict(&second, C), Verdict::Leave, "its host came back as another node");
    let elsewhere = Origin { sub: key(1, 7), ..second };
    assert_eq!(t.verdict(&elsewhere, A), Verdict::Leave, "nothing is known of it");
    t.sweep(LogTime(over + super::super::table::ENDED_KEPT_MS), 0, &[]);
    assert_eq!(t.verdict(&second, A), Verdict::Leave, "its operation is forgotten");
}

#[test]
fn a_run_is_moved_only_when_its_lease_and_the_grace_are_over() {
    let mut t = Operations::default();
    t.submit(id(1), LogTime(0), run(&[A, B], Upkeep::None)).unwrap();
    let to_c = |part| Move {
        sub: key(1, part),
        from: if part == 0 { A } else { B },
        to: C,
        why: "A is dead".into(),
    };
    let token = claim(&mut t, key(1, 0), A, 0);
    assert_eq!(
        t.relocate(&[to_c(0), to_c(1)], LogTime(LEASE_MS + GRACE_MS - 1)),
        1,
        "the one that nobody began"
    );
    assert_eq!(t.relocate(&[to_c(0)], LogTime(LEASE_MS + GRACE_MS)), 1);
    assert_eq!(t.relocate(&[to_c(0)], LogTime(LEASE_MS + GRACE_MS)), 0, "it is not there any more");
    let sub = &t.get(id(1)).unwrap().subs[0];
    assert_eq!((sub.node, sub.why.as_deref()), (C, Some("A is dead")));
    let finished = t.finish(key(1, 0), token, Ok("late".into()), LogTime(LEASE_MS + GRACE_MS), 0);
    assert_eq!(finished, super::super::table::Finished::LeaseLost);
    assert_eq!(claim(&mut t, key(1, 0), C, LEASE_MS + GRACE_MS), token + 1);
}

#[test]
fn a_pull_is_moved_at_once_but_not_to_where_it_is_done_already() {
    let mut t = Operations::default();
    let pull = OperationKind::Pull { images: vec!["web:1".parse().unwrap()] };
    let mut submission = Submission { kind: pull, ..run(&[A, B], Upkeep::None) };
    submission.parts.iter_mut().for_each(|part| part.work = 0);
    t.submit(id(1), LogTime(0), submission).unwrap();
    let token = claim(&mut t, key(1, 0), A, 0);
    let to = |to| Move { sub: key(1, 0), from: A, to, why: "A is dead".into() };
    assert_eq!(t.relocate(&[to(B)], LogTime(1)), 0);
    assert_eq!(t.relocate(&[to(C)], LogTime(1)), 1);
    assert_eq!(
        t.report(&[(key(1, 0), token, Progress::default())], LogTime(2)),
        [key(1, 0)],
        "A has lost it"
    );
}

/// Something that happens to a table with one run of two copies.
#[derive(Debug, Clone)]
enum Event {
    Claim(usize, NodeId),
    Finish(usize, bool),
    Move(usize, NodeId),
    Repair(u32, NodeId),
    Lost(usize),
    Change(UpkeepChange),
    Sweep,
    Pass(u64),
}

fn events() -> impl proptest::strategy::Strategy<Value = Vec<Event>> {
    let node = || prop_oneof![Just(A), Just(B), Just(C)];
    let event = prop_oneof![
        4 => (0usize..8, node()).prop_map(|(sub, node)| Event::Claim(sub, node)),
        4 => (0usize..8, any::<bool>()).prop_map(|(sub, fine)| Event::Finish(sub, fine)),
        2 => (0usize..8, node()).prop_map(|(sub, node)| Event::Move(sub, node)),
        3 => (0u32..2, node()).prop_map(|(copy, node)| Event::Repair(copy, node)),
        1 => (0usize..8).prop_map(Event::Lost),
        1 => prop_oneof![Just(UpkeepChange::Stop), Just(UpkeepChange::Start), Just(UpkeepChange::Release)].prop_map(Event::Change),
        2 => Just(Event::Sweep),
        2 => (0u64..30_000).prop_map(Event::Pass),
    ];
    prop::collection::vec(event, 0..80)
}

proptest! {
    /// Whatever happens: of all containers that were ever made for a copy one may be kept at most, what counts is never removed, and the
    /// table survives a snapshot.
    #[test]
    fn one_container_of_a_copy_counts_at_most(events in events()) {
        let mut t = Operations::default();
        t.submit(id(1), LogTime(0), run(&[A, B], Upkeep::Keep)).unwrap();
        let (mut now, mut next) = (0, 100);
        // Of every attempt that was granted: where, and what its container would say.
        let mut made: Vec<(NodeId, Origin)> = Vec::new();
        for event in events {
            let parts: Vec<SubKey> = t.all().flat_map(|o| (0..o.subs.len() as u32).map(|i| key(o.id.index, i))).collect();
            match event {
                Event::Claim(sub, node) => {
                    let key = parts[sub % parts.len()];
                    if let ClaimReply::Granted { token, .. } = t.claim(key, node, 1, LogTime(now), 0) {
                        made.push((node, origin(&t, key, token)));
                    }
                }
                Event::Finish(at, fine) if !made.is_empty() => {
                    let (_, origin) = made[at % made.len()];
                    let failure = Failure { error: "no".into(), kind: FailureKind::Final };
                    let outcome = if fine { Ok("id".to_owned()) } else { Err(failure) };
                    t.finish(origin.sub, origin.token, outcome, LogTime(now), 0);
                }
                Event::Move(sub, to) => {
                    let key = parts[sub % parts.len()];
                    let from = t.get(key.operation).unwrap().subs[key.index as usize].node;
                    t.relocate(&[Move { sub: key, from, to, why: "moved".into() }], LogTime(now));
                }
                Event::Repair(copy, to) => {
                    let copy_of = CopyOf { run: id(1), copy };
                    if let Some(part) = t.kept_run(id(1)).map(|kept| kept.copies[copy as usize].part) {
                        next += 1;
                        let replaced = Replaced { copy: copy_of, part };
                        t.repair(id(next), LogTime(now), run(&[to], Upkeep::Replaces(copy_of)), replaced);
                    }
                }
                Event::Lost(at) if !made.is_empty() => {
                    let (node, origin) = made[at % made.len()];
                    t.copy_news(&origin, node, CopyNews::Lost { why: "gone".into() }, LogTime(now));
                }
                Event::Change(change) => drop(t.change_upkeep(id(1), change, LogTime(now), 0)),
                Event::Sweep => t.sweep(LogTime(now), 0, &[]),
                Event::Pass(ms) => now += ms,
                Event::Finish(..) | Event::Lost(_) => {}
            }
            for copy in 0..2 {
                let of_copy = made.iter().filter(|(_, origin)| origin.kept.unwrap().copy == copy);
                let kept: Vec<_> = of_copy.filter(|(node, origin)| t.verdict(origin, *node) == Verdict::Keep).collect();
                prop_assert!(kept.len() <= 1, "{kept:?}");
                let Some(known) = t.kept_run(id(1)) else { continue };
                let known = &known.copies[copy as usize];
                if let CopyState::Up { token, .. } = known.state {
                    let origin = Origin { sub: known.part, token, kept: Some(CopyOf { run: id(1), copy }) };
                    prop_assert!(t.verdict(&origin, known.node) != Verdict::Remove);
                }
            }
            prop_assert_eq!(&through_a_snapshot(&t), &t);
        }
    }
}
