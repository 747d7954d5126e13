//! The state, as the API shows it.

use longshore_model::control::ControlState;
use longshore_model::operations as model;
use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{Availability, EngineFacts, EngineReport, NodeRecord, Standing};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use crate::api::types::*;
use crate::core::Core;
use crate::load::Sighting;
use crate::ring::Partitions;

/// A leader that no majority has answered for so long can commit nothing.
const QUORUM_SILENCE_MS: u64 = 1_500;

/// Why no change can be committed now, if so.
fn no_quorum(status: &GroupStatus) -> Option<&'static str> {
    let alone = status.role == Role::Leader
        && status.voters.len() > 1
        && status.quorum_ack_ms.is_none_or(|ms| ms > QUORUM_SILENCE_MS);
    match status.leader {
        None => Some("there is no leader: changes wait until a majority of the voters is reachable"),
        Some(_) if alone => {
            Some("no majority of the voters answers this leader: changes wait until one does")
        }
        Some(_) => None,
    }
}

/// A wall clock that is further off than this makes log lines and absolute times of users hard to follow.
const SKEW_WARNING_MS: i64 = 5_000;

impl<R: Runtime> Service<R> {
    pub(super) fn status_view(&self) -> StatusView {
        let status = self.core.group.status();
        let skews = self.core.group.with_state(|s| {
            let others = s.membership.members().filter(|n| n.id != self.core.me);
            others.filter_map(|n| self.core.monitor.clock_skew_ms(n.id)).collect::<Vec<_>>()
        });
        let of_ring = self.ring_warnings();
        let running = |(_, replica): (_, Partitions<R>)| {
            replica.with_state(|machine| machine.operations().active().count())
        };
        let operations_running = self.replicas.all().into_iter().map(running).sum::<usize>() as u32;
        let clock_skew_max_ms = skews.into_iter().max_by_key(|ms| ms.unsigned_abs());
        self.core.group.with_state(|state| {
            let me = state.membership.get(self.core.me);
            let members: Vec<_> = state.membership.members().collect();
            let alive = members.iter().filter(|n| self.core.peer_state(n.id) == PeerState::Alive).count();
            StatusView {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                fleet: self.core.fleet.to_string(),
                node_id: self.core.me.to_string(),
                name: me.map_or_else(String::new, |n| n.profile.name.clone()),
                address: me.map_or_else(String::new, |n| n.profile.address.to_string()),
                role: me.map_or(NodeRole::None, |n| role(&status, n)),
                leader: leader_name(state, &status),
                term: status.term,
                applied_index: status.applied.unwrap_or(0),
                committed_index: status.committed.unwrap_or(0),
                voters: status.voters.len() as u32,
                nodes_alive: alive as u32,
                nodes_total: members.len() as u32,
                operations_running,
                engine: engine_view(me.map_or(&EngineReport::Unknown, |n| &n.engine)),
                uptime_ms: (R::Instant::now() - self.core.started).as_millis() as u64,
                clock_skew_max_ms,
                warnings: [self.warnings(state, &status, clock_skew_max_ms), of_ring].concat(),
            }
        })
    }

    fn warnings(&self, state: &ControlState, status: &GroupStatus, skew_ms: Option<i64>) -> Vec<String> {
        let mut warnings = Vec::new();
        if status.leader.is_none() {
            warnings.push(
                "there is no leader: changes wait until a majority of the voters is reachable".to_owned(),
            );
        }
        if let Some(fatal) = &status.fatal {
            warnings.push(format!("this node's copy of the control group has stopped: {fatal}"));
        }
        let failed: Vec<&str> = state
            .membership
            .members()
            .filter(|n| self.core.peer_state(n.id) == PeerState::Failed)
            .map(|n| n.profile.name.as_str())
            .collect();
        if !failed.is_empty() {
            warnings.push(format!(
                "not heard of: {}; bring them back, or remove them with `longshore node rm`",
                failed.join(", ")
            ));
        }
        if let Some(EngineReport::Unavailable { reason }) =
            state.membership.get(self.core.me).map(|n| &n.engine)
        {
            warnings.push(reason.clone());
        }
        if let Some(ms) = skew_ms.filter(|ms| ms.abs() >= SKEW_WARNING_MS) {
            warnings.push(format!(
                "the clocks of this host and a peer are {} s apart: set them with NTP (the fleet itself does not depend on it)",
                ms.abs() / 1_000
            ));
        }
        warnings
    }

