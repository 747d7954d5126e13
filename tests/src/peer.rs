//! One `longshore` server process on an address and a data folder of its own.
//!
//! Its output goes to files beside its data folder; when the test fails they are printed. It is killed, by its process id,
//! when dropped.

use std::ffi::OsString;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::cli::{Cli, Ended, clean_environment, exit_code};
use crate::http::Http;
use crate::wait::{Stopwatch, eventually, eventually_value, pause};
use crate::{binary, procfs, tools};

/// The port peers use unless a test is about ports.
pub const DEFAULT_PORT: u16 = 7400;
/// How long a peer may take until it prints `ready`, on a machine that is busy with other tests.
const READY_TIMEOUT: Duration = Duration::from_secs(40);
/// How much of a log is printed when a test fails.
const LOG_TAIL_LINES: usize = 60;

/// How a peer is started.
#[derive(Debug, Clone)]
pub enum Start {
    Init,
    Join { token: String, seeds: Vec<String> },
    Run,
}

/// What a peer is started with.
#[derive(Debug, Clone)]
pub struct PeerSpec {
    pub name: String,
    pub listen: SocketAddrV4,
    pub data_dir: PathBuf,
    /// The engine's socket, or `none`.
    pub docker: String,
    /// Further arguments.
    pub extra: Vec<OsString>,
    pub env: Vec<(String, OsString)>,
    /// A program with its arguments that is given the server's command line. It must leave the process id to the server
    /// (`strace -D`, `env`), or signals would reach the wrong process.
    pub wrapper: Vec<OsString>,
}

impl PeerSpec {
    pub fn new(name: impl Into<String>, address: Ipv4Addr, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            listen: SocketAddrV4::new(address, DEFAULT_PORT),
            data_dir: data_dir.into(),
            docker: "none".to_owned(),
            extra: Vec::new(),
            env: Vec::new(),
            wrapper: Vec::new(),
        }
    }

    pub fn docker(mut self, socket: impl Into<String>) -> Self {
        self.docker = socket.into();
        self
    }

    /// Adds arguments.
    pub fn with<S: Into<OsString>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.extra.extend(args.into_iter().map(Into::into));
        self
    }

    /// Lets the process see a wall clock that is off by `seconds`; its monotonic clock stays true.
    pub fn clock_off_by(mut self, seconds: i64) -> Self {
        let library = tools::faketime_library().expect("the test has asked for the tool");
        self.env.push(("LD_PRELOAD".to_owned(), library.into_os_string()));
        self.env.push(("FAKETIME".to_owned(), format!("{seconds:+}s").into()));
        for switch in ["FAKETIME_DONT_FAKE_MONOTONIC", "DONT_FAKE_MONOTONIC", "FAKETIME_DONT_RESET"] {
            self.env.push((switch.to_owned(), "1".into()));
        }
        self
    }

    /// `address:port` as a seed for joiners.
    pub fn seed(&self) -> String {
        self.listen.to_string()
    }

    /// The command line of a start, without the program.
    pub fn args(&self, start: &Start) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        match start {
            Start::Init => args.push("init".into()),
            Start::Run => args.push("run".into()),
            Start::Join { token, seeds } => {
                args.extend(["join", "--token"].map(OsString::from));
                args.push(token.into());
                args.extend(seeds.iter().map(OsString::from));
            }
        }
        args.extend([OsString::from("--data-dir"), self.data_dir.clone().into_os_string()]);
        args.extend([OsString::from("--name"), OsString::from(&self.name)]);
        args.extend([OsString::from("--listen"), self.listen.to_string().into()]);
        args.extend([OsString::from("--docker"), OsString::from(&self.docker)]);
        args.extend(self.extra.iter().cloned());
        args
    }

    /// Starts the process and returns at once.
    pub fn spawn(&self, start: &Start) -> Peer {
        let mut peer = Peer { spec: self.clone(), child: None, starts: 0 };
        peer.spawn(start);
        peer
    }

    /// Starts the process and waits until it is ready.
    #[track_caller]
    pub fn start(&self, start: &Start) -> Peer {
        let peer = self.spawn(start);
        peer.wait_ready();
        peer
    }

    /// Runs a start that must end by itself, in an error.
    #[track_caller]
    pub fn start_ends(&self, start: &Start) -> Ended {
        assert!(self.wrapper.is_empty(), "not for wrapped peers");
        self.env.iter().fold(Cli::new(self.args(start)), |cli, (name, value)| cli.env(name, value)).run()
    }
}

/// A server process, or the place of one that has ended.
#[derive(Debug)]
pub struct Peer {
    pub spec: PeerSpec,
    child: Option<Child>,
    starts: u32,
}

impl Peer {
    fn spawn(&mut self, start: &Start) {
        assert!(self.child.is_none(), "{} is running", self.spec.name);
        self.starts += 1;
        let mut words = self.spec.wrapper.clone();
        words.push(binary::longshore().as_os_str().to_owned());
        words.extend(self.spec.args(start));
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).stdin(Stdio::null());
        clean_environment(&mut command);
        command.envs(self.spec.env.iter().map(|(name, value)| (name, value)));
        let (stdout, stderr) = (self.output_path("out"), self.output_path("err"));
        if let Some(parent) = stdout.parent() {
            std::fs::create_dir_all(parent).expect("the test's folder can be made");
        }
        command.stdout(File::create(stdout).expect("the output file can be made"));
        command.stderr(File::create(stderr).expect("the log file can be made"));
        self.child =
            Some(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")));
    }

