//! One run in a process of its own: `longshore-sim run ... --format json`.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use longshore_raft::consensus::runtime::{AsyncRuntime, TokioRuntime};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use crate::result::{RunResult, Verdict};

/// Most that a child may print: a result with its plan is some ten KiB, and a child gone wild must not fill the memory.
const OUTPUT_MAX_BYTES: u64 = 32 << 20;

/// Of what a broken child said on standard error, so much is kept.
const LAST_WORDS_MAX_BYTES: usize = 2_000;

/// What `run --format json` prints.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    pub verdict: Verdict,
    /// The file that was written, after a failure.
    pub capsule: Option<PathBuf>,
    /// The command line that does it again.
    pub reproduce: String,
    pub result: RunResult,
}

/// How a child ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Ran {
    Reported(Box<Report>),
    /// It crashed, hung, or printed something else: trouble of the harness.
    Broken(String),
}

impl Ran {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Reported(report) => report.verdict,
            Self::Broken(_) => Verdict::Harness,
        }
    }

    pub fn result(&self) -> Option<&RunResult> {
        match self {
            Self::Reported(report) => Some(&report.result),
            Self::Broken(_) => None,
        }
    }
}

/// How to start children.
#[derive(Debug, Clone)]
pub struct Children {
    /// This program.
    pub program: PathBuf,
    /// A child that takes longer is killed.
    pub timeout: Duration,
}

impl Children {
    /// Runs one to its end. When the future is dropped, the child is killed.
    pub async fn run(&self, args: &[String]) -> Ran {
        match TokioRuntime::timeout(self.timeout, self.run_unlimited(args)).await {
            Ok(Ok(report)) => Ran::Reported(Box::new(report)),
            Ok(Err(what)) => Ran::Broken(what),
            Err(_) => Ran::Broken(format!("it was killed after {} s without an end", self.timeout.as_secs())),
        }
    }

    async fn run_unlimited(&self, args: &[String]) -> Result<Report, String> {
        let mut child = Command::new(&self.program)
            .arg("run")
            .args(args)
            .args(["--format", "json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            // Ctrl-C on the terminal is for the parent: a child that dies of it would look like a crash.
            .process_group(0)
            .spawn()
            .map_err(|error| format!("{} cannot be started: {error}", self.program.display()))?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let stderr = child.stderr.take().expect("standard error is piped");
        let (stdout, stderr) = tokio::join!(read(stdout), read(stderr));
        let status = child.wait().await.map_err(|error| format!("its end was not seen: {error}"))?;
        serde_json::from_slice::<Report>(&stdout).map_err(|error| broken(status, &stderr, &error))
    }
}

async fn read(from: impl AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // What was read before an error is all there is to judge by.
    let _ = from.take(OUTPUT_MAX_BYTES).read_to_end(&mut bytes).await;
    bytes
}

fn broken(status: ExitStatus, stderr: &[u8], error: &serde_json::Error) -> String {
    let said = String::from_utf8_lossy(stderr);
    // Where it panicked says more than how it came there.
    let said = said.split("stack backtrace:").next().unwrap_or_default();
    let begin = said.floor_char_boundary(said.len().saturating_sub(LAST_WORDS_MAX_BYTES));
    match said[begin..].trim() {
        "" => format!("{status}, and no result: {error}"),
        said => format!("{status}: {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::fake::{FakeProgram, block_on};

    #[test]
    fn ends_of_children() {
        let fake = FakeProgram::new();
        let children = |ms| Children { program: fake.path(), timeout: Duration::from_millis(ms) };
        let run = |seed: &str| {
            // Long enough for a busy machine, but for the one that hangs.
            let timeout_ms = if seed == "4" { 50 } else { 60_000 };
            block_on(children(timeout_ms).run(&["--seed".to_owned(), seed.to_owned()]))
        };
        fake.script("1", "printf 'boom\nstack backtrace:\n  0: main\n' >&2; exit 101");
        fake.script("2", "kill -9 $$");
        fake.script("3", "echo nonsense");
        fake.script("4", "sleep 1000");
        fake.reports("5", |result| result.elections = 3);
        let what = |ran: Ran| match ran {
            Ran::Broken(what) => what,
            Ran::Reported(report) => panic!("{report:?}"),
        };
        assert_eq!(what(run("1")), "exit status: 101: boom");
        assert!(what(run("2")).starts_with("signal: 9 (SIGKILL), and no result"));
        assert!(what(run("3")).contains("no result: expected"));
        assert!(what(run("4")).contains("killed after 0 s"));
        let ran = run("5");
        assert_eq!((ran.verdict(), ran.result().unwrap().elections), (Verdict::Pass, 3));
        let missing = Children { program: "/nowhere".into(), timeout: Duration::from_secs(1) };
        assert!(what(block_on(missing.run(&[]))).contains("/nowhere cannot be started"));
    }
}
