//! The node behind the HTTP API: checks requests, turns them into commands, and the state into views.
//!
//! Must never: change anything but through the log of the control group, or of the group that it concerns.

mod asking;
mod choosing;
mod contexts;
mod credentials;
mod departure;
mod engines;
mod groups;
mod keys;
mod nodes;
mod operation_watch;
mod operations;
mod output;
mod placing;
mod ring;
mod ring_plan;
mod ring_watch;
mod runs;
mod tokens;
mod views;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::control::{Command, Refusal, RefusalKind, Reply};
use longshore_raft::consensus::machine::GroupError;
use longshore_raft::transport::TransportRef;
use longshore_raft::{GroupId, Runtime};
use tokio::sync::Notify;

use crate::api::service::{
    ApiFuture, ApiStream, BuildService, EngineService, FleetService, KeyService, RingService,
};
use crate::api::types::*;
use crate::builds::Contexts;
use crate::core::Core;
use crate::engines::{Care, Engines};
use crate::history::Histories;
use crate::operations::{Lately, Offers};
use crate::ring::{Front, Replicas};

/// How long a listing waits for a quorum before it shows the local copy.
const LISTING_PATIENCE: Duration = Duration::from_millis(1_500);

/// How nodes are told of their work.
pub(crate) struct Work<R: Runtime> {
    pub(crate) offers: Arc<Offers<R>>,
    pub(crate) care: Arc<Care>,
    pub(crate) engines: Engines<R>,
    pub(crate) histories: Histories<R>,
    pub(crate) contexts: Arc<Contexts<R>>,
    pub(crate) transport: TransportRef,
}

/// One per node.
pub(crate) struct Service<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    front: Front<R>,
    work: Work<R>,
    lately: Arc<Lately<R>>,
    /// Notified when this node has left, so that the process ends.
    left: Arc<Notify>,
}

impl<R: Runtime> Service<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        replicas: Arc<Replicas<R>>,
        work: Work<R>,
        left: Arc<Notify>,
    ) -> Self {
        let front = Front::new(Arc::clone(&core), Arc::clone(&replicas));
        Self { core, replicas, front, work, lately: Lately::new(), left }
    }

    /// Proposes a command; a refusal by the state machine is an error.
    async fn propose(&self, command: Command) -> Result<Reply, ApiError> {
        match self.core.group.propose(command).await.map_err(group_error)? {
            Reply::Refused(refusal) => Err(refused(refusal)),
            reply => Ok(reply),
        }
    }

    /// Waits until the local state holds everything committed before now.
    async fn linearize(&self) -> Result<(), ApiError> {
        self.core.group.read_barrier().await.map(drop).map_err(group_error)
    }

    /// Waits until the local state shows a change that this node has just brought about. Not as `linearize`: the change stands, whatever comes of the
    /// wait, so that an error must not say that nothing happened.
    async fn until_shown(&self) -> Result<(), ApiError> {
        longshore_storage::mutant!("deny-what-was-done" => return self.linearize().await);
        self.core.group.read_barrier().await.map(drop).map_err(|error| {
            let why = group_error(error).message;
            let message = format!("it is done, but this node does not know what came of it: {why}");
            ApiError::new(ErrorCode::OutcomeUnknown, message)
                .hint("do not do it again; look how things are, here later or on another node with --host")
        })
    }

    /// As `linearize`, but only for a moment; false if there was no quorum in that time.
    async fn linearize_briefly(&self) -> bool {
        matches!(R::timeout(LISTING_PATIENCE, self.core.group.read_barrier()).await, Ok(Ok(_)))
    }
}

fn refused(refusal: Refusal) -> ApiError {
    let code = match refusal.kind {
        RefusalKind::Invalid => ErrorCode::Invalid,
        RefusalKind::NotFound => ErrorCode::NotFound,
        RefusalKind::Conflict => ErrorCode::Conflict,
        RefusalKind::Denied => ErrorCode::Denied,
        RefusalKind::Busy => ErrorCode::Busy,
    };
    ApiError::new(code, refusal.message)
}

