//! What the fake does with images: the registry it pulls from, and what becomes of a pull.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_raft::Runtime;
use parking_lot::Mutex;

use super::super::progress::{LayerMessage, PullTracker};
use super::super::{Changed, EngineError, ListedImage, LocalImage, OnProgress, PullProgress};
use super::{ARCH, FakeEngine, State, interrupted};

/// Downloading messages a layer: enough for a bar that moves.
const STEPS_PER_LAYER: u64 = 4;

/// An image that the fake registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeImage {
    pub id: String,
    /// Empty if it was built and is in no registry.
    pub digest: String,
    /// Size in bytes of each layer. Layers of the same position and size are shared between images.
    pub layers: Vec<u64>,
    /// Processor that its programs are for, such as `amd64`.
    pub arch: String,
}

/// What becomes of the next pull. A step is one message of the engine: `STEPS_PER_LAYER` and one more for each layer.
#[derive(Debug, Clone)]
pub enum PullScript {
    /// Works, with this long before each step.
    Works {
        step: Duration,
    },
    /// Says nothing more after so many steps, until it is dropped or the engine goes down.
    Hangs {
        after_steps: u32,
    },
    Fails {
        after_steps: u32,
        error: EngineError,
    },
    /// The engine goes down after so many steps, with everything that is under way.
    Crashes {
        after_steps: u32,
    },
}

impl Default for PullScript {
    fn default() -> Self {
        Self::Works { step: Duration::ZERO }
    }
}

/// What has happened to one image so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullCounts {
    pub started: u64,
    pub completed: u64,
    /// Dropped by the caller, failed, or lost in a crash.
    pub ended_early: u64,
    pub under_way: u64,
    pub most_at_once: u64,
}

impl<R: Runtime> FakeEngine<R> {
    /// Puts an image into the registry, under its tag and under its digest.
    pub fn publish(&self, image: &ImageReference, layers: Vec<u64>) -> FakeImage {
        self.publish_for_arch(image, layers, ARCH)
    }

    /// Likewise, with programs for a processor that may be another than this host's. As Docker does, the fake pulls it all the same.
    pub fn publish_for_arch(&self, image: &ImageReference, layers: Vec<u64>, arch: &str) -> FakeImage {
        let hash = |kind: &str| {
            let hex = blake3::hash(format!("{kind} {image} {layers:?} {arch}").as_bytes()).to_hex();
            format!("sha256:{hex}")
        };
        let published = FakeImage { id: hash("id"), digest: hash("digest"), layers, arch: arch.to_owned() };
        let mut state = self.state.lock();
        state.registry.insert(by_digest(image, &published.digest), published.clone());
        state.registry.insert(image.clone(), published.clone());
        published
    }

    /// Takes an image out of the registry. Local copies stay.
    pub fn unpublish(&self, image: &ImageReference) {
        self.state.lock().registry.remove(image);
    }

    /// Drops the local copy, as `docker rmi` does. Whether there was one.
    pub fn forget(&self, image: &ImageReference) -> bool {
        self.change(|state, _| {
            let lost = state.local.remove(image);
            if let Some(lost) = &lost {
                state.containers.changed(Changed::Image(lost.id.clone()));
            }
            lost.is_some()
        })
    }

    /// Drops all local copies, as after `docker system prune --all`.
    pub fn forget_all(&self) {
        self.change(|state, _| {
            let lost: BTreeSet<String> =
                std::mem::take(&mut state.local).into_values().map(|image| image.id).collect();
            lost.into_iter().for_each(|id| state.containers.changed(Changed::Image(id)));
        });
    }

    /// Scripts for the pulls to come, one each, in order; afterwards the standing one.
    pub fn script(&self, scripts: impl IntoIterator<Item = PullScript>) {
        self.state.lock().scripts.extend(scripts);
    }

    /// What becomes of pulls that no script was queued for.
    pub fn standing_script(&self, script: PullScript) {
        self.state.lock().standing = script;
    }

