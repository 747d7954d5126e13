//! Each rule of the ring, broken and kept.

use std::collections::BTreeMap;

use super::*;
use crate::checkers::testing::{History, plan, status};
use crate::observation::{BRIEF, ReplicaStatus, RingView, STEADY, Seen};
use crate::plan::{Fault, HostId, RingPlan};

/// Replicas with their nodes.
type Replicas<'a> = &'a [(u64, u64)];

/// Group 1 of two, in this epoch.
fn placement(epoch: u64, members: Replicas<'_>, added: Replicas<'_>, removed: Replicas<'_>) -> PlacementView {
    let map = |of: Replicas<'_>| of.iter().copied().collect::<BTreeMap<_, _>>();
    let mut target: Vec<u64> = members.iter().map(|(_, node)| *node).collect();
    target.sort_unstable();
    PlacementView {
        epoch,
        members: map(members),
        added: map(added),
        removed: map(removed),
        tombstones: BTreeMap::new(),
        target,
    }
}

fn shows(host: HostId, placement: PlacementView) -> Seen {
    let (epoch, groups) = (placement.epoch, BTreeMap::from([(1, placement)]));
    Seen::Ring { host, ring: RingView { replication: 3, epoch, target_epoch: 1, groups } }
}

fn ended(host: HostId) -> Seen {
    Seen::Ended { host, incarnation: 1, power_loss: false, how: "killed".into() }
}

fn history(seen: &[Seen]) -> History {
    let mut history = History::default();
    seen.iter().for_each(|seen| history.see(seen.clone()));
    history
}

const THREE: Replicas<'_> = &[(1, 1), (2, 2), (3, 3)];

fn ring_plan(faults: &[Fault]) -> Plan {
    let mut plan = plan(faults);
    plan.fleet.ring = Some(RingPlan { groups: 2, replication: 3 });
    plan
}

fn of_group(status: ReplicaStatus, group: u32, epoch: u64) -> ReplicaStatus {
    ReplicaStatus { group, epoch: Some(epoch), ..status }
}

#[test]
fn placements() {
    let mut fewer = placement(3, &[(1, 1)], &[], &[]);
    fewer.target = vec![1, 2, 3];
    let cases = [
        ("three", vec![shows(1, placement(2, THREE, &[], &[]))], None),
        ("two", vec![shows(1, placement(2, &THREE[..2], &[], &[]))], Some("2 members")),
        (
            "on one node",
            vec![shows(1, placement(2, &[(1, 1), (2, 2), (3, 2)], &[], &[]))],
            Some("on one node"),
        ),
        (
            "a replica to come to a node that has one",
            vec![shows(1, placement(2, THREE, &[(4, 2)], &[(1, 1)]))],
            Some("on one node after the change"),
        ),
        (
            "fewer for no reason",
            vec![shows(1, placement(2, THREE, &[], &[])), shows(1, fewer.clone())],
            Some("although 3 are wanted"),
        ),
        (
            "as an earlier process said",
            vec![shows(1, placement(2, THREE, &[], &[])), ended(1), shows(1, fewer)],
            None,
        ),
    ];
    for (name, seen, expected) in cases {
        history(&seen).expect(name, Placement::new(), expected);
    }
}

#[test]
fn moves() {
    let cases = [
        ("one for one", placement(2, THREE, &[(4, 4)], &[(1, 1)]), None),
        ("growth", placement(1, &[(1, 1)], &[(2, 2), (3, 3)], &[]), None),
        ("shrinkage", placement(2, THREE, &[], &[(1, 1), (2, 2)]), None),
        ("two for two", placement(2, THREE, &[(4, 4), (5, 5)], &[(1, 1), (2, 2)]), Some("in one change")),
        ("who is no member", placement(2, THREE, &[(4, 4)], &[(7, 7)]), Some("in one change")),
    ];
    for (name, placement, expected) in cases {
        history(&[shows(1, placement)]).expect(name, Moves::new(), expected);
    }
}

