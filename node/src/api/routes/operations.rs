//! Operations: submission, listings, the live view of one, and its end by a person.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;

use super::*;

/// Operations, newest first.
#[utoipa::path(get, path = "/v1/operations", tag = "operations", params(
    ("limit" = Option<u32>, Query, description = "At most so many; default 100, at most 1000"),
    ("active" = Option<bool>, Query, description = "Only those not yet ended"),
    ("session" = Option<String>, Query, description = "Only those of this session"),
    ("kind" = Option<String>, Query, description = "Only those of this kind, such as pull"),
    ("state" = Option<OperationState>, Query, description = "Only those in this state"),
    ("since_ms" = Option<u64>, Query, description = "Only those submitted since then, in ms since the Unix epoch")), responses(
    (status = 200, body = Vec<OperationView>), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_operations(
    State(api): State<ApiState>,
    QueryString(query): QueryString<OperationQuery>,
) -> Result<Json<Vec<OperationView>>, ApiError> {
    api.service.list_operations(query).await.map(Json)
}

/// Submits an operation. Replies once its record is committed; the work goes on after that.
#[utoipa::path(post, path = "/v1/operations", tag = "operations", request_body = OperationRequest, params(
    ("Idempotency-Key" = Option<String>, Header, description = "The same key, in the same session, gives the same operation, at every node")),
    responses((status = 202, body = OperationView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn submit_operation(
    State(api): State<ApiState>,
    headers: HeaderMap,
    JsonBody(request): JsonBody<OperationRequest>,
) -> Result<(StatusCode, Json<OperationView>), Rejection> {
    let key = idempotency_key(&headers)?;
    let view = api.service.submit_operation(request, key).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}

/// One operation.
#[utoipa::path(get, path = "/v1/operations/{id}", tag = "operations", params(("id" = String, Path)), responses(
    (status = 200, body = OperationView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn inspect_operation(
    State(api): State<ApiState>,
    Segment(id): Segment,
) -> Result<Json<OperationView>, ApiError> {
    api.service.inspect_operation(id).await.map(Json)
}

/// The operation now and after every change, one JSON value a line, until it has ended. A last line `{"error": ...}` says
/// why the watch ended early; a stream that just ends was cut off (the node stops): watch again.
#[utoipa::path(get, path = "/v1/operations/{id}/watch", tag = "operations", params(("id" = String, Path)), responses(
    (status = 200, body = OperationView, content_type = "application/x-ndjson"),
    (status = "default", body = ApiError)))]
pub(in crate::api) async fn watch_operation(
    State(api): State<ApiState>,
    Segment(id): Segment,
) -> Result<Response, ApiError> {
    let views = api.service.watch_operation(id).await?;
    Ok(watch_response(views, &api.shutdown))
}

/// Cancels what has not ended of an operation. What has ended stands; work under way stops within a second or so. Again: the same.
#[utoipa::path(post, path = "/v1/operations/{id}/cancel", tag = "operations", params(("id" = String, Path)), responses(
    (status = 200, body = OperationView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn cancel_operation(
    State(api): State<ApiState>,
    Segment(id): Segment,
) -> Result<Json<OperationView>, ApiError> {
    api.service.cancel_operation(id).await.map(Json)
}

/// Submits an operation that does again what failed, or was cancelled, of one that has ended, on the same nodes; in its session.
#[utoipa::path(post, path = "/v1/operations/{id}/retry", tag = "operations", params(("id" = String, Path),
    ("Idempotency-Key" = Option<String>, Header, description = "The same key gives the same operation, at every node")),
    responses((status = 202, body = OperationView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn retry_operation(
    State(api): State<ApiState>,
    headers: HeaderMap,
    Segment(id): Segment,
) -> Result<(StatusCode, Json<OperationView>), Rejection> {
    let key = idempotency_key(&headers)?;
    let view = api.service.retry_operation(id, key).await?;
    Ok((StatusCode::ACCEPTED, Json(view)))
}
