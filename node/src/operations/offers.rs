//! How a node hears of its work: whoever leads the group of an operation offers each node its part, again and again until it is done.
//!
//! An offer grants nothing; the claim does, in the group's log. So an offer that is lost, late, repeated or wrong costs a message.
//! Must never: be the only word of an offer (a node that restarts has forgotten it), or grow without a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::operations::SubKey;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::{Lane, TransportRef};
use longshore_raft::{NodeId, Runtime};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::wire::{self, Kind, Message};

/// Most offers to one node in one message; more follow when these are taken.
pub(crate) const OFFERED_MAX: usize = 64;
/// Most offers that a node keeps in mind.
const KEPT_MAX: usize = 4_096;
/// How long an offer is kept in mind that is not made again.
const KEPT: Duration = Duration::from_secs(15);
/// Pause after a claim that nobody answered; doubled with each in a row, so often at most.
const UNANSWERED_PAUSE: Duration = Duration::from_secs(1);
const UNANSWERED_DOUBLINGS_MAX: u32 = 4;
/// Nobody waits for the reply, but what cannot be delivered should not pile up.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// A sub-operation for the node that it is sent to.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Offer {
    pub(crate) sub: SubKey,
    /// It may not begin earlier than so long from now.
    pub(crate) wait_ms: u64,
}

/// A message of offers.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
struct Offered(Vec<Offer>);

impl Message for Offered {
    const KIND: Kind = Kind::Offers;

    fn check(&self) -> Result<(), String> {
        wire::at_most(self.0.len(), OFFERED_MAX, "offers")
    }
}

/// A message that recalls work.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
struct Recalled(Vec<SubKey>);

impl Message for Recalled {
    const KIND: Kind = Kind::Recall;

    fn check(&self) -> Result<(), String> {
        wire::at_most(self.0.len(), OFFERED_MAX, "recalls")
    }
}

#[derive(Debug)]
struct Kept<R: Runtime> {
    /// Not to be begun before.
    due: R::Instant,
    heard: R::Instant,
    /// In which order they came, or were put behind the others.
    number: u64,
    /// Claims in a row that nobody answered.
    unanswered: u32,
}

#[derive(Debug)]
struct Board<R: Runtime> {
    kept: BTreeMap<SubKey, Kept<R>>,
    /// What somebody says is not wanted any more.
    recalled: BTreeSet<SubKey>,
    next: u64,
}

/// What this node was offered, and the way to offer to others. One per node.
pub(crate) struct Offers<R: Runtime> {
    me: NodeId,
    board: Mutex<Board<R>>,
    changed: Notify,
}

/// What may be begun, oldest first, and when the next one may.
pub(crate) struct Due<R: Runtime> {
    pub(crate) now: Vec<SubKey>,
    pub(crate) next: Option<R::Instant>,
}

impl<R: Runtime> Offers<R> {
    pub(crate) fn new(me: NodeId) -> Arc<Self> {
        let board = Mutex::new(Board { kept: BTreeMap::new(), recalled: BTreeSet::new(), next: 0 });
        Arc::new(Self { me, board, changed: Notify::new() })
    }

    /// Offers a node its work, this node too. Returns at once; what cannot be delivered is offered again.
    pub(crate) fn send(&self, transport: &TransportRef, to: NodeId, offers: Vec<Offer>) {
        match to == self.me {
            true => self.take(offers),
            false => self.post(transport, to, wire::encode(&Offered(offers))),
        }
    }

    /// Tells a node that some of its work is not wanted any more: it asks the log at once, not only when its lease wants renewal. At most
    /// [`OFFERED_MAX`] are told; whoever is not told hears it with its next report.
    pub(crate) fn recall(&self, transport: &TransportRef, from: NodeId, mut subs: Vec<SubKey>) {
        subs.truncate(OFFERED_MAX);
        match from == self.me {
            true => self.take_back(subs),
            false => self.post(transport, from, wire::encode(&Recalled(subs))),
        }
    }

