//! Who leads which group: says what this node leads and how much there is to do in it, for all to see, and hands over what another node
//! should lead, so that leaders are spread evenly, by count and then by load.
//!
//! Every node works the same plan out of the same record, and carries its own part out: there is nobody to ask, and nothing to lose
//! with a leader. Must never: transfer to a replica that lags, or to a node that is suspect or drained.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::{Command, Led, Office, Reply};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::Standing;
use longshore_raft::model::ring::leaders::{GroupView, LeaderLimits, plan_transfers};
use longshore_raft::{GroupId, NodeId, Runtime};
use tokio_util::sync::CancellationToken;

use super::Replicas;
use super::load::{Gauge, is_news};
use crate::core::Core;

/// How often this node looks at what it leads.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks in which what all nodes lead must have stayed as it is before leadership moves: after an election, others follow.
const CALM_LOOKS: u32 = 3;
/// Entries by which a replica may be behind and still be handed leadership.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// See the module's docs. One per node.
pub(crate) struct Leaders<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    /// Of the groups that this node leads.
    gauges: BTreeMap<GroupId, Gauge>,
    measured: R::Instant,
}

impl<R: Runtime> Leaders<R> {
    pub(crate) fn new(core: Arc<Core<R>>, replicas: Arc<Replicas<R>>) -> Self {
        let (gauges, measured) = (BTreeMap::new(), R::Instant::now());
        Self { core, replicas, gauges, measured }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut last: BTreeMap<GroupId, (NodeId, u64)> = BTreeMap::new();
        let mut calm = 0;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(LOOK_EVERY) => {}
            }
            self.say_what_is_led().await;
            let led = self.core.group.with_state(|state| state.led.by_group().clone());
            let offices = led.iter().map(|(group, led)| (*group, (led.node, led.term))).collect();
            calm = if offices == last { calm + 1 } else { 0 };
            last = offices;
            if calm >= CALM_LOOKS && self.hand_over(&led).await {
                calm = 0;
            }
        }
    }

    /// Proposes what this node leads, and how much there is to do, if the record has something else.
    async fn say_what_is_led(&mut self) {
        let mine = self.measure();
        let news: BTreeMap<GroupId, Office> = self.core.group.with_state(|state| {
            let known = |group: &GroupId, office: &Office| {
                state.led.by_group().get(group).is_some_and(|led| {
                    let mine = led.term == office.term && led.node == self.core.me;
                    led.term > office.term || (mine && !is_news(led.load, office.load))
                })
            };
            mine.into_iter().filter(|(group, office)| !known(group, office)).collect()
        });
        if news.is_empty() {
            return;
        }
        match self.core.group.propose(Command::Lead { node: self.core.me, offices: news }).await {
            Ok(Reply::Refused(refusal)) => tracing::debug!(%refusal, "what is led here is not wanted"),
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "what is led here could not be said; trying again"),
        }
    }

    /// The groups that this node leads, with their loads.
    fn measure(&mut self) -> BTreeMap<GroupId, Office> {
        let now = R::Instant::now();
        let after = now.saturating_duration_since(self.measured);
        self.measured = now;
        let said = self.core.group.with_state(|state| state.led.by_group().clone());
        let (mut offices, mut gauges) = (BTreeMap::new(), BTreeMap::new());
        for (group, replica) in self.replicas.led() {
            let applied = replica.commands_applied();
            let known = self.gauges.remove(&group).map(|mut gauge| {
                gauge.see(applied, after);
                gauge
            });
            let said = said.get(&group).map_or(0, |led| led.load);
            let gauge = known.unwrap_or(Gauge::new(applied, said));
            offices.insert(group, Office { term: replica.status().term, load: gauge.per_second() });
            gauges.insert(group, gauge);
        }
        self.gauges = gauges;
        offices
    }

    /// Hands over what this node leads and another should; true if there was something.
    async fn hand_over(&self, led: &BTreeMap<GroupId, Led>) -> bool {
        let (views, usable) = self.core.group.with_state(|state| {
            let ring = state.ring.iter();
            let view = |(group, placement): (GroupId, &longshore_raft::model::ring::Placement)| {
                let on = led.get(&group).map(|led| led.node);
                let leader = on.and_then(|node| placement.members.iter().find(|(_, n)| **n == node));
                GroupView {
                    group,
                    voters: placement.members.clone(),
                    // A group whose members change is left alone.
                    leader: leader.filter(|_| placement.change.is_none()).map(|(replica, _)| *replica),
                    // As far as the record tells; whoever hands over looks.
                    caught_up: placement.members.keys().copied().collect(),
                    load: led.get(&group).map_or(0, |led| led.load),
                }
            };
            let views: Vec<GroupView> = ring.flat_map(|ring| ring.placements()).map(view).collect();
            let active =
                state.membership.members().filter(|n| n.standing == Standing::Active && !n.is_draining());
            let usable: BTreeSet<NodeId> =
                active.map(|n| n.id).filter(|node| self.core.peer_state(*node) == PeerState::Alive).collect();
            (views, usable)
        });
        let mut any = false;
        for transfer in plan_transfers(&views, &usable, &LeaderLimits::for_groups(views.len())) {
            let Some(replica) = self.replicas.get(transfer.group) else { continue };
            if replica.replica() != transfer.from || !replica.is_leader() {
                continue;
            }
            any = true;
            let status = replica.status();
            let heir =
                status.matched.iter().find(|(heir, _)| *heir == transfer.to).and_then(|(_, index)| *index);
            if heir.is_some_and(|index| index + CAUGHT_UP_ENTRIES >= status.last_log.unwrap_or(0)) {
                let handed = replica.transfer_leader(transfer.to).await;
                tracing::debug!(group = %transfer.group, to = %transfer.to, ?handed, "leadership evened out");
            }
        }
        any
    }
}
