//! The neighbouring partitions that one group carries.

use std::fmt;
use std::ops::RangeInclusive;

use bincode::{Decode, Encode};

use super::PartitionId;

/// First and last. Fixed for the life of a group. Invariant: first <= last (so it is never empty).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct PartitionRange {
    first: PartitionId,
    last: PartitionId,
}

impl PartitionRange {
    /// As [`GroupCount::partitions_of`](longshore_raft::model::ring::GroupCount::partitions_of) gives it; None if it is empty.
    pub fn new(range: RangeInclusive<u8>) -> Option<Self> {
        let (first, last) = range.into_inner();
        (first <= last).then_some(Self { first: PartitionId(first), last: PartitionId(last) })
    }

    /// Whether a decoded one keeps the invariant.
    pub(super) fn is_valid(self) -> bool {
        self.first <= self.last
    }

    pub fn contains(self, partition: PartitionId) -> bool {
        (self.first..=self.last).contains(&partition)
    }

    /// Position of a partition in the range.
    pub fn index_of(self, partition: PartitionId) -> Option<usize> {
        self.contains(partition).then(|| usize::from(partition.0 - self.first.0))
    }

    /// The partition at a position of the range.
    pub fn at(self, index: usize) -> PartitionId {
        let number = usize::from(self.first.0) + index;
        assert!(number <= usize::from(self.last.0), "{self} has no position {index}");
        PartitionId(number as u8)
    }

    pub fn iter(self) -> impl Iterator<Item = PartitionId> {
        (self.first.0..=self.last.0).map(PartitionId)
    }
}

impl fmt::Display for PartitionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", self.first, self.last)
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::model::ring::GroupCount;

    use super::*;

    #[test]
    fn positions_and_partitions_agree_for_every_group() {
        for count in GroupCount::ALL {
            for group in count.groups() {
                let range = PartitionRange::new(count.partitions_of(group).unwrap()).unwrap();
                for (i, partition) in range.iter().enumerate() {
                    assert_eq!((range.at(i), range.index_of(partition)), (partition, Some(i)));
                }
                let carried = PartitionId::all().filter(|p| range.contains(*p)).count();
                assert_eq!(carried, 256 / count.get() as usize);
            }
        }
        #[expect(clippy::reversed_empty_ranges, reason = "what is tested")]
        let empty = PartitionRange::new(3..=2);
        assert_eq!(empty, None);
    }
}
