//! Linearizable reads: read indexes, barriers, and queries that a leader answers for nodes without a replica.
//!
//! ReadIndex (Raft dissertation, section 6.4), no leases: a quorum confirms the leader for every read, though many reads share a question.

use std::sync::Arc;
use std::time::Duration;

use openraft::error::{LinearizableReadError, RaftError};
use openraft::{ReadPolicy, ServerState};

use super::client::{self, Pace, Venue};
use super::codec::Blob;
use super::config::ANSWER_BYTES_MAX;
use super::confirm::Confirmer;
use super::core::Core;
use super::link::LinkError;
use super::machine::{GroupError, LogTime, Member};
use super::runtime::Runtime;
use super::types::Vote;
use super::wire::{Claim, GroupBody, Refusal, Reply, Vouch};
use crate::model::ids::{NodeId, ReplicaId};
use crate::transport::Lane;

/// How long a peer may take to answer a read index or a query.
pub(crate) const READ_TIMEOUT: Duration = Duration::from_secs(2);

/// What asking for a read index came to.
pub(crate) enum ReadIndex {
    At { index: u64, now: LogTime },
    NotLeader(Option<Member>),
    NoQuorum(String),
}

/// A leader's claim, and who could confirm it.
struct Standing {
    vote: Vote,
    /// Of the last entry applied, which is of the leader's own term.
    index: u64,
    /// The other voters.
    others: Vec<Member>,
    /// How many of them make a quorum with this replica.
    needed: usize,
}

impl From<ReadIndex> for Reply {
    fn from(read: ReadIndex) -> Self {
        match read {
            ReadIndex::At { index, now } => Reply::ReadIndex { index, now },
            ReadIndex::NotLeader(leader) => Reply::NotLeader { leader },
            ReadIndex::NoQuorum(_) => Reply::NoQuorum,
        }
    }
}

