//! The real server driven by the real client and by hand-written bytes, over memory, unix sockets and TCP.

mod contexts;
mod ring_and_keys;

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::TokioRuntime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::client::{Client, ClientError, Target};
use super::fake::{FakeFleet, operation};
use super::limits::{ApiLimits, HEAD_MAX_BYTES};
use super::listener::{Listener, MemoryDialer, TcpApiListener, UnixApiListener, memory_listener};
use super::server::{Access, serve};
use super::types::*;

/// Longer than anything here takes; a test that hangs fails by it.
const PATIENCE: Duration = Duration::from_secs(20);

struct Api {
    fleet: Arc<FakeFleet>,
    dialer: MemoryDialer,
    shutdown: CancellationToken,
    served: tokio::task::JoinHandle<()>,
}

const READ_ONLY: Access = Access::ReadOnly { bound: IpAddr::V4(Ipv4Addr::LOCALHOST) };

fn start(fleet: Arc<FakeFleet>, access: Access, limits: ApiLimits) -> Api {
    let (listener, dialer) = memory_listener();
    let shutdown = CancellationToken::new();
    let served = spawn(Box::new(listener), fleet.clone(), access, limits, &shutdown);
    Api { fleet, dialer, shutdown, served }
}

fn spawn(
    listener: Box<dyn Listener>,
    fleet: Arc<FakeFleet>,
    access: Access,
    limits: ApiLimits,
    shutdown: &CancellationToken,
) -> tokio::task::JoinHandle<()> {
    run(serve::<TokioRuntime>(listener, fleet, access, limits, shutdown.clone()))
}

fn run<F: Future<Output: Send> + Send + 'static>(future: F) -> tokio::task::JoinHandle<F::Output> {
    <TokioRuntime as RuntimeExt>::go(future)
}

trait RuntimeExt: Runtime {
    fn go<F: Future<Output: Send> + Send + 'static>(future: F) -> Self::JoinHandle<F::Output> {
        Self::spawn(future)
    }
}
impl RuntimeExt for TokioRuntime {}

impl Api {
    fn full() -> Self {
        start(FakeFleet::new(), Access::Full, ApiLimits::default())
    }

    fn client(&self) -> Client<TokioRuntime> {
        Client::new(Target::Memory(self.dialer.clone()))
    }

    /// Sends bytes as they are; gives all that comes back until the server closes.
    async fn raw(&self, request: impl AsRef<[u8]>) -> String {
        let mut stream = self.dialer.dial().unwrap();
        // The server may close before it has read everything; its reply counts.
        let _ = stream.write_all(request.as_ref()).await;
        let mut reply = Vec::new();
        let _ = within(stream.read_to_end(&mut reply)).await;
        String::from_utf8(reply).unwrap()
    }

    async fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String, String) {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{headers}");
        let reply = self.raw(format!("{head}content-length: {length}\r\n\r\n{body}")).await;
        let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {reply:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_owned(), body.to_owned())
    }

    /// The same, for a reply that is an error.
    async fn refused(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, ApiError) {
        let (status, head, body) = self.request(method, path, headers, body).await;
        assert!(head.contains("x-request-id: "), "{head}");
        let error = serde_json::from_str(&body).unwrap_or_else(|e| panic!("{status} {body:?}: {e}"));
        (status, error)
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    super::timer::within::<TokioRuntime, _>(PATIENCE, future).await.expect("done in time")
}