    pub fn counts(&self, image: &ImageReference) -> PullCounts {
        self.state.lock().counts.get(image).copied().unwrap_or_default()
    }

    /// Whether the image's registry knows whoever asks.
    fn let_in(&self, state: &State, image: &ImageReference) -> Result<(), EngineError> {
        let Some((username, password)) = state.protected.get(image.registry()) else { return Ok(()) };
        let shown = self.credentials.as_ref().filter(|shown| shown.registry == image.registry());
        match shown.is_some_and(|shown| shown.username == *username && *shown.password == *password) {
            true => Ok(()),
            false => Err(EngineError::Denied {
                image: image.familiar(),
                detail: "unauthorized: authentication required".to_owned(),
            }),
        }
    }

    /// From now on the registry asks for these.
    pub fn protect(&self, registry: &str, username: &str, password: &str) {
        let known = (username.to_owned(), password.to_owned());
        self.state.lock().protected.insert(registry.to_owned(), known);
    }

    pub(super) async fn pull_image(
        &self,
        image: ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let (script, published, present, life) = {
            let mut state = self.up()?;
            self.let_in(&state, &image)?;
            let script = state.scripts.pop_front().unwrap_or_else(|| state.standing.clone());
            let published = state.registry.get(&image).cloned();
            let present: Vec<FakeImage> = state.local.values().cloned().collect();
            (script, published, present, state.life)
        };
        let mut running = Running::start(self.state.clone(), image.clone());
        let published = published.ok_or_else(|| EngineError::ImageNotFound {
            image: image.familiar(),
            detail: "manifest unknown".to_owned(),
        })?;

        let mut tracker = PullTracker::default();
        let messages = messages(&published, &present);
        for (step, message) in messages.iter().enumerate() {
            self.step(&script, u32::try_from(step).unwrap_or(u32::MAX), life).await?;
            if let Some(progress) = tracker.observe(message.borrowed()) {
                on_progress(progress);
            }
        }
        self.step(&script, u32::try_from(messages.len()).unwrap_or(u32::MAX), life).await?;

        let pulled = pulled(&published);
        self.change_if_up(|state, _| {
            state.room()?;
            state.containers.changed(Changed::Image(image.familiar()));
            state.local.insert(image, published);
            Ok(())
        })?;
        running.completed = true;
        Ok(pulled)
    }

    pub(super) async fn push_image(
        &self,
        image: ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let (local, life) = {
            let state = self.up()?;
            self.let_in(&state, &image)?;
            let local = state.local.get(&image).cloned();
            (local.ok_or_else(|| EngineError::NoSuchImage { image: image.familiar() })?, state.life)
        };
        let layers_total = u32::try_from(local.layers.len()).unwrap_or(u32::MAX);
        for layers_done in 1..=layers_total {
            self.unless_down(life, std::future::ready(())).await?;
            on_progress(PullProgress { layers_done, layers_total, ..PullProgress::default() });
        }
        let mut state = self.up()?;
        // One that was built has its digest from the registry.
        let digest = match local.digest.as_str() {
            "" => local.id.clone(),
            known => known.to_owned(),
        };
        let local = FakeImage { digest, ..local };
        state.registry.insert(by_digest(&image, &local.digest), local.clone());
        state.registry.insert(image, local.clone());
        Ok(pulled(&local))
    }

    pub(super) fn tag_image(
        &self,
        source: &ImageReference,
        target: ImageReference,
    ) -> Result<LocalImage, EngineError> {
        self.change_if_up(|state, _| {
            let found = state.local.get(source).cloned();
            let found = found.ok_or_else(|| EngineError::NoSuchImage { image: source.familiar() })?;
            let tagged = pulled(&found);
            state.containers.changed(Changed::Image(found.id.clone()));
            state.local.insert(target, found);
            Ok(tagged)
        })
    }

