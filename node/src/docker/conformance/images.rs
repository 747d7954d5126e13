//! Pulls, pushes, names.

use std::sync::Arc;

use longshore_model::image::ImageReference;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::{ContainerEngine, EngineError, LocalImage, OnProgress, PullProgress};
use super::{ignore, parse};

/// What the suite works on.
#[derive(Debug)]
pub struct Fixture {
    /// Under a tag, in the registry, and not on the engine yet.
    pub image: ImageReference,
    /// Another that is in the registry and not on the engine, and takes long enough to pull that one can be given up midway.
    pub slow_image: ImageReference,
    /// In no registry, though its registry answers.
    pub missing: ImageReference,
}

/// Runs the whole suite.
pub async fn conforms(engine: &dyn ContainerEngine, fixture: &Fixture) {
    says_what_it_is(engine).await;
    does_not_know_what_was_never_pulled(engine, fixture).await;
    let pulled = pulls_with_progress(engine, fixture).await;
    pulls_again_without_effect(engine, fixture, &pulled).await;
    pulls_by_digest(engine, fixture, &pulled).await;
    says_what_is_missing(engine, fixture).await;
    gives_up_when_dropped_and_can_start_over(engine, fixture).await;
    pulls_the_same_image_twice_at_once(engine, fixture).await;
    gives_images_further_names(engine, fixture, &pulled).await;
    pushes_what_it_has(engine, fixture, &pulled).await;
}

async fn says_what_it_is(engine: &dyn ContainerEngine) {
    let info = engine.info().await.expect("an engine that is up says what it is");
    assert!(!info.version.is_empty() && !info.name.is_empty(), "{info:?}");
    assert!(!info.os.is_empty() && !info.arch.is_empty(), "{info:?}");
    assert!(info.root_dir.starts_with('/') && !info.storage_driver.is_empty(), "{info:?}");
    assert!(info.runtimes.is_sorted() && info.runtimes.iter().any(|runtime| runtime == "runc"), "{info:?}");
    assert!(["", "1", "2"].contains(&info.cgroup_version.as_str()), "{info:?}");
    let minor = info.api_version.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    assert!(minor.is_some_and(|minor| minor >= 41), "the API is 1.41 or newer: {info:?}");
    assert_eq!(engine.info().await.expect("asked again"), info, "an engine does not change by itself");
}

async fn does_not_know_what_was_never_pulled(engine: &dyn ContainerEngine, fixture: &Fixture) {
    for image in [&fixture.image, &fixture.slow_image, &fixture.missing] {
        let found = engine.inspect_image(image).await.expect("an image that is not there is no error");
        assert_eq!(found, None, "{image} should not be on the engine yet");
    }
}

async fn pulls_with_progress(engine: &dyn ContainerEngine, fixture: &Fixture) -> LocalImage {
    let watch = Watch::default();
    let pulled = engine.pull(&fixture.image, watch.callback()).await.expect("the image is in the registry");
    assert!(pulled.id.starts_with("sha256:"), "{pulled:?}");
    assert!(pulled.digest.as_ref().is_some_and(|digest| digest.starts_with("sha256:")), "{pulled:?}");
    assert!(pulled.size_bytes > 0, "{pulled:?}");

    let seen = watch.seen();
    let last = seen.last().expect("a pull of new layers reports progress");
    assert!(last.layers_total > 0 && last.layers_done == last.layers_total, "{last:?}");
    assert!(last.total_bytes > 0 && last.current_bytes == last.total_bytes, "{last:?}");
    for pair in seen.windows(2) {
        assert_ne!(pair[0], pair[1], "the same progress twice");
        assert!(pair[0].layers_done <= pair[1].layers_done, "{pair:?}");
        assert!(pair[0].current_bytes <= pair[1].current_bytes, "{pair:?}");
    }

    let found = engine.inspect_image(&fixture.image).await.expect("inspect after the pull");
    assert_eq!(found.as_ref(), Some(&pulled));
    pulled
}

async fn pulls_again_without_effect(engine: &dyn ContainerEngine, fixture: &Fixture, pulled: &LocalImage) {
    let again = engine.pull(&fixture.image, ignore()).await.expect("a second pull");
    assert_eq!(again, *pulled, "a pull is idempotent");
}

async fn pulls_by_digest(engine: &dyn ContainerEngine, fixture: &Fixture, pulled: &LocalImage) {
    let digest = pulled.digest.as_deref().expect("checked before");
    let pinned = parse(&format!("{}@{digest}", fixture.image.name()));
    let by_digest = engine.pull(&pinned, ignore()).await.expect("a pull by digest");
    assert_eq!(by_digest, *pulled);
    assert_eq!(engine.inspect_image(&pinned).await.expect("inspect by digest").as_ref(), Some(pulled));
}

