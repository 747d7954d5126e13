//! One connection to an engine: a unix socket, HTTP/1.1, and the API version negotiated on it.
//!
//! Every call of the port has its own connection, and everything the call asks goes over it. So the version can never
//! belong to another engine than the one that answers, an engine replaced under its socket is picked up by the next call,
//! and dropping the [`Connection`] closes the socket, which is how Docker is told to stop a pull.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use bollard::models::SystemVersion;
use bollard::{API_DEFAULT_VERSION, BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::bollard_engine::Limits;
use super::{EngineError, classify};

/// The API of Engine 20.10, the oldest supported.
const OLDEST_API: (usize, usize) = (1, 41);
/// The newest API whose shapes bollard knows.
const NEWEST_API: (usize, usize) = (API_DEFAULT_VERSION.major_version, API_DEFAULT_VERSION.minor_version);

/// Most bytes of the answer to a ping.
const PING_BYTES_MAX: usize = 4 << 10;

type Body = UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>;
type BollardResult<T> = Result<T, bollard::errors::Error>;

/// A negotiated connection.
pub(super) struct Connection {
    pub(super) docker: Docker,
    /// The API version in use, such as `1.41`.
    pub(super) api_version: String,
    /// Last, so that the socket outlives nothing that uses it.
    _driver: Driver,
}

/// Owns the task that moves bytes over the socket. Dropping it closes the socket, whatever state the exchange is in: that
/// cancels a pull, so it is not left to what hyper notices and when.
struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The transport given to bollard.
struct UnixTransport {
    sender: Arc<Mutex<http1::SendRequest<Body>>>,
    /// `/v1.41` once negotiated. bollard itself sends paths without a version, which stands for the engine's newest.
    prefix: Arc<OnceLock<String>>,
}

impl UnixTransport {
    fn send(
        &self,
        request: BollardRequest,
    ) -> impl Future<Output = BollardResult<Response<Incoming>>> + Send + use<> {
        let sender = self.sender.clone();
        let prefix = self.prefix.clone();
        async move {
            let request = address(request, prefix.get().map_or("", String::as_str))?;
            let response = {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request)
            };
            Ok(response.await?)
        }
    }
}

/// Gives the request the path form and the `Host` that a server on a socket expects.
fn address(request: BollardRequest, prefix: &str) -> BollardResult<Request<Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = format!("{prefix}{path}").parse::<Uri>()?;
    parts.headers.insert(HOST, HeaderValue::from_static("docker"));
    Ok(Request::from_parts(parts, body.boxed_unsync()))
}

