//! Request ids, one span a request, one log line a reply, and panics turned into errors.

use std::panic::AssertUnwindSafe;

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use futures_util::FutureExt;
use longshore_raft::Runtime;
use tracing::Instrument;

use crate::api::limits::REQUEST_ID_MAX_CHARS;
use crate::api::timer::Stopwatch;
use crate::api::types::{ApiError, ErrorCode};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const KEYS_PATH: &str = "/v1/keys/";

pub(super) async fn observe<R: Runtime>(request: Request, next: Next) -> Response {
    let started = Stopwatch::<R>::start();
    let id = request_id::<R>(request.headers());
    let method = request.method().clone();
    let (path, is_data) = (logged_path(request.uri().path()).to_owned(), is_data(request.uri().path()));
    let span = tracing::info_span!("request", request_id = id, %method, path);
    let mut response = async {
        let reply = AssertUnwindSafe(next.run(request)).catch_unwind().await;
        let response = reply.unwrap_or_else(|_| {
            tracing::error!("the handler panicked");
            internal("the request hit a bug in longshore; its log has the details").into_response()
        });
        let status = response.status();
        let latency_ms = started.elapsed().as_secs_f64() * 1000.0;
        if status.is_server_error() {
            tracing::warn!(status = status.as_u16(), latency_ms, "request failed");
        } else if method.is_safe() || is_data {
            tracing::debug!(status = status.as_u16(), latency_ms, "request");
        } else {
            tracing::info!(status = status.as_u16(), latency_ms, "request");
        }
        response
    }
    .instrument(span)
    .await;
    let value = HeaderValue::from_str(&id).expect("request ids are checked or made here: plain ASCII");
    response.headers_mut().insert(REQUEST_ID, value);
    response
}

/// Keys are the data of those who use the fleet, not orders to it: they come by the thousand a second, and are no concern of a log.
fn is_data(path: &str) -> bool {
    path.starts_with(KEYS_PATH)
}

/// The path as far as it may be logged: without a key, which may be somebody's name.
fn logged_path(path: &str) -> &str {
    let key = path.strip_prefix(KEYS_PATH).and_then(|rest| rest.find('/'));
    key.map_or(path, |at| &path[..KEYS_PATH.len() + at])
}

pub(super) fn internal(message: &str) -> ApiError {
    ApiError::new(ErrorCode::Internal, message)
}

/// The caller's id if it is short and plain (it goes into logs), else a new one.
fn request_id<R: Runtime>(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let sane = |id: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (1..=REQUEST_ID_MAX_CHARS).contains(&id.len()) && id.chars().all(plain)
    };
    given.filter(sane).map_or_else(new_request_id::<R>, str::to_owned)
}

fn new_request_id<R: Runtime>() -> String {
    let mut bytes = [0; 8];
    R::entropy(&mut bytes);
    HEXLOWER.encode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_not_logged() {
        for (path, logged) in [
            ("/v1/keys/sessions/jane", "/v1/keys/sessions"),
            ("/v1/keys/sessions/", "/v1/keys/sessions"),
            ("/v1/keys/sessions", "/v1/keys/sessions"),
            ("/v1/nodes/web-1", "/v1/nodes/web-1"),
        ] {
            assert_eq!(logged_path(path), logged);
        }
        assert!(is_data("/v1/keys/a/b") && !is_data("/v1/groups/g1/transfer"));
    }
}
