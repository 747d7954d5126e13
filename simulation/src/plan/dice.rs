//! Draws from one stream of chance, in whole numbers only: floating point may differ between machines.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand::rngs::SmallRng;

use crate::random;

/// One aspect's chance.
pub(super) struct Dice(SmallRng);

impl Dice {
    /// The stream of a plan's aspect; a run's own streams have other names.
    pub(super) fn new(seed: u64, aspect: &str) -> Self {
        Self(random::stream(seed, &format!("plan/{aspect}")))
    }

    pub(super) fn within(&mut self, range: RangeInclusive<u64>) -> u64 {
        self.0.random_range(range)
    }

    /// Every order of magnitude (in twos) as likely as another: for durations and rates, whose small and large values both matter.
    pub(super) fn magnitude(&mut self, range: RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start(), *range.end());
        assert!(0 < low && low <= high, "a range of magnitudes begins above zero");
        let octave = self.within(u64::from(low.ilog2())..=u64::from(high.ilog2()));
        let (from, to) = ((1u64 << octave).max(low), ((1u64 << octave) * 2 - 1).min(high));
        self.within(from..=to)
    }

    pub(super) fn percent(&mut self, chance: u64) -> bool {
        self.within(0..=99) < chance
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        assert!(!from.is_empty(), "there is something to pick from");
        from[self.within(0..=from.len() as u64 - 1) as usize].clone()
    }

    /// `count` different ones, in the order of `from`.
    pub(super) fn some_of<T: Clone>(&mut self, from: &[T], count: usize) -> Vec<T> {
        let mut left: Vec<usize> = (0..from.len()).collect();
        let mut chosen: Vec<usize> = Vec::new();
        while chosen.len() < count && !left.is_empty() {
            let at = self.within(0..=left.len() as u64 - 1) as usize;
            chosen.push(left.swap_remove(at));
        }
        chosen.sort_unstable();
        chosen.into_iter().map(|index| from[index].clone()).collect()
    }

    pub(super) fn shuffled<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        let mut left = from.to_vec();
        let mut shuffled = Vec::new();
        while !left.is_empty() {
            let at = self.within(0..=left.len() as u64 - 1) as usize;
            shuffled.push(left.remove(at));
        }
        shuffled
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_within_bounds_and_reach_them() {
        let mut dice = Dice::new(1, "test");
        let drawn: Vec<u64> = (0..2_000).map(|_| dice.magnitude(3..=70)).collect();
        assert_eq!((drawn.iter().min(), drawn.iter().max()), (Some(&3), Some(&70)));
        let small = drawn.iter().filter(|drawn| **drawn < 16).count();
        assert!((800..1_600).contains(&small), "small ones are as likely as large ones: {small}");
        assert!((0..100).all(|_| dice.magnitude(5..=5) == 5));
        for _ in 0..100 {
            let some = dice.some_of(&[1, 2, 3, 4], 2);
            assert!(some.len() == 2 && some[0] < some[1], "{some:?}");
            let mut shuffled = dice.shuffled(&[1, 2, 3]);
            shuffled.sort_unstable();
            assert_eq!(shuffled, [1, 2, 3]);
        }
        assert_eq!(dice.some_of(&[1, 2], 5), [1, 2]);
        let hits = (0..1_000).filter(|_| dice.percent(30)).count();
        assert!((200..400).contains(&hits), "{hits}");
    }
}
