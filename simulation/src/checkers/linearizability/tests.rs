//! The search against others that judge registers: hand-written histories, the oracle's zones, and `todc-utils`.

use std::collections::{BTreeMap, BTreeSet};

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action as Event, History as TodcHistory};
use todc_utils::specifications::register::RegisterOperation::{Read, Write};
use todc_utils::specifications::register::{RegisterOperation, RegisterSpecification};

use super::*;
use crate::checkers::oracle::Oracle;
use crate::checkers::testing::{Dice, History};
use crate::observation::{STEADY, Seen, VOLATILE};

#[test]
fn registers() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("in order", "a:w1 a=ok b:r b=1 c:w2 c=ok d:r d=2", None),
        ("overlapping", "a:w1 b:w2 c:r a=ok b=ok c=1 d:r d=1", None),
        ("an unknown write shows late", "a:w1 a=? b:r b=none c:w2 c=ok d:r d=1", None),
        ("or never", "a:w1 a=? b:w2 b=ok c:r c=2", None),
        ("a refused write", "a:w1 a=no b:r b=none", None),
        (
            "a lost write",
            "a:w1 a=ok b:r b=none",
            Some("client 97 wrote 1 (call 1, 0.001000 s to 0.002000 s); client 98 read \"never"),
        ),
        ("a stale read", "a:w1 a=ok b:w2 b=ok c:r c=1", Some("read 1")),
        ("read before it was written", "a:r a=1 b:w1 b=ok", Some("no order")),
        ("nobody wrote it", "a:r a=1", Some("no order")),
        ("refused, but read", "a:w1 a=no b:r b=1", Some("no order")),
        ("takes effect twice", "a:w1 a=? b:r b=1 c:w2 c=ok d:r d=2 e:r e=1", Some("read 1")),
    ];
    for (name, script, expected) in cases {
        History::of(script).expect(name, Linearizability::new(), *expected);
    }
}

#[test]
fn keys() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("swapped in turn", "a:w1 a=@1 b:p1>2 b=@2 c:p2>3 c=@3 d:r d=3@3", None),
        ("put where nothing was", "a:p>1 a=@1 b:p>2 b=miss1 c:r c=1@1", None),
        ("two swaps of one value", "a:w1 a=@1 b:p1>2 c:p1>3 b=@2 c=@3", Some("swapped 1 for 3")),
        ("a swap of what is gone", "a:w1 a=@1 b:w2 b=@2 c:p1>3 c=@3", Some("swapped 1")),
        ("missed what was there", "a:w1 a=@1 b:w2 b=@2 c:r c=2@2 d:p1>3 d=miss1", Some("no order")),
        ("missed what nobody was told of", "a:w1 a=@1 b:w2 b=? c:p1>3 c=miss2 d:r d=1@1", None),
        ("an unknown swap is found", "a:w1 a=@1 b:p1>2 b=? c:r c=2@2", None),
        ("an unknown swap of what never was", "a:w1 a=@1 b:p7>2 b=? c:r c=2@2", Some("no order")),
        ("an unknown write is swapped unseen", "a:w1 a=? b:p1>2 b=? c:r c=2@2", None),
        ("and not before it began", "b:p1>2 b=@2 a:w1 a=@1", Some("no order")),
        ("deleted", "a:w1 a=@1 b:d b=del2 c:r c=none d:p>3 d=@3 e:r e=3@3", None),
        ("deleted, but read", "a:w1 a=@1 b:d b=del2 c:r c=1@1", Some("no order")),
        ("nothing to delete", "a:w1 a=@1 b:d b=del", Some("no order")),
        ("deleted what nobody has seen", "a:w1 a=? b:d b=del2", None),
        ("an unknown deletion, late", "a:w1 a=@1 b:d b=? c:r c=1@1 d:r d=none e:w2 e=@3 f:r f=2@3", None),
        ("or never", "a:w1 a=@1 b:d b=? c:r c=1@1", None),
        ("but only once", "a:w1 a=@1 b:d b=? c:r c=none d:w2 d=@3 e:r e=none", Some("no order")),
        ("two of them", "a:w1 a=@1 b:d b=? g:d g=? c:r c=none d:w2 d=@3 e:r e=none", None),
    ];
    for (name, script, expected) in cases {
        History::of_key(VOLATILE, script).expect(name, Linearizability::new(), *expected);
    }
}

