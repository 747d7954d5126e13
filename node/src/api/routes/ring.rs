//! Routes of the ring and its groups.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::{ApiState, JsonBody, Pairs, QueryString, Segment, watch_response};
use crate::api::errors::Rejection;
use crate::api::types::*;

/// The ring: its shape, balance, nodes, and where every group is. Answers without a quorum from the local copy, with `stale` set.
#[utoipa::path(get, path = "/v1/ring", tag = "ring", responses(
    (status = 200, body = RingView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn show_ring(State(api): State<ApiState>) -> Result<Json<RingView>, ApiError> {
    api.service.ring().await.map(Json)
}

/// What would move if nodes were added and removed. Nothing is done.
#[utoipa::path(get, path = "/v1/ring/plan", tag = "ring", params(
    ("add" = Option<Vec<String>>, Query, description = "NAME[:WEIGHT[:ZONE]] of a node to add; may be repeated. Without a \
        weight it has the average of those there are"),
    ("remove" = Option<Vec<String>>, Query, description = "Name or id of a node to remove; may be repeated")), responses(
    (status = 200, body = RingPlanView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn plan_ring(
    State(api): State<ApiState>,
    pairs: Pairs,
) -> Result<Json<RingPlanView>, Rejection> {
    let mut query = RingPlanQuery::default();
    for (name, value) in pairs.texts()? {
        match name.as_str() {
            "add" => query.add.push(PlanNode::parse(&value)?),
            "remove" => query.remove.push(value),
            _ => return Err(Pairs::unknown(&name, "add, remove")),
        }
    }
    Ok(Json(api.service.plan_ring(query).await?))
}

/// No change begins from now on; those under way go on.
#[utoipa::path(post, path = "/v1/ring/pause", tag = "ring", responses(
    (status = 200, body = RingPauseView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn pause_ring(State(api): State<ApiState>) -> Result<Json<RingPauseView>, ApiError> {
    api.service.pause_ring(true).await.map(Json)
}

/// Changes begin again.
#[utoipa::path(post, path = "/v1/ring/resume", tag = "ring", responses(
    (status = 200, body = RingPauseView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn resume_ring(
    State(api): State<ApiState>,
) -> Result<Json<RingPauseView>, ApiError> {
    api.service.pause_ring(false).await.map(Json)
}

/// Makes a new plan at once, for the nodes as they are. It says what that changed; often nothing, since the fleet plans by
/// itself whenever its nodes change.
#[utoipa::path(post, path = "/v1/ring/rebalance", tag = "ring", responses(
    (status = 200, body = RebalanceView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn rebalance_ring(
    State(api): State<ApiState>,
) -> Result<Json<RebalanceView>, ApiError> {
    api.service.rebalance_ring().await.map(Json)
}

/// The changes under way now and as they go on, one JSON value a line, until the ring has settled. Ends like the watch of an
/// operation.
#[utoipa::path(get, path = "/v1/ring/watch", tag = "ring", params(
    ("forever" = Option<bool>, Query, description = "Go on when the ring has settled")), responses(
    (status = 200, body = RingProgressView, content_type = "application/x-ndjson"),
    (status = "default", body = ApiError)))]
pub(in crate::api) async fn watch_ring(
    State(api): State<ApiState>,
    QueryString(query): QueryString<RingWatchQuery>,
) -> Result<Response, ApiError> {
    let views = api.service.watch_ring(query).await?;
    Ok(watch_response(views, &api.shutdown))
}

/// Every group, and the answering node's replicas. Answers without a quorum from the local copy, with `stale` set.
#[utoipa::path(get, path = "/v1/groups", tag = "groups", params(
    ("keys" = Option<bool>, Query, description = "Also ask every group for its keys and bytes, which wakes those at rest")),
    responses((status = 200, body = GroupList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_groups(
    State(api): State<ApiState>,
    QueryString(query): QueryString<GroupQuery>,
) -> Result<Json<GroupList>, ApiError> {
    api.service.list_groups(query).await.map(Json)
}

/// One group by id (`g7` or `7`), with its keys and bytes if it has a quorum to tell.
#[utoipa::path(get, path = "/v1/groups/{id}", tag = "groups", params(("id" = String, Path)), responses(
    (status = 200, body = GroupView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn inspect_group(
    State(api): State<ApiState>,
    Segment(id): Segment,
) -> Result<Json<GroupView>, ApiError> {
    api.service.inspect_group(id).await.map(Json)
}

/// Has whoever leads a group hand leadership to another of its members. The fleet evens leadership out by itself, and may move
/// it again.
#[utoipa::path(post, path = "/v1/groups/{id}/transfer", tag = "groups", params(("id" = String, Path)),
    request_body = TransferRequest, responses(
    (status = 200, body = TransferView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn transfer_group(
    State(api): State<ApiState>,
    Segment(id): Segment,
    JsonBody(request): JsonBody<TransferRequest>,
) -> Result<Json<TransferView>, ApiError> {
    api.service.transfer_group(id, request).await.map(Json)
}
