//! The transport in memory against the conformance suite: the rules for messages.

use std::net::SocketAddr;
use std::sync::Arc;

use super::conformance::{self, Network};
use super::memory::MemoryNetwork;
use super::{Handler, TransportRef};
use crate::consensus::runtime::TokioRuntime;
use crate::model::ids::NodeId;

impl Network for MemoryNetwork<TokioRuntime> {
    fn start(&self, node: NodeId, handler: Arc<dyn Handler>) -> TransportRef {
        self.attach(node, handler);
        self.transport(node)
    }

    fn dead_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 1))
    }
}

macro_rules! case {
    ($($rule:ident)*) => { $(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $rule() {
            conformance::$rule(&MemoryNetwork::<TokioRuntime>::new(7)).await;
        }
    )* };
}

crate::transport_rules!(messages, case);
