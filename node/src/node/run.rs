//! Puts a node together, runs it, and takes it apart again.

use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::{AuthorityRecord, Command, ControlState, Reply};
use longshore_raft::consensus::group::{Group, GroupOptions};
use longshore_raft::consensus::machine::{GroupStatus, Role};
use longshore_raft::consensus::monitor::{Monitor, MonitorOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::DetectorConfig;
use longshore_raft::model::membership::{NodeProfile, Standing};
use longshore_raft::model::ring::Ring;
use longshore_raft::transport::pki::Authority;
use longshore_raft::transport::{BoxFuture, TransportRef};
use longshore_raft::{FleetId, GroupId, NodeId, Runtime};
use longshore_storage::log::{LogConfig, SegmentedLog};
use longshore_storage::snapshot::SnapshotStore;
use longshore_storage::{LogStore, StreamId};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::error::NodeError;
use super::ports::{NodeOptions, Ports, ReplicaView, StartedCommitter};
use super::start::{Start, Started, start};
use crate::api;
use crate::api::service::FleetService;
use crate::builds::{Builds, Contexts};
use crate::core::Core;
use crate::engines::{Care, Caretaker, Desk, Engines};
use crate::history::{Histories, History};
use crate::inventory::{Inventory, Listener, listen};
use crate::load::{ImageWatch, Loads, Sampler, Sharer};
use crate::membership::admission::Admission;
use crate::membership::{Announcer, Reconciler, follow_members};
use crate::node_store::NodeStore;
use crate::operations::{Dispatcher, Executor, Farewells, Intake, Offers, Upkeeper};
use crate::ring::{Carrier, Director, Front, Leaders, Replicas, ReplicasOptions, Sweeper};
use crate::service::{Service, Work};

/// Folder of snapshots in the data folder.
const SNAPSHOT_DIR: &str = "snapshots";
/// How long a stopping leader waits for another to take over.
const HAND_OVER_PATIENCE: Duration = Duration::from_secs(2);
/// How often the ring's replicas are looked at, whether one has stopped by itself.
const REPLICAS_LOOK: Duration = Duration::from_secs(2);
/// How long a reply that says that this node has left may take to reach its client.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What a person at the terminal should see, in the order in which it happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    Fleet(FleetId),
    Listening {
        node: NodeId,
        name: String,
        address: std::net::SocketAddr,
    },
    /// The fleet was founded; how others join it. Holds a secret.
    Invitation {
        token: String,
        advertise: std::net::SocketAddr,
    },
    /// The API answers, and the node has caught up.
    Ready,
}

/// How a node ended, when nothing went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Asked to stop; starts again with `run`.
    Stopped,
    /// Left the fleet for ever.
    Left,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Node<R: Runtime>(PhantomData<fn() -> R>);

/// A node whose parts all run.
struct Running<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    history: Arc<History<R>>,
    /// None without an engine.
    inventory: Option<Arc<Inventory<R>>>,
    service: Arc<Service<R>>,
    store: NodeStore,
    transport: TransportRef,
    /// Stops the node's own tasks.
    tasks: CancellationToken,
    /// Stops the API.
    api: CancellationToken,
    left: Arc<Notify>,
}

/// Milliseconds since now.
fn monotonic_ms<R: Runtime>() -> impl Fn() -> u64 + Send + Sync {
    let start = R::Instant::now();
    move || (R::Instant::now() - start).as_millis() as u64
}

impl<R: Runtime> Node<R> {
    /// Runs a node until `shutdown` is cancelled, it leaves, or it can not go on.
    ///
    /// Boxed here, where `R` is any runtime: of a named one the compiler can not show that the future may be sent.
    pub fn run(
        ports: Ports,
        options: NodeOptions,
        how: Start,
        on_event: Arc<dyn Fn(Event) + Send + Sync>,
        shutdown: CancellationToken,
    ) -> BoxFuture<Result<Exit, NodeError>> {
        Box::pin(Self::live(ports, options, how, on_event, shutdown))
    }

