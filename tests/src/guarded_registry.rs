//! A registry that lets nobody in without a name and a password: an HTTP proxy in front of one that lets everybody in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use data_encoding::BASE64;
use http_body_util::{BodyExt, Empty, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use longshore_model::image::ImageReference;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Lives as long as the value.
#[derive(Debug)]
pub struct GuardedRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    upstream: String,
    /// What the header has to be.
    authorization: String,
    refused: AtomicU64,
}

impl GuardedRegistry {
    /// In front of `upstream` (`127.0.0.1:PORT`), on a free port.
    pub async fn start(upstream: &str, username: &str, password: &str) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let authorization = format!("Basic {}", BASE64.encode(format!("{username}:{password}").as_bytes()));
        let shared =
            Arc::new(Shared { upstream: upstream.to_owned(), authorization, refused: AtomicU64::new(0) });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, shared.clone()));
        Ok(Self { address, shared, _accepting: accepting })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same image, named by this registry.
    pub fn image(&self, image: &ImageReference) -> ImageReference {
        let path = image.to_string().split_off(image.registry().len());
        format!("{}{path}", self.address).parse().expect("an address is a registry")
    }

    /// Requests that showed nothing, or the wrong thing.
    pub fn refused(&self) -> u64 {
        self.shared.refused.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { continue };
                let shared = shared.clone();
                connections.spawn(async move {
                    let service = service_fn(move |request| pass_on(request, shared.clone()));
                    // An error is the client's going away.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(client), service)
                        .await;
                });
            }
        }
    }
}

async fn pass_on(mut request: Request<Incoming>, shared: Arc<Shared>) -> Result<Response<Body>, BoxError> {
    let shown = request.headers_mut().remove(header::AUTHORIZATION);
    if shown.is_none_or(|shown| shown.as_bytes() != shared.authorization.as_bytes()) {
        shared.refused.fetch_add(1, Ordering::Relaxed);
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        return Ok(Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, "Basic realm=\"guarded\"")
            .body(body)?);
    }
    let registry = TcpStream::connect(&shared.upstream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(registry)).await?;
    tokio::spawn(async move {
        let _ = connection.await;
    });
    Ok(sender.send_request(request).await?.map(BodyExt::boxed_unsync))
}
