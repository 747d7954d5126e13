//! The listener port: where the API's connections come from. Real ones: a unix socket and TCP; in memory: a duplex pipe.
//!
//! Must never: read or write a connection's bytes, or limit how many there are (the server does).

mod memory;
mod tcp;
mod unix;

use std::io;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};

pub use memory::{MemoryDialer, memory_listener};
pub use tcp::TcpApiListener;
pub use unix::UnixApiListener;

/// A connection's bytes, both ways.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Yields connections.
pub trait Listener: Send + 'static {
    /// The next connection. Dropping the future loses none. An error concerns one connection or passes with time (too
    /// many open files): the caller pauses and goes on.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>>;
    /// Where it listens, for people.
    fn describe(&self) -> String;
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there. Stop it, or choose another data folder.
    #[error("another longshore is already serving on {}", path.display())]
    SocketInUse { path: PathBuf },
    /// Choose a shorter data folder.
    #[error(
        "the path of the API socket is too long: {} has {len} bytes, the system allows {max}; use a shorter --data-dir",
        path.display()
    )]
    PathTooLong { path: PathBuf, len: usize, max: usize },
    /// Move the file away.
    #[error("{} exists and is not a socket; move it away", path.display())]
    NotASocket { path: PathBuf },
    /// Choose another port.
    #[error(
        "port {port} of {ip} is already in use (TCP, for the HTTP API); choose another with --api IP:PORT, or --api none"
    )]
    PortInUse { ip: std::net::IpAddr, port: u16 },
    #[error("cannot listen on {address}: {source}")]
    Io { address: String, source: io::Error },
}
