//! The table of routes and their handlers. A handler unpacks the request, calls the service, packs the answer.

mod containers;
mod contexts;
mod keys;
mod nodes;
mod operations;
mod registries;
mod ring;

use std::convert::Infallible;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::errors::Rejection;
use super::limits::IDEMPOTENCY_KEY_MAX_CHARS;
use super::service::{ApiStream, FleetService};
use super::{openapi, percent};
pub(super) use containers::*;
pub(super) use contexts::*;
pub(super) use keys::*;
pub(super) use nodes::*;
pub(super) use operations::*;
pub(super) use registries::*;
pub(super) use ring::*;

use super::types::*;
use crate::config::names;

/// What handlers share.
#[derive(Clone)]
pub(super) struct ApiState {
    pub(super) service: Arc<dyn FleetService>,
    /// Ends watches when the server stops; they would hold it up for ever. Shared, for each request clones the state several times, and a
    /// token's clone takes a lock.
    pub(super) shutdown: Arc<CancellationToken>,
}

type Handlers = fn() -> MethodRouter<ApiState>;

/// Every route, as OpenAPI writes its path. The router is built from this and the OpenAPI document is tested against it.
pub(super) const ROUTES: &[(&str, &[&str], Handlers)] = &[
    ("/v1/status", &["get"], || get(status)),
    ("/v1/nodes", &["get"], || get(list_nodes)),
    ("/v1/nodes/{node}", &["get", "patch", "delete"], || {
        get(inspect_node).patch(update_node).delete(remove_node)
    }),
    ("/v1/nodes/{node}/work", &["get"], || get(node_work)),
    ("/v1/nodes/{node}/removal", &["get"], || get(node_removal)),
    ("/v1/leave", &["post"], || post(leave)),
    ("/v1/tokens", &["get", "post"], || get(list_tokens).post(create_token)),
    ("/v1/tokens/{id}", &["delete"], || delete(revoke_token)),
    ("/v1/operations", &["get", "post"], || get(list_operations).post(submit_operation)),
    ("/v1/operations/{id}", &["get"], || get(inspect_operation)),
    ("/v1/operations/{id}/watch", &["get"], || get(watch_operation)),
    ("/v1/operations/{id}/cancel", &["post"], || post(cancel_operation)),
    ("/v1/operations/{id}/retry", &["post"], || post(retry_operation)),
    (CONTEXTS_PATH, &["get", "post"], || get(list_contexts).post(take_context)),
    ("/v1/contexts/{digest}", &["get"], || get(find_context)),
    ("/v1/containers", &["get"], || get(list_containers)),
    ("/v1/containers/{container}/logs", &["get"], || get(container_logs)),
    ("/v1/containers/{container}/exec", &["post"], || post(exec_in_container)),
    ("/v1/images", &["get"], || get(list_images)),
    ("/v1/volumes", &["get"], || get(list_volumes)),
    ("/v1/runs", &["get"], || get(list_runs)),
    ("/v1/runs/{run}", &["get", "post"], || get(inspect_run).post(change_run)),
    ("/v1/registries", &["get"], || get(list_registries)),
    ("/v1/registries/{registry}", &["put", "delete"], || put(log_in).delete(log_out)),
    ("/v1/ring", &["get"], || get(show_ring)),
    ("/v1/ring/plan", &["get"], || get(plan_ring)),
    ("/v1/ring/pause", &["post"], || post(pause_ring)),
    ("/v1/ring/resume", &["post"], || post(resume_ring)),
    ("/v1/ring/rebalance", &["post"], || post(rebalance_ring)),
    ("/v1/ring/watch", &["get"], || get(watch_ring)),
    ("/v1/groups", &["get"], || get(list_groups)),
    ("/v1/groups/{id}", &["get"], || get(inspect_group)),
    ("/v1/groups/{id}/transfer", &["post"], || post(transfer_group)),
    ("/v1/keys/{namespace}", &["get"], || get(scan_keys)),
    ("/v1/keys/{namespace}/{key}", &["get", "put", "delete"], || {
        get(get_key).put(set_key).delete(delete_key)
    }),
    ("/v1/openapi.json", &["get"], || get(openapi_document)),
    ("/livez", &["get"], || get(livez)),
    ("/readyz", &["get"], || get(readyz)),
];

