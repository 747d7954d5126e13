//! The container engine of a host: it outlives the processes of the node, goes down, hangs, fails and forgets.
//!
//! A pull runs in the engine, not in the process that asked for it: a paused process does not hold it up, and a dead one's
//! goes on until the engine notices the closed connection. So does every call about a container, and what it does is done whoever lives to
//! hear of it. Each pull that an engine begins is reported, and its end; so is each start of a container, whoever caused it, and its end.
//! Invariant: begin and end are reported in pairs, under a number that no other pull, or no other start, of the run has.

mod connection;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_node::docker::{
    ContainerEngine, EngineError, FakeEngine, Happened, JournalEntry, LocalImage, PullProgress, PullScript,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use crate::event;
use crate::observation::Seen;
use crate::plan::{EngineShape, HostId, Latency, PullBehaviour};
use crate::random::draw;
use crate::runtime::{Context, HostClock, SimRuntime, sleep_global};

use connection::Connection;

/// How long an engine takes to notice that whoever asked is dead. One that closes its connection itself is noticed at once, or nearly:
/// to hold that against the node would be a false alarm.
const CLOSED_NOTICED: Latency = Latency::even(1_000, 50_000);
/// Layers of an image: one up to so many.
const LAYERS_MAX: u64 = 3;
type Fake = FakeEngine<SimRuntime>;

/// Is told when an engine begins a pull or a container starts, and when either ends.
pub type OnSeen = Arc<dyn Fn(Seen) + Send + Sync>;

/// The images that every host of a run can pull.
#[derive(Debug, Default)]
pub struct ImageRegistry {
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    images: Vec<(ImageReference, Vec<u64>)>,
    engines: Vec<Fake>,
    pulls: u64,
    starts: u64,
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} images, {} pulls", self.images.len(), self.pulls)
    }
}

impl ImageRegistry {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Makes an image known, for all engines. What it is made of follows from its name. Panics if the name is not valid.
    pub fn publish(&self, image: &str) {
        let reference: ImageReference = image.parse().expect("a workload publishes valid references");
        let hash = blake3::hash(image.as_bytes());
        let bytes = hash.as_bytes();
        let count = 1 + u64::from(bytes[0]) % LAYERS_MAX;
        // The lowest layer is one of few, as base images are.
        let layer =
            |at: u64| if at == 0 { 1 + u64::from(bytes[1] % 4) } else { 1000 + u64::from(bytes[2]) * at };
        let layers: Vec<u64> = (0..count).map(|at| layer(at) << 20).collect();
        let mut contents = self.contents.lock();
        for engine in &contents.engines {
            engine.publish(&reference, layers.clone());
        }
        contents.images.push((reference, layers));
    }

    fn add(&self, engine: Fake) {
        let mut contents = self.contents.lock();
        for (image, layers) in &contents.images {
            engine.publish(image, layers.clone());
        }
        contents.engines.push(engine);
    }

    fn next_pull(&self) -> u64 {
        let mut contents = self.contents.lock();
        contents.pulls += 1;
        contents.pulls
    }

    fn next_start(&self) -> u64 {
        let mut contents = self.contents.lock();
        contents.starts += 1;
        contents.starts
    }
}

/// The engine of a host; clones are the same one.
#[derive(Clone)]
pub struct HostEngine {
    shared: Arc<Shared>,
}

struct Shared {
    host: HostId,
    fake: Fake,
    registry: Arc<ImageRegistry>,
    /// The engine is a process of its own.
    context: Arc<Context>,
    on_seen: OnSeen,
    chance: Mutex<Chance>,
}

struct Chance {
    random: SmallRng,
    usual: Latency,
    pulls: PullBehaviour,
}

impl fmt::Debug for HostEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostEngine({})", self.shared.host)
    }
}

impl HostEngine {
    /// An engine that is up and has no images. `random` is its own stream of chance.
    pub fn new(
        host: HostId,
        registry: &Arc<ImageRegistry>,
        shape: &EngineShape,
        mut random: SmallRng,
        on_seen: OnSeen,
    ) -> Self {
        let fake = Fake::new(&format!("h{host}"));
        registry.add(fake.clone());
        let starts = Starts {
            host,
            registry: registry.clone(),
            on_seen: on_seen.clone(),
            under_way: Mutex::default(),
        };
        fake.on_journal(Arc::new(move |entry| starts.report(entry)));
        let of_context = SmallRng::seed_from_u64(random.random());
        let clock = Arc::new(HostClock::new(0, 0, 0));
        let context = Context::new(format!("engine h{host}"), clock, of_context);
        let chance = Mutex::new(Chance { random, usual: shape.step, pulls: PullBehaviour::Works });
        let registry = Arc::clone(registry);
        Self { shared: Arc::new(Shared { host, fake, registry, context, on_seen, chance }) }
    }

    /// The engine as one process of the host reaches it.
    pub fn for_process(&self, host: HostId, incarnation: u64) -> Arc<dyn ContainerEngine> {
        assert_eq!(host, self.shared.host, "a process uses its own host's engine");
        Arc::new(Connection { engine: self.clone(), incarnation })
    }

