//! Tells the other nodes how this one is, at a bounded rate: straight to each, past any log.

use std::collections::{BTreeMap, BTreeSet};
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

/// Nodes that were there when something was said, each as it was known then: one that was started anew has forgotten all that it was told.
#[derive(Debug, Default)]
struct Told(BTreeMap<NodeId, Option<u64>>);

impl Told {
    /// Whether somebody is there that was not told.
    fn lacks(&self, others: &BTreeMap<NodeId, Option<u64>>) -> bool {
        others.iter().any(|(node, start)| self.0.get(node) != Some(start))
    }
}

/// See the module's docs. One per node.
pub(crate) struct Sharer<R: Runtime> {
    core: Arc<Core<R>>,
    transport: TransportRef,
    stop: CancellationToken,
    said: Option<(Report, R::Instant)>,
    told: Told,
    number: u64,
}

impl<R: Runtime> Sharer<R> {
    pub(crate) fn new(core: Arc<Core<R>>, transport: TransportRef, stop: CancellationToken) -> Self {
        Self { core, transport, stop, said: None, told: Told::default(), number: 0 }
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
        let wait = pace::wait(said, &report, self.told.lacks(&others));
        if !wait.is_zero() {
            return wait;
        }
        others.keys().for_each(|node| self.tell(*node, &report));
        self.number += 1;
        (self.said, self.told) = (Some((report, now)), Told(others));
        MOST
    }

    /// Members that are not known to be dead, each with the start of it that told last.
    fn others(&self) -> BTreeMap<NodeId, Option<u64>> {
        let core = &self.core;
        let members: BTreeSet<NodeId> =
            core.group.with_state(|state| state.membership.members().map(|node| node.id).collect());
        core.loads.retain(|node| members.contains(&node));
        let others = members.into_iter().filter(|node| *node != core.me && core.is_alive(*node));
        others.map(|node| (node, core.loads.start_of(node))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_started_anew_was_not_told() {
        let others =
            |of: &[(u64, Option<u64>)]| of.iter().map(|(node, start)| (NodeId(*node), *start)).collect();
        let told = Told(others(&[(2, Some(1)), (3, None)]));
        for (now, lacks) in [
            (&[(2, Some(1)), (3, None)][..], false),
            (&[(2, Some(1))], false),
            (&[(2, Some(2)), (3, None)], true),
            (&[(2, Some(1)), (3, Some(7))], true),
            (&[(2, Some(1)), (4, None)], true),
        ] {
            assert_eq!(told.lacks(&others(now)), lacks, "{now:?}");
        }
    }
}