/// Of keys that are not deleted, the oracle finds what the search does, as far as it looks.
#[test]
fn swaps_are_reads_and_writes_to_the_oracle() {
    let cases: &[(&str, &str, Option<&str>)] = &[
        ("swapped in turn", "a:w1 a=@1 b:p1>2 b=@2 c:r c=2@2", None),
        ("missed", "a:w1 a=@1 b:p>2 b=miss1 c:r c=1@1", None),
        ("missed, but there", "a:w1 a=@1 b:p>2 b=miss1 c:r c=2@2", Some("refused")),
        ("a swap of what is gone", "a:w1 a=@1 b:w2 b=@2 c:p1>3 c=@3", Some("stale read")),
        ("a lost swap", "a:w1 a=@1 b:p1>2 b=@2 c:r c=1@1", Some("yet value 2 was acknowledged")),
    ];
    for (name, script, expected) in cases {
        History::of_key(STEADY, script).expect(name, Oracle::new(), *expected);
    }
}

#[test]
fn a_witness_is_minimal() {
    let mut script = String::new();
    for i in 1..=50 {
        script += &format!("a{i}:w{i} b{i}:r a{i}=ok b{i}={i} ");
    }
    script += "x:w99 x=ok y:r y=50 ";
    for i in 100..=150 {
        script += &format!("a{i}:w{i} a{i}=ok ");
    }
    let violation = History::of(&script).judge(vec![Box::new(Linearizability::new())]).unwrap_err();
    let told = violation.what.split("; ").count();
    assert_eq!(told, 3, "write 50, write 99, and the read of 50: {}", violation.what);
    assert!(violation.what.contains("wrote 99") && violation.what.contains("read 50"), "{}", violation.what);
}

#[test]
fn over_the_budget_is_undecided() {
    let writes: String = (1..=20).map(|i| format!("{}:w{i} ", (b'a' + i) as char)).collect();
    let ends: String = (1..=20).map(|i| format!("{}=ok ", (b'a' + i) as char)).collect();
    let verified = History::of(&(writes + &ends)).judge(vec![Box::new(Linearizability::new())]).unwrap();
    assert_eq!(verified[0].undecided, 1, "2^20 subsets of writes at once");
}

#[test]
fn long_histories_are_cheap() {
    let mut dice = Dice(1);
    let history = random(&mut dice, 20_000, 6, false);
    let operations = operations(&history);
    assert!(operations.len() > 4_000);
    assert_eq!(search::check(&operations, 60 * operations.len() as u64), Verdict::Valid);
}

/// A call under way.
#[derive(Clone)]
struct Open {
    name: String,
    /// What it writes, if it has not taken effect yet.
    writes: Option<String>,
    reply: Option<String>,
}

/// One register under `clients`. With `chaos`, reads return any value there is; else the register is a correct one, of which replies
/// get lost and to which writes come late.
fn random(dice: &mut Dice, steps: usize, clients: usize, chaos: bool) -> History {
    let mut history = History::default();
    let (mut value, mut serials) = ("none".to_owned(), 0);
    let mut open: Vec<Option<Open>> = vec![None; clients];
    let mut late: Vec<String> = Vec::new();
    for step in 0..steps {
        if !late.is_empty() && dice.once_in(5) {
            value = late.swap_remove(dice.roll(late.len()));
        }
        let client = dice.roll(clients);
        let name = format!("{}{step}", (b'a' + client as u8) as char);
        match open[client].take() {
            None if dice.once_in(2) => {
                serials += 1;
                history.calls(&format!("{name}:w{serials}"));
                open[client] = Some(Open { name, writes: Some(serials.to_string()), reply: None });
            }
            None => {
                history.calls(&format!("{name}:r"));
                open[client] = Some(Open { name, writes: None, reply: None });
            }
            Some(Open { name: call, writes: Some(serial), reply: None }) => match dice.roll(8) {
                0 => history.calls(&format!("{call}=?")),
                1 => {
                    late.push(serial);
                    history.calls(&format!("{call}=?"));
                }
                2 => history.calls(&format!("{call}=no")),
                _ => {
                    value = serial;
                    open[client] = Some(Open { name: call, writes: None, reply: Some("ok".into()) });
                }
            },
            Some(Open { name: call, writes: None, reply: None }) => {
                let any = dice.roll(serials + 1);
                let seen = if chaos && any == 0 {
                    "none".into()
                } else if chaos {
                    any.to_string()
                } else {
                    value.clone()
                };
                open[client] = Some(Open { name: call, writes: None, reply: Some(seen) });
            }
            Some(Open { name: call, reply: Some(reply), .. }) => {
                let reply = if dice.once_in(12) { "?".into() } else { reply };
                history.calls(&format!("{call}={reply}"));
            }
        }
    }
    history
}

