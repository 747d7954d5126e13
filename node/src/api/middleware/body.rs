//! Request bodies, read whole within limits of size and time before a handler runs; and changes that go on when their
//! client has gone. The bodies of one route are streams that their handler reads: they have a limit of time for each piece, and end with their client.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use longshore_raft::Runtime;
use tracing::Instrument;

use super::Gate;
use super::observe::internal;
use crate::api::errors::Rejection;
use crate::api::routes::CONTEXTS_PATH;
use crate::api::timer::within;
use crate::api::types::{ApiError, ErrorCode};

pub(super) async fn take_body<R: Runtime>(
    State(gate): State<Arc<Gate>>,
    request: Request,
    next: Next,
) -> Response {
    if request.method() == Method::GET || request.method() == Method::HEAD {
        return next.run(request).await;
    }
    if request.uri().path() == CONTEXTS_PATH {
        let patience = gate.limits.body_timeout;
        return next.run(request.map(|body| timed::<R>(body, patience))).await;
    }
    let (parts, body) = request.into_parts();
    let announced =
        parts.headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let bytes = match read_body::<R>(&gate, announced, body).await {
        Ok(bytes) => bytes,
        Err(rejection) => return rejection.into_response(),
    };
    let request = Request::from_parts(parts, Body::from(bytes));
    // A change, once begun, is not left half done since its client hung up: it runs as a task of its own.
    let handled = R::spawn(async move { next.run(request).await }.in_current_span());
    handled.await.unwrap_or_else(|error| {
        tracing::error!(%error, "the handler panicked");
        internal("the request hit a bug in longshore; its log has the details").into_response()
    })
}

/// The same body, with an error where nothing comes for so long.
fn timed<R: Runtime>(body: Body, patience: Duration) -> Body {
    Body::from_stream(stream::unfold(Some(body.into_data_stream()), move |body| async move {
        let mut body = body?;
        match within::<R, _>(patience, body.next()).await {
            Some(piece) => piece.map(|piece| (piece, Some(body))),
            None => {
                let seconds = patience.as_secs_f64();
                Some((Err(axum::Error::new(format!("nothing came for {seconds} s"))), None))
            }
        }
    }))
}

async fn read_body<R: Runtime>(gate: &Gate, announced: Option<u64>, body: Body) -> Result<Bytes, Rejection> {
    let limit = gate.limits.body_max_bytes;
    // An announced excess is refused before any of it is read.
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    match within::<R, _>(gate.limits.body_timeout, Limited::new(body, limit).collect()).await {
        Some(Ok(collected)) => Ok(collected.to_bytes()),
        Some(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Some(Err(error)) => Err(Rejection::invalid(format!("the body could not be read: {error}"))),
        None => {
            let seconds = gate.limits.body_timeout.as_secs_f64();
            Err(Rejection::invalid(format!("the body did not arrive within {seconds} s")))
        }
    }
}

fn too_large(limit: usize) -> Rejection {
    ApiError::new(ErrorCode::TooLarge, format!("the body is over the limit of {limit} bytes")).into()
}
