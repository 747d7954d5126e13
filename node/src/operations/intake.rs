//! Takes what comes in from other nodes to whom it concerns: offers of work to the executor, all else to consensus.

use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::consensus::router::Router;
use longshore_raft::transport::{Handler, Lane, Replier};
use longshore_raft::{NodeId, Runtime};

use super::offers::Offers;

/// See the module's docs. One per node.
pub(crate) struct Intake<R: Runtime> {
    router: Arc<Router>,
    offers: Arc<Offers<R>>,
}

impl<R: Runtime> Intake<R> {
    pub(crate) fn new(router: Arc<Router>, offers: Arc<Offers<R>>) -> Arc<Self> {
        Arc::new(Self { router, offers })
    }
}

impl<R: Runtime> Handler for Intake<R> {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        if !body.first().is_some_and(|tag| Offers::<R>::is_message(*tag)) {
            return self.router.on_request(from, lane, body, replier);
        }
        match self.offers.receive(&body) {
            Ok(()) => replier.reply(Bytes::new()),
            Err(error) => {
                tracing::warn!(%from, %error, "refused a message of offers");
                replier.refuse(error);
            }
        }
    }

    fn on_connection(&self, peer: NodeId, up: bool) {
        self.router.on_connection(peer, up);
    }

    fn on_removed(&self, by: NodeId) {
        self.router.on_removed(by);
    }
}
