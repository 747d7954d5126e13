//! What the kernel says of a process: CPU time, memory, whether it is there.

use std::time::Duration;

/// CPU time a process has used, user and system, over all its threads.
pub fn cpu_time(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    let ticks = cpu_ticks(&stat).unwrap_or_else(|| panic!("unreadable /proc/{pid}/stat: {stat}"));
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> u64 {
    let status = read(pid, "status");
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .and_then(|kib| kib.trim().parse::<u64>().ok())
        .map(|kib| kib * 1024)
        .unwrap_or_else(|| panic!("no VmRSS in /proc/{pid}/status"))
}

/// Whether every thread of a process stands still after SIGSTOP. The signal is only sent when `kill` returns: a thread that runs on another
/// processor goes on until it is told.
pub fn is_stopped(pid: u32) -> bool {
    let tasks = format!("/proc/{pid}/task");
    let tasks = std::fs::read_dir(&tasks).unwrap_or_else(|error| panic!("cannot read {tasks}: {error}"));
    // A thread that ends meanwhile stands still, too.
    tasks.flatten().all(|task| match std::fs::read_to_string(task.path().join("stat")) {
        Ok(stat) => state(&stat).is_some_and(|state| "TtZX".contains(state)),
        Err(_) => true,
    })
}

/// UDP datagrams that this machine has sent since it started: every node's messages, if nothing else sends.
pub fn datagrams_sent() -> u64 {
    let snmp = std::fs::read_to_string("/proc/net/snmp").expect("Linux counts datagrams");
    sent(&snmp).unwrap_or_else(|| panic!("no Udp OutDatagrams in /proc/net/snmp: {snmp}"))
}

/// `OutDatagrams` of the two lines that begin with `Udp:`, names and values.
fn sent(snmp: &str) -> Option<u64> {
    let mut udp = snmp.lines().filter_map(|line| line.strip_prefix("Udp:"));
    let (names, values) = (udp.next()?, udp.next()?);
    let column = names.split_ascii_whitespace().position(|name| name == "OutDatagrams")?;
    values.split_ascii_whitespace().nth(column)?.parse().ok()
}

/// Field 3 of `/proc/pid/stat`.
fn state(stat: &str) -> Option<char> {
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}

/// Fields 14 and 15 of `/proc/pid/stat` (proc(5)). The name, field 2, may hold spaces and parentheses.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

fn read(pid: u32, file: &str) -> String {
    let path = format!("/proc/{pid}/{file}");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::eventually;

    #[test]
    fn ticks_are_found_after_an_awkward_name() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 17 25 0 0 20 0 1 0 100 1 1";
        assert_eq!(cpu_ticks(stat), Some(42));
        assert_eq!(state(stat), Some('S'));
    }

    #[test]
    fn a_process_stands_still_when_all_its_threads_do() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(!is_stopped(child.id()));
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
        eventually("it to stand still", Duration::from_secs(10), || is_stopped(child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn datagrams_are_counted() {
        let snmp = "Udp: InDatagrams NoPorts InErrors OutDatagrams\nUdp: 1 2 3 45\nUdpLite: InDatagrams\nUdpLite: 0\n";
        assert_eq!(sent(snmp), Some(45));
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = datagrams_sent();
        socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
        assert!(datagrams_sent() > before);
    }

    #[test]
    fn this_process_has_memory_and_used_time() {
        let pid = std::process::id();
        assert!(resident_bytes(pid) > 100 * 1024);
        let before = cpu_time(pid);
        let mut x = 1_u64;
        while cpu_time(pid) == before {
            x = std::hint::black_box(x.wrapping_mul(31));
        }
    }
}
