//! Checkers of a few rules, and all of them together.

use super::exactly_once::ExactlyOnce;
use super::liveness::Liveness;
use super::operations::PullsAndEnds;
use super::testing::{History, plan, status};
use super::versions::Versions;
use super::*;
use crate::observation::{Seen, VOLATILE};
use crate::plan::{Hosts, Rule, Verdict};

#[test]
fn one_submission_is_one_operation() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("repeated", "a:s1 a=? b:s1 b=op3 c:s1 c=op3 d:l d=[3:1]", None),
        ("two places", "a:s1 a=op3 b:s1 b=op4", Some("became two operations")),
        ("listed twice", "a:s1 a=? b:l b=[3:1,4:1]", Some("became two operations")),
        ("acknowledged elsewhere than listed", "a:s1 b:l b=[3:1] a=op4", Some("became two operations")),
        ("one place for two", "a:s1 a=op3 b:s2 b=op3", Some("two submissions in one place")),
    ];
    for (name, script, expected) in cases {
        History::of(script).expect(name, ExactlyOnce::new(), *expected);
    }
}

#[test]
fn versions_only_go_up() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("up", "a:w1 a=@1 b:r b=1@1 c:p1>2 c=@4 d:d d=del5 e:w3 e=@6", None),
        ("at once", "a:w1 b:w2 a=@2 b=@1", None),
        ("a write goes back", "a:w1 a=@2 b:w2 b=@1", Some("versions went back")),
        ("a version given twice", "a:w1 b:w2 a=@1 b=@1", Some("given twice")),
        ("a version given again", "a:w1 a=@1 b:w2 b=@1", Some("versions went back")),
        ("a read goes back", "a:w1 a=@1 b:w2 b=@2 c:r c=1@1", Some("versions went back")),
        ("a miss goes back", "a:w1 a=@1 b:w2 b=@2 c:p>3 c=miss1", Some("versions went back")),
        ("a value of another version", "a:w1 a=@1 b:r b=2@1", Some("given twice")),
        ("a deletion goes back", "a:w1 a=@2 b:d b=del2", Some("versions went back")),
    ];
    for (name, script, expected) in cases {
        History::of_key(VOLATILE, script).expect(name, Versions::new(), *expected);
    }
}

fn pull_began(host: HostId, incarnation: u64, pull: u64, image: &str) -> Seen {
    Seen::PullBegan { host, incarnation, pull, image: image.into() }
}

fn pull_ended(host: HostId, pull: u64) -> Seen {
    Seen::PullEnded { host, pull, completed: false }
}

#[test]
fn pulls_of_one_sub_operation() {
    let twice = Some("carried out twice at once");
    let began = pull_began;
    let cases: &[(&str, Vec<Seen>, Option<&str>)] = &[
        ("one after the other", vec![began(1, 1, 1, "a:1"), pull_ended(1, 1), began(1, 1, 2, "a:1")], None),
        ("on two hosts", vec![began(1, 1, 1, "a:1"), began(2, 1, 2, "a:1")], None),
        ("two images", vec![began(1, 1, 1, "a:1"), began(1, 1, 2, "a:2")], None),
        ("after a restart", vec![began(1, 1, 1, "a:1"), began(1, 2, 2, "a:1"), pull_ended(1, 1)], None),
        ("at once", vec![began(1, 1, 1, "a:1"), began(1, 1, 2, "a:1")], twice),
        ("by the process before", vec![began(1, 2, 1, "a:1"), began(1, 1, 2, "a:1")], twice),
        (
            "at once after a restart",
            vec![began(1, 1, 1, "a:1"), began(1, 2, 2, "a:1"), pull_ended(1, 1), began(1, 2, 3, "a:1")],
            twice,
        ),
    ];
    for (name, seen, expected) in cases {
        let mut history = History::default();
        seen.iter().for_each(|s| history.see(s.clone()));
        history.expect(name, PullsAndEnds::new(&plan(&[])), *expected);
    }
}

