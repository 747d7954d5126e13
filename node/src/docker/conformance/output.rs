//! What comes out of containers: what they have written, and what commands in them answer.

use std::time::Duration;

use tokio::sync::mpsc;

use super::super::{ContainerState, EngineError, ExecSpec, LogQuery, Output, Stream};
use super::containers::Suite;
use super::scripts::{COUNTS, NO_PROGRAM, POLITE, WRITES_BOTH, command, piece};

/// Pieces of output on their way.
pub(super) const OUTPUT_MAX: usize = 16;

impl Suite<'_> {
    async fn logs(&self, key: &str, query: &LogQuery) -> Vec<Output> {
        let (sink, mut output) = mpsc::channel::<Output>(OUTPUT_MAX);
        let (told, all) = tokio::join!(biased; self.engine.logs(key, query, sink), async {
            let mut all = Vec::new();
            while let Some(piece) = output.recv().await {
                all.push(piece);
            }
            all
        });
        told.unwrap_or_else(|error| panic!("{key} has written something: {error}"));
        all
    }

    /// Waits until a container that runs has written `up` in its so manieth run: from then on it does with signals what it is to do.
    pub(super) async fn until_up(&self, key: &str, run: usize) {
        let (sink, mut output) = mpsc::channel::<Output>(OUTPUT_MAX);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let heard = async {
            let mut said = String::new();
            while said.matches("up\n").count() < run {
                let piece = output.recv().await.expect("it runs on");
                said.push_str(&String::from_utf8_lossy(&piece.bytes));
            }
        };
        tokio::select! {
            biased;
            () = heard => {}
            ended = self.engine.logs(key, &query, sink) => panic!("{key} should run on: {ended:?}"),
        }
    }

    pub(super) async fn tells_how_containers_ended_and_what_they_wrote(&self) {
        let id = self.run(&self.container("counts", COUNTS)).await;
        let ended = self.until(&id, ContainerState::Exited { code: 7 }).await;
        assert_eq!(self.listed(&id).await, ended);
        let all = LogQuery::default();
        assert_eq!(text(&self.logs(&id, &all).await, Stream::Stdout), "one\ntwo\nthree\n");
        let last = LogQuery { tail: Some(2), ..all.clone() };
        assert_eq!(text(&self.logs(&id, &last).await, Stream::Stdout), "two\nthree\n");
        let none = LogQuery { tail: Some(0), ..all.clone() };
        assert_eq!(self.logs(&id, &none).await, []);
        let followed = LogQuery { follow: true, ..all.clone() };
        assert_eq!(
            text(&self.logs(&id, &followed).await, Stream::Stdout),
            "one\ntwo\nthree\n",
            "it has ended"
        );
        let long_ago = LogQuery { since_unix_s: 1, ..all.clone() };
        assert_eq!(text(&self.logs(&id, &long_ago).await, Stream::Stdout), "one\ntwo\nthree\n");
        let later = i64::try_from(ended.created_unix_s).expect("a sane clock") + 1_000_000;
        let later = LogQuery { since_unix_s: later, ..all.clone() };
        assert_eq!(self.logs(&id, &later).await, []);
        let stamped = self.logs(&id, &LogQuery { timestamps: true, ..all }).await;
        for line in text(&stamped, Stream::Stdout).lines() {
            let (at, word) = line.split_once(' ').expect("a time, then the line");
            humantime::parse_rfc3339(at).unwrap_or_else(|error| panic!("{at}: {error}"));
            assert!(["one", "two", "three"].contains(&word), "{line}");
        }
        self.remove(&id).await;
    }

    pub(super) async fn keeps_both_streams_apart(&self) {
        let id = self.run(&self.container("both", WRITES_BOTH)).await;
        self.until(&id, ContainerState::Exited { code: 0 }).await;
        let written = self.logs(&id, &LogQuery::default()).await;
        assert_eq!(text(&written, Stream::Stdout), "out\n");
        assert_eq!(text(&written, Stream::Stderr), "err\n");
        self.remove(&id).await;
    }

    pub(super) async fn follows_output_to_the_end(&self) {
        let id = self.run(&self.container("followed", POLITE)).await;
        let (sink, mut output) = mpsc::channel::<Output>(OUTPUT_MAX);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let (told, ()) = tokio::join!(biased; self.engine.logs(&id, &query, sink), async {
            assert_eq!(output.recv().await, Some(piece(Stream::Stdout, "up\n")));
            self.engine.stop(&id, Some(Duration::from_secs(60))).await.expect("stop");
            assert_eq!(output.recv().await, Some(piece(Stream::Stdout, "bye\n")));
            assert_eq!(output.recv().await, None);
        });
        told.expect("the end of a container is a good end of its output");
        self.remove(&id).await;
    }

    pub(super) async fn ends_what_follows_when_nobody_listens(&self) {
        let id = self.run(&self.container("unheard", POLITE)).await;
        let (sink, mut output) = mpsc::channel::<Output>(OUTPUT_MAX);
        let query = LogQuery { follow: true, ..LogQuery::default() };
        let (told, ()) = tokio::join!(biased; self.engine.logs(&id, &query, sink), async {
            assert_eq!(output.recv().await, Some(piece(Stream::Stdout, "up\n")));
            drop(output);
        });
        told.expect("nothing went wrong");
        assert_eq!(self.inspect(&id).await.state, ContainerState::Running);
        self.remove(&id).await;
    }

    pub(super) async fn runs_commands_in_what_runs(&self) {
        let id = self.run(&self.container("commands", POLITE)).await;
        self.until_up(&id, 1).await;
        let (code, output) = self.exec(&id, &command()).await;
        assert_eq!(code.expect("it runs"), 3);
        assert_eq!(text(&output, Stream::Stdout), "out in /bin\n");
        assert_eq!(text(&output, Stream::Stderr), "err\n");

        let nothing = ExecSpec { command: vec![NO_PROGRAM.to_owned()], ..ExecSpec::default() };
        let (error, output) = self.exec(&id, &nothing).await;
        let error = error.expect_err("there is no such program");
        assert!(matches!(error, EngineError::Refused { .. }) && output.is_empty(), "{error:?} {output:?}");
        assert!(error.to_string().contains(NO_PROGRAM), "{error}");

        self.engine.stop(&id, Some(Duration::from_secs(60))).await.expect("stop");
        let (error, _) = self.exec(&id, &command()).await;
        let error = error.expect_err("it does not run");
        assert!(matches!(error, EngineError::NotRunning { .. }) && !error.is_transient(), "{error:?}");
        self.remove(&id).await;
        let (error, _) = self.exec(&id, &command()).await;
        assert!(matches!(error, Err(EngineError::NoSuchContainer { .. })), "{error:?}");
    }

    pub(super) async fn exec(
        &self,
        key: &str,
        command: &ExecSpec,
    ) -> (Result<i64, EngineError>, Vec<Output>) {
        let (sink, mut output) = mpsc::channel::<Output>(OUTPUT_MAX);
        tokio::join!(biased; self.engine.exec(key, command, sink), async {
            let mut all = Vec::new();
            while let Some(piece) = output.recv().await {
                all.push(piece);
            }
            all
        })
    }
}

/// All of one stream.
fn text(output: &[Output], of: Stream) -> String {
    let pieces = output.iter().filter(|piece| piece.stream == of);
    pieces.map(|piece| String::from_utf8_lossy(&piece.bytes).into_owned()).collect()
}
