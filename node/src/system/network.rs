//! The real network: QUIC over UDP sockets.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::transport::join::{self, JoinError};
use longshore_raft::transport::pki::Identity;
use longshore_raft::transport::quic::{QuicOptions, QuicSocket, QuicTransport};
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, TransportRef};
use parking_lot::Mutex;

use crate::node::{Network, Seed};

/// Bound before the node starts, so that a port in use is found out first, and port 0 is known when the node introduces itself.
pub(super) struct UdpNetwork {
    socket: Mutex<Option<UdpSocket>>,
}

impl UdpNetwork {
    pub(super) fn bind(address: SocketAddr) -> std::io::Result<(Self, SocketAddr)> {
        let socket = UdpSocket::bind(address)?;
        let bound = socket.local_addr()?;
        Ok((Self { socket: Mutex::new(Some(socket)) }, bound))
    }
}

impl Network for UdpNetwork {
    fn start(
        &self,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        join: Arc<dyn JoinHandler>,
    ) -> Result<TransportRef, String> {
        let socket = self.socket.lock().take().ok_or("the transport was started before")?;
        let socket = QuicSocket::from_std(socket).map_err(|e| e.to_string())?;
        let options =
            QuicOptions { identity: identity.clone(), socket, handler, join: Some(join), crypto: None };
        let transport = QuicTransport::<TokioRuntime>::start(options).map_err(|e| e.to_string())?;
        Ok(transport)
    }

    fn join(
        &self,
        seeds: Vec<Seed>,
        authority: [u8; 32],
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, JoinError>> {
        Box::pin(async move {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            let mut unresolved = Vec::new();
            for seed in &seeds {
                match tokio::net::lookup_host(seed).await {
                    Ok(found) => addresses.extend(found),
                    Err(error) => unresolved.push(format!("{seed}: {error}")),
                }
            }
            if addresses.is_empty() {
                return Err(JoinError::Protocol(format!("no address to join at: {}", unresolved.join("; "))));
            }
            // One socket speaks to all: IPv6 only if every address is.
            let any: SocketAddr = match addresses.iter().any(SocketAddr::is_ipv4) {
                true => (Ipv4Addr::UNSPECIFIED, 0).into(),
                false => (Ipv6Addr::UNSPECIFIED, 0).into(),
            };
            addresses.retain(|a| a.is_ipv4() == any.is_ipv4());
            let unusable = |e: std::io::Error| JoinError::Protocol(format!("no UDP socket: {e}"));
            let socket = UdpSocket::bind(any).map_err(unusable)?;
            let socket = QuicSocket::from_std(socket).map_err(unusable)?;
            join::request::<TokioRuntime>(socket, &addresses, authority, request, None).await
        })
    }
}
