//! The world of a run: hosts with disks, clocks and engines, a network between them, and the processes of their nodes.
//!
//! Owns everything that a node reaches through its ports, and the hands that break it. Nodes run the production
//! `Node::run`; the world never looks into them but through the API, the observer port, and their durable disks.

mod faults;
mod host;
mod load;
mod process;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use longshore_node::api::types::{CopyStateView, NodeRole, NodeState, OperationQuery};
use parking_lot::Mutex;
use rand::rngs::SmallRng;

use self::host::Host;
pub(crate) use self::process::QUIET;
use crate::disk::{self, HostDisk};
use crate::engine::{HostEngine, ImageRegistry};
use crate::event;
use crate::mutants::{self, MutantError};
use crate::network::Fabric;
use crate::observation::Seen;
use crate::plan::{Fault, HostId, Plan, WEIGHT};
use crate::random;
use crate::recorder::Recorder;
use crate::runtime::{self, Context, HostClock};

/// How long the fleet may take to form, with nothing broken.
const FORMATION_MS: u64 = 60_000;
/// Between looks at whether something is so.
const LOOK: Duration = Duration::from_millis(200);
/// How long a host may take to answer while it is asked whether it has settled.
const SETTLED_TIMEOUT: Duration = Duration::from_secs(3);
/// Operations that clients may have begun only just now.
const ACTIVE_MAX: usize = 3;
/// Between looks at durable logs while nothing happens, each time one host's.
const DURABLE_INTERVAL: Duration = Duration::from_secs(15);

/// See the module's docs.
pub struct World {
    this: Weak<World>,
    pub(crate) plan: Plan,
    context: Arc<Context>,
    pub(crate) fabric: Arc<Fabric>,
    pub(crate) registry: Arc<ImageRegistry>,
    pub(crate) recorder: Arc<Recorder>,
    hosts: Mutex<BTreeMap<HostId, Host>>,
    /// The founder's token, once it is there.
    invitation: Mutex<Option<String>>,
    /// When the fleet had formed: plans count from then on.
    formed_ns: Mutex<Option<u64>>,
    /// Chance of faults: what a power loss leaves, where rot sets in.
    random: Mutex<SmallRng>,
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("hosts", &*self.hosts.lock()).finish_non_exhaustive()
    }
}