fn group_error(error: GroupError) -> ApiError {
    let message = match &error {
        // What the replica says of it names replicas, which nobody knows by their numbers.
        GroupError::NoQuorum { group: GroupId::CONTROL, .. } => {
            "the fleet has no quorum: no majority of its voters can be reached".to_owned()
        }
        _ => error.to_string(),
    };
    match error {
        GroupError::NotLeader { .. } | GroupError::NoQuorum { .. } => ApiError::new(
            ErrorCode::NoQuorum,
            message,
        )
        .hint(
            "a majority of the voters must be running and able to reach each other; see `longshore node ls`",
        ),
        GroupError::OutcomeUnknown { .. } | GroupError::ClientExpired(_) => ApiError::new(
            ErrorCode::OutcomeUnknown,
            message,
        )
        .hint("look whether it took effect before you try again, or try again with the same idempotency key"),
        GroupError::Busy(_) => ApiError::new(ErrorCode::Busy, message),
        GroupError::TooLarge { .. } => ApiError::new(ErrorCode::TooLarge, message),
        GroupError::Membership(_) => ApiError::new(ErrorCode::Conflict, message),
        GroupError::Stopped { .. } => ApiError::new(ErrorCode::Internal, message).hint("see this node's log"),
    }
}

impl<R: Runtime> FleetService for Service<R> {
    fn status(&self) -> ApiFuture<'_, StatusView> {
        Box::pin(async { Ok(self.status_view()) })
    }
    fn health(&self) -> ApiFuture<'_, HealthView> {
        Box::pin(async { Ok(self.health_view()) })
    }
    fn list_nodes(&self) -> ApiFuture<'_, NodeList> {
        Box::pin(self.nodes())
    }
    fn inspect_node(&self, node: String) -> ApiFuture<'_, NodeView> {
        Box::pin(self.node(node))
    }
    fn update_node(&self, node: String, update: NodeUpdate) -> ApiFuture<'_, NodeView> {
        Box::pin(self.change_node(node, update))
    }
    fn node_work(&self, node: String) -> ApiFuture<'_, NodeWorkView> {
        Box::pin(self.work_of(node))
    }
    fn node_removal(&self, node: String) -> ApiFuture<'_, RemovalView> {
        Box::pin(self.removal(node))
    }
    fn remove_node(&self, node: String, query: RemoveQuery) -> ApiFuture<'_, RemovedView> {
        Box::pin(self.remove(node, query))
    }
    fn leave(&self, query: LeaveQuery) -> ApiFuture<'_, LeaveView> {
        Box::pin(self.leave_fleet(query))
    }
    fn create_token(&self, request: TokenCreate) -> ApiFuture<'_, TokenCreated> {
        Box::pin(self.new_token(request))
    }
    fn list_tokens(&self) -> ApiFuture<'_, Vec<TokenView>> {
        Box::pin(self.tokens())
    }
    fn revoke_token(&self, id: String) -> ApiFuture<'_, TokenView> {
        Box::pin(self.revoke(id))
    }
    fn submit_operation(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> ApiFuture<'_, OperationView> {
        Box::pin(self.submit(request, key))
    }
    fn list_operations(&self, query: OperationQuery) -> ApiFuture<'_, Vec<OperationView>> {
        Box::pin(self.operations(query))
    }
    fn inspect_operation(&self, id: String) -> ApiFuture<'_, OperationView> {
        Box::pin(self.operation(id))
    }
    fn cancel_operation(&self, id: String) -> ApiFuture<'_, OperationView> {
        Box::pin(self.cancel(id))
    }
    fn retry_operation(&self, id: String, key: Option<String>) -> ApiFuture<'_, OperationView> {
        Box::pin(self.retry(id, key))
    }
    fn watch_operation(&self, id: String) -> ApiFuture<'_, ApiStream<OperationView>> {
        Box::pin(self.watch(id))
    }
}

