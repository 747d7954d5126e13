//! The container engine of a host: it outlives the processes of the node, goes down, hangs, fails and forgets.
//!
//! A pull, or a build, runs in the engine, not in the process that asked for it: a paused process does not hold it up, and a dead one's
//! goes on until the engine notices the closed connection. So does every call about a container, and what it does is done whoever lives to
//! hear of it. Each pull and build that an engine begins is reported, and its end; so is each start of a container, whoever caused it, and its end.
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
    ContainerCall, ContainerEngine, ContainerScript, EngineError, FakeEngine, Happened, JournalEntry,
    LocalImage, OnProgress, PullProgress, PullScript,
};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio::sync::{Notify, mpsc, oneshot};

use crate::event;
use crate::observation::{EngineCondition, Seen};
use crate::plan::{CallBehaviour, EngineShape, HostId, Latency, PullBehaviour};
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
    /// Calls that hang are let go.
    released: Notify,
    /// Pulls that hang are.
    pulls_released: Notify,
}

struct Chance {
    random: SmallRng,
    usual: Latency,
    reply: Latency,
    pulls: PullBehaviour,
    calls: CallBehaviour,
    /// Of a hundred calls, so many go as `calls` says.
    percent: u32,
    /// As it was told last.
    condition: EngineCondition,
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
        let chance = Mutex::new(Chance {
            random,
            usual: shape.step,
            reply: shape.reply,
            pulls: PullBehaviour::Works,
            calls: CallBehaviour::Works,
            percent: 0,
            condition: EngineCondition::Well,
        });
        let (registry, released, pulls_released) = (Arc::clone(registry), Notify::new(), Notify::new());
        Self {
            shared: Arc::new(Shared {
                host,
                fake,
                registry,
                context,
                on_seen,
                chance,
                released,
                pulls_released,
            }),
        }
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
        self.tell_condition();
    }

    /// The host loses its power: all containers end, and the engine is down until the host starts again.
    pub fn lose_power(&self) {
        self.fault("power loss");
        self.shared.fake.power_loss();
        self.tell_condition();
    }

    pub fn up(&self) {
        self.fault("up");
        self.shared.fake.restart();
        self.tell_condition();
    }

    /// What becomes of the pulls to come.
    pub fn set_pulls(&self, pulls: PullBehaviour) {
        event!("engine h{} fault {pulls:?}", self.shared.host);
        self.shared.chance.lock().pulls = pulls;
        self.tell_condition();
    }

    /// What becomes of the calls about containers to come. Those that hang are let go when calls work again.
    pub fn set_calls(&self, calls: CallBehaviour, percent: u32) {
        event!("engine h{} fault {calls:?} {percent}%", self.shared.host);
        let mut chance = self.shared.chance.lock();
        (chance.calls, chance.percent) = (calls, percent);
        drop(chance);
        if calls == CallBehaviour::Works {
            self.shared.released.notify_waiters();
        }
        self.tell_condition();
    }

    /// Tells what may become of calls, if it is something else now.
    fn tell_condition(&self) {
        let mut chance = self.shared.chance.lock();
        let is_down = self.shared.fake.is_down() || matches!(chance.pulls, PullBehaviour::Crashes { .. });
        let condition = match chance.calls {
            _ if is_down => EngineCondition::Unreliable,
            CallBehaviour::Works => EngineCondition::Well,
            CallBehaviour::Slow { .. } | CallBehaviour::Hangs { .. } => EngineCondition::Slow,
            CallBehaviour::Fails { .. } | CallBehaviour::LosesReply | CallBehaviour::Crashes { .. } => {
                EngineCondition::Unreliable
            }
        };
        let is_new = std::mem::replace(&mut chance.condition, condition) != condition;
        drop(chance);
        if is_new {
            (self.shared.on_seen)(Seen::Engine { host: self.shared.host, condition });
        }
    }

    /// The engine loses its images.
    pub fn forget_images(&self) {
        self.fault("forget");
        self.shared.fake.forget_all();
    }

    /// Up, and pulls and calls work from now on. Connections of pulls that hang break: who asked may ask again. (Else a node whose places they
    /// take could do nothing for half an hour.)
    pub fn heal(&self) {
        self.up();
        self.set_pulls(PullBehaviour::Works);
        self.shared.pulls_released.notify_waiters();
        self.set_calls(CallBehaviour::Works, 0);
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

    /// What becomes of the next call about a container.
    fn next_call(&self) -> ContainerScript {
        let mut guard = self.shared.chance.lock();
        let chance = &mut *guard;
        if chance.calls == CallBehaviour::Works || chance.random.random_range(0..100) >= chance.percent {
            let after = draw(&mut chance.random, &chance.reply);
            return ContainerScript::Works { before: Duration::ZERO, after };
        }
        match chance.calls {
            CallBehaviour::Works => unreachable!("was looked at above"),
            CallBehaviour::Slow { each } => ContainerScript::Works {
                before: draw(&mut chance.random, &each),
                after: draw(&mut chance.random, &each),
            },
            CallBehaviour::Hangs { effect } => ContainerScript::Hangs { effect },
            CallBehaviour::Fails { effect } => {
                let detail = "the daemon is busy".to_owned();
                let transient = chance.random.random_bool(0.5);
                let error = match transient {
                    true => EngineError::Interrupted { endpoint: "simulated".to_owned(), detail },
                    false => EngineError::Refused { detail },
                };
                ContainerScript::Fails { effect, error }
            }
            CallBehaviour::LosesReply => ContainerScript::LosesReply,
            CallBehaviour::Crashes { effect } => ContainerScript::Crashes { effect },
        }
    }

    /// Has a call about a container go as it is its turn to; to be called just before it is polled.
    async fn change<T>(
        &self,
        call: ContainerCall,
        work: impl Future<Output = Result<T, EngineError>>,
    ) -> Result<T, EngineError> {
        let script = self.next_call();
        let hangs = matches!(script, ContainerScript::Hangs { .. });
        self.shared.fake.standing_container_script(call, script);
        tokio::select! {
            biased;
            done = work => done,
            () = self.shared.released.notified(), if hangs => Err(connection::interrupted()),
        }
    }

    /// Carries a pull or a build out, in the engine's context. Ends early when `reply`'s other end is gone. `work` takes its script when it is
    /// first polled.
    async fn bring<W>(
        self,
        image: ImageReference,
        (process, incarnation): (Arc<Context>, u64),
        progress: mpsc::Sender<PullProgress>,
        mut reply: oneshot::Sender<Result<LocalImage, EngineError>>,
        work: impl FnOnce(Fake, OnProgress) -> W + Send,
    ) where
        W: Future<Output = Result<LocalImage, EngineError>> + Send,
    {
        let shared = &self.shared;
        // An engine that is down begins nothing.
        if let Err(error) = shared.fake.info().await {
            let _ = reply.send(Err(error));
            return;
        }
        let mut under_way = UnderWay::begin(shared, &image, incarnation);
        let (before, script) = self.next_script(&image);
        let hangs = matches!(script, PullScript::Hangs { .. });
        let patience = draw(&mut shared.chance.lock().random, &CLOSED_NOTICED);
        let work = async {
            sleep_global(before).await;
            // Read at the first poll, which is the next thing that happens.
            shared.fake.standing_script(script);
            // Whoever is gone needs no progress.
            let tell = Arc::new(move |step| {
                let _ = progress.try_send(step);
            });
            work(shared.fake.clone(), tell).await
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
            () = shared.pulls_released.notified(), if hangs => Err(connection::interrupted()),
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
