//! Which streams a batch touched, in 128 bytes: a Bloom filter (Bloom 1970). Pure.
//!
//! Each batch carries the filter of the batch before it. When rot makes one batch unreadable, the next one still
//! says which streams it may have held; all others live on. A filter may name a stream too many, never one too few.

use super::super::StreamId;
use crate::mix::mix64;

pub(super) const BLOOM_BYTES: usize = 128;
const BITS: u64 = BLOOM_BYTES as u64 * 8;
/// With 32 streams in a batch, two hashes name a stranger with a chance of 0.4 %.
const HASHES: u32 = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Bloom([u8; BLOOM_BYTES]);

impl Bloom {
    pub(super) const EMPTY: Self = Self([0; BLOOM_BYTES]);
    /// Names every stream.
    pub(super) const ALL: Self = Self([0xff; BLOOM_BYTES]);

    pub(super) fn from_bytes(bytes: [u8; BLOOM_BYTES]) -> Self {
        Self(bytes)
    }

    pub(super) fn as_bytes(&self) -> &[u8; BLOOM_BYTES] {
        &self.0
    }

    pub(super) fn insert(&mut self, stream: StreamId) {
        for bit in bits(stream) {
            self.0[(bit / 8) as usize] |= 1 << (bit % 8);
        }
    }

    pub(super) fn may_contain(&self, stream: StreamId) -> bool {
        bits(stream).all(|bit| self.0[(bit / 8) as usize] & (1 << (bit % 8)) != 0)
    }

    pub(super) fn union(&mut self, other: &Self) {
        self.0.iter_mut().zip(other.0).for_each(|(byte, other)| *byte |= other);
    }

    /// Whether it names no stream that `other` does not.
    pub(super) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(byte, other)| byte & !other == 0)
    }
}

impl std::fmt::Debug for Bloom {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let set: u32 = self.0.iter().map(|byte| byte.count_ones()).sum();
        write!(f, "Bloom({set} of {BITS} bits)")
    }
}

fn bits(stream: StreamId) -> impl Iterator<Item = u64> {
    let hash = mix64(mix64(u64::from(stream.group).wrapping_add(0x9e37_79b9_7f4a_7c15)) ^ stream.replica);
    (0..HASHES).map(move |turn| (hash >> (turn * 32)) % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(number: u64) -> StreamId {
        StreamId { group: (number % 257) as u32, replica: number }
    }

    #[test]
    fn what_was_put_in_is_found_and_few_others_are() {
        let mut bloom = Bloom::EMPTY;
        assert!(!(0..1000).any(|number| bloom.may_contain(stream(number))));
        (0..32).for_each(|number| bloom.insert(stream(number)));
        assert!((0..32).all(|number| bloom.may_contain(stream(number))));
        let strangers = (32..10_032).filter(|number| bloom.may_contain(stream(*number))).count();
        assert!(strangers < 150, "{strangers} of 10000 strangers were named");
        assert!((0..1000).all(|number| Bloom::ALL.may_contain(stream(number))));
    }

    #[test]
    fn a_union_holds_both() {
        let (mut left, mut right) = (Bloom::EMPTY, Bloom::EMPTY);
        left.insert(stream(1));
        right.insert(stream(2));
        assert!(!right.is_within(&left));
        left.union(&right);
        assert!(right.is_within(&left) && left.may_contain(stream(1)) && left.may_contain(stream(2)));
    }
}
