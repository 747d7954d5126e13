//! Key -> slot -> partition -> group: fixed arithmetic that every node and every Redis Cluster client agrees on for ever.
//!
//! The slot is Redis Cluster's (specification, "Key distribution model" and "Hash tags"), so that its clients route straight to
//! the leader. A partition is 64 neighbouring slots, a group 256 / G neighbouring partitions. Must never: depend on state.

use std::fmt;
use std::ops::RangeInclusive;

use bincode::{Decode, Encode};

use super::error::RingError;
use crate::model::ids::GroupId;

/// Slots of the ring: Redis Cluster's number.
pub const SLOTS: u16 = 16_384;
/// Partitions of the ring.
pub const PARTITIONS: u16 = 256;
/// `slot >> SLOT_SHIFT` is its partition.
const SLOT_SHIFT: u32 = (SLOTS / PARTITIONS).ilog2();

/// Remainders of the polynomial 0x1021 for each byte.
const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = (byte as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0, not reflected.
pub fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc: u16, byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

/// The part of a key that is hashed: between the first `{` and the first `}` after it, if anything is between them; else all of it.
pub fn hash_tag(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|b| *b == b'{') else { return key };
    let rest = &key[open + 1..];
    match rest.iter().position(|b| *b == b'}') {
        None | Some(0) => key,
        Some(close) => &rest[..close],
    }
}

/// One of 16384 slots. Invariant: below [`SLOTS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(u16);

impl Slot {
    /// `None` at [`SLOTS`] and above.
    pub fn new(slot: u16) -> Option<Self> {
        (slot < SLOTS).then_some(Self(slot))
    }

    pub fn get(self) -> u16 {
        self.0
    }

