//! Takes what comes in from other nodes to whom it concerns: offers of work to the executor, calls to the engine's desk, questions to
//! the history, questions about build contexts, word of copies to the caretaker, of other nodes' loads to where they are kept, all else to
//! consensus.

use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::consensus::router::Router;
use longshore_raft::transport::{Handler, Lane, Replier};
use longshore_raft::{NodeId, Runtime};

use super::farewells::{FAREWELL_TAG, Farewells};
use super::offers::Offers;
use crate::builds::{BUILD_TAG, Contexts};
use crate::engines::{CALL_TAG, CARE_TAG, Care, Desk};
use crate::history::{HISTORY_TAG, History};
use crate::load::{LOAD_TAG, Loads};

/// See the module's docs. One per node.
pub(crate) struct Intake<R: Runtime> {
    pub(crate) router: Arc<Router>,
    pub(crate) offers: Arc<Offers<R>>,
    pub(crate) farewells: Arc<Farewells<R>>,
    pub(crate) care: Arc<Care>,
    pub(crate) desk: Arc<Desk<R>>,
    pub(crate) history: Arc<History<R>>,
    pub(crate) contexts: Arc<Contexts<R>>,
    pub(crate) loads: Arc<Loads<R>>,
}

impl<R: Runtime> Handler for Intake<R> {
    fn on_request(&self, from: NodeId, lane: Lane, body: Bytes, replier: Replier) {
        let taken = match body.first() {
            Some(tag) if Offers::<R>::is_message(*tag) => self.offers.receive(&body),
            Some(&FAREWELL_TAG) => {
                self.farewells.receive(from);
                Ok(())
            }
            Some(&CARE_TAG) => self.care.receive(&body),
            Some(&CALL_TAG) => return self.desk.receive(&body, replier),
            Some(&BUILD_TAG) => return self.contexts.receive(&body, replier),
            Some(&LOAD_TAG) => match self.loads.receive(from, &body) {
                Ok(reply) => return replier.reply(reply),
                Err(error) => Err(error),
            },
            Some(&HISTORY_TAG) => return self.history.receive(&body, replier),
            _ => return self.router.on_request(from, lane, body, replier),
        };
        match taken {
            Ok(()) => replier.reply(Bytes::new()),
            Err(error) => {
                tracing::warn!(%from, %error, "refused a message about work");
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
