//! The life of one process: from its ports to how it ended, and what the service manager and the operator do then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::RingShape;
use longshore_node::api::limits::ApiLimits;
use longshore_node::api::listener::memory_listener;
use longshore_node::api::server::Access;
use longshore_node::node::{
    ApiDoor, Event, Exit, Node, NodeError, NodeOptions, Observer, Ports, ReplicaView, Start,
};
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::Role;
use longshore_raft::model::ring::Ring;
use longshore_raft::model::token::JoinToken;
use longshore_raft::{NodeId, ReplicaId};
use longshore_storage::DiskFloor;
use tokio_util::sync::CancellationToken;

use super::World;
use super::host::Process;
use super::load::SimHost;
use crate::disk;
use crate::event;
use crate::network::{Fabric, network_port};
use crate::observation::{PlacementView, ReplicaStatus, RingView, Seen};
use crate::plan::{HostId, UNUSED_RING};
use crate::random;
use crate::recorder::Recorder;
use crate::runtime::{self, Context, SimRuntime};

/// How long a process that failed stays down before the service manager starts it again.
const RESTART_PAUSE: Duration = Duration::from_millis(1_000);
/// How long an operator takes to see that a node is lost for good.
const OPERATOR_PAUSE: Duration = Duration::from_secs(5);
/// How long a joiner keeps trying before its process ends, to be started again.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);

/// Until the replicas of a dead node are made anew elsewhere: within a run, unlike the five minutes of a real fleet.
const DEATH_PAUSE: Duration = Duration::from_secs(20);

/// As long as of a real fleet: longer than any run.
const HISTORY_KEEP: Duration = Duration::from_secs(24 * 3600);

/// How a process ended.
#[derive(Debug)]
pub(super) enum End {
    /// Killed from outside: whoever did it says what follows.
    Killed,
    Exited(Result<Exit, NodeError>),
}

impl World {
    /// Starts the host's node, if it does not run: founds, joins or goes on, as the data folder says.
    pub(super) fn start(self: &Arc<Self>, id: HostId) {
        let Some((process, ports, options, how)) = self.prepare(id) else { return };
        let (context, incarnation) = (Arc::clone(&process.context), process.incarnation);
        self.recorder.see(Seen::Started { host: id, incarnation });
        let on_event = {
            let world = Arc::clone(self);
            Arc::new(move |event: Event| world.hear(id, incarnation, event))
        };
        let node = Node::<SimRuntime>::run(ports, options, how, on_event, process.shutdown.clone());
        let joined = runtime::spawn_in(&context, node);
        let world = Arc::clone(self);
        drop(runtime::spawn_in(&self.context, async move {
            let end = match joined.await {
                Ok(exit) => End::Exited(exit),
                Err(_) => End::Killed,
            };
            world.ended(id, incarnation, end).await;
        }));
    }

    fn prepare(self: &Arc<Self>, id: HostId) -> Option<(Process, Ports, NodeOptions, Start)> {
        let mut hosts = self.hosts.lock();
        let host = hosts.get_mut(&id).expect("a plan names hosts that there are");
        if host.is_running() {
            return None;
        }
        host.wanted = true;
        if host.is_gone {
            host.empty();
            self.recorder.see(Seen::Wiped { host: id });
        }
        let how = match (host.is_member, self.invitation.lock().clone()) {
            (true, _) => Start::Run,
            (false, None) if id == self.founder() => Start::Init,
            (false, None) => return None,
            (false, Some(token)) => Start::Join {
                token: JoinToken::parse(&token).expect("the fleet makes valid tokens"),
                seeds: self.seeds(id),
                patience: JOIN_PATIENCE,
            },
        };
        if !std::mem::replace(&mut host.has_power, true)
            && let Some(engine) = &host.engine
        {
            engine.up();
        }
        host.incarnation += 1;
        let name = format!("h{id}.{}", host.incarnation);
        let context = Context::new(&name, Arc::clone(&host.clock), random::stream(self.plan.seed, &name));
        let (listener, dialer) = memory_listener();
        let process = Process {
            incarnation: host.incarnation,
            context: Arc::clone(&context),
            dialer,
            shutdown: CancellationToken::new(),
        };
        host.process = Some(process.clone());
        let observer = Watcher { host: id, recorder: Arc::clone(&self.recorder) };
        let ports = context.enter(|| Ports {
            disk: Arc::new(host.disk.clone()),
            drive: Box::new(disk::drive(&host.disk)),
            history: disk::tables_of_a_process(),
            inventory: disk::tables_of_a_process(),
            network: network_port(self.plan.transport, &self.fabric, id),
            engine: host.engine.as_ref().map(|engine| engine.for_process(id, host.incarnation)),
            host: Arc::new(SimHost::new(random::stream(self.plan.seed, &format!("load of {name}")))),
            doors: vec![ApiDoor { listener: Box::new(listener), access: Access::Full }],
            observer: Some(Arc::new(observer)),
        });
        let timings = Timings {
            snapshot_every_entries: self.plan.fleet.snapshot_entries,
            keep_entries: self.plan.fleet.snapshot_entries / 10,
            ..Timings::control()
        };
        let options = NodeOptions {
            name: host.node_name(),
            advertise: Fabric::address(id),
            zone: host.shape.zone.clone(),
            region: None,
            labels: Default::default(),
            weight: host.weight,
            ring: RingShape {
                groups: self.plan.fleet.groups(),
                replication: self.plan.fleet.ring.unwrap_or(UNUSED_RING).replication,
            },
            death_pause: DEATH_PAUSE,
            docker_operations: 4,
            build_context_bytes: 1 << 20,
            build_contexts_bytes: 4 << 20,
            disk_floor: DiskFloor::Usual,
            history_keep: HISTORY_KEEP,
            partition_timings: Timings {
                snapshot_every_entries: timings.snapshot_every_entries,
                keep_entries: timings.keep_entries,
                ..Timings::partition()
            },
            timings,
            segment_bytes: self.plan.fleet.segment_bytes,
            api_limits: ApiLimits::default(),
        };
        event!("start host {id} as {} ({})", options.name, kind(&how));
        Some((process, ports, options, how))
    }

