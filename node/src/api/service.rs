//! What the HTTP API asks of a node. The server knows this trait only; the node implements it.

use std::pin::Pin;

use futures_util::Stream;

use super::types::*;

pub type ApiFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;
pub type ApiStream<T> = Pin<Box<dyn Stream<Item = Result<T, ApiError>> + Send>>;

/// A node as its clients see it. Reads are linearizable unless the doc says otherwise.
pub trait FleetService: Send + Sync + 'static {
    /// This node's own view; answers without a quorum.
    fn status(&self) -> ApiFuture<'_, StatusView>;
    /// Live: the process runs. Ready: it has a leader, has caught up, and its engine answers (or it has none configured). Local.
    fn health(&self) -> ApiFuture<'_, HealthView>;
    /// All nodes; answers without a quorum, from the local copy, with `stale` set.
    fn list_nodes(&self) -> ApiFuture<'_, NodeList>;
    /// By name, id (`n3` or `3`), or `self`. Answers without a quorum, from the local copy.
    fn inspect_node(&self, node: String) -> ApiFuture<'_, NodeView>;
    fn update_node(&self, node: String, update: NodeUpdate) -> ApiFuture<'_, NodeView>;
    /// Removes a node that is dead. Refused for a living one (use leave) and where it would lose the quorum.
    fn remove_node(&self, node: String) -> ApiFuture<'_, NodeView>;
    /// Hands leadership over, leaves the fleet, and stops the process soon after the reply.
    fn leave(&self) -> ApiFuture<'_, LeaveView>;
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
    /// The operation now and after every change, until it has ended. Local, not linearizable.
    fn watch_operation(&self, id: String) -> ApiFuture<'_, ApiStream<OperationView>>;
}
