//! Tells the other nodes how this one is, at a bounded rate: straight to each, past any log.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};
use tokio_util::sync::CancellationToken;

use super::messages::{Message, Stamp, WANTS_IMAGES};
use super::pace::{self, MOST, Report};
use crate::core::Core;
use crate::wire;

/// Nobody waits for the reply; the next report comes anyway.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module's docs. One per node.
pub(crate) struct Sharer<R: Runtime> {
    core: Arc<Core<R>>,
    transport: TransportRef,
    stop: CancellationToken,
    said: Option<(Report, R::Instant)>,
    /// Nodes that were there then.
    told: BTreeSet<NodeId>,
    number: u64,
}

impl<R: Runtime> Sharer<R> {
    pub(crate) fn new(core: Arc<Core<R>>, transport: TransportRef, stop: CancellationToken) -> Self {
        Self { core, transport, stop, said: None, told: BTreeSet::new(), number: 0 }
    }

    pub(crate) async fn run(mut self) {
        let mut wait = MOST;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.core.loads.stirred() => {}
                () = R::sleep(wait) => {}
            }
            wait = self.look();
        }
    }

    /// Says what is due; how long to wait if nothing stirs.
    fn look(&mut self) -> Duration {
        let Some(report) = self.core.loads.own_report() else { return MOST };
        let (others, now) = (self.others(), R::Instant::now());
        let said = self.said.as_ref().map(|(report, at)| (report, now - *at));
        let wait = pace::wait(said, &report, !others.is_subset(&self.told));
        if !wait.is_zero() {
            return wait;
        }
        others.iter().for_each(|node| self.tell(*node, &report));
        self.number += 1;
        (self.said, self.told) = (Some((report, now)), others);
        MOST
    }

    /// Members that are not known to be dead.
    fn others(&self) -> BTreeSet<NodeId> {
        let core = &self.core;
        let members: BTreeSet<NodeId> =
            core.group.with_state(|state| state.membership.members().map(|node| node.id).collect());
        core.loads.retain(|node| members.contains(&node));
        members.into_iter().filter(|node| *node != core.me && core.is_alive(*node)).collect()
    }

    fn tell(&self, node: NodeId, report: &Report) {
        let stamp = Stamp { incarnation: self.core.incarnation, number: self.number };
        let message = Message::Load { stamp, load: report.load, images: report.images };
        let sent = self.transport.request(node, Lane::Control, wire::encode(&message), SEND_TIMEOUT);
        let (core, transport) = (Arc::clone(&self.core), Arc::clone(&self.transport));
        drop(R::spawn(async move {
            let told = async {
                if sent.await?[..] == [WANTS_IMAGES] {
                    let names = core.loads.own_images().to_vec();
                    let images = wire::encode(&Message::Images { stamp, names });
                    transport.request(node, Lane::Control, images, SEND_TIMEOUT).await?;
                }
                Ok::<(), longshore_raft::transport::TransportError>(())
            };
            if let Err(error) = told.await {
                tracing::trace!(%node, %error, "a node could not be told of the load here; it is told again");
            }
        }));
    }
}
