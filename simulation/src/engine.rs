//! The container engine of a host: it outlives the processes of the node, goes down, hangs, fails and forgets.
//!
//! A pull runs in the engine, not in the process that asked for it: a paused process does not hold it up, and a dead one's
//! goes on until the engine notices the closed connection. Each pull that an engine begins is reported, and its end.
//! Invariant: a pull's begin and end are reported in pairs, under a number that no other pull of the run has.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_node::docker::{
    BoxFuture, ContainerEngine, EngineError, EngineInfo, FakeEngine, LocalImage, OnProgress, PullProgress,
    PullScript,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{mpsc, oneshot};

use crate::event;
use crate::observation::Seen;
use crate::plan::{EngineShape, HostId, Latency, PullBehaviour};
use crate::random::draw;
use crate::runtime::{Context, HostClock, SimRuntime, current, sleep_global, spawn_in};

/// How long an engine takes to notice that whoever asked is dead. One that closes its connection itself is noticed at once, or nearly:
/// to hold that against the node would be a false alarm.
const CLOSED_NOTICED: Latency = Latency::even(1_000, 50_000);
/// Layers of an image: one up to so many.
const LAYERS_MAX: u64 = 3;
/// Steps that a paused process has not heard of yet; more than a pull has.
const PROGRESS_MAX: usize = 64;

type Fake = FakeEngine<SimRuntime>;

/// Is told when an engine begins a pull, and when it ends.
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

    /// The engine dies, with all pulls; nothing answers until it is [`up`](Self::up) again. Images stay.
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

/// A process's way to the engine.
struct Connection {
    engine: HostEngine,
    incarnation: u64,
}

impl ContainerEngine for Connection {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        self.engine.shared.fake.info()
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let image = image.clone();
        Box::pin(async move {
            let engine = self.engine.clone();
            let context = Arc::clone(&engine.shared.context);
            let (progress, mut steps) = mpsc::channel(PROGRESS_MAX);
            let (reply, mut replied) = oneshot::channel();
            let process = (current(), self.incarnation);
            drop(spawn_in(&context, engine.pull(image, process, progress, reply)));
            loop {
                tokio::select! {
                    biased;
                    Some(step) = steps.recv() => on_progress(step),
                    result = &mut replied => break result.unwrap_or_else(|_| Err(interrupted())),
                }
            }
        })
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.engine.shared.fake.push(image, on_progress)
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.engine.shared.fake.tag(source, target)
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        self.engine.shared.fake.inspect_image(image)
    }
}