/// Waits until `condition` holds, giving other tasks their turn.
async fn until(mut condition: impl FnMut() -> bool + Send) {
    within(poll_fn(move |cx| {
        if condition() {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }))
    .await;
}

const JSON: &str = "content-type: application/json\r\n";

fn api_error(error: ClientError) -> ApiError {
    match error {
        ClientError::Api { error, .. } => error,
        other => panic!("not an answer of the node: {other}"),
    }
}

#[tokio::test]
async fn every_call_through_the_client() {
    let api = Api::full();
    everything(&api.client()).await;
}

#[tokio::test]
async fn every_call_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("longshore.sock");
    let listener = UnixApiListener::bind(&path).unwrap();
    let shutdown = CancellationToken::new();
    let served = spawn(Box::new(listener), FakeFleet::new(), Access::Full, ApiLimits::default(), &shutdown);
    everything(&Client::new(Target::Unix(path.clone()))).await;
    shutdown.cancel();
    within(served).await.unwrap();
    assert!(!path.exists());
    let error = Client::<TokioRuntime>::new(Target::Unix(path)).status().await.unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}

async fn everything(client: &Client<TokioRuntime>) {
    assert_eq!(client.status().await.unwrap().term, 3);
    let health = client.ready().await.unwrap();
    assert_eq!((health.ready, health.reasons.len()), (false, 1));
    assert_eq!(client.list_nodes().await.unwrap().nodes.len(), 3);
    assert_eq!(client.inspect_node("beta").await.unwrap().id, "n2");
    let error = api_error(client.inspect_node("a/../b?").await.unwrap_err());
    assert_eq!((error.code, error.message.as_str()), (ErrorCode::NotFound, "there is no node a/../b?"));
    let update = NodeUpdate { label_add: [("disk".into(), "ssd".into())].into(), ..NodeUpdate::default() };
    assert_eq!(client.update_node("beta", &update).await.unwrap().labels["disk"], "ssd");
    let update = NodeUpdate {
        availability: Some(NodeAvailability::Draining),
        message: Some("new disk".into()),
        weight: Some(7),
        reset: vec![NodeSetting::Zone],
        ..NodeUpdate::default()
    };
    let beta = client.update_node("beta", &update).await.unwrap();
    assert_eq!((beta.weight, beta.announced.weight, beta.zone.as_deref()), (7, 1024, Some("east")));
    assert_eq!(beta.availability.state, NodeAvailability::Draining);
    assert_eq!(beta.availability.message.as_deref(), Some("new disk"));
    let work = client.node_work("beta").await.unwrap();
    assert_eq!((work.open, work.availability), (0, NodeAvailability::Draining));
    assert_eq!(client.node_removal("beta").await.unwrap().loss.groups, ["g1", "g5"]);
    let removed = client.remove_node("gamma", RemoveQuery { force: true }).await.unwrap();
    assert_eq!((removed.node.state, removed.loss.parts), (NodeState::Left, Some(0)));
    let created = client.create_token(&TokenCreate { ttl_ms: Some(5), uses: None }).await.unwrap();
    assert_eq!((created.token.as_str(), created.info.expires_in_ms), ("LSJ1-secret", 5));
    assert_eq!(client.list_tokens().await.unwrap().len(), 1);
    assert_eq!(client.revoke_token("t1").await.unwrap().state, TokenState::Revoked);
    let first = client.submit_operation(&pull(), Some("key")).await.unwrap();
    let again = client.submit_operation(&pull(), Some("key")).await.unwrap();
    let other = client.submit_operation(&pull(), None).await.unwrap();
    assert_eq!((first.id.as_str(), again.id.as_str(), other.id.as_str()), ("op1", "op1", "op2"));
    let query = OperationQuery { limit: Some(1), active: true, ..OperationQuery::default() };
    assert_eq!(client.list_operations(&query).await.unwrap()[0].id, "op2");
    assert_eq!(client.list_operations(&OperationQuery::default()).await.unwrap().len(), 2);
    assert_eq!(client.inspect_operation("op1").await.unwrap().id, "op1");
    assert_eq!(client.leave(LeaveQuery::default()).await.unwrap().new_leader.as_deref(), Some("beta"));
}

fn pull() -> OperationRequest {
    OperationRequest {
        on: vec!["alpha".into()],
        ..OperationRequest::new(Action::Pull { images: vec!["nginx:1.27".into()] }, Strategy::Replicated)
    }
}