    async fn live(
        ports: Ports,
        options: NodeOptions,
        how: Start,
        on_event: Arc<dyn Fn(Event) + Send + Sync>,
        shutdown: CancellationToken,
    ) -> Result<Exit, NodeError> {
        let store = NodeStore::new(Arc::clone(&ports.disk));
        let is_new_fleet = matches!(how, Start::Init);
        let started = tokio::select! {
            biased;
            () = shutdown.cancelled() => return Ok(Exit::Stopped),
            started = start::<R>(how, &store, &ports.network, &options) => started?,
        };
        on_event(Event::Fleet(started.node.identity.fleet()));
        // On `run` the node has its name already.
        let options = NodeOptions { name: started.node.name.clone(), ..options };
        let (running, committer) = Self::assemble(ports, &options, started, store).await?;
        on_event(Event::Listening {
            node: running.core.me,
            name: options.name.clone(),
            address: running.transport.local_addr(),
        });
        let outcome = running.until_end(&options, is_new_fleet, on_event, shutdown).await;
        running.take_apart(committer, matches!(outcome, Ok(Exit::Stopped))).await;
        outcome
    }

    async fn assemble(
        ports: Ports,
        options: &NodeOptions,
        started: Started,
        store: NodeStore,
    ) -> Result<(Running<R>, StartedCommitter), NodeError> {
        let Started { node, peers, founding } = started;
        let me = node.identity.node();
        let incarnation = store.count_start()?;
        let log_config = LogConfig {
            segment_bytes: options.segment_bytes,
            ..LogConfig::new(Arc::new(monotonic_ms::<R>()))
        };
        let (log, committer, report) = SegmentedLog::open(Arc::clone(&ports.disk), log_config)?;
        let describe = |damage: &longshore_storage::log::Damage| {
            format!("{} at byte {} of {}", damage.detail, damage.offset, damage.file)
        };
        let damaged: BTreeMap<StreamId, String> =
            report.damaged.iter().map(|(stream, damage)| (*stream, describe(damage))).collect();
        let stream = StreamId { group: GroupId::CONTROL.0, replica: node.replica.0 };
        if let Some(damage) = damaged.get(&stream) {
            return Err(NodeError::Damaged(damage.clone()));
        }
        tracing::info!(?report, "the log is open");
        let committer = (ports.drive)(committer)
            .map_err(|e| NodeError::Fatal(format!("the log's threads cannot be started: {e}")))?;
        let snapshots = Arc::new(SnapshotStore::new(Arc::clone(&ports.disk), SNAPSHOT_DIR)?);

        let router = Router::new(me);
        let removed = router.removed();
        let offers = Offers::<R>::new(me);
        let inventory = ports.engine.map(|engine| Inventory::<R>::new(engine, ports.inventory));
        let (care, desk) = (Care::new(), Desk::<R>::new(inventory.clone()));
        let history = History::<R>::new(ports.history, options.history_keep);
        let farewells = Farewells::<R>::new();
        let (one, all) = (options.build_context_bytes, options.build_contexts_bytes);
        let contexts = Contexts::<R>::open(Arc::clone(&ports.disk), one, all, options.disk_floor);
        let loads = Loads::<R>::new(me, inventory.is_some());
        let intake = Arc::new(Intake {
            router: Arc::clone(&router),
            offers: Arc::clone(&offers),
            farewells: Arc::clone(&farewells),
            care: Arc::clone(&care),
            desk: Arc::clone(&desk),
            history: Arc::clone(&history),
            contexts: Arc::clone(&contexts),
            loads: Arc::clone(&loads),
        });
        let admission = Admission::<R>::closed();
        let transport = ports
            .network
            .start(&node.identity, intake, admission.clone())
            .map_err(|detail| NodeError::Listen { address: options.advertise, detail })?;
        transport.set_peers(peers.clone(), Vec::new());

        let log_store: Arc<dyn LogStore> = Arc::new(log);
        let monitor = Monitor::<R>::start(MonitorOptions {
            node: me,
            transport: Arc::clone(&transport),
            router: Arc::clone(&router),
            log: Arc::clone(&log_store),
            config: DetectorConfig::default(),
        });
        monitor.set_peers(peers.iter().map(|(id, _)| *id).collect());
        let group = Group::<R, ControlState>::open(GroupOptions {
            group: GroupId::CONTROL,
            replica: node.replica,
            node: me,
            machine: ControlState::default(),
            log: Arc::clone(&log_store),
            snapshots: snapshots.clone(),
            transport: Arc::clone(&transport),
            router: Arc::clone(&router),
            timings: options.timings.clone(),
            hints: peers.iter().map(|(id, _)| *id).collect(),
        })
        .await?;
        if let Some(observer) = &ports.observer {
            observer.on_replica(me, Arc::new(View(Arc::clone(&group))));
        }
        let core = Arc::new(Core {
            fleet: node.identity.fleet(),
            me,
            incarnation,
            group,
            monitor,
            engine: inventory.as_ref().map(Inventory::engine),
            loads: Arc::clone(&loads),
            removed,
            started: R::Instant::now(),
        });
        if let Some(authority) = founding {
            Self::found(&core, &store, options, &authority, node.identity.key()).await?;
        }
        admission.open(Arc::clone(&core));
        let replicas = Replicas::new(
            Arc::clone(&core),
            ReplicasOptions {
                log: log_store,
                snapshots,
                transport: Arc::clone(&transport),
                router,
                timings: options.partition_timings.clone(),
                damaged,
                observer: ports.observer,
            },
        );

        let (tasks, api_stop, left) =
            (CancellationToken::new(), CancellationToken::new(), Arc::new(Notify::new()));
        drop(R::spawn(follow_members(Arc::clone(&core), Arc::clone(&transport), tasks.clone())));
        drop(R::spawn(Reconciler::new(Arc::clone(&core), tasks.clone()).run()));
        let announcer = Announcer {
            core: Arc::clone(&core),
            address: options.advertise,
            zone: options.zone.clone(),
            region: options.region.clone(),
            weight: options.weight,
            stop: tasks.clone(),
        };
        drop(R::spawn(announcer.run()));
        drop(R::spawn(Sampler { probe: ports.host, loads: Arc::clone(&loads), stop: tasks.clone() }.run()));
        drop(R::spawn(Sharer::new(Arc::clone(&core), Arc::clone(&transport), tasks.clone()).run()));
        drop(R::spawn(Arc::clone(&replicas).run(tasks.clone())));
        drop(R::spawn(Carrier::new(Arc::clone(&core), Arc::clone(&replicas)).run(tasks.clone())));
        drop(R::spawn(Director::new(Arc::clone(&core), options.death_pause).run(tasks.clone())));
        drop(R::spawn(Sweeper::new(Arc::clone(&replicas)).run(tasks.clone())));
        drop(R::spawn(Leaders::new(Arc::clone(&core), Arc::clone(&replicas)).run(tasks.clone())));
        let front = Front::new(Arc::clone(&core), Arc::clone(&replicas));
        let asked = front.clone();
        contexts.ask_needs_of(move || {
            let front = asked.clone();
            Box::pin(async move { front.open_contexts(me).await.map_err(|error| error.to_string()) })
        });
        if let Some(inventory) = &inventory {
            drop(R::spawn(Arc::clone(inventory).run(tasks.clone())));
            let images = ImageWatch { inventory: Arc::clone(inventory), loads, stop: tasks.clone() };
            drop(R::spawn(images.run()));
            let (inventory, care, loads) =
                (Arc::clone(inventory), Arc::clone(&care), Arc::clone(&core.loads));
            drop(R::spawn(Self::follow_engine(inventory, care, loads, tasks.clone())));
        }
        if let Some(caretaker) =
            Caretaker::new(Arc::clone(&core), front.clone(), Arc::clone(&care), tasks.clone())
        {
            drop(R::spawn(caretaker.run()));
        }
        let executor = Executor::new(
            Arc::clone(&core),
            front,
            Arc::clone(&offers),
            Arc::clone(&care),
            Builds::new(Arc::clone(&core), Arc::clone(&contexts), Arc::clone(&transport)),
            options.docker_operations,
            tasks.clone(),
        );
        drop(R::spawn(executor.run()));
        drop(R::spawn(Arc::clone(&contexts).run(tasks.clone())));
        let upkeeper = Upkeeper::new(
            Arc::clone(&core),
            Arc::clone(&replicas),
            Arc::clone(&offers),
            Arc::clone(&farewells),
            Arc::clone(&care),
            Arc::clone(&transport),
        );
        drop(R::spawn(upkeeper.run(tasks.clone())));
        let dispatcher = Dispatcher::new(
            Arc::clone(&core),
            Arc::clone(&replicas),
            Arc::clone(&offers),
            Arc::clone(&transport),
        );
        drop(R::spawn(dispatcher.run(tasks.clone())));
        drop(R::spawn(Arc::clone(&history).run(Arc::clone(&replicas), tasks.clone())));
        let engines = Engines::new(me, desk, Arc::clone(&transport));
        let histories = Histories::new(me, Arc::clone(&history), Arc::clone(&transport));
        let work = Work { offers, care, engines, histories, contexts, transport: Arc::clone(&transport) };
        let service =
            Arc::new(Service::new(Arc::clone(&core), Arc::clone(&replicas), work, Arc::clone(&left)));
        for door in ports.doors {
            let (service, limits): (Arc<dyn FleetService>, _) =
                (Arc::clone(&service) as _, options.api_limits.clone());
            let serving =
                api::server::serve::<R>(door.listener, service, door.access, limits, api_stop.clone());
            drop(R::spawn(serving));
        }
        Ok((
            Running {
                core,
                replicas,
                history,
                inventory,
                service,
                store,
                transport,
                tasks,
                api: api_stop,
                left,
            },
            committer,
        ))
    }

