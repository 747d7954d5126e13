//! Takes what comes in from other nodes to whom it concerns: offers of work to the executor, calls to the engine's desk, questions to
//! the history, questions about build contexts, word of copies to the caretaker, of other nodes' loads to where they are kept, all else to
//! consensus.

use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::consensus::router::Router;
use longshore_raft::transport::{Handler, Lane, Replier};
use longshore_raft::{NodeId, Runtime};

use super::farewells::Farewells;
use super::offers::Offers;
use crate::builds::Contexts;
use crate::engines::{Care, Desk};
use crate::history::History;
use crate::load::Loads;
use crate::wire::Kind;

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
        let taken = match Kind::of(&body) {
            Some(Kind::Offers) => self.offers.receive(&body),
            Some(Kind::Recall) => self.offers.receive_recall(&body),
            Some(Kind::Farewell) => {
                self.farewells.receive(from);
                Ok(())
            }
            Some(Kind::Care) => self.care.receive(&body),
            Some(Kind::Load) => match self.loads.receive(from, &body) {
                Ok(reply) => return replier.reply(reply),
                Err(error) => Err(error),
            },
            Some(Kind::Engine) => return self.desk.receive(&body, replier),
            Some(Kind::Build) => return self.contexts.receive(&body, replier),
            Some(Kind::History) => return self.history.receive(&body, replier),
            None => return self.router.on_request(from, lane, body, replier),
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
