//! A typed client of the API, over a unix socket, TCP or memory. One connection a request: it is meant for a command
//! line and for tests, next to the node. Who asks for keys again and again uses a [`KeyConnection`].
//!
//! Must never retry: the caller knows what may be done twice. The variants of [`ClientError`] say what happened.

mod containers;
mod contexts;
mod keys;
mod nodes;
mod raw;
mod ring;

use std::marker::PhantomData;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use longshore_raft::Runtime;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use super::connector::{Target, TargetError};
use super::limits::REPLY_MAX_BYTES;
use super::percent::encode;
use super::timer::within;
use super::types::*;
pub use keys::KeyConnection;
pub use raw::RawReply;

/// How long a connection may take; the node is on this host, or nearly.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a reply may take. Nodes bound their work well below this; it is for one that is stopped or swapped out.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node's own answer.
    #[error("{error}")]
    Api { error: ApiError, request_id: Option<String> },
    /// Nobody answers there. Nothing was sent.
    #[error("no longshore is running at {target}")]
    NotRunning { target: String },
    /// No access to the socket. Nothing was sent.
    #[error("no permission to use {target}")]
    NoPermission { target: String },
    /// Another reason that there is no connection. Nothing was sent.
    #[error("cannot connect to {target}: {detail}")]
    Unreachable { target: String, detail: String },
    /// Sent, but the connection broke or the reply did not come in time: the outcome is unknown.
    #[error("{target} did not answer: {detail}")]
    Interrupted { target: String, detail: String },
    /// The reply is not one of a longshore node of this version.
    #[error("{target} gave an answer that is not understood: {detail}")]
    NotUnderstood { target: String, detail: String },
}

impl ClientError {
    /// Whether the same request, with the same idempotency key, may well succeed in a moment.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Api { error, .. } => {
                matches!(error.code, ErrorCode::NoQuorum | ErrorCode::OutcomeUnknown | ErrorCode::Busy)
            }
            Self::NotRunning { .. } | Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::NoPermission { .. } | Self::NotUnderstood { .. } => false,
        }
    }
}

type Sender = http1::SendRequest<Full<Bytes>>;

/// A client of one node.
#[derive(Debug)]
pub struct Client<R> {
    target: Target,
    reply_timeout: Duration,
    runtime: PhantomData<fn() -> R>,
}

impl<R> Clone for Client<R> {
    fn clone(&self) -> Self {
        Self { target: self.target.clone(), reply_timeout: self.reply_timeout, runtime: PhantomData }
    }
}

impl<R: Runtime> Client<R> {
    pub fn new(target: Target) -> Self {
        Self { target, reply_timeout: REPLY_TIMEOUT, runtime: PhantomData }
    }

    /// With another time limit for replies.
    pub fn with_reply_timeout(mut self, reply_timeout: Duration) -> Self {
        self.reply_timeout = reply_timeout;
        self
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub async fn status(&self) -> Result<StatusView, ClientError> {
        self.get("/v1/status").await
    }

    /// Whether the node is ready, and why not.
    pub async fn ready(&self) -> Result<HealthView, ClientError> {
        // 503 carries the same body: it is an answer, not an error.
        let response = self.send(Method::GET, "/readyz", None, None).await?;
        let (parts, bytes) = self.whole(response).await?;
        match serde_json::from_slice(&bytes) {
            Ok(health) => Ok(health),
            Err(_) => Err(self.failure(&parts, &bytes)),
        }
    }

    pub async fn create_token(&self, request: &TokenCreate) -> Result<TokenCreated, ClientError> {
        self.call(Method::POST, "/v1/tokens", Some(body(request)), None).await
    }

    pub async fn list_tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        self.get("/v1/tokens").await
    }

    pub async fn revoke_token(&self, id: &str) -> Result<TokenView, ClientError> {
        self.call(Method::DELETE, &format!("/v1/tokens/{}", encode(id)), None, None).await
    }

