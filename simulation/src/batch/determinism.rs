//! The same seed twice in fresh processes: the traces must be the same, to the byte.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::child::{Children, Ran};
use crate::request::Request;
use crate::result::{RunResult, Verdict};

/// Lines of both traces shown before the first difference, and of each from there on.
const LINES_BEFORE: usize = 5;
const LINES_AFTER: usize = 3;

/// Chance may make two runs the same again. This many pairs are tried for two traces that differ.
const TRACES_MAX: usize = 5;

/// What came of comparing one seed.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub seed: u64,
    pub what: String,
    /// Of the runs themselves.
    pub verdict: Verdict,
    pub same: Same,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Same {
    Yes {
        hash: String,
        events: u64,
        elections: u64,
        /// Of the run with one byte changed, if that was asked for and there was a write to change: another.
        flipped: Option<String>,
    },
    No {
        hashes: [String; 2],
        divergence: Option<Divergence>,
    },
    /// A changed byte did not change the trace.
    FlipUnnoticed {
        hash: String,
    },
    /// There is nothing to compare.
    Broken {
        what: String,
    },
}

/// The first event in which two runs differ.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Divergence {
    /// Number of the first different line, from 1.
    pub line: u64,
    /// The same in both, just before.
    pub before: Vec<String>,
    /// From there on; empty where a trace has ended.
    pub first: Vec<String>,
    pub second: Vec<String>,
    pub files: [PathBuf; 2],
}

impl Comparison {
    pub fn is_same(&self) -> bool {
        matches!(self.same, Same::Yes { .. })
    }
}

/// Compares two runs of a seed, and with `flip` also a third in which a byte of a payload is another. Traces go to `traces`
/// if there is something to show.
pub async fn compare(
    children: &Children,
    request: &Request,
    seed: u64,
    flip: bool,
    traces: &Path,
) -> Comparison {
    let args = |request: &Request, more: &[String]| {
        let mut args = request.args_for(seed);
        args.extend(["--capsule".to_owned(), "none".to_owned()]);
        args.extend_from_slice(more);
        args
    };
    let plain = args(request, &[]);
    let (first, second) = (children.run(&plain).await, children.run(&plain).await);
    let comparison = |verdict, same| Comparison { seed, what: request.what(), verdict, same };
    let (first, second) = match (&first, &second) {
        (Ran::Reported(first), Ran::Reported(second)) => (&first.result, &second.result),
        (Ran::Broken(what), _) | (_, Ran::Broken(what)) => {
            return comparison(Verdict::Harness, Same::Broken { what: what.clone() });
        }
    };
    let verdict = Verdict::worst([first.verdict(), second.verdict()]);
    if first.trace != second.trace {
        let hashes = [first, second].map(|result| result.trace.hash.clone());
        let divergence =
            find(children, &|trace| args(request, &["--trace".into(), trace]), seed, traces).await;
        return comparison(verdict, Same::No { hashes, divergence });
    }
    let mut flipped = None;
    if let Some(write) = middle_write(first).filter(|_| flip) {
        let changed = Request { flip_payload: Some(write), ..request.clone() };
        match children.run(&args(&changed, &[])).await {
            Ran::Broken(what) => return comparison(Verdict::Harness, Same::Broken { what }),
            Ran::Reported(report) if report.result.trace.hash == first.trace.hash => {
                return comparison(verdict, Same::FlipUnnoticed { hash: first.trace.hash.clone() });
            }
            Ran::Reported(report) => flipped = Some(report.result.trace.hash),
        }
    }
    let (hash, events, elections) = (first.trace.hash.clone(), first.trace.events, first.elections);
    comparison(verdict, Same::Yes { hash, events, elections, flipped })
}

/// A write from the middle of the run, if there was any: some plans leave clients no register to write.
fn middle_write(result: &RunResult) -> Option<u64> {
    result.calls.get("write").map(|outcomes| outcomes.values().sum::<u64>() / 2)
}

/// Runs pairs with traces until two differ.
async fn find(
    children: &Children,
    args: &dyn Fn(String) -> Vec<String>,
    seed: u64,
    traces: &Path,
) -> Option<Divergence> {
    std::fs::create_dir_all(traces).ok()?;
    let files = ["a", "b"].map(|which| traces.join(format!("seed-{seed}-{which}.trace")));
    for _ in 0..TRACES_MAX {
        for file in &files {
            children.run(&args(file.display().to_string())).await;
        }
        match first_difference(&files) {
            Ok(None) => {}
            Ok(Some(divergence)) => return Some(divergence),
            // A child that wrote no trace: the hashes are told in any case.
            Err(_) => return None,
        }
    }
    None
}

