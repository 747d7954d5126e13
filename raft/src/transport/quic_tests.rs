//! The QUIC transport over real sockets on loopback: the conformance suite, and what is its own.

use std::net::{Ipv4Addr, UdpSocket};

use super::super::TransportRef;
use super::super::conformance::{self, Network};
use super::super::pki::Authority;
use super::*;
use crate::consensus::runtime::TokioRuntime;
use crate::model::ids::FleetId;

type Rt = TokioRuntime;

pub(super) struct Loopback {
    authority: Authority,
}

impl Loopback {
    pub(super) fn new() -> Self {
        Self { authority: Authority::create::<Rt>(FleetId([0x11; 16])).unwrap() }
    }

    pub(super) fn start_as(&self, identity: Identity, handler: Arc<dyn Handler>) -> Arc<QuicTransport<Rt>> {
        let socket = QuicSocket::from_std(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).unwrap();
        QuicTransport::start(QuicOptions { identity, socket, handler, join: None, crypto: None }).unwrap()
    }

    fn quic(&self, node: NodeId, handler: Arc<dyn Handler>) -> Arc<QuicTransport<Rt>> {
        self.start_as(self.authority.issue::<Rt>(node).unwrap(), handler)
    }
}

impl Network for Loopback {
    fn start(&self, node: NodeId, handler: Arc<dyn Handler>) -> TransportRef {
        self.quic(node, handler)
    }

    fn dead_address(&self) -> SocketAddr {
        // Bound and closed: nobody answers there.
        UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
    }
}

conformance::suite!(Loopback::new());
