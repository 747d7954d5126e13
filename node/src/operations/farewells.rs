//! Nodes that said that they stop, and are likely to be back soon: a new version, other settings.
//!
//! A node that dies says nothing, and its copies are replaced after two seconds. One that is told to stop leaves its containers running, and says
//! so; they are left alone for a while. Must never: be the reason why a node counts as alive.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};
use parking_lot::Mutex;

use crate::wire::Kind;

/// How long copies on a node that said so are left alone: a start takes a second or two, and the recovery of a large log some more.
const BACK_WITHIN: Duration = Duration::from_secs(20);
/// How long a node that stops waits until its word has been heard.
const HEARD_WITHIN: Duration = Duration::from_millis(300);

/// One per node.
pub(crate) struct Farewells<R: Runtime>(Mutex<BTreeMap<NodeId, R::Instant>>);

impl<R: Runtime> Farewells<R> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::default()))
    }

    pub(super) fn receive(&self, from: NodeId) {
        tracing::debug!(%from, "a node stops, and says so");
        self.0.lock().insert(from, R::Instant::now() + BACK_WITHIN);
    }

    /// It is back: the next time it may die.
    pub(super) fn forget(&self, node: NodeId) {
        self.0.lock().remove(&node);
    }

    /// Whether a node is likely to be back soon.
    pub(super) fn excuses(&self, node: NodeId) -> bool {
        self.0.lock().get(&node).is_some_and(|until| R::Instant::now() < *until)
    }

    /// Tells the others that this node stops, and waits a moment until they have heard.
    pub(crate) async fn say(transport: &TransportRef, others: Vec<NodeId>) {
        let word = Bytes::from_static(&[Kind::Farewell as u8]);
        let said =
            others.into_iter().map(|node| transport.request(node, Lane::Control, word.clone(), HEARD_WITHIN));
        drop(R::timeout(HEARD_WITHIN, futures_util::future::join_all(said)).await);
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::consensus::runtime::TokioRuntime;
    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_node_that_said_so_is_excused_for_a_while_and_until_it_is_back() {
        let farewells = Farewells::<TokioRuntime>::new();
        let (first, second) = (NodeId(1), NodeId(2));
        farewells.receive(first);
        farewells.receive(second);
        assert!(farewells.excuses(first) && !farewells.excuses(NodeId(3)));
        farewells.forget(second);
        assert!(!farewells.excuses(second), "it is back, and may die now");
        advance(BACK_WITHIN).await;
        assert!(!farewells.excuses(first));
    }
}
