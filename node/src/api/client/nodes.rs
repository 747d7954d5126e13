//! Calls on the fleet's nodes.

use std::time::Duration;

use hyper::Method;
use longshore_raft::Runtime;

use super::{Client, ClientError, body};
use crate::api::percent::encode;
use crate::api::types::*;

impl<R: Runtime> Client<R> {
    pub async fn list_nodes(&self) -> Result<NodeList, ClientError> {
        self.get("/v1/nodes").await
    }

    pub async fn inspect_node(&self, node: &str) -> Result<NodeView, ClientError> {
        self.get(&format!("/v1/nodes/{}", encode(node))).await
    }

    pub async fn update_node(&self, node: &str, update: &NodeUpdate) -> Result<NodeView, ClientError> {
        self.call(Method::PATCH, &format!("/v1/nodes/{}", encode(node)), Some(body(update)), None).await
    }

    pub async fn node_work(&self, node: &str) -> Result<NodeWorkView, ClientError> {
        self.get(&format!("/v1/nodes/{}/work", encode(node))).await
    }

    pub async fn node_removal(&self, node: &str) -> Result<RemovalView, ClientError> {
        self.get(&format!("/v1/nodes/{}/removal", encode(node))).await
    }

    pub async fn remove_node(&self, node: &str, query: RemoveQuery) -> Result<RemovedView, ClientError> {
        let path = format!("/v1/nodes/{}?force={}", encode(node), query.force);
        self.call(Method::DELETE, &path, None, None).await
    }

    /// Waits as long as the node waits for its work, and for the fleet to let it go.
    pub async fn leave(&self, query: LeaveQuery) -> Result<LeaveView, ClientError> {
        let deadline_ms = query.deadline_ms.unwrap_or(LEAVE_DEADLINE_MS);
        let patience = Duration::from_millis(deadline_ms) + self.reply_timeout + LEAVE_PATIENCE;
        let client = self.clone().with_reply_timeout(patience);
        client.call(Method::POST, &format!("/v1/leave?deadline_ms={deadline_ms}"), None, None).await
    }
}
