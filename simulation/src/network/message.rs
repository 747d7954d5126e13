//! The memory transport: whole messages through the fabric, with the promises of [`longshore_raft::transport`].
//!
//! Has no connections: a node that is down swallows requests, which stay unanswered until their timeout or
//! [`Transport::cancel_pending`]. Messages of one lane keep their order whatever the network does to them; lanes overtake each
//! other, and so do replies. A message that the network doubles is handed over twice, in its place. A node's identity is the number
//! in the message, as a certificate's would be: another node at the same address is never taken for it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_node::node::{Network, Seed};
use longshore_raft::NodeId;
use longshore_raft::consensus::inspect_wire::kind_of;
use longshore_raft::transport::join::JoinError;
use longshore_raft::transport::pki::Identity;
use longshore_raft::transport::{
    BoxFuture, Handler, JoinHandler, Lane, Transport, TransportError, TransportRef,
};
use openraft_rt::AsyncRuntime as _;

use super::fabric::{Draft, Fabric};
use super::join::{self, Forget};
use super::parcel::{Cargo, Digest, Failure, Farewell, Kind, LaneKey};
use super::process::{Endpoint, Process};
use crate::event;
use crate::plan::HostId;
use crate::runtime::SimRuntime;

/// The memory transport's port of one process.
pub(super) struct MessageNetwork {
    fabric: Arc<Fabric>,
    process: Arc<Process>,
}

impl MessageNetwork {
    /// Called in the process's context.
    pub(super) fn new(fabric: &Arc<Fabric>, host: HostId) -> Self {
        Self { fabric: fabric.clone(), process: fabric.new_process(host) }
    }
}

impl Network for MessageNetwork {
    fn start(
        &self,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        join: Arc<dyn JoinHandler>,
    ) -> Result<TransportRef, String> {
        let node = identity.node();
        let endpoint = Endpoint {
            node,
            authority: identity.authority_fingerprint(),
            handler,
            join,
            peers: BTreeMap::new(),
            removed: BTreeSet::new(),
            met: BTreeSet::new(),
        };
        if !self.process.open(endpoint) {
            return Err("the transport was started before".into());
        }
        event!("net open {node} at {}", Fabric::address(self.process.host));
        Ok(Arc::new(MessageTransport { node, fabric: self.fabric.clone(), process: self.process.clone() }))
    }

    fn join(
        &self,
        seeds: Vec<Seed>,
        authority: [u8; 32],
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, JoinError>> {
        Box::pin(join::request(self.fabric.clone(), self.process.clone(), seeds, authority, request))
    }
}

/// One node's end. Closes when dropped.
struct MessageTransport {
    node: NodeId,
    fabric: Arc<Fabric>,
    process: Arc<Process>,
}

impl MessageTransport {
    /// Where `to` is, if it may be spoken to.
    fn host_of(&self, to: NodeId) -> Result<HostId, &'static str> {
        let address = self.process.endpoint(|endpoint| {
            if endpoint.removed.contains(&to) {
                return Err("it was removed from the fleet");
            }
            let address = endpoint.peers.get(&to).copied().ok_or("it is not a known node")?;
            endpoint.met.insert(to);
            Ok(address)
        });
        let address = address.ok_or("the transport is closed")??;
        Fabric::host_of(address).ok_or("its address is not in this network")
    }

    fn shut(&self) {
        let Some(endpoint) = self.process.close() else { return };
        for node in &endpoint.met {
            if let Some(address) = endpoint.peers.get(node) {
                self.process.say_goodbye(&self.fabric, self.node, *node, *address, Farewell::Closing);
            }
        }
    }
}

impl Drop for MessageTransport {
    fn drop(&mut self) {
        self.shut();
    }
}

fn failed(error: TransportError) -> BoxFuture<Result<Bytes, TransportError>> {
    Box::pin(std::future::ready(Err(error)))
}

fn error_of(failure: Failure, to: NodeId) -> TransportError {
    match failure {
        Failure::Refused(reason) => TransportError::Refused { to, reason },
        Failure::Removed => TransportError::Removed { to },
        Failure::NoReply(reason) => TransportError::NoReply { to, reason: reason.into() },
        Failure::Busy(reason) => TransportError::Unreachable { to, reason: reason.into() },
    }
}

impl Transport for MessageTransport {
    fn request(
        &self,
        to: NodeId,
        lane: Lane,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<Result<Bytes, TransportError>> {
        let (len, limit) = (body.len(), lane.max_body_bytes());
        if len > limit {
            return failed(TransportError::TooLarge { len, limit });
        }
        let unreachable = |reason: &str| failed(TransportError::Unreachable { to, reason: reason.into() });
        let host = match self.host_of(to) {
            Ok(host) => host,
            Err(reason) => return unreachable(reason),
        };
        let Some((sender, answered)) = self.process.expect_answer(Some((to, lane))) else {
            return unreachable("busy: too many requests wait for their answers on this lane");
        };
        let forget = Forget { process: self.process.clone(), request: sender.request };
        let kind = kind_of(&body);
        match self.fabric.tamper().and_then(|tamper| tamper.instead_of_sending(kind, &body)) {
            Some(forged) => {
                event!("net forge instead of {kind} to {to}");
                self.process.complete(sender.request, Ok(forged));
            }
            None => self.fabric.send(Draft {
                from: self.process.host,
                to: host,
                kind: Kind::Request(kind),
                lane: Some(LaneKey { process: self.process.id, to, lane }),
                len,
                digest: Digest::of(&body),
                cargo: Cargo::Request { from: self.node, to, lane, body, sender },
            }),
        }
        let answered = SimRuntime::timeout(timeout, answered);
        Box::pin(async move {
            let _forget = forget;
            let no_reply = |reason: &str| TransportError::NoReply { to, reason: reason.into() };
            match answered.await {
                Ok(Ok(answer)) => answer.map_err(|failure| error_of(failure, to)),
                Ok(Err(_)) => Err(no_reply("the transport is gone")),
                Err(_) => Err(no_reply("timed out")),
            }
        })
    }

    fn cancel_pending(&self, to: NodeId) {
        self.process.fail_all_of(to, "cancelled");
    }

    fn set_peers(&self, peers: Vec<(NodeId, SocketAddr)>, removed: Vec<NodeId>) {
        let cut_off = self.process.endpoint(|endpoint| {
            endpoint.removed.extend(removed);
            for (node, address) in peers {
                if node != endpoint.node && !endpoint.removed.contains(&node) {
                    endpoint.peers.insert(node, address);
                }
            }
            let Endpoint { peers, removed, met, .. } = endpoint;
            let gone: Vec<_> = peers.extract_if(.., |node, _| removed.contains(node)).collect();
            gone.into_iter().map(|(node, address)| (node, address, met.remove(&node))).collect::<Vec<_>>()
        });
        for (node, address, met) in cut_off.into_iter().flatten() {
            self.process.fail_all_of(node, "it was removed from the fleet");
            if met {
                self.process.say_goodbye(&self.fabric, self.node, node, address, Farewell::Removed);
            }
        }
    }

    fn local_addr(&self) -> SocketAddr {
        Fabric::address(self.process.host)
    }

    fn close(&self) -> BoxFuture<()> {
        self.shut();
        Box::pin(std::future::ready(()))
    }
}
