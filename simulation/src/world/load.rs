//! How busy a simulated host is: as chance has it, by the seed.
//!
//! What a node is told here sways its choices and nothing else; so every run has hosts that are busy and idle, full and empty.

use std::io;
use std::path::Path;

use longshore_node::load::{HostProbe, HostSample};
use parking_lot::Mutex;
use rand::RngExt;
use rand::rngs::SmallRng;

/// Every simulated host has so much, of which something is free.
const MEMORY_BYTES: u64 = 8 << 30;
const DISK_BYTES: u64 = 64 << 30;

/// A host as one process of its node sees it.
#[derive(Debug)]
pub(super) struct SimHost(Mutex<SmallRng>);

impl SimHost {
    /// `random`: a stream of its own.
    pub(super) fn new(random: SmallRng) -> Self {
        Self(Mutex::new(random))
    }
}

impl HostProbe for SimHost {
    fn sample(&self, _: Option<&Path>) -> io::Result<HostSample> {
        let mut random = self.0.lock();
        Ok(HostSample {
            cpu_busy: random.random_range(0..=1_000),
            memory_bytes: MEMORY_BYTES,
            memory_free_bytes: random.random_range(0..=MEMORY_BYTES),
            disk_bytes: DISK_BYTES,
            disk_free_bytes: random.random_range(0..=DISK_BYTES),
        })
    }
}

#[cfg(test)]
mod tests {
    use longshore_node::load::probe_conforms;

    use super::*;
    use crate::random;

    #[test]
    fn it_conforms_and_follows_the_seed() {
        probe_conforms(&SimHost::new(random::stream(1, "load")), Path::new("/"));
        let samples = |seed| {
            let host = SimHost::new(random::stream(seed, "load"));
            (0..20).map(|_| host.sample(None).unwrap().cpu_busy).collect::<Vec<u16>>()
        };
        assert_eq!(samples(7), samples(7));
        assert_ne!(samples(7), samples(8));
    }
}
