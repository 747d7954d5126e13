//! What waits to be proposed, and what became of it: one queue a group and node, whoever empties it.
//!
//! Invariants: an item is never split; what waits is bounded in number and bytes; every item is answered, and the answer says whether
//! it may take effect.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::config::BATCH_BYTES_MAX;
use super::link::LinkError;
use super::machine::Member;
use super::types::{Op, OpReply};
use super::wire::{Refusal, Reply};
use crate::transport::TransportError;

/// Items waiting at one replica. At the limit callers are told that it is busy.
const QUEUE_MAX: usize = 4096;
/// KiB of ops that are not answered yet, waiting or on the way; likewise.
const UNANSWERED_KIB_MAX: usize = 64 << 10;
/// Ops after which a batch is closed; with one item of as many on top it stays below `clients::POSITIONS_MAX`.
pub(crate) const BATCH_OPS_MAX: usize = 2000;
/// Ops that belong together, and who waits for them.
pub(crate) struct Item {
    pub(crate) ops: Vec<Op>,
    /// Came from another node: propose here or not at all.
    pub(crate) forwarded: bool,
    pub(crate) done: oneshot::Sender<Outcome>,
    /// Set before the item leaves the queue for good: a caller that gives up before has certainly proposed nothing.
    taken: Arc<AtomicBool>,
    /// Its share of [`UNANSWERED_KIB_MAX`].
    room: OwnedSemaphorePermit,
}

/// Where items wait.
pub(crate) struct Queue {
    items: mpsc::Sender<Item>,
    room: Arc<Semaphore>,
}

impl Queue {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Item>) {
        let (items, waiting) = mpsc::channel(QUEUE_MAX);
        (Self { items, room: Arc::new(Semaphore::new(UNANSWERED_KIB_MAX)) }, waiting)
    }

    /// Adds ops, unless too much is waiting.
    pub(crate) fn push(&self, ops: Vec<Op>, forwarded: bool) -> Option<Pending> {
        let kib = ops.iter().map(Op::weight).sum::<usize>().div_ceil(1024) as u32;
        let room = self.room.clone().try_acquire_many_owned(kib).ok()?;
        let (done, outcome) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let item = Item { ops, forwarded, done, taken: taken.clone(), room };
        self.items.try_send(item).ok()?;
        Some(Pending { outcome, taken })
    }
}

impl Item {
    /// Whether its caller still waits. Marks it as taken first: see [`Pending::give_up`].
    fn take(&self) -> bool {
        self.taken.store(true, Ordering::SeqCst);
        !self.done.is_closed()
    }
}

/// The caller's side of an [`Item`].
pub(crate) struct Pending {
    pub(crate) outcome: oneshot::Receiver<Outcome>,
    taken: Arc<AtomicBool>,
}

impl Pending {
    /// Waits no longer. The item is closed before the mark is read, and marked before it is seen to be closed: so an
    /// unmarked item is never proposed.
    pub(crate) fn give_up(mut self) -> Outcome {
        self.outcome.close();
        match (self.outcome.try_recv(), self.taken.load(Ordering::SeqCst)) {
            (Ok(outcome), _) => outcome,
            (Err(_), true) => Outcome::Unknown("no answer in time".into()),
            (Err(_), false) => Outcome::NoQuorum("earlier proposals wait for a quorum".into()),
        }
    }
}

/// What became of an item.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// Applied; one reply an op.
    Applied(Vec<OpReply>),
    /// Not proposed.
    NotLeader(Option<Member>),
    /// Not proposed: the leader, or the way to it, is not there.
    NoQuorum(String),
    /// Not proposed: too much is waiting.
    Busy,
    /// May or may not take effect.
    Unknown(String),
}

impl From<Outcome> for Reply {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied(replies) => Reply::Proposed(replies),
            Outcome::NotLeader(leader) => Reply::NotLeader { leader },
            Outcome::NoQuorum(_) => Reply::NoQuorum,
            Outcome::Busy => Reply::Refused(Refusal::Busy),
            Outcome::Unknown(detail) => Reply::Unknown(detail),
        }
    }
}

