//! A group as a node sees it that has no replica of it: commands and queries go to the leader, wherever it is.
//!
//! The same promises as a replica's: commands are applied exactly once, queries are linearizable. Nothing is kept but who served last, and
//! this node's registration with the group; a handle at rest costs one task that waits.
//! Must never: answer from a copy, or let a request be forwarded twice (a replica that does not lead declines, and says who does).

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::changes::Changes;
use super::client::{self, Pace, Venue};
use super::codec::{self, Blob};
use super::config::{ANSWER_BYTES_MAX, COMMAND_BYTES_MAX, Timings};
use super::link::LinkError;
use super::machine::{GroupError, Member, Queries, StateMachine};
use super::proposer::IN_FLIGHT_MAX;
use super::queue::{self, Item, Outcome, Queue};
use super::reads::READ_TIMEOUT;
use super::route::Route;
use super::router::Router;
use super::runtime::Runtime;
use super::session::Session;
use super::wire::{GroupBody, Refusal, Reply};
use crate::model::ids::{GroupId, NodeId};
use crate::transport::{Lane, TransportRef};

/// What a handle is made of.
pub struct RemoteOptions {
    pub group: GroupId,
    /// This node.
    pub node: NodeId,
    pub transport: TransportRef,
    pub router: Arc<Router>,
    pub timings: Timings,
    /// Nodes that have replicas, as the ring says; see [`RemoteGroup::set_hints`].
    pub hints: Vec<NodeId>,
}

impl fmt::Debug for RemoteOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteOptions")
            .field("group", &self.group)
            .field("hints", &self.hints)
            .finish_non_exhaustive()
    }
}

/// A group of which this node has no replica.
pub struct RemoteGroup<R: Runtime, M: StateMachine> {
    remote: Arc<Remote>,
    types: PhantomData<fn() -> (R, M)>,
}

impl<R: Runtime, M: StateMachine> fmt::Debug for RemoteGroup<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RemoteGroup").field("group", &self.remote.route.group).finish_non_exhaustive()
    }
}

struct Remote {
    route: Arc<Route>,
    queue: Queue,
    session: Arc<Session>,
    patience: Duration,
}

impl Venue for Remote {
    fn group(&self) -> GroupId {
        self.route.group
    }
    fn patience(&self) -> Duration {
        self.patience
    }
    fn queue(&self) -> &Queue {
        &self.queue
    }
    fn session(&self) -> &Arc<Session> {
        &self.session
    }
    fn news(&self) -> &Changes {
        &self.route.router.news
    }
    /// It has nothing that could stop; what is under way when the handle is dropped fails by itself.
    fn stopped(&self) -> Option<String> {
        None
    }
    fn missed(self: Arc<Self>) {}
}

impl<R: Runtime, M: StateMachine> RemoteGroup<R, M> {
    pub fn new(options: RemoteOptions) -> Self {
        let RemoteOptions { group, node, transport, router, timings, hints } = options;
        let route = Route::new(node, group, transport, router, hints);
        let (queue, items) = Queue::new();
        let _task = R::spawn(forward(route.clone(), items));
        let remote = Remote { route, queue, session: Arc::default(), patience: timings.propose_deadline };
        Self { remote: Arc::new(remote), types: PhantomData }
    }

    /// Has a command applied, exactly once; as [`Group::propose`](super::group::Group::propose).
    pub async fn propose(&self, command: M::Command) -> Result<M::Reply, GroupError> {
        let reply = client::execute::<R, _>(&self.remote, codec::encode(&command)).await?;
        codec::decode(&reply).map_err(|e| GroupError::OutcomeUnknown {
            detail: format!("applied, but this program does not understand the reply: {e}"),
        })
    }

    pub(super) fn route(&self) -> &Arc<Route> {
        &self.remote.route
    }

    /// Replaces [`RemoteOptions::hints`]: the ring changed.
    pub fn set_hints(&self, hints: Vec<NodeId>) {
        self.remote.route.set_hints(hints);
    }
}

