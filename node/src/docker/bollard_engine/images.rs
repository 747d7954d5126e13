//! Images of the real engine: pulls and pushes with progress, names, what is there.

use bollard::errors::Error as BollardError;
use bollard::models::{ImageInspect, ImageSummary};
use bollard::query_parameters::{CreateImageOptions, ListImagesOptions, PushImageOptions, TagImageOptions};
use futures_util::StreamExt;
use longshore_model::image::ImageReference;

use super::super::classify::{self, Context};
use super::super::connection::Connection;
use super::super::progress::{LayerMessage, PullTracker, PushTracker};
use super::super::{EngineError, ListedImage, LocalImage, OnProgress};
use super::BollardEngine;
use super::containers::unix_time;

/// What the engine lists instead of a name that an image lost.
const NO_NAME: &str = "<none>";

impl BollardEngine {
    pub(super) async fn inspect(
        &self,
        connection: &Connection,
        image: &ImageReference,
    ) -> Result<Option<LocalImage>, EngineError> {
        let found = self.ask(connection.docker.inspect_image(&pinned_name(image))).await?;
        Ok(found.map(|found| pulled_image(image, found)))
    }

    pub(super) async fn pull_image(
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
        let mut messages = connection.docker.create_image(Some(options), None, self.shown_to(image));
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

    pub(super) async fn push_image(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let (endpoint, familiar) = (self.endpoint(), image.familiar());
        let context = Context { endpoint: &endpoint, image: &familiar };
        let options = PushImageOptions { tag: image.tag().map(str::to_owned), ..PushImageOptions::default() };
        let mut messages =
            Box::pin(connection.docker.push_image(&image.name(), Some(options), self.shown_to(image)));
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

    pub(super) async fn tag_image(
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

    pub(super) async fn images(&self) -> Result<Vec<ListedImage>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        let listed = self.ask(connection.docker.list_images(None::<ListImagesOptions>)).await?;
        let mut images: Vec<ListedImage> = listed.unwrap_or_default().into_iter().map(listed_image).collect();
        images.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(images)
    }

    pub(super) async fn one_image(&self, key: &str) -> Result<Option<ListedImage>, EngineError> {
        let connection = Connection::open(&self.socket, self.limits).await?;
        // It becomes part of a path.
        let fine = |b: u8| b.is_ascii_alphanumeric() || b"/:@._-".contains(&b);
        if !key.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric()) || !key.bytes().all(fine) {
            return Ok(None);
        }
        Ok(self.ask(connection.docker.inspect_image(key)).await?.map(found_image))
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

pub(super) fn pulled_image(image: &ImageReference, found: ImageInspect) -> LocalImage {
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

/// As it is listed, from all that the engine says of one image.
fn found_image(found: ImageInspect) -> ListedImage {
    ListedImage {
        id: found.id.unwrap_or_default(),
        tags: named(found.repo_tags.unwrap_or_default()),
        size_bytes: u64::try_from(found.size.unwrap_or(0)).unwrap_or(0),
        created_unix_s: found.created.as_deref().and_then(unix_time).map_or(0, |at| at.as_secs()),
    }
}

fn named(mut tags: Vec<String>) -> Vec<String> {
    tags.retain(|tag| !tag.contains(NO_NAME));
    tags.sort_unstable();
    tags
}

fn listed_image(found: ImageSummary) -> ListedImage {
    ListedImage {
        id: found.id,
        tags: named(found.repo_tags),
        size_bytes: u64::try_from(found.size).unwrap_or(0),
        created_unix_s: u64::try_from(found.created).unwrap_or(0),
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