    /// The engine dies, with all pulls; nothing answers until it is [`up`](Self::up) again. Images stay, and containers run on until then.
    pub fn down(&self) {
        self.fault("down");
        self.shared.fake.crash();
    }

    pub fn up(&self) {
        self.fault("up");
        self.shared.fake.restart();
    }

    /// What becomes of the pulls to come.
    pub fn set_pulls(&self, pulls: PullBehaviour) {
        event!("engine h{} fault {pulls:?}", self.shared.host);
        self.shared.chance.lock().pulls = pulls;
    }

    /// The engine loses its images.
    pub fn forget_images(&self) {
        self.fault("forget");
        self.shared.fake.forget_all();
    }

    /// Up, and pulls work from now on. Those that hang go on hanging until they are given up.
    pub fn heal(&self) {
        self.up();
        self.set_pulls(PullBehaviour::Works);
    }

    fn fault(&self, what: &str) {
        event!("engine h{} fault {what}", self.shared.host);
    }

    /// What the next pull does, and how long it takes before its first step.
    fn next_script(&self, image: &ImageReference) -> (Duration, PullScript) {
        let mut guard = self.shared.chance.lock();
        let chance = &mut *guard;
        let usual = draw(&mut chance.random, &chance.usual);
        let script = match chance.pulls {
            PullBehaviour::Works => PullScript::Works { step: usual },
            PullBehaviour::Slow { step } => PullScript::Works { step: draw(&mut chance.random, &step) },
            PullBehaviour::Hangs { after_steps } => PullScript::Hangs { after_steps },
            PullBehaviour::Fails { after_steps } => PullScript::Fails {
                after_steps,
                error: EngineError::RegistryUnavailable {
                    image: image.familiar(),
                    detail: "connection reset by peer".to_owned(),
                },
            },
            PullBehaviour::Crashes { after_steps } => PullScript::Crashes { after_steps },
        };
        (usual, script)
    }

    /// Carries a pull out, in the engine's context. Ends early when `reply`'s other end is gone.
    async fn pull(
        self,
        image: ImageReference,
        (process, incarnation): (Arc<Context>, u64),
        progress: mpsc::Sender<PullProgress>,
        mut reply: oneshot::Sender<Result<LocalImage, EngineError>>,
    ) {
        let shared = &self.shared;
        // An engine that is down begins nothing.
        if let Err(error) = shared.fake.info().await {
            let _ = reply.send(Err(error));
            return;
        }
        let mut under_way = UnderWay::begin(shared, &image, incarnation);
        let (before, script) = self.next_script(&image);
        let patience = draw(&mut shared.chance.lock().random, &CLOSED_NOTICED);
        let work = async {
            sleep_global(before).await;
            // Read at the pull's first poll, which is the next thing that happens.
            shared.fake.standing_script(script);
            // Whoever is gone needs no progress.
            let tell = Arc::new(move |step| {
                let _ = progress.try_send(step);
            });
            shared.fake.pull(&image, tell).await
        };
        let closed = async {
            reply.closed().await;
            if process.is_dead() {
                sleep_global(patience).await;
            }
        };
        let result = tokio::select! {
            biased;
            result = work => result,
            () = closed => return,
        };
        under_way.completed = result.is_ok();
        drop(under_way);
        let _ = reply.send(result);
    }
}

/// Reports starts and ends of a host's containers.
struct Starts {
    host: HostId,
    registry: Arc<ImageRegistry>,
    on_seen: OnSeen,
    /// Number of the start of each container that runs, by its id.
    under_way: Mutex<BTreeMap<String, u64>>,
}

impl Starts {
    fn report(&self, entry: &JournalEntry) {
        let host = self.host;
        match entry.what {
            Happened::Started => {
                let start = self.registry.next_start();
                self.under_way.lock().insert(entry.id.clone(), start);
                event!("engine h{host} start {start} of container {}", entry.name);
                let (name, labels) = (entry.name.clone(), entry.labels.clone());
                (self.on_seen)(Seen::ContainerStarted { host, start, name, labels });
            }
            Happened::Ended { code } => {
                let start = self.under_way.lock().remove(&entry.id).expect("what ends has started");
                event!("engine h{host} start {start} of container {} ended with {code}", entry.name);
                (self.on_seen)(Seen::ContainerEnded { host, start, code });
            }
        }
    }
}

/// Reports a pull for as long as it lives.
struct UnderWay {
    host: HostId,
    on_seen: OnSeen,
    pull: u64,
    completed: bool,
}

impl UnderWay {
    fn begin(shared: &Shared, image: &ImageReference, incarnation: u64) -> Self {
        let (host, pull) = (shared.host, shared.registry.next_pull());
        let image = image.to_string();
        event!("engine h{host} pull {pull} of {image} for incarnation {incarnation}");
        (shared.on_seen)(Seen::PullBegan { host, incarnation, pull, image });
        Self { host, on_seen: Arc::clone(&shared.on_seen), pull, completed: false }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Self { host, pull, completed, .. } = *self;
        event!("engine h{host} pull {pull} ended, {}", if completed { "completed" } else { "not completed" });
        (self.on_seen)(Seen::PullEnded { host, pull, completed });
    }
}