    pub fn partition(self) -> PartitionId {
        PartitionId((self.0 >> SLOT_SHIFT) as u8)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The slot of a key.
pub fn slot_of(key: &[u8]) -> Slot {
    Slot(crc16(hash_tag(key)) % SLOTS)
}

/// The partition of a key.
pub fn partition_of(key: &[u8]) -> PartitionId {
    slot_of(key).partition()
}

/// One of 256 partitions: every value is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct PartitionId(pub u8);

impl PartitionId {
    /// Every partition, in order.
    pub fn all() -> impl Iterator<Item = PartitionId> {
        (0..=u8::MAX).map(PartitionId)
    }

    /// Its 64 slots, first and last.
    pub fn slots(self) -> (Slot, Slot) {
        let first = u16::from(self.0) << SLOT_SHIFT;
        (Slot(first), Slot(first | ((1 << SLOT_SHIFT) - 1)))
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

/// How many groups carry the partitions; fixed at `init`. An enum, so that no other number can be decoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub enum GroupCount {
    #[default]
    G32,
    G64,
    G128,
    G256,
    /// Fewer than is of use to a fleet: for simulations, whose cost is the number of groups.
    G2,
    G4,
    G8,
}

impl GroupCount {
    /// Those that a fleet can be made with.
    pub const ALL: [GroupCount; 4] = [Self::G32, Self::G64, Self::G128, Self::G256];
    const FEW: [GroupCount; 3] = [Self::G2, Self::G4, Self::G8];

    /// An error unless it is 32, 64, 128 or 256, or, for simulations, 2, 4 or 8.
    pub fn new(groups: u32) -> Result<Self, RingError> {
        let found = Self::ALL.into_iter().chain(Self::FEW).find(|count| count.get() == groups);
        found.ok_or(RingError::GroupCount(groups))
    }

    pub fn get(self) -> u32 {
        match self {
            Self::G32 => 32,
            Self::G64 => 64,
            Self::G128 => 128,
            Self::G256 => 256,
            Self::G2 => 2,
            Self::G4 => 4,
            Self::G8 => 8,
        }
    }

    fn partitions_per_group(self) -> u32 {
        u32::from(PARTITIONS) / self.get()
    }

    /// Every group of the ring, in order: 1..=G. Group 0 is the control group's.
    pub fn groups(self) -> impl DoubleEndedIterator<Item = GroupId> {
        (1..=self.get()).map(GroupId)
    }

    pub fn contains(self, group: GroupId) -> bool {
        (1..=self.get()).contains(&group.0)
    }

    pub fn group_of(self, partition: PartitionId) -> GroupId {
        GroupId(u32::from(partition.0) / self.partitions_per_group() + 1)
    }

    /// The partitions that a group carries, as a range of their numbers; `None` for a group that is not of this ring.
    pub fn partitions_of(self, group: GroupId) -> Option<RangeInclusive<u8>> {
        if !self.contains(group) {
            return None;
        }
        let first = (group.0 - 1) * self.partitions_per_group();
        let last = first + self.partitions_per_group() - 1;
        Some(first as u8..=last as u8)
    }
}

impl fmt::Display for GroupCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc16_is_xmodem() {
        for (text, crc) in [("", 0), ("123456789", 0x31C3), ("A", 0x58E5), ("foo", 0xAF96)] {
            assert_eq!(crc16(text.as_bytes()), crc, "{text:?}");
        }
        // Bit by bit, without the table.
        let slow = |bytes: &[u8]| {
            bytes.iter().fold(0u16, |crc, byte| {
                (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _| {
                    let shifted = crc << 1;
                    if crc & 0x8000 != 0 { shifted ^ 0x1021 } else { shifted }
                })
            })
        };
        let all: Vec<u8> = (0..=255).collect();
        assert!((0..all.len()).all(|n| crc16(&all[..n]) == slow(&all[..n])));
    }

    /// Slots as Redis Cluster gives them (`CLUSTER KEYSLOT`), and the examples of hash tags in its specification.
    #[test]
    fn slots_are_those_of_redis_cluster() {
        let cases = [("foo", 12182), ("bar", 5061), ("hello", 866), ("somekey", 11058), ("123456789", 12739)];
        for (key, slot) in cases {
            assert_eq!(slot_of(key.as_bytes()).get(), slot, "{key:?}");
        }
        let tags = [
            ("{user1000}.following", "user1000"),
            ("{user1000}.followers", "user1000"),
            ("foo{}{bar}", "foo{}{bar}"),
            ("foo{{bar}}zap", "{bar"),
            ("foo{bar}{zap}", "bar"),
            ("foo{hash_tag}", "hash_tag"),
            ("{", "{"),
            ("}{", "}{"),
            ("a}b{c}", "c"),
            ("{}", "{}"),
            ("{open", "{open"),
            ("", ""),
        ];
        for (key, tag) in tags {
            assert_eq!(hash_tag(key.as_bytes()), tag.as_bytes(), "{key:?}");
            assert_eq!(slot_of(key.as_bytes()).get(), crc16(tag.as_bytes()) & 0x3FFF, "{key:?}");
        }
        assert_eq!(slot_of(b"foo{hash_tag}").get(), 2515);
        assert_eq!(slot_of(b"{foo}.bar"), slot_of(b"foo"));
    }

    #[test]
    fn groups_split_the_partitions_and_partitions_the_slots() {
        let slots: Vec<_> = PartitionId::all()
            .flat_map(|p| (p.slots().0.get()..=p.slots().1.get()).map(move |s| (s, p)))
            .collect();
        assert_eq!(slots.len(), usize::from(SLOTS));
        for (i, (slot, partition)) in slots.into_iter().enumerate() {
            assert_eq!(usize::from(slot), i);
            assert_eq!(Slot::new(slot).unwrap().partition(), partition);
        }
        assert_eq!(Slot::new(SLOTS), None);
        for count in GroupCount::ALL {
            let split: Vec<u8> = count.groups().flat_map(|g| count.partitions_of(g).unwrap()).collect();
            assert_eq!(split, (0..=255).collect::<Vec<u8>>(), "{count} groups");
            for group in count.groups() {
                assert!(count.partitions_of(group).unwrap().all(|p| count.group_of(PartitionId(p)) == group));
            }
            assert_eq!(GroupCount::new(count.get()), Ok(count));
            assert!(!count.contains(GroupId::CONTROL) && !count.contains(GroupId(count.get() + 1)));
            assert_eq!(count.partitions_of(GroupId(count.get() + 1)), None);
        }
        for bad in [0, 1, 33, 255, 257, 512] {
            assert_eq!(GroupCount::new(bad), Err(RingError::GroupCount(bad)));
        }
    }

    /// A million keys of the kinds that people use. If slots were random the expectation of max/mean over 256 partitions of 3906
    /// keys would be about 1.045 (2.8 standard deviations of 1/sqrt(3906)).
    #[test]
    fn keys_spread_evenly_over_partitions() {
        const KEYS: u64 = 1_000_000;
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut counts = [0u64; PARTITIONS as usize];
        for i in 0..KEYS {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            let key = match i % 6 {
                0 => format!("user:{i}"),
                1 => format!("session:{random:016x}"),
                2 => format!("{{tenant-{}}}:cart:{i}", random % 200_000),
                3 => format!("cache:v2:/api/items/{}?page={}", random % 1_000_000, i % 7),
                4 => format!("img/sha256:{random:016x}{:016x}", random.rotate_left(29)),
                _ => format!("{}-{:04x}-{:04x}", i, random as u16, (random >> 16) as u16),
            };
            counts[usize::from(partition_of(key.as_bytes()).0)] += 1;
        }
        let (max, min) = (counts.iter().max().unwrap(), counts.iter().min().unwrap());
        let mean = KEYS as f64 / f64::from(PARTITIONS);
        let (over, under) = (*max as f64 / mean, *min as f64 / mean);
        println!("keys per partition, 1M keys: max/mean {over:.3}, min/mean {under:.3}");
        assert!(over < 1.10 && under > 0.90, "max/mean {over:.3}, min/mean {under:.3}");
    }
}
