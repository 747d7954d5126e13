//! `longshore op logs | exec`: what containers, and commands in them, write.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use data_encoding::BASE64;
use longshore_raft::Runtime as _;

use super::error::{CliError, Exit};
use super::session::{Runtime, Session};
use crate::api::client::Watch;
use crate::api::types::{ExecRequest, LogsQuery, OutputStream, OutputView};
use crate::config::units::parse_duration;

/// Colours of prefixes, in turn: those that can be read on dark and on light (ANSI 36, 33, 32, 35, 34, 31).
const COLOURS: [u8; 6] = [36, 33, 32, 35, 34, 31];
/// Most bytes of a line that are kept back until it ends.
const LINE_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// Name or id of a container, or of a run: then of all its copies
    name: String,
    /// Stay, for what is still to come
    #[arg(long, short)]
    follow: bool,
    /// The last so many lines of each only
    #[arg(long, short = 'n', value_name = "N")]
    tail: Option<u32>,
    /// What was written in the last so long only
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    since: Option<Duration>,
    /// Begin each line with the time at which it was written
    #[arg(long, short)]
    timestamps: bool,
    /// Look for it on this node only
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    /// Do not begin lines with the name of their container where there are several
    #[arg(long)]
    no_prefix: bool,
}

#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// Set a variable; may be repeated
    #[arg(long, short, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// User, or user:group, of the command
    #[arg(long, short)]
    user: Option<String>,
    /// Folder in the container that the command begins in
    #[arg(long, short, value_name = "PATH")]
    workdir: Option<String>,
    /// Look for the container on this node only
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    /// Name or id of a running container
    name: String,
    /// What to run in it
    #[arg(required = true, value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

pub(super) async fn logs(session: &mut Session<'_>, args: LogsArgs) -> Result<(), CliError> {
    let ago = |since: Duration| u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    let query = LogsQuery {
        follow: args.follow,
        tail: args.tail,
        since_ms: args.since.map(|since| Runtime::unix_time_ms().saturating_sub(ago(since))),
        timestamps: args.timestamps,
        on: args.on,
    };
    let watch = session.client.logs(&args.name, &query).await.map_err(listed)?;
    let prefixes = if args.no_prefix { Prefixes::Never } else { Prefixes::Several { exact: args.name } };
    let mut printer = Printer::new(prefixes, session.terminal.stdout_colour);
    match show(session, watch, &mut printer).await? {
        End::All | End::Exit(_) => Ok(()),
        End::Interrupted => Err(CliError::quiet(Exit::Interrupted)),
        End::Lost(why) => Err(CliError::new(Exit::Partial, format!("the output is not complete: {why}"))),
    }
}

pub(super) async fn exec(session: &mut Session<'_>, args: ExecArgs) -> Result<(), CliError> {
    let request = ExecRequest {
        command: without_dashes(args.command),
        env: args.env,
        user: args.user,
        working_dir: args.workdir,
        on: args.on,
    };
    let watch = session.client.exec(&args.name, &request).await.map_err(listed)?;
    let mut printer = Printer::new(Prefixes::Never, false);
    match show(session, watch, &mut printer).await? {
        End::Exit(0) => Ok(()),
        End::Exit(code) => Err(CliError::quiet(Exit::Command(u8::try_from(code).unwrap_or(u8::MAX)))),
        End::Interrupted => {
            session.terminal.report("Interrupted; the command goes on in the container.\n");
            Err(CliError::quiet(Exit::Interrupted))
        }
        End::Lost(why) => Err(CliError::new(Exit::Failed, why)),
        End::All => {
            let message = "lost sight of the command; it may go on in the container";
            Err(CliError::new(Exit::Failed, message))
        }
    }
}

/// A command may be set off with `--`; clap leaves that in its words.
pub(super) fn without_dashes(mut command: Vec<String>) -> Vec<String> {
    if command.first().is_some_and(|word| word == "--") {
        command.remove(0);
    }
    command
}

fn listed(error: impl Into<CliError>) -> CliError {
    error.into().or_hint("`longshore op ps` lists the containers")
}

enum End {
    All,
    Exit(i64),
    Interrupted,
    /// Some of it could not be had.
    Lost(String),
}

async fn show(
    session: &mut Session<'_>,
    mut watch: Watch<OutputView>,
    printer: &mut Printer,
) -> Result<End, CliError> {
    let mut end = End::All;
    loop {
        let next = tokio::select! {
            biased;
            () = &mut session.interrupt => {
                end = End::Interrupted;
                break;
            }
            next = watch.next() => next?,
        };
        match next {
            Some(OutputView::Piece { node, container, stream, data }) => {
                let bytes = BASE64.decode(data.as_bytes()).map_err(|error| {
                    CliError::new(Exit::Failed, format!("the node sent output that can not be read: {error}"))
                })?;
                for (stream, text) in printer.take(&node, &container, stream, &bytes) {
                    write(session, stream, &text)?;
                }
            }
            Some(OutputView::Exit { code }) => end = End::Exit(code),
            Some(OutputView::Lost { node, container, why }) => {
                end = End::Lost(format!("{container} on {node}: {why}"));
            }
            None => break,
        }
    }
    for (stream, text) in printer.rest() {
        write(session, stream, &text)?;
    }
    Ok(end)
}