#[test]
fn epochs() {
    let (old, new) = (placement(2, THREE, &[], &[]), placement(3, &[(4, 4), (2, 2), (3, 3)], &[], &[]));
    let mut usurped = new.clone();
    usurped.epoch = 2;
    let told = |epoch| Seen::Status { host: 1, status: of_group(status(1, 1, None, None), 1, epoch) };
    let cases = [
        (
            "one after the other",
            vec![shows(1, old.clone()), shows(2, old.clone()), shows(1, new.clone())],
            None,
        ),
        ("two owners", vec![shows(1, old.clone()), shows(2, usurped)], Some("has the owners")),
        ("back", vec![shows(1, new.clone()), shows(1, old.clone())], Some("went back")),
        ("behind, on another host", vec![shows(1, new.clone()), shows(2, old.clone())], None),
        ("behind, after a restart", vec![shows(1, new), ended(1), shows(1, old)], None),
        ("told twice", vec![told(2), told(3)], None),
        ("forgotten", vec![told(3), told(2)], Some("was told of epoch 3")),
    ];
    for (name, seen, expected) in cases {
        history(&seen).expect(name, Epochs::new(), expected);
    }
}

#[test]
fn identities() {
    let old = placement(2, THREE, &[], &[]);
    let moved = placement(3, &[(4, 4), (2, 2), (3, 3)], &[], &[]);
    let back = placement(4, &[(4, 4), (2, 2), (3, 3)], &[(1, 1)], &[(4, 4)]);
    let elsewhere = placement(3, &[(1, 4), (2, 2), (3, 3)], &[], &[]);
    let fresh = placement(4, &[(4, 4), (2, 2), (3, 3)], &[(5, 1)], &[(4, 4)]);
    let cases = [
        ("fresh", vec![shows(1, old.clone()), shows(1, moved.clone()), shows(1, fresh)], None),
        (
            "back",
            vec![shows(1, old.clone()), shows(1, moved), shows(1, back)],
            Some("replica 1 of group 1 on node 1 is back"),
        ),
        ("elsewhere", vec![shows(1, old.clone()), shows(2, elsewhere)], Some("given out twice")),
        (
            "of another group",
            vec![shows(1, old), Seen::Status { host: 1, status: of_group(status(1, 1, None, None), 2, 0) }],
            Some("given out twice"),
        ),
    ];
    for (name, seen, expected) in cases {
        history(&seen).expect(name, Identities::new(), expected);
    }
}

/// The group that carries the key of these histories.
fn group() -> u32 {
    group_of(GroupCount::G2, &Key::Ring { namespace: STEADY, key: "k".into() }).unwrap()
}

#[test]
fn epochs_that_are_superseded_serve_nobody() {
    let known = |epoch| {
        let placement = placement(epoch, THREE, &[], &[]);
        let ring = RingView {
            replication: 3,
            epoch,
            target_epoch: 1,
            groups: BTreeMap::from([(group(), placement)]),
        };
        Seen::Ring { host: 1, ring }
    };
    let applied =
        |epoch| Seen::Status { host: 2, status: of_group(status(2, 1, None, None), group(), epoch) };
    let run = |name: &str, before: &[Seen], script: &str, after: &[Seen], expected| {
        let mut history = History::of_key(STEADY, "");
        before.iter().for_each(|seen| history.see(seen.clone()));
        history.calls(script);
        after.iter().for_each(|seen| history.see(seen.clone()));
        history.calls("+1 E");
        history.expect(name, Served::new(GroupCount::G2), expected);
    };
    run("known", &[known(3), applied(3)], "a:w1 a=@1", &[], None);
    run("not known", &[known(2), applied(3)], "a:w1 a=@1", &[], Some("knows epoch 2 of group"));
    run("not known, and refused", &[known(2), applied(3)], "a:w1 a=no", &[], None);
    run("applied while the call was under way", &[known(2)], "a:w1", &[applied(3)], None);
    run("of a process that is gone", &[known(2), applied(3)], "a:w1 a=@1", &[ended(1)], None);
}

