//! What containers of the fake do when they run: what they write, how they end, what commands in them answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use longshore_raft::Runtime;

use super::super::{
    Container, ContainerState, EngineError, ExecSpec, LogQuery, NewContainer, Output, OutputSink, Stream,
};
use super::{FakeEngine, interrupted};

/// Bytes that a container's log keeps; the oldest go first.
pub const WRITTEN_BYTES_MAX: usize = 1 << 20;
/// Exit code of what heeds the polite signal without further ado.
const TERMINATED: i64 = 143;

/// What a container does from its start on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What it writes at once.
    pub output: Vec<Output>,
    /// It ends at once, with this code.
    pub ends: Option<i64>,
    /// On the polite signal it ends with this code; `None`: it does not heed it.
    pub on_term: Option<i64>,
    /// What it writes before it does.
    pub last_words: Vec<Output>,
}

/// Writes nothing, runs until it is asked to end.
impl Default for Program {
    fn default() -> Self {
        Self { output: Vec::new(), ends: None, on_term: Some(TERMINATED), last_words: Vec::new() }
    }
}

/// What each container does. Called at each start.
pub type Programs = Arc<dyn Fn(&NewContainer) -> Program + Send + Sync>;

/// What came of a command in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Executed {
    pub output: Vec<Output>,
    pub code: i64,
}

/// What commands in containers do. An error is one of the engine: it could not begin.
pub type Commands = Arc<dyn Fn(&Container, &ExecSpec) -> Result<Executed, EngineError> + Send + Sync>;

/// Writes its own words, and ends well.
pub(super) fn echo(_: &Container, command: &ExecSpec) -> Result<Executed, EngineError> {
    let bytes = format!("{}\n", command.command.join(" ")).into();
    Ok(Executed { output: vec![Output { stream: Stream::Stdout, bytes }], code: 0 })
}

struct Line {
    at_ms: u64,
    output: Output,
}

/// The log of a container: lines, or what was written of one.
#[derive(Default)]
pub(super) struct Written {
    lines: VecDeque<Line>,
    /// Lines that are gone: the number of the first that is there.
    gone: u64,
    bytes: usize,
}

impl Written {
    pub(super) fn push(&mut self, output: Output, now_ms: u64) {
        let mut rest = output.bytes;
        while !rest.is_empty() {
            let length = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
            let bytes = rest.split_to(length);
            self.bytes += bytes.len();
            self.lines.push_back(Line { at_ms: now_ms, output: Output { stream: output.stream, bytes } });
        }
        while self.bytes > WRITTEN_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.output.bytes.len();
            self.gone += 1;
        }
    }

    /// The number of the next line.
    fn end(&self) -> u64 {
        self.gone + self.lines.len() as u64
    }

    /// From line number `from` on, as the query wants them.
    fn since(&self, from: u64, query: &LogQuery) -> Vec<Output> {
        let skipped = usize::try_from(from.saturating_sub(self.gone)).unwrap_or(usize::MAX);
        let since_ms = u64::try_from(query.since_unix_s).unwrap_or(0).saturating_mul(1000);
        let lines = self.lines.iter().skip(skipped).filter(|line| line.at_ms >= since_ms);
        lines.map(|line| if query.timestamps { stamped(line) } else { line.output.clone() }).collect()
    }

    /// The number of the first line that a query wants.
    fn begin(&self, query: &LogQuery) -> u64 {
        query.tail.map_or(self.gone, |tail| self.end().saturating_sub(tail.into()).max(self.gone))
    }
}

fn stamped(line: &Line) -> Output {
    let at = humantime::format_rfc3339_nanos(UNIX_EPOCH + Duration::from_millis(line.at_ms));
    let mut bytes = format!("{at} ").into_bytes();
    bytes.extend_from_slice(&line.output.bytes);
    Output { stream: line.output.stream, bytes: Bytes::from(bytes) }
}

impl<R: Runtime> FakeEngine<R> {
    /// What containers do from their next start on.
    pub fn set_programs(&self, programs: Programs) {
        self.state.lock().programs = programs;
    }

    /// What commands in containers do from now on; at first they write their own words and end with 0.
    pub fn set_commands(&self, commands: Commands) {
        self.state.lock().commands = commands;
    }

    /// A container writes.
    pub fn write(&self, container: &str, output: Output) -> Result<(), EngineError> {
        self.change(|state, now_ms| {
            state.containers.get_mut(container)?.written.push(output, now_ms);
            Ok(())
        })
    }

    pub(super) async fn tell_output(
        &self,
        key: String,
        query: LogQuery,
        sink: OutputSink,
    ) -> Result<(), EngineError> {
        let (id, run, life, mut next) = {
            let state = self.up()?;
            let container = state.containers.get(&key)?;
            (container.id.clone(), container.run, state.life, container.written.begin(&query))
        };
        loop {
            // What there is and, once there is nothing left, whether more can come.
            let news = self.eventually(|state| {
                let Ok(container) = state.containers.get(&id) else { return Some((Vec::new(), None)) };
                let news = container.written.since(next, &query);
                let more = query.follow && container.run == run && container.state.is_up();
                let told_all = container.written.end() == next;
                (!told_all || !more).then(|| (news, more.then(|| container.written.end())))
            });
            let (news, end) = tokio::select! {
                biased;
                () = sink.closed() => return Ok(()),
                news = self.unless_down(life, news) => news?,
            };
            for output in news {
                // Whoever listens no more has given up, and nothing is wrong.
                let Ok(()) = self.unless_down(life, sink.send(output)).await? else { return Ok(()) };
            }
            match end {
                Some(end) => next = end,
                None => return Ok(()),
            }
        }
    }

    pub(super) async fn execute(
        &self,
        key: String,
        command: ExecSpec,
        sink: OutputSink,
    ) -> Result<i64, EngineError> {
        let (container, commands, life) = {
            let state = self.up()?;
            let missing = || EngineError::NoSuchContainer { container: key.clone() };
            let container = state.containers.view(&key).ok_or_else(missing)?;
            (container, state.commands.clone(), state.life)
        };
        if container.state != ContainerState::Running {
            return Err(EngineError::NotRunning { container: key });
        }
        let Executed { output, code } = commands(&container, &command)?;
        for output in output {
            if self.unless_down(life, sink.send(output)).await?.is_err() {
                return Err(interrupted());
            }
        }
        Ok(code)
    }
}
