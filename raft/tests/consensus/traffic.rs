//! What arrives at the nodes of a test: counted, and refused where the test says so.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use longshore_raft::NodeId;
use longshore_raft::consensus::inspect_wire::{MessageKind, kind_of};
use longshore_raft::consensus::router::Router;
use longshore_raft::transport::{Handler, Lane, Replier};

/// Counts what arrives of every kind, and hands it on.
pub(crate) struct Counter {
    node: NodeId,
    router: Arc<Router>,
    traffic: Traffic,
}

/// Requests that arrived anywhere, by what they ask for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Traffic {
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
    refused: Arc<Mutex<Option<(NodeId, &'static str)>>>,
}

impl Traffic {
    /// All but the failure detector's.
    pub(crate) fn of_groups(&self) -> u64 {
        self.counts.lock().unwrap().values().sum()
    }
    /// Those whose name begins so.
    pub(crate) fn count(&self, kind: &str) -> u64 {
        let traffic = self.counts.lock().unwrap();
        traffic.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, n)| n).sum()
    }
    pub(crate) fn forget(&self) {
        self.counts.lock().unwrap().clear();
    }
    /// What begins so is refused on this node from now on.
    pub(crate) fn refuse(&self, what: Option<(NodeId, &'static str)>) {
        *self.refused.lock().unwrap() = what;
    }
    pub(crate) fn handler(&self, node: NodeId, router: Arc<Router>) -> Arc<Counter> {
        Arc::new(Counter { node, router, traffic: self.clone() })
    }
}

impl Handler for Counter {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        let kind = kind_of(&body);
        let refused = *self.traffic.refused.lock().unwrap();
        if refused.is_some_and(|(node, what)| node == self.node && kind.to_string().starts_with(what)) {
            return replier.refuse("refused by the test");
        }
        if kind != MessageKind::Ping {
            *self.traffic.counts.lock().unwrap().entry(kind.to_string()).or_default() += 1;
        }
        self.router.on_request(from, lane, body, replier);
    }
    fn on_removed(&self, by: NodeId) {
        self.router.on_removed(by);
    }
}