    /// Tells all who want to hear of it what happens in the engine.
    async fn follow_engine(
        inventory: Arc<Inventory<R>>,
        care: Arc<Care>,
        loads: Arc<Loads<R>>,
        stop: CancellationToken,
    ) {
        let engine = inventory.engine();
        let listeners: Vec<Listener> = vec![
            Arc::new(move |heard| inventory.hear(heard)),
            Arc::new(move |heard| care.hear(heard)),
            Arc::new(move |heard| loads.hear(heard)),
        ];
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = listen::<R>(engine, listeners) => {}
        }
    }

    /// Commits the first command of the fleet, unless that was done before a crash.
    async fn found(
        core: &Core<R>,
        store: &NodeStore,
        options: &NodeOptions,
        authority: &Authority,
        key: &longshore_raft::transport::pki::NodeKey,
    ) -> Result<(), NodeError> {
        if core.group.status().last_log.is_none() {
            core.group.bootstrap().await?;
        }
        core.group.read_barrier().await?;
        if core.group.with_state(|s| s.fleet.is_none()) {
            let public_key = key.public_key().map_err(|e| NodeError::Fatal(e.to_string()))?;
            let command = Command::Init {
                fleet: core.fleet,
                authority: AuthorityRecord {
                    certificate_pem: authority.certificate_pem().into_bytes(),
                    key_pem: authority.key_pem().as_bytes().to_vec(),
                },
                key_hash: *blake3::hash(&public_key).as_bytes(),
                profile: NodeProfile {
                    name: options.name.clone(),
                    address: options.advertise,
                    zone: options.zone.clone(),
                    region: options.region.clone(),
                    labels: options.labels.clone(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                    weight: options.weight,
                },
                ring: options.ring,
                unix_ms: R::unix_time_ms(),
            };
            match core.group.propose(command).await? {
                Reply::Admitted { node, .. } if node == core.me => {}
                Reply::Refused(refusal) => return Err(NodeError::Refused(refusal.message)),
                other => {
                    return Err(NodeError::Fatal(format!("the first command was answered with {other:?}")));
                }
            }
        }
        Ok(store.forget_founding()?)
    }
}

