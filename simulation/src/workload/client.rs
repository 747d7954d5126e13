//! One client: one thing at a time, against one node, until that fails it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::calls::{self, Answer, When};
use super::runs::KeptRun;
use super::uses::USE_IMAGE_PPM;
use super::{EXPIRED, PROBED, Served};
use crate::observation::{BRIEF, Call, Key, LogPosition, Outcome, RunShape, STEADY, Seen, Serial};
use crate::plan::{HostId, Plan, RingLoad};
use crate::random::draw;
use crate::runtime::{self, SimRuntime};
use crate::world::World;
use longshore_raft::consensus::runtime::AsyncRuntime as _;
use longshore_raft::model::ring::{GroupCount, partition_of};

/// Of a million calls, so many are followed by a move to another node for no reason.
const WANDER_PPM: u32 = 50_000;
/// Of a million operations, so many are cancelled by whoever submitted them.
pub(super) const CANCEL_PPM: u32 = 200_000;
/// Times that a submission of unknown outcome is repeated.
const SUBMIT_ATTEMPTS: u32 = 20;
/// Writes of a key in a row while their outcomes are unknown.
const SET_ATTEMPTS: u32 = 3;
/// Between attempts of a probe.
const PROBE_PAUSE: Duration = Duration::from_millis(300);
const PROBE_TTL_MS: u64 = 3_000;
/// Until a group that nobody asks rests, and a key has expired for long: it looks once in three seconds whether it can.
const PROBE_TTL_PAUSE: Duration = Duration::from_millis(12_000);
/// Reads of a key that has expired, each through some host.
const PROBE_READS: u32 = 3;

pub(super) struct SimClient {
    pub(super) id: u32,
    pub(super) world: Arc<World>,
    keys: Arc<Keys>,
    served: Arc<Served>,
    pub(super) random: SmallRng,
    host: HostId,
    /// What this client last found at keys of the ring; none: they were absent.
    found: BTreeMap<Key, Option<(Serial, u64)>>,
    /// Runs that this client has asked the fleet to keep up.
    pub(super) kept: Vec<KeptRun>,
}

/// The registers that clients use.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) labels: Vec<Key>,
    pub(super) ring: Vec<Key>,
}

impl Keys {
    pub(super) fn of(plan: &Plan) -> Arc<Self> {
        Arc::new(Self { labels: plan.registers(), ring: plan.ring_keys() })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Pull,
    Run,
    Other,
    Get,
    Set,
    Swap,
    Delete,
}

impl SimClient {
    pub(super) fn new(id: u32, world: Arc<World>, keys: Arc<Keys>, served: Arc<Served>) -> Self {
        let host = id % world.host_count() + 1;
        Self {
            id,
            world,
            keys,
            served,
            random: SmallRng::seed_from_u64(0),
            host,
            found: BTreeMap::new(),
            kept: Vec::new(),
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        self.random = SmallRng::seed_from_u64(runtime::current().random_u64());
        while !stop.is_cancelled() {
            let pause = draw(&mut self.random, &self.world.plan.load.think);
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = SimRuntime::sleep(pause) => {}
            }
            if let Some(left) = self.world.calm_left() {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = runtime::sleep_global(left) => {}
                }
            }
            match self.choose() {
                Kind::Write => self.write().await,
                Kind::Read => self.read().await,
                Kind::Pull => self.pull().await,
                Kind::Run => self.run_or_change().await,
                Kind::Other => self.other().await,
                Kind::Get => self.get_some_key().await,
                Kind::Set => self.set_some_key().await,
                Kind::Swap => self.swap_some_key().await,
                Kind::Delete => self.delete_some_key().await,
            }
            if self.random.random_range(0..1_000_000) < WANDER_PPM {
                self.wander();
            }
        }
    }

