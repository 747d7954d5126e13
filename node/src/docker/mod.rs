//! The container-engine port and its implementations. The only module that names bollard.
//!
//! [`BollardEngine`] is the real one, [`NoEngine`] stands for `--docker none`, [`FakeEngine`] follows a script;
//! [`conformance`] is what the real and the fake both pass.
//!
//! Must never: decide policy, retry on its own, or log credentials.

mod bollard_engine;
mod builds;
mod capabilities;
mod classify;
pub mod conformance;
mod connection;
mod containers;
mod endpoint;
mod fake;
mod none;
mod progress;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use zeroize::Zeroizing;

pub use bollard_engine::{BollardEngine, Limits};
pub use builds::{BuildOrder, ContextBytes};
pub use containers::*;
pub use endpoint::{EndpointError, EngineEndpoint};
pub use fake::{
    Asked, Commands, ContainerCall, ContainerScript, Executed, FakeEngine, FakeImage, Happened, JournalEntry,
    OnJournal, Program, Programs, PullCounts, PullScript, WRITTEN_BYTES_MAX,
};
pub use none::NoEngine;

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What an engine says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    /// The API version negotiated, such as `1.41`.
    pub api_version: String,
    pub os: String,
    pub arch: String,
    pub name: String,
    /// Processors and memory of the host, as far as the engine may use them.
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Folder with its images, on its host.
    pub root_dir: String,
    /// What containers can be run with, such as `runc`; sorted.
    pub runtimes: Vec<String>,
    /// Such as `overlay2`.
    pub storage_driver: String,
    /// `1` or `2`; empty if the engine does not tell.
    pub cgroup_version: String,
}

/// Progress of one pull or push, summed over layers. Bytes of layers not yet announced are not in `total_bytes`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullProgress {
    pub layers_total: u32,
    pub layers_done: u32,
    pub current_bytes: u64,
    pub total_bytes: u64,
}

/// An image that the engine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalImage {
    /// The engine's image id, `sha256:...`.
    pub id: String,
    /// Repository digest, `sha256:...`, if the engine knows one.
    pub digest: Option<String>,
    pub size_bytes: u64,
}

/// Why an engine did not do what it was asked. The variant says what the caller can do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// No engine at the socket. Retry with backoff; the node is not eligible meanwhile.
    #[error("no Docker engine at {endpoint}: {detail}; start dockerd, or name its socket with --docker")]
    Unavailable { endpoint: String, detail: String },
    #[error(
        "no permission to use the Docker engine at {endpoint}; run as root or as a member of the group that owns the socket"
    )]
    Forbidden { endpoint: String },
    #[error("Docker engine {version} at {endpoint} is too old; 20.10 or later is needed")]
    TooOld { endpoint: String, version: String },
    /// The image, or this tag or platform of it, does not exist, or needs credentials. Give up.
    #[error("image {image} was not found: {detail}")]
    ImageNotFound { image: String, detail: String },
    /// The engine does not have the image. Pull it first.
    #[error("the engine has no image {image}; pull it first")]
    NoSuchImage { image: String },
    /// The registry wants credentials, or others. Give up.
    #[error(
        "the registry of {image} refused: {detail}; `longshore login` tells the fleet a name and a password"
    )]
    Denied { image: String, detail: String },
    /// The registry did not answer. Retry with backoff.
    #[error("the registry of {image} cannot be reached: {detail}")]
    RegistryUnavailable { image: String, detail: String },
    /// The connection to the engine broke in the middle. The pull was cancelled with it; retry.
    #[error("the Docker engine at {endpoint} went away: {detail}")]
    Interrupted { endpoint: String, detail: String },
    /// There is no container of this name or id. Give up.
    #[error("the engine has no container {container}")]
    NoSuchContainer { container: String },
    /// Another container has this name. Whose it is, its labels say.
    #[error("the name {name} is taken by another container of the engine")]
    NameTaken { name: String },
    /// A port of the host that something else listens on. Give up; another node may have it free.
    #[error("a port that {container} asks for is taken on this host: {detail}")]
    PortTaken { container: String, detail: String },
    /// What was asked can be done to a running container only.
    #[error("container {container} is not running")]
    NotRunning { container: String },
    /// What was asked can not be done to a running container.
    #[error("container {container} is running; stop it first, or force it")]
    StillRunning { container: String },
    /// The image is for another processor or operating system. Give up; another node may fit.
    #[error("image {image} does not run on this host: {detail}")]
    WrongPlatform { image: String, detail: String },
    /// A step of a Dockerfile failed, or it is none that an engine can follow. Give up.
    #[error("the build failed: {detail}")]
    BuildFailed { detail: String },
    /// No node has a sound copy of the folder that was to be built any more. Give up.
    #[error(
        "the build context is gone: no node has an undamaged copy of it any more; build again, and the folder is sent again"
    )]
    ContextGone,
    /// This node takes smaller ones only. Give up here; another node may take it.
    #[error(
        "the build context has {bytes} bytes, and this node takes {limit} at most; raise limits.build_context here, build on another node with --on, or list what the build does not need in .dockerignore"
    )]
    ContextTooLarge { bytes: u64, limit: u64 },
    /// It is on a node that does not answer, or there is no room for it here. Retry as long as there is time.
    #[error("the build context can not be had: {detail}")]
    ContextUnavailable { detail: String },
    #[error("the disk of the engine is full: {detail}")]
    DiskFull { detail: String },
    /// The fleet's log has to be asked first, and does not answer. Retry with backoff.
    #[error("the fleet can not be asked {detail}")]
    Undecided { detail: String },
    /// This node was told to run without an engine. Give up here; another node may have one.
    #[error("this node runs without a Docker engine: it was started with --docker none")]
    Disabled,
    /// Anything else the engine said. Give up.
    #[error("the Docker engine refused: {detail}")]
    Refused { detail: String },
}