struct View<R: Runtime>(Arc<Group<R, ControlState>>);

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

    fn ring(&self, known: Option<&Ring>) -> Option<Ring> {
        self.0.with_state(|state| state.ring.as_ref().filter(|ring| known != Some(*ring)).cloned())
    }
}

impl<R: Runtime> Running<R> {
    async fn until_end(
        &self,
        options: &NodeOptions,
        is_new_fleet: bool,
        on_event: Arc<dyn Fn(Event) + Send + Sync>,
        shutdown: CancellationToken,
    ) -> Result<Exit, NodeError> {
        let ready = async {
            self.until_caught_up().await;
            if is_new_fleet && let Some(invitation) = self.invitation(options).await {
                on_event(invitation);
            }
            on_event(Event::Ready);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => Ok(Exit::Stopped),
            () = self.left.notified() => {
                self.store.mark_gone("has left the fleet")?;
                R::sleep(LAST_WORDS).await;
                Ok(Exit::Left)
            }
            why = self.until_gone() => {
                // A node that leaves is told so twice; the client's reply goes first.
                R::sleep(LAST_WORDS).await;
                let leaves = why == Standing::Left;
                let why = if leaves { "has left the fleet" } else { "was removed from the fleet" };
                self.store.mark_gone(why)?;
                if leaves { Ok(Exit::Left) } else { Err(NodeError::Gone { why: why.into() }) }
            }
            fatal = self.until_fatal() => Err(NodeError::Fatal(fatal)),
            () = ready => unreachable!("it never ends"),
        }
    }

