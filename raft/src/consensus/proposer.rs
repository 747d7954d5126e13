//! Turns what is proposed at this replica into entries: all that waits in one turn becomes one entry (on the leader) or one
//! forwarded message (elsewhere).
//!
//! Invariants: an item is never split; a forwarded item is never forwarded again; every item is answered, and the answer
//! says whether it may take effect. Must never: retry. Retrying, with the same command id, is the caller's.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::Instant as _;
use openraft::error::{ClientWriteError, ForwardReason};
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::config::BATCH_BYTES_MAX;
use super::core::Core;
use super::link::{self, LinkError};
use super::machine::{LogTime, Member};
use super::runtime::Runtime;
use super::types::{Batch, Op, OpReply, Types};
use super::wire::{GroupBody, GroupRequest, Message, Refusal, Reply};
use crate::transport::{BoxFuture, Lane, TransportError};

/// Items waiting at one replica. At the limit callers are told that it is busy.
const QUEUE_MAX: usize = 4096;
/// KiB of ops that are not answered yet, waiting or on the way; likewise.
const UNANSWERED_KIB_MAX: usize = 64 << 10;
/// Ops after which a batch is closed; with one item of as many on top it stays below `clients::POSITIONS_MAX`.
pub(crate) const BATCH_OPS_MAX: usize = 2000;
/// Entries and forwarded messages on the way; while there are as many, what comes in makes the next batch larger.
const IN_FLIGHT_MAX: usize = 32;
/// How long a forwarded message may take. A dead leader is found sooner, by the failure detector.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(3);
/// How long an entry may wait for a quorum before its callers are told to try again: what a leader that was cut off holds
/// must not fill its queue.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

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

/// Log time as a leader stamps it: what it was when the leader took office plus the monotonic time since.
struct Clock<R: Runtime> {
    term: u64,
    base: LogTime,
    since: R::Instant,
    last: LogTime,
}

impl<R: Runtime> Clock<R> {
    /// `seen` is the log time that this replica's state tells.
    fn stamp(&mut self, term: u64, seen: LogTime) -> LogTime {
        if term != self.term {
            *self = Clock { term, base: seen, since: R::Instant::now(), last: self.last };
        }
        let elapsed = self.since.elapsed().as_millis() as u64;
        // Entries of the last leader that were not applied when this one took office may carry later stamps.
        self.last = self.last.max(seen).max(LogTime(self.base.0 + elapsed));
        self.last
    }
}

/// The task that owns a replica's queue.
pub(crate) struct Proposer<R: Runtime> {
    core: Arc<Core<R>>,
    queue: mpsc::Receiver<Item>,
    in_flight: FuturesUnordered<BoxFuture<()>>,
    clock: Clock<R>,
    /// Log time at which idle clients were last looked for.
    swept: LogTime,
}

impl<R: Runtime> Proposer<R> {
    pub(crate) fn new(core: Arc<Core<R>>, queue: mpsc::Receiver<Item>) -> Self {
        let clock = Clock { term: 0, base: LogTime(0), since: R::Instant::now(), last: LogTime(0) };
        Self { core, queue, in_flight: FuturesUnordered::new(), clock, swept: LogTime(0) }
    }