impl From<Result<Reply, LinkError>> for Outcome {
    fn from(reply: Result<Reply, LinkError>) -> Self {
        match reply {
            Ok(Reply::Proposed(replies)) => Outcome::Applied(replies),
            Ok(Reply::NotLeader { leader }) => Outcome::NotLeader(leader),
            Ok(Reply::NoQuorum) => Outcome::NoQuorum("the leader has no quorum".into()),
            Ok(Reply::Unknown(detail)) => Outcome::Unknown(detail),
            Ok(_) => Outcome::Unknown("unexpected reply".into()),
            Err(LinkError::Refused(Refusal::Busy)) => Outcome::Busy,
            Err(LinkError::Refused(refusal)) => Outcome::NoQuorum(refusal.to_string()),
            Err(LinkError::Transport(TransportError::NoReply { reason, .. })) => Outcome::Unknown(reason),
            Err(LinkError::Transport(e @ TransportError::Unreachable { .. })) => {
                Outcome::NoQuorum(e.to_string())
            }
            Err(e) => Outcome::Unknown(e.to_string()),
        }
    }
}

/// All that waits behind `first`, up to the limits of a batch, as far as its callers still wait.
pub(crate) fn gather(first: Item, queue: &mut mpsc::Receiver<Item>) -> Vec<Item> {
    let mut weight: usize = first.ops.iter().map(Op::weight).sum();
    let mut ops = first.ops.len();
    let mut items = vec![first];
    while weight < BATCH_BYTES_MAX && ops < BATCH_OPS_MAX {
        let Ok(item) = queue.try_recv() else { break };
        weight += item.ops.iter().map(Op::weight).sum::<usize>();
        ops += item.ops.len();
        items.push(item);
    }
    // Callers that gave up need no proposing.
    items.retain(Item::take);
    items
}

/// Who waits for how many of a batch's ops, in order; and the room that they take until they are answered.
pub(crate) type Waiters = Vec<(usize, oneshot::Sender<Outcome>, OwnedSemaphorePermit)>;

pub(crate) fn unzip(items: Vec<Item>) -> (Vec<Op>, Waiters) {
    let mut ops = Vec::new();
    let mut waiters = Vec::new();
    for item in items {
        waiters.push((item.ops.len(), item.done, item.room));
        ops.extend(item.ops);
    }
    (ops, waiters)
}

/// Hands everyone its part of the outcome. Whoever has gone away needs none.
pub(crate) fn answer(waiters: Waiters, outcome: Outcome) {
    let mut replies = match outcome {
        Outcome::Applied(replies) if replies.len() >= waiters.iter().map(|w| w.0).sum() => {
            replies.into_iter()
        }
        Outcome::Applied(_) => return answer(waiters, Outcome::Unknown("replies are missing".into())),
        other => {
            waiters.into_iter().for_each(|(_, done, _)| drop(done.send(other.clone())));
            return;
        }
    };
    for (count, done, _) in waiters {
        let _ = done.send(Outcome::Applied(replies.by_ref().take(count).collect()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn op(bytes: usize) -> Op {
        Op::Command { id: None, body: vec![0; bytes].into() }
    }

    #[test]
    fn what_waits_is_bounded_in_number_and_bytes() {
        let (queue, mut waiting) = Queue::new();
        let kept: Vec<_> = (0..63).map(|_| queue.push(vec![op(1 << 20)], false).unwrap()).collect();
        assert!(queue.push(vec![op(1 << 20)], false).is_none(), "a mebibyte more than there is room for");
        assert!(queue.push(vec![op(100)], false).is_some());
        drop((kept, waiting.try_recv().unwrap()));
        assert!(queue.push(vec![op(1 << 20)], false).is_some(), "one was answered");

        let (queue, _waiting) = Queue::new();
        assert!((0..QUEUE_MAX).all(|_| queue.push(vec![op(0)], false).is_some()));
        assert!(queue.push(vec![op(0)], false).is_none());
    }

    #[test]
    fn whoever_gives_up_before_its_turn_has_proposed_nothing() {
        let (queue, mut waiting) = Queue::new();
        let pending = queue.push(vec![Op::Register], false).unwrap();
        assert!(matches!(pending.give_up(), Outcome::NoQuorum(_)));
        assert!(!waiting.try_recv().unwrap().take(), "and it is not proposed after all");

        let pending = queue.push(vec![Op::Register], false).unwrap();
        let item = waiting.try_recv().unwrap();
        assert!(item.take());
        assert!(matches!(pending.give_up(), Outcome::Unknown(_)));

        let pending = queue.push(vec![Op::Register], false).unwrap();
        let item = waiting.try_recv().unwrap();
        assert!(item.take());
        item.done.send(Outcome::Busy).unwrap();
        assert!(matches!(pending.give_up(), Outcome::Busy), "an answer that came in time counts");
    }
}
