//! An engine in memory that follows a script: slow, hanging, failing, crashing in the middle of a pull, forgetting images.
//!
//! Owns a registry's contents, the local images and the count of pulls under way. Time comes from the runtime parameter,
//! so under a simulated runtime a pull of an hour takes no time and always the same course.

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_raft::Runtime;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::progress::{LayerMessage, PullTracker};
use super::{BoxFuture, ContainerEngine, EngineError, EngineInfo, LocalImage, OnProgress, PullProgress};

/// Downloading messages a layer: enough for a bar that moves.
const STEPS_PER_LAYER: u64 = 4;

/// An image that the fake registry has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeImage {
    pub id: String,
    pub digest: String,
    /// Size in bytes of each layer. Layers of the same position and size are shared between images.
    pub layers: Vec<u64>,
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

#[derive(Debug)]
struct State {
    info: EngineInfo,
    down: Option<EngineError>,
    /// Counts the times the engine went down: what began in an earlier life is lost.
    life: u64,
    registry: BTreeMap<ImageReference, FakeImage>,
    local: BTreeMap<ImageReference, FakeImage>,
    scripts: VecDeque<PullScript>,
    standing: PullScript,
    counts: BTreeMap<ImageReference, PullCounts>,
}

/// Cheap to clone; clones are the same engine.
#[derive(Debug)]
pub struct FakeEngine<R: Runtime> {
    state: Arc<Mutex<State>>,
    went_down: Arc<Notify>,
    _runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> Clone for FakeEngine<R> {
    fn clone(&self) -> Self {
        Self { state: self.state.clone(), went_down: self.went_down.clone(), _runtime: PhantomData }
    }
}

impl<R: Runtime> FakeEngine<R> {
    /// An engine that is up, with an empty registry.
    pub fn new(name: &str) -> Self {
        let info = EngineInfo {
            version: "20.10.24".to_owned(),
            api_version: "1.41".to_owned(),
            os: "linux".to_owned(),
            arch: "amd64".to_owned(),
            name: name.to_owned(),
        };
        let state = State {
            info,
            down: None,
            life: 0,
            registry: BTreeMap::new(),
            local: BTreeMap::new(),
            scripts: VecDeque::new(),
            standing: PullScript::default(),
            counts: BTreeMap::new(),
        };
        Self { state: Arc::new(Mutex::new(state)), went_down: Arc::default(), _runtime: PhantomData }
    }

    /// Puts an image into the registry, under its tag and under its digest.
    pub fn publish(&self, image: &ImageReference, layers: Vec<u64>) -> FakeImage {
        let hash = |kind: &str| {
            let hex = blake3::hash(format!("{kind} {image} {layers:?}").as_bytes()).to_hex();
            format!("sha256:{hex}")
        };
        let published = FakeImage { id: hash("id"), digest: hash("digest"), layers };
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
        self.state.lock().local.remove(image).is_some()
    }

    /// Drops all local copies, as after `docker system prune --all`.
    pub fn forget_all(&self) {
        self.state.lock().local.clear();
    }

    /// Scripts for the pulls to come, one each, in order; afterwards the standing one.
    pub fn script(&self, scripts: impl IntoIterator<Item = PullScript>) {
        self.state.lock().scripts.extend(scripts);
    }

    /// What becomes of pulls that no script was queued for.
    pub fn standing_script(&self, script: PullScript) {
        self.state.lock().standing = script;
    }

    /// The engine dies: pulls under way are interrupted, later calls find nothing at the socket. Local images stay.
    pub fn crash(&self) {
        self.fail_with(EngineError::Unavailable {
            endpoint: "fake".to_owned(),
            detail: "nothing listens on the socket".to_owned(),
        });
    }

    /// Like [`crash`](Self::crash), with this error for later calls.
    pub fn fail_with(&self, error: EngineError) {
        let mut state = self.state.lock();
        state.down = Some(error);
        state.life += 1;
        drop(state);
        self.went_down.notify_waiters();
    }

    pub fn restart(&self) {
        self.state.lock().down = None;
    }

    pub fn counts(&self, image: &ImageReference) -> PullCounts {
        self.state.lock().counts.get(image).copied().unwrap_or_default()
    }

    /// The state of an engine that is up.
    fn up(&self) -> Result<parking_lot::MutexGuard<'_, State>, EngineError> {
        let state = self.state.lock();
        match &state.down {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    async fn pull_image(
        &self,
        image: ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let (script, published, present, life) = {
            let mut state = self.up()?;
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

        let mut state = self.up()?;
        let pulled = pulled(&published);
        state.local.insert(image, published);
        drop(state);
        running.completed = true;
        Ok(pulled)
    }

    async fn push_image(
        &self,
        image: ImageReference,
        on_progress: OnProgress,
    ) -> Result<LocalImage, EngineError> {
        let (local, life) = {
            let state = self.up()?;
            let local = state.local.get(&image).cloned();
            (local.ok_or_else(|| EngineError::NoSuchImage { image: image.familiar() })?, state.life)
        };
        let layers_total = u32::try_from(local.layers.len()).unwrap_or(u32::MAX);
        for layers_done in 1..=layers_total {
            self.unless_down(life, std::future::ready(())).await?;
            on_progress(PullProgress { layers_done, layers_total, ..PullProgress::default() });
        }
        let mut state = self.up()?;
        state.registry.insert(by_digest(&image, &local.digest), local.clone());
        state.registry.insert(image, local.clone());
        Ok(pulled(&local))
    }

    /// What the script has in store before step number `step`.
    async fn step(&self, script: &PullScript, step: u32, life: u64) -> Result<(), EngineError> {
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

    /// Waits, unless the engine of this `life` goes down first.
    async fn unless_down(&self, life: u64, wait: impl Future<Output = ()> + Send) -> Result<(), EngineError> {
        let mut went_down = std::pin::pin!(self.went_down.notified());
        // Registered before looking, or a crash between the two would be missed.
        went_down.as_mut().enable();
        if self.state.lock().life != life {
            return Err(interrupted());
        }
        tokio::select! {
            biased;
            () = went_down => Err(interrupted()),
            () = wait => Ok(()),
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

fn pulled(image: &FakeImage) -> LocalImage {
    LocalImage {
        id: image.id.clone(),
        digest: Some(image.digest.clone()),
        size_bytes: image.layers.iter().fold(0, |sum: u64, layer| sum.saturating_add(*layer)),
    }
}

fn by_digest(image: &ImageReference, digest: &str) -> ImageReference {
    let text = format!("{}@{digest}", image.name());
    text.parse()
        .unwrap_or_else(|error| unreachable!("a name with a well-formed digest is a reference: {error}"))
}

fn interrupted() -> EngineError {
    EngineError::Interrupted {
        endpoint: "fake".to_owned(),
        detail: "the connection was closed before the reply was complete".to_owned(),
    }
}

impl<R: Runtime> ContainerEngine for FakeEngine<R> {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        Box::pin(async move { Ok(self.up()?.info.clone()) })
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        Box::pin(self.pull_image(image.clone(), on_progress))
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        Box::pin(self.push_image(image.clone(), on_progress))
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let (source, target) = (source.clone(), target.clone());
        Box::pin(async move {
            let mut state = self.up()?;
            let found = state.local.get(&source).cloned();
            let found = found.ok_or_else(|| EngineError::NoSuchImage { image: source.familiar() })?;
            let tagged = pulled(&found);
            state.local.insert(target, found);
            Ok(tagged)
        })
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        let image = image.clone();
        Box::pin(async move { Ok(self.up()?.local.get(&image).map(pulled)) })
    }
}
