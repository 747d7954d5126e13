//! What the HTTP API asks of a node. The server knows these traits only; the node implements them.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;

use super::types::*;

pub type ApiFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;
pub type ApiStream<T> = Pin<Box<dyn Stream<Item = Result<T, ApiError>> + Send>>;

/// A node as its clients see it. Reads are linearizable unless the doc says otherwise.
pub trait FleetService: RingService + KeyService + EngineService + BuildService {
    /// This node's own view; answers without a quorum.
    fn status(&self) -> ApiFuture<'_, StatusView>;
    /// Live: the process runs. Ready: it has a leader, has caught up, and its engine answers (or it has none configured). Local.
    fn health(&self) -> ApiFuture<'_, HealthView>;
    /// All nodes; answers without a quorum, from the local copy, with `stale` set.
    fn list_nodes(&self) -> ApiFuture<'_, NodeList>;
    /// By name, id (`n3` or `3`), or `self`. Answers without a quorum, from the local copy.
    fn inspect_node(&self, node: String) -> ApiFuture<'_, NodeView>;
    fn update_node(&self, node: String, update: NodeUpdate) -> ApiFuture<'_, NodeView>;
    /// What it still has to do; every group is asked. An error if one does not answer.
    fn node_work(&self, node: String) -> ApiFuture<'_, NodeWorkView>;
    /// What its removal would mean.
    fn node_removal(&self, node: String) -> ApiFuture<'_, RemovalView>;
    /// Removes a node that is dead. Refused for a living one (use leave) and where data would be lost, unless forced; and always where it
    /// would lose the quorum.
    fn remove_node(&self, node: String, query: RemoveQuery) -> ApiFuture<'_, RemovedView>;
    /// Drains the node for a while, hands leadership over, leaves the fleet, and stops the process soon after the reply.
    fn leave(&self, query: LeaveQuery) -> ApiFuture<'_, LeaveView>;
    fn create_token(&self, request: TokenCreate) -> ApiFuture<'_, TokenCreated>;
    fn list_tokens(&self) -> ApiFuture<'_, Vec<TokenView>>;
    fn revoke_token(&self, id: String) -> ApiFuture<'_, TokenView>;
    /// Submits; returns once the record is committed. The same idempotency key gives the same operation, at every node.
    fn submit_operation(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> ApiFuture<'_, OperationView>;
    /// Newest first.
    fn list_operations(&self, query: OperationQuery) -> ApiFuture<'_, Vec<OperationView>>;
    fn inspect_operation(&self, id: String) -> ApiFuture<'_, OperationView>;
    /// Cancels what has not ended; the same again does nothing.
    fn cancel_operation(&self, id: String) -> ApiFuture<'_, OperationView>;
    /// Submits an operation that does again what did not succeed of one that has ended.
    fn retry_operation(&self, id: String, key: Option<String>) -> ApiFuture<'_, OperationView>;
    /// The operation now and after every change, until it has ended. Local, not linearizable.
    fn watch_operation(&self, id: String) -> ApiFuture<'_, ApiStream<OperationView>>;
}

/// What the engines of the fleet have, whoever made it. Engines are asked when the call comes; those that do not answer are named.
pub trait EngineService: Send + Sync + 'static {
    fn list_containers(&self, query: EngineQuery) -> ApiFuture<'_, ContainerList>;
    fn list_images(&self, query: EngineQuery) -> ApiFuture<'_, ImageList>;
    fn list_volumes(&self, query: EngineQuery) -> ApiFuture<'_, VolumeList>;
    /// Of all containers that the name means, as it comes.
    fn logs(&self, container: String, query: LogsQuery) -> ApiFuture<'_, ApiStream<OutputView>>;
    /// Runs a command in one container; ends with its exit code.
    fn exec(&self, container: String, request: ExecRequest) -> ApiFuture<'_, ApiStream<OutputView>>;
    /// Registries that the fleet has credentials for.
    fn list_registries(&self) -> ApiFuture<'_, Vec<RegistryView>>;
    /// Sets or replaces the credentials of a registry.
    fn log_in(&self, registry: String, login: RegistryLogin) -> ApiFuture<'_, RegistryView>;
    /// Forgets them; what they were.
    fn log_out(&self, registry: String) -> ApiFuture<'_, RegistryView>;
    /// Runs that the fleet keeps up, oldest first.
    fn list_runs(&self) -> ApiFuture<'_, Vec<RunView>>;
    /// By its name or id.
    fn inspect_run(&self, run: String) -> ApiFuture<'_, RunView>;
    /// The run after the change; before it, if it was removed.
    fn change_run(&self, run: String, change: RunChange) -> ApiFuture<'_, RunView>;
}

/// Folders that were sent to this node to be built: its own, no other's. Local, not linearizable.
pub trait BuildService: Send + Sync + 'static {
    fn list_contexts(&self) -> ApiFuture<'_, ContextList>;
    /// By its digest; it counts as used.
    fn find_context(&self, digest: String) -> ApiFuture<'_, ContextView>;
    /// Takes a folder as it comes; `announced` bytes, if the client has said how many. Nothing is kept of one that does not come whole.
    fn take_context(&self, announced: Option<u64>, pieces: ApiStream<Bytes>) -> ApiFuture<'_, ContextView>;
}

/// The ring and its groups. Answers without a quorum of the control group come from the local copy, with `stale` set.
pub trait RingService: Send + Sync + 'static {
    fn ring(&self) -> ApiFuture<'_, RingView>;
    /// What a change of the fleet would move; nothing is done.
    fn plan_ring(&self, query: RingPlanQuery) -> ApiFuture<'_, RingPlanView>;
    fn pause_ring(&self, paused: bool) -> ApiFuture<'_, RingPauseView>;
    /// Plans anew at once, for the nodes as they are.
    fn rebalance_ring(&self) -> ApiFuture<'_, RebalanceView>;
    /// The changes under way now and as they go on, until the ring has settled. Local, not linearizable.
    fn watch_ring(&self, query: RingWatchQuery) -> ApiFuture<'_, ApiStream<RingProgressView>>;
    fn list_groups(&self, query: GroupQuery) -> ApiFuture<'_, GroupList>;
    /// By id (`g7` or `7`); asks it for its keys and bytes.
    fn inspect_group(&self, group: String) -> ApiFuture<'_, GroupView>;
    /// Has whoever leads a group hand leadership to another of its members.
    fn transfer_group(&self, group: String, request: TransferRequest) -> ApiFuture<'_, TransferView>;
}

/// Strongly consistent keys: every read is linearizable, every change is done at most once.
pub trait KeyService: Send + Sync + 'static {
    /// None: there is no such key, or it has expired.
    fn get_key(&self, namespace: String, key: Vec<u8>) -> ApiFuture<'_, Option<KeyValue>>;
    fn set_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        value: Bytes,
        lifetime: KeyLifetime,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeySetView>;
    fn delete_key(
        &self,
        namespace: String,
        key: Vec<u8>,
        condition: KeyCondition,
    ) -> ApiFuture<'_, KeyDeletedView>;
    /// One page, of the whole fleet, in order of keys. Each group answers linearizably, but not all at one moment.
    fn scan_keys(&self, namespace: String, query: KeyScanQuery) -> ApiFuture<'_, KeyPageView>;
}
