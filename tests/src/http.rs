//! A blocking HTTP client for one node's API, over its unix socket or TCP.
//!
//! One connection a request: a test must see what a fresh client sees, also right after a node died.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use longshore_node::api::types::{
    ApiError, GroupList, GroupView, KeySetView, LeaveView, NodeList, NodeUpdate, NodeView, NodeWorkView,
    OperationRequest, OperationView, RemovedView, RingPlanView, RingView, StatusView, TokenCreate,
    TokenCreated, TokenView,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a request may take, unless the client is told otherwise. Longer than any deadline inside a node.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);
/// Largest body read. Listings of a test fleet are far below.
const BODY_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Where a node's API listens.
#[derive(Debug, Clone)]
pub enum Target {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

/// Why there is no reply to use.
#[derive(Debug, Clone)]
pub enum HttpError {
    /// No connection: nothing was sent.
    Unreachable(String),
    /// Sent, perhaps, and no whole reply came: what became of it is unknown.
    Broken(String),
    /// The API's own error.
    Api(u16, ApiError),
    /// A reply that is not what the API promises.
    Malformed(String),
}

impl std::fmt::Display for HttpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) => write!(f, "cannot connect: {why}"),
            Self::Broken(why) => write!(f, "connection broke: {why}"),
            Self::Api(status, error) => write!(f, "HTTP {status}, {:?}: {}", error.code, error.message),
            Self::Malformed(why) => write!(f, "malformed reply: {why}"),
        }
    }
}

/// A reply as it came.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON body of a 2xx, or the API's error.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, HttpError> {
        let malformed =
            |error: serde_json::Error| HttpError::Malformed(format!("{error} in {:.300}", self.text()));
        if self.status.is_success() {
            return serde_json::from_slice(&self.body).map_err(malformed);
        }
        let error: ApiError = serde_json::from_slice(&self.body).map_err(malformed)?;
        Err(HttpError::Api(self.status.as_u16(), error))
    }
}

/// A client of one node.
#[derive(Debug, Clone)]
pub struct Http {
    target: Target,
    timeout: Duration,
}

impl Http {
    pub fn unix(socket: impl Into<PathBuf>) -> Self {
        Self { target: Target::Unix(socket.into()), timeout: DEFAULT_TIMEOUT }
    }

    pub fn tcp(address: SocketAddr) -> Self {
        Self { target: Target::Tcp(address), timeout: DEFAULT_TIMEOUT }
    }

