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

#[derive(Default)]
struct Trace {
    hasher: blake3::Hasher,
    events: u64,
    line: String,
    file: Option<BufWriter<std::fs::File>>,
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
        let hash = trace.hasher.finalize().to_hex()[..32].to_owned();
        Ok(TraceSummary { hash, events: trace.events })
    })
}

/// Records an event of the current context, now. Use through [`crate::event!`].
pub fn record(event: fmt::Arguments<'_>) {
    let (at, context) = (runtime::global_ns(), runtime::current().name().to_owned());
    TRACE.with_borrow_mut(|trace| {
        use fmt::Write as _;
        trace.line.clear();
        writeln!(trace.line, "{at} {context} {event}").expect("writing to a string does not fail");
        trace.hasher.update(trace.line.as_bytes());
        trace.events += 1;
        if let Some(file) = &mut trace.file {
            // A trace that cannot be written is noticed when it ends.
            let _ = file.write_all(trace.line.as_bytes());
        }
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