    pub async fn submit_operation(
        &self,
        request: &OperationRequest,
        key: Option<&str>,
    ) -> Result<OperationView, ClientError> {
        self.call(Method::POST, "/v1/operations", Some(body(request)), key).await
    }

    pub async fn list_operations(&self, query: &OperationQuery) -> Result<Vec<OperationView>, ClientError> {
        let limit = query.limit.map_or(String::new(), |limit| format!("&limit={limit}"));
        let text = |name, value: Option<&str>| {
            value.map_or(String::new(), |value| format!("&{name}={}", encode(value)))
        };
        let session = text("session", query.session.as_deref());
        let kind = text("kind", query.kind.as_deref());
        let state = text("state", query.state.map(OperationState::name));
        let since = query.since_ms.map_or(String::new(), |since| format!("&since_ms={since}"));
        let path = format!("/v1/operations?active={}{limit}{session}{kind}{state}{since}", query.active);
        self.get(&path).await
    }

    pub async fn inspect_operation(&self, id: &str) -> Result<OperationView, ClientError> {
        self.get(&format!("/v1/operations/{}", encode(id))).await
    }

    pub async fn cancel_operation(&self, id: &str) -> Result<OperationView, ClientError> {
        self.call(Method::POST, &format!("/v1/operations/{}/cancel", encode(id)), None, None).await
    }

    pub async fn retry_operation(&self, id: &str, key: Option<&str>) -> Result<OperationView, ClientError> {
        self.call(Method::POST, &format!("/v1/operations/{}/retry", encode(id)), None, key).await
    }

    /// The operation now and after every change.
    pub async fn watch_operation(&self, id: &str) -> Result<OperationWatch, ClientError> {
        self.watch(&format!("/v1/operations/{}/watch", encode(id))).await
    }

    async fn watch<T: DeserializeOwned>(&self, path: &str) -> Result<Watch<T>, ClientError> {
        self.watch_reply(Method::GET, path, None).await
    }

