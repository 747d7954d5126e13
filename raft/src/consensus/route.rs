//! The way to a group's leader from a node that does not lead it: whom to ask, and what the answers taught.
//!
//! Must never: retry (whoever asks does), or send to a node that is suspected.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::link::{self, LinkError};
use super::machine::Member;
use super::queue::{Item, Outcome, answer, unzip};
use super::router::Router;
use super::wire::{GroupBody, GroupRequest, Message, Reply};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::{BoxFuture, Lane, TransportRef};

/// How long a forwarded message may take. A dead leader is found sooner, by the failure detector.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);

/// Where to send a request: a node, and the replica on it if it is known.
pub(crate) type Target = (NodeId, Option<ReplicaId>);

pub(crate) struct Route {
    pub(crate) node: NodeId,
    pub(crate) group: GroupId,
    pub(crate) transport: TransportRef,
    pub(crate) router: Arc<Router>,
    guide: Mutex<Guide>,
}

#[derive(Default)]
struct Guide {
    /// Whom another replica named as the leader; for one attempt.
    named: Option<Member>,
    /// Who did what was asked, last time.
    served: Option<Target>,
    /// Nodes that may have a replica, for those who know no members.
    hints: Vec<NodeId>,
    /// Counts attempts without a known leader, so that they go round.
    turn: usize,
}

impl Route {
    pub(crate) fn new(
        node: NodeId,
        group: GroupId,
        transport: TransportRef,
        router: Arc<Router>,
        hints: Vec<NodeId>,
    ) -> Arc<Self> {
        let guide = Mutex::new(Guide { hints, ..Guide::default() });
        Arc::new(Self { node, group, transport, router, guide })
    }

    pub(crate) fn set_hints(&self, hints: Vec<NodeId>) {
        self.guide.lock().hints = hints;
    }

    /// To the `leader` as far as the caller knows it, to whom another named, to whoever served last, or round all who may know.
    pub(crate) fn target(
        &self,
        leader: Option<Member>,
        members: impl IntoIterator<Item = NodeId>,
    ) -> Option<Target> {
        let usable = |node: NodeId| node != self.node && !self.router.is_suspect(node);
        if let Some(leader) = leader.filter(|m| usable(m.node)) {
            return Some((leader.node, Some(leader.replica)));
        }
        let mut guide = self.guide.lock();
        if let Some(leader) = guide.named.take().filter(|m| usable(m.node)) {
            return Some((leader.node, Some(leader.replica)));
        }
        if let Some(served) = guide.served.filter(|(node, _)| usable(*node)) {
            return Some(served);
        }
        let mut nodes: Vec<NodeId> = members.into_iter().chain(guide.hints.iter().copied()).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.retain(|&node| usable(node));
        guide.turn = guide.turn.wrapping_add(1);
        nodes.get(guide.turn % nodes.len().max(1)).map(|&node| (node, None))
    }

    /// `target` did what was asked.
    pub(crate) fn served(&self, target: Target) {
        self.guide.lock().served = Some(target);
    }

    /// `target` did not, and perhaps named another as the leader.
    pub(crate) fn declined(&self, target: Target, leader: Option<Member>) {
        let mut guide = self.guide.lock();
        if guide.served.is_some_and(|(node, _)| node == target.0) {
            guide.served = None;
        }
        // Whoever names itself and yet declines is about to hand over.
        if let Some(leader) = leader.filter(|leader| leader.node != target.0) {
            guide.named = Some(leader);
        }
    }

    pub(crate) fn ask(
        &self,
        (node, to): Target,
        lane: Lane,
        body: GroupBody,
        timeout: Duration,
    ) -> BoxFuture<Result<Reply, LinkError>> {
        let message = Message::Group(GroupRequest { group: self.group, to, body });
        link::ask(&self.transport, node, lane, &message, timeout)
    }

    /// Sends items on in one message; the future answers them.
    pub(crate) fn forward(self: &Arc<Self>, target: Target, items: Vec<Item>) -> BoxFuture<()> {
        let (ops, waiters) = unzip(items);
        let reply = self.ask(target, Lane::Control, GroupBody::Propose(ops), FORWARD_TIMEOUT);
        let route = self.clone();
        Box::pin(async move {
            let outcome = Outcome::from(reply.await);
            match &outcome {
                Outcome::Applied(_) => route.served(target),
                Outcome::NotLeader(leader) => route.declined(target, *leader),
                Outcome::NoQuorum(_) | Outcome::Busy | Outcome::Unknown(_) => route.declined(target, None),
            }
            answer(waiters, outcome);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::runtime::TokioRuntime;
    use super::*;
    use crate::transport::memory::MemoryNetwork;

    #[test]
    fn whoever_is_known_to_lead_is_asked_first_and_without_knowledge_all_in_turn() {
        let network = MemoryNetwork::<TokioRuntime>::new(1);
        let router = Router::new(NodeId(1));
        let hints = vec![NodeId(3), NodeId(1), NodeId(2)];
        let route = Route::new(NodeId(1), GroupId(1), network.transport(NodeId(1)), router.clone(), hints);
        let on = |node: u64| Member { replica: ReplicaId(node * 10), node: NodeId(node) };
        let mut round: Vec<_> = (0..2).filter_map(|_| route.target(None, [NodeId(4)])).collect();
        round.extend(route.target(None, [NodeId(4)]));
        round.sort_unstable();
        assert_eq!(round, [(NodeId(2), None), (NodeId(3), None), (NodeId(4), None)]);

        let at_2 = (NodeId(2), None);
        route.served(at_2);
        assert_eq!(route.target(None, []), Some(at_2), "it stays where it was served");
        assert_eq!(route.target(Some(on(4)), []), Some((NodeId(4), Some(ReplicaId(40)))));
        route.declined(at_2, Some(on(3)));
        assert_eq!(route.target(None, []), Some((NodeId(3), Some(ReplicaId(30)))), "named");
        route.declined((NodeId(3), None), Some(on(3)));
        router.set_suspect(NodeId(2), true);
        assert_eq!(route.target(Some(on(2)), []), Some((NodeId(3), None)), "a suspect is not asked");
        router.set_suspect(NodeId(3), true);
        assert_eq!(route.target(None, []), None);
    }
}
