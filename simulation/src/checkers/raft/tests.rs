//! One history for each rule, and a small Raft, correct and with planted bugs.

use super::*;
use crate::checkers::testing::{History, log, plan, status, vote};
use crate::observation::Seen;
use crate::observation::{ReplicaStatus, VoteView};
use crate::plan::{Fault, HostId};

fn says(replica: u64, term: u64, leader: Option<u64>, committed: Option<u64>) -> Seen {
    says_of(replica as HostId, status(replica, term, leader, committed))
}

fn says_of(host: HostId, status: ReplicaStatus) -> Seen {
    Seen::Status { host, status }
}

fn holds(log: DurableLog) -> Seen {
    Seen::Durable { host: log.replica as HostId, log }
}

fn voted(replica: u64, vote: Option<VoteView>) -> Seen {
    holds(DurableLog { vote, ..log(replica, 0, &[]) })
}

fn started(host: HostId) -> Seen {
    Seen::Started { host, incarnation: 2 }
}

fn history(seen: &[Seen]) -> History {
    let mut history = History::default();
    seen.iter().for_each(|s| history.see(s.clone()));
    history
}

#[test]
fn elections() {
    let cases: &[(&str, &[Seen], Option<&str>)] = &[
        (
            "one leader a term",
            &[says(1, 1, Some(1), None), says(2, 1, Some(1), None), says(2, 2, Some(2), None)],
            None,
        ),
        ("a vote moves to the leader", &[voted(3, vote(2, 1, false)), voted(3, vote(2, 2, true))], None),
        ("and to later terms", &[voted(3, vote(2, 1, true)), voted(3, vote(3, 2, false))], None),
        (
            "a new process starts afresh",
            &[says(1, 3, None, Some(9)), started(1), says(1, 0, None, None)],
            None,
        ),
        (
            "an emptied host's new replica",
            &[says(1, 1, None, None), Seen::Wiped { host: 1 }, says_of(1, status(4, 0, None, None))],
            None,
        ),
        (
            "two by their word",
            &[says(1, 1, Some(1), None), says(2, 1, Some(2), None)],
            Some("term 1 has two leaders"),
        ),
        (
            "two by votes",
            &[voted(1, vote(2, 1, true)), voted(2, vote(2, 3, true))],
            Some("term 2 has two leaders"),
        ),
        (
            "word against vote",
            &[says(1, 2, Some(1), None), voted(2, vote(2, 3, true))],
            Some("term 2 has two leaders"),
        ),
        (
            "votes twice",
            &[voted(3, vote(2, 1, false)), voted(3, vote(2, 2, false))],
            Some("never taken back"),
        ),
        (
            "a vote goes back",
            &[voted(3, vote(3, 1, false)), voted(3, vote(2, 1, true))],
            Some("never taken back"),
        ),
        (
            "a granted vote goes back",
            &[voted(3, vote(3, 1, true)), voted(3, vote(3, 1, false))],
            Some("never taken back"),
        ),
        ("a vote is gone", &[voted(3, vote(3, 1, false)), voted(3, None)], Some("never taken back")),
        (
            "an id on two hosts",
            &[says(1, 1, None, None), says_of(2, status(1, 1, None, None))],
            Some("an id used twice"),
        ),
        (
            "an id after its end",
            &[says(1, 1, None, None), Seen::Wiped { host: 1 }, says(1, 1, None, None)],
            Some("an id used again"),
        ),
        (
            "the term goes back",
            &[says(1, 2, None, None), says(1, 1, None, None)],
            Some("the term of replica 1"),
        ),
        (
            "committed goes back",
            &[says(1, 2, None, Some(7)), says(1, 2, None, Some(6))],
            Some("the committed position"),
        ),
    ];
    for (name, seen, expected) in cases {
        history(seen).expect(name, Elections::new(&plan(&[])), *expected);
    }
    let gone = history(&[voted(3, vote(3, 1, false)), voted(3, None)]);
    gone.expect("rot", Elections::new(&plan(&[Fault::Rot { host: 3 }])), None);
}

#[test]
fn states() {
    let has = |replica: u64, applied: u64, hash: u8| Seen::State {
        host: replica as HostId,
        group: 0,
        replica,
        applied,
        hash: [hash; 16],
    };
    let cases: &[(&str, &[Seen], Option<&str>)] = &[
        ("alike", &[has(1, 5, 1), has(2, 6, 2), has(2, 5, 1), has(3, 6, 2)], None),
        ("diverged", &[has(1, 5, 1), has(2, 5, 2)], Some("after index 5 of group 0")),
        ("replayed otherwise", &[has(1, 5, 1), started(1), has(1, 5, 2)], Some("after index 5")),
    ];
    for (name, seen, expected) in cases {
        history(seen).expect(name, States::new(), *expected);
    }
}

fn other_entry(mut log: DurableLog, index: u64) -> DurableLog {
    log.entries.get_mut(&index).unwrap().1 = [9; 16];
    log
}