#[test]
fn operations_end() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("ended", "a:s1 a=op3 H +50 b:l b=[3:1*]", None),
        ("not healed", "a:s1 a=op3 +50 b:l b=[3:1]", None),
        ("too young", "a:s1 a=op3 H +30 b:l b=[3:1]", None),
        ("submitted late", "H +50 a:s1 a=op3 b:l b=[3:1] +10 c:l c=[3:1]", None),
        ("stands still", "a:s1 a=op3 H +50 b:l b=[3:1]", Some("has not ended")),
        ("ended, then not", "a:s1 b:l b=[3:1*] c:l c=[3:1]", Some("had ended by call")),
        ("cancelled, then not", "a:s1 a=op3 b:c3.1 b=done c:l c=[3:1]", Some("had ended by call")),
        ("perhaps cancelled", "a:s1 a=op3 b:c3.1 b=? c:l c=[3:1]", None),
        ("listed meanwhile", "a:s1 a=op3 b:c3.1 c:l b=done c=[3:1]", None),
        ("overlapping listings", "a:s1 b:l c:l c=[3:1*] b=[3:1] E", None),
    ];
    for (name, script, expected) in cases {
        History::of(script).expect(name, PullsAndEnds::new(&plan(&[])), *expected);
    }
    let mut working = History::of("a:s1 a=op3 H");
    working.see(pull_began(1, 1, 1, "registry/app:1"));
    working.calls("+50 b:l b=[3:1]");
    working.expect("worked on", PullsAndEnds::new(&plan(&[])), None);
    working.see(pull_ended(1, 1));
    working.calls("+50 c:l c=[3:1]");
    working.expect("given up", PullsAndEnds::new(&plan(&[])), Some("has not ended"));
    let mut cancelled = History::of("a:s1 a=op3 b:c3.1 b=done +15");
    cancelled.see(pull_began(1, 1, 1, "registry/app:1"));
    cancelled.expect("claimed before", PullsAndEnds::new(&plan(&[])), None);
    cancelled.see(pull_ended(1, 1));
    cancelled.calls("+6");
    cancelled.see(pull_began(2, 1, 2, "registry/app:1"));
    cancelled.expect("begun afterwards", PullsAndEnds::new(&plan(&[])), Some("had cancelled that"));
    let mut wiped = History::of("a:s1 a=op3");
    wiped.see(Seen::Wiped { host: 1 });
    wiped.calls("H +50 b:l b=[3:1]");
    wiped.expect("its node is no more", PullsAndEnds::new(&plan(&[])), None);
}

/// Three hosts that were formed, healed, and then show these statuses (replica, term, leader) and states (host, applied, hash).
fn settled(statuses: &[(u64, u64, Option<u64>)], states: &[(HostId, u64, u8)], served: bool) -> History {
    let mut history = History::default();
    for host in 1..=3 {
        history.see(Seen::Started { host, incarnation: 1 });
        let status = status(u64::from(host), 1, Some(1), Some(7));
        history.see(Seen::Status { host, status });
    }
    history.calls("H");
    for (replica, term, leader) in statuses {
        history.see(Seen::Status {
            host: *replica as HostId,
            status: status(*replica, *term, *leader, Some(9)),
        });
    }
    for (host, applied, hash) in states {
        history.see(Seen::State {
            host: *host,
            group: 0,
            replica: u64::from(*host),
            applied: *applied,
            hash: [*hash; 16],
        });
    }
    for i in 1..=4 {
        history.calls(&format!("a{i}:w{i} a{i}=ok b{i}:r b{i}={i}"));
    }
    for i in 5..=10 {
        match served {
            true => history.calls(&format!("a{i}:w{i} a{i}=ok b{i}:r b{i}={i}")),
            false => history.calls(&format!("a{i}:w{i} a{i}=? b{i}:r b{i}=no")),
        }
    }
    history
}

#[test]
fn a_healed_fleet_agrees_and_serves() {
    let agreed: &[(u64, u64, Option<u64>)] = &[(1, 2, Some(2)), (2, 2, Some(2)), (3, 2, Some(2))];
    let same: &[(HostId, u64, u8)] = &[(1, 9, 1), (2, 9, 1), (3, 9, 1)];
    let mut old_voters = settled(agreed, same, true);
    for observation in &mut old_voters.seen {
        if let Seen::Status { host: 3, status } = &mut observation.seen {
            status.voters = vec![1, 2];
        }
    }
    let two_agree: &[(u64, u64, Option<u64>)] = &[(1, 2, Some(2)), (2, 2, Some(2)), (3, 9, None)];
    let mut not_running = settled(agreed, &[], true);
    not_running.see(Seen::Ended { host: 2, incarnation: 1, power_loss: false, how: "killed".into() });
    let cases: Vec<(&str, History, Option<&str>)> = vec![
        ("agrees", settled(agreed, same, true), None),
        ("no leader", settled(two_agree, same, true), Some("host 3 knows no leader")),
        (
            "two leaders",
            settled(&[(1, 1, Some(1)), (2, 2, Some(2)), (3, 2, Some(2))], same, true),
            Some("of term 2"),
        ),
        (
            "a leader that does not lead",
            settled(&[(1, 2, Some(4)), (2, 2, Some(4)), (3, 2, Some(4))], same, true),
            Some("does not lead"),
        ),
        ("other voters", old_voters, Some("has the voters")),
        ("states differ", settled(agreed, &[(1, 9, 1), (2, 9, 1), (3, 9, 2)], true), Some("the same state")),
        ("old states", settled(agreed, &[(1, 6, 1), (2, 6, 1), (3, 6, 1)], true), Some("the same state")),
        ("one shows no state", settled(agreed, &[(1, 9, 1), (2, 9, 1)], true), Some("the same state")),
        ("too few answers", settled(agreed, same, false), Some("4 writes and 4 reads")),
        ("down", not_running, Some("host 2 is not running")),
    ];
    for (name, mut history, expected) in cases {
        history.calls("E");
        history.expect(name, Liveness::new(&plan(&[])), expected);
    }
    // Clients asked other things, again and again, of a group that is gone.
    for (calls, expected) in [
        ("a:w1 a=ok b:r b=1 c:w2 c=?", None),
        ("a:s9 a=?", None),
        ("a:w1 a=? b:r b=1 c:w2 c=?", Some("0 writes and 1 reads")),
    ] {
        let mut rare = settled(agreed, same, true);
        rare.seen.retain(|seen| !matches!(seen.seen, Seen::Invoked { .. } | Seen::Completed { .. }));
        rare.calls(calls);
        rare.calls("E");
        rare.expect("asked so seldom", Liveness::new(&plan(&[])), expected);
    }
    let mut idle = settled(agreed, &[], true);
    let healed = idle.seen.iter().position(|o| o.seen == Seen::Healed).unwrap();
    for host in 1..=3 {
        let state = Seen::State { host, group: 0, replica: u64::from(host), applied: 7, hash: [1; 16] };
        idle.seen.insert(healed, Observation { at_ns: idle.seen[healed].at_ns, seen: state });
    }
    idle.calls("E");
    idle.expect("states shown before are states still", Liveness::new(&plan(&[])), None);
    let mut late = settled(two_agree, same, true);
    late.calls("+61 x:x");
    late.expect("time is up before the end", Liveness::new(&plan(&[])), Some("host 3 knows no leader"));
}

