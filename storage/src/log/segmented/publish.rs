//! What a batch changes in the shared state, and what the log itself has to say in one.
//!
//! All of it runs on the committer's thread, under the lock; nothing here touches the disk.

use std::task::Waker;

use super::super::OnDurable;
use super::bloom::Bloom;
use super::record::{Item, Kind, Record};
use super::shared::{Shared, State};

/// A submit whose last record is in the batch.
pub(super) struct Finished {
    pub(super) number: u64,
    pub(super) bytes: usize,
    pub(super) on_durable: OnDurable,
}

impl Shared {
    /// The segments that a fresh one follows.
    pub(super) fn live_epochs(&self, fresh: u32) -> Vec<u32> {
        self.state.lock().segments.keys().copied().filter(|epoch| *epoch != fresh).collect()
    }

    pub(super) fn unrecorded_loss(&self) -> Option<Bloom> {
        self.state.lock().lost.as_ref().filter(|lost| !lost.recorded).map(|lost| lost.streams)
    }

    /// Whether the log has records of its own to write.
    pub(super) fn has_log_records(&self) -> bool {
        let state = self.state.lock();
        let lost = state.lost.as_ref().is_some_and(|lost| !lost.recorded);
        lost || !state.work.reclaims.is_empty() || !state.work.moves.is_empty()
    }

    /// Offers the log's own records to `push` until it refuses one, or `max_moved_bytes` were moved.
    pub(super) fn take_log_records(&self, max_moved_bytes: usize, mut push: impl FnMut(&Record) -> bool) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        while let Some(epoch) = state.work.reclaims.front() {
            if !push(&Record::Reclaim { epoch: *epoch }) {
                return;
            }
            state.work.reclaims.pop_front();
        }
        let mut moved = 0;
        while moved < max_moved_bytes
            && let Some((item, payload)) = state.work.moves.front()
        {
            // The index is as it will be when this batch begins: nothing else is being written.
            if let Some(record) = state.index.rewritten(item, payload.clone()) {
                if !push(&record) {
                    return;
                }
                moved += record.encoded_len();
            }
            state.work.moves.pop_front();
        }
    }

    /// Counts submits as done. Returns who may find room now.
    pub(super) fn settle(&self, finished: &[Finished]) -> Vec<Waker> {
        let mut state = self.state.lock();
        state.settle(finished);
        std::mem::take(&mut state.queue.wakers)
    }

    /// Brings the index up to date with a batch that became durable.
    pub(super) fn publish(&self, items: &[Item], finished: &[Finished]) -> Vec<Waker> {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut freed = false;
        for item in items {
            state.index.apply(item);
            match item.kind {
                Kind::Reclaim => state.drop_segment(item.index as u32),
                Kind::Lost => state.lost.iter_mut().for_each(|lost| lost.recorded = true),
                Kind::Entry | Kind::Committed | Kind::Manifest => continue,
                Kind::Moved | Kind::Bounds | Kind::Vote | Kind::Tombstone => {}
            }
            freed = true;
        }
        state.settle(finished);
        state.evict(self.config.cache_bytes);
        if freed {
            state.work.wanted = true;
        }
        let wakers = std::mem::take(&mut state.queue.wakers);
        drop(guard);
        if freed {
            self.want_maintenance();
        }
        wakers
    }
}

impl State {
    fn settle(&mut self, finished: &[Finished]) {
        for submit in finished {
            assert_eq!(submit.number, self.queue.durable + 1, "submits are done in order");
            self.queue.durable = submit.number;
            self.queue.bytes -= submit.bytes;
            self.queue.taken_at_ms.pop_front();
        }
    }

    /// A segment was dropped for good; its file may be used anew.
    fn drop_segment(&mut self, epoch: u32) {
        if let Some(dropped) = self.segments.remove(&epoch) {
            self.index.remove_segment(epoch);
            self.work.free.push(dropped.segment);
        }
    }
}