/// Where a body is a stream, which its handler reads.
pub(super) const CONTEXTS_PATH: &str = "/v1/contexts";

/// Media type of a watch: one JSON value a line.
const NDJSON: &str = "application/x-ndjson";

pub(super) fn routes(state: ApiState) -> Router {
    let table =
        ROUTES.iter().fold(Router::new(), |router, (path, _, handlers)| router.route(path, handlers()));
    table.fallback(no_such_path).method_not_allowed_fallback(no_such_method).with_state(state)
}

/// The node's own view. Answers without a quorum.
#[utoipa::path(get, path = "/v1/status", tag = "fleet", responses(
    (status = 200, body = StatusView), (status = "default", body = ApiError)))]
pub(super) async fn status(State(api): State<ApiState>) -> Result<Json<StatusView>, ApiError> {
    api.service.status().await.map(Json)
}

/// Join tokens, without their secrets.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses(
    (status = 200, body = Vec<TokenView>), (status = "default", body = ApiError)))]
pub(super) async fn list_tokens(State(api): State<ApiState>) -> Result<Json<Vec<TokenView>>, ApiError> {
    api.service.list_tokens().await.map(Json)
}

/// Makes a join token. Its secret is in this reply only.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = TokenCreate, responses(
    (status = 201, body = TokenCreated), (status = "default", body = ApiError)))]
pub(super) async fn create_token(
    State(api): State<ApiState>,
    JsonBody(request): JsonBody<TokenCreate>,
) -> Result<(StatusCode, Json<TokenCreated>), ApiError> {
    api.service.create_token(request).await.map(|created| (StatusCode::CREATED, Json(created)))
}

/// Revokes a join token.
#[utoipa::path(delete, path = "/v1/tokens/{id}", tag = "tokens", params(("id" = String, Path)), responses(
    (status = 200, body = TokenView), (status = "default", body = ApiError)))]
pub(super) async fn revoke_token(
    State(api): State<ApiState>,
    Segment(id): Segment,
) -> Result<Json<TokenView>, ApiError> {
    api.service.revoke_token(id).await.map(Json)
}

/// A watch as a body: one JSON value a line, and a last line with the error if there is one.
fn watch_response<T: Serialize + Send + 'static>(
    views: ApiStream<T>,
    shutdown: &CancellationToken,
) -> Response {
    let mut failed = false;
    let lines = views
        .take_until(shutdown.clone().cancelled_owned())
        .take_while(move |item| {
            // The line with the error is the last one.
            let go_on = !failed;
            failed |= item.is_err();
            std::future::ready(go_on)
        })
        .map(|item| Ok::<_, Infallible>(watch_line(item)));
    ([(header::CONTENT_TYPE, NDJSON)], Body::from_stream(lines)).into_response()
}

fn watch_line<T: Serialize>(item: Result<T, ApiError>) -> Bytes {
    let encoded = match &item {
        Ok(view) => serde_json::to_vec(view),
        Err(error) => serde_json::to_vec(&WatchEnd { error: error.clone() }),
    };
    let mut line = encoded.expect("plain structs of strings and numbers encode as JSON");
    line.push(b'\n');
    Bytes::from(line)
}

/// This document.
#[utoipa::path(get, path = "/v1/openapi.json", tag = "health", responses((status = 200, body = Object)))]
pub(super) async fn openapi_document() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], openapi::json()).into_response()
}

/// 200 while the process works, 503 otherwise.
#[utoipa::path(get, path = "/livez", tag = "health", responses(
    (status = 200, body = HealthView), (status = 503, body = HealthView), (status = "default", body = ApiError)))]