fn without(mut log: DurableLog, index: u64) -> DurableLog {
    log.entries.remove(&index);
    log
}

fn covered(log: DurableLog, purged: Option<u64>, snapshot: Option<u64>) -> DurableLog {
    DurableLog { purged, snapshot, ..log }
}

fn joint(log: DurableLog) -> DurableLog {
    DurableLog { voters: vec![1, 2, 3, 4, 5], joint: true, ..log }
}

#[test]
fn logs() {
    let committed = |index| says(1, 1, Some(1), Some(index));
    let whole = |replica| holds(log(replica, 0, &[1, 1, 1]));
    let cases: &[(&str, &[Seen], Option<&str>)] = &[
        ("matching", &[whole(1), whole(2), holds(log(3, 1, &[1, 1, 2]))], None),
        (
            "a tail that was not committed is replaced",
            &[holds(log(1, 0, &[1, 1])), holds(log(1, 0, &[1, 2]))],
            None,
        ),
        (
            "another entry",
            &[whole(1), holds(other_entry(log(2, 0, &[1, 1, 1]), 1))],
            Some("holds another entry"),
        ),
        (
            "rotten, and not noticed",
            &[whole(1), holds(other_entry(log(1, 0, &[1, 1, 1]), 1))],
            Some("holds another entry"),
        ),
        (
            "another history",
            &[holds(log(1, 0, &[1, 1, 3])), holds(log(2, 0, &[1, 2, 3]))],
            Some("follows an entry of term 2"),
        ),
        ("terms go back", &[holds(log(1, 0, &[1, 3, 2]))], Some("behind an entry of term 3")),
        ("a hole", &[holds(without(log(1, 0, &[1, 1, 1]), 1))], Some("has a hole")),
        (
            "a beginning that is missing",
            &[holds(covered(log(1, 5, &[1]), Some(2), Some(5)))],
            Some("has a hole"),
        ),
        (
            "purged past the snapshot",
            &[holds(covered(log(1, 5, &[1]), Some(4), Some(3)))],
            Some("purged up to"),
        ),
        ("a snapshot installed", &[whole(1), holds(covered(log(1, 0, &[]), Some(9), Some(9)))], None),
        // Committed on a quorum.
        ("one lacks it", &[committed(2), whole(1), whole(2), holds(log(3, 0, &[1]))], None),
        (
            "another lacks what came later",
            &[committed(2), holds(log(3, 0, &[1])), whole(2), committed(3), whole(2)],
            None,
        ),
        (
            "two lack it",
            &[committed(2), holds(log(3, 0, &[1])), holds(log(2, 0, &[1, 1]))],
            Some("seen without it durably since"),
        ),
        (
            "two lacked it, and have it now",
            &[committed(2), holds(log(3, 0, &[1])), whole(3), committed(3), holds(log(2, 0, &[1, 1]))],
            Some("replica 1 reported index 2"),
        ),
        (
            "two lacked it before",
            &[holds(log(3, 0, &[1])), holds(log(2, 0, &[1, 1])), committed(2), whole(2)],
            None,
        ),
        (
            "a joint membership proves nothing",
            &[committed(2), holds(joint(log(3, 0, &[1]))), holds(joint(log(2, 0, &[1])))],
            None,
        ),
        ("nor does a learner", &[committed(2), holds(log(3, 0, &[1])), holds(log(4, 0, &[1]))], None),
        // Committed for ever.
        ("lost", &[committed(2), whole(1), whole(2), holds(log(2, 0, &[1, 1]))], Some("holds nothing there")),
        (
            "replaced",
            &[committed(2), whole(1), whole(2), holds(log(2, 0, &[1, 1, 2]))],
            Some("of term 2 there"),
        ),
        (
            "lost, as it turns out",
            &[committed(2), whole(2), holds(log(2, 0, &[1, 1])), whole(1), whole(3)],
            Some("holds nothing there"),
        ),
        (
            "never held",
            &[committed(2), holds(log(2, 0, &[1, 1, 0])), holds(log(2, 0, &[1, 1, 1])), whole(1)],
            Some("behind an entry"),
        ),
        ("compacted", &[committed(2), whole(1), whole(2), holds(log(2, 3, &[1]))], None),
    ];
    for (name, seen, expected) in cases {
        history(seen).expect(name, Logs::new(&plan(&[])), *expected);
    }
    let lost = history(&[committed(2), whole(1), whole(2), holds(log(2, 0, &[1, 1]))]);
    lost.expect("rot", Logs::new(&plan(&[Fault::Rot { host: 2 }])), None);
}

#[test]
fn a_log_that_was_behind_may_replace_what_was_never_committed() {
    let seen = [
        says(1, 3, Some(1), Some(2)),
        holds(log(2, 0, &[1, 1, 2])),
        holds(log(1, 0, &[1, 1, 3])),
        holds(log(3, 0, &[1, 1, 3])),
        holds(log(2, 0, &[1, 1, 3])),
    ];
    history(&seen).expect("term 2 was not", Logs::new(&plan(&[])), None);
}
