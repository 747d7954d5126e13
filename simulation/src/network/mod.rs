//! The simulated network: hosts with addresses, and two transports over them.
//!
//! ```text
//! a node's Network port -> message (whole messages)                 \
//!                       -> quic -> quinn, rustls -> datagram (UDP)   > fabric: rules, chance, latency, order of delivery
//! ```
//!
//! Everything that is sent, lost and delivered is an event of the trace. Must never: use a socket of the machine, its clock or its
//! randomness.

mod datagram;
mod fabric;
mod join;
mod message;
mod parcel;
mod process;
mod quic;
mod rules;
mod tamper;

use std::sync::Arc;

use longshore_node::node::Network;

pub use self::fabric::{Fabric, NetworkStats};
pub use self::tamper::Tamper;
use crate::plan::{HostId, TransportKind};

/// The network port of a process that starts on `host`, in place of the one that ran there before. Called in the new process's
/// context; [`Fabric::process_died`] is called when it has ended.
pub fn network_port(kind: TransportKind, fabric: &Arc<Fabric>, host: HostId) -> Arc<dyn Network> {
    match kind {
        TransportKind::Memory => Arc::new(message::MessageNetwork::new(fabric, host)),
        TransportKind::Quic => Arc::new(quic::QuicNetwork::new(fabric, host)),
    }
}

#[cfg(test)]
mod tests;
