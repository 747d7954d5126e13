//! The real TCP listener.

use std::io;
use std::net::SocketAddr;

use tokio::net::TcpListener;

use super::{BindError, BoxFuture, ByteStream, Listener};

#[derive(Debug)]
pub struct TcpApiListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl TcpApiListener {
    /// Binds; port 0 lets the system choose (see [`Self::local_addr`]).
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let describe = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::PortInUse { ip: address.ip(), port: address.port() },
            _ => BindError::Io { address: address.to_string(), source },
        };
        let listener = TcpListener::bind(address).await.map_err(describe)?;
        let address = listener.local_addr().map_err(describe)?;
        Ok(Self { listener, address })
    }

    /// The address as bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }
}

impl Listener for TcpApiListener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Box<dyn ByteStream>>> {
        Box::pin(async {
            let (stream, _) = self.listener.accept().await?;
            // Replies are small and written whole: waiting to fill segments only adds latency.
            stream.set_nodelay(true)?;
            Ok(Box::new(stream) as Box<dyn ByteStream>)
        })
    }

    fn describe(&self) -> String {
        format!("http://{}", self.address)
    }
}
