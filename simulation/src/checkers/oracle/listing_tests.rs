//! Listings by the oracle against a plain definition, over histories of a correct log, and of ones that are not.
//!
//! The definition: there is an order of all submissions and listings that respects real time, has submissions by their place in the log,
//! and each listing behind what it shows and before what it does not. Such an order exists unless these conditions go in a circle.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::checkers::exactly_once::ExactlyOnce;
use crate::checkers::testing::{Dice, History};
use crate::observation::{CallId, Listed, LogPosition, Seen, Serial};

#[derive(Debug, Clone)]
struct Point {
    began: usize,
    ended: Option<usize>,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Submission(LogPosition),
    Listing(BTreeSet<LogPosition>),
}

fn possible(history: &History) -> bool {
    let mut invoked: BTreeMap<CallId, (usize, Call)> = BTreeMap::new();
    let mut first: BTreeMap<Serial, usize> = BTreeMap::new();
    let mut may: BTreeMap<Serial, i32> = BTreeMap::new();
    let mut places: BTreeMap<LogPosition, (Serial, Option<usize>)> = BTreeMap::new();
    let mut points = Vec::new();
    for (step, observation) in history.seen.iter().enumerate() {
        match &observation.seen {
            Seen::Invoked { call, what, .. } => {
                invoked.insert(*call, (step, what.clone()));
                if let Call::Submit { serial, .. } = what {
                    first.entry(*serial).or_insert(step);
                    *may.entry(*serial).or_default() += 1;
                }
            }
            Seen::Completed { call, outcome, .. } => match (outcome, &invoked[call]) {
                (Outcome::Submitted(at), (_, Call::Submit { serial, .. })) => {
                    let place = places.entry(*at).or_insert((*serial, Some(step)));
                    place.1 = place.1.or(Some(step));
                    if place.0 != *serial {
                        return false;
                    }
                }
                (Outcome::Refused(_), (_, Call::Submit { serial, .. })) => *may.get_mut(serial).unwrap() -= 1,
                (Outcome::Operations(listed), (began, _)) => {
                    for (at, operation) in listed {
                        if places.entry(*at).or_insert((operation.serial, None)).0 != operation.serial {
                            return false;
                        }
                    }
                    let shown = listed.keys().copied().collect();
                    points.push(Point { began: *began, ended: Some(step), what: What::Listing(shown) });
                }
                _ => {}
            },
            _ => {}
        }
    }
    let mut serials = BTreeSet::new();
    for (at, (serial, ended)) in &places {
        let Some(began) = first.get(serial) else { return false };
        if !serials.insert(*serial) || may[serial] == 0 {
            return false;
        }
        points.push(Point { began: *began, ended: *ended, what: What::Submission(*at) });
    }
    let before = |a: &Point, b: &Point| {
        let by_log = match (&a.what, &b.what) {
            (What::Submission(a), What::Submission(b)) => a < b,
            (What::Submission(a), What::Listing(shown)) => shown.contains(a),
            (What::Listing(shown), What::Submission(b)) => !shown.contains(b),
            (What::Listing(_), What::Listing(_)) => false,
        };
        by_log || a.ended.is_some_and(|ended| ended < b.began)
    };
    // Takes away points that nothing that is left comes before.
    while let Some(at) =
        (0..points.len()).find(|i| (0..points.len()).all(|j| j == *i || !before(&points[j], &points[*i])))
    {
        points.swap_remove(at);
    }
    points.is_empty()
}

/// A call under way: a submission, or else a listing.
#[derive(Clone)]
struct Open {
    name: String,
    submits: Option<Serial>,
    reply: Option<String>,
}

/// Clients that submit, repeat what they do not know the outcome of, and list, against one log. With a fault, now and then an
/// acknowledged submission is not in the log, or in it twice.
fn random(dice: &mut Dice, steps: usize, faulty: bool) -> History {
    const CLIENTS: usize = 3;
    let mut history = History::default();
    let (mut log, mut serials): (Vec<Serial>, Serial) = (vec![], 0);
    let mut open: Vec<Option<Open>> = vec![None; CLIENTS];
    let mut again: Vec<Option<Serial>> = vec![None; CLIENTS];
    for step in 0..steps {
        let client = dice.roll(CLIENTS);
        let name = format!("{}{step}", (b'a' + client as u8) as char);
        match open[client].take() {
            None if dice.once_in(2) => {
                serials += 1;
                let serial = again[client].take().unwrap_or(serials);
                history.calls(&format!("{name}:s{serial}"));
                open[client] = Some(Open { name, submits: Some(serial), reply: None });
            }
            None => {
                history.calls(&format!("{name}:l"));
                open[client] = Some(Open { name, submits: None, reply: None });
            }
            Some(Open { name: call, submits: Some(serial), reply: None }) => {
                if !log.contains(&serial) && dice.once_in(8) {
                    history.calls(&format!("{call}=no"));
                    continue;
                }
                if !log.contains(&serial) || (faulty && dice.once_in(4)) {
                    log.push(serial);
                }
                let at = log.iter().position(|s| *s == serial).unwrap();
                if faulty && dice.once_in(6) {
                    log.remove(at);
                }
                open[client] =
                    Some(Open { name: call, submits: Some(serial), reply: Some(format!("op{at}")) });
            }
            Some(Open { name: call, submits: None, reply: None }) => {
                let listed: Vec<String> =
                    log.iter().enumerate().map(|(at, serial)| format!("{at}:{serial}")).collect();
                open[client] =
                    Some(Open { name: call, submits: None, reply: Some(format!("[{}]", listed.join(","))) });
            }
            Some(Open { name: call, submits: serial, reply: Some(reply) }) => {
                let lost = dice.once_in(6);
                again[client] = again[client].or(serial.filter(|_| lost));
                history.calls(&format!("{call}={}", if lost { "?" } else { &reply }));
            }
        }
    }
    history
}

/// One listing loses an operation, or shows what another one showed.
fn corrupt(dice: &mut Dice, history: &mut History) {
    let listings = history.seen.iter_mut().filter_map(|o| match &mut o.seen {
        Seen::Completed { outcome: Outcome::Operations(listed), .. } => Some(listed),
        _ => None,
    });
    let mut listings: Vec<&mut BTreeMap<LogPosition, Listed>> = listings.collect();
    if listings.is_empty() {
        return;
    }
    let (from, to) = (dice.roll(listings.len()), dice.roll(listings.len()));
    if dice.once_in(2) {
        *listings[to] = listings[from].clone();
    } else if let Some(at) = listings[to].keys().nth(dice.roll(4)).copied() {
        listings[to].remove(&at);
    }
}

#[test]
fn a_correct_log_never_alarms_and_others_are_judged_by_the_definition() {
    let (mut good, mut bad) = (0, 0);
    for seed in 0..4_000 {
        let mut dice = Dice(seed);
        let (steps, kind) = (10 + dice.roll(50), dice.roll(3));
        let mut history = random(&mut dice, steps, kind == 1);
        if kind == 2 {
            corrupt(&mut dice, &mut history);
        }
        let expected = possible(&history);
        assert!(expected || kind != 0, "seed {seed}: a correct log");
        let judged = history.judge(vec![Box::new(ExactlyOnce::new()), Box::new(Oracle::new())]);
        assert_eq!(judged.is_ok(), expected, "seed {seed}: {judged:#?} of {:#?}", history.seen);
        *(if expected { &mut good } else { &mut bad }) += 1;
    }
    assert!(good > 1_000 && bad > 500, "{good} good, {bad} bad");
}
