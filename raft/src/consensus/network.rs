//! openraft's network over the transport: one client per peer and purpose.
//!
//! Append requests are pipelined: many on the way, answers taken in order; the first failure ends the pipeline and
//! openraft starts another from what was acknowledged. A request that brings nothing but the news of a commit waits a moment for
//! one with entries (`news.rs`), and is answered with it. Heartbeats travel on their own lane, so that no backlog of
//! entries costs a leader its lease. Must never: retry (openraft does), or grant a vote that the peer did not grant.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{RPCError, ReplicationClosed, StreamingError};
use openraft::network::{
    Backoff, NetAppend, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption,
    RPCTypes, RaftNetworkFactory,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::ballots::Ballots;
use super::config::{APPEND_PIPELINE_BYTES_MAX, APPEND_PIPELINE_MAX, APPEND_TIMEOUT};
use super::link::{Link, LinkError};
use super::news::News;
use super::router::Router;
use super::runtime::Runtime;
use super::snapshot_transfer;
use super::state::State;
use super::types::{Entry, LogId, Op, Payload, Snapshot, Types, Vote};
use super::wire::{Append, GroupBody, Reply};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::{self, Lane, TransportRef};

/// First wait after a peer could not be reached; doubled up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// News of commits that one request may stand for.
const CARRIED_MAX: usize = 64;
/// A peer that comes back waits at most this long for its entries.
const BACKOFF_MAX: Duration = Duration::from_millis(500);

type RpcError<R> = RPCError<Types<R>>;
/// One answer of a pipeline.
type Appended<R> = Result<StreamAppendResult<Types<R>>, RpcError<R>>;

/// What all clients of one replica share.
pub(crate) struct Means<R: Runtime> {
    pub(crate) ballots: Arc<Ballots<R>>,
    /// If suspects get nothing but heartbeats and votes until they are trusted again, so that their entries wait without attempts:
    /// who knows the suspects.
    pub(crate) patient: Option<Arc<Router>>,
    pub(crate) news: Arc<News>,
    pub(crate) state: State<R>,
    /// See [`Timings`](super::config::Timings).
    pub(crate) snapshot_bytes_per_s: Option<NonZeroU64>,
}

/// Makes the clients of one replica.
pub(crate) struct Network<R: Runtime> {
    transport: TransportRef,
    group: GroupId,
    replica: ReplicaId,
    /// Numbers pipelines; starts at random, so that a restarted process does not go on with an old one's number.
    sessions: Arc<AtomicU64>,
    means: Arc<Means<R>>,
}

impl<R: Runtime> Network<R> {
    pub(crate) fn new(transport: TransportRef, group: GroupId, replica: ReplicaId, means: Means<R>) -> Self {
        let mut start = [0; 8];
        R::entropy(&mut start);
        let sessions = Arc::new(AtomicU64::new(u64::from_le_bytes(start)));
        Self { transport, group, replica, sessions, means: Arc::new(means) }
    }

    fn client(&self, to: ReplicaId, node: NodeId, lane: Lane) -> Client<R> {
        let link =
            Link { transport: self.transport.clone(), group: self.group, from: self.replica, to, node };
        Client { link, lane, sessions: Arc::clone(&self.sessions), means: Arc::clone(&self.means) }
    }
}

impl<R: Runtime> RaftNetworkFactory<Types<R>> for Network<R> {
    type Network = Client<R>;

    async fn new_client(&mut self, target: ReplicaId, node: &NodeId) -> Client<R> {
        self.client(target, *node, Lane::Append { key: self.group.0 })
    }

    async fn new_heartbeat_client(&mut self, target: ReplicaId, node: &NodeId) -> Client<R> {
        self.client(target, *node, Lane::Heartbeat)
    }
}

/// Talks to one replica for one purpose.
pub(crate) struct Client<R: Runtime> {
    link: Link,
    /// Where append requests go; everything else has a lane of its own.
    lane: Lane,
    sessions: Arc<AtomicU64>,
    means: Arc<Means<R>>,
}

impl<R: Runtime> Client<R> {
    async fn control(
        &self,
        body: GroupBody,
        action: RPCTypes,
        option: &RPCOption,
    ) -> Result<Reply, RpcError<R>> {
        let timeout = option.hard_ttl();
        let reply = self.link.ask(Lane::Control, body, timeout).await;
        // Who has just caught up has applied old entries late, and would lead with a log time of the past.
        if let Ok(Reply::Voted { now, .. }) = &reply {
            self.means.state.hear(*now);
        }
        reply.map_err(|e| self.link.rpc_error(e, action, timeout))
    }

    fn gate(&self) -> Gate {
        let router = self.means.patient.clone().filter(|_| self.lane != Lane::Heartbeat);
        Gate { router, node: self.link.node, wait: None }
    }

    fn unexpected(&self, action: RPCTypes) -> RpcError<R> {
        self.link.rpc_error(LinkError::Unexpected, action, Duration::ZERO)
    }
}

impl<R: Runtime> NetVote<Types<R>> for Client<R> {
    async fn vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RpcError<R>> {
        let ballots = self.means.ballots.clone();
        let asked = ballots.ask(rpc.vote);
        let reply = self.control(GroupBody::vote(false, &rpc), RPCTypes::Vote, &option).await?;
        let response = reply.into_vote_response().map_err(|_| self.unexpected(RPCTypes::Vote))?;
        asked.answered(response.vote_granted);
        Ok(response)
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types<R>>, RpcError<R>> {
        let reply = self.control(GroupBody::vote(true, &rpc), RPCTypes::Vote, &option).await?;
        reply.into_vote_response().map_err(|_| self.unexpected(RPCTypes::Vote))
    }
}

impl<R: Runtime> NetTransferLeader<Types<R>> for Client<R> {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types<R>>, RpcError<R>> {
        let body = GroupBody::transfer_leader(&req, self.means.state.applied.read().now());
        match self.control(body, RPCTypes::TransferLeader, &option).await? {
            Reply::TransferLeader(None) => Ok(Ok(())),
            // The reason is in the peer's log; openraft only needs to know that the transfer was declined.
            Reply::TransferLeader(Some(_)) => {
                let expected = req.last_log_id().copied();
                Ok(Err(TransferLeaderError::LogNotFlushed { expected, actual: None }))
            }
            _ => Err(self.unexpected(RPCTypes::TransferLeader)),
        }
    }
}

impl<R: Runtime> NetBackoff<Types<R>> for Client<R> {
    fn backoff(&self) -> Option<Backoff> {
        let delays = std::iter::successors(Some(BACKOFF_MIN), |d| Some((*d * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(delays))
    }
}

impl<R: Runtime> NetSnapshot<Types<R>> for Client<R> {
    type SnapshotData = Bytes;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>> {
        let mut gate = self.gate();
        let send = async {
            poll_fn(|cx| gate.poll_open(cx)).await;
            snapshot_transfer::send::<R>(&self.link, vote, snapshot, self.means.snapshot_bytes_per_s).await
        };
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent,
        }
    }
}

impl<R: Runtime> NetAppend<Types<R>> for Client<R> {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<Types<R>>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types<R>>, RpcError<R>> {
        let requests = futures_util::stream::iter([rpc]);
        let result = self.stream_append(requests, option).await?.next().await;
        result.unwrap_or_else(|| Err(self.unexpected(RPCTypes::AppendEntries))).map(Into::into)
    }
}

impl<R: Runtime> NetStreamAppend<Types<R>> for Client<R> {
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, Result<BoxStream<'s, Appended<R>>, RpcError<R>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types<R>>> + OptionalSend + Unpin + 'static,
    {
        let pipeline = Pipeline {
            link: self.link.clone(),
            lane: self.lane,
            session: self.sessions.fetch_add(1, Ordering::Relaxed),
            gate: self.gate(),
            input: Some(input),
            sent: None,
            held: None,
            news: self.means.news.clone(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            answers: VecDeque::new(),
        };
        let replies = futures_util::stream::unfold(pipeline, |mut pipeline| async move {
            let next = poll_fn(|cx| pipeline.poll_next(cx)).await;
            next.map(|result| (result, pipeline))
        });
        let replies: BoxStream<'s, _> = Box::pin(replies);
        Box::pin(async move { Ok(replies) })
    }
}

/// Holds back what a suspect would not answer. Attempts would cost a group at rest timers and messages for as long as a member is dead.
struct Gate {
    /// `None`: always open.
    router: Option<Arc<Router>>,
    node: NodeId,
    wait: Option<transport::BoxFuture<()>>,
}

impl Gate {
    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(router) = &self.router else { return Poll::Ready(()) };
        if self.wait.is_none() && router.is_suspect(self.node) {
            let (router, node) = (router.clone(), self.node);
            self.wait = Some(Box::pin(async move { router.until_trusted(node).await }));
        }
        if let Some(wait) = &mut self.wait {
            std::task::ready!(wait.as_mut().poll(cx));
            self.wait = None;
        }
        Poll::Ready(())
    }
}

/// Append requests on the way to one replica, oldest first.
struct Pipeline<R: Runtime, S> {
    link: Link,
    lane: Lane,
    session: u64,
    gate: Gate,
    /// `None` once the input ended or a request failed.
    input: Option<S>,
    /// Where the log ends that was sent so far.
    sent: Option<LogId>,
    held: Option<Held<R>>,
    news: Arc<News>,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Requests that were carried out as a part of one that was answered.
    answers: VecDeque<Option<LogId>>,
}

/// News of a commit that wait for entries to travel with.
struct Held<R: Runtime> {
    rpc: AppendEntriesRequest<Types<R>>,
    /// Requests that said no more than this one does: where the log ended that each made.
    carried: Vec<Option<LogId>>,
    until: transport::BoxFuture<()>,
}

struct Waiting {
    /// Where the log ends that each of the requests made that this one stands for; the last is its own.
    ends: Vec<Option<LogId>>,
    bytes: usize,
    reply: transport::BoxFuture<Result<Reply, LinkError>>,
}

impl<R: Runtime, S> Pipeline<R, S>
where
    S: Stream<Item = AppendEntriesRequest<Types<R>>> + Unpin,
{
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Appended<R>>> {
        let open = self.gate.poll_open(cx).is_ready();
        while open
            && self.waiting.len() < APPEND_PIPELINE_MAX
            && self.waiting_bytes < APPEND_PIPELINE_BYTES_MAX
        {
            let Some(input) = &mut self.input else { break };
            match input.poll_next_unpin(cx) {
                Poll::Pending => break,
                Poll::Ready(None) => self.input = None,
                Poll::Ready(Some(rpc)) => self.take(rpc),
            }
        }
        let due = open && self.held.as_mut().is_some_and(|held| held.until.as_mut().poll(cx).is_ready());
        if (due || self.input.is_none())
            && let Some(Held { rpc, carried, .. }) = self.held.take()
        {
            self.send(&rpc, carried);
        }
        if let Some(end) = self.answers.pop_front() {
            return Poll::Ready(Some(Ok(Ok(end))));
        }
        let Some(mut oldest) = self.waiting.pop_front() else {
            return if self.input.is_none() { Poll::Ready(None) } else { Poll::Pending };
        };
        let Poll::Ready(reply) = oldest.reply.as_mut().poll(cx) else {
            self.waiting.push_front(oldest);
            return Poll::Pending;
        };
        self.waiting_bytes -= oldest.bytes;
        let result = reply
            .and_then(|r| r.into_append_result().map_err(|_| LinkError::Unexpected))
            .map_err(|e| self.link.rpc_error(e, RPCTypes::AppendEntries, APPEND_TIMEOUT));
        let expected = oldest.ends.last().copied().flatten();
        // Anything but full success voids what was sent after it.
        if !matches!(&result, Ok(Ok(last)) if *last == expected) {
            self.input = None;
            self.held = None;
            self.waiting.clear();
            return Poll::Ready(Some(result));
        }
        self.answers.extend(oldest.ends);
        let first = self.answers.pop_front().flatten();
        Poll::Ready(Some(Ok(Ok(first))))
    }

    /// Sends a request, or keeps it for the next if it brings nothing but news of a commit.
    fn take(&mut self, rpc: AppendEntriesRequest<Types<R>>) {
        let mut carried = Vec::new();
        let mut until = None;
        if let Some(earlier) = self.held.take() {
            carried = earlier.carried;
            carried.push(earlier.rpc.prev_log_id);
            until = Some(earlier.until);
        }
        let commit = rpc.leader_commit.map_or(0, |commit| commit.index);
        // The first request of a session asks where the follower is.
        let is_news = rpc.entries.is_empty() && self.sent.is_some() && rpc.prev_log_id == self.sent;
        match self.news.hold(commit).filter(|_| is_news && carried.len() < CARRIED_MAX) {
            None => self.send(&rpc, carried),
            Some(hold) => {
                let news = self.news.clone();
                let until = until.unwrap_or_else(|| {
                    Box::pin(async move {
                        tokio::select! {
                            biased;
                            () = news.until_wanted(commit) => {}
                            () = R::sleep(hold) => {}
                        }
                    })
                });
                self.held = Some(Held { rpc, carried, until });
            }
        }
    }

    fn send(&mut self, rpc: &AppendEntriesRequest<Types<R>>, carried: Vec<Option<LogId>>) {
        let end = rpc.entries.last().map(|e| e.log_id).or(rpc.prev_log_id);
        let body = GroupBody::Append(Append::new(self.session, rpc));
        let reply = self.link.ask(self.lane, body, APPEND_TIMEOUT);
        let bytes = rpc.entries.iter().map(weight).sum();
        self.waiting_bytes += bytes;
        self.sent = end;
        let mut ends = carried;
        ends.push(end);
        self.waiting.push_back(Waiting { ends, bytes, reply });
    }
}

/// About as many bytes as an entry takes on the wire.
fn weight(entry: &Entry) -> usize {
    match &entry.payload {
        Payload::Normal(batch) => batch.ops.iter().map(Op::weight).sum(),
        Payload::Blank | Payload::Membership(_) => 0,
    }
}