fn operations(history: &History) -> Vec<Operation> {
    let mut checker = Linearizability::new();
    history.seen.iter().for_each(|o| checker.see(o).unwrap());
    checker.close();
    checker.registers.into_values().next().unwrap_or_default()
}

/// What todc-utils says. It knows no unknown outcomes: a write that nobody read is left out, another ends last.
fn todc(history: &History) -> bool {
    let (mut calls, mut values) = (BTreeMap::new(), BTreeSet::new());
    for observation in &history.seen {
        if let Seen::Completed { call, outcome, .. } = &observation.seen {
            calls.insert(*call, outcome.clone());
            if let Outcome::Value(Some(value)) = outcome {
                values.insert(*value);
            }
        }
    }
    let known = |call: &u64, what: &Call| match (what, calls.get(call)) {
        (Call::Write { .. }, Some(Outcome::Refused(_))) => None,
        (Call::Write { serial, .. }, Some(Outcome::Written)) => Some((Write(*serial), true)),
        (Call::Write { serial, .. }, _) => values.contains(serial).then_some((Write(*serial), false)),
        (_, Some(Outcome::Value(value))) => Some((Read(Some(value.unwrap_or(0))), true)),
        _ => None,
    };
    let mut whats = BTreeMap::new();
    let mut events: Vec<(usize, Event<RegisterOperation<u64>>)> = Vec::new();
    let mut last = Vec::new();
    for observation in &history.seen {
        match &observation.seen {
            Seen::Invoked { call, what, .. } => {
                let Some((operation, ends)) = known(call, what) else { continue };
                whats.insert(*call, operation);
                events.push((*call as usize, Event::Call(operation)));
                if !ends {
                    last.push((*call as usize, Event::Response(operation)));
                }
            }
            Seen::Completed { call, outcome: Outcome::Written | Outcome::Value(_), .. } => {
                events.push((*call as usize, Event::Response(whats[call])));
            }
            _ => {}
        }
    }
    events.extend(last);
    events.is_empty()
        || WGLChecker::<RegisterSpecification<u64>>::is_linearizable(TodcHistory::from_actions(events))
}

/// Ours, by search; the oracle's, by zones; and todc's: all three agree.
#[test]
fn three_checkers_agree() {
    let (mut valid, mut invalid) = (0, 0);
    for seed in 0..6_000 {
        let mut dice = Dice(seed);
        let (steps, clients) = (6 + dice.roll(30), 2 + dice.roll(3));
        let chaos = dice.once_in(2);
        let history = random(&mut dice, steps, clients, chaos);
        let expected = todc(&history);
        let searched = history.judge(vec![Box::new(Linearizability::new())]);
        let zones = history.judge(vec![Box::new(Oracle::new())]);
        assert!(
            searched.is_ok() == expected && zones.is_ok() == expected,
            "seed {seed}: todc says {expected}, the search {searched:#?}, the oracle {zones:#?}, of {:#?}",
            history.seen
        );
        assert!(chaos || expected, "seed {seed}: a correct register");
        *(if expected { &mut valid } else { &mut invalid }) += 1;
    }
    assert!(valid > 1_000 && invalid > 1_000, "{valid} valid, {invalid} invalid");
}

/// One value that was read is swapped for another of the run.
#[test]
fn small_corruptions_are_judged_alike() {
    let (mut valid, mut invalid) = (0, 0);
    for seed in 0..3_000 {
        let mut dice = Dice(seed);
        let mut history = random(&mut dice, 40, 3, false);
        let values = history.seen.iter_mut().filter_map(|o| match &mut o.seen {
            Seen::Completed { outcome: Outcome::Value(value), .. } => Some(value),
            _ => None,
        });
        let mut values: Vec<&mut Option<Serial>> = values.collect();
        if values.len() < 2 {
            continue;
        }
        let (from, to) = (dice.roll(values.len()), dice.roll(values.len()));
        *values[to] = *values[from];
        let expected = todc(&history);
        for checker in [Box::new(Linearizability::new()) as Box<dyn Checker>, Box::new(Oracle::new())] {
            let name = checker.name();
            assert_eq!(history.judge(vec![checker]).is_ok(), expected, "seed {seed}: {name}");
        }
        *(if expected { &mut valid } else { &mut invalid }) += 1;
    }
    assert!(valid > 300 && invalid > 300, "{valid} valid, {invalid} invalid");
}