impl Connection {
    /// Connects and negotiates. Every error means that nothing has been asked of the engine yet.
    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    pub(super) async fn open(socket: &Path, limits: Limits) -> Result<Self, EngineError> {
        let endpoint = socket.display().to_string();
        let opening = Self::negotiate(socket, &endpoint, limits);
        match tokio::time::timeout(limits.connect, opening).await {
            Ok(opened) => opened,
            Err(_) => {
                let detail = format!("no answer within {} s", limits.connect.as_secs_f32());
                Err(EngineError::Unavailable { endpoint, detail })
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the real implementation of the container-engine port")]
    async fn negotiate(socket: &Path, endpoint: &str, limits: Limits) -> Result<Self, EngineError> {
        let unavailable = |error: &dyn std::error::Error| EngineError::Unavailable {
            endpoint: endpoint.to_owned(),
            detail: classify::describe(error),
        };
        let stream =
            UnixStream::connect(socket).await.map_err(|error| classify::connect_error(endpoint, &error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unavailable(&error))?;
        // Its error reaches whoever waits for the response, too.
        let driver = Driver(tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        }));

        let pinged = ping(&mut sender).await.map_err(|error| unavailable(&error))?;
        let prefix = Arc::new(OnceLock::new());
        let transport = UnixTransport { sender: Arc::new(Mutex::new(sender)), prefix: prefix.clone() };
        let docker = Docker::connect_with_custom_transport(
            move |request| transport.send(request),
            Some("http://docker"),
            limits.silence.as_secs(),
            API_DEFAULT_VERSION,
        )
        .map_err(|error| unavailable(&error))?;

        // An engine takes ten times as long to tell its version as to answer a ping: it runs its helpers and asks them for theirs.
        let api = match pinged.filter(|api| (OLDEST_API..=NEWEST_API).contains(api)) {
            Some((major_version, minor_version)) => ClientVersion { major_version, minor_version },
            None => negotiate_api(endpoint, &docker.version().await.map_err(|error| unavailable(&error))?)?,
        };
        let api_version = api.to_string();
        prefix.set(format!("/v{api_version}")).unwrap_or_else(|_| unreachable!("set once, right here"));
        Ok(Self { docker, api_version, _driver: driver })
    }
}

/// The newest API version that the engine speaks, as it says to a ping; `None` if it does not say.
async fn ping(sender: &mut http1::SendRequest<Body>) -> hyper::Result<Option<(usize, usize)>> {
    let mut request = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *request.uri_mut() = Uri::from_static("/_ping");
    request.headers_mut().insert(HOST, HeaderValue::from_static("docker"));
    let response = sender.send_request(request).await?;
    let is_well = response.status().is_success();
    let api = response.headers().get("Api-Version").and_then(|api| api.to_str().ok()).and_then(parse_api);
    // To its end, or nothing else can be asked. It is a word, and more of it is no answer of an engine.
    let read = Limited::new(response.into_body(), PING_BYTES_MAX).collect().await;
    Ok(read.ok().and(api).filter(|_| is_well))
}

/// The newest API version that both sides know.
fn negotiate_api(endpoint: &str, version: &SystemVersion) -> Result<ClientVersion, EngineError> {
    let engine = version.version.clone().unwrap_or_else(|| "of unknown version".to_owned());
    let newest = version.api_version.as_deref().and_then(parse_api);
    let Some(newest) = newest.filter(|newest| *newest >= OLDEST_API) else {
        return Err(EngineError::TooOld { endpoint: endpoint.to_owned(), version: engine });
    };
    let oldest = version.min_api_version.as_deref().and_then(parse_api).unwrap_or(OLDEST_API);
    if oldest > NEWEST_API {
        let detail = format!(
            "engine {engine} speaks API {}.{} and newer only, this program up to {}.{}; a newer one is needed",
            oldest.0, oldest.1, NEWEST_API.0, NEWEST_API.1
        );
        return Err(EngineError::Refused { detail });
    }
    let (major_version, minor_version) = newest.min(NEWEST_API);
    Ok(ClientVersion { major_version, minor_version })
}

fn parse_api(text: &str) -> Option<(usize, usize)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(api: Option<&str>, min: Option<&str>) -> SystemVersion {
        SystemVersion {
            version: Some("x".to_owned()),
            api_version: api.map(str::to_owned),
            min_api_version: min.map(str::to_owned),
            ..SystemVersion::default()
        }
    }

    #[test]
    fn the_newest_api_that_both_know_is_used() {
        let newest = format!("{}.{}", NEWEST_API.0, NEWEST_API.1);
        for (api, min, expected) in [
            ("1.41", Some("1.12"), "1.41"),
            ("1.44", Some("1.24"), "1.44"),
            ("1.44", None, "1.44"),
            // Engine 29 speaks nothing older than 1.44.
            ("1.52", Some("1.44"), "1.52"),
            ("1.999", Some("1.44"), newest.as_str()),
            ("2.0", Some("1.44"), newest.as_str()),
        ] {
            let negotiated = negotiate_api("/x", &says(Some(api), min)).unwrap();
            assert_eq!(negotiated.to_string(), expected, "{api} {min:?}");
        }
    }

    #[test]
    fn engines_out_of_range_are_refused() {
        for api in [Some("1.40"), Some("1.12"), Some("0.99"), Some("junk"), Some("1"), None] {
            let refused = negotiate_api("/x", &says(api, Some("1.12")));
            assert!(matches!(refused, Err(EngineError::TooOld { .. })), "{api:?}");
        }
        let refused = negotiate_api("/x", &says(Some("3.1"), Some("3.0"))).unwrap_err();
        assert!(refused.to_string().contains("a newer one is needed"), "{refused}");
    }
}