#[test]
fn a_faulty_minority_is_not_waited_for() {
    let mut history =
        settled(&[(1, 2, Some(2)), (2, 2, Some(2)), (3, 9, None)], &[(1, 9, 1), (2, 9, 1)], true);
    history.calls("E");
    let mut unhealed = plan(&[]);
    unhealed.unhealed = vec![3];
    history.expect("unhealed", Liveness::new(&unhealed), None);
    for fault in [Fault::Leave { host: 3 }, Fault::Remove { host: 3 }, Fault::Rot { host: 3 }] {
        history.expect("excused", Liveness::new(&plan(&[fault])), None);
    }
    history.expect("without a reason", Liveness::new(&plan(&[])), Some("host 3"));
}

#[test]
fn who_cannot_hear_an_unhealed_leader_may_be_behind() {
    // Host 1 leads, and does not hear host 3, ever. Only host 2 is left to agree with it.
    let rule = |host| Rule {
        name: "cut".into(),
        from: Hosts::Only(vec![3]),
        to: Hosts::Only(vec![host]),
        chance_ppm: 1_000_000,
        verdict: Verdict::Drop,
    };
    let behind = || {
        let agreed = &[(1, 2, Some(1)), (2, 2, Some(1)), (3, 2, Some(1))];
        let mut history = settled(agreed, &[(1, 9, 1), (2, 9, 1), (3, 5, 1)], true);
        history.calls("E");
        history
    };
    let with = |faults: &[Fault]| {
        let mut plan = plan(faults);
        plan.unhealed = vec![1];
        Liveness::new(&plan)
    };
    let why = Some("not shown the same state");
    let (cut, elsewhere) = (Fault::AddRule { rule: rule(1) }, Fault::AddRule { rule: rule(2) });
    behind().expect("cut off", with(std::slice::from_ref(&cut)), None);
    behind().expect("not cut off", with(&[]), why);
    behind().expect("from another", with(&[elsewhere]), why);
    let removed = Fault::RemoveRule { name: "cut".into() };
    behind().expect("not any more", with(&[cut, removed]), why);
}

#[test]
fn the_watch_keeps_the_first_violation() {
    let history = History::of("a:w1 a=ok b:r b=none c:r c=7");
    let mut watch = Watch::new(&plan(&[]));
    let outcomes: Vec<bool> = history.seen.iter().map(|o| watch.see(o).is_ok()).collect();
    assert_eq!(outcomes, [true, true, true, false, false, false]);
    let violation = watch.violation().unwrap().clone();
    assert!(violation.checker == "oracle" && violation.promise == Promise::Safety, "{violation:?}");
    assert_eq!(watch.finish(), Err(violation));
}

#[test]
fn safety_before_liveness() {
    // What the operations checker finds at the end is liveness; the search for an order finds a lost write, also at the end.
    let history = History::of("z:s9 z=op3 H a:w1 a=ok b:r b=none +50 c:l c=[3:9]");
    let checkers: Vec<Box<dyn Checker>> =
        vec![Box::new(PullsAndEnds::new(&plan(&[]))), Box::new(linearizability::Linearizability::new())];
    assert_eq!(history.judge(checkers).unwrap_err().checker, "linearizability");
}