fn leads(host: HostId, group: u32, term: u64) -> Seen {
    Seen::Status {
        host,
        status: of_group(status(u64::from(host), term, Some(u64::from(host)), None), group, 1),
    }
}

#[test]
fn groups_at_rest_lack_nothing() {
    let settled = || placement(2, THREE, &[], &[]);
    let mut unsettled = settled();
    unsettled.target = vec![1, 2, 4];
    let run = |name: &str, ring: PlacementView, applied: &[u64], expected| {
        let mut history = History::default();
        for host in 1..=3 {
            history.see(Seen::Started { host, incarnation: 1 });
            history.see(Seen::Status { host, status: status(u64::from(host), 1, None, None) });
        }
        history.see(shows(1, ring));
        for (host, applied) in (1..).zip(applied) {
            let status = of_group(status(u64::from(host), 1, None, Some(*applied)), 1, 2);
            history.see(Seen::Status { host, status });
        }
        history.calls("+40");
        history.see(Seen::Quiet);
        history.expect(name, Rest::new(&ring_plan(&[])), expected);
    };
    run("alike", settled(), &[9, 9, 9], None);
    run("behind", settled(), &[9, 8, 9], Some("it lacks it for good"));
    run("not open", settled(), &[9, 9], Some("replica 3 of group 1 is not open on host 3"));
    run("not where it should be", unsettled, &[9, 9, 9], Some("has not been settled"));
}

#[test]
fn every_group_serves() {
    let mut plan = ring_plan(&[]);
    plan.fleet.ring = Some(RingPlan { groups: 2, replication: 3 });
    let other = format!("group {} has served", 3 - group());
    let run = |script: &str, expected: Option<&str>| {
        let history = History::of_key(STEADY, script);
        history.expect(script, Service::new(&plan, GroupCount::G2), expected);
    };
    run("H a:w1 a=@1 b:r b=1@1 E", Some(&other));
    run("a:w1 a=@1 H b:r b=1@1 E", Some("has served"));
    run("+9", None);
}

#[test]
fn keys_live_as_long_as_they_are_to() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("there, then gone", "H a:t1 a=@1 b:r b=1@1 +3 c:r c=none d:r d=none", None),
        ("gone early", "H a:t1 a=@1 +1 b:r b=none", Some("missed it")),
        ("there for long", "H a:t1 a=@1 +9 b:r b=1@1", Some("time stands still")),
        ("there for long, under faults", "a:t1 a=@1 +9 H b:r b=1@1", None),
        ("back again", "a:t1 a=@1 +3 b:r b=none c:r c=1@1", Some("log time went back")),
        ("one read overtakes another", "a:t1 a=@1 +3 b:r c:r c=none b=1@1", None),
    ];
    for (name, script, expected) in cases {
        History::of_key(BRIEF, script).expect(name, Expiry::new(), *expected);
    }
}

#[test]
fn leaders_that_are_well_are_left_alone() {
    let mut plan = ring_plan(&[Fault::Kill { host: 3 }]);
    plan.fleet.ring = Some(RingPlan { groups: 4, replication: 3 });
    let run = |name: &str, plan: &Plan, taken: u32, wait: &str, expected| {
        let mut history = History::default();
        (1..=3).for_each(|host| history.see(Seen::Started { host, incarnation: 1 }));
        (1..=4).for_each(|group| history.see(leads(1 + group % 2, group, 1)));
        history.calls("+10");
        history.see(ended(3));
        history.see(Seen::Started { host: 3, incarnation: 2 });
        history.calls(wait);
        (1..=taken).for_each(|group| history.see(leads(3, group, 2)));
        history.expect(name, Deposed::new(plan), expected);
    };
    run("its share", &plan, 3, "+2", None);
    run("all of them", &plan, 4, "+2", Some("leads the groups {1, 2, 3, 4} now"));
    run("after long", &plan, 4, "+9", None);
    let partitioned = ring_plan(&[Fault::HealNetwork]);
    run("for other reasons", &partitioned, 4, "+2", None);
}