    pub(super) fn health_view(&self) -> HealthView {
        let status = self.core.group.status();
        let mut reasons: Vec<String> = no_quorum(&status).map(str::to_owned).into_iter().collect();
        if status.applied < status.committed {
            reasons.push("this node is catching up".to_owned());
        }
        if let Some(fatal) = &status.fatal {
            reasons.push(fatal.clone());
        }
        self.core.group.with_state(|state| match state.membership.get(self.core.me) {
            None => reasons.push("this node has not been admitted yet, as far as it knows".to_owned()),
            Some(me) => {
                if let EngineReport::Unavailable { reason } = &me.engine {
                    reasons.push(reason.clone());
                }
            }
        });
        HealthView { live: status.fatal.is_none(), ready: reasons.is_empty(), reasons }
    }
}

fn role(status: &GroupStatus, node: &NodeRecord) -> NodeRole {
    let is = |m: &longshore_raft::consensus::machine::Member| m.replica == node.replica;
    match status {
        _ if !node.standing.is_member() => NodeRole::None,
        s if s.leader.as_ref().is_some_and(is) => NodeRole::Leader,
        s if s.voters.iter().any(is) => NodeRole::Voter,
        s if s.learners.iter().any(is) => NodeRole::Learner,
        _ => NodeRole::None,
    }
}

/// Name of the leader's node.
pub(super) fn leader_name(state: &ControlState, status: &GroupStatus) -> Option<String> {
    let leader = status.leader?;
    Some(name_of(state, leader.node))
}

/// A node's name; its id, if it is not on record here (this copy is behind).
pub(super) fn name_of(state: &ControlState, node: NodeId) -> String {
    state.membership.get(node).map_or_else(|| node.to_string(), |n| n.profile.name.clone())
}

