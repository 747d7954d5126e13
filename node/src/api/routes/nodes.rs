//! Nodes: listings, what an operator changes, what they still have to do, and how they go.

use axum::Json;
use axum::extract::State;

use super::*;

/// All nodes. Answers without a quorum from the local copy, with `stale` set.
#[utoipa::path(get, path = "/v1/nodes", tag = "nodes", responses(
    (status = 200, body = NodeList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_nodes(State(api): State<ApiState>) -> Result<Json<NodeList>, ApiError> {
    api.service.list_nodes().await.map(Json)
}

/// One node by name, id (`n3` or `3`) or `self`.
#[utoipa::path(get, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path)), responses(
    (status = 200, body = NodeView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn inspect_node(
    State(api): State<ApiState>,
    Segment(node): Segment,
) -> Result<Json<NodeView>, ApiError> {
    api.service.inspect_node(node).await.map(Json)
}

/// Changes a node's labels, weight, place and availability. The last node that takes new work is neither paused nor drained.
#[utoipa::path(patch, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path)),
    request_body = NodeUpdate, responses(
    (status = 200, body = NodeView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn update_node(
    State(api): State<ApiState>,
    Segment(node): Segment,
    JsonBody(update): JsonBody<NodeUpdate>,
) -> Result<Json<NodeView>, ApiError> {
    check_update(&update).map_err(|message| ApiError::new(ErrorCode::Invalid, message))?;
    api.service.update_node(node, update).await.map(Json)
}

fn check_update(update: &NodeUpdate) -> Result<(), String> {
    for (key, value) in &update.label_add {
        names::check_label_key(key).and_then(|()| names::check_label_value(value))?;
    }
    update.zone.as_deref().map_or(Ok(()), names::check_zone)?;
    update.region.as_deref().map_or(Ok(()), names::check_region)?;
    let given = [
        (NodeSetting::Weight, update.weight.is_some(), "weight"),
        (NodeSetting::Zone, update.zone.is_some(), "zone"),
        (NodeSetting::Region, update.region.is_some(), "region"),
    ];
    if let Some((.., both)) = given.iter().find(|(setting, set, _)| *set && update.reset.contains(setting)) {
        return Err(format!("the {both} is both set and reset"));
    }
    if update.message.is_some() && update.availability.is_none() {
        return Err("a message goes with an availability".to_owned());
    }
    Ok(())
}

/// What a node still has to do: the open parts of operations that are on it, over the whole fleet.
#[utoipa::path(get, path = "/v1/nodes/{node}/work", tag = "nodes", params(("node" = String, Path)), responses(
    (status = 200, body = NodeWorkView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn node_work(
    State(api): State<ApiState>,
    Segment(node): Segment,
) -> Result<Json<NodeWorkView>, ApiError> {
    api.service.node_work(node).await.map(Json)
}

/// What the removal of a node would mean now; nothing is done.
#[utoipa::path(get, path = "/v1/nodes/{node}/removal", tag = "nodes", params(("node" = String, Path)), responses(
    (status = 200, body = RemovalView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn node_removal(
    State(api): State<ApiState>,
    Segment(node): Segment,
) -> Result<Json<RemovalView>, ApiError> {
    api.service.node_removal(node).await.map(Json)
}

/// Removes a dead node for good; with `force` also one that is alive, or whose data has no other copy. Never at the expense of the quorum.
#[utoipa::path(delete, path = "/v1/nodes/{node}", tag = "nodes", params(("node" = String, Path),
    ("force" = Option<bool>, Query, description = "Also one that is alive, or whose data has no other copy")), responses(
    (status = 200, body = RemovedView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn remove_node(
    State(api): State<ApiState>,
    Segment(node): Segment,
    QueryString(query): QueryString<RemoveQuery>,
) -> Result<Json<RemovedView>, ApiError> {
    api.service.remove_node(node, query).await.map(Json)
}

/// The answering node is drained, hands leadership over, leaves the fleet, and its process ends soon after the reply.
#[utoipa::path(post, path = "/v1/leave", tag = "fleet", params(
    ("deadline_ms" = Option<u64>, Query, description = "How long to wait for its open work; default 60000")), responses(
    (status = 200, body = LeaveView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn leave(
    State(api): State<ApiState>,
    QueryString(query): QueryString<LeaveQuery>,
) -> Result<Json<LeaveView>, ApiError> {
    api.service.leave(query).await.map(Json)
}
