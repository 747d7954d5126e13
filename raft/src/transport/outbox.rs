//! Requests to one peer on one stream: queued, then sent, then answered. Pure.
//!
//! Invariants: a request is either queued or sent; ids grow, and the queue is in their order; `unanswered` counts what
//! was sent over the present connection and not answered, also when nobody waits for the answer any more, so that a peer
//! which answers nothing cannot be sent without end.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::TransportError;
use super::frame::{Batch, HEADER_BYTES, Kind};
use super::lanes::LaneLimits;

pub(super) type ReplySender = oneshot::Sender<Result<Bytes, TransportError>>;

/// One write takes at most about this much, so that what is still queued can be cancelled for certain.
const BATCH_BYTES: usize = 256 << 10;

#[derive(Debug)]
struct Queued {
    id: u64,
    key: u32,
    body: Bytes,
    reply: ReplySender,
}

/// The stream's queue is full; nothing was queued.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Full {
    #[error("busy: {0} requests wait for their answers on this lane")]
    Requests(usize),
    #[error("busy: {0} bytes wait to be sent on this lane")]
    Bytes(usize),
}

/// Where a request was when its caller stopped waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Forgotten {
    /// Taken out of the queue: it will not be sent.
    Unsent,
    /// It was sent, or its answer has come.
    Sent,
}

#[derive(Debug)]
pub(super) struct Outbox {
    limits: LaneLimits,
    next_id: u64,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    sent: BTreeMap<u64, ReplySender>,
    unanswered: usize,
}

impl Outbox {
    pub(super) fn new(limits: LaneLimits) -> Self {
        let queue = VecDeque::new();
        Self { limits, next_id: 1, queue, queued_bytes: 0, sent: BTreeMap::new(), unanswered: 0 }
    }

    /// Queues a request; gives its id.
    pub(super) fn push(&mut self, key: u32, body: Bytes, reply: ReplySender) -> Result<u64, Full> {
        let requests = self.queue.len() + self.unanswered;
        if requests >= self.limits.requests {
            return Err(Full::Requests(requests));
        }
        if self.queued_bytes + body.len() > self.limits.bytes {
            return Err(Full::Bytes(self.queued_bytes));
        }
        let id = self.next_id;
        self.next_id += 1;
        self.queued_bytes += body.len();
        self.queue.push_back(Queued { id, key, body, reply });
        Ok(id)
    }

    pub(super) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Moves requests from the queue into `batch`: from here on they count as sent.
    pub(super) fn take(&mut self, batch: &mut Batch) {
        while batch.len() < BATCH_BYTES {
            let Some(next) = self.queue.pop_front() else { break };
            self.queued_bytes -= next.body.len();
            batch.push(Kind::Request, next.key, next.id, next.body);
            self.sent.insert(next.id, next.reply);
            self.unanswered += 1;
        }
        debug_assert!(batch.len() <= BATCH_BYTES + HEADER_BYTES + self.limits.bytes);
    }

    /// An answer came. Gives whom it is for, unless nobody waits any more; an error if it answers nothing.
    pub(super) fn answered(&mut self, id: u64) -> Result<Option<ReplySender>, String> {
        if self.unanswered == 0 || id == 0 || id >= self.next_id {
            return Err(format!("an answer to request {id}, which was not made"));
        }
        self.unanswered -= 1;
        Ok(self.sent.remove(&id))
    }

    /// The caller of request `id` stopped waiting.
    pub(super) fn forget(&mut self, id: u64) -> Forgotten {
        if let Ok(at) = self.queue.binary_search_by_key(&id, |q| q.id)
            && let Some(queued) = self.queue.remove(at)
        {
            self.queued_bytes -= queued.body.len();
            return Forgotten::Unsent;
        }
        self.sent.remove(&id);
        Forgotten::Sent
    }

    /// Takes all who wait: (queued, sent).
    pub(super) fn take_waiting(&mut self) -> (Vec<ReplySender>, Vec<ReplySender>) {
        self.queued_bytes = 0;
        let queued = self.queue.drain(..).map(|q| q.reply).collect();
        (queued, self.take_sent())
    }

    /// Takes all who wait for an answer.
    pub(super) fn take_sent(&mut self) -> Vec<ReplySender> {
        std::mem::take(&mut self.sent).into_values().collect()
    }

    /// Another connection is about to be used, or none: no answer will come over the old one.
    /// The caller has taken those who wait.
    pub(super) fn start_over(&mut self) {
        assert!(self.sent.is_empty(), "requests sent over a lost connection still wait");
        self.unanswered = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LaneLimits = LaneLimits { requests: 3, bytes: 100 };

    fn push(
        outbox: &mut Outbox,
        len: usize,
    ) -> (Result<u64, Full>, oneshot::Receiver<Result<Bytes, TransportError>>) {
        let (tx, rx) = oneshot::channel();
        (outbox.push(0, vec![0; len].into(), tx), rx)
    }

    #[test]
    fn both_limits_hold_until_answers_come() {
        let mut outbox = Outbox::new(LIMITS);
        let mut batch = Batch::default();
        assert_eq!(push(&mut outbox, 60).0, Ok(1));
        assert_eq!(push(&mut outbox, 41).0, Err(Full::Bytes(60)));
        assert_eq!(push(&mut outbox, 40).0, Ok(2));
        outbox.take(&mut batch);
        assert!(!outbox.has_queued());
        // Sent bytes are the connection's; sent requests still count.
        assert_eq!(push(&mut outbox, 100).0, Ok(3));
        assert_eq!(push(&mut outbox, 0).0, Err(Full::Requests(3)));
        assert!(outbox.answered(1).unwrap().is_some());
        assert_eq!(push(&mut outbox, 0).0, Ok(4));
    }

    #[test]
    fn a_forgotten_request_keeps_its_place_until_it_is_answered() {
        let mut outbox = Outbox::new(LIMITS);
        for len in [1, 2, 3] {
            push(&mut outbox, len).0.unwrap();
        }
        assert_eq!(outbox.forget(2), Forgotten::Unsent);
        outbox.take(&mut Batch::default());
        assert_eq!(outbox.forget(1), Forgotten::Sent);
        assert_eq!(push(&mut outbox, 0).0, Ok(4));
        assert_eq!(push(&mut outbox, 0).0, Err(Full::Requests(3)));
        assert!(outbox.answered(1).unwrap().is_none());
        assert_eq!(push(&mut outbox, 0).0, Ok(5));
    }

    #[test]
    fn answers_to_what_was_not_asked_are_violations() {
        let mut outbox = Outbox::new(LIMITS);
        assert!(outbox.answered(1).is_err());
        push(&mut outbox, 0).0.unwrap();
        assert!(outbox.answered(1).is_err(), "it was not sent yet");
        outbox.take(&mut Batch::default());
        assert!(outbox.answered(0).is_err() && outbox.answered(2).is_err());
        assert!(outbox.answered(1).unwrap().is_some());
        assert!(outbox.answered(1).is_err(), "answered twice");
    }

    #[test]
    fn a_lost_connection_frees_every_place() {
        let mut outbox = Outbox::new(LIMITS);
        let waits: Vec<_> = (0..3).map(|_| push(&mut outbox, 1).1).collect();
        outbox.take(&mut Batch::default());
        assert_eq!(outbox.take_waiting().1.len(), 3);
        outbox.start_over();
        drop(waits);
        assert!(push(&mut outbox, 100).0.is_ok());
    }
}
