//! What every part of a running node shares.

use std::sync::Arc;

use longshore_model::control::ControlState;
use longshore_raft::consensus::group::Group;
use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::consensus::monitor::Monitor;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::Standing;
use longshore_raft::model::voters::Candidate;
use longshore_raft::{FleetId, NodeId, Runtime};

use tokio_util::sync::CancellationToken;

use crate::docker::ContainerEngine;
use crate::load::Loads;

/// Entries by which a member may be behind and still be given a vote.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// The control group, the failure detector and the node's own identity. No part of it changes while the node runs.
pub(crate) struct Core<R: Runtime> {
    pub(crate) fleet: FleetId,
    pub(crate) me: NodeId,
    /// Which start of this node this is, counted in its data folder.
    pub(crate) incarnation: u64,
    pub(crate) group: Arc<Group<R, ControlState>>,
    pub(crate) monitor: Arc<Monitor<R>>,
    pub(crate) engine: Option<Arc<dyn ContainerEngine>>,
    /// How busy all nodes are, as far as they have told.
    pub(crate) loads: Arc<Loads<R>>,
    /// Cancelled when a peer says that this node was removed.
    pub(crate) removed: CancellationToken,
    pub(crate) started: R::Instant,
}

impl<R: Runtime> Core<R> {
    /// How this node sees a peer; itself it always sees alive.
    pub(crate) fn peer_state(&self, node: NodeId) -> PeerState {
        if node == self.me { PeerState::Alive } else { self.monitor.state(node) }
    }

    /// Members that may vote, as this node sees them: those that are leaving are left out. A member that no heartbeat has been
    /// heard of since this node started counts as alive until the detector has had its time. Who is suspect keeps a vote, but gets none.
    pub(crate) fn candidates(&self, status: &GroupStatus) -> Vec<Candidate> {
        let last = status.last_log.unwrap_or(0);
        self.group.with_state(|state| {
            let active = state.membership.members().filter(|n| n.standing == Standing::Active);
            let candidate = |n: &longshore_raft::model::membership::NodeRecord| {
                let matched =
                    status.matched.iter().find(|(r, _)| *r == n.replica).and_then(|(_, index)| *index);
                let is_voter = status.voters.iter().any(|m| m.replica == n.replica);
                let peer = self.peer_state(n.id);
                let takes_over = |other: &longshore_raft::model::membership::NodeRecord| {
                    other.id > n.id && other.profile.address == n.profile.address
                };
                let replaced = n.id != self.me && state.membership.members().any(takes_over);
                Candidate {
                    node: n.id,
                    replica: n.replica,
                    zone: n.zone().map(str::to_owned),
                    is_voter,
                    is_leader: status.leader.is_some_and(|l| l.replica == n.replica),
                    alive: peer != PeerState::Failed && !replaced,
                    replaced,
                    draining: n.is_draining(),
                    caught_up: (is_voter || peer == PeerState::Alive)
                        && matched.is_some_and(|index| index + CAUGHT_UP_ENTRIES >= last),
                }
            };
            active.map(candidate).collect()
        })
    }

    /// Whether a node is not known to have failed.
    pub(crate) fn is_alive(&self, node: NodeId) -> bool {
        self.peer_state(node) != PeerState::Failed
    }

    pub(crate) fn is_leader(&self) -> bool {
        self.group.status().role == Role::Leader
    }
}