impl EngineError {
    /// Whether the same call may succeed later without anybody changing the request.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Unavailable { .. }
                | Self::RegistryUnavailable { .. }
                | Self::Interrupted { .. }
                | Self::Undecided { .. }
                | Self::ContextUnavailable { .. }
                | Self::DiskFull { .. }
        )
    }
}

/// How an engine is to be known to a registry, for one call.
#[derive(Clone)]
pub struct Credentials {
    pub registry: String,
    pub username: String,
    pub password: Zeroizing<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({}, ..)", self.registry)
    }
}

/// Called with progress, at most once per message of the engine. Must not block.
pub type OnProgress = Arc<dyn Fn(PullProgress) + Send + Sync>;

/// A Docker Engine, 20.10 or later. Dropping a returned future cancels the work: it closes the connection.
pub trait ContainerEngine: Send + Sync + 'static {
    /// Connects if needed, negotiates the API version, and says what answers. Never cached for long: an engine may be
    /// replaced under its socket at any time.
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>>;
    /// The same engine, which shows the registry these credentials when it pulls and pushes its images.
    fn authorized(&self, credentials: Credentials) -> Arc<dyn ContainerEngine>;
    /// Pulls an image. Idempotent.
    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>>;
    /// Sends an image that the engine has to the registry that its name says. Idempotent. Progress has no bytes: the engine does not tell
    /// whose they are.
    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>>;
    /// Builds an image out of a context and gives it its names. Idempotent. Progress has the steps of the Dockerfile for layers, and no bytes.
    fn build(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>>;
    /// Gives a local image a further name, which any other image loses. Idempotent.
    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>>;
    /// The local image under this reference, if there is one.
    fn inspect_image(&self, image: &ImageReference)
    -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>>;
    /// Makes a container from an image that the engine has. Its id. Does not start it.
    fn create(&self, container: &NewContainer) -> BoxFuture<'_, Result<String, EngineError>>;
    /// Starts a container that is not running. Idempotent.
    fn start(&self, container: &str) -> BoxFuture<'_, Result<(), EngineError>>;
    /// Ends a container's processes: politely, and after `grace` (the container's own if there is none) for good. Idempotent.
    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>>;
    /// Takes a container away with its anonymous volumes; one that runs only if `force`. Idempotent: one that is not there is no error.
    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Result<(), EngineError>>;
    /// The container of this name or id, if there is one.
    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>>;
    /// All containers, those too that do not run; by name.
    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>>;
    /// All images but those that only others are built on; by id.
    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>>;
    /// The image of this id or name as it is listed, if there is one; one without a name may be such as is not listed.
    fn find_image(&self, image: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>>;
    /// By name.
    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>>;
    /// The volume of this name, if there is one.
    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>>;
    /// Tells of everything that happens from now on, until the connection breaks: it always ends with an error.
    fn watch(&self, on_changed: OnChanged) -> BoxFuture<'_, Result<(), EngineError>>;
    /// What a container has written. Ends when all is told; with `follow`, when the container has ended.
    fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<(), EngineError>>;
    /// Runs a command in a running container. Its exit code. Dropping the future leaves the command running: Docker has no way to end it.
    fn exec(
        &self,
        container: &str,
        command: &ExecSpec,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<i64, EngineError>>;
}
