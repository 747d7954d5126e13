//! A proxy on a unix socket in front of an engine. It counts pulls, logs requests, and can hold pulls, slow them down, or
//! cut all connections.
//!
//! It passes HTTP on as it is, one connection to the engine for each request, and gives that connection up when the client
//! goes away, as the engine would see it without a proxy. Upgraded connections (`exec`) are passed on byte by byte.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use longshore_model::image::ImageReference;
use parking_lot::Mutex;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// Requests remembered; further ones are counted only.
const LOG_MAX: usize = 10_000;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Pulls of one image, as the engine's clients see them: a pull is under way from its request to the end of its reply, or
/// until the client gives up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PullCounts {
    pub started: u64,
    pub under_way: u64,
    pub most_at_once: u64,
    /// Replied to in full, whatever the reply said.
    pub answered: u64,
    /// Given up by the client, cut, or failed by the engine's going away.
    pub broken_off: u64,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub method: Method,
    /// Path and query.
    pub target: String,
    /// Of the pull, if it was one.
    pub image: Option<ImageReference>,
    /// From the request until the head of the engine's reply; none if there was none yet.
    pub answered_after: Option<Duration>,
}

/// Lives as long as the value: dropping it closes the socket and all connections.
#[derive(Debug)]
pub struct CountingProxy {
    socket: PathBuf,
    shared: Arc<Shared>,
    cut: mpsc::Sender<()>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    engine: PathBuf,
    state: Mutex<State>,
    released: Notify,
}

#[derive(Debug, Default)]
struct State {
    pulls: BTreeMap<ImageReference, PullCounts>,
    log: Vec<Logged>,
    held: bool,
    delay: Duration,
}

impl CountingProxy {
    /// Listens on `socket`, replacing what is there, in front of the engine on `engine`.
    pub fn start(socket: impl Into<PathBuf>, engine: impl Into<PathBuf>) -> std::io::Result<Self> {
        let socket = socket.into();
        match std::fs::remove_file(&socket) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&socket)?;
        let shared =
            Arc::new(Shared { engine: engine.into(), state: Mutex::default(), released: Notify::new() });
        let (cut, cuts) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, shared.clone(), cuts));
        Ok(Self { socket, shared, cut, _accepting: accepting })
    }

    /// Where clients find the engine.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn pulls(&self, image: &ImageReference) -> PullCounts {
        self.shared.state.lock().pulls.get(image).copied().unwrap_or_default()
    }

    pub fn all_pulls(&self) -> BTreeMap<ImageReference, PullCounts> {
        self.shared.state.lock().pulls.clone()
    }

    /// What was asked so far, oldest first.
    pub fn log(&self) -> Vec<Logged> {
        self.shared.state.lock().log.clone()
    }

    /// Keeps pulls from the engine from now on. They count as under way.
    pub fn hold_pulls(&self) {
        self.shared.state.lock().held = true;
    }

    pub fn release_pulls(&self) {
        self.shared.state.lock().held = false;
        self.shared.released.notify_waiters();
    }

    /// Waits this long before each piece of a pull's reply.
    pub fn slow_down(&self, delay: Duration) {
        self.shared.state.lock().delay = delay;
    }

    /// Closes all connections that are open now, as if the engine had died and come back at once.
    pub async fn cut(&self) {
        self.cut.send(()).await.expect("the acceptor lives as long as the proxy");
    }
}

impl Drop for CountingProxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn accept(listener: UnixListener, shared: Arc<Shared>, mut cuts: mpsc::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            cut = cuts.recv() => match cut {
                Some(()) => connections.shutdown().await,
                None => return,
            },
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                if let Ok((client, _)) = accepted {
                    connections.spawn(serve(client, shared.clone()));
                }
            }
        }
    }
}

async fn serve(client: UnixStream, shared: Arc<Shared>) {
    let service = service_fn(move |request| pass_on(request, shared.clone()));
    // An error is the client's, or the engine's going away; either has been seen by who it concerns.
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(client), service)
        .with_upgrades()
        .await;
}

async fn pass_on(mut request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, BoxError> {
    let image = pulled_image(&request);
    let (asked, place) = (Instant::now(), shared.note(&request, image.clone()));
    let running = image.map(|image| Running::start(shared.clone(), image));
    if running.is_some() {
        shared.admit_pull().await;
    }

    let engine = UnixStream::connect(&shared.engine).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(engine)).await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        let _ = connection.with_upgrades().await;
    });
    let of_client = hyper::upgrade::on(&mut request);
    let mut response = sender.send_request(request).await?;
    if let Some(place) = place {
        shared.state.lock().log[place].answered_after = Some(asked.elapsed());
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let of_engine = hyper::upgrade::on(&mut response);
        // It ends with the first side that closes.
        tokio::spawn(async move {
            let _driver = driver;
            let (Ok(client), Ok(engine)) = tokio::join!(biased; of_client, of_engine) else { return };
            let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(engine)).await;
        });
        return Ok(response.map(|body| body.boxed_unsync()));
    }

    // The driver goes with the body: when the client gives up, so does the connection to the engine.
    let (parts, body) = response.into_parts();
    let delay = if running.is_some() { shared.state.lock().delay } else { Duration::ZERO };
    let exchange = Exchange { body, running, delay, _driver: driver, _sender: sender };
    let frames = futures_util::stream::unfold(exchange, Exchange::next);
    Ok(Response::from_parts(parts, StreamBody::new(frames).boxed_unsync()))
}

