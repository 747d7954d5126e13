//! The receiving side of one replica: what other nodes ask of it.
//!
//! Append requests of one peer are handed to openraft in the order they came, without waiting for each other's flush;
//! a pipeline that failed is void up to its end (the sender starts another, under another session number).
//! Must never: block the transport, queue without a limit, or take what was meant for another replica.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use openraft::Raft;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteResponse};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::core::Core;
use super::queue::{self, Outcome};
use super::router::Port;
use super::runtime::Runtime;
use super::snapshot_transfer::Receiver;
use super::state::State;
use super::types::{LogId, Op, Snapshot, Types, Vote};
use super::wire::{self, Append, Claim, GroupBody, Refusal, Reply, SnapshotPart};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::{Lane, Replier};

/// Append requests of one peer that wait to be handed over: four times what a sender has on the way.
const APPENDS_WAITING_MAX: usize = 64;
/// Other requests to one replica in work at a time; each costs a task.
const REQUESTS_MAX: usize = 1024;

pub(crate) struct Inbox<R: Runtime> {
    raft: Raft<Types<R>, State<R>>,
    state: State<R>,
    pipelines: Mutex<BTreeMap<NodeId, Pipeline<R>>>,
    snapshot: Arc<Receiver>,
    in_work: Arc<Semaphore>,
}

/// The append requests of one peer's current session.
struct Pipeline<R: Runtime> {
    session: u64,
    requests: mpsc::Sender<(AppendEntriesRequest<Types<R>>, Replier)>,
}

fn refuse(replier: Replier, refusal: Refusal) {
    replier.reply(wire::encode_reply(&Reply::Refused(refusal)));
}

impl<R: Runtime> Inbox<R> {
    pub(crate) fn new(raft: Raft<Types<R>, State<R>>, state: State<R>) -> Self {
        let in_work = Arc::new(Semaphore::new(REQUESTS_MAX));
        Self { raft, state, pipelines: Mutex::default(), snapshot: Arc::default(), in_work }
    }

    fn on_append(&self, from: NodeId, lane: Lane, append: Append, replier: Replier) {
        let session = append.session;
        let rpc = match append.into_rpc::<R>() {
            Ok(rpc) => rpc,
            Err(e) => return refuse(replier, Refusal::Invalid(e.to_string())),
        };
        if lane == Lane::Heartbeat {
            return self.on_heartbeat(rpc, replier);
        }
        let mut pipelines = self.pipelines.lock();
        let current = pipelines.get(&from).filter(|p| p.session == session);
        let sender = match current {
            Some(pipeline) => pipeline.requests.clone(),
            None => {
                let (requests, waiting) = mpsc::channel(APPENDS_WAITING_MAX);
                let _task = R::spawn(run_pipeline(self.raft.clone(), waiting));
                pipelines.insert(from, Pipeline { session, requests: requests.clone() });
                requests
            }
        };
        drop(pipelines);
        match sender.try_send((rpc, replier)) {
            Ok(()) => {}
            Err(mpsc::error::TrySendError::Full((_, replier))) => refuse(replier, Refusal::Busy),
            Err(mpsc::error::TrySendError::Closed((_, replier))) => refuse(replier, Refusal::BrokenPipeline),
        }
    }

    /// Heartbeats need no order: each stands for itself, and carries no entries.
    fn on_heartbeat(&self, rpc: AppendEntriesRequest<Types<R>>, replier: Replier) {
        if !rpc.entries.is_empty() {
            return refuse(replier, Refusal::Invalid("entries do not belong on the heartbeat lane".into()));
        }
        let (raft, position) = (self.raft.clone(), rpc.prev_log_id);
        self.work(replier, async move {
            match Box::pin(raft.append_entries(rpc)).await {
                // Without a position there is nothing to conflict with.
                Ok(AppendEntriesResponse::Conflict) if position.is_none() => {
                    Reply::Refused(Refusal::Invalid("a conflict with nothing".into()))
                }
                Ok(response) => Reply::appended::<R>(response.into_stream_result(position, position)),
                Err(_) => Reply::Refused(Refusal::Stopped),
            }
        });
    }

