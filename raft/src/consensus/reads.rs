//! Linearizable reads: read indexes, barriers, and queries that a leader answers for nodes without a replica.
//!
//! ReadIndex (Raft dissertation, section 6.4), no leases: a leader asks a quorum every time.

use std::sync::Arc;
use std::time::Duration;

use openraft::ReadPolicy;
use openraft::error::{LinearizableReadError, RaftError};

use super::client::{self, Pace, Venue};
use super::codec::Blob;
use super::config::ANSWER_BYTES_MAX;
use super::core::Core;
use super::link::LinkError;
use super::machine::{GroupError, Member};
use super::runtime::Runtime;
use super::wire::{GroupBody, Refusal, Reply};
use crate::transport::Lane;

/// How long a peer may take to answer a read index or a query.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(2);

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

impl<R: Runtime> Core<R> {
    /// Waits until this replica has applied everything that was committed, anywhere, before the call. Returns the index.
    pub(crate) async fn read_barrier(self: &Arc<Self>) -> Result<u64, GroupError> {
        let mut pace = Pace::<R>::new(&**self);
        let index = self.read_index(&mut pace).await?;
        loop {
            let seen = self.changes.version();
            if self.has_applied(index) {
                return Ok(index);
            }
            if let Some(detail) = self.stopped() {
                return Err(client::stopped(self.group, detail, false));
            }
            let waited = R::timeout_at(pace.deadline, self.changes.after(seen)).await;
            if waited.is_err() && !self.has_applied(index) {
                let detail = format!("this replica has not applied entry {index} yet");
                return Err(GroupError::NoQuorum { group: self.group, detail });
            }
        }
    }

    fn has_applied(&self, index: u64) -> bool {
        self.state.applied.read().last.is_some_and(|last| last.index >= index)
    }

    async fn read_index(self: &Arc<Self>, pace: &mut Pace<'_, R>) -> Result<u64, GroupError> {
        loop {
            let seen = self.server.version();
            let read = match self.office() {
                Some(_) => self.read_index_here().await,
                None => self.read_index_elsewhere().await,
            };
            if let ReadIndex::At(index) = read {
                return Ok(index);
            }
            if let Some(detail) = self.stopped() {
                return Err(client::stopped(self.group, detail, false));
            }
            if !matches!(read, ReadIndex::NotLeader(Some(_))) {
                self.clone().missed();
            }
            match read {
                ReadIndex::NotLeader(leader) if pace.is_over() => {
                    return Err(GroupError::NotLeader { group: self.group, leader });
                }
                ReadIndex::NoQuorum(detail) if pace.is_over() => {
                    return Err(GroupError::NoQuorum { group: self.group, detail });
                }
                ReadIndex::NotLeader(Some(_)) => pace.hop(seen).await,
                _ => pace.pause(seen).await,
            }
        }
    }

    /// The read index as leader. A leader at rest wakes.
    pub(crate) async fn read_index_here(self: &Arc<Self>) -> ReadIndex {
        let _busy = self.rest.busy();
        if self.office().is_some() {
            self.rouse("a read");
        }
        if self.rest.is_muted() {
            return ReadIndex::NoQuorum("the leader lost its quorum and gives others a chance".into());
        }
        match self.raft.get_read_log_id(read_policy()).await {
            Ok((id, _)) => {
                self.rest.confirm();
                ReadIndex::At(id.index())
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.zip(forward.leader_node);
                ReadIndex::NotLeader(leader.map(|(replica, node)| Member { replica, node }))
            }
            Err(e) => ReadIndex::NoQuorum(e.to_string()),
        }
    }

    async fn read_index_elsewhere(&self) -> ReadIndex {
        let Some(target) = self.target() else {
            return ReadIndex::NoQuorum("no leader is known".into());
        };
        let reply = self.route.ask(target, Lane::Control, GroupBody::ReadIndex, READ_TIMEOUT).await;
        let (read, leader) = match reply {
            Ok(Reply::ReadIndex(index)) => {
                self.route.served(target);
                return ReadIndex::At(index);
            }
            Ok(Reply::NotLeader { leader }) => (ReadIndex::NotLeader(leader), leader),
            Ok(Reply::NoQuorum) => (ReadIndex::NoQuorum("the leader has no quorum".into()), None),
            Ok(_) => (ReadIndex::NoQuorum(LinkError::Unexpected.to_string()), None),
            Err(e) => (ReadIndex::NoQuorum(e.to_string()), None),
        };
        self.route.declined(target, leader);
        read
    }

    /// Answers another node's query, as the leader: a read barrier here costs one round, and whoever asks learns where to ask.
    pub(crate) async fn query_here(self: &Arc<Self>, query: &Blob) -> Reply {
        if self.office().is_none() {
            return Reply::NotLeader { leader: self.leader() };
        }
        match R::timeout(READ_TIMEOUT, self.read_barrier()).await {
            Ok(Ok(_)) => {}
            Ok(Err(GroupError::NotLeader { leader, .. })) => return Reply::NotLeader { leader },
            Ok(Err(_)) | Err(_) => return Reply::NoQuorum,
        }
        let applied = self.state.applied.read();
        let answer = applied.machine.answer(applied.now(), query);
        drop(applied);
        match answer {
            Ok(answer) if answer.len() > ANSWER_BYTES_MAX => {
                Reply::Refused(Refusal::AnswerTooLarge(answer.len() as u64))
            }
            Ok(answer) => Reply::Answer(answer.into()),
            Err(why) => Reply::Refused(Refusal::Invalid(why)),
        }
    }
}

fn read_policy() -> ReadPolicy {
    longshore_storage::mutant!("read-by-lease" => return ReadPolicy::LeaseRead);
    ReadPolicy::ReadIndex
}