/// Where two files differ first, line by line.
fn first_difference(files: &[PathBuf; 2]) -> io::Result<Option<Divergence>> {
    let lines = |file: &PathBuf| Ok::<_, io::Error>(BufReader::new(File::open(file)?).lines());
    let (mut a, mut b) = (lines(&files[0])?, lines(&files[1])?);
    let mut before = VecDeque::new();
    for line in 1.. {
        let (first, second) = (a.next().transpose()?, b.next().transpose()?);
        match (first, second) {
            (None, None) => return Ok(None),
            (Some(first), Some(second)) if first == second => {
                before.push_back(first);
                if before.len() > LINES_BEFORE {
                    before.pop_front();
                }
            }
            (first, second) => {
                let rest = |head: Option<String>, tail: io::Lines<BufReader<File>>| {
                    let tail = tail.map_while(Result::ok).take(LINES_AFTER - 1);
                    head.into_iter().chain(tail).collect::<Vec<_>>()
                };
                return Ok(Some(Divergence {
                    line,
                    before: before.into(),
                    first: rest(first, a),
                    second: rest(second, b),
                    files: files.clone(),
                }));
            }
        }
    }
    unreachable!("files end")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::fake::{FakeProgram, block_on};
    use crate::plan::profile::Profile;

    fn compare_with(fake: &FakeProgram, flip: bool) -> Comparison {
        let children = Children { program: fake.path(), timeout: Duration::from_secs(60) };
        let request = Request::profile(Profile::Swarm);
        block_on(compare(&children, &request, 9, flip, &fake.dir().join("traces")))
    }

    #[test]
    fn the_same_twice() {
        let fake = FakeProgram::new();
        fake.reports("9", |result| result.elections = 2);
        let same = compare_with(&fake, false);
        assert_eq!((same.is_same(), same.verdict), (true, Verdict::Pass));
        assert_eq!(fake.calls(), ["run --seed 9 --profile swarm --capsule none --format json"; 2]);
    }

    #[test]
    fn a_difference_is_shown() {
        let fake = FakeProgram::new();
        for (name, hash) in [("even", "h0"), ("odd", "h1")] {
            fake.result(name, |result| result.trace.hash = hash.into());
        }
        // Every other start is another run; with --trace (the argument before the file) one line differs.
        fake.script(
            "9",
            r#"
            if [ "$(($(wc -l <"$here/calls") % 2))" = 0 ]; then which=even; else which=odd; fi
            previous=
            for argument in "$@"; do
                if [ "$previous" = --trace ]; then { seq 1 9; echo "event $which"; seq 11 20; } >"$argument"; fi
                previous="$argument"
            done
            cat "$here/$which.json""#,
        );
        let different = compare_with(&fake, false);
        let Same::No { hashes, divergence: Some(divergence) } = different.same else {
            panic!("{different:?}");
        };
        assert_eq!(hashes, ["h1", "h0"]);
        assert_eq!((divergence.line, divergence.before.join(" ")), (10, "5 6 7 8 9".into()));
        assert_eq!(divergence.first, ["event odd", "11", "12"]);
        assert_eq!(divergence.second, ["event even", "11", "12"]);
    }

    #[test]
    fn traces_of_different_length_differ_where_one_ends() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&files[0], "x\ny\n").unwrap();
        std::fs::write(&files[1], "x\n").unwrap();
        let divergence = first_difference(&files).unwrap().unwrap();
        assert_eq!((divergence.line, divergence.first.len(), divergence.second.len()), (2, 1, 0));
        std::fs::write(&files[1], "x\ny\n").unwrap();
        assert_eq!(first_difference(&files).unwrap(), None);
    }

    #[test]
    fn a_flipped_byte_must_be_noticed() {
        let fake = FakeProgram::new();
        fake.result("plain", |result| {
            result.calls.entry("write".into()).or_default().insert("written".into(), 20);
        });
        fake.result("flipped", |result| result.trace.hash = "another".into());
        fake.script("9", r#"cat "$here/plain.json""#);
        let unnoticed = compare_with(&fake, true);
        assert_eq!(unnoticed.same, Same::FlipUnnoticed { hash: "hash-plain".into() });
        fake.script(
            "9",
            r#"case "$*" in *"--flip-payload 10 "*) cat "$here/flipped.json" ;; *) cat "$here/plain.json" ;; esac"#,
        );
        let Same::Yes { flipped, .. } = compare_with(&fake, true).same else { panic!() };
        assert_eq!(flipped.as_deref(), Some("another"));
    }

    #[test]
    fn a_crash_is_told() {
        let fake = FakeProgram::new();
        fake.script("9", "echo dead >&2; exit 101");
        let broken = compare_with(&fake, false);
        assert_eq!(broken.verdict, Verdict::Harness);
        assert_eq!(broken.same, Same::Broken { what: "exit status: 101: dead".into() });
    }
}
