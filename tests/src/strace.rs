//! Reads what `strace -f -ttt -T -y` wrote, and tells when bytes became durable and when they were sent.
//!
//! Pure: text in, facts out. Times are microseconds since the Unix epoch, from the one clock of the machine, so that the traces of
//! several processes can be compared.

use std::collections::BTreeMap;

/// The options that give what this module reads. `-D` leaves the process id to the traced program; system calls that are
/// not looked at cost nothing thanks to the filter in the kernel; strings are longer than what one small change writes, and
/// short enough that segments filled with zeroes do not drown the rest.
pub const OPTIONS: &[&str] = &[
    "-f",
    "-D",
    "-ttt",
    "-T",
    "-y",
    "-s",
    "16384",
    "--seccomp-bpf",
    "-e",
    "trace=write,pwrite64,writev,pwritev,pwritev2,fsync,fdatasync,sendto,sendmsg",
    "-e",
    "signal=none",
];

/// One finished system call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    pub name: String,
    /// What the first argument, a descriptor, refers to: a path, or `socket:[...]` and the like.
    pub file: String,
    /// The arguments as strace prints them.
    pub arguments: String,
    pub result: i64,
    pub start_us: u64,
    pub end_us: u64,
}

impl Call {
    fn is_write(&self) -> bool {
        ["write", "pwrite64", "writev", "pwritev", "pwritev2"].contains(&self.name.as_str())
    }
    fn is_send(&self) -> bool {
        self.is_write() || ["sendto", "sendmsg"].contains(&self.name.as_str())
    }
    fn is_sync(&self) -> bool {
        ["fsync", "fdatasync"].contains(&self.name.as_str())
    }
    fn on_disk_file(&self) -> bool {
        self.file.starts_with('/')
    }
}

/// The calls of a trace, by their start. Lines that are no finished call (signals, exits, a last line cut short) are left out.
pub fn parse(trace: &str) -> Vec<Call> {
    let mut unfinished: BTreeMap<&str, (u64, String)> = BTreeMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((time, text)) = rest.trim_start().split_once(' ') else { continue };
        let Some(at_us) = micros(time) else { continue };
        if let Some(head) = text.strip_suffix(" <unfinished ...>") {
            unfinished.insert(thread, (at_us, head.to_owned()));
        } else if let Some(tail) = text.strip_prefix("<... ") {
            let Some((_, tail)) = tail.split_once(" resumed>") else { continue };
            let Some((start_us, head)) = unfinished.remove(thread) else { continue };
            calls.extend(call(start_us, &(head + tail)));
        } else {
            calls.extend(call(at_us, text));
        }
    }
    calls.sort_by_key(|call| call.start_us);
    calls
}

/// `name(fd<file>, arguments) = result <seconds>`
fn call(start_us: u64, text: &str) -> Option<Call> {
    let (text, seconds) = text.strip_suffix('>')?.rsplit_once(" <")?;
    // The arguments may hold anything, the result comes last.
    let (text, result) = text.rsplit_once(" = ")?;
    let (name, arguments) = text.trim_end().strip_suffix(')')?.split_once('(')?;
    let descriptor = arguments.split(", ").next()?;
    let file = descriptor.split_once('<').map_or("", |(_, file)| file.trim_end_matches('>'));
    Some(Call {
        name: name.to_owned(),
        file: file.to_owned(),
        arguments: arguments.to_owned(),
        result: result.split(' ').next()?.parse().ok()?,
        start_us,
        end_us: start_us + micros(seconds)?,
    })
}

/// `1795499465.047437` in microseconds, without the rounding of a float.
fn micros(seconds: &str) -> Option<u64> {
    let (whole, fraction) = seconds.split_once('.')?;
    (fraction.len() == 6).then_some(())?;
    Some(whole.parse::<u64>().ok()? * 1_000_000 + fraction.parse::<u64>().ok()?)
}

/// When bytes holding `marker` first became durable: the earliest return of a successful sync of a file that began after a
/// successful write of the marker to that file had returned.
pub fn durable_at_us(calls: &[Call], marker: &str) -> Option<u64> {
    calls
        .iter()
        .filter(|call| call.is_write() && call.on_disk_file() && call.result > 0)
        .filter(|call| call.arguments.contains(marker))
        .filter_map(|write| {
            calls
                .iter()
                .filter(|call| call.is_sync() && call.file == write.file && call.result == 0)
                .filter(|sync| sync.start_us >= write.end_us)
                .map(|sync| sync.end_us)
                .min()
        })
        .min()
}

/// When the process began to send a successful HTTP reply holding `marker` over a socket.
pub fn replied_at_us(calls: &[Call], marker: &str) -> Option<u64> {
    calls
        .iter()
        .filter(|call| call.is_send() && call.file.starts_with("socket:"))
        .filter(|call| call.arguments.contains("HTTP/1.1 2") && call.arguments.contains(marker))
        .map(|call| call.start_us)
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
7 100.000100 pwrite64(9</d/log/1.seg>, "\1\0mark-1\0(a) = b", 17, 4096) = 17 <0.000010>
8 100.000120 write(2</d.err>, "mark-1 is on its way\n", 21) = 21 <0.000005>
7 100.000130 fdatasync(9</d/log/1.seg> <unfinished ...>
8 100.000140 sendto(5<socket:[77]>, "noise", 5, MSG_NOSIGNAL, NULL, 0) = 5 <0.000004>
7 100.000400 <... fdatasync resumed>) = 0 <0.000270>
8 100.000500 writev(5<socket:[77]>, [{iov_base="HTTP/1.1 200 OK\r\n", iov_len=17}, {iov_base="{\"mark-1\"}", iov_len=10}], 2) = 27 <0.000008>
8 100.000900 +++ exited with 0 +++
8 100.0009"#;

    #[test]
    fn durable_is_when_the_sync_after_the_write_returned() {
        let calls = parse(GOOD);
        assert_eq!(calls.len(), 5);
        assert_eq!(durable_at_us(&calls, "mark-1"), Some(100_000_400));
        assert_eq!(replied_at_us(&calls, "mark-1"), Some(100_000_500));
        assert_eq!(durable_at_us(&calls, "mark-2"), None);
        assert_eq!(replied_at_us(&calls, "mark-2"), None);
    }

    #[test]
    fn a_sync_that_fails_or_began_before_or_is_of_another_file_does_not_count() {
        for (from, to) in [
            ("fdatasync resumed>) = 0", "fdatasync resumed>) = -1 EIO (Input/output error)"),
            ("100.000130 fdatasync", "100.000105 fdatasync"),
            ("fdatasync(9</d/log/1.seg>", "fdatasync(9</d/log/2.seg>"),
            ("= 17 <0.000010>", "= -1 ENOSPC (No space left on device) <0.000010>"),
        ] {
            assert!(GOOD.contains(from));
            assert_eq!(durable_at_us(&parse(&GOOD.replacen(from, to, 1)), "mark-1"), None, "{to}");
        }
    }

    #[test]
    fn a_reply_before_the_sync_is_seen() {
        let early = parse(&GOOD.replace("100.000500 writev", "100.000300 writev"));
        assert!(replied_at_us(&early, "mark-1") < durable_at_us(&early, "mark-1"));
    }
}
