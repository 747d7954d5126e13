//! The clients of a run: they change and read registers, have operations of every kind done, list, make and revoke tokens, and move
//! between nodes.
//!
//! Clients speak HTTP to nodes through the production client, as the command line does. They judge nothing: what they did and
//! what they were told goes to the recorder.

mod calls;
mod client;
mod runs;
mod uses;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use self::client::{Keys, SimClient};
use crate::random;
use crate::runtime::{self, Context, HostClock};
use crate::world::{QUIET, World};

/// A group has served a write and a read after healing; a key of it has expired.
const PROBED: &str = "probed";
const EXPIRED: &str = "expired";

/// All clients, at work.
#[derive(Debug)]
pub struct Workload {
    stop: CancellationToken,
    clients: Vec<runtime::Join<()>>,
    pub(crate) served: Arc<Served>,
}

/// Calls that were answered, by kind, since this was cleared: whether a healed fleet serves.
#[derive(Debug, Default)]
pub(crate) struct Served(Mutex<BTreeMap<&'static str, u64>>);

impl Served {
    pub(crate) fn add(&self, kind: &'static str) {
        *self.0.lock().entry(kind).or_default() += 1;
    }

    pub(crate) fn clear(&self) {
        self.0.lock().clear();
    }

    pub(crate) fn total(&self, kind: &str) -> u64 {
        self.0.lock().get(kind).copied().unwrap_or(0)
    }
}

impl Workload {
    /// Starts the clients that the plan asks for.
    pub fn start(world: &Arc<World>) -> Self {
        let (stop, served) = (CancellationToken::new(), Arc::new(Served::default()));
        let keys = Keys::of(&world.plan);
        let clients = (1..=world.plan.load.clients).map(|id| {
            let name = format!("c{id}");
            let clock = Arc::new(HostClock::new(0, 0, 0));
            let context = Context::new(&name, clock, random::stream(world.plan.seed, &name));
            let client = SimClient::new(id, Arc::clone(world), Arc::clone(&keys), Arc::clone(&served));
            runtime::spawn_in(&context, client.run(stop.clone()))
        });
        let clients = clients.collect();
        Self { stop, clients, served }
    }

    /// After healing: one more client for each group of the ring, if anything is asked of it, to see whether it serves.
    pub fn probe(&mut self, world: &Arc<World>) {
        let groups = world.plan.fleet.ring.map_or(0, |ring| ring.groups);
        let keys = Keys::of(&world.plan);
        for group in 1..=groups {
            let name = format!("p{group}");
            let clock = Arc::new(HostClock::new(0, 0, 0));
            let context = Context::new(&name, clock, random::stream(world.plan.seed, &name));
            let id = world.plan.load.clients + group;
            let client = SimClient::new(id, Arc::clone(world), Arc::clone(&keys), Arc::clone(&self.served));
            self.clients.push(runtime::spawn_in(&context, client.probe(group, self.stop.clone())));
        }
    }

    /// Whether every group has served its probes.
    pub fn is_probed(&self, world: &World) -> bool {
        let groups = u64::from(world.plan.fleet.ring.map_or(0, |ring| ring.groups));
        self.served.total(PROBED) >= groups && self.served.total(EXPIRED) >= groups
    }

    /// Lets every client end what it does.
    pub async fn finish(self) {
        self.stop.cancel();
        for client in self.clients {
            // Nobody kills clients.
            let _ = client.await;
        }
    }
}

/// The last look at a healed fleet: every register and the list of operations, read through each healthy host.
pub async fn last_look(world: &Arc<World>) {
    let keys = Keys::of(&world.plan);
    let mut client = SimClient::new(0, Arc::clone(world), keys, Arc::default());
    for host in world.healthy() {
        client.read_everything_at(host).await;
    }
    // A replica shows its state when nothing has changed in it for so long, and one may have caught up just now.
    runtime::sleep_global(2 * QUIET).await;
    world.show_all_durable();
}