impl<R: Runtime> Core<R> {
    /// Waits until this replica has applied everything that was committed, anywhere, before the call. Returns the index. The leader is asked for news
    /// of so many commits after it at once.
    pub(crate) async fn read_barrier(self: &Arc<Self>, ahead: u8) -> Result<u64, GroupError> {
        let mut pace = Pace::<R>::new(&**self);
        let index = self.read_index(&mut pace, ahead).await?;
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

    async fn read_index(self: &Arc<Self>, pace: &mut Pace<'_, R>, ahead: u8) -> Result<u64, GroupError> {
        loop {
            let seen = self.server.version();
            let read = match self.office() {
                Some(_) => self.read_index_here().await,
                None => self.read_index_elsewhere(ahead).await,
            };
            if let ReadIndex::At { index, .. } = read {
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

    /// The read index as leader, without a round of heartbeats if peers confirm that they still stand by it; a leader at rest then
    /// rests on.
    pub(crate) async fn read_index_here(self: &Arc<Self>) -> ReadIndex {
        match self.confirmed_index().await {
            Some(index) => self.at(index),
            None => self.prove_leadership().await,
        }
    }

    /// The read index, for a follower that will wait until it has applied as much, and so many entries more.
    pub(crate) async fn read_index_for_another(self: &Arc<Self>, ahead: u8) -> ReadIndex {
        let read = self.read_index_here().await;
        if let ReadIndex::At { index, .. } = read {
            self.news.want(index + u64::from(ahead));
        }
        read
    }

    pub(crate) fn at(&self, index: u64) -> ReadIndex {
        ReadIndex::At { index, now: self.state.applied.read().now() }
    }

    /// What this replica can say of its leadership by itself; `None` if it needs openraft for that.
    fn standing(&self) -> Option<Standing> {
        let applied = self.state.applied.read().last?;
        let (vote, membership) = self.server(|m| {
            let leads = m.state == ServerState::Leader && m.vote.committed;
            let mine = leads && m.vote.leader_id.voted_for == self.replica;
            mine.then(|| (m.vote, Arc::clone(&m.membership_config)))
        })?;
        let leader = vote.leader_id;
        let settled = applied.leader_id.term == leader.term
            && self.promises.stands_by(leader)
            && self.promises.is_last_membership(membership.log_id().as_ref());
        let [voters] = membership.membership().get_joint_config().as_slice() else { return None };
        if !settled || self.is_stopped() || self.rest.is_muted() {
            return None;
        }
        let member = |&replica: &ReplicaId| {
            membership.membership().get_node(&replica).map(|&node| Member { replica, node })
        };
        let others: Vec<Member> = voters.iter().filter(|&&v| v != self.replica).filter_map(member).collect();
        let needed = voters.len() / 2 + 1 - usize::from(voters.contains(&self.replica));
        Some(Standing { vote, index: applied.index, others, needed })
    }

    /// The read index for a node that says by whose vote it stands, if that is enough. Asks nobody.
    pub(crate) fn vouched_index(&self, from: NodeId, vouch: Vouch) -> Option<u64> {
        let _busy = self.rest.busy();
        let standing = self.standing()?;
        let sender = Member { replica: vouch.replica, node: from };
        let confirms =
            standing.others.contains(&sender) && Vote::from(vouch.vote).leader_id == standing.vote.leader_id;
        (standing.needed <= usize::from(confirms)).then(|| {
            self.news.want(standing.index + u64::from(vouch.ahead));
            standing.index
        })
    }

    /// The read index, if as many peers confirm this leader as a quorum takes.
    ///
    /// ReadIndex (Raft dissertation, section 6.4) asks a quorum whether the leader still leads. openraft asks by heartbeats, through the core
    /// of each group; this asks what the answer rests on: whether a quorum has promised its vote to nobody since. A promise is noted
    /// before it is written, and a candidate hears of it after; so when a quorum confirms, no later leader was elected before the question,
    /// and nothing later than `index` was acknowledged before the read began. `index` is what is applied here in the leader's own
    /// term: the leader acknowledges what it has applied, and its first entry of the term comes after all that others have.
    async fn confirmed_index(self: &Arc<Self>) -> Option<u64> {
        let _busy = self.rest.busy();
        let Standing { vote, index, others, needed } = self.standing()?;
        longshore_storage::mutant!("read-by-lease" => return Some(index));
        // The next ones round by id, so that the asking is spread, and each asks the same ones in one message.
        let later = others.iter().filter(|m| m.node > self.node);
        let earlier = others.iter().filter(|m| m.node < self.node);
        let usable = later.chain(earlier).filter(|m| !self.router.is_suspect(m.node));
        let claim = |m: &Member| {
            let claim = Claim { group: self.group, replica: m.replica, vote: (&vote).into() };
            Confirmer::ask::<R>(&self.router, &self.route.transport, m.node, claim)
        };
        let asked: Vec<_> = usable.take(needed).map(claim).collect();
        if asked.len() < needed {
            return None;
        }
        for answer in asked {
            if answer.await != Ok(true) {
                return None;
            }
        }
        Some(index)
    }

    /// The read index as leader, by a round of heartbeats. A leader at rest wakes, and has its lease back.
    pub(crate) async fn prove_leadership(self: &Arc<Self>) -> ReadIndex {
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
                self.at(id.index())
            }
            Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                let leader = forward.leader_id.zip(forward.leader_node);
                ReadIndex::NotLeader(leader.map(|(replica, node)| Member { replica, node }))
            }
            Err(e) => ReadIndex::NoQuorum(e.to_string()),
        }
    }

    async fn read_index_elsewhere(&self, ahead: u8) -> ReadIndex {
        let Some(target) = self.target() else {
            return ReadIndex::NoQuorum("no leader is known".into());
        };
        let vouch =
            self.promises.leader().map(|vote| Vouch { replica: self.replica, vote: (&vote).into(), ahead });
        let reply = self.route.ask(target, Lane::Control, GroupBody::ReadIndex(vouch), READ_TIMEOUT).await;
        let (read, leader) = match reply {
            Ok(Reply::ReadIndex { index, now }) => {
                self.route.served(target);
                self.state.hear(now);
                return ReadIndex::At { index, now };
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
        match R::timeout(READ_TIMEOUT, self.read_barrier(0)).await {
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