    fn post(&self, transport: &TransportRef, to: NodeId, message: Bytes) {
        let sent = transport.request(to, Lane::Control, message, SEND_TIMEOUT);
        drop(R::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%to, %error, "word of work could not be delivered; it comes again");
            }
        }));
    }

    /// Takes a message of offers from another node, its first byte included.
    pub(crate) fn receive(&self, message: &[u8]) -> Result<(), String> {
        wire::decode(message).map(|Offered(offers)| self.take(offers))
    }

    /// Takes a message that recalls work.
    pub(crate) fn receive_recall(&self, message: &[u8]) -> Result<(), String> {
        wire::decode(message).map(|Recalled(subs)| self.take_back(subs))
    }

    fn take_back(&self, subs: Vec<SubKey>) {
        let mut board = self.board.lock();
        let room = KEPT_MAX.saturating_sub(board.recalled.len());
        board.recalled.extend(subs.into_iter().take(room));
        drop(board);
        self.changed.notify_one();
    }

    /// What was recalled since the last call. Whether it is true, the log knows.
    pub(crate) fn recalled(&self) -> BTreeSet<SubKey> {
        std::mem::take(&mut self.board.lock().recalled)
    }

    fn take(&self, offers: Vec<Offer>) {
        let now = R::Instant::now();
        let mut board = self.board.lock();
        board.kept.retain(|_, kept| now < kept.heard + KEPT);
        for Offer { sub, wait_ms } in offers {
            if let Some(known) = board.kept.get_mut(&sub) {
                // What the log said about when stands.
                known.heard = now;
            } else if board.kept.len() < KEPT_MAX {
                let (due, number) = (now + Duration::from_millis(wait_ms), board.next);
                board.next += 1;
                board.kept.insert(sub, Kept { due, heard: now, number, unanswered: 0 });
            }
        }
        drop(board);
        self.changed.notify_one();
    }

    /// Resolves when there are other offers than before. For one who waits.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What `is_busy` does not hold already.
    pub(crate) fn due(&self, is_busy: impl Fn(&SubKey) -> bool) -> Due<R> {
        let now = R::Instant::now();
        let board = self.board.lock();
        let free = board.kept.iter().filter(|(sub, kept)| now < kept.heard + KEPT && !is_busy(sub));
        let (ready, later): (Vec<_>, Vec<_>) = free.partition(|(_, kept)| kept.due <= now);
        let mut ready: Vec<_> = ready.into_iter().map(|(sub, kept)| (kept.number, *sub)).collect();
        ready.sort_unstable();
        Due {
            now: ready.into_iter().map(|(_, sub)| sub).collect(),
            next: later.into_iter().map(|(_, kept)| kept.due).min(),
        }
    }

    /// The log said that it may not begin before so long from now.
    pub(crate) fn put_off(&self, sub: SubKey, wait: Duration) {
        if let Some(kept) = self.board.lock().kept.get_mut(&sub) {
            kept.due = R::Instant::now() + wait;
            kept.unanswered = 0;
        }
    }

    /// Nobody answered the claim: again after 1, 2, 4, 8, 16 s, and behind all others, so that a group without a quorum does not hold up work
    /// of those that have one.
    pub(crate) fn back_off(&self, sub: SubKey) {
        let mut board = self.board.lock();
        let number = board.next;
        board.next += 1;
        if let Some(kept) = board.kept.get_mut(&sub) {
            kept.due =
                R::Instant::now() + UNANSWERED_PAUSE * (1 << kept.unanswered.min(UNANSWERED_DOUBLINGS_MAX));
            kept.number = number;
            kept.unanswered += 1;
        }
    }

    /// There is nothing left to do, as far as this node knows.
    pub(crate) fn forget(&self, sub: SubKey) {
        self.board.lock().kept.remove(&sub);
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::operations::OperationId;
    use longshore_model::partition::PartitionId;
    use longshore_raft::consensus::runtime::TokioRuntime;
    use tokio::time::advance;

    use super::*;

    type Tested = Offers<TokioRuntime>;

    fn offer(index: u64, wait_ms: u64) -> Offer {
        let operation = OperationId { index, position: 0, partition: PartitionId(1) };
        Offer { sub: SubKey { operation, index: 0 }, wait_ms }
    }

    fn due(offers: &Tested) -> Vec<u64> {
        offers.due(|_| false).now.iter().map(|sub| sub.operation.index).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn offers_are_due_in_the_order_they_came_when_their_time_has_come() {
        let offers = Tested::new(NodeId(1));
        offers.receive(&wire::encode(&Offered(vec![offer(5, 0), offer(3, 0), offer(4, 1_000)]))).unwrap();
        offers.changed().await;
        assert_eq!(due(&offers), [5, 3]);
        assert!(offers.due(|_| false).next.is_some());
        advance(Duration::from_millis(1_000)).await;
        assert_eq!(due(&offers), [5, 3, 4]);
        offers.put_off(offer(5, 0).sub, Duration::from_secs(3));
        offers.receive(&wire::encode(&Offered(vec![offer(5, 0)]))).unwrap();
        assert_eq!(due(&offers), [3, 4], "an offer made again does not overrule the log");
        offers.forget(offer(3, 0).sub);
        assert_eq!(offers.due(|sub| sub.operation.index == 4).now, []);
        advance(Duration::from_secs(3)).await;
        assert_eq!(due(&offers), [5, 4]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_not_answered_goes_behind_the_others() {
        let offers = Tested::new(NodeId(1));
        offers.take(vec![offer(1, 0), offer(2, 0)]);
        assert_eq!(due(&offers), [1, 2]);
        for pause_s in [1, 2, 4, 8, 16, 16] {
            offers.back_off(offer(1, 0).sub);
            for ms in [pause_s * 500, pause_s * 500 - 1] {
                advance(Duration::from_millis(ms)).await;
                offers.take(vec![offer(1, 0), offer(2, 0)]);
            }
            assert_eq!(due(&offers), [2], "{pause_s} s");
            advance(Duration::from_millis(1)).await;
            assert_eq!(due(&offers), [2, 1], "{pause_s} s");
        }
        offers.put_off(offer(1, 0).sub, Duration::ZERO);
        offers.back_off(offer(1, 0).sub);
        advance(Duration::from_secs(1)).await;
        assert_eq!(due(&offers), [2, 1], "an answer counts");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_offered_again_is_forgotten_and_there_is_a_limit() {
        let offers = Tested::new(NodeId(1));
        offers.take((0..5_000).map(|index| offer(index, 0)).collect());
        assert_eq!(due(&offers).len(), KEPT_MAX);
        advance(KEPT / 2).await;
        offers.take(vec![offer(0, 0)]);
        advance(KEPT / 2).await;
        assert_eq!(due(&offers), [0]);
        offers.take(vec![offer(4_999, 0)]);
        assert_eq!(due(&offers), [0, 4_999]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recall_is_told_once() {
        let offers = Tested::new(NodeId(1));
        let sub = offer(1, 0).sub;
        offers.receive_recall(&wire::encode(&Recalled(vec![sub, sub]))).unwrap();
        offers.changed().await;
        assert_eq!(offers.recalled(), BTreeSet::from([sub]));
        assert!(offers.recalled().is_empty());
    }

    #[test]
    fn messages_are_read_as_they_are_written_and_list_so_much_at_most() {
        wire::tests::survives(&Offered(vec![offer(1, 7); OFFERED_MAX]));
        wire::tests::survives(&Recalled(vec![offer(1, 7).sub; OFFERED_MAX]));
        let offers = Tested::new(NodeId(1));
        let many = wire::encode(&Offered(vec![offer(1, 0); OFFERED_MAX + 1]));
        assert!(offers.receive(&many).unwrap_err().contains("65 offers"));
        let many = wire::encode(&Recalled(vec![offer(1, 0).sub; OFFERED_MAX + 1]));
        assert!(offers.receive_recall(&many).unwrap_err().contains("65 recalls"));
        assert!(due(&offers).is_empty() && offers.recalled().is_empty());
    }
}
