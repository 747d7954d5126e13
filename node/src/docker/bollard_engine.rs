//! The real engine: Docker behind a unix socket, through bollard.
//!
//! Holds no connection and no knowledge between calls: each opens its own [`Connection`]. Must never retry.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as BollardError;
use bollard::models::ImageInspect;
use bollard::query_parameters::{CreateImageOptions, PushImageOptions, TagImageOptions};
use futures_util::StreamExt;
use longshore_model::image::ImageReference;

use super::classify::{self, Context};
use super::connection::Connection;
use super::progress::{LayerMessage, PullTracker, PushTracker};
use super::{BoxFuture, ContainerEngine, EngineError, EngineInfo, LocalImage, OnProgress};

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
}

impl BollardEngine {
    /// Does not connect: an engine that is missing now may be there at the first call.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self::with_limits(socket, Limits::default())
    }

    pub fn with_limits(socket: impl Into<PathBuf>, limits: Limits) -> Self {
        Self { socket: socket.into(), limits }
    }

    pub fn socket(&self) -> &Path {
        &self.socket
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

    fn interrupted(&self, detail: String) -> EngineError {
        EngineError::Interrupted { endpoint: self.endpoint(), detail }
    }

    async fn engine_info(&self) -> Result<EngineInfo, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let info = self.ask(connection.docker.info()).await?.unwrap_or_default();
        let version = &connection.version;
        Ok(EngineInfo {
            version: version.version.clone().unwrap_or_default(),
            api_version: connection.api_version.clone(),
            os: version.os.clone().unwrap_or_default(),
            arch: version.arch.clone().unwrap_or_default(),
            name: info.name.unwrap_or_default(),
        })
    }

    async fn inspect(
        &self,
        connection: &Connection,
        image: &ImageReference,
    ) -> Result<Option<LocalImage>, EngineError> {
        let found = self.ask(connection.docker.inspect_image(&pinned_name(image))).await?;
        Ok(found.map(|found| pulled_image(image, found)))
    }

    async fn pull_image(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let endpoint = self.endpoint();
        let familiar = image.familiar();
        let context = Context { endpoint: &endpoint, image: &familiar };

        let options = CreateImageOptions {
            from_image: Some(image.name()),
            // The API takes a digest here as well; where there are both, the digest decides, as in `docker pull`.
            tag: image.digest().or(image.tag()).map(str::to_owned),
            ..CreateImageOptions::default()
        };
        let mut messages = connection.docker.create_image(Some(options), None, None);
        let mut tracker = PullTracker::default();
        while let Some(message) = self.next_message(&mut messages, context, classify::pull_error).await? {
            let layer = LayerMessage {
                id: message.id.as_deref(),
                status: message.status.as_deref().unwrap_or_default(),
                current_bytes: message.progress_detail.as_ref().and_then(|detail| detail.current),
                total_bytes: message.progress_detail.as_ref().and_then(|detail| detail.total),
            };
            if let Some(progress) = tracker.observe(layer) {
                on_progress(progress);
            }
        }
        drop(messages);

        // The stream's end is no proof; the image being there is.
        self.inspect(&connection, image)
            .await?
            .ok_or_else(|| self.interrupted("the pull ended, but the image is not there".to_owned()))
    }

    async fn push_image(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let (endpoint, familiar) = (self.endpoint(), image.familiar());
        let context = Context { endpoint: &endpoint, image: &familiar };
        let options = PushImageOptions { tag: image.tag().map(str::to_owned), ..PushImageOptions::default() };
        let mut messages = Box::pin(connection.docker.push_image(&image.name(), Some(options), None));
        let mut tracker = PushTracker::default();
        while let Some(message) = self.next_message(&mut messages, context, classify::push_error).await? {
            if let Some(progress) = message.status.as_deref().and_then(|status| tracker.observe(status)) {
                on_progress(progress);
            }
        }
        drop(messages);
        self.inspect(&connection, image)
            .await?
            .ok_or_else(|| EngineError::NoSuchImage { image: image.familiar() })
    }

    async fn tag_image(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> Result<LocalImage, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let options = TagImageOptions { repo: Some(target.name()), tag: target.tag().map(str::to_owned) };
        let tagged = self.ask(connection.docker.tag_image(&pinned_name(source), Some(options))).await?;
        let missing = || EngineError::NoSuchImage { image: source.familiar() };
        tagged.ok_or_else(missing)?;
        self.inspect(&connection, target).await?.ok_or_else(missing)
    }

    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn next_message<M>(
        &self,
        messages: &mut (impl StreamExt<Item = Result<M, BollardError>> + Unpin),
        context: Context<'_>,
        classified: fn(Context<'_>, &str) -> EngineError,
    ) -> Result<Option<M>, EngineError> {
        let silent = || EngineError::RegistryUnavailable {
            image: context.image.to_owned(),
            detail: format!("no progress for {} s", self.limits.silence.as_secs()),
        };
        match tokio::time::timeout(self.limits.silence, messages.next()).await {
            Ok(None) => Ok(None),
            Ok(Some(Ok(message))) => Ok(Some(message)),
            Ok(Some(Err(
                BollardError::DockerResponseServerError { message, .. }
                | BollardError::DockerStreamError { error: message },
            ))) => Err(classified(context, &message)),
            Ok(Some(Err(BollardError::RequestTimeoutError))) | Err(_) => Err(silent()),
            Ok(Some(Err(error))) => Err(self.interrupted(classify::describe(&error))),
        }
    }
}