#[tokio::test]
async fn tcp_takes_reads_only() {
    let listener = TcpApiListener::bind((Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
    let address = listener.local_addr();
    let taken = TcpApiListener::bind(address).await.unwrap_err();
    assert!(taken.to_string().contains(&format!("port {}", address.port())), "{taken}");
    assert!(taken.to_string().contains("--api"), "{taken}");
    let access = Access::ReadOnly { bound: address.ip() };
    let shutdown = CancellationToken::new();
    let fleet = FakeFleet::new();
    let served = spawn(Box::new(listener), fleet.clone(), access, ApiLimits::default(), &shutdown);
    let client = Client::<TokioRuntime>::new(Target::Tcp(address.to_string()));
    assert_eq!(client.status().await.unwrap().node_id, "n1");
    let error = api_error(client.leave(LeaveQuery::default()).await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Denied);
    assert!(error.hint.unwrap().contains("unix socket"));
    assert!(!fleet.calls().contains(&"leave".to_owned()));
    shutdown.cancel();
    within(served).await.unwrap();
}

#[tokio::test]
async fn read_only_refuses_every_change_and_foreign_hosts() {
    let api = start(FakeFleet::new(), READ_ONLY, ApiLimits::default());
    for (path, methods, _) in super::routes::ROUTES {
        for method in methods.iter().filter(|method| **method != "get") {
            let (status, error) = api.refused(&method.to_uppercase(), path, JSON, "{}").await;
            assert_eq!((status, error.code), (403, ErrorCode::Denied), "{method} {path}");
        }
    }
    assert_eq!(api.fleet.calls(), Vec::<String>::new());
    for host in ["host: evil.example\r\n", "host: 127.0.0.1.evil.example\r\n", ""] {
        let reply = api.raw(format!("GET /v1/status HTTP/1.1\r\n{host}connection: close\r\n\r\n")).await;
        assert!(reply.starts_with("HTTP/1.1 403"), "{reply}");
    }
    let reply = api.raw("GET /v1/status HTTP/1.1\r\nhost: 127.0.0.1:7400\r\nconnection: close\r\n\r\n").await;
    assert!(reply.starts_with("HTTP/1.1 200"), "{reply}");
}

#[tokio::test]
async fn wrong_requests_are_told_what_is_wrong() {
    let api = Api::full();
    let cases: &[(&str, &str, &str, &str, u16, ErrorCode, &str)] = &[
        ("GET", "/v1/nothing", "", "", 404, ErrorCode::NotFound, "there is no /v1/nothing"),
        ("PUT", "/v1/status", "", "", 405, ErrorCode::Invalid, "PUT is not a method of /v1/status"),
        ("POST", "/v1/tokens", "", "{}", 415, ErrorCode::Invalid, "must be JSON"),
        ("POST", "/v1/tokens", "content-type: text/plain\r\n", "{}", 415, ErrorCode::Invalid, "must be JSON"),
        ("POST", "/v1/tokens", JSON, "{", 400, ErrorCode::Invalid, "not valid JSON: EOF"),
        ("POST", "/v1/tokens", JSON, "{\"usez\": 1}", 400, ErrorCode::Invalid, "unknown field `usez`"),
        (
            "POST",
            "/v1/tokens",
            JSON,
            "{\"uses\": -1}",
            400,
            ErrorCode::Invalid,
            "invalid value: integer `-1`",
        ),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"label\": {}}",
            400,
            ErrorCode::Invalid,
            "unknown field `label`",
        ),
        (
            "POST",
            "/v1/operations",
            JSON,
            "{\"action\": {\"kind\": \"fly\"}}",
            400,
            ErrorCode::Invalid,
            "unknown variant `fly`",
        ),
        (
            "POST",
            "/v1/operations",
            JSON,
            "{\"action\": {\"kind\": \"pull\", \"images\": []}, \"strategy\": \"local\", \"node\": 1}",
            400,
            ErrorCode::Invalid,
            "unknown field `node`",
        ),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"label_add\": {\"\": \"x\"}}",
            400,
            ErrorCode::Invalid,
            "is not a key for a label",
        ),
        ("PATCH", "/v1/nodes/alpha", JSON, "{\"zone\": \"\"}", 400, ErrorCode::Invalid, "is not a zone"),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"region\": \"a b\"}",
            400,
            ErrorCode::Invalid,
            "is not a region",
        ),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"weight\": 1, \"reset\": [\"weight\"]}",
            400,
            ErrorCode::Invalid,
            "the weight is both set and reset",
        ),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"message\": \"why\"}",
            400,
            ErrorCode::Invalid,
            "a message goes with an availability",
        ),
        (
            "PATCH",
            "/v1/nodes/alpha",
            JSON,
            "{\"availability\": \"gone\"}",
            400,
            ErrorCode::Invalid,
            "unknown variant `gone`",
        ),
        ("GET", "/v1/operations?limt=1", "", "", 400, ErrorCode::Invalid, "unknown field `limt`"),
        ("GET", "/v1/operations?limit=x", "", "", 400, ErrorCode::Invalid, "limit"),
        ("GET", "/v1/nodes/%ff", "", "", 400, ErrorCode::Invalid, "path is not valid"),
        ("GET", "/v1/nodes/nobody", "", "", 404, ErrorCode::NotFound, "there is no node nobody"),
    ];
    for (method, path, headers, body, status, code, message) in cases {
        let (got, error) = api.refused(method, path, headers, body).await;
        assert_eq!((got, error.code), (*status, *code), "{method} {path} {body}: {error:?}");
        assert!(error.message.contains(message), "{method} {path} {body}: {error:?}");
    }
    let (_, head, _) = api.request("PUT", "/v1/status", "", "").await;
    assert!(head.to_lowercase().contains("allow: get,head"), "{head}");
    let long = format!("idempotency-key: {}\r\n{JSON}", "k".repeat(129));
    let body = serde_json::to_string(&pull()).unwrap();
    let (status, error) = api.refused("POST", "/v1/operations", &long, &body).await;
    assert_eq!(status, 400);
    assert!(error.message.contains("Idempotency-Key"), "{error:?}");
}