    /// Files of the latest start: `<data-dir>.<n>.out` and `.err`.
    fn output_path(&self, kind: &str) -> PathBuf {
        let mut path = self.spec.data_dir.clone().into_os_string();
        path.push(format!(".{}.{kind}", self.starts));
        path.into()
    }

    pub fn stdout(&self) -> String {
        std::fs::read_to_string(self.output_path("out")).unwrap_or_default()
    }

    /// The log.
    pub fn stderr(&self) -> String {
        std::fs::read_to_string(self.output_path("err")).unwrap_or_default()
    }

    pub fn name(&self) -> &str {
        &self.spec.name
    }

    #[track_caller]
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap_or_else(|| panic!("{} is not running", self.spec.name)).id()
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Waits until it has printed `ready`.
    #[track_caller]
    pub fn wait_ready(&self) {
        let what = format!("{} to print `ready`", self.spec.name);
        eventually_value(&what, READY_TIMEOUT, || {
            let stdout = self.stdout();
            if stdout.lines().any(|line| line == "ready") {
                return Ok(());
            }
            assert!(
                !self.has_ended(),
                "{} ended before it was ready\n--- stdout\n{stdout}--- stderr\n{}",
                self.spec.name,
                self.stderr()
            );
            Err(format!("stdout {stdout:?}, last log line {:?}", self.stderr().lines().last().unwrap_or("")))
        });
    }

    fn has_ended(&self) -> bool {
        let Some(child) = &self.child else { return true };
        // A child that ended and was not waited for is a zombie: state Z, third field of its stat.
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap_or_default();
        stat.rsplit(')').next().is_none_or(|rest| rest.trim_start().starts_with('Z'))
    }

    /// The rest of the first line of standard output that starts with `prefix`.
    #[track_caller]
    pub fn printed(&self, prefix: &str) -> String {
        let stdout = self.stdout();
        stdout
            .lines()
            .find_map(|line| line.strip_prefix(prefix))
            .unwrap_or_else(|| panic!("{} printed no line {prefix:?}:\n{stdout}", self.spec.name))
            .trim()
            .to_owned()
    }

    pub fn fleet_id(&self) -> String {
        self.printed("fleet ")
    }

    /// Its id, such as `n3`.
    pub fn node_id(&self) -> String {
        let line = self.printed("node ");
        line.split(' ').next().unwrap_or_default().to_owned()
    }

    /// The words after `longshore join` in the line that `init` printed for joiners.
    #[track_caller]
    pub fn join_line(&self) -> Vec<String> {
        let stdout = self.stdout();
        let line = stdout
            .lines()
            .find_map(|line| line.trim_start().strip_prefix("longshore join "))
            .unwrap_or_else(|| panic!("{} printed no join line:\n{stdout}", self.spec.name));
        line.split_ascii_whitespace().map(str::to_owned).collect()
    }

    /// The token that `init` printed.
    #[track_caller]
    pub fn token(&self) -> String {
        let words = self.join_line();
        let at = words.iter().position(|word| word == "--token").expect("the join line has --token");
        words[at + 1].clone()
    }

    pub fn socket(&self) -> PathBuf {
        self.spec.data_dir.join("longshore.sock")
    }

    /// The whole API.
    pub fn http(&self) -> Http {
        Http::unix(self.socket())
    }

    /// The API for reads, over TCP.
    pub fn tcp(&self) -> Http {
        Http::tcp(SocketAddr::V4(self.spec.listen))
    }

    /// A client command against this peer.
    pub fn cli<S: Into<OsString>>(&self, args: impl IntoIterator<Item = S>) -> Cli {
        let mut words: Vec<OsString> = vec!["--host".into(), self.socket().into_os_string()];
        words.extend(args.into_iter().map(Into::into));
        Cli::new(words)
    }

    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid() as i32).expect("a process id is not 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.spec.name));
    }

    /// Kills it as a power cut would, as far as a process can be, and waits until it is gone.
    pub fn kill9(&mut self) {
        self.signal(Signal::KILL);
        let mut child = self.child.take().expect("it was running");
        child.wait().expect("a child can be waited for");
    }

    /// Freezes it, and waits until it stands still.
    #[track_caller]
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
        eventually("it to stand still", Duration::from_secs(10), || procfs::is_stopped(self.pid()));
    }

    /// Lets a frozen one go on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks it to stop and gives its exit code.
    #[track_caller]
    pub fn terminate(&mut self, timeout: Duration) -> i32 {
        self.signal(Signal::TERM);
        self.wait_exit(timeout)
    }

    /// Waits until it ends by itself and gives its exit code.
    #[track_caller]
    pub fn wait_exit(&mut self, timeout: Duration) -> i32 {
        let watch = Stopwatch::start();
        loop {
            let child = self.child.as_mut().expect("it was running");
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                self.child = None;
                return exit_code(status);
            }
            assert!(watch.elapsed() < timeout, "{} is still running after {timeout:?}", self.spec.name);
            pause(Duration::from_millis(10));
        }
    }

    /// Starts it again, with `run`, and waits until it is ready.
    #[track_caller]
    pub fn restart(&mut self) {
        self.respawn(&Start::Run);
        self.wait_ready();
    }

    /// Starts it again and returns at once.
    pub fn respawn(&mut self, start: &Start) {
        self.spawn(start);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.stderr();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(LOG_TAIL_LINES)..];
            eprintln!("--- {}: {}\n{}", self.spec.name, self.output_path("out").display(), self.stdout());
            eprintln!("--- {}: end of {}", self.spec.name, self.output_path("err").display());
            eprintln!("{}", tail.join("\n"));
        }
    }
}
