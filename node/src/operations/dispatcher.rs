//! What the leader of a group does for the operations in it: offers nodes their work, and brings about what time alone decides.
//!
//! Level-triggered: everything is read off the group's state, so that the next leader goes on where this one stopped. Must never:
//! change an operation but through the group's log.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::operations::{Operations, SubKey, SubOperation, SubState};
use longshore_model::partition::Command;
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::transport::TransportRef;
use longshore_raft::{GroupId, NodeId, ReplicaId, Runtime};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::offers::{OFFERED_MAX, Offer, Offers};
use crate::core::Core;
use crate::ring::{Partitions, Replicas};

/// How often groups are looked at: what was offered and not taken is offered again so soon.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long an ended operation may be kept beyond its day before a group at rest is woken to forget it.
const FORGET_SLACK_MS: u64 = 10 * 60_000;

/// See the module's docs. One per node.
pub(crate) struct Dispatcher<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    offers: Arc<Offers<R>>,
    transport: TransportRef,
    /// Groups of which a sweep is under way.
    sweeping: Arc<Mutex<BTreeSet<GroupId>>>,
    /// Groups in which there is nothing to do: at which replica and version of its state that was seen, and until when it holds.
    at_rest: BTreeMap<GroupId, ((ReplicaId, u64), LogTime)>,
}

impl<R: Runtime> Dispatcher<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        replicas: Arc<Replicas<R>>,
        offers: Arc<Offers<R>>,
        transport: TransportRef,
    ) -> Self {
        let (sweeping, at_rest) = (Arc::default(), BTreeMap::new());
        Self { core, replicas, offers, transport, sweeping, at_rest }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(LOOK_EVERY) => {}
            }
            for (group, replica) in self.replicas.led() {
                self.see_to(group, replica);
            }
        }
    }

    /// Waits for nothing, so that a group without a quorum holds up no other.
    fn see_to(&mut self, group: GroupId, replica: Partitions<R>) {
        // Before the look at the state: what changes after it is seen the next time.
        let (version, now) = ((replica.replica(), replica.version()), replica.log_time());
        if self.at_rest.get(&group).is_some_and(|(seen, until)| *seen == version && now < *until) {
            return;
        }
        let (offers, is_due, next) = replica.with_state(|machine| {
            let operations = machine.operations();
            (offers_of(operations.open_subs(), now), is_due(operations, now), operations.next_forgotten())
        });
        if offers.is_empty() && !is_due {
            let until = next.map_or(u64::MAX, |at| at.0 + FORGET_SLACK_MS);
            self.at_rest.insert(group, (version, LogTime(until)));
            return;
        }
        self.at_rest.remove(&group);
        let gone = self.gone(offers.keys());
        for (node, offers) in offers {
            if self.core.is_alive(node) {
                self.offers.send(&self.transport, node, offers);
            }
        }
        if is_due || !gone.is_empty() {
            self.sweep(group, replica, gone);
        }
    }

    fn sweep(&self, group: GroupId, replica: Partitions<R>, gone: Vec<NodeId>) {
        if !self.sweeping.lock().insert(group) {
            return;
        }
        let sweeping = Arc::clone(&self.sweeping);
        drop(R::spawn(async move {
            let command = Command::SweepOperations { gone, unix_ms: R::unix_time_ms() };
            if let Err(error) = replica.propose(command).await {
                tracing::debug!(%group, %error, "operations were not swept; trying again");
            }
            sweeping.lock().remove(&group);
        }));
    }

    /// Which of these nodes are members no more. One that this node has not heard of yet is not gone.
    fn gone<'a>(&self, nodes: impl Iterator<Item = &'a NodeId>) -> Vec<NodeId> {
        self.core.group.with_state(|state| {
            let gone = |node: &&NodeId| {
                state.membership.get(**node).is_some_and(|record| !record.standing.is_member())
            };
            nodes.filter(gone).copied().collect()
        })
    }
}

fn is_due(operations: &Operations, now: LogTime) -> bool {
    operations.next_deadline().is_some_and(|at| at <= now)
        || operations.next_forgotten().is_some_and(|at| at.0 + FORGET_SLACK_MS <= now.0)
}

/// What each node is to be offered. Running ones too: a node that has restarted does not know of them.
fn offers_of<'a>(
    subs: impl Iterator<Item = (SubKey, &'a SubOperation)>,
    now: LogTime,
) -> BTreeMap<NodeId, Vec<Offer>> {
    let mut offers: BTreeMap<NodeId, Vec<Offer>> = BTreeMap::new();
    for (sub, record) in subs {
        let wait_ms = match &record.state {
            SubState::Assigned { not_before } => not_before.0.saturating_sub(now.0),
            _ => 0,
        };
        let offered = offers.entry(record.node).or_default();
        if offered.len() < OFFERED_MAX {
            offered.push(Offer { sub, wait_ms });
        }
    }
    offers
}
