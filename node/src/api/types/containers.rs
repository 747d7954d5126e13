//! Containers, images and volumes of all engines, and runs that the fleet keeps up.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// What `docker run` takes, of what the fleet can carry out on any host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RunRequest {
    /// A reference such as `nginx:1.27`; pulled where it is not there.
    pub image: String,
    /// What the containers are called: as it is if there is one, followed by `.1`, `.2` and so on if there are more.
    pub name: Option<String>,
    /// Empty: what the image says.
    pub command: Vec<String>,
    pub entrypoint: Option<Vec<String>>,
    /// `NAME=VALUE`
    pub env: Vec<String>,
    /// `[IP:][HOST_PORT:]PORT[/udp]`
    pub ports: Vec<String>,
    /// `[SOURCE:]TARGET[:ro]`
    pub volumes: Vec<String>,
    /// `no`, `on-failure[:N]`, `always` or `unless-stopped`: what the engine itself does when it ends. Not together with `keep`.
    pub restart: Option<String>,
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor.
    pub cpu_millis: Option<u32>,
    pub labels: BTreeMap<String, String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    pub network: Option<String>,
    /// Time between the polite signal and the one that ends it.
    pub stop_grace_s: Option<u32>,
    /// The fleet keeps all copies running: one that fails is started again, one whose host dies is started elsewhere.
    pub keep: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ContainerStateView {
    Created,
    Running,
    Paused,
    Restarting,
    Exited,
    Dead,
}

/// A container of an engine, whoever made it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ContainerView {
    pub node: String,
    /// The engine's id, 64 hexadecimal digits.
    pub id: String,
    pub name: String,
    pub image: String,
    pub state: ContainerStateView,
    /// Of one that has exited.
    pub exit_code: Option<i64>,
    pub health: Option<String>,
    /// Of the host, such as `0.0.0.0:8080->80/tcp`.
    pub ports: Vec<String>,
    pub created_at_ms: u64,
    /// The operation that made it, if it was one of this fleet.
    pub operation: Option<String>,
    /// The run that it is a copy of, if the fleet keeps it up.
    pub run: Option<String>,
}

/// A node whose engine could not be asked.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MissingNode {
    pub node: String,
    pub why: String,
}

/// A node whose engine does not answer, and of which a list has what was there when it was heard last.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StaleNode {
    pub node: String,
    /// When that was.
    pub as_of_ms: u64,
    /// Why its engine could not be asked.
    pub why: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ContainerList {
    pub containers: Vec<ContainerView>,
    /// What is on these may have changed since.
    #[serde(default)]
    pub stale: Vec<StaleNode>,
    /// What is on these is not in the list, or not all of it.
    pub missing: Vec<MissingNode>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ImageView {
    pub node: String,
    pub id: String,
    /// Names with a tag; none for what lost its name.
    pub tags: Vec<String>,
    pub size_bytes: u64,
    pub created_at_ms: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct ImageList {
    pub images: Vec<ImageView>,
    #[serde(default)]
    pub stale: Vec<StaleNode>,
    pub missing: Vec<MissingNode>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct VolumeView {
    pub node: String,
    pub name: String,
    pub driver: String,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct VolumeList {
    pub volumes: Vec<VolumeView>,
    #[serde(default)]
    pub stale: Vec<StaleNode>,
    pub missing: Vec<MissingNode>,
}

/// Which nodes are asked.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct EngineQuery {
    /// This node only, by name, id, or `self`.
    #[serde(default)]
    pub on: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CopyStateView {
    Starting,
    Up,
    /// It was up when its node, or the engine, was last heard of.
    Unheard,
    /// It is being replaced, or waits for that.
    Down,
    /// It ended by itself, with exit code 0.
    Completed,
}

/// One of the copies of a run.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CopyView {
    /// From 1.
    pub copy: u32,
    pub node: String,
    pub state: CopyStateView,
    /// The name of its container.
    pub container: String,
    /// The engine's id of its container, once it is up.
    pub container_id: Option<String>,
    /// The operation that made it, or is about to.
    pub operation: String,
    /// Why it is down, or not heard of.
    pub why: Option<String>,
}

/// A run that the fleet keeps up.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RunView {
    /// Of the operation that began it.
    pub id: String,
    pub name: Option<String>,
    pub image: String,
    /// Somebody stopped it.
    pub stopped: bool,
    pub copies: Vec<CopyView>,
}

/// What is to become of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunChange {
    Stop,
    Start,
    /// It is kept no more, and its containers are removed, now or when their host is back.
    Remove,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RunChangeRequest {
    pub change: RunChange,
}

/// Which of a container's output.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct LogsQuery {
    /// Stay, for what is still to come.
    #[serde(default)]
    pub follow: bool,
    /// The last so many lines of each only.
    #[serde(default)]
    pub tail: Option<u32>,
    /// What was written since then, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Each line begins with the time at which it was written.
    #[serde(default)]
    pub timestamps: bool,
    /// On this node only.
    #[serde(default)]
    pub on: Option<String>,
}

/// A command for a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ExecRequest {
    pub command: Vec<String>,
    /// `NAME=VALUE`
    pub env: Vec<String>,
    pub user: Option<String>,
    pub working_dir: Option<String>,
    /// On this node only.
    pub on: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputStream {
    Stdout,
    Stderr,
}

/// A piece of what a container, or a command in it, wrote; or its end.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum OutputView {
    Piece {
        node: String,
        container: String,
        stream: OutputStream,
        /// Bytes as they came, not lines, in base64.
        data: String,
    },
    /// The command ended.
    Exit { code: i64 },
    /// There is no more of this container; of the others there may be.
    Lost { node: String, container: String, why: String },
}
