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
use longshore_raft::{GroupId, NodeId, Runtime};
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
    pub(crate) core: Arc<Core<R>>,
    pub(crate) replicas: Arc<Replicas<R>>,
    pub(crate) offers: Arc<Offers<R>>,
    pub(crate) transport: TransportRef,
}

impl<R: Runtime> Dispatcher<R> {
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(LOOK_EVERY) => {}
            }
            let led = self.replicas.all().into_iter().filter(|(_, replica)| replica.is_leader());
            let swept = led.map(|(group, replica)| self.see_to(group, replica));
            futures_util::future::join_all(swept).await;
        }
    }

    async fn see_to(&self, group: GroupId, replica: Partitions<R>) {
        let now = replica.log_time();
        let Some((at_work, is_due)) = replica.with_state(|machine| {
            let operations = machine.operations();
            (operations.all().len() > 0).then(|| (operations.nodes_at_work(), is_due(operations, now)))
        }) else {
            return;
        };
        let gone = self.gone(&at_work);
        if is_due || !gone.is_empty() {
            let command = Command::SweepOperations { gone, unix_ms: R::unix_time_ms() };
            if let Err(error) = replica.propose(command).await {
                tracing::debug!(%group, %error, "operations were not swept; trying again");
            }
        }
        if at_work.is_empty() {
            return;
        }
        let offers = replica.with_state(|machine| offers_of(machine.operations().open_subs(), now));
        for (node, offers) in offers {
            if self.core.is_alive(node) {
                self.offers.send(&self.transport, node, offers);
            }
        }
    }

    /// Which of these nodes are members no more. One that this node has not heard of yet is not gone.
    fn gone(&self, nodes: &BTreeSet<NodeId>) -> Vec<NodeId> {
        self.core.group.with_state(|state| {
            let gone = |node: &&NodeId| {
                state.membership.get(**node).is_some_and(|record| !record.standing.is_member())
            };
            nodes.iter().filter(gone).copied().collect()
        })
    }
}

fn is_due(operations: &Operations, now: LogTime) -> bool {
    operations.next_deadline().is_some_and(|at| at <= now)
        || operations.next_forgotten().is_some_and(|at| at.0 + FORGET_SLACK_MS <= now.0)
}

/// What each node is to be offered. Running ones too: a node that has restarted does not know of them.
pub(crate) fn offers_of<'a>(
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
            offered.push(Offer { sub, image: record.image.clone(), wait_ms });
        }
    }
    offers
}
