//! This node's replicas of groups with partitions: opens those that the ring's record gives it, destroys those that it tombstones.
//!
//! Invariants: a replica is opened only while the record has it on this node, under the id that the record gives it; a damaged one is not
//! opened at all, since it must not vote again, and the record is asked for a new one in its place; requests stop coming to a replica before it is
//! taken apart.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_model::control::{Command, Reply, RingCommand};
use longshore_model::partition::{PartitionMachine, PartitionRange};
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::group::{Group, GroupOptions};
use longshore_raft::consensus::machine::GroupStatus;
use longshore_raft::consensus::remote::{RemoteGroup, RemoteOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::consensus::snapshots::Snapshots;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::ring::schedule::has_quorum;
use longshore_raft::model::ring::{GroupCount, Placement};
use longshore_raft::transport::{BoxFuture, TransportRef};
use longshore_raft::{GroupId, NodeId, ReplicaId, Runtime};
use longshore_storage::snapshot::SnapshotStore;
use longshore_storage::{LogOp, LogStore, StorageError, StreamId};
use parking_lot::RwLock;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::Partitions;
use crate::core::Core;
use crate::node::{Observer, ReplicaView};

/// Replicas that are opened at a time: each waits for the disk a few times when it is new.
const OPENED_AT_ONCE: usize = 16;
/// Damaged replicas of this node that are made anew at a time; as many as are copied to it anyway.
const RENEWED_AT_ONCE: usize = 2;
/// How long what is under way at a replica may take before it is taken apart: as long as a proposal may.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// How long a request waits for this node's replica where there is no other: as long as a proposal may.
const OPEN_PATIENCE: Duration = Duration::from_secs(10);
/// How often a replica that is to be taken apart is looked at.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// Pause before a step that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// What replicas are made of.
pub(crate) struct ReplicasOptions {
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) snapshots: Arc<SnapshotStore>,
    pub(crate) transport: TransportRef,
    pub(crate) router: Arc<Router>,
    pub(crate) timings: Timings,
    /// Streams whose acknowledged data recovery found damaged, and how.
    pub(crate) damaged: BTreeMap<StreamId, String>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
}

/// A replica as it shows itself to an observer.
struct View<R: Runtime>(Partitions<R>);

impl<R: Runtime> ReplicaView for View<R> {
    fn status(&self) -> GroupStatus {
        self.0.status()
    }

    fn digest(&self) -> (Option<u64>, [u8; 32]) {
        self.0.digest()
    }

    fn changed(&self, seen: u64) -> BoxFuture<u64> {
        let group = Arc::clone(&self.0);
        Box::pin(async move { group.changed(seen).await })
    }

    fn epoch(&self) -> Option<u64> {
        Some(self.0.with_state(|machine| machine.epoch()))
    }
}

/// See the module's docs. One per node.
pub(crate) struct Replicas<R: Runtime> {
    core: Arc<Core<R>>,
    options: ReplicasOptions,
    open: RwLock<BTreeMap<GroupId, Partitions<R>>>,
    /// Groups of which this node has no replica, as far as somebody asked for them.
    afar: RwLock<BTreeMap<GroupId, Arc<RemoteGroup<R, PartitionMachine>>>>,
    failed: RwLock<BTreeMap<(GroupId, ReplicaId), Failure>>,
    /// A replica was opened or taken away, or cannot be opened.
    pub(super) changed: Notify,
}

/// Why a replica cannot be opened.
#[derive(Debug, Clone)]
struct Failure {
    why: String,
    /// What it acknowledged is damaged, so that it is made anew; anything else is tried again by the next process.
    damaged: bool,
}

/// Whoever serves a group, from here.
pub(crate) enum Handle<R: Runtime> {
    Here(Partitions<R>),
    Afar(Arc<RemoteGroup<R, PartitionMachine>>),
}

/// A replica that the record gives this node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    group: GroupId,
    replica: ReplicaId,
    /// It is the group's first, and makes the group when it is new.
    founds: bool,
    /// Nodes of the other members.
    hints: Vec<NodeId>,
}

impl<R: Runtime> Replicas<R> {
    pub(crate) fn new(core: Arc<Core<R>>, options: ReplicasOptions) -> Arc<Self> {
        Arc::new(Self {
            core,
            options,
            open: RwLock::default(),
            afar: RwLock::default(),
            failed: RwLock::default(),
            changed: Notify::new(),
        })
    }

