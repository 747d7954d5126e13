//! Asks the histories of nodes, this one included, and puts what they say together with what groups have.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_model::operations::table::{ENDED_KEPT_MS, ENDED_MAX, ENDED_SUBS_MAX, SUBS_MAX};
use longshore_model::operations::{Listing, Operation, OperationId};
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};

use super::calls::{HistoryCall, HistoryReply};
use super::recorder::History;
use super::records::Moment;
use crate::ring::CLOCKS_DIFFER_MS;
use crate::wire;

/// Nodes that are asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// How long a node may take for one answer, and for all that it has for a listing.
const ANSWER_PATIENCE: Duration = Duration::from_secs(3);
const LISTING_PATIENCE: Duration = Duration::from_secs(10);

/// See the module's docs. A handle: cheap to clone.
pub(crate) struct Histories<R: Runtime> {
    me: NodeId,
    history: Arc<History<R>>,
    transport: TransportRef,
}

impl<R: Runtime> Histories<R> {
    pub(crate) fn new(me: NodeId, history: Arc<History<R>>, transport: TransportRef) -> Self {
        Self { me, history, transport }
    }

    /// None if the node does not answer: others have the same records.
    async fn ask(&self, node: NodeId, call: HistoryCall) -> Option<HistoryReply> {
        let reply = if node == self.me {
            Ok(self.history.answer(call).await)
        } else {
            let sent =
                self.transport.request(node, Lane::Control, wire::encode(&call), ANSWER_PATIENCE).await;
            sent.map_err(|error| error.to_string()).and_then(|body| wire::decode_reply(&body))
        };
        match reply {
            Ok(HistoryReply::Unavailable(why)) | Err(why) => {
                tracing::debug!(%node, %why, "a node does not say what it has in its history");
                None
            }
            Ok(reply) => Some(reply),
        }
    }

    /// What these nodes have of a listing, newest first.
    pub(crate) async fn list(&self, nodes: Vec<NodeId>, listing: &Listing) -> Vec<Operation> {
        let each = nodes.into_iter().map(|node| self.of_node(node, listing));
        let mut each = futures_util::stream::iter(each).buffered(ASKED_AT_ONCE);
        let mut newest: BTreeMap<Moment, Operation> = BTreeMap::new();
        while let Some(operations) = each.next().await {
            newest.extend(operations.into_iter().map(|operation| (Moment::of(&operation), operation)));
            while newest.len() > listing.limit as usize {
                newest.pop_first();
            }
        }
        newest.into_values().rev().collect()
    }

    async fn of_node(&self, node: NodeId, listing: &Listing) -> Vec<Operation> {
        let mut all: Vec<Operation> = Vec::new();
        let asked = async {
            let (mut before, limit) = (None, listing.limit as usize);
            while all.len() < limit {
                let listing = Listing { limit: (limit - all.len()) as u32, ..listing.clone() };
                let Some(HistoryReply::Page(page)) =
                    self.ask(node, HistoryCall::Page { listing, before }).await
                else {
                    return;
                };
                all.extend(page.operations);
                // Pages go back in time, or somebody would be asked for ever.
                match page.next {
                    Some(next) if before.is_none_or(|before| next < before) => before = Some(next),
                    _ => return,
                }
            }
        };
        if R::timeout(LISTING_PATIENCE, asked).await.is_err() {
            tracing::debug!(%node, "a node takes too long for its history; what it said so far counts");
        }
        all
    }

    /// An operation that its group has forgotten, from any of these nodes.
    pub(crate) async fn find(&self, nodes: Vec<NodeId>, id: OperationId) -> Option<Operation> {
        if let Some(HistoryReply::Found(Some(found))) = self.ask(self.me, HistoryCall::Find(id)).await {
            return Some(*found);
        }
        let others = nodes.into_iter().filter(|node| *node != self.me);
        let each = others.map(|node| self.ask(node, HistoryCall::Find(id)));
        let mut each = futures_util::stream::iter(each).buffer_unordered(ASKED_AT_ONCE);
        while let Some(reply) = each.next().await {
            if let Some(HistoryReply::Found(Some(found))) = reply {
                return (found.id == id).then_some(*found);
            }
        }
        None
    }
}

/// Whether a listing asks for more than groups can have, given what they `listed` for it: for what ended more than a day ago, or for what may have been
/// dropped as one of too many.
pub(crate) fn reaches_beyond(listing: &Listing, listed: &[Operation], now_unix_ms: u64) -> bool {
    if listing.active || listed.len() >= listing.limit as usize {
        return false;
    }
    let kept_since_ms = now_unix_ms.saturating_sub(ENDED_KEPT_MS) + CLOCKS_DIFFER_MS;
    let is_filtered = listing.session.is_some() || listing.kind.is_some() || listing.state.is_some();
    // A group that has dropped any holds about so many; with a filter, that does not show.
    let sizes: usize = listed.iter().map(Operation::size).sum();
    let many = listed.len() >= ENDED_MAX || sizes >= ENDED_SUBS_MAX - 2 * SUBS_MAX;
    listing.since_unix_ms < kept_since_ms || is_filtered || many
}

/// What groups and histories have, newest first, each operation once: as its group has it.
pub(crate) fn merged(groups: Vec<Operation>, histories: Vec<Operation>, limit: u32) -> Vec<Operation> {
    let by_moment = |operation: Operation| (Moment::of(&operation), operation);
    let mut all: BTreeMap<Moment, Operation> = histories.into_iter().map(by_moment).collect();
    all.extend(groups.into_iter().map(by_moment));
    all.into_values().rev().take(limit as usize).collect()
}