    /// Answers from a task of its own, unless too many are at work. openraft's futures are large, so they are in boxes of their own:
    /// `answer` is moved a few times on its way into the task.
    fn work(&self, replier: Replier, answer: impl Future<Output = Reply> + Send + 'static) {
        let permit: OwnedSemaphorePermit = match self.in_work.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => return refuse(replier, Refusal::Busy),
        };
        let _task = R::spawn(async move {
            replier.reply(wire::encode_reply(&answer.await));
            drop(permit);
        });
    }

    fn on_snapshot(&self, part: SnapshotPart, replier: Replier) {
        match part {
            SnapshotPart::Begin { vote, last, hash, len } => {
                let metrics = self.raft.server_metrics();
                let mine: Vote = metrics.borrow_watched().vote;
                let last: Option<LogId> = last.map(Into::into);
                let reply = if mine > vote.into() {
                    Reply::HigherVote((&mine).into())
                } else if self.state.applied.read().last >= last {
                    Reply::SnapshotDone((&mine).into())
                } else {
                    self.snapshot.begin(hash, len)
                };
                replier.reply(wire::encode_reply(&reply));
            }
            SnapshotPart::Chunk { hash, offset, data } => {
                replier.reply(wire::encode_reply(&self.snapshot.chunk(hash, offset, &data)));
            }
            SnapshotPart::Install { vote, hash, meta } => {
                let mine: Vote = self.raft.server_metrics().borrow_watched().vote;
                let (data, installing) = match self.snapshot.take(hash) {
                    Ok(taken) => taken,
                    // The reply to an earlier request was lost, or its sender was.
                    Err(_) if self.state.applied.read().last >= meta.last_log_id() => {
                        return replier.reply(wire::encode_reply(&Reply::SnapshotDone((&mine).into())));
                    }
                    Err(reply) => return replier.reply(wire::encode_reply(&reply)),
                };
                let raft = self.raft.clone();
                self.work(replier, async move {
                    let meta = match meta.try_into() {
                        Ok(meta) => meta,
                        Err(e) => return Reply::Refused(Refusal::Invalid(format!("{e}"))),
                    };
                    if !hash_matches::<R>(data.clone(), hash).await {
                        return Reply::Refused(Refusal::Invalid("the data does not match its hash".into()));
                    }
                    let snapshot = Snapshot { meta, snapshot: data };
                    let installed = Box::pin(raft.install_full_snapshot(vote.into(), snapshot)).await;
                    drop(installing);
                    match installed {
                        Ok(response) => Reply::SnapshotDone((&response.vote).into()),
                        Err(_) => Reply::Refused(Refusal::Stopped),
                    }
                });
            }
        }
    }
}

async fn hash_matches<R: Runtime>(data: Bytes, hash: [u8; 32]) -> bool {
    R::blocking(move || blake3::hash(&data) == hash).await.unwrap_or(false)
}

/// Feeds one session's requests to openraft and its answers back, both in order.
async fn run_pipeline<R: Runtime>(
    raft: Raft<Types<R>, State<R>>,
    waiting: mpsc::Receiver<(AppendEntriesRequest<Types<R>>, Replier)>,
) {
    let repliers: Arc<Mutex<VecDeque<Replier>>> = Arc::default();
    let taken = repliers.clone();
    let requests = futures_util::stream::unfold(waiting, move |mut waiting| {
        let taken = taken.clone();
        async move {
            let (rpc, replier) = waiting.recv().await?;
            taken.lock().push_back(replier);
            Some((rpc, waiting))
        }
    });
    let mut results = raft.stream_append(requests).boxed();
    while let Some(result) = results.next().await {
        let replier = repliers.lock().pop_front().expect("a request was taken for every result");
        match result {
            Ok(result) => replier.reply(wire::encode_reply(&Reply::appended::<R>(result))),
            Err(_) => refuse(replier, Refusal::Stopped),
        }
    }
    // The stream ended on a failure, or with the session. What is still queued is dropped, which refuses it.
    let rest = std::mem::take(&mut *repliers.lock());
    rest.into_iter().for_each(|replier| refuse(replier, Refusal::BrokenPipeline));
}

impl<R: Runtime> Core<R> {
    /// Queues ops that another node sent; the outcome goes back as the reply.
    fn on_propose(&self, ops: Vec<Op>, replier: Replier) {
        if ops.len() > queue::BATCH_OPS_MAX {
            return refuse(replier, Refusal::Invalid(format!("{} ops in one message", ops.len())));
        }
        let Some(pending) = self.queue.push(ops, true) else { return refuse(replier, Refusal::Busy) };
        self.inbox.work(replier, async move {
            let outcome =
                pending.outcome.await.unwrap_or_else(|_| Outcome::Unknown("the replica stopped".into()));
            outcome.into()
        });
    }
}