/// Names for a sentence: the first few, and how many more.
pub(super) fn some(names: &[&str]) -> String {
    const NAMES_MAX: usize = 4;
    match names.split_at_checked(NAMES_MAX) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

fn engine_view(report: &EngineReport) -> EngineView {
    match report.clone() {
        EngineReport::Unknown => EngineView::Unknown,
        EngineReport::NotConfigured => EngineView::NotConfigured,
        EngineReport::Ready { version, api_version, facts } => {
            let EngineFacts { arch, cpus, memory_bytes, capabilities } = facts;
            let capabilities = capabilities.into_iter().collect();
            EngineView::Ready { version, api_version, arch, cpus, memory_bytes, capabilities }
        }
        EngineReport::Unavailable { reason } => EngineView::Unavailable { reason },
    }
}

fn load_view(seen: Sighting) -> LoadView {
    let Sighting { load, age, images } = seen;
    LoadView {
        cpu_busy_percent: (u32::from(load.cpu_busy) + 5) / 10,
        memory_bytes: load.memory_bytes,
        memory_free_bytes: load.memory_free_bytes,
        disk_bytes: load.disk_bytes,
        disk_free_bytes: load.disk_free_bytes,
        running: load.running,
        engine_ms: load.engine_ms,
        images: images.map(|images| images as u32),
        age_ms: age.as_millis() as u64,
    }
}

pub(super) fn node_state<R: Runtime>(core: &Core<R>, node: &NodeRecord) -> NodeState {
    match (node.standing, core.peer_state(node.id)) {
        (Standing::Left | Standing::Removed, _) => NodeState::Left,
        (_, PeerState::Alive) => NodeState::Alive,
        (_, PeerState::Suspect) => NodeState::Suspect,
        (_, PeerState::Failed) => NodeState::Failed,
    }
}

fn availability_view(state: &ControlState, node: &NodeRecord) -> AvailabilityView {
    let note = node.availability_note.as_ref();
    AvailabilityView {
        state: match node.availability {
            Availability::Active => NodeAvailability::Active,
            Availability::Paused => NodeAvailability::Paused,
            Availability::Draining => NodeAvailability::Draining,
        },
        message: note.and_then(|note| note.message.clone()),
        by: note.map(|note| name_of(state, note.by)),
        at_ms: note.map(|note| note.unix_ms),
    }
}

pub(super) fn node_view<R: Runtime>(
    core: &Core<R>,
    fleet: &ControlState,
    status: &GroupStatus,
    node: &NodeRecord,
) -> NodeView {
    let is_self = node.id == core.me;
    let state = node_state(core, node);
    let last_seen_ms = if is_self { Some(0) } else { core.monitor.last_heard_ms(node.id) };
    NodeView {
        id: node.id.to_string(),
        name: node.profile.name.clone(),
        is_self,
        role: role(status, node),
        state,
        address: node.profile.address.to_string(),
        zone: node.zone().map(str::to_owned),
        region: node.region().map(str::to_owned),
        weight: node.weight(),
        announced: AnnouncedView {
            zone: node.profile.zone.clone(),
            region: node.profile.region.clone(),
            weight: node.profile.weight,
        },
        availability: availability_view(fleet, node),
        labels: node.profile.labels.clone(),
        engine: engine_view(&node.engine),
        load: core.loads.of(node.id).map(load_view),
        version: node.profile.version.clone(),
        last_seen_ms,
        joined_at_ms: node.joined_unix_ms,
        clock_skew_ms: if is_self { None } else { core.monitor.clock_skew_ms(node.id) },
        replica: Some(node.replica.to_string()),
    }
}

pub(super) fn operation_view(state: &ControlState, operation: &model::Operation) -> OperationView {
    let sub = |(i, s): (usize, &model::SubOperation)| {
        let (sub_state, result, error) = match &s.state {
            model::SubState::Assigned { .. } => (SubOperationState::Assigned, None, s.last_error.clone()),
            model::SubState::Running(_) => (SubOperationState::Running, None, None),
            model::SubState::Succeeded { result } => {
                (SubOperationState::Succeeded, Some(result.clone()), None)
            }
            model::SubState::Failed { error } => (SubOperationState::Failed, None, Some(error.clone())),
            model::SubState::Cancelled => (SubOperationState::Cancelled, None, None),
        };
        SubOperationView {
            index: i as u32,
            node: name_of(state, s.node),
            subject: operation.kind.subject(operation.id, s.work),
            why: s.why.clone(),
            state: sub_state,
            attempts: s.attempts,
            layers_done: s.progress.layers_done,
            layers_total: s.progress.layers_total,
            current_bytes: s.progress.current_bytes,
            total_bytes: s.progress.total_bytes,
            result,
            error,
            started_at_ms: s.started_unix_ms,
            ended_at_ms: s.ended_unix_ms,
        }
    };
    let left_out = |left_out: &model::LeftOut| MissingNode {
        node: name_of(state, left_out.node),
        why: left_out.why.clone(),
    };
    OperationView {
        id: operation.id.to_string(),
        session: operation.session.to_string(),
        kind: operation.kind.name().to_owned(),
        state: match operation.state() {
            model::OperationState::Planned => OperationState::Planned,
            model::OperationState::Running => OperationState::Running,
            model::OperationState::Succeeded => OperationState::Succeeded,
            model::OperationState::Partial => OperationState::Partial,
            model::OperationState::Failed => OperationState::Failed,
            model::OperationState::Cancelled => OperationState::Cancelled,
        },
        strategy: match operation.strategy {
            model::Strategy::Local => Strategy::Local,
            model::Strategy::Replicated => Strategy::Replicated,
            model::Strategy::Distributed => Strategy::Distributed,
        },
        images: operation.kind.images().into_iter().map(|i| i.familiar()).collect(),
        containers: operation.kind.containers(operation.id),
        build: build_view(state, &operation.kind),
        submitted_by: name_of(state, operation.submitted_by),
        submitted_at_ms: operation.submitted_unix_ms,
        retry_of: operation.retry_of.map(|id| id.to_string()),
        cancelled_by: operation.cancelled_by.map(|node| name_of(state, node)),
        ended_at_ms: operation.ended_unix_ms,
        left_out: operation.left_out.iter().map(left_out).collect(),
        sub_operations: operation.subs.iter().enumerate().map(sub).collect(),
    }
}

fn build_view(state: &ControlState, kind: &model::OperationKind) -> Option<BuildView> {
    let model::OperationKind::Build(build) = kind else { return None };
    Some(BuildView {
        context: longshore_storage::BlobDigest(build.context.digest).to_string(),
        context_bytes: build.context.bytes,
        holder: name_of(state, build.context.holder),
        dockerfile: build.dockerfile.clone(),
        args: build.args.iter().map(|arg| arg.name.clone()).collect(),
        target: build.target.clone(),
    })
}

/// Whether this node's copy shows it leading.
pub(super) fn leads(status: &GroupStatus) -> bool {
    status.role == Role::Leader
}
