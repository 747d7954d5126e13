//! Build contexts: folders as tars, sent to this node and kept for a while. The one body that is not read whole before its handler runs.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;

use super::*;

/// Folders that this node has, and how much it takes.
#[utoipa::path(get, path = "/v1/contexts", tag = "operations", responses(
    (status = 200, body = ContextList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_contexts(
    State(api): State<ApiState>,
) -> Result<Json<ContextList>, ApiError> {
    api.service.list_contexts().await.map(Json)
}

/// Whether this node has a folder. It is kept for an hour more, and as long as a build needs it that has not ended.
#[utoipa::path(get, path = "/v1/contexts/{digest}", tag = "operations", params(("digest" = String, Path)), responses(
    (status = 200, body = ContextView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn find_context(
    State(api): State<ApiState>,
    Segment(digest): Segment,
) -> Result<Json<ContextView>, ApiError> {
    api.service.find_context(digest).await.map(Json)
}

/// Sends a folder to this node, as a tar, for builds that are submitted to it. `limits.build_context` is the most bytes; there is no limit of time as
/// long as bytes come. Kept for an hour after its last use, and as long as a build needs it that has not ended. `busy` if there is no room.
#[utoipa::path(post, path = "/v1/contexts", tag = "operations",
    request_body(content = Vec<u8>, content_type = "application/x-tar"), responses(
    (status = 201, body = ContextView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn take_context(
    State(api): State<ApiState>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<ContextView>), ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let broken = |error: axum::Error| {
        let message = format!("the folder did not come whole: {error}");
        ApiError::new(ErrorCode::Invalid, message).hint("nothing was kept; send it again")
    };
    let pieces = body.into_data_stream().map(move |piece| piece.map_err(broken));
    let view = api.service.take_context(announced, Box::pin(pieces)).await?;
    Ok((StatusCode::CREATED, Json(view)))
}