impl<R: Runtime> Core<R> {
    /// What openraft answers under a live lease.
    fn decline_vote(&self) -> Reply {
        let vote = self.server(|m| m.vote);
        let applied = self.state.applied.read();
        let last = applied.last.as_ref().map(Into::into);
        Reply::Voted { vote: (&vote).into(), granted: false, last, now: applied.now() }
    }
}

impl<R: Runtime> Port for Core<R> {
    fn group(&self) -> GroupId {
        self.group
    }

    fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn deliver(self: Arc<Self>, from: NodeId, lane: Lane, body: GroupBody, replier: Replier) {
        if self.is_stopped() {
            return refuse(replier, Refusal::Stopped);
        }
        self.heed(lane, &body);
        let core = self.clone();
        match body {
            GroupBody::Append(append) => self.inbox.on_append(from, lane, append, replier),
            GroupBody::Snapshot(part) => self.inbox.on_snapshot(part, replier),
            GroupBody::Propose(ops) => self.on_propose(ops, replier),
            GroupBody::ReadIndex(None) => {
                self.inbox.work(replier, async move { Box::pin(core.prove_leadership()).await.into() })
            }
            GroupBody::ReadIndex(Some(vouch)) => match self.vouched_index(from, vouch) {
                Some(index) => replier.reply(wire::encode_reply(&self.at(index).into())),
                None => self.inbox.work(replier, async move {
                    Box::pin(core.read_index_for_another(vouch.ahead)).await.into()
                }),
            },
            GroupBody::Quiesce { vote, at } => {
                let rests = self.on_quiesce(from, vote.into(), at.into());
                replier.reply(wire::encode_reply(&Reply::Quiesced(rests)));
            }
            GroupBody::Query(query) => self.inbox.work(replier, async move { core.query_here(&query).await }),
            GroupBody::HandOver(to) => self.inbox.work(replier, async move { core.hand_over_here(to).await }),
            GroupBody::Vote { pre, vote, last, leadership_transfer } => {
                self.inbox.work(replier, async move {
                    if pre && core.leader_is_well().await {
                        return core.decline_vote();
                    }
                    let rpc = wire::vote_request(vote, last, leadership_transfer);
                    if pre && !leadership_transfer {
                        match core.has_promised(rpc.vote.leader_id.voted_for).await {
                            Ok(None) => {}
                            Ok(Some(vote)) => {
                                let now = core.state.applied.read().now();
                                return Reply::voted::<R>(&VoteResponse::new(vote, None, false), now);
                            }
                            Err(_) => return Reply::Refused(Refusal::Stopped),
                        }
                    }
                    let response = match pre {
                        true => Box::pin(core.raft.pre_vote(rpc)).await,
                        false => Box::pin(core.raft.vote(rpc)).await,
                    };
                    let Ok(response) = response else { return Reply::Refused(Refusal::Stopped) };
                    if pre && response.vote_granted {
                        core.ballots.pre_vote_granted();
                    }
                    Reply::voted(&response, core.state.applied.read().now())
                })
            }
            GroupBody::TransferLeader { from, to, last, now } => self.inbox.work(replier, async move {
                core.state.hear(now);
                let rpc = wire::transfer_request(from, to, last);
                match Box::pin(core.raft.handle_transfer_leader(rpc)).await {
                    Ok(result) => Reply::TransferLeader(result.err().map(|e| e.to_string())),
                    Err(_) => Reply::Refused(Refusal::Stopped),
                }
            }),
        }
    }

    fn confirms(&self, claim: &Claim) -> bool {
        let leader = Vote::from(claim.vote).leader_id;
        claim.replica == self.replica && !self.is_stopped() && self.promises.stands_by(leader)
    }

    fn on_found(self: Arc<Self>, node: NodeId) {
        self.wake_for(node);
    }

    fn on_lost(self: Arc<Self>, node: NodeId, restarted: bool) {
        self.press_for_election(node, restarted);
    }

    fn step_aside(self: Arc<Self>, avoid: &dyn Fn(NodeId) -> bool) {
        self.hand_over(avoid);
    }

    fn poke(&self) {
        self.server.bump();
    }
}
