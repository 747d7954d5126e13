//! What the control leader decides about the ring: which nodes it is spread over, and which change begins next.
//!
//! It only proposes; whoever leads a group carries its change out. Everything that it goes by is in the record, but for who is dead and since
//! when, which a new leader learns anew. Must never: hold state that the next leader would miss.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::{Command, ControlState, Reply, RingCommand, node_spec};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::ring::schedule::{MemberView, ScheduleLimits, next_changes, nodes_to_plan};
use longshore_raft::{NodeId, Runtime};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// How often the leader looks although the log says nothing new: nodes die without a log entry.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause before a new leader decides, so that the failure detector knows who is there.
const SETTLE: Duration = Duration::from_secs(2);

/// See the module's docs. One per node; it acts on the control group's leader only.
pub(crate) struct Director<R: Runtime> {
    core: Arc<Core<R>>,
    limits: ScheduleLimits,
    /// How long a node has to be dead before its replicas are made anew elsewhere.
    death_pause: Duration,
}

impl<R: Runtime> Director<R> {
    pub(crate) fn new(core: Arc<Core<R>>, death_pause: Duration) -> Self {
        Self { core, limits: ScheduleLimits::default(), death_pause }
    }

    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut seen = 0;
        let mut leading_since: Option<R::Instant> = None;
        let mut dead_since: BTreeMap<NodeId, R::Instant> = BTreeMap::new();
        loop {
            let now = R::Instant::now();
            let leading = self.core.is_leader();
            leading_since = leading.then(|| leading_since.unwrap_or(now));
            let pause = if leading { LOOK_EVERY } else { Duration::from_secs(3600) };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
                () = R::sleep(pause) => {}
            }
            let Some(since) = leading_since else {
                dead_since.clear();
                continue;
            };
            let now = R::Instant::now();
            if now - since < SETTLE {
                continue;
            }
            self.watch_deaths(&mut dead_since, now);
            for command in self.decide(&dead_since, now) {
                match self.core.group.propose(Command::Ring(command)).await {
                    Ok(Reply::Refused(refusal)) => tracing::info!(%refusal, "the ring has gone on meanwhile"),
                    Ok(_) => {}
                    Err(error) => {
                        tracing::info!(%error, "a decision about the ring was not committed; trying again");
                        break;
                    }
                }
            }
        }
    }

    fn watch_deaths(&self, dead_since: &mut BTreeMap<NodeId, R::Instant>, now: R::Instant) {
        let members: BTreeSet<NodeId> =
            self.core.group.with_state(|state| state.membership.members().map(|n| n.id).collect());
        let is_dead = |node: &NodeId| self.core.peer_state(*node) == PeerState::Failed;
        dead_since.retain(|node, _| members.contains(node) && is_dead(node));
        for node in members.into_iter().filter(is_dead) {
            dead_since.entry(node).or_insert(now);
        }
    }

    /// A new target if one is due, else the changes to begin.
    fn decide(&self, dead_since: &BTreeMap<NodeId, R::Instant>, now: R::Instant) -> Vec<RingCommand> {
        let now_ms = u64::MAX / 2;
        let since_ms = |at: &R::Instant| now_ms - (now - *at).as_millis() as u64;
        let mut dead: BTreeSet<NodeId> = dead_since.keys().copied().collect();
        self.core.group.with_state(|state: &ControlState| {
            let Some(ring) = &state.ring else { return Vec::new() };
            // A node that was removed counts for nothing, and must not hold up others' changes by one that it would have to take part in.
            let holders = ring.placements().flat_map(|(_, placement)| placement.nodes());
            let is_member =
                |node: &NodeId| state.membership.get(*node).is_some_and(|n| n.standing.is_member());
            dead.extend(holders.filter(|node| !is_member(node)));
            let members: Vec<MemberView> = state
                .membership
                .members()
                .map(|node| MemberView {
                    spec: node_spec(node),
                    dead_since_ms: dead_since.get(&node.id).map(since_ms),
                })
                .collect();
            let pause_ms = self.death_pause.as_millis() as u64;
            let nodes = nodes_to_plan(&members, now_ms, pause_ms, ring.replication());
            let same = ring.nodes().eq(nodes.iter());
            if !same {
                match ring.plan(&nodes) {
                    Ok(plan) if ring.is_news(&plan) => return vec![RingCommand::Retarget(plan)],
                    Ok(_) => {}
                    Err(error) => tracing::warn!(%error, "no plan can be made for the ring"),
                }
            }
            next_changes(ring, &dead, &state.led.leaders(), &self.limits)
                .into_iter()
                .map(|begin| RingCommand::Begin { group: begin.group, step: begin.step })
                .collect()
        })
    }
}
