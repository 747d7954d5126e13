//! How nodes that could all do a piece of work compare, in whole numbers.
//!
//! A node's *burden* is what it would have to do with the piece, relative to what it can carry: (parts under way + 1) / (weight x free share). The
//! free share is that of processors or memory, whichever is less. That of processors, which changes by the second, is never taken for less than a
//! quarter: a busy host still counts. One without memory does not. What speaks
//! against a node beside that (it lacks the image while another has it; its engine is slow; it is not heard of just now) counts as some more parts
//! under way, so that it weighs little on a large or free host, and bends no shares where it is true of all alike. The piece goes to whoever has
//! the least burden; of those that are alike to whoever has more left, then as the lot falls.

use std::cmp::Ordering;

use super::super::load::WHOLE;
use super::Candidate;

/// What counts as free of the processors at least, and of a node that does not tell, in per mille: one that hangs must not look better than one that
/// is busy. And of the memory.
const CPU_FREE_MIN: u32 = WHOLE / 4;
const FREE_UNKNOWN: u32 = CPU_FREE_MIN;
const MEMORY_FREE_MIN: u32 = WHOLE / 100;
/// In halves of a part: an image that another has and this one does not is worth a part and a half.
const IMAGE_AWAY: u64 = 3;
const ENGINE_SLOW: u64 = 2;
const ENGINE_VERY_SLOW: u64 = 8;
const NOT_HEARD_OF: u64 = 8;
/// From when on an engine is slow.
const SLOW_MS: u32 = 500;
const VERY_SLOW_MS: u32 = 2_000;

/// A number drawn by lot: a hash of these parts, the same for the same ones.
pub fn lot(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    let mut first = [0; 8];
    hasher.finalize_xof().fill(&mut first);
    u64::from_le_bytes(first)
}

/// A candidate that is able, with what does not change while work is given out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Able<'a> {
    pub(super) candidate: &'a Candidate,
    pub(super) is_preferred: bool,
    /// Weight x free share.
    capacity: u64,
    /// Between those that are alike otherwise.
    left: u32,
    health: u64,
    /// Between those that are alike in this, too.
    lot: u64,
}

impl<'a> Able<'a> {
    pub(super) fn new(candidate: &'a Candidate, preferred_zone: Option<&String>) -> Self {
        let load = candidate.load.as_ref();
        let free = load.map_or(FREE_UNKNOWN, |load| {
            load.cpu_free().max(CPU_FREE_MIN).min(load.memory_free().max(MEMORY_FREE_MIN))
        });
        let slow = match load.and_then(|load| load.engine_ms).unwrap_or(0) {
            VERY_SLOW_MS.. => ENGINE_VERY_SLOW,
            SLOW_MS.. => ENGINE_SLOW,
            _ => 0,
        };
        Self {
            candidate,
            is_preferred: preferred_zone.is_some() && candidate.zone.as_ref() == preferred_zone,
            capacity: u64::from(candidate.weight.max(1)) * u64::from(free),
            left: load.map_or(WHOLE, |load| load.cpu_free() + load.memory_free()),
            health: slow + if candidate.is_suspect { NOT_HEARD_OF } else { 0 },
            lot: candidate.node.0,
        }
    }

    /// A hash of the operation's lot and of the node.
    pub(super) fn draw(&mut self, lot: u64) {
        self.lot = self::lot(&[&lot.to_le_bytes(), &self.candidate.node.0.to_le_bytes()]);
    }

    /// What speaks against it for this piece of work, in halves of a part.
    pub(super) fn against(&self, work: u32) -> u64 {
        self.health + if self.has(work) == Some(false) { IMAGE_AWAY } else { 0 }
    }

    /// The same, for one that is to do all of the work.
    pub(super) fn against_all(&self) -> u64 {
        let away = self.candidate.has.iter().filter(|has| !**has).count();
        self.health + IMAGE_AWAY * away as u64
    }

    /// Whether the image of this piece of work is there; `None` if it has none.
    fn has(&self, work: u32) -> Option<bool> {
        match &self.candidate.has[..] {
            [of_all] => Some(*of_all),
            of_each => of_each.get(work as usize).copied(),
        }
    }

    /// What speaks for it and against it, for people.
    pub(super) fn why(&self, open: u32, work: u32) -> String {
        let image = if self.has(work) == Some(true) { ", has the image" } else { "" };
        format!("{}{image}", self.factors(open))
    }

    pub(super) fn why_all(&self, open: u32) -> String {
        let has = &self.candidate.has;
        let image = match (has.iter().filter(|has| **has).count(), has.len()) {
            (0, _) => String::new(),
            (1, 1) => ", has the image".to_owned(),
            (there, all) if there == all => ", has the images".to_owned(),
            (there, all) => format!(", has {there} of {all} images"),
        };
        format!("{}{image}", self.factors(open))
    }

    fn factors(&self, open: u32) -> String {
        let mut text = format!("weight {}, {open} under way", self.candidate.weight);
        if let Some(load) = &self.candidate.load {
            text.push_str(&format!(", {} % free", load.free() * 100 / WHOLE));
            if let Some(ms) = load.engine_ms.filter(|ms| *ms >= SLOW_MS) {
                text.push_str(&format!(", its engine takes {ms} ms to answer"));
            }
        }
        if self.candidate.is_suspect {
            text.push_str(", not heard of just now");
        }
        text
    }

    /// `, zone a`; empty if it is in none.
    pub(super) fn in_zone(&self) -> String {
        let preferred = if self.is_preferred { "preferred " } else { "" };
        self.candidate.zone.as_ref().map_or(String::new(), |zone| format!(", {preferred}zone {zone}"))
    }
}

/// One that might get a piece of work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bid<'a> {
    pub(super) able: &'a Able<'a>,
    /// What it has to do already.
    pub(super) open: u32,
    /// What speaks against it that is not true of all.
    pub(super) against: u64,
}

impl Bid<'_> {
    /// By burden; see the module's docs.
    pub(super) fn cmp(&self, other: &Self) -> Ordering {
        let parts = |bid: &Self| u128::from(2 * (u64::from(bid.open) + 1) + bid.against);
        let (mine, theirs) = (&self.able, &other.able);
        (parts(self) * u128::from(theirs.capacity))
            .cmp(&(parts(other) * u128::from(mine.capacity)))
            .then(theirs.left.cmp(&mine.left))
            .then(mine.lot.cmp(&theirs.lot))
            .then(mine.candidate.node.cmp(&theirs.candidate.node))
    }
}

/// Takes off what is true of all.
pub(super) fn beyond_the_least(against: impl Iterator<Item = u64>) -> Vec<u64> {
    let mut against: Vec<u64> = against.collect();
    let least = against.iter().copied().min().unwrap_or(0);
    against.iter_mut().for_each(|of| *of -= least);
    against
}
