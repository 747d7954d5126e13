//! The trace of a run: every event with its virtual time and the context it happened in, folded into one hash.
//!
//! Two runs are the same exactly if their hashes are. A trace can also be written to a file, a line an event, so that the
//! first event in which two runs differ can be shown. Owned by the thread of the run; must never hold what differs between
//! processes (addresses in memory, the machine's time).

use std::cell::RefCell;
use std::fmt;
use std::io::{BufWriter, Write};

use crate::runtime;

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::new(Trace::default());
}

/// Lines are hashed so many bytes at a time: BLAKE3 hashes as many chunks of 1 KiB at once as the processor has lanes for, at most 16.
const HASHED_BYTES: usize = 16 << 10;

#[derive(Default)]
struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    /// Lines that are not hashed yet; fewer than [`HASHED_BYTES`] between two events.
    lines: String,
    file: Option<BufWriter<std::fs::File>>,
}

impl Trace {
    fn add(&mut self, at_ns: u64, context: &str, event: fmt::Arguments<'_>) {
        use fmt::Write as _;
        let start = self.lines.len();
        writeln!(self.lines, "{at_ns} {context} {event}").expect("writing to a string does not fail");
        self.events += 1;
        if let Some(file) = &mut self.file {
            // A trace that cannot be written is noticed when it ends.
            let _ = file.write_all(&self.lines.as_bytes()[start..]);
        }
        if self.lines.len() >= HASHED_BYTES {
            self.hash_lines();
        }
    }

    fn hash_lines(&mut self) {
        self.hasher.update(self.lines.as_bytes());
        self.lines.clear();
    }
}

/// How a trace ended.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct TraceSummary {
    /// Hexadecimal, 32 digits.
    pub hash: String,
    pub events: u64,
}

/// Begins a new trace on this thread; with `file`, lines are written there as well.
pub fn begin(file: Option<std::fs::File>) {
    TRACE.with_borrow_mut(|trace| *trace = Trace { file: file.map(BufWriter::new), ..Trace::default() });
}

/// Ends the trace of this thread.
pub fn end() -> std::io::Result<TraceSummary> {
    TRACE.with_borrow_mut(|trace| {
        if let Some(mut file) = trace.file.take() {
            file.flush()?;
        }
        trace.hash_lines();
        let hash = trace.hasher.finalize().to_hex()[..32].to_owned();
        Ok(TraceSummary { hash, events: trace.events })
    })
}

/// Records an event of the current context, now. Use through [`crate::event!`].
pub fn record(event: fmt::Arguments<'_>) {
    let at_ns = runtime::global_ns();
    runtime::with_current(|context| {
        TRACE.with_borrow_mut(|trace| trace.add(at_ns, context.name(), event));
    });
}

/// Records an event in the trace: `event!("net drop {from}->{to} {digest}")`.
#[macro_export]
macro_rules! event {
    ($($arg:tt)*) => { $crate::trace::record(format_args!($($arg)*)) };
}

/// A short digest of bytes, for events: enough that a changed byte changes the trace.
pub fn digest(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex()[..12].to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::random;
    use crate::runtime::{Context, HostClock};

    #[test]
    fn the_hash_is_that_of_the_lines_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let world = Context::new("world", Arc::new(HostClock::new(0, 0, 0)), random::stream(7, "world"));
        runtime::run(&world, async {
            begin(Some(std::fs::File::create(&path).unwrap()));
            // Lines that together fill what is hashed at a time twice and a half.
            let count = HASHED_BYTES / 40 * 5 / 2;
            (0..count).for_each(|at| event!("event {at:020}"));
            let summary = end().unwrap();
            let lines = std::fs::read(&path).unwrap();
            assert!(lines.len() > 2 * HASHED_BYTES && lines.starts_with(b"0 world event 0"));
            assert_eq!(summary.events, count as u64);
            assert_eq!(summary.hash, blake3::hash(&lines).to_hex()[..32]);
        });
    }
}
