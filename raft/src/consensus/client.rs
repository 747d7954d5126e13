//! How a replica gets things done wherever the leader is: commands, exactly once, and read barriers.
//!
//! Every attempt at a command carries the same (client, sequence), so retrying through leader changes applies it at most
//! once. Invariant: an error other than "outcome unknown" means that the command did not and will not take effect.

use std::time::Duration;

use openraft::Instant as _;
use openraft::ReadPolicy;
use openraft::error::{LinearizableReadError, RaftError};

use super::codec::Blob;
use super::config::COMMAND_BYTES_MAX;
use super::core::Core;
use super::link::{self, LinkError};
use super::machine::{GroupError, Member};
use super::proposer::Outcome;
use super::runtime::Runtime;
use super::session::{Begin, Ticket};
use super::types::{Op, OpReply};
use super::wire::{GroupBody, GroupRequest, Message, Reply};
use crate::transport::Lane;

/// First wait between attempts when nothing said where to go on; doubled up to [`PAUSE_MAX`]. News cuts it short.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(160);
/// Redirections that are followed at once before a pause.
const HOPS_MAX: u32 = 3;
/// How long a peer may take to answer a read index.
const READ_INDEX_TIMEOUT: Duration = Duration::from_secs(2);

/// What asking for a read index came to.
pub(crate) enum ReadIndex {
    At(u64),
    NotLeader(Option<Member>),
    NoQuorum(String),
}

impl From<ReadIndex> for Reply {
    fn from(read: ReadIndex) -> Self {
        match read {
            ReadIndex::At(index) => Reply::ReadIndex(index),
            ReadIndex::NotLeader(leader) => Reply::NotLeader { leader },
            ReadIndex::NoQuorum(_) => Reply::NoQuorum,
        }
    }
}

/// The pace of attempts up to a deadline.
struct Pace<'a, R: Runtime> {
    core: &'a Core<R>,
    deadline: R::Instant,
    pause: Duration,
    hops: u32,
}

impl<'a, R: Runtime> Pace<'a, R> {
    fn new(core: &'a Core<R>) -> Self {
        let deadline = R::Instant::now() + core.timings.propose_deadline;
        Self { core, deadline, pause: PAUSE_MIN, hops: 0 }
    }

    fn is_over(&self) -> bool {
        R::Instant::now() >= self.deadline
    }

    /// Another node was named: go there at once, unless they send us round.
    async fn hop(&mut self, seen: u64) {
        self.hops += 1;
        if self.hops > HOPS_MAX {
            self.pause(seen).await;
        }
    }

    /// Waits for news of the group since `seen`, a little while, or the deadline.
    async fn pause(&mut self, seen: u64) {
        self.hops = 0;
        let until = self.deadline.min(R::Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        tokio::select! {
            biased;
            _ = self.core.server.after(seen) => {}
            () = R::sleep_until(until) => {}
        }
    }
}

impl<R: Runtime> Core<R> {
    /// Applies an encoded command exactly once; returns the encoded reply.
    pub(crate) async fn execute(&self, body: Vec<u8>) -> Result<Blob, GroupError> {
        if body.len() > COMMAND_BYTES_MAX {
            return Err(GroupError::TooLarge { len: body.len(), limit: COMMAND_BYTES_MAX });
        }
        let body = Blob::from(body);
        let mut pace = Pace::new(self);
        loop {
            let ticket = self.begin(&mut pace).await?;
            match self.run(&ticket, &body, &mut pace).await? {
                Some(reply) => return Ok(reply),
                // The registration was gone before the command was ever proposed: safe to begin anew.
                None => continue,
            }
        }
    }

