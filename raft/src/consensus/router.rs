//! Takes what comes in from other nodes to the replica it is meant for. One a node; implements the transport's handler.
//!
//! Also keeps what all groups share: which nodes are suspected. Must never: hand a message to a replica other than the
//! one it names, or block.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::changes::Changes;
use super::confirm::{CLAIMS_MAX, Confirmer};
use super::wire::{self, Claim, GroupBody, GroupRequest, Message, Ping, Refusal, Reply};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::{Handler, Lane, Replier};

/// A replica, as the router sees it.
pub(crate) trait Port: Send + Sync {
    fn group(&self) -> GroupId;
    fn replica(&self) -> ReplicaId;
    fn deliver(self: Arc<Self>, from: NodeId, lane: Lane, body: GroupBody, replier: Replier);
    /// `node` is suspected, or `restarted`: if it leads, see to a new leader.
    fn on_lost(self: Arc<Self>, node: NodeId, restarted: bool);
    /// Hand leadership, if held, to a voter whose node is not one to avoid.
    fn step_aside(self: Arc<Self>, avoid: &dyn Fn(NodeId) -> bool);
    /// `node` is trusted again, or its process is another: whoever leads sees to it.
    fn on_found(self: Arc<Self>, node: NodeId);
    /// Whether the replica that is asked is this one, and stands by that leader.
    fn confirms(&self, claim: &Claim) -> bool;
    /// What is known of other nodes changed: waiting proposals look again.
    fn poke(&self);
}

/// Where pings go.
pub(crate) trait PingPort: Send + Sync {
    fn on_ping(&self, from: NodeId, ping: Ping) -> Reply;
}

/// Routes messages to the groups of one node. Bodies of another protocol (first byte not [`CONSENSUS_TAG`]) are refused.
pub struct Router {
    node: NodeId,
    groups: RwLock<BTreeMap<GroupId, Arc<dyn Port>>>,
    suspects: RwLock<BTreeSet<NodeId>>,
    /// The suspects changed.
    pub(crate) news: Changes,
    /// Held by every group that elects or wakes by itself, for as long as that takes at best: when a node dies or returns, all groups
    /// have cause at once.
    pub(crate) wakes: Semaphore,
    pub(crate) confirmer: Confirmer,
    pings: RwLock<Option<Arc<dyn PingPort>>>,
    removed: CancellationToken,
}

/// Groups of a node that elect or wake by themselves at a time. An election takes two rounds and two syncs, 10 to 50 ms: 256 groups
/// are through in less than a second, and no more than this many sync at once.
const WAKES_MAX: usize = 16;

/// First byte of every consensus message, its version included. No other protocol's message may start with 0xC0 to 0xCF.
pub const CONSENSUS_TAG: u8 = wire::WIRE_VERSION;

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups: Vec<GroupId> = self.groups.read().keys().copied().collect();
        f.debug_struct("Router")
            .field("node", &self.node)
            .field("groups", &groups)
            .field("suspects", &*self.suspects.read())
            .finish()
    }
}

impl Router {
    pub fn new(node: NodeId) -> Arc<Self> {
        Arc::new(Self {
            node,
            groups: RwLock::default(),
            suspects: RwLock::default(),
            news: Changes::default(),
            wakes: Semaphore::new(WAKES_MAX),
            confirmer: Confirmer::default(),
            pings: RwLock::default(),
            removed: CancellationToken::new(),
        })
    }

    /// Cancelled when a peer says that this node was removed from the fleet.
    pub fn removed(&self) -> CancellationToken {
        self.removed.clone()
    }

    /// Whether the failure detector suspects a node (or declared it failed).
    pub fn is_suspect(&self, node: NodeId) -> bool {
        self.suspects.read().contains(&node)
    }

    pub(crate) fn add(&self, port: Arc<dyn Port>) {
        let earlier = self.groups.write().insert(port.group(), port);
        assert!(earlier.is_none(), "one replica a group and node");
    }

    pub(crate) fn remove(&self, group: GroupId, replica: ReplicaId) {
        let mut groups = self.groups.write();
        if groups.get(&group).is_some_and(|p| p.replica() == replica) {
            groups.remove(&group);
        }
    }

    pub(crate) fn set_pings(&self, port: Option<Arc<dyn PingPort>>) {
        *self.pings.write() = port;
    }

    fn ports(&self) -> Vec<Arc<dyn Port>> {
        self.groups.read().values().cloned().collect()
    }

