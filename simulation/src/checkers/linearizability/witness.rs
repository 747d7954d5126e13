//! Cuts a history that fits no order down to the calls that contradict each other.

use std::collections::BTreeSet;

use super::search::{self, Verdict};
use super::{Action, Operation};
use crate::checkers::calls::Moment;
use crate::observation::Serial;

/// Calls told at most; a minimal witness has seldom more than five.
const TOLD_MAX: usize = 12;

fn value_of(action: Action) -> Option<Serial> {
    match action {
        Action::Write(serial) => Some(serial),
        Action::Read(value) => value,
        Action::Swap { serial, .. } => Some(serial),
        Action::Delete | Action::MayDelete => None,
    }
}

/// Calls that already fit no order, none of which can be left out. Values go first, each with its write and all its reads, since a read
/// without its write proves nothing; then single reads.
pub(super) fn minimal(operations: &[Operation], failed: Moment, steps_max: u64) -> Vec<Operation> {
    let known = operations.iter().filter(|o| match o.action {
        Action::Read(_) => o.ended.is_some_and(|ended| ended <= failed),
        _ => o.began <= failed,
    });
    let known: Vec<Operation> = known.cloned().collect();
    let invalid = |part: &[Operation]| matches!(search::check(part, steps_max), Verdict::Invalid { .. });
    let is_plain = |o: &Operation| matches!(o.action, Action::Write(_) | Action::Read(_));
    if !known.iter().all(is_plain) {
        // Values depend on each other there: the last calls tell most.
        let mut last = known;
        last.sort_by_key(|o| o.ended.unwrap_or(o.began));
        return last.split_off(last.len().saturating_sub(TOLD_MAX));
    }
    if !invalid(&known) {
        return known;
    }
    let values: BTreeSet<Option<Serial>> = known.iter().map(|o| value_of(o.action)).collect();
    let values = shrink(values.into_iter().collect(), |kept: &[Option<Serial>]| {
        let kept: BTreeSet<_> = kept.iter().collect();
        let part = known.iter().filter(|o| kept.contains(&value_of(o.action)));
        invalid(&part.cloned().collect::<Vec<_>>())
    });
    let known: Vec<Operation> = known.into_iter().filter(|o| values.contains(&value_of(o.action))).collect();
    let (writes, reads): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|o| matches!(o.action, Action::Write(_)));
    let reads = shrink(reads, |kept: &[Operation]| invalid(&[&writes, kept].concat()));
    let mut witness = [writes, reads].concat();
    witness.sort_by_key(|o| o.began);
    witness
}

/// The smallest part that delta debugging finds for which `holds` still does, given that it holds for the whole.
fn shrink<T: Clone>(mut all: Vec<T>, holds: impl Fn(&[T]) -> bool) -> Vec<T> {
    let mut size = all.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        while at < all.len() {
            let upto = all.len().min(at + size);
            let without = [&all[..at], &all[upto..]].concat();
            if holds(&without) {
                all = without;
            } else {
                at = upto;
            }
        }
        size /= 2;
    }
    all
}

pub(super) fn tell(witness: &[Operation]) -> String {
    let tell = |o: &Operation| {
        let what = match o.action {
            Action::Write(serial) => format!("wrote {serial}"),
            Action::Read(Some(serial)) => format!("read {serial}"),
            Action::Read(None) => "read \"never written\"".to_owned(),
            Action::Swap { expected: Some(expected), serial } => format!("swapped {expected} for {serial}"),
            Action::Swap { expected: None, serial } => format!("put {serial} in place of nothing"),
            Action::Delete => "deleted it".to_owned(),
            Action::MayDelete => "asked to delete it".to_owned(),
        };
        let ended = o.ended.map_or("outcome unknown".to_owned(), |ended| ended.to_string());
        format!("client {} {what} (call {}, {} to {ended})", o.client, o.call, o.began)
    };
    let mut told: Vec<String> = witness.iter().take(TOLD_MAX).map(tell).collect();
    if witness.len() > TOLD_MAX {
        told.push(format!("and {} more", witness.len() - TOLD_MAX));
    }
    told.join("; ")
}