    /// A sequence number, registering a client first if there is none.
    async fn begin(&self, pace: &mut Pace<'_, R>) -> Result<Ticket, GroupError> {
        loop {
            match self.session.begin() {
                Begin::Ticket(ticket) => return Ok(ticket),
                Begin::Full => {
                    let freed = self.session.wait_freed(|| self.session.has_room());
                    if R::timeout_at(pace.deadline, freed).await.is_err() {
                        return Err(GroupError::Busy(
                            "too many commands of this node are outstanding".into(),
                        ));
                    }
                }
                Begin::Unregistered => self.register(pace).await?,
            }
        }
    }

    async fn register(&self, pace: &mut Pace<'_, R>) -> Result<(), GroupError> {
        let _one_at_a_time = self.session.registering.lock().await;
        if self.session.is_registered() {
            return Ok(());
        }
        // Registering twice leaves a client behind that nobody uses, and that expires: no harm, so any failure is retried.
        match self.attempt_until_applied(|| Op::Register, pace).await? {
            (OpReply::Registered(client), _) => {
                self.session.register(client);
                Ok(())
            }
            (OpReply::ClientsFull, _) => {
                Err(GroupError::Busy(format!("group {} has as many clients as it can have", self.group)))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// `None`: the client is unknown and the command was never proposed.
    async fn run(
        &self,
        ticket: &Ticket,
        body: &Blob,
        pace: &mut Pace<'_, R>,
    ) -> Result<Option<Blob>, GroupError> {
        let op = || Op::Command { id: Some(ticket.id()), body: body.clone() };
        let (reply, doubt) = self.attempt_until_applied(op, pace).await?;
        match reply {
            OpReply::Done(reply) => Ok(Some(reply)),
            OpReply::UnknownClient => {
                self.session.forget(ticket.client);
                if doubt { Err(GroupError::ClientExpired(ticket.client)) } else { Ok(None) }
            }
            OpReply::ReplyDropped => Err(GroupError::OutcomeUnknown {
                detail: "the command was applied once; its reply is no longer kept".into(),
            }),
            OpReply::Undecodable(why) => Err(GroupError::Busy(format!(
                "this group's replicas run a version that refuses the command: {why}"
            ))),
            other => Err(unexpected(&other)),
        }
    }

    /// Attempts one op until it is applied; also says whether an earlier attempt may have been.
    async fn attempt_until_applied(
        &self,
        op: impl Fn() -> Op,
        pace: &mut Pace<'_, R>,
    ) -> Result<(OpReply, bool), GroupError> {
        let mut doubt = false;
        loop {
            let seen = self.server.version();
            let outcome = match self.queue.push(vec![op()], false) {
                Some(mut pending) => match R::timeout_at(pace.deadline, &mut pending.outcome).await {
                    Ok(outcome) => outcome.unwrap_or_else(|_| Outcome::Unknown("the replica stopped".into())),
                    Err(_) => pending.give_up(),
                },
                None => Outcome::Busy,
            };
            doubt |= matches!(outcome, Outcome::Unknown(_));
            match outcome {
                Outcome::Applied(replies) => {
                    let reply = replies.into_iter().next();
                    let reply = reply.ok_or_else(|| unknown("a reply is missing"))?;
                    return Ok((reply, doubt));
                }
                _ if self.is_stopped() => return Err(self.stopped(doubt)),
                Outcome::Unknown(detail) if pace.is_over() => {
                    return Err(GroupError::OutcomeUnknown { detail });
                }
                _ if pace.is_over() && doubt => return Err(unknown("no leader answered in time")),
                Outcome::NotLeader(leader) if pace.is_over() => {
                    return Err(GroupError::NotLeader { group: self.group, leader });
                }
                Outcome::NoQuorum(detail) if pace.is_over() => {
                    return Err(GroupError::NoQuorum { group: self.group, detail });
                }
                Outcome::Busy if pace.is_over() => {
                    return Err(GroupError::Busy(format!("group {} takes no more proposals", self.group)));
                }
                Outcome::NotLeader(Some(_)) => pace.hop(seen).await,
                _ => pace.pause(seen).await,
            }
        }
    }

    fn stopped(&self, doubt: bool) -> GroupError {
        let detail = self.status().fatal.unwrap_or_else(|| "shut down".into());
        match doubt {
            true => GroupError::OutcomeUnknown { detail },
            false => GroupError::Stopped { group: self.group, detail },
        }
    }

    /// Waits until this replica has applied everything that was committed, anywhere, before the call (ReadIndex; Raft
    /// dissertation, section 6.4). Returns the index. No leases: a leader asks a quorum every time.
    pub(crate) async fn read_barrier(&self) -> Result<u64, GroupError> {
        let mut pace = Pace::new(self);
        let index = self.read_index(&mut pace).await?;
        let applied = || self.state.applied.read().last.is_some_and(|last| last.index >= index);
        loop {
            let seen = self.changes.version();
            if applied() {
                return Ok(index);
            }
            if self.is_stopped() {
                return Err(self.stopped(false));
            }
            if R::timeout_at(pace.deadline, self.changes.after(seen)).await.is_err() && !applied() {
                let detail = format!("this replica has not applied entry {index} yet");
                return Err(GroupError::NoQuorum { group: self.group, detail });
            }
        }
    }

    async fn read_index(&self, pace: &mut Pace<'_, R>) -> Result<u64, GroupError> {
        loop {
            let seen = self.server.version();
            let read = match self.office() {
                Some(_) => self.read_index_here().await,
                None => self.read_index_elsewhere().await,
            };
            match read {
                ReadIndex::At(index) => return Ok(index),
                _ if self.is_stopped() => return Err(self.stopped(false)),
                ReadIndex::NotLeader(leader) if pace.is_over() => {
                    return Err(GroupError::NotLeader { group: self.group, leader });
                }
                ReadIndex::NoQuorum(detail) if pace.is_over() => {
                    return Err(GroupError::NoQuorum { group: self.group, detail });
                }
                ReadIndex::NotLeader(Some(_)) => pace.hop(seen).await,
                ReadIndex::NotLeader(None) | ReadIndex::NoQuorum(_) => pace.pause(seen).await,
            }
        }
    }

    /// The read index as leader.
    pub(crate) async fn read_index_here(&self) -> ReadIndex {
        match self.raft.get_read_log_id(read_policy()).await {
            Ok((id, _)) => ReadIndex::At(id.index()),
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.zip(forward.leader_node);
                ReadIndex::NotLeader(leader.map(|(replica, node)| Member { replica, node }))
            }
            Err(e) => ReadIndex::NoQuorum(e.to_string()),
        }
    }

    async fn read_index_elsewhere(&self) -> ReadIndex {
        let Some((node, to)) = self.target() else {
            return ReadIndex::NoQuorum("no leader is known".into());
        };
        let request = GroupRequest { group: self.group, to, body: GroupBody::ReadIndex };
        let message = Message::Group(request);
        match link::ask(&self.transport, node, Lane::Control, &message, READ_INDEX_TIMEOUT).await {
            Ok(Reply::ReadIndex(index)) => ReadIndex::At(index),
            Ok(Reply::NotLeader { leader }) => {
                if let Some(leader) = leader {
                    self.learn_leader(node, leader);
                }
                ReadIndex::NotLeader(leader)
            }
            Ok(Reply::NoQuorum) => ReadIndex::NoQuorum("the leader has no quorum".into()),
            Ok(_) => ReadIndex::NoQuorum(LinkError::Unexpected.to_string()),
            Err(e) => ReadIndex::NoQuorum(e.to_string()),
        }
    }
}

fn read_policy() -> ReadPolicy {
    longshore_storage::mutant!("read-by-lease" => return ReadPolicy::LeaseRead);
    ReadPolicy::ReadIndex
}

fn unknown(detail: &str) -> GroupError {
    GroupError::OutcomeUnknown { detail: detail.into() }
}

fn unexpected(reply: &OpReply) -> GroupError {
    GroupError::OutcomeUnknown { detail: format!("unexpected reply {reply:?}") }
}
