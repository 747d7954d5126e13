//! What a node has left and is busy with, and when a change of that is worth saying.
//!
//! Pure. A load is old when it is written down: it must never be part of a replicated state, and decides nothing but preferences and whether a disk
//! has room.

use bincode::{Decode, Encode};

/// All of something, in per mille.
pub const WHOLE: u32 = 1_000;
/// Share of the processors by which their use must have changed to be worth saying, in per mille.
const CPU_NEWS: u32 = 100;
/// Parts of all memory, and of the whole disk, of which one must have come or gone.
const MEMORY_NEWS: u64 = 20;
const DISK_NEWS: u64 = 50;
/// By how much an engine must have become slower or quicker, beside the factor of two.
const ENGINE_NEWS_MS: u32 = 100;

/// No host has more of it: whoever says so is mistaken.
pub(super) const MEMORY_BYTES_MAX: u64 = 1 << 50;
const DISK_BYTES_MAX: u64 = 1 << 60;
/// A node has few attempts under way at a time.
const RUNNING_MAX: u32 = 4_096;
const ENGINE_MS_MAX: u32 = 600_000;

/// A node at one moment, as it tells itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Load {
    /// Share of the time for which all processors together were busy lately, in per mille.
    pub cpu_busy: u16,
    /// Of the host, and what of it could be had without swapping.
    pub memory_bytes: u64,
    pub memory_free_bytes: u64,
    /// Of the disk that holds the engine's images; nothing of nothing if that is not known.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    /// Parts of operations that it is at.
    pub running: u32,
    /// How long its engine takes for a short answer; `None` if it gives none, or there is no engine.
    pub engine_ms: Option<u32>,
}

impl Load {
    /// With nothing in it that can not be, whoever told it: one node that is out of its mind must not bend what is decided about the others.
    pub fn bounded(self) -> Self {
        let memory_bytes = self.memory_bytes.min(MEMORY_BYTES_MAX);
        let disk_bytes = self.disk_bytes.min(DISK_BYTES_MAX);
        Self {
            cpu_busy: self.cpu_busy.min(WHOLE as u16),
            memory_bytes,
            memory_free_bytes: self.memory_free_bytes.min(memory_bytes),
            disk_bytes,
            disk_free_bytes: self.disk_free_bytes.min(disk_bytes),
            running: self.running.min(RUNNING_MAX),
            engine_ms: self.engine_ms.map(|ms| ms.min(ENGINE_MS_MAX)),
        }
    }

    /// Share of the processors that is free, in per mille.
    pub fn cpu_free(&self) -> u32 {
        WHOLE.saturating_sub(u32::from(self.cpu_busy))
    }

    /// Share of the memory that is free, in per mille. All of it if the host does not say how much it has.
    pub fn memory_free(&self) -> u32 {
        let whole = u128::from(WHOLE);
        let share = u128::from(self.memory_free_bytes) * whole / u128::from(self.memory_bytes).max(1);
        if self.memory_bytes == 0 { WHOLE } else { share.min(whole) as u32 }
    }

    /// Bytes that are free on the disk; `None` if that is not known.
    pub fn disk_free(&self) -> Option<u64> {
        (self.disk_bytes > 0).then_some(self.disk_free_bytes)
    }

    /// What is free of whichever of the two there is less, in per mille.
    pub fn free(&self) -> u32 {
        self.cpu_free().min(self.memory_free())
    }
}