fn write(session: &mut Session<'_>, stream: OutputStream, bytes: &[u8]) -> Result<(), CliError> {
    match stream {
        OutputStream::Stdout => session.terminal.print_bytes(bytes),
        OutputStream::Stderr => {
            session.terminal.report_bytes(bytes);
            Ok(())
        }
    }
}

enum Prefixes {
    Never,
    /// Where the name that was asked for means several containers: where theirs is another.
    Several {
        exact: String,
    },
}

/// Puts lines together, each with the name of its container, so that those of several do not mix within a line.
struct Printer {
    prefixes: Prefixes,
    colour: bool,
    known: BTreeMap<(String, String), usize>,
    lines: BTreeMap<(String, String, bool), Vec<u8>>,
}

impl Printer {
    fn new(prefixes: Prefixes, colour: bool) -> Self {
        Self { prefixes, colour, known: BTreeMap::new(), lines: BTreeMap::new() }
    }

    fn prefix(&mut self, node: &str, container: &str) -> String {
        match &self.prefixes {
            Prefixes::Several { exact } if exact != container => {}
            _ => return String::new(),
        }
        let next = self.known.len();
        let number = *self.known.entry((node.to_owned(), container.to_owned())).or_insert(next);
        let name = format!("{container}@{node}");
        match self.colour {
            true => format!("\u{1b}[{}m{name} |\u{1b}[0m ", COLOURS[number % COLOURS.len()]),
            false => format!("{name} | "),
        }
    }

    /// What can be written now.
    fn take(
        &mut self,
        node: &str,
        container: &str,
        stream: OutputStream,
        bytes: &[u8],
    ) -> Vec<(OutputStream, Vec<u8>)> {
        let prefix = self.prefix(node, container);
        if prefix.is_empty() {
            return vec![(stream, bytes.to_vec())];
        }
        let key = (node.to_owned(), container.to_owned(), stream == OutputStream::Stderr);
        let waiting = self.lines.entry(key).or_default();
        waiting.extend_from_slice(bytes);
        let mut out = Vec::new();
        while let Some(end) = waiting.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = waiting.drain(..=end).collect();
            out.extend_from_slice(prefix.as_bytes());
            out.extend_from_slice(&line);
        }
        if waiting.len() > LINE_BYTES_MAX {
            out.extend_from_slice(prefix.as_bytes());
            out.append(waiting);
            out.push(b'\n');
        }
        if out.is_empty() { Vec::new() } else { vec![(stream, out)] }
    }

    /// Lines that nothing ended.
    fn rest(&mut self) -> Vec<(OutputStream, Vec<u8>)> {
        let lines = std::mem::take(&mut self.lines);
        let mut rest = Vec::new();
        for ((node, container, is_stderr), line) in lines.into_iter().filter(|(_, line)| !line.is_empty()) {
            let stream = if is_stderr { OutputStream::Stderr } else { OutputStream::Stdout };
            rest.push((stream, [self.prefix(&node, &container).into_bytes(), line, vec![b'\n']].concat()));
        }
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_containers_are_not_mixed() {
        let mut printer = Printer::new(Prefixes::Several { exact: "web".into() }, false);
        let mut written = String::new();
        let mut take = |node: &str, container: &str, text: &str| {
            for (_, bytes) in printer.take(node, container, OutputStream::Stdout, text.as_bytes()) {
                written += std::str::from_utf8(&bytes).unwrap();
            }
        };
        take("a", "web.1", "one\ntw");
        take("b", "web.2", "uno\n");
        take("a", "web.1", "o\nlast");
        for (_, bytes) in printer.rest() {
            written += std::str::from_utf8(&bytes).unwrap();
        }
        assert_eq!(written, "web.1@a | one\nweb.2@b | uno\nweb.1@a | two\nweb.1@a | last\n");
    }

    #[test]
    fn one_container_is_shown_as_it_is_and_several_have_a_colour_each() {
        let mut one = Printer::new(Prefixes::Several { exact: "web".into() }, true);
        assert_eq!(one.take("a", "web", OutputStream::Stderr, b"x"), [(OutputStream::Stderr, b"x".to_vec())]);
        let first = one.prefix("a", "web.1");
        let second = one.prefix("b", "web.1");
        assert!(first.contains("[36m") && second.contains("[33m") && first == one.prefix("a", "web.1"));
        let long = vec![b'x'; LINE_BYTES_MAX + 1];
        let (_, cut) = one.take("a", "web.1", OutputStream::Stdout, &long).pop().unwrap();
        assert!(cut.ends_with(b"x\n"), "a line without an end is not kept back for ever");
    }
}