    /// Marks a node; on suspicion every group that it led sees to a new leader.
    pub(crate) fn set_suspect(&self, node: NodeId, suspect: bool) {
        let changed = match suspect {
            true => self.suspects.write().insert(node),
            false => self.suspects.write().remove(&node),
        };
        if !changed {
            return;
        }
        self.news.bump();
        for port in self.ports() {
            port.poke();
            match suspect {
                true => port.on_lost(node, false),
                false => port.on_found(node),
            }
        }
    }

    pub(crate) async fn until_trusted(&self, node: NodeId) {
        loop {
            let seen = self.news.version();
            if !self.is_suspect(node) {
                return;
            }
            self.news.after(seen).await;
        }
    }

    /// A node's process is another than before: what it led has no leader.
    pub(crate) fn restarted(&self, node: NodeId) {
        for port in self.ports() {
            port.clone().on_lost(node, true);
            port.on_found(node);
        }
    }

    /// Forgets suspects that are no peers any more: nobody is left to clear them.
    pub(crate) fn keep_suspects(&self, peers: &BTreeSet<NodeId>) {
        self.suspects.write().retain(|node| peers.contains(node));
        self.news.bump();
    }

    pub(crate) fn step_aside(&self, avoid: &dyn Fn(NodeId) -> bool) {
        self.ports().into_iter().for_each(|port| port.step_aside(avoid));
    }

    fn confirm(&self, claims: &[Claim]) -> Reply {
        if claims.len() > CLAIMS_MAX {
            return Reply::Refused(Refusal::Invalid(format!("{} claims in one message", claims.len())));
        }
        let groups = self.groups.read();
        let confirms = |claim: &Claim| groups.get(&claim.group).is_some_and(|port| port.confirms(claim));
        Reply::Confirmed(claims.iter().map(confirms).collect())
    }

    fn on_group(&self, from: NodeId, lane: Lane, request: GroupRequest, replier: Replier) {
        let GroupRequest { group, to, body } = request;
        let port = self.groups.read().get(&group).cloned();
        let refusal = match &port {
            None => Some(Refusal::UnknownGroup),
            Some(port) if to.is_some_and(|to| to != port.replica()) => {
                Some(Refusal::WrongReplica(port.replica()))
            }
            Some(_) if to.is_none() && !body.any_can_answer() => {
                Some(Refusal::Invalid("no replica is named".into()))
            }
            Some(_) => None,
        };
        match (port, refusal) {
            (Some(port), None) => port.deliver(from, lane, body, replier),
            (_, refusal) => {
                replier.reply(wire::encode_reply(&Reply::Refused(refusal.unwrap_or(Refusal::UnknownGroup))));
            }
        }
    }
}

impl Handler for Router {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        if body.first().is_some_and(|&tag| tag & 0xF0 != CONSENSUS_TAG & 0xF0) {
            tracing::debug!(%from, ?lane, "a request of an unknown protocol");
            return replier.refuse("this version does not know the request");
        }
        match wire::decode_message(&body) {
            Ok(Message::Group(request)) => self.on_group(from, lane, request, replier),
            Ok(Message::Confirm(claims)) => replier.reply(wire::encode_reply(&self.confirm(&claims))),
            Ok(Message::Ping(ping)) => {
                let port = self.pings.read().clone();
                match port {
                    Some(port) => replier.reply(wire::encode_reply(&port.on_ping(from, ping))),
                    None => replier.refuse("starting"),
                }
            }
            Err(e) => {
                tracing::warn!(%from, ?lane, error = %e, "refused a message that could not be decoded");
                replier.refuse(e.to_string());
            }
        }
    }

    fn on_connection(&self, peer: NodeId, up: bool) {
        tracing::debug!(%peer, up, "connection");
    }

    fn on_removed(&self, by: NodeId) {
        tracing::warn!(node = %self.node, %by, "a peer says that this node was removed from the fleet");
        self.removed.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::types::Vote;

    #[test]
    fn claims_of_unknown_groups_are_not_confirmed_and_too_many_are_refused() {
        let router = Router::new(NodeId(1));
        let vote = (&Vote::new_committed(3, ReplicaId(20))).into();
        let claim = Claim { group: GroupId(5), replica: ReplicaId(10), vote };
        assert_eq!(router.confirm(&[claim, claim]), Reply::Confirmed(vec![false, false]));
        assert!(matches!(router.confirm(&vec![claim; CLAIMS_MAX]), Reply::Confirmed(_)));
        assert!(matches!(router.confirm(&vec![claim; CLAIMS_MAX + 1]), Reply::Refused(Refusal::Invalid(_))));
    }
}