impl<R: Runtime> EngineService for Service<R> {
    fn list_containers(&self, query: EngineQuery) -> ApiFuture<'_, ContainerList> {
        Box::pin(self.container_list(query))
    }
    fn list_images(&self, query: EngineQuery) -> ApiFuture<'_, ImageList> {
        Box::pin(self.image_list(query))
    }
    fn list_volumes(&self, query: EngineQuery) -> ApiFuture<'_, VolumeList> {
        Box::pin(self.volume_list(query))
    }
    fn logs(&self, container: String, query: LogsQuery) -> ApiFuture<'_, ApiStream<OutputView>> {
        Box::pin(self.container_logs(container, query))
    }
    fn exec(&self, container: String, request: ExecRequest) -> ApiFuture<'_, ApiStream<OutputView>> {
        Box::pin(self.exec_in(container, request))
    }
    fn list_registries(&self) -> ApiFuture<'_, Vec<RegistryView>> {
        Box::pin(self.registries())
    }
    fn log_in(&self, registry: String, login: RegistryLogin) -> ApiFuture<'_, RegistryView> {
        Box::pin(async move { Service::log_in(self, &registry, login).await })
    }
    fn log_out(&self, registry: String) -> ApiFuture<'_, RegistryView> {
        Box::pin(async move { Service::log_out(self, &registry).await })
    }
    fn list_runs(&self) -> ApiFuture<'_, Vec<RunView>> {
        Box::pin(self.runs())
    }
    fn inspect_run(&self, run: String) -> ApiFuture<'_, RunView> {
        Box::pin(async move { self.run(&run).await })
    }
    fn change_run(&self, run: String, change: RunChange) -> ApiFuture<'_, RunView> {
        Box::pin(async move { Service::change_run(self, &run, change).await })
    }
}

impl<R: Runtime> BuildService for Service<R> {
    fn list_contexts(&self) -> ApiFuture<'_, ContextList> {
        Box::pin(async { Ok(self.context_list()) })
    }
    fn find_context(&self, digest: String) -> ApiFuture<'_, ContextView> {
        Box::pin(async move { self.context(&digest).await })
    }
    fn take_context(&self, announced: Option<u64>, pieces: ApiStream<Bytes>) -> ApiFuture<'_, ContextView> {
        Box::pin(self.new_context(announced, pieces))
    }
}

impl<R: Runtime> RingService for Service<R> {
    fn ring(&self) -> ApiFuture<'_, RingView> {
        Box::pin(self.ring_view())
    }
    fn plan_ring(&self, query: RingPlanQuery) -> ApiFuture<'_, RingPlanView> {
        Box::pin(self.plan(query))
    }
    fn pause_ring(&self, paused: bool) -> ApiFuture<'_, RingPauseView> {
        Box::pin(self.set_paused(paused))
    }
    fn rebalance_ring(&self) -> ApiFuture<'_, RebalanceView> {
        Box::pin(self.rebalance())
    }
    fn watch_ring(&self, query: RingWatchQuery) -> ApiFuture<'_, ApiStream<RingProgressView>> {
        Box::pin(self.ring_progress(query))
    }
    fn list_groups(&self, query: GroupQuery) -> ApiFuture<'_, GroupList> {
        Box::pin(self.groups(query))
    }
    fn inspect_group(&self, group: String) -> ApiFuture<'_, GroupView> {
        Box::pin(self.group_view(group))
    }
    fn transfer_group(&self, group: String, request: TransferRequest) -> ApiFuture<'_, TransferView> {
        Box::pin(self.transfer(group, request))
    }
}

impl<R: Runtime> KeyService for Service<R> {
    fn get_key(&self, namespace: String, key: Vec<u8>) -> ApiFuture<'_, Option<KeyValue>> {
        Box::pin(self.get_value(namespace, key))
    }
    fn set_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeySetView> {
        Box::pin(self.set_value(namespace, key, value, lifetime, condition))
    }
    fn delete_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeyDeletedView> {
        Box::pin(self.delete_value(namespace, key, condition))
    }
    fn scan_keys(&self, namespace: String, query: KeyScanQuery) -> ApiFuture<'_, KeyPageView> {
        Box::pin(self.page(namespace, query))
    }
}
