//! Asks peers whether they still stand by leaders of this node: one message to a peer for all groups that have a read waiting.
//!
//! While rounds to a peer are under way, what comes in makes the next round larger, so that a busy node asks each peer a few thousand
//! times a second however many reads it serves. Must never: answer for a peer, or answer a question in a round that began before it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::link;
use super::router::Router;
use super::runtime::Runtime;
use super::wire::{Claim, Message, Reply};
use crate::model::ids::NodeId;
use crate::transport::{Lane, TransportRef};

/// Rounds to one peer under way at a time: with two, nobody waits for much more than a round trip.
const ROUNDS_MAX: usize = 2;
/// Claims of one message; about 16 bytes each.
pub(crate) const CLAIMS_MAX: usize = 1024;
/// Claims that wait for the next round to one peer; beyond it they count as not confirmed.
const WAITING_MAX: usize = 8 * CLAIMS_MAX;
/// A peer that takes longer has not confirmed, and the leader asks by heartbeats, which go to all: so a peer that hangs delays reads by this
/// much until it is suspected, and so does a way that is longer.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(100);

/// What waits to be asked. One a node.
#[derive(Debug, Default)]
pub(crate) struct Confirmer(Mutex<BTreeMap<NodeId, Line>>);

#[derive(Debug, Default)]
struct Line {
    waiting: Vec<(Claim, oneshot::Sender<bool>)>,
    rounds: usize,
}

impl Confirmer {
    /// Asks `node` about a claim. No answer (the sender is dropped) is as good as no.
    pub(crate) fn ask<R: Runtime>(
        router: &Arc<Router>,
        transport: &TransportRef,
        node: NodeId,
        claim: Claim,
    ) -> oneshot::Receiver<bool> {
        let (answer, answered) = oneshot::channel();
        let mut lines = router.confirmer.0.lock();
        let line = lines.entry(node).or_default();
        if line.waiting.len() < WAITING_MAX {
            line.waiting.push((claim, answer));
        }
        if line.rounds < ROUNDS_MAX {
            line.rounds += 1;
            drop(lines);
            let _rounds = R::spawn(run(router.clone(), transport.clone(), node));
        }
        answered
    }

    /// What the next round asks; `None` ends the rounds of whoever asks.
    fn next(&self, node: NodeId) -> Option<Vec<(Claim, oneshot::Sender<bool>)>> {
        let mut lines = self.0.lock();
        let line = lines.get_mut(&node)?;
        if !line.waiting.is_empty() {
            let count = line.waiting.len().min(CLAIMS_MAX);
            return Some(line.waiting.drain(..count).collect());
        }
        line.rounds -= 1;
        if line.rounds == 0 {
            lines.remove(&node);
        }
        None
    }
}

async fn run(router: Arc<Router>, transport: TransportRef, node: NodeId) {
    while let Some(asked) = router.confirmer.next(node) {
        let (claims, waiters): (Vec<Claim>, Vec<_>) = asked.into_iter().unzip();
        let message = Message::Confirm(claims);
        let reply = link::ask(&transport, node, Lane::Control, &message, CONFIRM_TIMEOUT).await;
        if let Ok(Reply::Confirmed(answers)) = reply
            && answers.len() == waiters.len()
        {
            // Whoever stopped waiting does not care.
            waiters.into_iter().zip(answers).for_each(|(waiter, yes)| _ = waiter.send(yes));
        }
    }
}