    /// Runs until the replica stops. What is queued then is dropped, which tells its callers.
    pub(crate) async fn run(mut self) {
        let core = self.core.clone();
        let mut stopped = std::pin::pin!(core.until_stopped());
        loop {
            let room = self.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(()) = self.in_flight.next() => {}
                Some(first) = self.queue.recv(), if room => self.turn(first).await,
                else => break,
            }
        }
    }

    /// Takes all that is waiting, up to the limits of a batch.
    async fn turn(&mut self, first: Item) {
        let mut weight: usize = first.ops.iter().map(Op::weight).sum();
        let mut ops = first.ops.len();
        let mut items = vec![first];
        while weight < BATCH_BYTES_MAX && ops < BATCH_OPS_MAX {
            let Ok(item) = self.queue.try_recv() else { break };
            weight += item.ops.iter().map(Op::weight).sum::<usize>();
            ops += item.ops.len();
            items.push(item);
        }
        // Callers that gave up need no proposing.
        items.retain(Item::take);
        if items.is_empty() {
            return;
        }
        match self.core.office() {
            Some(term) => self.propose(term, items).await,
            None => self.forward(items),
        }
    }

    async fn propose(&mut self, term: u64, items: Vec<Item>) {
        let (now, unseen_since) = self.look_for_idle_clients();
        let time = self.clock.stamp(term, now);
        let (mut ops, waiters) = unzip(items);
        // Last, so that it does not expire a client that this very batch hears from.
        ops.extend(unseen_since.map(|unseen_since| Op::ExpireClients { unseen_since }));
        let (responder, result) = OneshotResponder::<Types<R>, ClientWriteResult<Types<R>>>::new_pair();
        let sent = self.core.raft.client_write_ff(Batch { time, ops }, Some(responder)).await;
        if let Err(fatal) = sent {
            return answer(waiters, Outcome::NoQuorum(fatal.to_string()));
        }
        let core = self.core.clone();
        self.in_flight.push(Box::pin(async move {
            let outcome = tokio::select! {
                biased;
                result = result => match result {
                    Ok(result) => core.write_outcome(result),
                    Err(_) => Outcome::Unknown("the replica stopped".into()),
                },
                // A leader that was cut off would hold these until it is reconnected; another leader may answer sooner.
                () = core.left_office(term) => Outcome::Unknown("leadership was lost".into()),
                () = R::sleep(COMMIT_TIMEOUT) => Outcome::Unknown("no quorum acknowledged the entry in time".into()),
            };
            answer(waiters, outcome);
        }));
    }

    /// The log time of the state, and since when the clients that are to be expired were not seen, if there are any.
    fn look_for_idle_clients(&mut self) -> (LogTime, Option<LogTime>) {
        let applied = self.core.state.applied.read();
        let now = applied.now();
        let idle_ms = self.core.timings.client_idle.as_millis() as u64;
        // Looking at every client for every batch would cost; a sixteenth of the idle time is close enough.
        if now.0.saturating_sub(self.swept.0) < idle_ms / 16 {
            return (now, None);
        }
        self.swept = now;
        let unseen_since = LogTime(now.0.saturating_sub(idle_ms));
        (now, applied.clients.any_unseen_since(unseen_since).then_some(unseen_since))
    }

    fn forward(&mut self, items: Vec<Item>) {
        let leader = self.core.leader();
        let (foreign, items): (Vec<Item>, Vec<Item>) = items.into_iter().partition(|item| item.forwarded);
        answer(unzip(foreign).1, Outcome::NotLeader(leader));
        if items.is_empty() {
            return;
        }
        let Some((node, to)) = self.core.target() else {
            return answer(unzip(items).1, Outcome::NoQuorum("no leader is known".into()));
        };
        let (ops, waiters) = unzip(items);
        let request = GroupRequest { group: self.core.group, to, body: GroupBody::Propose(ops) };
        let message = Message::Group(request);
        let reply = link::ask(&self.core.transport, node, Lane::Control, &message, FORWARD_TIMEOUT);
        let core = self.core.clone();
        self.in_flight.push(Box::pin(async move {
            let outcome = Outcome::from(reply.await);
            core.learn(node, &outcome);
            answer(waiters, outcome);
        }));
    }
}

/// Who waits for how many of a batch's ops, in order; and the room that they take until they are answered.
type Waiters = Vec<(usize, oneshot::Sender<Outcome>, OwnedSemaphorePermit)>;

fn unzip(items: Vec<Item>) -> (Vec<Op>, Waiters) {
    let mut ops = Vec::new();
    let mut waiters = Vec::new();
    for item in items {
        waiters.push((item.ops.len(), item.done, item.room));
        ops.extend(item.ops);
    }
    (ops, waiters)
}

/// Hands everyone its part of the outcome. Whoever has gone away needs none.
fn answer(waiters: Waiters, outcome: Outcome) {
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

impl<R: Runtime> Core<R> {
    /// In openraft 0.10.0-alpha.37 `ForwardToLeader` is answered before anything is appended (raft_core.rs, all four
    /// places); an entry that was appended and lost is `LogEntryDiscarded`. Being applied once does not rest on this:
    /// a retry carries the same command id either way.
    fn write_outcome(&self, result: ClientWriteResult<Types<R>>) -> Outcome {
        match result {
            Ok(response) => Outcome::Applied(response.data),
            Err(ClientWriteError::ForwardToLeader(forward)) => match forward.reason {
                ForwardReason::LeaseExpired => Outcome::NoQuorum("the leader has no quorum".into()),
                ForwardReason::NotLeader | ForwardReason::LeadershipTransfer => {
                    let leader = forward.leader_id.zip(forward.leader_node);
                    Outcome::NotLeader(leader.map(|(replica, node)| Member { replica, node }))
                }
            },
            Err(e) => Outcome::Unknown(e.to_string()),
        }
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
