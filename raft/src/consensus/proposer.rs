//! Turns what is proposed at this replica into entries: all that waits in one turn becomes one entry (on the leader) or one
//! forwarded message (elsewhere).
//!
//! Invariants: a forwarded item is never forwarded again; every item is answered, and the answer says whether it may take effect.
//! Must never: retry. Retrying, with the same command id, is the caller's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::Instant as _;
use openraft::error::{ClientWriteError, ForwardReason};
use openraft::impls::OneshotResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::mpsc;

use super::core::Core;
use super::machine::{LogTime, Member};
use super::queue::{self, Item, Outcome, answer, unzip};
use super::runtime::Runtime;
use super::types::{Batch, Op, Types};
use crate::transport::BoxFuture;

/// Entries and forwarded messages on the way.
pub(crate) const IN_FLIGHT_MAX: usize = 32;
/// While a batch is on its way, the next gathers what comes in, at most for this long: so that batches are large under load, and still follow
/// each other closely where the way is long.
const SPACING: Duration = Duration::from_millis(5);
/// How long an entry may wait for a quorum before its callers are told to try again: what a leader that was cut off holds
/// must not fill its queue.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(3);

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
    /// When the last batch was made.
    last_at: R::Instant,
    /// Log time at which idle clients were last looked for.
    swept: LogTime,
}

impl<R: Runtime> Proposer<R> {
    pub(crate) fn new(core: Arc<Core<R>>, queue: mpsc::Receiver<Item>) -> Self {
        let clock = Clock { term: 0, base: LogTime(0), since: R::Instant::now(), last: LogTime(0) };
        Self {
            core,
            queue,
            in_flight: FuturesUnordered::new(),
            clock,
            last_at: R::Instant::now(),
            swept: LogTime(0),
        }
    }

    /// Runs until the replica stops. What is queued then is dropped, which tells its callers.
    pub(crate) async fn run(mut self) {
        let core = self.core.clone();
        let mut stopped = std::pin::pin!(core.until_stopped());
        // The first of the next batch.
        let mut next: Option<Item> = None;
        loop {
            let due = self.last_at + SPACING;
            let has_room = self.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = &mut stopped => break,
                Some(()) = self.in_flight.next() => {}
                Some(item) = self.queue.recv(), if next.is_none() => next = Some(item),
                () = R::sleep_until(due), if next.is_some() && has_room => {}
                else => break,
            }
            let may_go = self.in_flight.is_empty() || (has_room && R::Instant::now() >= due);
            if let Some(first) = next.take_if(|_| may_go) {
                self.last_at = R::Instant::now();
                self.turn(first).await;
            }
        }
    }

    async fn turn(&mut self, first: Item) {
        let items = queue::gather(first, &mut self.queue);
        if items.is_empty() {
            return;
        }
        match self.core.office() {
            Some(term) => self.propose(term, items).await,
            None => self.forward(items),
        }
    }

    async fn propose(&mut self, term: u64, items: Vec<Item>) {
        let busy = self.core.rest.busy();
        if !self.core.is_followed().await {
            return answer(unzip(items).1, Outcome::NoQuorum("no quorum follows this leader".into()));
        }
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
            drop(busy);
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
        match self.core.target() {
            Some(target) => self.in_flight.push(self.core.route.forward(target, items)),
            None => answer(unzip(items).1, Outcome::NoQuorum("no leader is known".into())),
        }
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