#[tokio::test]
async fn request_ids() {
    let api = Api::full();
    let id = |head: &str| {
        let line = head.lines().find_map(|line| line.strip_prefix("x-request-id: "));
        line.unwrap_or_else(|| panic!("no request id in {head}")).to_owned()
    };
    let (_, head, _) = api.request("GET", "/livez", "x-request-id: from-me_1.2\r\n", "").await;
    assert_eq!(id(&head), "from-me_1.2");
    for given in ["", "x-request-id: a b\r\n", "x-request-id: \r\n"] {
        let (_, head, _) = api.request("GET", "/livez", given, "").await;
        assert_eq!(id(&head).len(), 16, "{head}");
    }
    let (_, head, _) =
        api.request("GET", "/livez", &format!("x-request-id: {}\r\n", "x".repeat(65)), "").await;
    assert_eq!(id(&head).len(), 16, "{head}");
}

#[tokio::test]
async fn health_statuses() {
    let api = Api::full();
    let (status, _, body) = api.request("GET", "/livez", "", "").await;
    assert_eq!(status, 200, "{body}");
    let (status, _, body) = api.request("GET", "/readyz", "", "").await;
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("there is no leader"), "{body}");
    let (status, _, body) = api.request("GET", "/v1/openapi.json", "", "").await;
    assert_eq!(status, 200);
    assert!(body.contains("\"openapi\""));
}

