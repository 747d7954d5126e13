//! Where the entries of one stream are, by index. Pure.
//!
//! Runs of consecutive indexes: one run at rest; more only while recovery has seen entries whose neighbours were moved to
//! later segments. Invariant: runs are sorted, not empty, and neither overlap nor touch.

use std::collections::VecDeque;

use super::format::Location;

#[derive(Debug, Default)]
pub(super) struct Runs {
    runs: Vec<Run>,
}

#[derive(Debug)]
struct Run {
    first: u64,
    locations: VecDeque<Location>,
}

impl Run {
    /// The index after the last. Entry indexes stay below `u64::MAX`.
    fn end(&self) -> u64 {
        self.first + self.locations.len() as u64
    }
}

impl Runs {
    pub(super) fn first(&self) -> Option<u64> {
        self.runs.first().map(|run| run.first)
    }

    pub(super) fn last(&self) -> Option<u64> {
        self.runs.last().map(|run| run.end() - 1)
    }

    /// Whether there is no index missing between the first and the last.
    pub(super) fn is_whole(&self) -> bool {
        self.runs.len() <= 1
    }

    pub(super) fn get(&self, index: u64) -> Option<Location> {
        let run = &self.runs[self.run_before(index)?];
        run.locations.get(usize::try_from(index - run.first).ok()?).copied()
    }

    /// The last run that starts at or before an index.
    fn run_before(&self, index: u64) -> Option<usize> {
        self.runs.partition_point(|run| run.first <= index).checked_sub(1)
    }

    /// Sets the location of an index; returns the one it had.
    pub(super) fn set(&mut self, index: u64, location: Location) -> Option<Location> {
        let at = self.run_before(index);
        if let Some(at) = at {
            let run = &mut self.runs[at];
            if index < run.end() {
                let slot = &mut run.locations[(index - run.first) as usize];
                return Some(std::mem::replace(slot, location));
            }
            if index == run.end() {
                run.locations.push_back(location);
                self.join(at);
                return None;
            }
        }
        let next = at.map_or(0, |at| at + 1);
        match self.runs.get_mut(next) {
            Some(run) if run.first == index + 1 => {
                run.locations.push_front(location);
                run.first = index;
            }
            _ => self.runs.insert(next, Run { first: index, locations: VecDeque::from([location]) }),
        }
        None
    }

    /// Joins a run with the one after it if they touch.
    fn join(&mut self, at: usize) {
        if self.runs.get(at + 1).is_some_and(|next| next.first == self.runs[at].end()) {
            let next = self.runs.remove(at + 1);
            self.runs[at].locations.extend(next.locations);
        }
    }

    /// Keeps the indexes from the first to the last of `held`, or none. Tells what went.
    pub(super) fn cut(&mut self, held: Option<(u64, u64)>, mut gone: impl FnMut(Location)) {
        let (from, end) = held.map_or((0, 0), |(first, last)| (first, last.saturating_add(1).max(first)));
        self.runs.retain_mut(|run| {
            let front = from.clamp(run.first, run.end()) - run.first;
            run.locations.drain(..front as usize).for_each(&mut gone);
            run.first += front;
            let kept = end.clamp(run.first, run.end()) - run.first;
            run.locations.drain(kept as usize..).for_each(&mut gone);
            // A purge of most of a long log gives its memory back.
            if run.locations.capacity() / 4 > run.locations.len() {
                run.locations.shrink_to_fit();
            }
            !run.locations.is_empty()
        });
    }

    pub(super) fn into_locations(self) -> impl Iterator<Item = Location> {
        self.runs.into_iter().flat_map(|run| run.locations)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn at(offset: u32) -> Location {
        Location { epoch: 1, offset, len: 0 }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Set(u64),
        Cut(Option<(u64, u64)>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let index = 1u64..40;
        let cut = proptest::option::of((index.clone(), index.clone()));
        let step = prop_oneof![
            8 => index.prop_map(Step::Set),
            1 => cut.prop_map(Step::Cut),
        ];
        proptest::collection::vec(step, 0..100)
    }

    proptest! {
        #[test]
        fn behaves_as_a_map(steps in steps()) {
            let mut runs = Runs::default();
            let mut map = BTreeMap::new();
            for (number, step) in steps.into_iter().enumerate() {
                let location = at(number as u32);
                match step {
                    Step::Set(index) => prop_assert_eq!(runs.set(index, location), map.insert(index, location)),
                    Step::Cut(held) => {
                        let keep = |index: u64| held.is_some_and(|(first, last)| (first..=last).contains(&index));
                        let mut gone = Vec::new();
                        runs.cut(held, |location| gone.push(location));
                        let expect: Vec<_> = map.iter().filter(|(i, _)| !keep(**i)).map(|(_, l)| *l).collect();
                        gone.sort_by_key(|location| location.offset);
                        let mut sorted = expect;
                        sorted.sort_by_key(|location| location.offset);
                        prop_assert_eq!(gone, sorted);
                        map.retain(|index, _| keep(*index));
                    }
                }
                prop_assert_eq!(runs.first(), map.keys().next().copied());
                prop_assert_eq!(runs.last(), map.keys().next_back().copied());
                (0..45).for_each(|index| assert_eq!(runs.get(index), map.get(&index).copied()));
                let span = runs.first().zip(runs.last()).map_or(0, |(first, last)| last - first + 1);
                prop_assert_eq!(runs.is_whole(), span == map.len() as u64);
            }
            prop_assert_eq!(runs.into_locations().collect::<Vec<_>>(), map.into_values().collect::<Vec<_>>());
        }
    }
}
