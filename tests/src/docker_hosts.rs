//! Docker Engines of a test's own, with a registry, through `scripts/docker-hosts`.
//!
//! Everything is in a folder of its own and goes with the value, also when the test panics; when the test process is
//! killed, a watcher of the script sees to it. Processes are known by the pids that the script recorded.

use std::io::ErrorKind;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use longshore_model::image::ImageReference;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

use crate::procfs;
use crate::wait::eventually;

/// Why engines cannot be run on this machine, one reason a line.
#[derive(Debug, thiserror::Error)]
#[error("Docker Engines cannot be run here: {0}")]
pub struct Why(pub String);

/// Whether this machine can run engines. As root and with Debian's packages it can (`scripts/docker-hosts install`).
pub fn available() -> Result<(), Why> {
    let checked = script().arg("check").output().map_err(|error| Why(error.to_string()))?;
    if checked.status.success() {
        return Ok(());
    }
    Err(Why(String::from_utf8_lossy(&checked.stderr).trim().to_owned()))
}

/// Size of the large image: with the small one's few layers it must be worth slowing down, and quick to make.
const LARGE_IMAGE_MIB: u32 = 8;

/// Engines `0..count` and a registry. Engine `k` is the script's `host-<k + 1>`.
#[derive(Debug)]
pub struct DockerHosts {
    dir: PathBuf,
    // Removed last, after the script has taken down what is in it.
    _parent: tempfile::TempDir,
    state: State,
}

#[derive(Debug, Deserialize)]
struct State {
    hosts: Vec<Host>,
    registry: Registry,
    images: Images,
}

#[derive(Debug, Deserialize)]
struct Host {
    socket: PathBuf,
}

#[derive(Debug, Deserialize)]
struct Registry {
    /// `127.0.0.1:PORT`
    address: String,
}

#[derive(Debug, Deserialize)]
struct Images {
    small: ImageReference,
    small2: ImageReference,
    large: ImageReference,
    foreign: ImageReference,
}

impl DockerHosts {
    /// Starts `count` engines without images, and a registry with four images. Takes some seconds.
    pub fn start(count: usize) -> Result<Self> {
        available()?;
        // Short names: the path of a unix socket may have 107 characters.
        let parent = tempfile::Builder::new().prefix("lsd-").tempdir().context("a folder for the engines")?;
        let dir = parent.path().join("d");
        let mut up = script();
        up.arg("up").arg(count.to_string()).arg("--dir").arg(&dir);
        up.args(["--no-install", "--format", "json", "--large-mib", &LARGE_IMAGE_MIB.to_string()]);
        up.args(["--until-exit-of", &std::process::id().to_string()]);
        // Before it is known to have worked: what was started of a failed start must go as well.
        let mut hosts = Self {
            dir,
            _parent: parent,
            state: State {
                hosts: Vec::new(),
                registry: Registry { address: String::new() },
                images: placeholder_images(),
            },
        };
        let printed = run(&mut up)?;
        hosts.state =
            serde_json::from_str(&printed).with_context(|| format!("docker-hosts printed {printed:?}"))?;
        Ok(hosts)
    }

    pub fn count(&self) -> usize {
        self.state.hosts.len()
    }

    /// Folder of everything.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Folder of one engine: `data/`, `exec/`, `log`.
    pub fn engine_dir(&self, engine: usize) -> PathBuf {
        self.dir.join(name(engine))
    }

    /// Socket of one engine.
    pub fn socket(&self, engine: usize) -> &Path {
        &self.state.hosts[engine].socket
    }

    /// `127.0.0.1:PORT`, the same for the life of this value.
    pub fn registry(&self) -> &str {
        &self.state.registry.address
    }

    /// One small layer.
    pub fn small_image(&self) -> &ImageReference {
        &self.state.images.small
    }

    /// Another small image, which shares nothing with the first.
    pub fn other_small_image(&self) -> &ImageReference {
        &self.state.images.small2
    }

    /// Five layers, 8 MiB of random data and a busybox.
    pub fn large_image(&self) -> &ImageReference {
        &self.state.images.large
    }

    /// Its shell is for a processor that no engine runs on.
    pub fn foreign_image(&self) -> &ImageReference {
        &self.state.images.foreign
    }