impl World {
    /// Hosts that are there and have not been started. Must be called within a run.
    pub fn new(plan: &Plan, recorder: Arc<Recorder>) -> Arc<Self> {
        let context = runtime::current();
        let zones = plan.fleet.hosts.iter().map(|host| host.zone.clone()).collect();
        let fabric = Fabric::new(plan.seed, plan.fleet.network.clone(), zones, Arc::clone(&context));
        let registry = ImageRegistry::new();
        let hosts = (1..).zip(&plan.fleet.hosts).map(|(id, shape): (HostId, _)| {
            let clock =
                Arc::new(HostClock::new(u64::from(id) * 1_000_000_007, shape.drift_ppm, shape.wall_ahead_ms));
            let disk = HostDisk::new(id, shape.disk.sync, random::stream(plan.seed, &format!("disk h{id}")));
            let seen = Arc::clone(&recorder);
            let engine = shape.engine.present.then(|| {
                let random = random::stream(plan.seed, &format!("engine h{id}"));
                HostEngine::new(id, &registry, &shape.engine, random, Arc::new(move |it| seen.see(it)))
            });
            let host = Host {
                id,
                shape: shape.clone(),
                clock,
                disk,
                engine,
                process: None,
                has_power: true,
                incarnation: 0,
                generation: 0,
                wanted: false,
                restarts: false,
                is_member: false,
                is_gone: false,
                weight: shape.weight.unwrap_or(WEIGHT),
            };
            (id, host)
        });
        let hosts = Mutex::new(hosts.collect());
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            plan: plan.clone(),
            context,
            fabric,
            registry,
            recorder,
            hosts,
            invitation: Mutex::default(),
            formed_ns: Mutex::default(),
            random: Mutex::new(random::stream(plan.seed, "faults")),
        })
    }

    fn this(&self) -> Arc<Self> {
        self.this.upgrade().expect("the world outlives what it does")
    }

    fn founder(&self) -> HostId {
        1
    }

    fn generation(&self, id: HostId) -> u32 {
        self.hosts.lock()[&id].generation
    }

    fn seeds(&self, joiner: HostId) -> Vec<String> {
        let hosts = 1..=self.plan.fleet.hosts.len() as HostId;
        hosts.filter(|host| *host != joiner).map(|host| Fabric::address(host).to_string()).collect()
    }

    /// Founds the fleet and lets everybody join who is not late. An error is the harness's, or a product that can not even form.
    pub async fn form(self: &Arc<Self>) -> Result<(), String> {
        self.start(self.founder());
        self.until("the first node is ready", FORMATION_MS, |world| world.invitation.lock().is_some())
            .await?;
        let early: Vec<HostId> =
            (1..).zip(&self.plan.fleet.hosts).filter(|(_, shape)| !shape.late).map(|(id, _)| id).collect();
        early.iter().skip(1).for_each(|id| self.start(*id));
        let deadline = runtime::global_ns() + FORMATION_MS * 1_000_000;
        while !self.is_formed(&early).await {
            if runtime::global_ns() >= deadline {
                return Err(format!("the fleet did not form within {FORMATION_MS} ms"));
            }
            runtime::sleep_global(LOOK).await;
        }
        while !self.has_ring_settled().await {
            if runtime::global_ns() >= deadline {
                return Err(format!("the ring did not settle within {FORMATION_MS} ms"));
            }
            runtime::sleep_global(LOOK).await;
        }
        *self.formed_ns.lock() = Some(runtime::global_ns());
        event!("formed");
        Ok(())
    }

    /// Whether every host of `early` answers, is alive, and there are as many voters as there should be.
    async fn is_formed(&self, early: &[HostId]) -> bool {
        let Some(client) = self.client(self.founder()) else { return false };
        let Ok(list) = client.list_nodes().await else { return false };
        let alive = list.nodes.iter().filter(|node| node.state == NodeState::Alive).count();
        let is_voter = |role: NodeRole| matches!(role, NodeRole::Leader | NodeRole::Voter);
        let voters = list.nodes.iter().filter(|node| is_voter(node.role)).count();
        let wanted = match early.len() {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        !list.stale && alive == early.len() && voters >= wanted
    }

    /// Plants the plan's bug, if it has one. Before anything starts; what lies in the network comes with [`tamper`](Self::tamper).
    pub fn plant(&self) -> Result<(), MutantError> {
        let disks: Vec<HostDisk> = self.hosts.lock().values().map(|host| host.disk.clone()).collect();
        mutants::plant(self.plan.mutant.as_deref(), &disks)
    }

    /// Falsifies messages, if that is the plan's bug. When the fleet has formed.
    pub fn tamper(&self) -> Result<(), MutantError> {
        mutants::tamper(self.plan.mutant.as_deref(), &self.fabric)
    }

    async fn until(
        self: &Arc<Self>,
        what: &str,
        within_ms: u64,
        holds: impl Fn(&Self) -> bool,
    ) -> Result<(), String> {
        let deadline = runtime::global_ns() + within_ms * 1_000_000;
        while !holds(self) {
            if runtime::global_ns() >= deadline {
                return Err(format!("{what}: not within {within_ms} ms"));
            }
            runtime::sleep_global(LOOK).await;
        }
        Ok(())
    }

    /// All faults, until the fault phase is over.
    pub async fn break_things(self: &Arc<Self>) {
        let end = runtime::global_ns() + self.plan.fault_ms * 1_000_000;
        let faults = self.plan.faults.clone();
        self.run_faults(&faults).await;
        let left = end.saturating_sub(runtime::global_ns());
        runtime::sleep_global(Duration::from_nanos(left)).await;
    }

    /// Ends all faults but those of hosts that stay broken.
    pub fn heal(self: &Arc<Self>) {
        let unhealed = &self.plan.unhealed;
        self.fabric.heal_except(unhealed);
        self.recorder.see(Seen::Deaf { hosts: self.fabric.deaf() });
        let ids: Vec<HostId> =
            self.hosts.lock().keys().copied().filter(|id| !unhealed.contains(id)).collect();
        for id in ids {
            let (runs, engine) = {
                let mut hosts = self.hosts.lock();
                let host = hosts.get_mut(&id).expect("ids are of hosts");
                host.restarts = host.is_stopping();
                host.clock.set_drift(runtime::global_ns(), 0);
                host.disk.heal(host.shape.disk.sync);
                (host.process.is_some(), host.engine.clone())
            };
            if let Some(engine) = engine {
                engine.heal();
            }
            if runs {
                self.resume(id);
            } else {
                self.start(id);
            }
        }
        if self.plan.faults.iter().any(|scheduled| scheduled.fault == Fault::PauseRing) {
            let world = Arc::clone(self);
            drop(runtime::spawn_in(&self.context, async move { world.resume_ring().await }));
        }
        if self.plan.faults.iter().any(|scheduled| matches!(scheduled.fault, Fault::Drain { .. })) {
            let world = Arc::clone(self);
            drop(runtime::spawn_in(&self.context, async move { world.undrain_all().await }));
        }
        self.recorder.see(Seen::Healed);
    }

    /// Hosts that are to work after healing.
    pub fn healthy(&self) -> Vec<HostId> {
        let hosts = self.hosts.lock();
        hosts.keys().copied().filter(|id| !self.plan.unhealed.contains(id)).collect()
    }

    pub(crate) fn host_count(&self) -> u32 {
        self.plan.fleet.hosts.len() as u32
    }

    /// Shows what a host's durable disk holds, if it holds a replica that can be read.
    pub(crate) fn show_durable(&self, id: HostId) {
        let disk = self.hosts.lock()[&id].disk.clone();
        match disk::read_durable(&disk) {
            Ok(logs) => logs.into_iter().for_each(|log| self.recorder.see(Seen::Durable { host: id, log })),
            // A disk that rotted: its node says so as well.
            Err(error) => event!("durable host {id} unreadable: {error}"),
        }
    }

    /// Of all hosts, at one moment.
    pub(crate) fn show_all_durable(&self) {
        (1..=self.host_count()).for_each(|id| self.show_durable(id));
    }

    /// Looks at one host's durable log after another's, for ever.
    pub(crate) async fn watch_disks(self: Arc<Self>) {
        loop {
            for id in 1..=self.host_count() {
                runtime::sleep_global(DURABLE_INTERVAL).await;
                self.show_durable(id);
            }
        }
    }

    /// Whether every healthy host's node answers, knows the same leader, and can read.
    pub async fn has_settled(&self) -> bool {
        let mut leaders = BTreeSet::new();
        for id in self.healthy() {
            let Some(client) = self.client(id) else { return false };
            let client = client.with_reply_timeout(SETTLED_TIMEOUT);
            let Ok(status) = client.status().await else { return false };
            let Ok(list) = client.list_nodes().await else { return false };
            if list.stale {
                return false;
            }
            leaders.insert(status.leader);
        }
        leaders.len() == 1 && leaders.first().is_some_and(Option::is_some)
    }

    /// Whether every group is where it should be, for the hosts that there are; also if nothing is asked of the ring.
    pub async fn has_ring_settled(&self) -> bool {
        if self.plan.fleet.ring.is_none() {
            return true;
        }
        let Some(client) = self.healthy().first().and_then(|id| self.client(*id)) else { return false };
        let ring = client.with_reply_timeout(SETTLED_TIMEOUT).ring().await;
        ring.is_ok_and(|ring| ring.settled && !ring.stale && !ring.paused)
    }

    /// How long clients are to hold still from now on, if they are.
    pub(crate) fn calm_left(&self) -> Option<Duration> {
        let formed_ns = (*self.formed_ns.lock())?;
        let now_ns = runtime::global_ns();
        let calms = self.plan.load.calms.iter();
        let mut ends = calms
            .filter(|calm| formed_ns + calm.from_ms * 1_000_000 <= now_ns)
            .map(|calm| formed_ns + calm.to_ms * 1_000_000);
        ends.find(|end_ns| now_ns < *end_ns).map(|end_ns| Duration::from_nanos(end_ns - now_ns))
    }

    /// Whether no operation is still to be carried out. Clients go on meanwhile, but few of their operations are under way at a time.
    pub async fn has_ended_operations(&self) -> bool {
        if self.plan.load.pulls == 0 && self.plan.load.runs == 0 {
            return true;
        }
        let Some(client) = self.healthy().first().and_then(|id| self.client(*id)) else { return false };
        let query = OperationQuery { active: true, ..OperationQuery::default() };
        client.list_operations(&query).await.is_ok_and(|active| active.len() <= ACTIVE_MAX)
    }

    /// Whether each copy that the fleet keeps up, and nobody has stopped, is up by its record.
    pub async fn has_kept_settled(&self) -> bool {
        let Some(client) = self.healthy().first().and_then(|id| self.client(*id)) else { return false };
        let Ok(runs) = client.with_reply_timeout(SETTLED_TIMEOUT).list_runs().await else { return false };
        let wanted = runs.iter().filter(|run| !run.stopped).flat_map(|run| &run.copies);
        wanted.into_iter().all(|copy| copy.state == CopyStateView::Up)
    }

    /// What the network did.
    pub fn network_counts(&self) -> BTreeMap<String, u64> {
        self.fabric.stats().counts().into_iter().collect()
    }

    /// What all disks together did.
    pub fn disk_counts(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for host in self.hosts.lock().values() {
            for (what, count) in host.disk.stats() {
                *counts.entry(what).or_default() += count;
            }
        }
        counts
    }
}
