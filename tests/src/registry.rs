//! A TCP proxy in front of a registry that makes pulls slow, holds them, or cuts them off.
//!
//! Images named by the proxy's address are pulled through it; the registry itself does not care how it is addressed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use longshore_model::image::ImageReference;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Bytes moved at a time. Small beside any rate worth testing, so that the flow is even.
const CHUNK_BYTES: usize = 8 * 1024;
/// No limit on the rate.
pub const UNLIMITED: u64 = u64::MAX;

/// Lives as long as the value: dropping it closes the port and all connections.
#[derive(Debug)]
pub struct RegistryProxy {
    address: SocketAddr,
    control: Arc<Control>,
    cut: mpsc::Sender<()>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Control {
    upstream: String,
    bytes_per_second: AtomicU64,
    held: AtomicBool,
    released: Notify,
    /// When the next byte may go, over all connections.
    next: Mutex<Instant>,
    downloaded_bytes: AtomicU64,
    open: AtomicU64,
}

impl RegistryProxy {
    /// Listens on a free port of 127.0.0.1 and forwards to `upstream` (`127.0.0.1:PORT`), at most so many bytes a second
    /// from the registry to its clients, all together.
    pub async fn start(upstream: &str, bytes_per_second: u64) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let control = Arc::new(Control {
            upstream: upstream.to_owned(),
            bytes_per_second: AtomicU64::new(bytes_per_second),
            held: AtomicBool::new(false),
            released: Notify::new(),
            next: Mutex::new(Instant::now()),
            downloaded_bytes: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let (cut, cuts) = mpsc::channel(1);
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, control.clone(), cuts));
        Ok(Self { address, control, cut, _accepting: accepting })
    }

    /// The same image, named by this proxy.
    pub fn image(&self, image: &ImageReference) -> ImageReference {
        let path = image.to_string().split_off(image.registry().len());
        format!("{}{path}", self.address).parse().expect("an address is a registry")
    }

    pub fn set_rate(&self, bytes_per_second: u64) {
        self.control.bytes_per_second.store(bytes_per_second, Ordering::Relaxed);
    }

    /// Lets nothing more through from the registry, with the connections left open.
    pub fn hold(&self) {
        self.control.held.store(true, Ordering::Relaxed);
    }

    pub fn release(&self) {
        self.control.held.store(false, Ordering::Relaxed);
        self.control.released.notify_waiters();
    }

    /// Closes all connections that are open now.
    pub async fn cut(&self) {
        self.cut.send(()).await.expect("the acceptor lives as long as the proxy");
    }

    /// Bytes that went from the registry to its clients.
    pub fn downloaded_bytes(&self) -> u64 {
        self.control.downloaded_bytes.load(Ordering::Relaxed)
    }

    pub fn open_connections(&self) -> u64 {
        self.control.open.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, control: Arc<Control>, mut cuts: mpsc::Receiver<()>) {
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
                    connections.spawn(forward(client, Open::count(control.clone())));
                }
            }
        }
    }
}

/// Counts one connection for as long as it lives.
struct Open(Arc<Control>);

impl Open {
    fn count(control: Arc<Control>) -> Self {
        control.open.fetch_add(1, Ordering::Relaxed);
        Self(control)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends, and closes both sides, when either side does: no half-open connection outlives its client.
async fn forward(client: TcpStream, open: Open) {
    let Ok(registry) = TcpStream::connect(&open.0.upstream).await else { return };
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_registry, mut to_registry) = registry.into_split();
    let upload = async move {
        let _ = tokio::io::copy(&mut from_client, &mut to_registry).await;
    };
    let control = open.0.clone();
    let download = async move {
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let Ok(length @ 1..) = from_registry.read(&mut chunk).await else { return };
            control.admit(length).await;
            if to_client.write_all(&chunk[..length]).await.is_err() {
                return;
            }
            control.downloaded_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
    };
    tokio::select! {
        biased;
        () = download => {}
        () = upload => {}
    }
}

impl Control {
    /// Waits until so many more bytes may go.
    async fn admit(&self, length: usize) {
        loop {
            let mut released = std::pin::pin!(self.released.notified());
            // Registered before looking, or a release between the two would be missed.
            released.as_mut().enable();
            if !self.held.load(Ordering::Relaxed) {
                break;
            }
            released.await;
        }
        let rate = self.bytes_per_second.load(Ordering::Relaxed);
        let at = {
            let mut next = self.next.lock().await;
            let at = (*next).max(Instant::now());
            *next = at + Duration::from_secs_f64(length as f64 / rate as f64);
            at
        };
        tokio::time::sleep_until(at).await;
    }
}
