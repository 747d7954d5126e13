//! Keeps requests of one connection from being delivered after those of the next.
//!
//! When a peer connects anew, requests of the old connection may still be on their way through this node's tasks. What a
//! lane promises (arrival in the order of sending) then rests on this. Pure but for its lock.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

/// Lets the requests of one link through, on one stream, and none of an older link after those of a newer one.
#[derive(Default)]
pub(super) struct Gate {
    /// Generation of the link whose requests may pass; only grows.
    generation: AtomicU64,
    /// Held while a request is handed over.
    busy: Mutex<()>,
}

impl Gate {
    /// Waits for what is being handed over, then lets only links of this generation through.
    pub(super) fn turn_to(&self, generation: u64) {
        let _busy = self.busy.lock();
        self.generation.fetch_max(generation, Ordering::Relaxed);
    }

    /// Lets nothing more through. Waits for nothing, so that handlers may cause it.
    pub(super) fn shut(&self) {
        self.generation.store(u64::MAX, Ordering::Relaxed);
    }

    /// Runs `hand_over` if links of this generation are let through; says whether it did.
    pub(super) fn pass(&self, generation: u64, hand_over: impl FnOnce()) -> bool {
        let _busy = self.busy.lock();
        let open = self.generation.load(Ordering::Relaxed) == generation;
        if open {
            hand_over();
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_lets_no_older_link_through_again() {
        let gate = Gate::default();
        gate.turn_to(3);
        assert!(gate.pass(3, || ()) && !gate.pass(2, || panic!("an older link")));
        gate.turn_to(2);
        assert!(gate.pass(3, || ()));
        // A handler may cause its own gate to be shut.
        assert!(gate.pass(3, || gate.shut()));
        gate.turn_to(4);
        assert!(!gate.pass(3, || ()) && !gate.pass(4, || panic!("of a node that is gone")));
    }
}
