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

pub(super) async fn observe<R: Runtime>(request: Request, next: Next) -> Response {
    let started = Stopwatch::<R>::start();
    let id = request_id::<R>(request.headers());
    let method = request.method().clone();
    let span = tracing::info_span!("request", request_id = id, %method, path = request.uri().path());
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
        } else if method.is_safe() {
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
