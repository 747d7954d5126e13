//! The real engine: Docker behind a unix socket, through bollard.
//!
//! Holds no connection and no knowledge between calls: each opens its own [`Connection`]. Must never retry.

mod builds;
mod containers;
mod events;
mod images;
mod output;
mod shapes;

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::errors::Error as BollardError;
use longshore_model::image::ImageReference;

use super::classify::Subject;
use super::connection::Connection;
use super::*;

const HTTP_NOT_FOUND: u16 = 404;

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a connection with a negotiated version. A starting dockerd accepts connections well before it answers.
    pub connect: Duration,
    /// For a reply to a question that an engine answers from memory.
    pub reply: Duration,
    /// For the next word of a pull, in whole seconds. Docker itself waits for ever on a registry that accepts a
    /// connection and then says nothing; unpacking a layer of many GiB onto a slow disk must fit, though.
    pub silence: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            reply: Duration::from_secs(30),
            silence: Duration::from_secs(300),
        }
    }
}

/// A Docker Engine, 20.10 or later, behind a unix socket.
#[derive(Debug, Clone)]
pub struct BollardEngine {
    socket: PathBuf,
    limits: Limits,
    /// For pulls and pushes of that registry's images.
    credentials: Option<Credentials>,
}

impl BollardEngine {
    /// Does not connect: an engine that is missing now may be there at the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_limits(socket, Limits::default())
    }

    pub fn with_limits(socket: impl Into<PathBuf>, limits: Limits) -> Self {
        Self { socket: socket.into(), limits, credentials: None }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// What Docker is to show the registry of an image.
    fn shown_to(&self, image: &ImageReference) -> Option<DockerCredentials> {
        let credentials = self.credentials.as_ref().filter(|known| known.registry == image.registry())?;
        Some(DockerCredentials {
            username: Some(credentials.username.clone()),
            password: Some(credentials.password.to_string()),
            serveraddress: Some(credentials.registry.clone()),
            ..DockerCredentials::default()
        })
    }

    fn endpoint(&self) -> String {
        self.socket.display().to_string()
    }

    /// `question` answered in time, with connection failures classified; `None` if the engine says there is no such thing.
    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<Option<T>, EngineError> {
        match tokio::time::timeout(self.limits.reply, question).await {
            Ok(Ok(reply)) => Ok(Some(reply)),
            Ok(Err(BollardError::DockerResponseServerError { status_code: HTTP_NOT_FOUND, .. })) => Ok(None),
            Ok(Err(BollardError::DockerResponseServerError { message, .. })) => {
                Err(EngineError::Refused { detail: classify::shorten(&message) })
            }
            Ok(Err(error)) => Err(self.interrupted(classify::describe(&error))),
            Err(_) => Err(self.interrupted(format!("no reply within {} s", self.limits.reply.as_secs_f32()))),
        }
    }

    /// A request about a container, which may take the engine a while: disks are slow, and `stop` waits. Failures are classified by what the
    /// engine says.
    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn demand<T>(
        &self,
        subject: Subject<'_>,
        patience: Duration,
        request: impl Future<Output = Result<T, BollardError>>,
    ) -> Result<T, EngineError> {
        match tokio::time::timeout(patience, request).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(error)) => Err(self.container_error(subject, error)),
            Err(_) => Err(self.interrupted(format!("no reply within {} s", patience.as_secs_f32()))),
        }
    }

    fn container_error(&self, subject: Subject<'_>, error: BollardError) -> EngineError {
        match error {
            BollardError::DockerResponseServerError { message, .. }
            | BollardError::DockerStreamError { error: message } => {
                classify::container_error(&self.endpoint(), subject, &message)
            }
            error => self.interrupted(classify::describe(&error)),
        }
    }

    fn interrupted(&self, detail: String) -> EngineError {
        EngineError::Interrupted { endpoint: self.endpoint(), detail }
    }

    async fn engine_info(&self) -> Result<EngineInfo, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let info = self.ask(connection.docker.info()).await?.unwrap_or_default();
        let version = self.ask(connection.docker.version()).await?.unwrap_or_default();
        let mut runtimes: Vec<String> = info.runtimes.unwrap_or_default().into_keys().collect();
        runtimes.sort_unstable();
        Ok(EngineInfo {
            version: version.version.unwrap_or_default(),
            api_version: connection.api_version.clone(),
            os: version.os.unwrap_or_default(),
            arch: version.arch.unwrap_or_default(),
            name: info.name.unwrap_or_default(),
            cpus: info.ncpu.and_then(|cpus| u32::try_from(cpus).ok()).unwrap_or(0),
            memory_bytes: info.mem_total.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0),
            root_dir: info.docker_root_dir.unwrap_or_default(),
            runtimes,
            storage_driver: info.driver.unwrap_or_default(),
            cgroup_version: info.cgroup_version.map_or_else(String::new, |version| version.to_string()),
        })
    }
}

impl ContainerEngine for BollardEngine {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        Box::pin(self.engine_info())
    }

    fn authorized(&self, credentials: Credentials) -> Arc<dyn ContainerEngine> {
        Arc::new(Self { credentials: Some(credentials), ..self.clone() })
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let image = image.clone();
        Box::pin(async move { self.pull_image(&image, on_progress).await })
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let image = image.clone();
        Box::pin(async move { self.push_image(&image, on_progress).await })
    }

    fn build(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let order = order.clone();
        Box::pin(async move { self.build_image(&order, context, on_progress).await })
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let (source, target) = (source.clone(), target.clone());
        Box::pin(async move { self.tag_image(&source, &target).await })
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        let image = image.clone();
        Box::pin(async move {
            let connection = Connection::open(&self.socket, self.limits).await?;
            self.inspect(&connection, &image).await
        })
    }

    fn create(&self, container: &NewContainer) -> BoxFuture<'_, Result<String, EngineError>> {
        let container = container.clone();
        Box::pin(async move { self.create_container(&container).await })
    }

    fn start(&self, container: &str) -> BoxFuture<'_, Result<(), EngineError>> {
        let container = container.to_owned();
        Box::pin(async move { self.start_container(&container).await })
    }

    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>> {
        let container = container.to_owned();
        Box::pin(async move { self.stop_container(&container, grace).await })
    }

    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Result<(), EngineError>> {
        let container = container.to_owned();
        Box::pin(async move { self.remove_container(&container, force).await })
    }

    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>> {
        let container = container.to_owned();
        Box::pin(async move { self.one_container(&container).await })
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>> {
        Box::pin(self.containers())
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>> {
        Box::pin(self.images())
    }

    fn find_image(&self, image: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>> {
        let image = image.to_owned();
        Box::pin(async move { self.one_image(&image).await })
    }

    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>> {
        Box::pin(self.volumes())
    }

    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>> {
        let volume = volume.to_owned();
        Box::pin(async move { self.one_volume(&volume).await })
    }

    fn watch(&self, on_changed: OnChanged) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.watch_events(on_changed))
    }

    fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        let (container, query) = (container.to_owned(), query.clone());
        Box::pin(async move { self.tell_output(&container, &query, output).await })
    }

    fn exec(
        &self,
        container: &str,
        command: &ExecSpec,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<i64, EngineError>> {
        let (container, command) = (container.to_owned(), command.clone());
        Box::pin(async move { self.execute(&container, &command, output).await })
    }
}
