//! Serves the API on a listener: connections, their limits, and their end.

use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use longshore_raft::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::limits::{ApiLimits, HEAD_MAX_BYTES, HEADERS_MAX};
use super::listener::{ByteStream, Listener};
use super::middleware;
pub use super::middleware::Access;
use super::routes::{ApiState, routes};
use super::service::FleetService;
use super::timer::{RuntimeTimer, within};
use super::types::{ApiError, ErrorCode};

/// Pause after a failed accept: it fails for want of file descriptors, which come back with time.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections over the limit that are being told so; those beyond these are just closed.
const REFUSALS_MAX: usize = 32;

/// How long a connection over the limit may take to send its request and be told.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The API over `service`, for listeners with this `access`. Watches end when `shutdown` is cancelled.
pub fn router<R: Runtime>(
    service: Arc<dyn FleetService>,
    access: Access,
    limits: &ApiLimits,
    shutdown: CancellationToken,
) -> Router {
    middleware::wrap::<R>(routes(ApiState { service, shutdown: Arc::new(shutdown) }), access, limits.clone())
}

/// Serves `service` on `listener` until `shutdown` is cancelled; then stops accepting, lets the requests under way finish
/// within [`ApiLimits::shutdown_grace`], and cuts what is left.
pub async fn serve<R: Runtime>(
    mut listener: Box<dyn Listener>,
    service: Arc<dyn FleetService>,
    access: Access,
    limits: ApiLimits,
    shutdown: CancellationToken,
) {
    let routes = router::<R>(service, access, &limits, shutdown.clone());
    let connection = Connection::<R>::new(routes, limits.header_timeout, &shutdown);
    let refusal = connection.refusing(limits.connections_max);
    let slots = Arc::new(Semaphore::new(limits.connections_max));
    let refusal_slots = Arc::new(Semaphore::new(REFUSALS_MAX));
    // Nothing is ever sent: the channel ends when the last connection has dropped its sender.
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    tracing::info!(address = listener.describe(), "the API is listening");
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(address = listener.describe(), %error, "cannot accept a connection");
                R::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Tasks are detached: their end is awaited through `all_closed`.
        if let Ok(slot) = slots.clone().try_acquire_owned() {
            drop(R::spawn(connection.clone().serve(stream, slot, open.clone())));
        } else if let Ok(slot) = refusal_slots.clone().try_acquire_owned() {
            drop(R::spawn(refusal.clone().serve(stream, slot, open.clone())));
        } else {
            tracing::warn!(limit = limits.connections_max, "closed a connection over the limit");
        }
    }
    drop(listener);
    drop(open);
    if within::<R, _>(limits.shutdown_grace, all_closed.recv()).await.is_none() {
        tracing::warn!("cutting API connections that did not finish in time");
        connection.cut.cancel();
        all_closed.recv().await;
    }
}

/// What all connections of a listener share.
struct Connection<R: Runtime> {
    http: http1::Builder,
    router: Router,
    shutdown: CancellationToken,
    /// Ends connections without waiting for their requests.
    cut: CancellationToken,
    runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> Clone for Connection<R> {
    fn clone(&self) -> Self {
        Self {
            http: self.http.clone(),
            router: self.router.clone(),
            shutdown: self.shutdown.clone(),
            cut: self.cut.clone(),
            runtime: self.runtime,
        }
    }
}

impl<R: Runtime> Connection<R> {
    fn new(router: Router, header_timeout: Duration, shutdown: &CancellationToken) -> Self {
        let mut http = http1::Builder::new();
        http.timer(RuntimeTimer::<R>::new())
            .header_read_timeout(header_timeout)
            .max_headers(HEADERS_MAX)
            .max_header_size(HEAD_MAX_BYTES)
            .max_buf_size(HEAD_MAX_BYTES)
            // The date is the wall clock, which only the runtime may ask.
            .auto_date_header(false);
        let cut = CancellationToken::new();
        Self { http, router, shutdown: shutdown.clone(), cut, runtime: PhantomData }
    }

    /// A connection that answers one request, whatever it is, with `busy`.
    fn refusing(&self, connections_max: usize) -> Self {
        let message = format!("{connections_max} connections are open, the most allowed");
        let error = ApiError::new(ErrorCode::Busy, message).hint("try again in a moment");
        let mut refusal = self.clone();
        refusal.router = middleware::observed::<R>(Router::new().fallback(move || async { error }));
        refusal.http.header_read_timeout(REFUSAL_TIMEOUT).keep_alive(false);
        refusal
    }

    async fn serve(self, stream: Box<dyn ByteStream>, slot: OwnedSemaphorePermit, open: mpsc::Sender<()>) {
        let service = TowerToHyperService::new(self.router);
        let mut connection = pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let mut stopping = false;
        let result = loop {
            tokio::select! {
                biased;
                () = self.cut.cancelled() => break Ok(()),
                () = self.shutdown.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                result = connection.as_mut() => break result,
            }
        };
        if let Err(error) = result {
            // Garbage, an oversized head or a client that went away: bounded, and no concern of the node's.
            tracing::debug!(%error, "an API connection ended");
        }
        drop(slot);
        drop(open);
    }
}
