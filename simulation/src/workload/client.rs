//! One client: one thing at a time, against one node, until that fails it.

use std::sync::Arc;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::Served;
use super::calls::{self, Answer};
use crate::observation::{Call, Key, Outcome, Seen};
use crate::plan::HostId;
use crate::random::draw;
use crate::runtime::{self, SimRuntime};
use crate::world::World;
use longshore_raft::consensus::runtime::AsyncRuntime as _;

/// Of a million calls, so many are followed by a move to another node for no reason.
const WANDER_PPM: u32 = 50_000;
/// Times that a submission of unknown outcome is repeated.
const SUBMIT_ATTEMPTS: u32 = 20;

pub(super) struct SimClient {
    id: u32,
    world: Arc<World>,
    keys: Arc<Vec<Key>>,
    served: Arc<Served>,
    random: SmallRng,
    host: HostId,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Write,
    Read,
    Pull,
    Other,
}

impl SimClient {
    pub(super) fn new(id: u32, world: Arc<World>, keys: Arc<Vec<Key>>, served: Arc<Served>) -> Self {
        let host = id % world.host_count() + 1;
        Self { id, world, keys, served, random: SmallRng::seed_from_u64(0), host }
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
            match self.choose() {
                Kind::Write => self.write().await,
                Kind::Read => self.read().await,
                Kind::Pull => self.pull().await,
                Kind::Other => self.other().await,
            }
            if self.random.random_range(0..1_000_000) < WANDER_PPM {
                self.wander();
            }
        }
    }

    fn choose(&mut self) -> Kind {
        let load = &self.world.plan.load;
        let weights = [
            (Kind::Write, load.writes),
            (Kind::Read, load.reads),
            (Kind::Pull, load.pulls),
            (Kind::Other, load.others),
        ];
        let total: u32 = weights.iter().map(|(_, weight)| weight).sum();
        if total == 0 {
            return Kind::Other;
        }
        let mut drawn = self.random.random_range(0..total);
        for (kind, weight) in weights {
            if drawn < weight {
                // Without registers there is nothing to write or read, and more pulls in their place would be too many to list.
                let has_none = self.keys.is_empty() && matches!(kind, Kind::Write | Kind::Read);
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
        self.keys[self.random.random_range(0..self.keys.len())].clone()
    }

    /// One call, seen by the checkers from both ends; a client that was not served well goes elsewhere.
    async fn call<F: Future<Output = Answer> + Send>(
        &mut self,
        kind: &'static str,
        what: Call,
        make: impl FnOnce(calls::Node) -> F,
    ) -> Outcome {
        let recorder = Arc::clone(&self.world.recorder);
        let call = recorder.next_call();
        recorder.see(Seen::Invoked { client: self.id, call, what });
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
            Outcome::Value(_) => ("value", true),
            Outcome::Submitted(_) => ("submitted", true),
            Outcome::Operations(_) => ("listed", true),
            Outcome::Done => ("done", true),
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

    /// Reads all registers and operations through one host.
    pub(super) async fn read_everything_at(&mut self, host: HostId) {
        for key in Arc::clone(&self.keys).iter() {
            self.host = host;
            let (what, key) = (Call::Read { key: key.clone() }, key.clone());
            self.call("last read", what, |node| calls::read(node, key)).await;
        }
        self.host = host;
        self.call("last list", Call::ListOperations, calls::list_operations).await;
    }

    /// Submits a pull on all nodes under an idempotency key, again and again until the outcome is known.
    async fn pull(&mut self) {
        let serial = self.world.recorder.next_serial();
        let image = calls::image(serial);
        self.world.registry.publish(&image);
        for _ in 0..SUBMIT_ATTEMPTS {
            let what = Call::Submit { serial, image: image.clone() };
            let outcome = self.call("submit", what, |node| calls::submit(node, serial)).await;
            if !matches!(outcome, Outcome::Unknown(_)) {
                return;
            }
            let pause = draw(&mut self.random, &self.world.plan.load.think);
            SimRuntime::sleep(pause).await;
        }
    }

    async fn other(&mut self) {
        match self.random.random_range(0..3) {
            0 => drop(self.call("list", Call::ListOperations, calls::list_operations).await),
            1 => {
                let what = Call::Other { what: "nodes".into() };
                drop(self.call("nodes", what, calls::list_nodes).await);
            }
            _ => {
                let what = Call::Other { what: "token".into() };
                drop(self.call("token", what, calls::make_and_revoke_token).await);
            }
        }
    }
}
