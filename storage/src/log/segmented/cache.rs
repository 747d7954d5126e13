//! The latest entries in memory. Pure.
//!
//! Each stream caches a run of entries that ends at its last one. Invariant: an entry that is not yet durable is always
//! cached; beyond that, the entries submitted longest ago go first once the limit is exceeded.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use bytes::Bytes;

use super::super::StreamId;

/// One stream's cached entries.
#[derive(Debug, Default)]
pub(super) struct StreamCache {
    /// Entry and the number of the submit that brought it; the last one is the stream's last entry.
    entries: VecDeque<(u64, Bytes)>,
}

impl StreamCache {
    /// The entry at `index`, if it is cached. `last` is the stream's last index.
    pub(super) fn get(&self, index: u64, last: u64) -> Option<&Bytes> {
        let from_end = usize::try_from(last.checked_sub(index)?).ok()?;
        let at = self.entries.len().checked_sub(from_end + 1)?;
        Some(&self.entries[at].1)
    }

    /// Keeps what is still held; returns the bytes let go. `last` was the last index before.
    fn keep(&mut self, last: u64, held: Option<RangeInclusive<u64>>) -> usize {
        let first = last + 1 - self.entries.len() as u64;
        let mut freed = 0;
        let mut drop_range = |entries: &mut VecDeque<(u64, Bytes)>, range: std::ops::Range<usize>| {
            freed += entries.drain(range).map(|(_, bytes)| bytes.len()).sum::<usize>();
        };
        match held {
            Some(held) => {
                let kept = (held.end() + 1).saturating_sub(first) as usize;
                let len = self.entries.len();
                drop_range(&mut self.entries, kept.min(len)..len);
                let gone = held.start().saturating_sub(first) as usize;
                let len = self.entries.len();
                drop_range(&mut self.entries, 0..gone.min(len));
            }
            None => {
                let len = self.entries.len();
                drop_range(&mut self.entries, 0..len);
            }
        }
        freed
    }
}

/// The order in which all streams' entries were submitted, and their size.
#[derive(Debug, Default)]
pub(super) struct CacheOrder {
    /// Stream and submit of each cached entry, oldest first; may name some that are cached no longer.
    order: VecDeque<(StreamId, u64)>,
    bytes: usize,
}

impl CacheOrder {
    pub(super) fn push(&mut self, stream: StreamId, cache: &mut StreamCache, submit: u64, entry: Bytes) {
        self.bytes += entry.len();
        cache.entries.push_back((submit, entry));
        self.order.push_back((stream, submit));
    }

    /// A stream holds fewer entries now. `last` was its last index before, `held` is what it holds now.
    pub(super) fn keep(&mut self, cache: &mut StreamCache, last: u64, held: Option<RangeInclusive<u64>>) {
        self.bytes -= cache.keep(last, held);
    }

    /// While there are more than `limit` bytes: whose oldest entry is to go next, and the submit that brought it. Never
    /// one of a submit after `durable`.
    pub(super) fn next_victim(&mut self, limit: usize, durable: u64) -> Option<(StreamId, u64)> {
        // Entries that were cut off leave their place in the order; without the second condition it could outgrow them.
        if self.bytes <= limit && self.order.len() <= MAX_CACHED_ENTRIES {
            return None;
        }
        self.order.pop_front_if(|(_, submit)| *submit <= durable)
    }

    /// Lets go of the stream's oldest entry, if it is still the one that the submit brought.
    pub(super) fn evict(&mut self, cache: &mut StreamCache, submit: u64) {
        if let Some((_, entry)) = cache.entries.pop_front_if(|(brought_by, _)| *brought_by == submit) {
            self.bytes -= entry.len();
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

/// Most entries in the order; small entries must not make the bookkeeping larger than what it keeps.
const MAX_CACHED_ENTRIES: usize = 1 << 18;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const A: StreamId = StreamId { group: 0, replica: 1 };
    const B: StreamId = StreamId { group: 0, replica: 2 };

    #[derive(Default)]
    struct Fixture {
        order: CacheOrder,
        caches: BTreeMap<StreamId, StreamCache>,
    }

    impl Fixture {
        fn push(&mut self, stream: StreamId, submit: u64, len: usize) {
            let cache = self.caches.entry(stream).or_default();
            self.order.push(stream, cache, submit, Bytes::from(vec![submit as u8; len]));
        }

        fn evict(&mut self, limit: usize, durable: u64) {
            while let Some((stream, submit)) = self.order.next_victim(limit, durable) {
                self.order.evict(self.caches.get_mut(&stream).unwrap(), submit);
            }
        }

        fn cached(&self, stream: StreamId, last: u64) -> Vec<(u64, u8)> {
            let cache = &self.caches[&stream];
            (0..=last).filter_map(|index| Some((index, cache.get(index, last)?[0]))).collect()
        }
    }

    #[test]
    fn the_oldest_durable_entries_go_first() {
        let mut cache = Fixture::default();
        for submit in 1..=6 {
            cache.push(if submit % 2 == 0 { A } else { B }, submit, 10);
        }
        cache.evict(45, 6);
        assert_eq!(cache.order.bytes(), 40);
        assert_eq!(cache.cached(A, 12), [(11, 4), (12, 6)]);
        assert_eq!(cache.cached(B, 3), [(2, 3), (3, 5)]);
        cache.evict(0, 4);
        assert_eq!(cache.order.bytes(), 20, "what is not durable stays");
        cache.evict(0, 6);
        assert_eq!(cache.order.bytes(), 0);
    }

    #[test]
    fn what_was_cut_off_is_let_go_and_its_place_in_the_order_harms_nobody() {
        let mut cache = Fixture::default();
        (1..=5).for_each(|submit| cache.push(A, submit, 10));
        cache.order.keep(cache.caches.get_mut(&A).unwrap(), 5, Some(2..=3));
        assert_eq!(cache.cached(A, 3), [(2, 2), (3, 3)]);
        assert_eq!(cache.order.bytes(), 20);
        cache.push(A, 6, 10);
        cache.evict(0, 5);
        assert_eq!(cache.cached(A, 4), [(4, 6)], "the entry of submit 6 took the place of that of submit 4");
        cache.order.keep(cache.caches.get_mut(&A).unwrap(), 4, None);
        assert_eq!(cache.order.bytes(), 0);
    }

    #[test]
    fn a_purge_beyond_what_is_cached_leaves_the_rest() {
        let mut cache = Fixture::default();
        (1..=5).for_each(|submit| cache.push(A, submit, 10));
        cache.evict(20, 5);
        cache.order.keep(cache.caches.get_mut(&A).unwrap(), 5, Some(2..=5));
        assert_eq!(cache.cached(A, 5), [(4, 4), (5, 5)]);
        cache.order.keep(cache.caches.get_mut(&A).unwrap(), 5, Some(2..=3));
        assert_eq!(cache.cached(A, 3), []);
    }
}
