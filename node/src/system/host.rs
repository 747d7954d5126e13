//! How busy this host is: the kernel's own figures, from `/proc` and the file systems.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::load::{HostProbe, HostSample};

/// The line of all processors is the first of `/proc/stat`, whose other lines are many on large hosts.
const STAT_BYTES: usize = 512;
/// The fields of that line: user, nice, system, idle, iowait, irq, softirq, steal. Time of guests is in the first two.
const STAT_FIELDS: usize = 8;
const IDLE: usize = 3;
const IOWAIT: usize = 4;

/// Time of all processors since the host was started, in ticks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CpuTimes {
    busy: u64,
    all: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub(super) struct ProcHost {
    data_dir: PathBuf,
    before: Mutex<Option<CpuTimes>>,
}

impl ProcHost {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned(), before: Mutex::new(None) }
    }
}

impl HostProbe for ProcHost {
    fn sample(&self, engine_root: Option<&Path>) -> io::Result<HostSample> {
        let now = cpu_times()?;
        let before = self.before.lock().replace(now);
        let (memory_bytes, memory_free_bytes) = parse_meminfo(&std::fs::read_to_string("/proc/meminfo")?)
            .ok_or_else(|| unreadable("/proc/meminfo"))?;
        let (disk_bytes, disk_free_bytes) = match engine_root.map(disk) {
            // The engine is on another host, or in a container of its own: what it tells of is not here.
            None | Some(Err(rustix::io::Errno::NOENT)) => disk(&self.data_dir)?,
            Some(Ok(disk)) => disk,
            // Nothing is known of it, and another disk's room is no answer.
            Some(Err(_)) => (0, 0),
        };
        Ok(HostSample {
            cpu_busy: busy_share(before, now),
            memory_bytes,
            memory_free_bytes,
            disk_bytes,
            disk_free_bytes,
        })
    }
}

/// Bytes of the disk that holds this path, and what of them is free.
fn disk(path: &Path) -> rustix::io::Result<(u64, u64)> {
    let disk = rustix::fs::statvfs(path)?;
    Ok((disk.f_blocks.saturating_mul(disk.f_frsize), disk.f_bavail.saturating_mul(disk.f_frsize)))
}

fn unreadable(path: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{path} is not as it should be"))
}

fn cpu_times() -> io::Result<CpuTimes> {
    let mut text = Vec::with_capacity(STAT_BYTES);
    File::open("/proc/stat")?.take(STAT_BYTES as u64).read_to_end(&mut text)?;
    parse_stat(&String::from_utf8_lossy(&text)).ok_or_else(|| unreadable("/proc/stat"))
}

/// From `/proc/stat` (proc_stat(5)). Waiting for a disk is being idle; time that the hypervisor gave to others is not.
fn parse_stat(text: &str) -> Option<CpuTimes> {
    let fields = text.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(STAT_FIELDS);
    let ticks: Vec<u64> = fields.map(|field| field.parse().ok()).collect::<Option<_>>()?;
    let all = ticks.iter().sum();
    let idle = ticks.get(IDLE)? + ticks.get(IOWAIT)?;
    Some(CpuTimes { busy: all - idle, all })
}

/// In per mille; since the start of the host, if nothing was read before.
fn busy_share(before: Option<CpuTimes>, now: CpuTimes) -> u16 {
    // Some kernels let single figures run backwards.
    let before = before.filter(|before| before.all < now.all).unwrap_or(CpuTimes { busy: 0, all: 0 });
    let (busy, all) = (now.busy.saturating_sub(before.busy), now.all - before.all);
    (u128::from(busy) * 1_000 / u128::from(all.max(1))).min(1_000) as u16
}

/// All memory, and what of it could be had, from `/proc/meminfo` (proc_meminfo(5)).
fn parse_meminfo(text: &str) -> Option<(u64, u64)> {
    let bytes = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1 << 10)
    };
    let (all, available) = (bytes("MemTotal")?, bytes("MemAvailable")?);
    Some((all, available.min(all)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::probe_conforms;

    #[test]
    fn this_host_conforms() {
        let folder = tempfile::tempdir().unwrap();
        let host = ProcHost::new(folder.path());
        probe_conforms(&host, folder.path());
        let proc = host.sample(Some(Path::new("/proc"))).unwrap();
        assert_eq!(proc.disk_bytes, 0, "it is the disk of the folder that is asked about");
        let gone = ProcHost::new(&folder.path().join("gone"));
        assert!(gone.sample(None).is_err());
    }

    #[test]
    fn processors_are_busy_unless_they_wait() {
        let stat = |line: &str| parse_stat(&format!("{line}\ncpu0 1 2 3"));
        let times = |busy, all| Some(CpuTimes { busy, all });
        assert_eq!(stat("cpu  100 20 30 800 40 1 2 7 50 0"), times(160, 1_000));
        assert_eq!(stat("cpu  1 1 1 1 1"), times(3, 5), "older kernels tell less");
        for bad in ["", "cpu", "cpu0 1 2 3 4 5 6 7 8", "cpu  1 2 3", "cpu  1 2 x 4 5 6 7 8"] {
            assert_eq!(stat(bad), None, "{bad:?}");
        }
        let at = |busy, all| CpuTimes { busy, all };
        assert_eq!(busy_share(Some(at(100, 1_000)), at(175, 1_100)), 750);
        assert_eq!(busy_share(None, at(100, 1_000)), 100);
        assert_eq!(busy_share(Some(at(100, 1_000)), at(100, 1_000)), 100, "no time has passed");
        assert_eq!(busy_share(Some(at(300, 1_000)), at(200, 1_100)), 0, "it ran backwards");
    }

    #[test]
    fn memory_that_is_used_for_files_can_be_had() {
        let text = "MemTotal:       16384 kB\nMemFree:          100 kB\nMemAvailable:   12288 kB\n";
        assert_eq!(parse_meminfo(text), Some((16 << 20, 12 << 20)));
        assert_eq!(parse_meminfo("MemTotal: 16 kB\nMemAvailable: 17 kB\n"), Some((16 << 10, 16 << 10)));
        for bad in ["", "MemTotal: 16 kB\n", "MemTotal: 16\nMemAvailable: 1\n", "MemTotal: x kB\n"] {
            assert_eq!(parse_meminfo(bad), None, "{bad:?}");
        }
    }
}