/// The name under which the engine files what a pull of `image` brings.
fn pinned_name(image: &ImageReference) -> String {
    match (image.digest(), image.tag()) {
        (Some(digest), _) => format!("{}@{digest}", image.name()),
        (None, Some(tag)) => format!("{}:{tag}", image.name()),
        (None, None) => unreachable!("a reference has a tag or a digest"),
    }
}

fn pulled_image(image: &ImageReference, found: ImageInspect) -> LocalImage {
    let digests = found.repo_digests.unwrap_or_default();
    // An image has a digest for each repository it was pulled from, in the engine's own spelling.
    let digest = digests.iter().filter_map(|text| text.parse::<ImageReference>().ok()).find_map(|known| {
        let same = known.registry() == image.registry() && known.repository() == image.repository();
        if same { known.digest().map(str::to_owned) } else { None }
    });
    LocalImage {
        id: found.id.unwrap_or_default(),
        digest,
        size_bytes: u64::try_from(found.size.unwrap_or(0)).unwrap_or(0),
    }
}

impl ContainerEngine for BollardEngine {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        Box::pin(self.engine_info())
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
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:ea8594359c34637289cf8c0922e0eabe92231ad4fa7aa542323b92dff206f96c";

    fn image(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    #[test]
    fn a_digest_decides_over_a_tag() {
        assert_eq!(pinned_name(&image("nginx:1")), "docker.io/library/nginx:1");
        assert_eq!(
            pinned_name(&image(&format!("nginx:1@{DIGEST}"))),
            format!("docker.io/library/nginx@{DIGEST}")
        );
    }

    #[test]
    fn the_digest_of_this_repository_is_picked() {
        let found = ImageInspect {
            id: Some("sha256:1205".to_owned()),
            repo_digests: Some(vec![
                format!("other@sha256:{}", "0".repeat(64)),
                "<none>@<none>".to_owned(),
                format!("nginx@{DIGEST}"),
            ]),
            size: Some(-1),
            ..ImageInspect::default()
        };
        let pulled = pulled_image(&image("nginx:1"), found.clone());
        assert_eq!(pulled.digest.as_deref(), Some(DIGEST));
        assert_eq!((pulled.id.as_str(), pulled.size_bytes), ("sha256:1205", 0));
        assert_eq!(pulled_image(&image("localhost/nginx:1"), found).digest, None);
    }
}