    /// Resolves when this node knows of a leader and of its own admission.
    async fn until_caught_up(&self) {
        let mut seen = 0;
        loop {
            let status = self.core.group.status();
            let admitted = self.core.group.with_state(|s| s.membership.get(self.core.me).is_some());
            if admitted && status.leader.is_some() && self.core.group.read_barrier().await.is_ok() {
                return;
            }
            seen = self.core.group.changed(seen).await;
        }
    }

    async fn invitation(&self, options: &NodeOptions) -> Option<Event> {
        let request = crate::api::types::TokenCreate { ttl_ms: Some(24 * 3_600_000), uses: Some(0) };
        match self.service.create_token(request).await {
            Ok(created) => Some(Event::Invitation { token: created.token, advertise: options.advertise }),
            Err(error) => {
                tracing::warn!(%error, "no join token could be made; use `longshore token create`");
                None
            }
        }
    }

    /// Resolves when this node is no longer a member, by its own copy of the state or by a peer's word.
    async fn until_gone(&self) -> Standing {
        let mut seen = 0;
        loop {
            let standing = self.core.group.with_state(|s| s.membership.get(self.core.me).map(|n| n.standing));
            match standing {
                Some(gone @ (Standing::Left | Standing::Removed)) => return gone,
                Some(Standing::Leaving) if self.core.removed.is_cancelled() => return Standing::Left,
                _ if self.core.removed.is_cancelled() => return Standing::Removed,
                _ => {}
            }
            tokio::select! {
                biased;
                () = self.core.removed.cancelled() => {}
                version = self.core.group.changed(seen) => seen = version,
            }
        }
    }

    /// A replica has stopped by itself: what it could not write or read is known to the next process only, and requests that come here would find
    /// nobody.
    async fn until_fatal(&self) -> String {
        tokio::select! {
            biased;
            fatal = self.until_control_stops() => fatal,
            fatal = self.until_replica_stops() => fatal,
        }
    }

    async fn until_control_stops(&self) -> String {
        let mut seen = 0;
        loop {
            if let Some(fatal) = self.core.group.status().fatal {
                return fatal;
            }
            seen = self.core.group.changed(seen).await;
        }
    }

    /// Looks now and then: there may be hundreds, which come and go, and none of them stops twice.
    async fn until_replica_stops(&self) -> String {
        loop {
            if let Some((group, fatal)) = self.replicas.stopped() {
                return format!("this node's replica of {group} has stopped: {fatal}");
            }
            R::sleep(REPLICAS_LOOK).await;
        }
    }

    /// `says_farewell`: it stops because somebody told it to, and is likely to be back.
    async fn take_apart(self, committer: StartedCommitter, says_farewell: bool) {
        self.hand_over().await;
        if says_farewell {
            let me = self.core.me;
            let others = self.core.group.with_state(|state| {
                let others = state.membership.members().map(|node| node.id).filter(|id| *id != me);
                others.filter(|id| self.core.is_alive(*id)).collect()
            });
            Farewells::<R>::say(&self.transport, others).await;
        }
        self.api.cancel();
        self.tasks.cancel();
        self.history.close().await;
        if let Some(inventory) = &self.inventory {
            inventory.close().await;
        }
        self.replicas.shutdown().await;
        self.core.group.shutdown().await;
        self.core.monitor.stop();
        self.transport.close().await;
        committer.await;
    }

    /// A leader that stops lets another lead first, so that nobody waits for an election.
    async fn hand_over(&self) {
        let status = self.core.group.status();
        if status.role != Role::Leader {
            return;
        }
        let mut heirs = self.core.candidates(&status);
        heirs.retain(|c| c.is_voter && c.alive && c.caught_up && c.node != self.core.me);
        if let Some(heir) = heirs.first() {
            let handed = R::timeout(HAND_OVER_PATIENCE, self.core.group.transfer_leader(heir.replica)).await;
            tracing::info!(to = %heir.node, done = matches!(handed, Ok(Ok(()))), "handed leadership over");
        }
    }
}