    /// Makes a network in which an engine's containers can publish ports: by themselves these engines have none. It goes with the value.
    pub fn make_network(&self, engine: usize, name: &str) -> Result<()> {
        let mut docker = Command::new("docker");
        docker.arg("--host").arg(format!("unix://{}", self.socket(engine).display()));
        docker.args(["network", "create", name]).stdin(Stdio::null());
        run(&mut docker).map(drop)
    }

    /// Not in the registry, though the repository is.
    pub fn missing_image(&self) -> ImageReference {
        format!("{}:missing", self.small_image().name()).parse().expect("a well-formed tag")
    }

    /// Asks an engine to end and waits for it.
    pub fn stop(&self, engine: usize) -> Result<()> {
        self.script_on("stop", &name(engine))
    }

    /// Kills an engine with SIGKILL and waits until nothing listens on its socket. Its containerd is left, as when it
    /// dies for real.
    pub fn kill(&self, engine: usize) -> Result<()> {
        self.signal(engine, Signal::KILL)?;
        // The kernel closes a dead process's files one after the other: its last connection before, say, its listener.
        eventually("the killed engine to listen no more", Duration::from_secs(10), || {
            UnixStream::connect(self.socket(engine))
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        Ok(())
    }

    /// Stops an engine's process where it stands (SIGSTOP) and waits until it does: connections stay open, and nothing answers.
    pub fn pause(&self, engine: usize) -> Result<()> {
        self.signal(engine, Signal::STOP)?;
        let pid = self.pid(engine)?.as_raw_nonzero().get().unsigned_abs();
        eventually("the engine to stand still", Duration::from_secs(10), || procfs::is_stopped(pid));
        Ok(())
    }

    pub fn resume(&self, engine: usize) -> Result<()> {
        self.signal(engine, Signal::CONT)
    }

    /// Starts an engine again and waits until it answers. Its images are still there.
    pub fn restart(&self, engine: usize) -> Result<()> {
        self.script_on("start", &name(engine))
    }

    /// Gives an engine that does not run a file system of its own in memory, of a size such as `size=6m`. What it had is hidden by it. It goes with the value.
    pub fn shrink_disk(&self, engine: usize, size: &str) -> Result<()> {
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", size, "tmpfs"])
            .arg(self.engine_dir(engine).join("data")))
        .map(drop)
    }

    /// Gives the file system of [`Self::shrink_disk`] another size; the engine may run.
    pub fn grow_disk(&self, engine: usize, size: &str) -> Result<()> {
        let option = format!("remount,{size}");
        run(Command::new("mount").args(["-o", &option]).arg(self.engine_dir(engine).join("data"))).map(drop)
    }

    pub fn stop_registry(&self) -> Result<()> {
        self.script_on("stop", "registry")
    }

    /// Starts the registry again, on the same port.
    pub fn restart_registry(&self) -> Result<()> {
        self.script_on("start", "registry")
    }

    fn signal(&self, engine: usize, signal: Signal) -> Result<()> {
        let pid = self.pid(engine)?;
        kill_process(pid, signal).with_context(|| format!("cannot signal {pid:?}"))
    }

    fn pid(&self, engine: usize) -> Result<Pid> {
        let path = self.engine_dir(engine).join("process");
        let record =
            std::fs::read_to_string(&path).with_context(|| format!("no record {}", path.display()))?;
        let pid = record.split_whitespace().next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
        pid.with_context(|| format!("{} says {record:?}", path.display()))
    }

    fn script_on(&self, command: &str, operand: &str) -> Result<()> {
        run(script().args([command, operand]).arg("--dir").arg(&self.dir)).map(drop)
    }
}

impl Drop for DockerHosts {
    fn drop(&mut self) {
        if let Err(error) = run(script().arg("down").arg("--dir").arg(&self.dir)) {
            eprintln!("the engines in {} may be left running: {error:#}", self.dir.display());
        }
    }
}

fn name(engine: usize) -> String {
    format!("host-{}", engine + 1)
}

fn placeholder_images() -> Images {
    let none: ImageReference = "localhost/none".parse().expect("well-formed");
    Images { small: none.clone(), small2: none.clone(), large: none.clone(), foreign: none }
}

fn script() -> Command {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/docker-hosts");
    let mut command = Command::new(path);
    command.stdin(Stdio::null());
    command
}

/// Its standard output; what it said on standard error when it failed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{:?} cannot be run", command.get_program()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{command:?} failed: {said}");
    }
    Ok(String::from_utf8(output.stdout)?)
}