    fn choose(&mut self) -> Kind {
        let load = &self.world.plan.load;
        let ring = |of: fn(&RingLoad) -> u32| load.ring.as_ref().map_or(0, of);
        let weights = [
            (Kind::Write, load.writes),
            (Kind::Read, load.reads),
            (Kind::Pull, load.pulls),
            (Kind::Run, load.runs),
            (Kind::Other, load.others),
            (Kind::Get, ring(|ring| ring.gets)),
            (Kind::Set, ring(|ring| ring.sets)),
            (Kind::Swap, ring(|ring| ring.swaps)),
            (Kind::Delete, ring(|ring| ring.deletes)),
        ];
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Kind::Other;
        }
        let mut drawn = self.random.random_range(0..total);
        for (kind, weight) in weights {
            if drawn < weight {
                // Without registers there is nothing to write or read, and more pulls in their place would be too many to list.
                let has_none = self.keys.labels.is_empty() && matches!(kind, Kind::Write | Kind::Read);
                return if has_none { Kind::Other } else { kind };
            }
            drawn -= weight;
        }
        unreachable!("the draw is below the sum of the weights")
    }

    fn wander(&mut self) {
        self.host = self.random.random_range(1..=self.world.host_count());
    }

    fn some_key(&mut self) -> Key {
        let labels = &self.keys.labels;
        labels[self.random.random_range(0..labels.len())].clone()
    }

    /// Of the ring: often the hot one, else any.
    fn some_ring_key(&mut self, is_wanted: impl Fn(&Key) -> bool) -> Key {
        let ring = self.world.plan.load.ring.as_ref().expect("calls on the ring have frequencies");
        let keys: Vec<&Key> = self.keys.ring.iter().filter(|key| is_wanted(key)).collect();
        let hot = self.random.random_range(0..100) < ring.hot_percent;
        keys[if hot { 0 } else { self.random.random_range(0..keys.len()) }].clone()
    }

    /// One call, seen by the checkers from both ends; a client that was not served well goes elsewhere.
    pub(super) async fn call<F: Future<Output = Answer> + Send>(
        &mut self,
        kind: &'static str,
        what: Call,
        make: impl FnOnce(calls::Node) -> F,
    ) -> Outcome {
        let recorder = Arc::clone(&self.world.recorder);
        let call = recorder.next_call();
        recorder.see(Seen::Invoked { client: self.id, host: self.host, call, what });
        let timeout = Duration::from_millis(self.world.plan.load.timeout_ms);
        let outcome = match self.world.client(self.host) {
            None => Outcome::Refused("no process".into()),
            Some(node) => {
                // The reply's limit is the client's own: whatever comes later is not looked at.
                let answered = SimRuntime::timeout(timeout, make(node)).await;
                answered.unwrap_or_else(|_| Outcome::Unknown("timeout".into()))
            }
        };
        let (word, is_served) = match &outcome {
            Outcome::Refused(_) => ("refused", false),
            Outcome::Unknown(_) => ("unknown", false),
            Outcome::Written => ("written", true),
            Outcome::Value(_) | Outcome::Found { .. } => ("value", true),
            Outcome::Set(_) => ("written", true),
            Outcome::Missed { .. } => ("missed", true),
            Outcome::Deleted(_) => ("deleted", true),
            Outcome::Submitted(_) => ("submitted", true),
            Outcome::Operations(_) => ("listed", true),
            Outcome::Done | Outcome::Cancelled(_) => ("done", true),
            Outcome::Missing => ("missing", true),
        };
        recorder.count_call(kind, word);
        recorder.see(Seen::Completed { client: self.id, call, outcome: outcome.clone() });
        if is_served {
            self.served.add(kind);
        } else {
            self.wander();
        }
        outcome
    }

    async fn write(&mut self) {
        let (key, serial) = (self.some_key(), self.world.recorder.next_serial());
        let what = Call::Write { key: key.clone(), serial };
        let number = self.world.recorder.next_write();
        let flipped = self.world.plan.flip_payload.is_some_and(|first| number >= first)
            && !self.world.recorder.has_flipped();
        let value = calls::value(serial, flipped);
        let outcome = self.call("write", what, |node| calls::write(node, key, value)).await;
        if flipped && outcome == Outcome::Written {
            self.world.recorder.flipped();
        }
    }

    async fn read(&mut self) {
        let key = self.some_key();
        self.call("read", Call::Read { key: key.clone() }, |node| calls::read(node, key)).await;
    }

    /// One call on a key of the ring. What it tells of the key is remembered for a compare-and-set.
    async fn ring_call<F: Future<Output = Answer> + Send>(
        &mut self,
        kind: &'static str,
        key: Key,
        what: Call,
        make: impl FnOnce(calls::Node, Key) -> F,
    ) -> Outcome {
        let of = key.clone();
        let outcome = self.call(kind, what.clone(), |node| make(node, of)).await;
        let serial = match what {
            Call::Write { serial, .. } | Call::Swap { serial, .. } => Some(serial),
            _ => None,
        };
        match &outcome {
            Outcome::Set(version) => {
                self.found.insert(key, serial.map(|serial| (serial, *version)));
            }
            Outcome::Found { serial, version } => drop(self.found.insert(key, Some((*serial, *version)))),
            Outcome::Value(None) | Outcome::Deleted(_) => drop(self.found.insert(key, None)),
            _ => drop(self.found.remove(&key)),
        }
        outcome
    }

    async fn get_some_key(&mut self) {
        let key = self.some_ring_key(|_| true);
        self.get(key).await;
    }

    async fn get(&mut self, key: Key) -> Outcome {
        self.ring_call("get", key.clone(), Call::Read { key }, calls::get).await
    }

    /// Again when the outcome is unknown, as a write of its own.
    async fn set_some_key(&mut self) {
        let key = self.some_ring_key(|_| true);
        for _ in 0..SET_ATTEMPTS {
            if !matches!(self.set(key.clone()).await, Outcome::Unknown(_)) {
                return;
            }
        }
    }

    async fn set(&mut self, key: Key) -> Outcome {
        let serial = self.world.recorder.next_serial();
        let what = Call::Write { key: key.clone(), serial };
        let set = |node, key| calls::set(node, key, serial, When::Always, None);
        self.ring_call("set", key, what, set).await
    }

    async fn swap_some_key(&mut self) {
        let key = self.some_ring_key(|_| true);
        if !self.found.contains_key(&key) {
            self.get(key.clone()).await;
        }
        let Some(found) = self.found.get(&key).copied() else { return };
        let serial = self.world.recorder.next_serial();
        let what = Call::Swap { key: key.clone(), expected: found.map(|(serial, _)| serial), serial };
        let at = When::At(found.map(|(_, version)| version));
        self.ring_call("swap", key, what, |node, key| calls::set(node, key, serial, at, None)).await;
    }

    async fn delete_some_key(&mut self) {
        let key = self.some_ring_key(|key| !key.is_steady());
        self.ring_call("delete", key.clone(), Call::Delete { key }, calls::delete).await;
    }

    fn go_to_a_healthy_host(&mut self) {
        let healthy = self.world.healthy();
        self.host = healthy[self.random.random_range(0..healthy.len())];
    }

    /// After healing: asks one group until it has served a write and a read, then until a key with a time to live is gone.
    pub(super) async fn probe(mut self, group: u32, stop: CancellationToken) {
        self.random = SmallRng::seed_from_u64(runtime::current().random_u64());
        let work = async {
            if let Some(left) = self.world.calm_left() {
                runtime::sleep_global(left).await;
            }
            let key = self.probe_key(STEADY, group, 0);
            while !self.is_probed(&key).await {
                SimRuntime::sleep(PROBE_PAUSE).await;
            }
            self.served.add(PROBED);
            for number in 1.. {
                let key = self.probe_key(BRIEF, group, number);
                if self.is_gone_in_time(key).await {
                    break;
                }
                SimRuntime::sleep(PROBE_PAUSE).await;
            }
            self.served.add(EXPIRED);
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    async fn is_probed(&mut self, key: &Key) -> bool {
        self.go_to_a_healthy_host();
        if !matches!(self.set(key.clone()).await, Outcome::Set(_)) {
            return false;
        }
        self.go_to_a_healthy_host();
        matches!(self.get(key.clone()).await, Outcome::Found { .. })
    }

    /// Whether a key was written with a time to live and read after it had passed; the checkers know what it should have held.
    async fn is_gone_in_time(&mut self, key: Key) -> bool {
        self.go_to_a_healthy_host();
        let serial = self.world.recorder.next_serial();
        let what = Call::Expiring { key: key.clone(), serial, ttl_ms: PROBE_TTL_MS };
        let set = |node, key| calls::set(node, key, serial, When::Always, Some(PROBE_TTL_MS));
        if !matches!(self.ring_call("set", key.clone(), what, set).await, Outcome::Set(_)) {
            return false;
        }
        // Long enough for the group to go to rest.
        runtime::sleep_global(PROBE_TTL_PAUSE).await;
        let mut reads = 0;
        for _ in 0..PROBE_READS {
            self.go_to_a_healthy_host();
            reads += u32::from(self.get(key.clone()).await.value().is_some());
        }
        reads > 0
    }

    pub(super) fn groups(&self) -> GroupCount {
        self.world.plan.fleet.groups()
    }

    /// A key that the group carries.
    fn probe_key(&self, namespace: &'static str, group: u32, number: u32) -> Key {
        let groups = self.groups();
        let names = (0..).map(|n| format!("probe{number}-{n}"));
        let mut carried = names.filter(|name| groups.group_of(partition_of(name.as_bytes())).0 == group);
        Key::Ring { namespace, key: carried.next().expect("there are keys of each group") }
    }

    /// Reads all registers and operations through one host.
    pub(super) async fn read_everything_at(&mut self, host: HostId) {
        for key in &Arc::clone(&self.keys).ring {
            self.host = host;
            let what = Call::Read { key: key.clone() };
            self.ring_call("last get", key.clone(), what, calls::get).await;
        }
        for key in &Arc::clone(&self.keys).labels {
            self.host = host;
            let (what, key) = (Call::Read { key: key.clone() }, key.clone());
            self.call("last read", what, |node| calls::read(node, key)).await;
        }
        self.host = host;
        let groups = self.groups();
        self.call("last list", Call::ListOperations, |node| calls::list_operations(node, groups)).await;
    }

    /// Submits a pull under an idempotency key, again and again until the outcome is known; and may cancel it then, or use the image.
    async fn pull(&mut self) {
        let serial = self.world.recorder.next_serial();
        let Some((at, id)) = self.submit("submit", serial, None).await else { return };
        if self.happens(CANCEL_PPM) {
            self.cancel(at, serial, id).await;
        } else if self.happens(USE_IMAGE_PPM) {
            self.use_image(serial, id).await;
        }
    }

    /// The operation's place and id, if its outcome became known and it was taken.
    pub(super) async fn submit(
        &mut self,
        kind: &'static str,
        serial: Serial,
        run: Option<RunShape>,
    ) -> Option<(LogPosition, String)> {
        let (image, groups) = (calls::image(serial), self.groups());
        self.world.registry.publish(&image);
        for _ in 0..SUBMIT_ATTEMPTS {
            let what = Call::Submit { serial, image: image.clone(), run };
            let id = Arc::new(Mutex::new(None));
            let told = Arc::clone(&id);
            let outcome = self.call(kind, what, |node| calls::submit(node, groups, serial, run, told)).await;
            match outcome {
                Outcome::Unknown(_) => {}
                Outcome::Submitted(at) => {
                    return Some((at, id.lock().take().expect("whoever is told the place is told the id")));
                }
                _ => return None,
            }
            self.think().await;
        }
        None
    }

    pub(super) async fn think(&mut self) {
        let pause = draw(&mut self.random, &self.world.plan.load.think);
        SimRuntime::sleep(pause).await;
    }

    pub(super) fn happens(&mut self, ppm: u32) -> bool {
        self.random.random_range(0..1_000_000) < ppm
    }

    /// While it is under way, or when it has ended: then it is refused.
    pub(super) async fn cancel(&mut self, at: LogPosition, serial: Serial, id: String) {
        self.think().await;
        self.call("cancel", Call::Cancel { at, serial }, |node| calls::cancel(node, id)).await;
    }

    async fn other(&mut self) {
        match self.random.random_range(0..4) {
            0 => {
                let groups = self.groups();
                drop(
                    self.call("list", Call::ListOperations, |node| calls::list_operations(node, groups))
                        .await,
                );
            }
            1 => {
                let what = Call::Other { what: "nodes".into() };
                drop(self.call("nodes", what, calls::list_nodes).await);
            }
            2 => self.list_something().await,
            _ => {
                let what = Call::Other { what: "token".into() };
                drop(self.call("token", what, calls::make_and_revoke_token).await);
            }
        }
    }
}
