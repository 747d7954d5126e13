//! Containers, images and volumes of all engines, what containers write, and runs that are kept up.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::*;

/// Containers of all engines, or of one node's, whoever made them.
#[utoipa::path(get, path = "/v1/containers", tag = "engines", params(
    ("on" = Option<String>, Query, description = "This node only")), responses(
    (status = 200, body = ContainerList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_containers(
    State(api): State<ApiState>,
    QueryString(query): QueryString<EngineQuery>,
) -> Result<Json<ContainerList>, ApiError> {
    api.service.list_containers(query).await.map(Json)
}

/// Images of all engines, or of one node's.
#[utoipa::path(get, path = "/v1/images", tag = "engines", params(
    ("on" = Option<String>, Query, description = "This node only")), responses(
    (status = 200, body = ImageList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_images(
    State(api): State<ApiState>,
    QueryString(query): QueryString<EngineQuery>,
) -> Result<Json<ImageList>, ApiError> {
    api.service.list_images(query).await.map(Json)
}

/// Volumes of all engines, or of one node's.
#[utoipa::path(get, path = "/v1/volumes", tag = "engines", params(
    ("on" = Option<String>, Query, description = "This node only")), responses(
    (status = 200, body = VolumeList), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_volumes(
    State(api): State<ApiState>,
    QueryString(query): QueryString<EngineQuery>,
) -> Result<Json<VolumeList>, ApiError> {
    api.service.list_volumes(query).await.map(Json)
}

/// What containers wrote, one JSON value a line: of the container of this name or id, or of all copies of a run. A last line
/// `{"error": ...}` says why it ended early.
#[utoipa::path(get, path = "/v1/containers/{container}/logs", tag = "engines", params(("container" = String, Path),
    ("follow" = Option<bool>, Query, description = "Stay, for what is still to come"),
    ("tail" = Option<u32>, Query, description = "The last so many lines of each only"),
    ("since_ms" = Option<u64>, Query, description = "What was written since then, in ms since the Unix epoch"),
    ("timestamps" = Option<bool>, Query, description = "Each line begins with the time at which it was written"),
    ("on" = Option<String>, Query, description = "On this node only")), responses(
    (status = 200, body = OutputView, content_type = "application/x-ndjson"),
    (status = "default", body = ApiError)))]
pub(in crate::api) async fn container_logs(
    State(api): State<ApiState>,
    Segment(container): Segment,
    QueryString(query): QueryString<LogsQuery>,
) -> Result<Response, ApiError> {
    let output = api.service.logs(container, query).await?;
    Ok(watch_response(output, &api.shutdown))
}

/// Runs a command in a running container: what it writes, one JSON value a line, and its exit code at the end. A client that goes away leaves the
/// command running: Docker has no way to end it.
#[utoipa::path(post, path = "/v1/containers/{container}/exec", tag = "engines", params(("container" = String, Path)),
    request_body = ExecRequest, responses(
    (status = 200, body = OutputView, content_type = "application/x-ndjson"),
    (status = "default", body = ApiError)))]
pub(in crate::api) async fn exec_in_container(
    State(api): State<ApiState>,
    Segment(container): Segment,
    JsonBody(request): JsonBody<ExecRequest>,
) -> Result<Response, ApiError> {
    let output = api.service.exec(container, request).await?;
    Ok(watch_response(output, &api.shutdown))
}

/// Runs that the fleet keeps up, oldest first.
#[utoipa::path(get, path = "/v1/runs", tag = "engines", responses(
    (status = 200, body = Vec<RunView>), (status = "default", body = ApiError)))]
pub(in crate::api) async fn list_runs(State(api): State<ApiState>) -> Result<Json<Vec<RunView>>, ApiError> {
    api.service.list_runs().await.map(Json)
}

/// One run by its name or id.
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "engines", params(("run" = String, Path)), responses(
    (status = 200, body = RunView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn inspect_run(
    State(api): State<ApiState>,
    Segment(run): Segment,
) -> Result<Json<RunView>, ApiError> {
    api.service.inspect_run(run).await.map(Json)
}

/// Stops, starts or removes a run. Replies when that is decided; its containers follow, those of hosts that are away when they are back.
#[utoipa::path(post, path = "/v1/runs/{run}", tag = "engines", params(("run" = String, Path)),
    request_body = RunChangeRequest, responses((status = 200, body = RunView), (status = "default", body = ApiError)))]
pub(in crate::api) async fn change_run(
    State(api): State<ApiState>,
    Segment(run): Segment,
    JsonBody(request): JsonBody<RunChangeRequest>,
) -> Result<Json<RunView>, ApiError> {
    api.service.change_run(run, request.change).await.map(Json)
}