impl<R: Runtime, M: Queries> RemoteGroup<R, M> {
    /// Has a query answered by the leader, linearizably. Safe to repeat, and repeated until the deadline.
    pub async fn query(&self, query: M::Query) -> Result<M::Answer, GroupError> {
        let query = codec::encode(&query);
        if query.len() > COMMAND_BYTES_MAX {
            return Err(GroupError::TooLarge { len: query.len(), limit: COMMAND_BYTES_MAX });
        }
        let answer = self.remote.answer::<R>(query.into()).await?;
        codec::decode(&answer)
            .map_err(|e| GroupError::Busy(format!("this program does not understand the answer: {e}")))
    }
}

impl Remote {
    async fn answer<R: Runtime>(&self, query: Blob) -> Result<Blob, GroupError> {
        let group = self.route.group;
        let mut pace = Pace::<R>::new(self);
        loop {
            let seen = self.news().version();
            let failure = match self.ask(query.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            match failure {
                Failure::Final(error) => return Err(error),
                Failure::NotLeader(leader) if pace.is_over() => {
                    return Err(GroupError::NotLeader { group, leader });
                }
                Failure::NoAnswer(detail) if pace.is_over() => {
                    return Err(GroupError::NoQuorum { group, detail });
                }
                Failure::NotLeader(Some(_)) => pace.hop(seen).await,
                Failure::NotLeader(None) | Failure::NoAnswer(_) => pace.pause(seen).await,
            }
        }
    }

    async fn ask(&self, query: Blob) -> Result<Blob, Failure> {
        let Some(target) = self.route.target(None, []) else {
            return Err(Failure::NoAnswer("no node that may have a replica is there".into()));
        };
        let reply = self.route.ask(target, Lane::Control, GroupBody::Query(query), READ_TIMEOUT).await;
        let busy = |detail: String| Failure::Final(GroupError::Busy(detail));
        let failure = match reply {
            Ok(Reply::Answer(answer)) => {
                self.route.served(target);
                return Ok(answer);
            }
            Ok(Reply::NotLeader { leader }) => Failure::NotLeader(leader),
            Ok(Reply::NoQuorum) => Failure::NoAnswer("the leader has no quorum".into()),
            Ok(_) => Failure::NoAnswer(LinkError::Unexpected.to_string()),
            Err(LinkError::Refused(Refusal::Invalid(why))) => {
                busy(format!("the leader refuses the query: {why}"))
            }
            Err(LinkError::Refused(Refusal::AnswerTooLarge(len))) => {
                Failure::Final(GroupError::TooLarge { len: len as usize, limit: ANSWER_BYTES_MAX })
            }
            Err(e) => Failure::NoAnswer(e.to_string()),
        };
        let leader = if let Failure::NotLeader(leader) = &failure { *leader } else { None };
        self.route.declined(target, leader);
        Err(failure)
    }
}

/// Why a query was not answered.
enum Failure {
    /// Trying again would not help.
    Final(GroupError),
    NotLeader(Option<Member>),
    NoAnswer(String),
}

/// Sends on what is queued: all that waits in one turn in one message. Ends with the handle.
async fn forward(route: Arc<Route>, mut queue: mpsc::Receiver<Item>) {
    let mut in_flight = FuturesUnordered::new();
    loop {
        let room = in_flight.len() < IN_FLIGHT_MAX;
        tokio::select! {
            biased;
            Some(()) = in_flight.next() => {}
            Some(first) = queue.recv(), if room => {
                let items = queue::gather(first, &mut queue);
                if items.is_empty() {
                    continue;
                }
                match route.target(None, []) {
                    Some(target) => in_flight.push(route.forward(target, items)),
                    None => {
                        let detail = "no node that may have a replica is there".into();
                        queue::answer(queue::unzip(items).1, Outcome::NoQuorum(detail));
                    }
                }
            }
            else => return,
        }
    }
}