async fn says_what_is_missing(engine: &dyn ContainerEngine, fixture: &Fixture) {
    let no_digest = format!("{}@sha256:{}", fixture.image.name(), "0".repeat(64));
    for missing in [fixture.missing.clone(), parse(&no_digest)] {
        let error = engine.pull(&missing, ignore()).await.expect_err("there is no such image");
        assert!(matches!(error, EngineError::ImageNotFound { .. }), "{error:?}");
        assert!(error.to_string().contains(&missing.familiar()), "{error} names the image");
        assert!(!error.is_transient(), "{error:?}");
        assert_eq!(engine.inspect_image(&missing).await.expect("inspect"), None);
    }
}

async fn gives_up_when_dropped_and_can_start_over(engine: &dyn ContainerEngine, fixture: &Fixture) {
    let watch = Watch::default();
    let pull = engine.pull(&fixture.slow_image, watch.callback());
    tokio::select! {
        biased;
        ended = pull => panic!("the slow pull ended before it could be dropped: {ended:?}"),
        () = watch.first() => {}
    }
    let found = engine.inspect_image(&fixture.slow_image).await.expect("inspect");
    assert_eq!(found, None, "a pull that was given up brings no image");
}

async fn pulls_the_same_image_twice_at_once(engine: &dyn ContainerEngine, fixture: &Fixture) {
    let first = engine.pull(&fixture.slow_image, ignore());
    let second = engine.pull(&fixture.slow_image, ignore());
    let (first, second) = tokio::join!(biased; first, second);
    let first = first.expect("one of two pulls at once, after one that was given up");
    assert_eq!(second.expect("the other of two pulls at once"), first);
    let found = engine.inspect_image(&fixture.slow_image).await.expect("inspect");
    assert_eq!(found, Some(first));
}

/// A name in the same repository that nothing has yet.
fn copy_of(fixture: &Fixture, tag: &str) -> ImageReference {
    parse(&format!("{}:{tag}", fixture.image.name()))
}

async fn gives_images_further_names(engine: &dyn ContainerEngine, fixture: &Fixture, pulled: &LocalImage) {
    let copy = copy_of(fixture, "copy");
    assert_eq!(engine.inspect_image(&copy).await.expect("inspect"), None);
    for _ in 0..2 {
        let tagged = engine.tag(&fixture.image, &copy).await.expect("the image is there");
        assert_eq!(tagged.id, pulled.id);
    }
    let found = engine.inspect_image(&copy).await.expect("inspect").expect("it has the name now");
    assert_eq!(found.id, pulled.id);
    let error = engine.tag(&fixture.missing, &copy).await.expect_err("there is no such image");
    assert!(matches!(error, EngineError::NoSuchImage { .. }) && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&fixture.missing.familiar()), "{error} names the image");
    let still = engine.inspect_image(&copy).await.expect("inspect").expect("as before");
    assert_eq!(still.id, pulled.id);
}

async fn pushes_what_it_has(engine: &dyn ContainerEngine, fixture: &Fixture, pulled: &LocalImage) {
    let copy = copy_of(fixture, "copy");
    for _ in 0..2 {
        let watch = Watch::default();
        let pushed = engine.push(&copy, watch.callback()).await.expect("the registry takes it");
        assert_eq!(pushed.id, pulled.id);
        assert!(pushed.digest.as_ref().is_some_and(|digest| digest.starts_with("sha256:")), "{pushed:?}");
        let seen = watch.seen();
        let last = seen.last().expect("a push reports progress");
        assert!(last.layers_total > 0 && last.layers_done == last.layers_total, "{last:?}");
        assert!(seen.windows(2).all(|pair| pair[0].layers_done <= pair[1].layers_done), "{seen:?}");
    }
    // The registry is asked, whatever the engine has.
    let pulled_back = engine.pull(&copy, ignore()).await.expect("what was pushed is there");
    assert_eq!(pulled_back.id, pulled.id);
    let error = engine.push(&copy_of(fixture, "none"), ignore()).await.expect_err("there is no such image");
    assert!(matches!(error, EngineError::NoSuchImage { .. }) && !error.is_transient(), "{error:?}");
}

/// Keeps all progress and wakes who waits for the first.
#[derive(Debug, Default, Clone)]
pub(super) struct Watch {
    seen: Arc<Mutex<Vec<PullProgress>>>,
    first: Arc<Notify>,
}

impl Watch {
    pub(super) fn callback(&self) -> OnProgress {
        let watch = self.clone();
        Arc::new(move |progress| {
            watch.seen.lock().push(progress);
            watch.first.notify_one();
        })
    }

    pub(super) fn seen(&self) -> Vec<PullProgress> {
        self.seen.lock().clone()
    }

    pub(super) async fn first(&self) {
        self.first.notified().await;
    }
}