    /// What a node tells the person at its terminal.
    fn hear(self: &Arc<Self>, id: HostId, incarnation: u64, event: Event) {
        event!(
            "event host {id} {}",
            match &event {
                Event::Fleet(_) => "fleet",
                Event::Listening { .. } => "listening",
                Event::Invitation { .. } => "invitation",
                Event::Ready => "ready",
            }
        );
        match event {
            Event::Invitation { token, .. } => *self.invitation.lock() = Some(token),
            Event::Listening { .. } => {
                let mut hosts = self.hosts.lock();
                let host = hosts.get_mut(&id).expect("it was started");
                if host.process.as_ref().is_some_and(|process| process.incarnation == incarnation) {
                    host.is_member = true;
                }
            }
            Event::Fleet(_) | Event::Ready => {}
        }
    }

    /// A process is no more. Whoever killed it has said so already; one that ended by itself may be started again.
    async fn ended(self: &Arc<Self>, id: HostId, incarnation: u64, end: End) {
        let End::Exited(exit) = end else { return };
        let how = match &exit {
            Ok(exit) => format!("{exit:?}"),
            Err(error) => error.to_string(),
        };
        event!("end host {id} incarnation {incarnation}: {how}");
        {
            let mut hosts = self.hosts.lock();
            let host = hosts.get_mut(&id).expect("it was started");
            let is_this = host.process.as_ref().is_some_and(|process| process.incarnation == incarnation);
            if !is_this {
                return;
            }
            let process = host.process.take().expect("it was there");
            process.context.kill();
            host.disk.process_died();
            match &exit {
                Ok(Exit::Left) | Err(NodeError::Gone { .. } | NodeError::Damaged(_)) => host.is_gone = true,
                // The log or a snapshot is beyond use, as an operator would see it.
                Err(NodeError::Storage(error)) if self.is_lost(error) => host.is_gone = true,
                // It was killed between its certificate and its first answer; an operator does what the error says.
                Err(NodeError::AlreadyMember { .. }) => host.is_member = true,
                // It was admitted, or not, before it had its certificate; whoever starts it looks again.
                _ => {}
            }
            if matches!(exit, Ok(Exit::Stopped | Exit::Left)) {
                host.wanted = matches!(exit, Ok(Exit::Stopped)) && std::mem::take(&mut host.restarts);
            }
        }
        self.fabric.process_died(id);
        self.recorder.count(
            "ends",
            match &exit {
                Ok(Exit::Stopped) => "stopped",
                Ok(Exit::Left) => "left",
                Err(NodeError::Gone { .. }) => "removed",
                Err(NodeError::Damaged(_)) => "damaged",
                Err(_) => "failed",
            },
        );
        self.recorder.see(Seen::Ended { host: id, incarnation, power_loss: false, how });
        self.show_durable(id);
        self.after(id, &exit).await;
    }

    fn is_lost(&self, error: &longshore_storage::StorageError) -> bool {
        matches!(error, longshore_storage::StorageError::Damaged { .. })
    }

