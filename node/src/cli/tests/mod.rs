//! Commands run whole, against a scripted fleet behind the real server on a real unix socket.

mod api;
mod arguments;
mod build;
mod cache;
mod completions;
mod containers;
mod drain;
mod launch;
mod listings;
mod pull;
mod ring;
mod sim;
mod suggest;
mod top;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Parser;
use longshore_raft::consensus::runtime::TokioRuntime;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Cli, CliError, Exit, ServerCommands, Terminal, run};
use crate::api::fake::FakeFleet;
use crate::api::limits::ApiLimits;
use crate::api::listener::UnixApiListener;
use crate::api::server::{Access, serve};
use crate::config::{JoinConfig, NodeConfig, Variables};

/// Where a test's command writes.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl io::Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().clone()).unwrap()
    }
}

/// A terminal that is none, unless the test says so.
fn terminal(stdin: &'static str) -> (Terminal, Buffer, Buffer) {
    let (stdout, stderr) = (Buffer::default(), Buffer::default());
    let home = ("HOME".to_owned(), "/home/somebody".to_owned());
    let terminal = Terminal {
        stdin: Box::new(stdin.as_bytes()),
        stdout: Box::new(stdout.clone()),
        stderr: Box::new(stderr.clone()),
        stdin_is_terminal: false,
        stdout_is_terminal: false,
        stderr_is_terminal: false,
        variables: Variables::from([home]),
        stdout_colour: false,
        stderr_colour: false,
    };
    (terminal, stdout, stderr)
}

/// What a command left.
#[derive(Debug)]
struct Ran {
    exit: Exit,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn ok(&self) -> &str {
        assert_eq!(self.exit, Exit::Done, "{self:?}");
        &self.stdout
    }

    #[track_caller]
    fn fails(&self, exit: Exit, error: &str, hint: &str) {
        assert_eq!(self.exit, exit, "{self:?}");
        let (said, hinted) = self.stderr.split_once("\nhint: ").unwrap_or((&self.stderr, ""));
        assert!(said.contains("error: ") && said.contains(error), "{self:?}");
        assert!(hinted.contains(hint), "{self:?}");
    }
}

/// Notes the server commands.
#[derive(Debug, Default)]
struct Recorder(RefCell<Vec<String>>);

impl ServerCommands for Recorder {
    fn init(&self, config: NodeConfig) -> Result<(), CliError> {
        self.0.borrow_mut().push(format!("init {} {}", config.name, config.listen));
        Ok(())
    }
    fn join(&self, config: NodeConfig, join: JoinConfig) -> Result<(), CliError> {
        let peers: Vec<String> = join.peers.iter().map(ToString::to_string).collect();
        let line = format!("join {} {} {}", config.name, join.token.expose(), peers.join(" "));
        self.0.borrow_mut().push(line);
        Ok(())
    }
    fn run(&self, config: NodeConfig) -> Result<(), CliError> {
        self.0.borrow_mut().push(format!("run {}", config.data_dir.display()));
        Err(CliError::new(Exit::Denied, "told to fail").hint("do not"))
    }
}

/// Runs a command line with this terminal and environment.
fn run_with(
    args: &[&str],
    server: &dyn ServerCommands,
    prepare: impl FnOnce(&mut Terminal),
    stdin: &'static str,
) -> Ran {
    let (mut terminal, stdout, stderr) = terminal(stdin);
    prepare(&mut terminal);
    let cli = Cli::try_parse_from(std::iter::once("longshore").chain(args.iter().copied()))
        .unwrap_or_else(|error| panic!("{error}"));
    let exit = run(cli, &mut terminal, server);
    Ran { exit, stdout: stdout.text(), stderr: stderr.text() }
}

fn run_alone(args: &[&str]) -> Ran {
    run_with(args, &Recorder::default(), |_| {}, "")
}

/// A served fleet.
struct Site {
    fleet: Arc<FakeFleet>,
    socket: PathBuf,
    runtime: tokio::runtime::Runtime,
    folder: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        Self::serving(FakeFleet::new())
    }

    fn serving(fleet: Arc<FakeFleet>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("longshore.sock");
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let site = Self { fleet, socket, runtime, folder };
        site.serve();
        site
    }

    /// Serves until the token is cancelled.
    fn serve(&self) -> CancellationToken {
        let shutdown = CancellationToken::new();
        let _runtime = self.runtime.enter();
        let listener = Box::new(UnixApiListener::bind(&self.socket).unwrap());
        let fleet = self.fleet.clone();
        self.runtime.spawn(serve::<TokioRuntime>(
            listener,
            fleet,
            Access::Full,
            ApiLimits::default(),
            shutdown.clone(),
        ));
        shutdown
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, |_| {}, "")
    }

    fn run_with(&self, args: &[&str], prepare: impl FnOnce(&mut Terminal), stdin: &'static str) -> Ran {
        let host = ["--host", self.socket.to_str().unwrap()];
        let args: Vec<&str> = host.iter().chain(args).copied().collect();
        run_with(&args, &Recorder::default(), prepare, stdin)
    }
}