/// A reply on its way to the client.
struct Exchange {
    body: Incoming,
    running: Option<Running>,
    delay: Duration,
    _driver: JoinSet<()>,
    _sender: hyper::client::conn::http1::SendRequest<Incoming>,
}

impl Exchange {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, hyper::Error>, Self)> {
        let frame = self.body.frame().await;
        match (frame, &mut self.running) {
            (None, running) => {
                if let Some(running) = running {
                    running.answered = true;
                }
                None
            }
            (Some(frame), _) => {
                if !self.delay.is_zero() {
                    tokio::time::sleep(self.delay).await;
                }
                Some((frame, self))
            }
        }
    }
}

/// Counts one pull for as long as it lives.
struct Running {
    shared: Arc<Shared>,
    image: ImageReference,
    answered: bool,
}

impl Running {
    fn start(shared: Arc<Shared>, image: ImageReference) -> Self {
        {
            let mut state = shared.state.lock();
            let counts = state.pulls.entry(image.clone()).or_default();
            counts.started += 1;
            counts.under_way += 1;
            counts.most_at_once = counts.most_at_once.max(counts.under_way);
        }
        Self { shared, image, answered: false }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let counts = state.pulls.entry(self.image.clone()).or_default();
        counts.under_way -= 1;
        if self.answered {
            counts.answered += 1;
        } else {
            counts.broken_off += 1;
        }
    }
}

impl Shared {
    /// Its place in the log, if that is not full.
    fn note(&self, request: &Request<Incoming>, image: Option<ImageReference>) -> Option<usize> {
        let mut state = self.state.lock();
        let place = state.log.len();
        if place >= LOG_MAX {
            return None;
        }
        let target = request.uri().path_and_query().map_or("", |target| target.as_str()).to_owned();
        state.log.push(Logged { method: request.method().clone(), target, image, answered_after: None });
        Some(place)
    }

    async fn admit_pull(&self) {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // Registered before looking, or a release between the two would be missed.
            released.as_mut().enable();
            if !self.state.lock().held {
                return;
            }
            released.await;
        }
    }
}

/// The image that a request pulls, if it is `POST [/vX.Y]/images/create?fromImage=...&tag=...`.
fn pulled_image<B>(request: &Request<B>) -> Option<ImageReference> {
    if request.method() != Method::POST || !request.uri().path().ends_with("/images/create") {
        return None;
    }
    let name = parameter(request.uri(), "fromImage")?;
    let text = match parameter(request.uri(), "tag") {
        Some(digest) if digest.contains(':') => format!("{name}@{digest}"),
        Some(tag) => format!("{name}:{tag}"),
        None => name,
    };
    text.parse().ok()
}

fn parameter(uri: &Uri, wanted: &str) -> Option<String> {
    let pairs = uri.query()?.split('&');
    let (_, value) = pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == wanted)?;
    percent_decoded(value)
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let digits = [rest.next()?, rest.next()?];
            bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pulled(method: Method, target: &str) -> Option<String> {
        let request = Request::builder().method(method).uri(target).body(()).unwrap();
        pulled_image(&request).map(|image| image.to_string())
    }

    #[test]
    fn pulls_are_told_from_other_requests() {
        let target = "/v1.41/images/create?fromImage=127.0.0.1%3A5000%2Fa%2Fb&tag=1.0";
        assert_eq!(pulled(Method::POST, target).as_deref(), Some("127.0.0.1:5000/a/b:1.0"));
        let target = "/images/create?tag=latest&fromImage=nginx&platform=";
        assert_eq!(pulled(Method::POST, target).as_deref(), Some("docker.io/library/nginx:latest"));
        let digest = format!("sha256:{}", "0".repeat(64));
        let target = format!("/images/create?fromImage=nginx&tag=sha256%3a{}", "0".repeat(64));
        assert_eq!(pulled(Method::POST, &target), Some(format!("docker.io/library/nginx@{digest}")));
        for (method, target) in [
            (Method::GET, "/images/create?fromImage=nginx"),
            (Method::POST, "/images/create?fromSrc=-"),
            (Method::POST, "/images/create"),
            (Method::POST, "/images/create?fromImage=%zz"),
            (Method::POST, "/containers/create?fromImage=nginx"),
        ] {
            assert_eq!(pulled(method.clone(), target), None, "{method} {target}");
        }
    }
}
