//! Room for blobs: what may be dropped to make some, and what of the disk is left to others.
//!
//! Must never: drop what is pinned or being read, or let a blob take the last of the disk, which the log needs.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{BlobDigest, BlobError, BlobResult, BlobStore, Known, State};
use crate::disk::DiskSpace;

/// The usual floor: a part of the disk, within bounds. What the log, snapshots and the host itself need does not grow with the disk for ever.
const FLOOR_PART: u64 = 20;
const FLOOR_BYTES_MIN: u64 = 1 << 30;
const FLOOR_BYTES_MAX: u64 = 16 << 30;

/// How much of the disk stays free, whatever blobs would like to take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFloor {
    /// 5 % of the disk, but at least 1 GiB and at most 16 GiB.
    Usual,
    Bytes(u64),
}

impl DiskFloor {
    /// In bytes, of such a disk.
    pub fn of(self, space: DiskSpace) -> u64 {
        match self {
            Self::Usual => (space.bytes / FLOOR_PART).clamp(FLOOR_BYTES_MIN, FLOOR_BYTES_MAX),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// Which blobs something still names, as whoever knows has said. Nothing is dropped before that has been said once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BlobNeeds {
    /// When it was asked for, by the caller's clock. Blobs that were used since, or [claimed](BlobStore::claim) within
    /// [`super::BlobLimits::settle`] before, are not judged by it: what is to name them may be on its way.
    pub as_of: Duration,
    /// Are never dropped.
    pub pinned: BTreeSet<BlobDigest>,
    /// Are dropped only to make room, and after all others: they can be had again.
    pub wanted: BTreeSet<BlobDigest>,
}

/// What a blob that is being written takes, and leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlobRoom {
    /// How long it will be, if that is known: room for all of it is taken before the first byte.
    pub bytes: Option<u64>,
    /// Room that must be left for others, so that what is pinned never takes all there is.
    pub spare_bytes: u64,
    /// It is [claimed](BlobStore::claim) when it is there: by whoever sends it.
    pub is_claimed: bool,
}

impl State {
    /// Whether what is said to be needed is all that may name it.
    fn is_judged(&self, known: &Known, settle: Duration) -> bool {
        self.needs.as_ref().is_some_and(|needs| {
            known.used <= needs.as_of && known.claimed.is_none_or(|at| at + settle <= needs.as_of)
        })
    }

    fn is_pinned(&self, digest: &BlobDigest) -> bool {
        self.needs.as_ref().is_some_and(|needs| needs.pinned.contains(digest))
    }

    fn is_wanted(&self, digest: &BlobDigest) -> bool {
        self.needs.as_ref().is_some_and(|needs| needs.wanted.contains(digest))
    }

    /// What may go, first what is missed least.
    fn droppable(&self, settle: Duration) -> Vec<(BlobDigest, u64)> {
        let free = self.known.iter().filter(|(digest, known)| {
            !known.is_read() && self.is_judged(known, settle) && !self.is_pinned(digest)
        });
        let mut free: Vec<_> = free
            .map(|(digest, known)| ((self.is_wanted(digest), known.used, *digest), known.bytes))
            .collect();
        free.sort_unstable();
        free.into_iter().map(|((_, _, digest), bytes)| (digest, bytes)).collect()
    }

    /// Of what is pinned, or may be once more is known.
    fn held_bytes(&self, settle: Duration) -> u64 {
        let held = self
            .known
            .iter()
            .filter(|(digest, known)| self.is_pinned(digest) || !self.is_judged(known, settle));
        held.map(|(_, known)| known.bytes).sum()
    }
}

impl BlobStore {
    /// Says what is still needed, in place of what was said before.
    pub fn set_needs(&self, needs: BlobNeeds) {
        self.state.lock().needs = Some(needs);
    }

    /// Whether [`Self::sweep`] would drop something, for all that this store knows by itself.
    pub fn has_old(&self, now: Duration) -> bool {
        self.state.lock().known.values().any(|known| self.is_old(known, now))
    }

    fn is_old(&self, known: &Known, now: Duration) -> bool {
        !known.is_read() && now >= known.used + self.limits.keep
    }

    /// Drops those that nobody has used for [`super::BlobLimits::keep`] and that nothing names. How many.
    pub fn sweep(&self, now: Duration) -> BlobResult<usize> {
        let old: Vec<BlobDigest> = {
            let state = self.state.lock();
            let old = state.known.iter().filter(|(_, known)| self.is_old(known, now));
            old.map(|(digest, _)| *digest).collect()
        };
        let mut dropped = 0;
        for digest in old {
            // Somebody may have begun to read it since.
            let _turn = self.naming.lock();
            let mut state = self.state.lock();
            let Some(known) = state.known.get(&digest).filter(|known| self.is_old(known, now)) else {
                continue;
            };
            if state.is_pinned(&digest) || state.is_wanted(&digest) {
                // It is kept as long again once nothing names it.
                if let Some(known) = state.known.get_mut(&digest) {
                    known.used = now;
                }
            } else if state.is_judged(known, self.limits.settle) {
                self.remove_locked(&mut state, digest)?;
                dropped += 1;
            }
        }
        Ok(dropped)
    }

    /// Makes room for so many more bytes of a blob that is being written, and takes it. Drops nothing if that is not enough.
    pub(super) fn reserve(&self, bytes: u64, spare_bytes: u64) -> BlobResult<()> {
        let limit = self.limits.all_bytes;
        let _turn = self.naming.lock();
        let mut state = self.state.lock();
        if state.held_bytes(self.limits.settle) + state.reserved + bytes + spare_bytes > limit {
            return Err(BlobError::Full { limit });
        }
        let space = self.disk.space().map_err(|error| BlobError::io("asking for free room", error))?;
        let floor = self.limits.floor.of(space);
        let over = (state.bytes() + bytes).saturating_sub(limit);
        // What others have taken room for is not on the disk yet.
        let short = (floor + state.unwritten + bytes).saturating_sub(space.free_bytes);
        let (mut gain, mut going) = (0, Vec::new());
        for (digest, length) in state.droppable(self.limits.settle) {
            if gain >= over.max(short) {
                break;
            }
            gain += length;
            going.push(digest);
        }
        if gain < over {
            return Err(BlobError::Full { limit });
        }
        if gain < short {
            return Err(BlobError::NoSpace { free: space.free_bytes, floor });
        }
        for digest in going {
            self.remove_locked(&mut state, digest)?;
        }
        state.reserved += bytes;
        state.unwritten += bytes;
        Ok(())
    }
}