/// Whether a load is another than the one that was said.
pub fn is_news(said: &Load, now: &Load) -> bool {
    let slice = |whole: u64, parts: u64| (whole / parts).max(1);
    let engine = match (said.engine_ms, now.engine_ms) {
        (Some(said), Some(now)) => said.abs_diff(now) >= ENGINE_NEWS_MS && said.max(now) / 2 >= said.min(now),
        (said, now) => said.is_some() != now.is_some(),
    };
    engine
        || said.running != now.running
        || (said.memory_bytes, said.disk_bytes) != (now.memory_bytes, now.disk_bytes)
        || u32::from(said.cpu_busy.abs_diff(now.cpu_busy)) >= CPU_NEWS
        || said.memory_free_bytes.abs_diff(now.memory_free_bytes) >= slice(now.memory_bytes, MEMORY_NEWS)
        || said.disk_free_bytes.abs_diff(now.disk_free_bytes) >= slice(now.disk_bytes, DISK_NEWS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const LOAD: Load = Load {
        cpu_busy: 250,
        memory_bytes: 20 * GIB,
        memory_free_bytes: 10 * GIB,
        disk_bytes: 100 * GIB,
        disk_free_bytes: 50 * GIB,
        running: 2,
        engine_ms: Some(20),
    };

    #[test]
    fn what_is_free_is_the_scarcer_of_processors_and_memory() {
        assert_eq!((LOAD.cpu_free(), LOAD.memory_free(), LOAD.free()), (750, 500, 500));
        assert_eq!((LOAD.disk_free(), Load { disk_bytes: 0, ..LOAD }.disk_free()), (Some(50 * GIB), None));
        assert_eq!(Load { cpu_busy: 990, ..LOAD }.free(), 10);
        assert_eq!(Load { cpu_busy: u16::MAX, ..LOAD }.free(), 0);
        let nonsense = Load { memory_free_bytes: u64::MAX, ..LOAD };
        assert_eq!(nonsense.memory_free(), WHOLE);
        assert_eq!(Load { memory_bytes: 0, memory_free_bytes: 0, ..LOAD }.free(), 750, "it is not known");
    }

    #[test]
    fn nothing_is_more_than_there_can_be() {
        assert_eq!(LOAD.bounded(), LOAD);
        let most = Load {
            cpu_busy: u16::MAX,
            memory_bytes: u64::MAX,
            memory_free_bytes: u64::MAX,
            disk_bytes: u64::MAX,
            disk_free_bytes: u64::MAX,
            running: u32::MAX,
            engine_ms: Some(u32::MAX),
        };
        let bounded = most.bounded();
        assert_eq!(
            (bounded.cpu_busy, bounded.running, bounded.engine_ms),
            (1_000, RUNNING_MAX, Some(ENGINE_MS_MAX))
        );
        assert_eq!((bounded.memory_bytes, bounded.memory_free_bytes), (MEMORY_BYTES_MAX, MEMORY_BYTES_MAX));
        assert_eq!((bounded.disk_bytes, bounded.disk_free_bytes), (DISK_BYTES_MAX, DISK_BYTES_MAX));
        let more_than_all =
            Load { memory_free_bytes: 99 * GIB, disk_free_bytes: 999 * GIB, ..LOAD }.bounded();
        assert_eq!((more_than_all.memory_free(), more_than_all.disk_free()), (WHOLE, Some(100 * GIB)));
        let nothing = Load { memory_bytes: 0, disk_bytes: 0, engine_ms: None, ..LOAD }.bounded();
        assert_eq!((nothing.memory_free_bytes, nothing.disk_free(), nothing.engine_ms), (0, None, None));
    }

    #[test]
    fn only_a_change_that_matters_is_news() {
        let cases = [
            (LOAD, false),
            (Load { cpu_busy: 349, ..LOAD }, false),
            (Load { cpu_busy: 350, ..LOAD }, true),
            (Load { cpu_busy: 150, ..LOAD }, true),
            (Load { memory_free_bytes: 11 * GIB - 1, ..LOAD }, false),
            (Load { memory_free_bytes: 11 * GIB, ..LOAD }, true),
            (Load { disk_free_bytes: 48 * GIB + 1, ..LOAD }, false),
            (Load { disk_free_bytes: 48 * GIB, ..LOAD }, true),
            (Load { disk_bytes: 101 * GIB, ..LOAD }, true),
            (Load { running: 3, ..LOAD }, true),
            (Load { engine_ms: Some(110), ..LOAD }, false),
            (Load { engine_ms: Some(120), ..LOAD }, true),
            (Load { engine_ms: None, ..LOAD }, true),
        ];
        for (now, news) in cases {
            assert_eq!(is_news(&LOAD, &now), news, "{now:?}");
            assert_eq!(is_news(&now, &LOAD), news, "and back: {now:?}");
        }
        let slow = Load { engine_ms: Some(1_000), ..LOAD };
        assert!(!is_news(&slow, &Load { engine_ms: Some(1_900), ..LOAD }), "not twice as long");
        let none = Load { memory_bytes: 0, memory_free_bytes: 0, disk_bytes: 0, disk_free_bytes: 0, ..LOAD };
        assert!(!is_news(&none, &none));
    }
}
