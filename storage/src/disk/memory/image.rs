//! The bytes of a file, kept by block: a block of zeros takes no room, and a copy of an image shares its blocks until they change.
//!
//! So a log segment of 64 MiB that is filled with zeros ahead, and a crash of a disk that holds many, cost next to nothing.
//! Invariants: no block reaches behind the length but with zeros; no block lies wholly behind it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

const BLOCK_BYTES: u64 = 4096;

type Block = [u8; BLOCK_BYTES as usize];

/// Copied on write: a clone is a change of its own.
#[derive(Debug, Clone, Default)]
pub(super) struct Image {
    len: u64,
    /// By number; those that are missing are zeros.
    blocks: BTreeMap<u64, Arc<Block>>,
}

/// The parts of `offset..end` by block: number of the block, and the range in it.
fn parts(offset: u64, end: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (number, from) = (at / BLOCK_BYTES, at % BLOCK_BYTES);
            let to = BLOCK_BYTES.min(end - number * BLOCK_BYTES);
            at = number * BLOCK_BYTES + to;
            (number, from as usize..to as usize)
        })
    })
}

impl Image {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn read(&self, buf: &mut [u8], offset: u64) -> usize {
        let end = self.len.min(offset.saturating_add(buf.len() as u64));
        let count = end.saturating_sub(offset) as usize;
        let mut rest = &mut buf[..count];
        for (number, range) in parts(offset, end) {
            let (part, behind) = rest.split_at_mut(range.len());
            match self.blocks.get(&number) {
                Some(block) => part.copy_from_slice(&block[range]),
                None => part.fill(0),
            }
            rest = behind;
        }
        count
    }

    pub(super) fn write(&mut self, data: &[u8], offset: u64) {
        let end = offset + data.len() as u64;
        let mut rest = data;
        for (number, range) in parts(offset, end) {
            let (part, behind) = rest.split_at(range.len());
            if part.len() == BLOCK_BYTES as usize {
                let whole: Arc<Block> = Arc::<[u8]>::from(part).try_into().expect("it is as long as a block");
                self.blocks.insert(number, whole);
            } else {
                let block = self.blocks.entry(number).or_insert_with(|| Arc::new([0; BLOCK_BYTES as usize]));
                Arc::make_mut(block)[range].copy_from_slice(part);
            }
            rest = behind;
        }
        self.extend(end);
    }

    /// Takes over the blocks that `offset..end` touches from `other`, and reaches at least to `end`.
    pub(super) fn share(&mut self, other: &Self, offset: u64, end: u64) {
        for (number, _) in parts(offset, end) {
            match other.blocks.get(&number) {
                Some(block) => self.blocks.insert(number, Arc::clone(block)),
                None => self.blocks.remove(&number),
            };
        }
        self.extend(end);
    }

    /// Writes zeros. Takes time by what was there, not by `len`.
    pub(super) fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        for number in self.block_numbers(offset, end) {
            let start = number * BLOCK_BYTES;
            let (from, to) = (offset.max(start) - start, end.min(start + BLOCK_BYTES) - start);
            if to - from == BLOCK_BYTES {
                self.blocks.remove(&number);
            } else if let Some(block) = self.blocks.get_mut(&number) {
                Arc::make_mut(block)[from as usize..to as usize].fill(0);
            }
        }
        if len > 0 {
            self.extend(end);
        }
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            self.zero(len, self.len - len);
            self.blocks.split_off(&len.div_ceil(BLOCK_BYTES));
        }
        self.len = len;
    }

    /// Grows to `len`, if it is shorter.
    pub(super) fn extend(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// Changes one byte, if it is there.
    pub(super) fn change(&mut self, offset: u64, change: impl Fn(u8) -> u8) -> bool {
        let mut byte = [0];
        let is_there = self.read(&mut byte, offset) == 1;
        if is_there {
            self.write(&[change(byte[0])], offset);
        }
        is_there
    }

    /// The parts of `offset..end` that may hold something other than zeros, in order.
    pub(super) fn written(&self, offset: u64, end: u64) -> Vec<Range<u64>> {
        let end = end.min(self.len);
        let range = |number: u64| offset.max(number * BLOCK_BYTES)..end.min((number + 1) * BLOCK_BYTES);
        self.block_numbers(offset, end).into_iter().map(range).collect()
    }

    fn block_numbers(&self, offset: u64, end: u64) -> Vec<u64> {
        if offset >= end {
            return Vec::new();
        }
        self.blocks
            .range(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES))
            .map(|(number, _)| *number)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        Write(u64, Vec<u8>),
        Zero(u64, u64),
        SetLen(u64),
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u64..20_000, proptest::collection::vec(1u8.., 0..6000))
                .prop_map(|(at, data)| Act::Write(at, data)),
            (0u64..20_000, 0u64..10_000).prop_map(|(at, len)| Act::Zero(at, len)),
            (0u64..30_000).prop_map(Act::SetLen),
        ]
    }

    proptest! {
        /// Against a plain vector of bytes.
        #[test]
        fn an_image_is_its_bytes(acts in proptest::collection::vec(act(), 1..12)) {
            let (mut image, mut plain) = (Image::default(), Vec::new());
            for act in acts {
                let (before, plain_before) = (image.clone(), plain.clone());
                match act {
                    Act::Write(at, data) => {
                        let end = at as usize + data.len();
                        if data.is_empty() { continue }
                        image.write(&data, at);
                        plain.resize(plain.len().max(end), 0);
                        plain[at as usize..end].copy_from_slice(&data);
                    }
                    Act::Zero(at, len) => {
                        let end = (at + len) as usize;
                        image.zero(at, len);
                        if len == 0 { continue }
                        plain.resize(plain.len().max(end), 0);
                        plain[at as usize..end].fill(0);
                    }
                    Act::SetLen(len) => {
                        image.set_len(len);
                        plain.resize(len as usize, 0);
                    }
                }
                for (image, plain) in [(&image, &plain), (&before, &plain_before)] {
                    let mut bytes = vec![7; plain.len() + 1];
                    prop_assert_eq!(image.read(&mut bytes, 0), plain.len());
                    prop_assert!(bytes[..plain.len()] == plain[..]);
                    prop_assert_eq!(image.len(), plain.len() as u64);
                    let parts = image.written(0, u64::MAX);
                    let inside = |at: usize| parts.iter().any(|part| part.contains(&(at as u64)));
                    prop_assert!((0..plain.len()).all(|at| plain[at] == 0 || inside(at)));
                    prop_assert!(image.blocks.keys().all(|number| number * BLOCK_BYTES < image.len));
                }
            }
        }
    }

    #[test]
    fn zeros_take_no_room() {
        let mut image = Image::default();
        image.zero(0, 1 << 40);
        image.write(&[1; 3 * 4096], 4096);
        assert_eq!(image.blocks.len(), 3);
        image.zero(0, 1 << 40);
        assert!(image.blocks.is_empty() && image.len() == 1 << 40);
    }
}
