//! Calls on the ring and its groups.

use hyper::Method;
use longshore_raft::Runtime;

use super::{Client, ClientError, Watch, body};
use crate::api::percent::encode;
use crate::api::types::*;

impl<R: Runtime> Client<R> {
    pub async fn ring(&self) -> Result<RingView, ClientError> {
        self.get("/v1/ring").await
    }

    /// `add` as `NAME[:WEIGHT[:ZONE]]`, `remove` by name or id.
    pub async fn plan_ring(&self, add: &[String], remove: &[String]) -> Result<RingPlanView, ClientError> {
        let pairs = add.iter().map(|node| format!("add={}", encode(node)));
        let pairs: Vec<String> =
            pairs.chain(remove.iter().map(|node| format!("remove={}", encode(node)))).collect();
        self.get(&format!("/v1/ring/plan?{}", pairs.join("&"))).await
    }

    pub async fn pause_ring(&self, paused: bool) -> Result<RingPauseView, ClientError> {
        let path = if paused { "/v1/ring/pause" } else { "/v1/ring/resume" };
        self.call(Method::POST, path, None, None).await
    }

    pub async fn rebalance_ring(&self) -> Result<RebalanceView, ClientError> {
        self.call(Method::POST, "/v1/ring/rebalance", None, None).await
    }

    /// The changes under way now and as they go on.
    pub async fn watch_ring(&self, query: RingWatchQuery) -> Result<Watch<RingProgressView>, ClientError> {
        self.watch(&format!("/v1/ring/watch?forever={}", query.forever)).await
    }

    pub async fn list_groups(&self, query: GroupQuery) -> Result<GroupList, ClientError> {
        self.get(&format!("/v1/groups?keys={}", query.keys)).await
    }

    pub async fn inspect_group(&self, group: &str) -> Result<GroupView, ClientError> {
        self.get(&format!("/v1/groups/{}", encode(group))).await
    }

    pub async fn transfer_group(
        &self,
        group: &str,
        request: &TransferRequest,
    ) -> Result<TransferView, ClientError> {
        let path = format!("/v1/groups/{}/transfer", encode(group));
        self.call(Method::POST, &path, Some(body(request)), None).await
    }
}