#[tokio::test]
async fn oversized_bodies_are_refused() {
    let limits = ApiLimits { body_max_bytes: 100, ..ApiLimits::default() };
    let api = start(FakeFleet::new(), Access::Full, limits);
    let (status, error) = api.refused("POST", "/v1/tokens", JSON, &" ".repeat(101)).await;
    assert_eq!((status, error.code), (413, ErrorCode::TooLarge));
    let chunk = format!("64\r\n{}\r\n", " ".repeat(100));
    let head = "POST /v1/tokens HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n";
    let reply = api.raw(format!("{head}{JSON}\r\n{chunk}{chunk}0\r\n\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 413"), "{reply}");
    let (status, _, _) = api.request("POST", "/v1/tokens", JSON, &format!("{:100}", "{}")).await;
    assert_eq!(status, 201);
}

#[tokio::test]
async fn garbage_and_oversized_heads_end_the_connection() {
    let api = Api::full();
    let reply = api.raw(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 not http\r\n\r\n".as_slice()).await;
    assert!(reply.starts_with("HTTP/1.1 400"), "{reply}");
    let head = format!("GET /livez HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2 * HEAD_MAX_BYTES));
    let reply = api.raw(head).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
    let many: String = (0..200).map(|i| format!("h{i}: x\r\n")).collect();
    let reply = api.raw(format!("GET /livez HTTP/1.1\r\nhost: x\r\n{many}\r\n")).await;
    assert!(reply.starts_with("HTTP/1.1 431"), "{reply}");
    assert_eq!(api.client().status().await.unwrap().node_id, "n1");
}

#[tokio::test(start_paused = true)]
async fn slow_heads_and_bodies_are_cut() {
    let api = Api::full();
    let mut stream = api.dialer.dial().unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost:").await.unwrap();
    let mut reply = Vec::new();
    within(stream.read_to_end(&mut reply)).await.unwrap();
    assert!(!String::from_utf8_lossy(&reply).contains("200"), "{reply:?}");
    let mut stream = api.dialer.dial().unwrap();
    let head = format!("POST /v1/tokens HTTP/1.1\r\nhost: x\r\n{JSON}content-length: 2\r\n\r\n{{");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut reply = Vec::new();
    within(stream.read_to_end(&mut reply)).await.unwrap();
    let reply = String::from_utf8(reply).unwrap();
    assert!(reply.contains("the body did not arrive within 10 s"), "{reply}");
}

#[tokio::test]
async fn too_many_requests_are_busy_and_health_still_answers() {
    let limits = ApiLimits { requests_max: 2, ..ApiLimits::default() };
    let api = start(FakeFleet::gated(), Access::Full, limits);
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let client = api.client();
            run(async move { client.status().await })
        })
        .collect();
    until(|| api.fleet.calls().len() == 2).await;
    let error = api_error(api.client().status().await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Busy);
    let client = api.client();
    let health = run(async move { client.ready().await });
    until(|| api.fleet.calls().contains(&"health".to_owned())).await;
    api.fleet.gate.close();
    within(health).await.unwrap().unwrap();
    for call in waiting {
        within(call).await.unwrap().unwrap();
    }
    api.client().status().await.unwrap();
}

#[tokio::test]
async fn too_many_connections_are_busy() {
    let limits = ApiLimits { connections_max: 2, ..ApiLimits::default() };
    let api = start(FakeFleet::new(), Access::Full, limits);
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut stream = api.dialer.dial().unwrap();
        stream.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut byte = [0];
        within(stream.read_exact(&mut byte)).await.unwrap();
        held.push(stream);
    }
    let error = api_error(api.client().status().await.unwrap_err());
    assert_eq!(error.code, ErrorCode::Busy);
    held.clear();
    // The server learns of the closed connections a moment later.
    let mut free = api.client().status().await;
    while free.is_err() {
        free = api.client().status().await;
    }
}

#[tokio::test]
async fn a_panic_is_an_internal_error() {
    let api = Api::full();
    api.fleet.panic_in("status");
    api.fleet.panic_in("create_token");
    let (status, error) = api.refused("GET", "/v1/status", "", "").await;
    assert_eq!((status, error.code), (500, ErrorCode::Internal));
    let (status, error) = api.refused("POST", "/v1/tokens", JSON, "{}").await;
    assert_eq!((status, error.code), (500, ErrorCode::Internal));
}

