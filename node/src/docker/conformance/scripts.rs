//! What the suite's containers run: shell scripts, and for a fake what they come to.

use bytes::Bytes;

use super::super::{Container, EngineError, ExecSpec, Executed, NewContainer, Output, Program, Stream};

/// Runs until it is asked to end, and does.
pub(super) const POLITE: &str = "trap 'echo bye; exit 0' TERM; echo up; while true; do sleep 0.1; done";
/// Runs until it is killed.
pub(super) const STUBBORN: &str = "trap '' TERM; echo up; while true; do sleep 0.1; done";
/// Ends by itself.
pub(super) const COUNTS: &str = "echo one; echo two; echo three; exit 7";
pub(super) const WRITES_BOTH: &str = "echo out; echo err >&2";
/// Of a command in a container.
pub(super) const COMMAND: &str = "echo $WHO in $PWD; echo err >&2; exit 3";
pub(super) const NO_PROGRAM: &str = "/bin/there-is-no-such-program";
/// What the suite's containers do, for a fake.
pub fn programs(container: &NewContainer) -> Program {
    let says = |words: &str| vec![piece(Stream::Stdout, words)];
    let runs = Program { output: says("up\n"), ..Program::default() };
    match container.spec.command.last().map_or("", String::as_str) {
        POLITE => Program { on_term: Some(0), last_words: says("bye\n"), ..runs },
        STUBBORN => Program { on_term: None, ..runs },
        COUNTS => Program { output: says("one\ntwo\nthree\n"), ends: Some(7), ..runs },
        WRITES_BOTH => {
            let output = vec![piece(Stream::Stdout, "out\n"), piece(Stream::Stderr, "err\n")];
            Program { output, ends: Some(0), ..runs }
        }
        other => panic!("{other:?} is none of the suite's scripts"),
    }
}

/// What the suite's commands do, for a fake.
pub fn commands(_: &Container, command: &ExecSpec) -> Result<Executed, EngineError> {
    match command.command.last().map_or("", String::as_str) {
        COMMAND => {
            let who = command.env.iter().find_map(|var| var.strip_prefix("WHO=")).unwrap_or_default();
            let words = format!("{who} in {}\n", command.working_dir.as_deref().unwrap_or("/"));
            let output = vec![piece(Stream::Stdout, &words), piece(Stream::Stderr, "err\n")];
            Ok(Executed { output, code: 3 })
        }
        NO_PROGRAM => {
            Err(EngineError::Refused { detail: format!("{NO_PROGRAM}: no such file or directory") })
        }
        other => panic!("{other:?} is none of the suite's commands"),
    }
}

pub(super) fn piece(stream: Stream, words: &str) -> Output {
    Output { stream, bytes: Bytes::from(words.to_owned()) }
}

/// Says who and where, and complains.
pub(super) fn command() -> ExecSpec {
    ExecSpec {
        command: ["/bin/sh", "-c", COMMAND].map(str::to_owned).to_vec(),
        env: vec!["WHO=out".to_owned()],
        user: Some("0".to_owned()),
        working_dir: Some("/bin".to_owned()),
    }
}
