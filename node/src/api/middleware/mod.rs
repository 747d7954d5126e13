//! What every request passes on its way to a handler, outermost first: observation (request id, span, latency), the
//! guards (who may ask, how many at once), and the body (size, time, and going on without the client).

mod body;
mod guards;
mod observe;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use longshore_raft::Runtime;
use tokio::sync::Semaphore;

use super::limits::ApiLimits;

/// Who reaches a listener, and so what it serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything: the file mode of the unix socket says who may use it.
    Full,
    /// Reads only, and only under a host name that is this host's: no web page may reach it through a name of its own
    /// that it points here (DNS rebinding). `bound` is the address listened on.
    ReadOnly { bound: IpAddr },
}

/// State of the middleware of one listener.
#[derive(Debug)]
struct Gate {
    access: Access,
    limits: ApiLimits,
    requests: Arc<Semaphore>,
}

pub(super) fn wrap<R: Runtime>(routes: Router, access: Access, limits: ApiLimits) -> Router {
    let requests = Arc::new(Semaphore::new(limits.requests_max));
    let gate = Arc::new(Gate { access, limits, requests });
    let guarded = routes
        .layer(from_fn_with_state(gate.clone(), body::take_body::<R>))
        .layer(from_fn_with_state(gate.clone(), guards::limit_requests))
        .layer(from_fn_with_state(gate, guards::check_access));
    observed::<R>(guarded)
}

/// With request ids, spans and log lines only.
pub(super) fn observed<R: Runtime>(routes: Router) -> Router {
    routes.layer(from_fn(observe::observe::<R>))
}
