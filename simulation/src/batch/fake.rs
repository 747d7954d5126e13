//! A program in the place of `longshore-sim` for tests of what starts it: a shell script that acts as told for each seed.

use std::path::{Path, PathBuf};

use super::child::Report;
use crate::plan::expand::{Options, expand};
use crate::result::RunResult;

/// Looks for a script named by the seed (`--seed`), else by the file `default`; `$@` are its arguments.
const SCRIPT: &str = r#"#!/bin/sh
here="$(dirname "$0")"
echo "$@" >>"$here/calls"
seed=default
previous=
for argument in "$@"; do
    [ "$previous" = --seed ] && seed="$argument"
    previous="$argument"
done
[ -f "$here/$seed.sh" ] || seed=default
. "$here/$seed.sh"
"#;

pub(crate) struct FakeProgram(tempfile::TempDir);

impl FakeProgram {
    pub(crate) fn new() -> Self {
        let fake = Self(tempfile::tempdir().unwrap());
        write_program(&fake.path(), SCRIPT);
        fake
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.0.path().join("longshore-sim")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.0.path()
    }

    /// What is done for a seed, or for all others (`default`).
    pub(crate) fn script(&self, seed: &str, script: &str) {
        std::fs::write(self.dir().join(format!("{seed}.sh")), script).unwrap();
    }

    /// Reports a result for a seed, at any time the same.
    pub(crate) fn reports(&self, seed: &str, change: impl FnOnce(&mut RunResult)) {
        let file = self.result(seed, change);
        self.script(seed, &format!("cat '{}'", file.display()));
    }

    /// Puts a report into a file, for scripts.
    pub(crate) fn result(&self, name: &str, change: impl FnOnce(&mut RunResult)) -> PathBuf {
        let mut result = RunResult::empty(expand(name.parse().unwrap_or(0), &Options::default()));
        result.trace.hash = format!("hash-{name}");
        (result.virtual_ms, result.cpu_ms) = (100_000, 500);
        change(&mut result);
        let verdict = result.verdict();
        let report = Report { verdict, capsule: None, reproduce: String::new(), result };
        let file = self.dir().join(format!("{name}.json"));
        std::fs::write(&file, serde_json::to_vec(&report).unwrap()).unwrap();
        file
    }

    /// The arguments of each start so far.
    pub(crate) fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.dir().join("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }
}

/// Written by another process: a file that this process has open for writing, in any thread that forks just then, cannot be executed.
fn write_program(path: &Path, text: &str) {
    let mut child = std::process::Command::new("sh")
        .args(["-c", "cat >\"$1\" && chmod +x \"$1\"", "sh"])
        .arg(path)
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}