    /// The same client with another time limit for a whole request.
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sends one request and reads the whole reply, whatever its status.
    pub fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<Bytes>,
    ) -> Result<Reply, HttpError> {
        let host = match &self.target {
            Target::Unix(_) => "localhost".to_owned(),
            Target::Tcp(address) => address.to_string(),
        };
        let mut request = Request::builder().method(method).uri(path);
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            request = request.header("host", host);
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if body.is_some() {
            request = request.header("content-type", "application/json");
        }
        let request =
            request.body(Full::new(body.unwrap_or_default())).expect("tests build well-formed requests");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime for one request");
        runtime.block_on(async {
            match tokio::time::timeout(self.timeout, self.exchange(request)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(HttpError::Broken(format!("no reply within {:?}", self.timeout))),
            }
        })
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Reply, HttpError> {
        let unreachable = |error: std::io::Error| HttpError::Unreachable(error.to_string());
        match &self.target {
            Target::Unix(path) => {
                let stream = tokio::net::UnixStream::connect(path).await.map_err(unreachable)?;
                exchange_over(TokioIo::new(stream), request).await
            }
            Target::Tcp(address) => {
                let stream = tokio::net::TcpStream::connect(address).await.map_err(unreachable)?;
                exchange_over(TokioIo::new(stream), request).await
            }
        }
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, HttpError> {
        self.send(Method::GET, path, &[], None)?.parse()
    }

    fn with_body<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        headers: &[(&str, &str)],
    ) -> Result<T, HttpError> {
        let body = serde_json::to_vec(body).expect("API types serialise");
        self.send(method, path, headers, Some(body.into()))?.parse()
    }

    pub fn status(&self) -> Result<StatusView, HttpError> {
        self.get("/v1/status")
    }

    pub fn nodes(&self) -> Result<NodeList, HttpError> {
        self.get("/v1/nodes")
    }

    pub fn node(&self, node: &str) -> Result<NodeView, HttpError> {
        self.get(&format!("/v1/nodes/{node}"))
    }

    /// Sets one label.
    pub fn set_label(&self, node: &str, key: &str, value: &str) -> Result<NodeView, HttpError> {
        let update =
            NodeUpdate { label_add: [(key.to_owned(), value.to_owned())].into(), ..NodeUpdate::default() };
        self.with_body(Method::PATCH, &format!("/v1/nodes/{node}"), &update, &[])
    }

    pub fn remove_node(&self, node: &str) -> Result<RemovedView, HttpError> {
        self.send(Method::DELETE, &format!("/v1/nodes/{node}"), &[], None)?.parse()
    }

    pub fn node_work(&self, node: &str) -> Result<NodeWorkView, HttpError> {
        self.get(&format!("/v1/nodes/{node}/work"))
    }

    pub fn create_token(&self, request: &TokenCreate) -> Result<TokenCreated, HttpError> {
        self.with_body(Method::POST, "/v1/tokens", request, &[])
    }

    pub fn tokens(&self) -> Result<Vec<TokenView>, HttpError> {
        self.get("/v1/tokens")
    }

    pub fn revoke_token(&self, id: &str) -> Result<TokenView, HttpError> {
        self.send(Method::DELETE, &format!("/v1/tokens/{id}"), &[], None)?.parse()
    }

    pub fn submit(&self, request: &OperationRequest, key: Option<&str>) -> Result<OperationView, HttpError> {
        let headers: Vec<(&str, &str)> = key.map(|key| ("idempotency-key", key)).into_iter().collect();
        self.with_body(Method::POST, "/v1/operations", request, &headers)
    }

    pub fn operation(&self, id: &str) -> Result<OperationView, HttpError> {
        self.get(&format!("/v1/operations/{id}"))
    }

    pub fn operations(&self, limit: u32) -> Result<Vec<OperationView>, HttpError> {
        self.get(&format!("/v1/operations?limit={limit}"))
    }

    /// Every view of an operation until it has ended: the stream's lines.
    pub fn watch_operation(&self, id: &str) -> Result<Vec<OperationView>, HttpError> {
        let reply = self.send(Method::GET, &format!("/v1/operations/{id}/watch"), &[], None)?;
        if !reply.status.is_success() {
            return Err(reply.parse::<OperationView>().expect_err("not a success"));
        }
        reply
            .text()
            .lines()
            .map(|line| {
                serde_json::from_str(line).map_err(|error| HttpError::Malformed(format!("{error} in {line}")))
            })
            .collect()
    }

    pub fn ring(&self) -> Result<RingView, HttpError> {
        self.get("/v1/ring")
    }

    /// `query` such as `add=p4&remove=p1`.
    pub fn ring_plan(&self, query: &str) -> Result<RingPlanView, HttpError> {
        self.get(&format!("/v1/ring/plan?{query}"))
    }

    pub fn groups(&self) -> Result<GroupList, HttpError> {
        self.get("/v1/groups")
    }

    /// With the group's keys, which wakes it.
    pub fn group(&self, group: &str) -> Result<GroupView, HttpError> {
        self.get(&format!("/v1/groups/{group}"))
    }

    /// Value and version of a key whose name needs no percent-encoding; None if there is no such key.
    pub fn get_key(&self, namespace: &str, key: &str) -> Result<Option<(Bytes, u64)>, HttpError> {
        let reply = self.send(Method::GET, &format!("/v1/keys/{namespace}/{key}"), &[], None)?;
        if reply.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !reply.status.is_success() {
            return Err(reply.parse::<KeySetView>().expect_err("not a success"));
        }
        let tag = reply.headers.get("etag").and_then(|tag| tag.to_str().ok());
        let version = tag.and_then(|tag| tag.trim_matches('"').parse().ok());
        let version = version.ok_or_else(|| HttpError::Malformed(format!("ETag {tag:?}")))?;
        Ok(Some((reply.body, version)))
    }

    /// `condition` as the API takes it, such as `absent` and `version:7`.
    pub fn set_key(
        &self,
        namespace: &str,
        key: &str,
        value: impl Into<Bytes>,
        condition: Option<&str>,
    ) -> Result<KeySetView, HttpError> {
        let query = condition.map(|condition| format!("?if={condition}")).unwrap_or_default();
        let path = format!("/v1/keys/{namespace}/{key}{query}");
        self.send(Method::PUT, &path, &[], Some(value.into()))?.parse()
    }

    pub fn leave(&self) -> Result<LeaveView, HttpError> {
        self.send(Method::POST, "/v1/leave", &[], None)?.parse()
    }
}

async fn exchange_over<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Reply, HttpError>
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let broken = |error: hyper::Error| HttpError::Broken(error.to_string());
    let (mut sender, connection) = http1::handshake(stream).await.map_err(broken)?;
    let connection = tokio::spawn(connection);
    let reply = sender.send_request(request).await.map_err(broken)?;
    let (head, body) = reply.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX)
        .collect()
        .await
        .map_err(|error| HttpError::Broken(error.to_string()))?
        .to_bytes();
    drop(sender);
    connection.abort();
    Ok(Reply { status: head.status, headers: head.headers, body })
}