    /// Follows the record until stopped, then takes all replicas apart.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = 0;
        loop {
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                done = self.follow() => done,
            };
            let pause = if done { Duration::from_secs(3600) } else { RETRY_PAUSE };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
                () = R::sleep(pause) => {}
            }
        }
    }

    /// Stops every replica; what they acknowledged is durable.
    pub(crate) async fn shutdown(&self) {
        let all: Vec<Partitions<R>> = std::mem::take(&mut *self.open.write()).into_values().collect();
        futures_util::stream::iter(all)
            .for_each_concurrent(OPENED_AT_ONCE, |replica| async move { replica.shutdown().await })
            .await;
    }

    pub(crate) fn get(&self, group: GroupId) -> Option<Partitions<R>> {
        self.open.read().get(&group).cloned()
    }

    /// All that are open, by group.
    pub(crate) fn all(&self) -> Vec<(GroupId, Partitions<R>)> {
        self.open.read().iter().map(|(group, replica)| (*group, Arc::clone(replica))).collect()
    }

    /// Those that lead their group, as far as they know.
    pub(crate) fn led(&self) -> Vec<(GroupId, Partitions<R>)> {
        self.all().into_iter().filter(|(_, replica)| replica.is_leader()).collect()
    }

    /// One that is open, and has stopped by itself, and why.
    pub(crate) fn stopped(&self) -> Option<(GroupId, String)> {
        self.all().into_iter().find_map(|(group, replica)| Some((group, replica.status().fatal?)))
    }

    /// Why this node's replica of a group is not open, if it should be and cannot.
    pub(crate) fn failure(&self, group: GroupId) -> Option<String> {
        self.failed.read().iter().find(|((failed, _), _)| *failed == group).map(|(_, f)| f.why.clone())
    }

    /// Whoever serves a group. Where no other node has it, that is this node's own replica as soon as it is open: a node takes requests
    /// before all its replicas are, and there is nobody else to ask.
    pub(crate) async fn handle(&self, group: GroupId) -> Handle<R> {
        if let Some(here) = self.get(group) {
            return Handle::Here(here);
        }
        let opened = async {
            loop {
                let mut changed = std::pin::pin!(self.changed.notified());
                // Before the look, or what is opened in between would go unheard.
                changed.as_mut().enable();
                if !self.is_opening_alone(group) {
                    return;
                }
                changed.await;
            }
        };
        // One that takes longer is answered for by those who know no leader.
        let _opened = R::timeout(OPEN_PATIENCE, opened).await;
        self.handle_now(group)
    }

    /// The record gives the group to this node alone, and its replica is not open yet.
    fn is_opening_alone(&self, group: GroupId) -> bool {
        let alone = self.core.group.with_state(|state| {
            let placement = state.ring.as_ref().and_then(|ring| ring.placement(group));
            placement.is_some_and(|p| p.members_after().values().all(|node| *node == self.core.me))
        });
        alone && self.get(group).is_none() && self.failure(group).is_none()
    }

    fn handle_now(&self, group: GroupId) -> Handle<R> {
        if let Some(here) = self.get(group) {
            return Handle::Here(here);
        }
        let hints = self.hints(group);
        if let Some(afar) = self.afar.read().get(&group) {
            afar.set_hints(hints);
            return Handle::Afar(Arc::clone(afar));
        }
        let made = || {
            Arc::new(RemoteGroup::new(RemoteOptions {
                group,
                node: self.core.me,
                transport: Arc::clone(&self.options.transport),
                router: Arc::clone(&self.options.router),
                timings: self.options.timings.clone(),
                hints,
            }))
        };
        Handle::Afar(Arc::clone(self.afar.write().entry(group).or_insert_with(made)))
    }

    fn hints(&self, group: GroupId) -> Vec<NodeId> {
        self.core.group.with_state(|state| {
            let placement = state.ring.as_ref().and_then(|ring| ring.placement(group));
            placement.map(|p| p.members_after().into_values().collect()).unwrap_or_default()
        })
    }

    /// One pass; false if something is left to do although nothing changed.
    async fn follow(&self) -> bool {
        let me = self.core.me;
        let record = self.core.group.with_state(|state| {
            let ring = state.ring.as_ref()?;
            let wanted = ring.replicas_on(me).map(|(group, replica)| {
                let placement = ring.placement(group).expect("it has a replica");
                let founds = placement.epoch == 1 && placement.members.keys().eq([&replica]);
                let hints = placement.members_after().into_values().filter(|node| *node != me).collect();
                Wanted { group, replica, founds, hints }
            });
            Some((ring.groups(), wanted.collect::<Vec<_>>(), ring.tombstones_on(me).collect::<Vec<_>>()))
        });
        let Some((groups, wanted, tombstones)) = record else { return true };
        self.retire(&wanted).await;
        let given: BTreeSet<_> = wanted.iter().map(|wanted| (wanted.group, wanted.replica)).collect();
        self.failed.write().retain(|replica, _| given.contains(replica));
        let opened = futures_util::stream::iter(wanted)
            .map(|wanted| self.bring_up(groups, wanted))
            .buffer_unordered(OPENED_AT_ONCE)
            .all(async |done| done)
            .await;
        let destroyed = self.destroy(&tombstones).await;
        let renewed = self.renew().await;
        opened && destroyed && renewed
    }

    /// Asks the record for new replicas in the place of damaged ones, a few at a time; false if that has to be tried again although nothing
    /// changed.
    async fn renew(&self) -> bool {
        let damaged: Vec<ReplicaId> =
            self.failed.read().iter().filter(|(_, f)| f.damaged).map(|((_, replica), _)| *replica).collect();
        if damaged.is_empty() {
            return true;
        }
        let me = self.core.me;
        // A group that cannot commit anything holds up no other; nothing wakes this loop when it can again.
        let mut waits = false;
        let due: Vec<ReplicaId> = self.core.group.with_state(|state| {
            let Some(ring) = &state.ring else { return Vec::new() };
            let is_whole = |p: &Placement| self.has_quorum_elsewhere(p);
            let comes_here = |p: &Placement| p.change.iter().any(|c| c.added.values().any(|on| *on == me));
            let under_way = ring.placements().filter(|(_, p)| comes_here(p) && is_whole(p)).count();
            let mut room = RENEWED_AT_ONCE.saturating_sub(under_way);
            let mut is_due = |replica: &ReplicaId| {
                let group = ring.renewal(me, *replica).ok();
                let Some(placement) = group.and_then(|group| ring.placement(group)) else { return false };
                // A change that adds it is only to be given up.
                let takes_room = placement.change.is_none();
                if takes_room && !is_whole(placement) {
                    waits = true;
                    return false;
                }
                let due = !takes_room || room > 0;
                room -= usize::from(takes_room && due);
                due
            };
            damaged.into_iter().filter(|replica| is_due(replica)).collect()
        });
        for replica in due {
            let command = RingCommand::Renew { node: me, replica };
            match self.core.group.propose(Command::Ring(command)).await {
                // It will wake this node when it shows here.
                Ok(Reply::Refused(refusal)) => tracing::info!(%replica, %refusal, "the record has gone on"),
                Ok(_) => tracing::info!(%replica, "a new replica is made in the place of a damaged one"),
                Err(error) => {
                    tracing::debug!(%error, "it could not be said that a replica is damaged; trying again");
                    return false;
                }
            }
        }
        !waits
    }

    /// A majority of a group's members is on other nodes, and alive as this one sees it.
    fn has_quorum_elsewhere(&self, placement: &Placement) -> bool {
        let nodes = placement.nodes();
        let is_lost =
            |node: &NodeId| *node == self.core.me || self.core.peer_state(*node) == PeerState::Failed;
        let lost = nodes.iter().copied().filter(is_lost).collect();
        has_quorum(&nodes, &lost)
    }

    /// Takes apart the replicas that the record does not give to this node any more.
    async fn retire(&self, wanted: &[Wanted]) {
        let keeps = |group: GroupId, replica: ReplicaId| {
            wanted.iter().any(|w| (w.group, w.replica) == (group, replica))
        };
        let retired: Vec<(GroupId, Partitions<R>)> = {
            let mut open = self.open.write();
            let (keep, retired): (BTreeMap<_, _>, BTreeMap<_, _>) = std::mem::take(&mut *open)
                .into_iter()
                .partition(|(group, replica)| keeps(*group, replica.replica()));
            *open = keep;
            retired.into_iter().collect()
        };
        for (group, replica) in retired {
            tracing::info!(%group, replica = %replica.replica(), "this node holds the group no more");
            self.changed.notify_waiters();
            let patience = R::Instant::now() + DRAIN_PATIENCE;
            // Whoever took it before it left the map may still be using it.
            while Arc::strong_count(&replica) > 1 && R::Instant::now() < patience {
                R::sleep(DRAIN_LOOK).await;
            }
            replica.shutdown().await;
        }
    }

    /// Opens a replica, and makes its group if it is the first; false if that has to be tried again.
    async fn bring_up(&self, groups: GroupCount, wanted: Wanted) -> bool {
        let Wanted { group, replica, founds, hints } = wanted;
        if let Some(open) = self.get(group) {
            open.set_hints(hints);
            return true;
        }
        if self.failed.read().contains_key(&(group, replica)) {
            return true;
        }
        let opened = match self.open(groups, group, replica, hints).await {
            Ok(opened) => opened,
            Err(failure) => {
                tracing::error!(%group, %replica, why = %failure.why, "this node's replica of the group cannot be used");
                self.failed.write().insert((group, replica), failure);
                self.changed.notify_waiters();
                return true;
            }
        };
        if founds
            && opened.status().last_log.is_none()
            && let Err(error) = opened.bootstrap().await
        {
            tracing::warn!(%group, %error, "the group could not be made; trying again");
            opened.shutdown().await;
            return false;
        }
        self.open.write().insert(group, opened);
        self.afar.write().remove(&group);
        self.changed.notify_waiters();
        true
    }

    async fn open(
        &self,
        groups: GroupCount,
        group: GroupId,
        replica: ReplicaId,
        hints: Vec<NodeId>,
    ) -> Result<Partitions<R>, Failure> {
        let stream = StreamId { group: group.0, replica: replica.0 };
        if let Some(damage) = self.options.damaged.get(&stream) {
            return Err(Failure { why: format!("it is damaged: {damage}"), damaged: true });
        }
        let range = groups.partitions_of(group).and_then(PartitionRange::new);
        let nowhere = || Failure { why: format!("the ring has no group {group}"), damaged: false };
        let range = range.ok_or_else(nowhere)?;
        let opened = Group::open_answering(GroupOptions {
            group,
            replica,
            node: self.core.me,
            machine: PartitionMachine::new(range),
            log: Arc::clone(&self.options.log),
            snapshots: self.options.snapshots.clone(),
            transport: Arc::clone(&self.options.transport),
            router: Arc::clone(&self.options.router),
            timings: self.options.timings.clone(),
            hints,
        });
        let opened = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                return Err(Failure { why: error.to_string(), damaged: self.is_damaged(stream).await });
            }
        };
        if let Some(observer) = &self.options.observer {
            observer.on_replica(self.core.me, Arc::new(View(opened.twin())));
        }
        Ok(opened)
    }

    /// Whether what a replica acknowledged is damaged for good, so that it is of no use to try again.
    async fn is_damaged(&self, stream: StreamId) -> bool {
        if matches!(self.options.log.state(stream), Err(StorageError::Damaged { .. })) {
            return true;
        }
        let snapshots = Arc::clone(&self.options.snapshots);
        let loaded = R::blocking(move || Snapshots::load(&*snapshots, stream)).await;
        matches!(loaded, Ok(Err(StorageError::Damaged { .. })))
    }

    /// Destroys what is left of tombstoned replicas, and says so; false if that has to be tried again.
    async fn destroy(&self, tombstones: &[(GroupId, ReplicaId)]) -> bool {
        if tombstones.is_empty() {
            return true;
        }
        let known: BTreeSet<StreamId> = self.options.log.streams().into_iter().collect();
        let mut destroyed = Vec::new();
        for (group, replica) in tombstones {
            let stream = StreamId { group: group.0, replica: replica.0 };
            let gone = match known.contains(&stream) {
                true => self.destroy_stream(stream).await,
                false => self.options.snapshots.remove(stream).map_err(|error| error.to_string()),
            };
            match gone {
                Ok(()) => destroyed.push(*replica),
                Err(error) => {
                    tracing::warn!(%group, %replica, %error, "a replica could not be destroyed; trying again")
                }
            }
        }
        // An empty command would only wake this loop again.
        if destroyed.is_empty() {
            return false;
        }
        let all = destroyed.len() == tombstones.len();
        let command = RingCommand::Destroyed { node: self.core.me, replicas: destroyed };
        let said = self.core.group.propose(Command::Ring(command)).await;
        if let Err(error) = &said {
            tracing::debug!(%error, "it could not be said that replicas are destroyed; trying again");
        }
        all && said.is_ok()
    }

    /// The log first: a replica without a snapshot, but with a log that was purged up to it, could not be opened.
    async fn destroy_stream(&self, stream: StreamId) -> Result<(), String> {
        let (durable, wait) = oneshot::channel();
        let on_durable = Box::new(move |result| drop(durable.send(result)));
        self.options
            .log
            .submit(vec![LogOp::Tombstone { stream }], on_durable)
            .map_err(|error| error.to_string())?;
        match wait.await {
            Ok(result) => result.map_err(|error| error.to_string())?,
            Err(_) => return Err("the log is closed".into()),
        }
        self.options.snapshots.remove(stream).map_err(|error| error.to_string())
    }
}