fn interrupted() -> EngineError {
    EngineError::Interrupted {
        endpoint: "simulated".to_owned(),
        detail: "the connection was closed before the reply was complete".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use longshore_node::docker::conformance::{Fixture, conforms};
    use longshore_raft::consensus::runtime::AsyncRuntime;

    use super::*;
    use crate::random;
    use crate::runtime::{global_ns, run};

    const IMAGE: &str = "registry.invalid/app:s1";
    const STEP_MS: u64 = 100;

    type Reports = Arc<Mutex<Vec<(u64, Seen)>>>;

    fn context(name: &str) -> Arc<Context> {
        Context::new(name, Arc::new(HostClock::new(0, 0, 0)), random::stream(7, name))
    }

    fn engine(registry: &Arc<ImageRegistry>) -> (HostEngine, Reports) {
        let step = Latency::even(STEP_MS * 1_000, STEP_MS * 1_000);
        let reports = Reports::default();
        let sink = reports.clone();
        let on_seen = Arc::new(move |seen| sink.lock().push((global_ns() / 1_000_000, seen)));
        let shape = EngineShape { step, present: true };
        (HostEngine::new(1, registry, &shape, random::stream(1, "engine h1"), on_seen), reports)
    }

    fn parse(text: &str) -> ImageReference {
        text.parse().unwrap()
    }

    fn ignore() -> OnProgress {
        Arc::new(|_| {})
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Number, incarnation and (once it is over) whether it completed, of each pull.
    fn pulls(reports: &Reports) -> Vec<(u64, u64, Option<bool>)> {
        let mut pulls = Vec::new();
        for (_, seen) in reports.lock().iter() {
            match seen {
                Seen::PullBegan { pull, incarnation, .. } => pulls.push((*pull, *incarnation, None)),
                Seen::PullEnded { pull, completed, .. } => {
                    let begun = pulls.iter_mut().find(|begun| begun.0 == *pull).expect("it began");
                    assert_eq!(begun.2.replace(*completed), None, "it ends once");
                }
                other => panic!("{other:?}"),
            }
        }
        pulls
    }

    #[test]
    fn the_engine_conforms() {
        run(&context("world"), async {
            let registry = ImageRegistry::new();
            registry.publish("registry.invalid/small:1");
            let (engine, reports) = engine(&registry);
            registry.publish("registry.invalid/large:1");
            let fixture = Fixture {
                image: parse("registry.invalid/small:1"),
                slow_image: parse("registry.invalid/large:1"),
                missing: parse("registry.invalid/none:1"),
            };
            conforms(&*engine.for_process(1, 1), &fixture).await;
            sleep_global(ms(100)).await;
            let pulls = pulls(&reports);
            assert_eq!(pulls.len(), 9);
            assert!(pulls.iter().all(|(_, _, ended)| ended.is_some()), "{pulls:?}");
            assert_eq!(pulls.iter().filter(|(_, _, ended)| *ended == Some(true)).count(), 6);
        });
    }

    #[test]
    fn the_pulls_of_the_dead_end_after_a_moment_and_the_images_stay() {
        run(&context("world"), async {
            let registry = ImageRegistry::new();
            let (engine, reports) = engine(&registry);
            registry.publish(IMAGE);
            let process = context("process 1");
            let connection = engine.for_process(1, 1);
            let pull = async move { connection.pull(&parse(IMAGE), ignore()).await };
            let pulled = spawn_in(&process, pull);
            sleep_global(ms(150)).await;
            process.kill();
            assert!(pulled.await.is_err());
            assert_eq!(pulls(&reports), [(1, 1, None)], "the engine does not know yet");
            sleep_global(ms(60)).await;
            assert_eq!(pulls(&reports), [(1, 1, Some(false))]);

            let again = engine.for_process(1, 2).pull(&parse(IMAGE), ignore()).await.unwrap();
            assert_eq!(pulls(&reports)[1], (2, 2, Some(true)));
            let found = engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap();
            assert_eq!(found, Some(again));
            engine.forget_images();
            assert_eq!(engine.for_process(1, 3).inspect_image(&parse(IMAGE)).await.unwrap(), None);
        });
    }

    #[test]
    fn a_paused_process_learns_of_its_pull_when_it_goes_on() {
        run(&context("world"), async {
            let registry = ImageRegistry::new();
            let (engine, reports) = engine(&registry);
            registry.publish(IMAGE);
            let process = context("process 1");
            let connection = engine.for_process(1, 1);
            let pull = async move {
                let pulled = connection.pull(&parse(IMAGE), ignore()).await;
                (pulled, global_ns() / 1_000_000)
            };
            let pulled = spawn_in(&process, pull);
            sleep_global(ms(50)).await;
            process.pause();
            sleep_global(ms(9_950)).await;
            assert_eq!(pulls(&reports), [(1, 1, Some(true))]);
            process.resume();
            let (pulled, at_ms) = pulled.await.unwrap();
            assert!(pulled.is_ok());
            assert_eq!(at_ms, 10_000);
        });
    }

    #[test]
    fn pulls_behave_as_they_are_told() {
        run(&context("world"), async {
            let registry = ImageRegistry::new();
            let (engine, reports) = engine(&registry);
            registry.publish(IMAGE);
            let connection = engine.for_process(1, 1);
            let image = parse(IMAGE);

            engine.set_pulls(PullBehaviour::Fails { after_steps: 2 });
            let failed = connection.pull(&image, ignore()).await.unwrap_err();
            assert!(matches!(failed, EngineError::RegistryUnavailable { .. }), "{failed:?}");

            engine.set_pulls(PullBehaviour::Hangs { after_steps: 2 });
            let hanging = SimRuntime::timeout(ms(60_000), connection.pull(&image, ignore())).await;
            assert!(hanging.is_err());
            tokio::task::yield_now().await;
            assert_eq!(pulls(&reports)[1], (2, 1, Some(false)), "a live process closes its connection");

            engine.set_pulls(PullBehaviour::Crashes { after_steps: 2 });
            let crashed = connection.pull(&image, ignore()).await.unwrap_err();
            assert!(matches!(crashed, EngineError::Interrupted { .. }), "{crashed:?}");
            let begun = pulls(&reports).len();
            assert!(connection.pull(&image, ignore()).await.is_err() && connection.info().await.is_err());
            assert_eq!(pulls(&reports).len(), begun, "an engine that is down begins nothing");

            engine.heal();
            engine.set_pulls(PullBehaviour::Slow { step: Latency::even(5_000_000, 5_000_000) });
            let (slow, ()) = tokio::join!(biased; connection.pull(&image, ignore()), async {
                sleep_global(ms(7_000)).await;
                engine.down();
            });
            assert!(matches!(slow, Err(EngineError::Interrupted { .. })), "{slow:?}");
            engine.heal();
            assert!(connection.pull(&image, ignore()).await.is_ok());
            let ends: Vec<_> = pulls(&reports).into_iter().map(|(_, _, ended)| ended).collect();
            assert_eq!(ends, [Some(false), Some(false), Some(false), Some(false), Some(true)]);
        });
    }
}