pub(super) async fn livez(State(api): State<ApiState>) -> Result<(StatusCode, Json<HealthView>), ApiError> {
    let health = api.service.health().await?;
    Ok((health_status(health.live), Json(health)))
}

/// 200 while the node can do its work: it has a leader, has caught up, and its engine answers. 503 otherwise, with reasons.
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, body = HealthView), (status = 503, body = HealthView), (status = "default", body = ApiError)))]
pub(super) async fn readyz(State(api): State<ApiState>) -> Result<(StatusCode, Json<HealthView>), ApiError> {
    let health = api.service.health().await?;
    Ok((health_status(health.ready), Json(health)))
}

fn health_status(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no {}", request.uri().path()))
        .hint("GET /v1/openapi.json lists what there is")
}

async fn no_such_method(request: Request) -> Rejection {
    let message = format!("{} is not a method of {}", request.method(), request.uri().path());
    let error = ApiError::new(ErrorCode::Invalid, message).hint("GET /v1/openapi.json lists what there is");
    Rejection::new(StatusCode::METHOD_NOT_ALLOWED, error)
}

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Rejection> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=IDEMPOTENCY_KEY_MAX_CHARS).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Rejection::invalid(format!(
            "Idempotency-Key must be 1 to {IDEMPOTENCY_KEY_MAX_CHARS} printable ASCII characters"
        ))),
    }
}

/// A JSON request body. Its size was bounded before (see `middleware`).
pub(super) struct JsonBody<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = Rejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Rejection> {
        if !is_json(request.headers()) {
            let error = ApiError::new(ErrorCode::Invalid, "the body must be JSON")
                .hint("send the header content-type: application/json; an empty request is {}");
            return Err(Rejection::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, error));
        }
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(|error| Rejection::invalid(format!("the body could not be read: {error}")))?;
        serde_json::from_slice(&bytes).map(JsonBody).map_err(|error| {
            Rejection::invalid(match error.classify() {
                serde_json::error::Category::Data => format!("the body does not fit: {error}"),
                _ => format!("the body is not valid JSON: {error}"),
            })
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = value.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}

/// The one parameter of a path.
pub(super) struct Segment(String);

impl<S: Send + Sync> FromRequestParts<S> for Segment {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(error) => Err(Rejection::invalid(format!("the path is not valid: {}", error.body_text()))),
        }
    }
}

/// The query string.
pub(super) struct QueryString<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryString<T> {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Rejection> {
        match Query::<T>::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(error) => Err(Rejection::invalid(format!("the query is not valid: {}", error.body_text()))),
        }
    }
}

/// The query string as pairs, where a name may be repeated or a value need not be UTF-8.
pub(super) struct Pairs(Vec<(String, Vec<u8>)>);

impl Pairs {
    /// For parameters that are text.
    fn texts(self) -> Result<Vec<(String, String)>, Rejection> {
        let text = |(name, value): (String, Vec<u8>)| match String::from_utf8(value) {
            Ok(value) => Ok((name, value)),
            Err(_) => Err(Rejection::invalid(format!("the query is not valid: {name} is not UTF-8"))),
        };
        self.0.into_iter().map(text).collect()
    }

    /// A flag is set by its name alone, or by `true`.
    fn flag(name: &str, value: &str) -> Result<bool, Rejection> {
        match value {
            "" | "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(Rejection::invalid(format!("{name} must be true or false, not {value:?}"))),
        }
    }

    fn unknown(name: &str, known: &str) -> Rejection {
        Rejection::invalid(format!("the query is not valid: unknown field {name:?}; there are {known}"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Pairs {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Rejection> {
        let pairs = percent::query_pairs(parts.uri.query().unwrap_or(""));
        pairs.map(Self).ok_or_else(|| Rejection::invalid("the query is not valid percent-encoding"))
    }
}