    /// What the script has in store before step number `step`.
    pub(super) async fn step(&self, script: &PullScript, step: u32, life: u64) -> Result<(), EngineError> {
        match script {
            PullScript::Works { step } => self.unless_down(life, R::sleep(*step)).await,
            PullScript::Hangs { after_steps } if step >= *after_steps => {
                self.unless_down(life, std::future::pending()).await
            }
            PullScript::Fails { after_steps, error } if step >= *after_steps => Err(error.clone()),
            PullScript::Crashes { after_steps } if step >= *after_steps => {
                self.crash();
                Err(interrupted())
            }
            _ => self.unless_down(life, std::future::ready(())).await,
        }
    }
}

/// Counts one pull for as long as it lives.
struct Running {
    state: Arc<Mutex<State>>,
    image: ImageReference,
    completed: bool,
}

impl Running {
    fn start(state: Arc<Mutex<State>>, image: ImageReference) -> Self {
        {
            let mut state = state.lock();
            let counts = state.counts.entry(image.clone()).or_default();
            counts.started += 1;
            counts.under_way += 1;
            counts.most_at_once = counts.most_at_once.max(counts.under_way);
        }
        Self { state, image, completed: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        let counts = state.counts.entry(self.image.clone()).or_default();
        counts.under_way -= 1;
        if self.completed {
            counts.completed += 1;
        } else {
            counts.ended_early += 1;
        }
    }
}

struct Message {
    layer: String,
    status: &'static str,
    bytes: Option<(u64, u64)>,
}

impl Message {
    fn borrowed(&self) -> LayerMessage<'_> {
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        LayerMessage {
            id: Some(&self.layer),
            status: self.status,
            current_bytes: self.bytes.map(|(current, _)| signed(current)),
            total_bytes: self.bytes.map(|(_, total)| signed(total)),
        }
    }
}

fn messages(image: &FakeImage, present: &[FakeImage]) -> Vec<Message> {
    let mut messages = Vec::new();
    for (position, size) in image.layers.iter().enumerate() {
        let mut say = |status, bytes| {
            messages.push(Message { layer: format!("layer-{position}-{size}"), status, bytes });
        };
        if present.iter().any(|local| local.layers.get(position) == Some(size)) {
            say("Already exists", None);
            continue;
        }
        for step in 1..=STEPS_PER_LAYER {
            // Divided first, so that no size overflows.
            let current = if step == STEPS_PER_LAYER { *size } else { size / STEPS_PER_LAYER * step };
            say("Downloading", Some((current, *size)));
        }
        say("Pull complete", None);
    }
    messages
}

/// Those that the engine has, by id.
pub(super) fn listed(local: &BTreeMap<ImageReference, FakeImage>) -> Vec<ListedImage> {
    let mut images: BTreeMap<&str, ListedImage> = BTreeMap::new();
    for (name, image) in local {
        let listed = images.entry(&image.id).or_insert_with(|| ListedImage {
            id: image.id.clone(),
            tags: Vec::new(),
            size_bytes: pulled(image).size_bytes,
            created_unix_s: 0,
        });
        if name.digest().is_none() {
            listed.tags.push(name.familiar());
        }
    }
    let mut images: Vec<ListedImage> = images.into_values().collect();
    images.iter_mut().for_each(|image| image.tags.sort_unstable());
    images
}

/// By an id or a name, as it is listed.
pub(super) fn found(local: &BTreeMap<ImageReference, FakeImage>, key: &str) -> Option<ListedImage> {
    let by_name = key.parse::<ImageReference>().ok().and_then(|name| local.get(&name));
    let id = by_name.map_or(key, |image| &image.id);
    listed(local).into_iter().find(|image| image.id == id)
}

pub(super) fn pulled(image: &FakeImage) -> LocalImage {
    LocalImage {
        id: image.id.clone(),
        digest: Some(image.digest.clone()).filter(|digest| !digest.is_empty()),
        size_bytes: image.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(*layer)),
    }
}

fn by_digest(image: &ImageReference, digest: &str) -> ImageReference {
    let text = format!("{}@{digest}", image.name());
    text.parse()
        .unwrap_or_else(|error| unreachable!("a name with a well-formed digest is a reference: {error}"))
}