    async fn watch_reply<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
    ) -> Result<Watch<T>, ClientError> {
        let response = self.send(method, path, body, None).await?;
        if !response.status().is_success() {
            let (parts, bytes) = self.whole(response).await?;
            return Err(self.failure(&parts, &bytes));
        }
        let target = self.target.to_string();
        let body = response.into_body();
        Ok(Watch { body, buffer: Vec::new(), scanned: 0, target, items: PhantomData })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.call(Method::GET, path, None, None).await
    }

    async fn call<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body, key).await?;
        let (parts, bytes) = self.whole(response).await?;
        if !parts.status.is_success() {
            return Err(self.failure(&parts, &bytes));
        }
        serde_json::from_slice(&bytes).map_err(|error| self.not_understood(error))
    }

    /// Connects, sends, and waits for the head of the reply. A body is JSON.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Bytes>,
        key: Option<&str>,
    ) -> Result<Response<Incoming>, ClientError> {
        let mut sender = self.connect().await?;
        let mut request = self.request(method, path);
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.exchange(&mut sender, request, body.unwrap_or_default()).await
    }

    async fn connect(&self) -> Result<Sender, ClientError> {
        self.connect_for().await
    }

    /// For requests with bodies of this kind.
    async fn connect_for<B>(&self) -> Result<http1::SendRequest<B>, ClientError>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let stream = match within::<R, _>(CONNECT_TIMEOUT, self.target.connect()).await {
            Some(connected) => connected.map_err(|error| self.no_connection(&error))?,
            None => return Err(self.unreachable("the connection took too long")),
        };
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.unreachable(error))?;
        // Ends when the reply has been read or dropped; its errors reach the caller through the reply.
        drop(R::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the API ended");
            }
        }));
        Ok(sender)
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder().method(method).uri(path).header(header::HOST, self.target.host())
    }

    async fn exchange(
        &self,
        sender: &mut Sender,
        request: hyper::http::request::Builder,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        let request = request.body(Full::new(body)).map_err(|error| {
            let error = ApiError::new(ErrorCode::Invalid, format!("the request cannot be sent: {error}"));
            ClientError::Api { error, request_id: None }
        })?;
        match within::<R, _>(self.reply_timeout, sender.send_request(request)).await {
            Some(reply) => reply.map_err(|error| self.interrupted(error)),
            None => Err(self.interrupted(format!("no reply within {} s", self.reply_timeout.as_secs_f64()))),
        }
    }

    async fn whole(
        &self,
        response: Response<Incoming>,
    ) -> Result<(hyper::http::response::Parts, Bytes), ClientError> {
        let (parts, body) = response.into_parts();
        match within::<R, _>(self.reply_timeout, Limited::new(body, REPLY_MAX_BYTES).collect()).await {
            Some(Ok(collected)) => Ok((parts, collected.to_bytes())),
            Some(Err(error)) if error.is::<LengthLimitError>() => Err(self.not_understood(error)),
            Some(Err(error)) => Err(self.interrupted(error)),
            None => Err(self.interrupted("the reply stopped half-way")),
        }
    }

    fn failure(&self, parts: &hyper::http::response::Parts, bytes: &[u8]) -> ClientError {
        let request_id = parts.headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(str::to_owned);
        match serde_json::from_slice(bytes) {
            Ok(error) => ClientError::Api { error, request_id },
            Err(_) => self.not_understood(format!("HTTP status {}", parts.status)),
        }
    }

    fn no_connection(&self, error: &std::io::Error) -> ClientError {
        let target = self.target.to_string();
        match error.kind() {
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning { target }
            }
            std::io::ErrorKind::PermissionDenied => ClientError::NoPermission { target },
            _ => ClientError::Unreachable { target, detail: error.to_string() },
        }
    }

    fn unreachable(&self, detail: impl ToString) -> ClientError {
        ClientError::Unreachable { target: self.target.to_string(), detail: detail.to_string() }
    }

    fn interrupted(&self, detail: impl ToString) -> ClientError {
        ClientError::Interrupted { target: self.target.to_string(), detail: detail.to_string() }
    }

    fn not_understood(&self, detail: impl ToString) -> ClientError {
        ClientError::NotUnderstood { target: self.target.to_string(), detail: detail.to_string() }
    }
}

/// A watch of one operation.
pub type OperationWatch = Watch<OperationView>;

/// A watch: views as they come, one JSON value a line.
#[derive(Debug)]
pub struct Watch<T> {
    body: Incoming,
    buffer: Vec<u8>,
    /// Bytes of `buffer` known to hold no line end.
    scanned: usize,
    target: String,
    items: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Watch<T> {
    /// The next view; `None` when the stream has ended. It ends after the last view of what is watched, and also when the node
    /// stops: look at the last view's state. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<T>, ClientError> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(self.scanned + end + 1);
                let line = std::mem::replace(&mut self.buffer, rest);
                self.scanned = 0;
                return self.decode(&line).map(Some);
            }
            self.scanned = self.buffer.len();
            if self.buffer.len() > REPLY_MAX_BYTES {
                let detail = format!("a line of more than {REPLY_MAX_BYTES} bytes");
                return Err(ClientError::NotUnderstood { target: self.target.clone(), detail });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.buffer.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data))
                }
                Some(Err(error)) => {
                    let detail = error.to_string();
                    return Err(ClientError::Interrupted { target: self.target.clone(), detail });
                }
                None => return Ok(None),
            }
        }
    }

    fn decode(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice::<T>(line).map_err(|not_a_view| {
            match serde_json::from_slice::<WatchEnd>(line) {
                Ok(WatchEnd { error }) => ClientError::Api { error, request_id: None },
                Err(_) => {
                    ClientError::NotUnderstood { target: self.target.clone(), detail: not_a_view.to_string() }
                }
            }
        })
    }
}

fn body<T: Serialize>(value: &T) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("plain structs of strings and numbers encode as JSON"))
}
