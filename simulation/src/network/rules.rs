//! What becomes of one message or datagram: the ordered rules first, then the network's shape. Pure.

use std::sync::Arc;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::plan::{HostId, Latency, NetworkShape, Rule, Verdict};

/// How much longer the shape holds back what it reorders: several times a round trip between zones, so that much passes it.
const REORDER: Latency = Latency::even(1_000, 10_000);

/// A rule that is in force.
#[derive(Debug, Clone)]
pub(super) struct ActiveRule {
    pub(super) rule: Rule,
    /// If set, it is in force only for what comes from or goes to one of these: the others were healed.
    pub(super) touching: Option<Arc<[HostId]>>,
}

impl ActiveRule {
    pub(super) fn matches(&self, from: HostId, to: HostId) -> bool {
        let is_left = |hosts: &Arc<[HostId]>| hosts.contains(&from) || hosts.contains(&to);
        self.rule.from.contains(from)
            && self.rule.to.contains(to)
            && self.touching.as_ref().is_none_or(is_left)
    }
}

/// The fate of one thing that is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// Swallowed by the rule of this index; nobody is told.
    Drop(usize),
    /// Lost by chance.
    Lose,
    /// Kept by the rule of this index.
    Hold(usize),
    Deliver {
        delay_us: u64,
        /// A copy arrives as well, after this.
        copy_us: Option<u64>,
        /// By chance, behind what is sent after it.
        reordered: bool,
        /// By a rule: what is sent after it does not wait for it.
        delayed: bool,
    },
}

/// Whether nothing that is sent from one host to another comes through, whatever chance has in store.
pub(super) fn is_cut(rules: &[ActiveRule], from: HostId, to: HostId) -> bool {
    let passes = |rule: &Rule| matches!(rule.verdict, Verdict::Delay { .. } | Verdict::Duplicate);
    let mut matching = rules.iter().filter(|active| active.matches(from, to)).map(|active| &active.rule);
    matching.find(|rule| rule.cuts_off() || passes(rule)).is_some_and(Rule::cuts_off)
}

/// Decides on something sent from one host to another; `near`: they are in one zone.
pub(super) fn judge(
    rules: &[ActiveRule],
    shape: &NetworkShape,
    (from, to): (HostId, HostId),
    near: bool,
    random: &mut SmallRng,
) -> Fate {
    let usual = if near { shape.near } else { shape.far };
    let struck = rules.iter().position(|r| r.matches(from, to) && strikes(r.rule.chance_ppm, random));
    if let Some(index) = struck {
        return match rules[index].rule.verdict {
            Verdict::Drop => Fate::Drop(index),
            Verdict::Hold => Fate::Hold(index),
            Verdict::Delay { latency } => {
                let delay_us = draw(usual, random) + draw(latency, random);
                Fate::Deliver { delay_us, copy_us: None, reordered: false, delayed: true }
            }
            Verdict::Duplicate => {
                let (delay_us, copy_us) = (draw(usual, random), Some(draw(usual, random)));
                Fate::Deliver { delay_us, copy_us, reordered: false, delayed: false }
            }
        };
    }
    if strikes(shape.loss_ppm, random) {
        return Fate::Lose;
    }
    let copy_us = strikes(shape.duplicate_ppm, random).then(|| draw(usual, random));
    let reordered = strikes(shape.reorder_ppm, random);
    let held_back_us = if reordered { draw(REORDER, random) } else { 0 };
    Fate::Deliver { delay_us: draw(usual, random) + held_back_us, copy_us, reordered, delayed: false }
}

fn strikes(ppm: u32, random: &mut SmallRng) -> bool {
    match ppm {
        0 => false,
        1_000_000.. => true,
        _ => random.random_range(0..1_000_000) < ppm,
    }
}

fn draw(latency: Latency, random: &mut SmallRng) -> u64 {
    if strikes(latency.tail_ppm, random) {
        return latency.tail_us;
    }
    // A range that is the wrong way round has one value.
    random.random_range(latency.min_us..=latency.max_us.max(latency.min_us))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Hosts;
    use crate::random::stream;

    fn rule(from: Hosts, to: Hosts, chance_ppm: u32, verdict: Verdict) -> ActiveRule {
        ActiveRule { rule: Rule { name: "r".into(), from, to, chance_ppm, verdict }, touching: None }
    }

    #[test]
    fn the_first_rule_that_matches_and_strikes_decides() {
        let rules = [
            rule(Hosts::Only(vec![1]), Hosts::All, 0, Verdict::Hold),
            rule(Hosts::Only(vec![1]), Hosts::Except(vec![3]), 1_000_000, Verdict::Drop),
            rule(Hosts::All, Hosts::All, 1_000_000, Verdict::Hold),
        ];
        let mut random = stream(1, "test");
        let mut fate = |from, to| judge(&rules, &NetworkShape::default(), (from, to), true, &mut random);
        assert_eq!(fate(1, 2), Fate::Drop(1));
        assert_eq!(fate(1, 3), Fate::Hold(2));
        assert_eq!(fate(2, 1), Fate::Hold(2));
    }

    #[test]
    fn what_may_come_through_is_not_cut() {
        let (some, all) = (Hosts::Only(vec![1]), Hosts::All);
        let delay = Verdict::Delay { latency: Latency::even(1, 2) };
        let cut = |rules: &[ActiveRule]| (is_cut(rules, 1, 2), is_cut(rules, 2, 1));
        let cutting = rule(some.clone(), all.clone(), 1_000_000, Verdict::Drop);
        assert_eq!(cut(std::slice::from_ref(&cutting)), (true, false));
        assert_eq!(cut(&[rule(all.clone(), all.clone(), 5, Verdict::Drop), cutting.clone()]), (true, false));
        assert_eq!(cut(&[rule(all.clone(), all, 5, delay), cutting]), (false, false));
        assert_eq!(cut(&[rule(some.clone(), some, 5, Verdict::Drop)]), (false, false));
    }

    #[test]
    fn latency_is_that_of_the_zone_and_chances_strike_as_often_as_they_should() {
        let shape = NetworkShape {
            near: Latency::even(10, 20),
            far: Latency { min_us: 100, max_us: 200, tail_ppm: 100_000, tail_us: 5_000 },
            loss_ppm: 100_000,
            duplicate_ppm: 100_000,
            reorder_ppm: 0,
        };
        let mut random = stream(2, "test");
        let (mut lost, mut doubled, mut tail) = (0, 0, 0);
        for i in 0..10_000 {
            let near = i % 2 == 0;
            match judge(&[], &shape, (1, 2), near, &mut random) {
                Fate::Lose => lost += 1,
                Fate::Deliver { delay_us, copy_us, reordered: false, delayed: false } => {
                    doubled += u32::from(copy_us.is_some());
                    tail += u32::from(delay_us == 5_000);
                    let expected = if near { 10..=20 } else { 100..=200 };
                    assert!(expected.contains(&delay_us) || (!near && delay_us == 5_000), "{delay_us}");
                }
                other => panic!("{other:?}"),
            }
        }
        assert!((900..1_100).contains(&lost), "{lost}");
        assert!((800..1_000).contains(&doubled), "{doubled}");
        assert!((350..550).contains(&tail), "{tail}");
    }
}
