//! The port through which a node asks its host how busy it is.

use std::io;
use std::path::Path;

/// A host at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostSample {
    /// Share of the time since the call before for which all processors together were busy, in per mille; at the first call, since the host was
    /// started.
    pub cpu_busy: u16,
    pub memory_bytes: u64,
    /// What could be had without swapping.
    pub memory_free_bytes: u64,
    pub disk_bytes: u64,
    /// What any user can still write.
    pub disk_free_bytes: u64,
}

/// Asks the host. Calls block, for as long as a disk hangs.
pub trait HostProbe: Send + Sync {
    /// `engine_root`: the folder in which the engine keeps its images, by the engine's word. The disk is the one with that folder if it is there on
    /// this host, else the one with the node's data.
    fn sample(&self, engine_root: Option<&Path>) -> io::Result<HostSample>;
}

/// A host that is always the same.
#[derive(Debug, Clone, Copy)]
pub struct FixedHost(pub HostSample);

impl FixedHost {
    /// A quarter busy, with half of 8 GiB of memory and half of 64 GiB of disk free.
    pub fn half_free() -> Self {
        Self(HostSample {
            cpu_busy: 250,
            memory_bytes: 8 << 30,
            memory_free_bytes: 4 << 30,
            disk_bytes: 64 << 30,
            disk_free_bytes: 32 << 30,
        })
    }
}

impl HostProbe for FixedHost {
    fn sample(&self, _: Option<&Path>) -> io::Result<HostSample> {
        Ok(self.0)
    }
}

/// What every probe keeps. `folder`: one that is there; panics where it is not kept.
pub fn probe_conforms(probe: &dyn HostProbe, folder: &Path) {
    let missing = folder.join("no-such-folder");
    for root in [None, Some(folder), Some(missing.as_path()), None] {
        let sample = probe.sample(root).expect("a host can be asked");
        let HostSample { cpu_busy, memory_bytes, memory_free_bytes, disk_bytes, disk_free_bytes } = sample;
        assert!(cpu_busy <= 1_000, "{sample:?}");
        assert!(memory_bytes > 0 && memory_free_bytes <= memory_bytes, "{sample:?}");
        assert!(disk_bytes > 0 && disk_free_bytes <= disk_bytes, "{sample:?}");
    }
    let total = |root| probe.sample(root).expect("a host can be asked").memory_bytes;
    assert_eq!(total(None), total(Some(folder)), "a host has the memory that it has");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fixed_host_conforms() {
        probe_conforms(&FixedHost::half_free(), Path::new("/"));
    }
}
