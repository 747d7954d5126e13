//! What the port says of containers: how one is made, what it is, what comes out of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::container::ContainerSpec;
use tokio::sync::mpsc;

/// A container to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewContainer {
    /// Two containers of an engine never have the same: that is what an attempt that comes twice meets.
    pub name: String,
    pub spec: ContainerSpec,
    /// Beside those of the spec: whose it is.
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum ContainerState {
    /// Made, and never started.
    Created,
    Running,
    Paused,
    Restarting,
    Exited {
        code: i64,
    },
    /// The engine is taking it away, or failed to.
    Dead,
}

impl ContainerState {
    /// Whether its processes are there.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }
}

/// A container of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Container {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Without the slash that Docker puts before it.
    pub name: String,
    /// As it was given when the container was made.
    pub image: String,
    pub state: ContainerState,
    /// All of its labels, those of the image too.
    pub labels: BTreeMap<String, String>,
    pub created_unix_s: u64,
    /// Of the host, such as `0.0.0.0:8080->80/tcp`; sorted.
    pub ports: Vec<String>,
    /// What the container says of itself, `healthy` or `unhealthy`, if it says anything.
    pub health: Option<String>,
}

/// An image of an engine, as listed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListedImage {
    /// `sha256:...`.
    pub id: String,
    /// Names with a tag, sorted; none for what lost its name.
    pub tags: Vec<String>,
    pub size_bytes: u64,
    pub created_unix_s: u64,
}

/// A volume of an engine.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct ListedVolume {
    pub name: String,
    pub driver: String,
}

/// What something happened to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Changed {
    /// Anything: whatever happened before this moment was not told.
    Everything,
    /// The container of this id.
    Container(String),
    /// The image of this id or name. Others may have lost a name to it.
    Image(String),
    /// The volume of this name.
    Volume(String),
}

/// Called for each event, beginning with [`Changed::Everything`] when the engine listens. Must not block.
pub type OnChanged = Arc<dyn Fn(Changed) + Send + Sync>;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// A piece of what a container wrote, as it came: not a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    pub stream: Stream,
    pub bytes: Bytes,
}

/// Takes output; whoever is slow slows the engine down, and one that is dropped ends the call.
pub type OutputSink = mpsc::Sender<Output>;

/// Which of a container's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct LogQuery {
    /// Stay, for what is still to come.
    pub follow: bool,
    /// The last so many lines only.
    pub tail: Option<u32>,
    /// What was written since, seconds since 1970; 0: all.
    pub since_unix_s: i64,
    /// Each line begins with the time at which it was written (RFC 3339).
    pub timestamps: bool,
}

/// A command for a container that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub struct ExecSpec {
    /// Not empty.
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
}