    /// The service manager starts what failed; an operator replaces what is lost.
    async fn after(self: &Arc<Self>, id: HostId, exit: &Result<Exit, NodeError>) {
        let Err(error) = exit else { return self.start_if_wanted(id) };
        let is_gone = self.hosts.lock()[&id].is_gone;
        if !is_gone {
            runtime::sleep_global(RESTART_PAUSE).await;
            return self.start_if_wanted(id);
        }
        if !matches!(error, NodeError::Gone { .. }) {
            runtime::sleep_global(OPERATOR_PAUSE).await;
            self.remove_until_done(id).await;
        }
        runtime::sleep_global(OPERATOR_PAUSE).await;
        self.start_if_wanted(id);
    }

    pub(super) fn start_if_wanted(self: &Arc<Self>, id: HostId) {
        if self.hosts.lock()[&id].wanted {
            self.start(id);
        }
    }
}

fn kind(how: &Start) -> &'static str {
    match how {
        Start::Init => "init",
        Start::Join { .. } => "join",
        Start::Run => "run",
    }
}

/// The state is hashed at every such index, since hashing takes as long as the state is large; and when nothing was applied for
/// `QUIET`, which is when all replicas should be at the same index.
const HASHED_EVERY: u64 = 16;
pub(crate) const QUIET: Duration = Duration::from_millis(250);

/// Shows a node's replicas to the checkers, each time one changes.
#[derive(Debug)]
struct Watcher {
    host: HostId,
    recorder: Arc<Recorder>,
}

impl Observer for Watcher {
    fn on_replica(&self, node: NodeId, replica: Arc<dyn ReplicaView>) {
        let (host, recorder) = (self.host, Arc::clone(&self.recorder));
        drop(runtime::spawn_in(&runtime::current(), async move {
            let group = replica.status().group.0;
            let (mut seen, mut last, mut hashed, mut known) = (0, None, None, None);
            loop {
                let applied = last.as_ref().and_then(|status: &ReplicaStatus| status.applied);
                let is_dirty = applied.is_some() && applied != hashed;
                let changed = tokio::select! {
                    biased;
                    version = replica.changed(seen) => {
                        seen = version;
                        true
                    }
                    () = runtime::sleep_global(QUIET), if is_dirty => false,
                };
                if changed {
                    let status = status_of(&*replica, node);
                    if let Some(ring) = replica.ring(known.as_ref()) {
                        recorder.see(Seen::Ring { host, ring: view_of(&ring) });
                        known = Some(ring);
                    }
                    if last.as_ref() != Some(&status) {
                        recorder.see(Seen::Status { host, status: status.clone() });
                        last = Some(status);
                    }
                    // A node that stops says so itself.
                    if group != 0 && replica.status().role == Role::Stopped {
                        let replica = replica.status().replica.0;
                        return recorder.see(Seen::Closed { host, group, replica });
                    }
                }
                let applied = last.as_ref().and_then(|status| status.applied);
                let is_due = applied.is_some_and(|applied| !changed || applied.is_multiple_of(HASHED_EVERY));
                if is_due && applied != hashed {
                    let (Some(applied), hash) = replica.digest() else { continue };
                    hashed = Some(applied);
                    let hash = hash[..16].try_into().expect("a hash has 32 bytes");
                    let replica = replica.status().replica.0;
                    recorder.see(Seen::State { host, group, replica, applied, hash });
                }
            }
        }));
    }
}

fn status_of(replica: &dyn ReplicaView, node: NodeId) -> ReplicaStatus {
    let status = replica.status();
    ReplicaStatus {
        group: status.group.0,
        node: node.0,
        replica: status.replica.0,
        term: status.term,
        leader: status.leader.map(|leader| leader.replica.0),
        is_leader: status.role == Role::Leader,
        last_log: status.last_log,
        committed: status.committed,
        applied: status.applied,
        voters: status.voters.iter().map(|member| member.replica.0).collect(),
        epoch: replica.epoch(),
    }
}

fn view_of(ring: &Ring) -> RingView {
    let ids = |replicas: &BTreeMap<ReplicaId, NodeId>| -> BTreeMap<u64, u64> {
        replicas.iter().map(|(replica, node)| (replica.0, node.0)).collect()
    };
    let groups = ring.placements().map(|(group, placement)| {
        let change = placement.change.as_ref();
        let view = PlacementView {
            epoch: placement.epoch,
            members: ids(&placement.members),
            added: change.map(|change| ids(&change.added)).unwrap_or_default(),
            removed: change.map(|change| ids(&change.removed)).unwrap_or_default(),
            tombstones: ids(&placement.tombstones),
            target: ring.target().get(&group).into_iter().flatten().map(|node| node.0).collect(),
        };
        (group.0, view)
    });
    RingView {
        replication: ring.replication(),
        epoch: ring.epoch(),
        target_epoch: ring.target_epoch(),
        groups: groups.collect(),
    }
}