#[tokio::test]
async fn a_change_goes_on_when_its_client_has_gone() {
    let api = start(FakeFleet::gated(), Access::Full, ApiLimits::default());
    let client = api.client();
    let call = run(async move { client.create_token(&TokenCreate { ttl_ms: None, uses: None }).await });
    until(|| api.fleet.calls().len() == 1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    api.fleet.gate.close();
    let mut tokens = api.client().list_tokens().await.unwrap();
    while tokens.is_empty() {
        tokens = api.client().list_tokens().await.unwrap();
    }
}

#[tokio::test]
async fn watches_follow_an_operation_to_its_end() {
    let api = Api::full();
    api.fleet.publish(&operation("op1", OperationState::Planned));
    let mut watch = api.client().watch_operation("op1").await.unwrap();
    assert_eq!(within(watch.next()).await.unwrap().unwrap().state, OperationState::Planned);
    api.fleet.publish(&operation("op1", OperationState::Running));
    assert_eq!(within(watch.next()).await.unwrap().unwrap().state, OperationState::Running);
    api.fleet.publish(&operation("op1", OperationState::Succeeded));
    assert_eq!(within(watch.next()).await.unwrap().unwrap().state, OperationState::Succeeded);
    assert!(within(watch.next()).await.unwrap().is_none());
    let error = api_error(api.client().watch_operation("nothing").await.unwrap_err());
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn watches_end_with_an_error_with_the_server_or_with_their_client() {
    let api = Api::full();
    api.fleet.publish(&operation("op1", OperationState::Running));
    let mut watch = api.client().watch_operation("op1").await.unwrap();
    within(watch.next()).await.unwrap().unwrap();
    api.fleet.end_watches("op1", Some(ApiError::new(ErrorCode::NoQuorum, "lost it")));
    assert_eq!(api_error(within(watch.next()).await.unwrap_err()).message, "lost it");
    assert!(within(watch.next()).await.unwrap().is_none());

    let watch = api.client().watch_operation("op1").await.unwrap();
    until(|| api.fleet.watchers("op1") == 1).await;
    drop(watch);
    until(|| api.fleet.watchers("op1") == 0).await;

    let mut watch = api.client().watch_operation("op1").await.unwrap();
    within(watch.next()).await.unwrap().unwrap();
    api.shutdown.cancel();
    assert!(within(watch.next()).await.unwrap().is_none());
    within(api.served).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_requests_finish_and_cuts_those_that_do_not() {
    let api = start(FakeFleet::gated(), Access::Full, ApiLimits::default());
    let client = api.client();
    let finishing = run(async move { client.status().await });
    until(|| api.fleet.calls().len() == 1).await;
    api.shutdown.cancel();
    until(|| api.dialer.dial().is_err()).await;
    api.fleet.gate.add_permits(1);
    within(finishing).await.unwrap().unwrap();
    within(api.served).await.unwrap();

    let api = start(FakeFleet::gated(), Access::Full, ApiLimits::default());
    let client = api.client();
    let hanging = run(async move { client.status().await });
    until(|| api.fleet.calls().len() == 1).await;
    api.shutdown.cancel();
    within(api.served).await.unwrap();
    let error = within(hanging).await.unwrap().unwrap_err();
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
}

#[tokio::test]
async fn something_else_than_longshore_is_told_apart() {
    let (mut listener, dialer) = memory_listener();
    let other = run(async move {
        for reply in ["SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"] {
            let mut stream = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            let _ = stream.read(&mut head).await.unwrap();
            stream.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    let client = Client::<TokioRuntime>::new(Target::Memory(dialer));
    let error = within(client.status()).await.unwrap_err();
    assert!(matches!(error, ClientError::Interrupted { .. }), "{error}");
    let error = within(client.status()).await.unwrap_err();
    assert!(matches!(error, ClientError::NotUnderstood { .. }), "{error}");
    within(other).await.unwrap();
}
