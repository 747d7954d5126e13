//! Our own forms of what goes over the wire and to disk, and their conversion to and from openraft's. Nowhere else.
//!
//! Every message and record starts with one byte of format version. Must never: trust a length, an index or an
//! identifier that came in; whatever is malformed is an error, not a panic.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::raft::{
    AppendEntriesRequest, StreamAppendError, StreamAppendResult, TransferLeaderRequest, VoteRequest,
    VoteResponse,
};

use super::codec::{Blob, CodecError, decode_versioned, encode_versioned};
use super::machine::{LogTime, Member};
use super::runtime::Runtime;
use super::types::{
    Batch, CommittedLeaderId, Entry, LogId, Membership, Op, OpReply, Payload, SnapshotMeta, StoredMembership,
    Types, Vote,
};
use crate::model::ids::{GroupId, NodeId, ReplicaId};

/// First byte of every message of this module; other values are other protocols' or other versions'.
pub(crate) const WIRE_VERSION: u8 = 0xC1;
/// First byte of every record in a log or snapshot.
pub(super) const DISK_VERSION: u8 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WLogId {
    term: u64,
    index: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WVote {
    term: u64,
    candidate: ReplicaId,
    committed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WMembership {
    /// One set of voters, or two while they change (joint consensus).
    configs: Vec<Vec<ReplicaId>>,
    members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
enum WPayload {
    Blank,
    Batch(Batch),
    Membership(WMembership),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WEntry {
    id: WLogId,
    payload: WPayload,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct WSnapshotMeta {
    last: Option<WLogId>,
    membership_at: Option<WLogId>,
    membership: WMembership,
}

impl WSnapshotMeta {
    /// The last entry that the snapshot stands for.
    pub(crate) fn last_log_id(&self) -> Option<LogId> {
        self.last.map(Into::into)
    }
}

/// Anything that one node asks of another.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Message {
    Group(GroupRequest),
    Ping(Ping),
    /// Whether the receiver still stands by these leaders; answered with [`Reply::Confirmed`].
    Confirm(Vec<Claim>),
}

/// That a leader leads, which a replica on the receiving node is to confirm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Claim {
    pub(crate) group: GroupId,
    /// Who is asked.
    pub(crate) replica: ReplicaId,
    /// By which the leader leads.
    pub(crate) vote: WVote,
}

/// By whose vote whoever asks for a read index stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Vouch {
    pub(crate) replica: ReplicaId,
    pub(crate) vote: WVote,
    /// So many commits after the index it wants to hear of at once.
    pub(crate) ahead: u8,
}

/// A request to one replica.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct GroupRequest {
    pub(crate) group: GroupId,
    /// The replica it is meant for: another under the same node, older or newer, must refuse it. `None` only for
    /// [`GroupBody::Propose`], [`GroupBody::ReadIndex`], [`GroupBody::Query`] and [`GroupBody::HandOver`], which any replica can
    /// answer rightly.
    pub(crate) to: Option<ReplicaId>,
    pub(crate) body: GroupBody,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum GroupBody {
    Append(Append),
    Vote {
        pre: bool,
        vote: WVote,
        last: Option<WLogId>,
        leadership_transfer: bool,
    },
    TransferLeader {
        from: WVote,
        to: ReplicaId,
        last: Option<WLogId>,
        /// Log time as the old leader tells it: the new one may need nobody else's vote.
        now: LogTime,
    },
    Snapshot(SnapshotPart),
    Propose(Vec<Op>),
    /// Answered with [`Reply::ReadIndex`]. With a voucher the leader may count the sender among those who confirm it; without, it proves
    /// by a round of heartbeats that it leads, for which it wakes.
    ReadIndex(Option<Vouch>),
    /// The leader by this vote is about to put the group to rest: every member holds and has applied `at`. Answered with
    /// [`Reply::Quiesced`].
    Quiesce {
        vote: WVote,
        at: WLogId,
    },
    /// A query of the state machine, encoded; answered by the leader, linearizably, with [`Reply::Answer`].
    Query(Blob),
    /// Asks the leader to hand leadership to this voter; answered with [`Reply::TransferLeader`].
    HandOver(ReplicaId),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Append {
    /// Requests of one session are one pipeline: after the first failure the rest of it is void.
    pub(crate) session: u64,
    vote: WVote,
    prev: Option<WLogId>,
    entries: Vec<WEntry>,
    commit: Option<WLogId>,
}

/// Step of a snapshot transfer; `hash` (blake3 of the whole data) names the transfer.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum SnapshotPart {
    /// Asks where to go on from; answered with [`Reply::SnapshotNext`], or [`Reply::SnapshotDone`] if the receiver has
    /// applied up to `last` already.
    Begin { vote: WVote, last: Option<WLogId>, hash: [u8; 32], len: u64 },
    /// Answered with [`Reply::SnapshotNext`]: the offset that is wanted next.
    Chunk { hash: [u8; 32], offset: u64, data: Blob },
    /// Verifies and installs; answered with [`Reply::SnapshotDone`], or with [`Reply::SnapshotNext`] and its length if that is under way.
    Install { vote: WVote, hash: [u8; 32], meta: WSnapshotMeta },
}

/// Sent every 100 ms by the lower node id of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Ping {
    /// Of the sender's process: another one means that it restarted.
    pub(crate) incarnation: u64,
    /// Age in milliseconds of the sender's oldest write that is not durable yet.
    pub(crate) unsynced_ms: u64,
    pub(crate) unix_ms: u64,
    /// Milliseconds since the sender last heard from the receiver, or first knew of it.
    pub(crate) deaf_ms: u64,
    /// How far the receiver's clock is ahead of the sender's, as the sender measured it last.
    pub(crate) skew_ms: Option<i64>,
}

/// The answer to a [`Message`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Reply {
    Appended(Option<WLogId>),
    Conflict(WLogId),
    HigherVote(WVote),
    Voted {
        vote: WVote,
        granted: bool,
        last: Option<WLogId>,
        /// Log time as the voter tells it: a leader must not be behind what others have gone by.
        now: LogTime,
    },
    /// `None`: accepted; else why not.
    TransferLeader(Option<String>),
    SnapshotNext(u64),
    SnapshotDone(WVote),
    Proposed(Vec<OpReply>),
    ReadIndex {
        index: u64,
        /// Log time as the leader tells it; a replica that was away knows less.
        now: LogTime,
    },
    /// Nothing was proposed or read.
    NotLeader {
        leader: Option<Member>,
    },
    /// The leader has no quorum; nothing was proposed or read.
    NoQuorum,
    /// May or may not be proposed.
    Unknown(String),
    Refused(Refusal),
    Pong {
        incarnation: u64,
        unsynced_ms: u64,
        unix_ms: u64,
    },
    /// Whether the receiver agrees that there is nothing left to do, and rests now.
    Quiesced(bool),
    /// The machine's answer to a query, encoded.
    Answer(Blob),
    /// For each claim, in order, whether the receiver has promised its vote to that leader and to nobody since.
    Confirmed(Vec<bool>),
}

/// Why a replica did not take a request at all.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no replica of that group here")]
    UnknownGroup,
    #[error("meant for another replica; here is {0}")]
    WrongReplica(ReplicaId),
    #[error("an earlier request of the same pipeline failed")]
    BrokenPipeline,
    #[error("too many requests are waiting")]
    Busy,
    #[error("the replica has stopped")]
    Stopped,
    #[error("invalid: {0}")]
    Invalid(String),
    #[error("an answer of {0} bytes is over the limit")]
    AnswerTooLarge(u64),
}

pub(crate) fn encode_message(message: &Message) -> Bytes {
    encode_versioned(WIRE_VERSION, message)
}
pub(crate) fn decode_message(bytes: &[u8]) -> Result<Message, CodecError> {
    decode_versioned(WIRE_VERSION, bytes)
}
pub(crate) fn encode_reply(reply: &Reply) -> Bytes {
    encode_versioned(WIRE_VERSION, reply)
}
pub(crate) fn decode_reply(bytes: &[u8]) -> Result<Reply, CodecError> {
    decode_versioned(WIRE_VERSION, bytes)
}

pub(crate) fn encode_entry(entry: &Entry) -> Bytes {
    encode_versioned(DISK_VERSION, &WEntry::from(entry))
}
pub(crate) fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    decode_versioned::<WEntry>(DISK_VERSION, bytes)?.try_into()
}
pub(crate) fn encode_log_id(id: &LogId) -> Bytes {
    encode_versioned(DISK_VERSION, &WLogId::from(id))
}
pub(crate) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    Ok(decode_versioned::<WLogId>(DISK_VERSION, bytes)?.into())
}
pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    encode_versioned(DISK_VERSION, &WVote::from(vote))
}
pub(crate) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    Ok(decode_versioned::<WVote>(DISK_VERSION, bytes)?.into())
}
pub(crate) fn encode_snapshot_meta(meta: &SnapshotMeta) -> Bytes {
    encode_versioned(DISK_VERSION, &WSnapshotMeta::from(meta))
}
pub(crate) fn decode_snapshot_meta(bytes: &[u8]) -> Result<SnapshotMeta, CodecError> {
    decode_versioned::<WSnapshotMeta>(DISK_VERSION, bytes)?.try_into()
}

impl From<&LogId> for WLogId {
    fn from(id: &LogId) -> Self {
        Self { term: id.leader_id.term, index: id.index }
    }
}
impl From<WLogId> for LogId {
    fn from(id: WLogId) -> Self {
        LogId::new(CommittedLeaderId::new(id.term), id.index)
    }
}

impl From<&Vote> for WVote {
    fn from(vote: &Vote) -> Self {
        Self { term: vote.leader_id.term, candidate: vote.leader_id.voted_for, committed: vote.committed }
    }
}
impl From<WVote> for Vote {
    fn from(vote: WVote) -> Self {
        let new = if vote.committed { Vote::new_committed } else { Vote::new };
        new(vote.term, vote.candidate)
    }
}

impl From<&Membership> for WMembership {
    fn from(membership: &Membership) -> Self {
        Self {
            configs: membership.get_joint_config().iter().map(|c| c.iter().copied().collect()).collect(),
            members: membership.nodes().map(|(&replica, &node)| Member { replica, node }).collect(),
        }
    }
}
impl TryFrom<WMembership> for Membership {
    type Error = CodecError;
    fn try_from(wire: WMembership) -> Result<Self, CodecError> {
        if wire.configs.is_empty() && wire.members.is_empty() {
            return Ok(Membership::default());
        }
        let configs: Vec<BTreeSet<ReplicaId>> =
            wire.configs.into_iter().map(|c| c.into_iter().collect()).collect();
        let nodes: std::collections::BTreeMap<ReplicaId, NodeId> =
            wire.members.into_iter().map(|m| (m.replica, m.node)).collect();
        Membership::new(configs, nodes).map_err(|e| CodecError::Malformed(e.to_string()))
    }
}

impl From<&Entry> for WEntry {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            Payload::Blank => WPayload::Blank,
            Payload::Normal(batch) => WPayload::Batch(batch.clone()),
            Payload::Membership(m) => WPayload::Membership(m.into()),
        };
        Self { id: (&entry.log_id).into(), payload }
    }
}
impl TryFrom<WEntry> for Entry {
    type Error = CodecError;
    fn try_from(wire: WEntry) -> Result<Self, CodecError> {
        let payload = match wire.payload {
            WPayload::Blank => Payload::Blank,
            WPayload::Batch(batch) => Payload::Normal(batch),
            WPayload::Membership(m) => Payload::Membership(m.try_into()?),
        };
        Ok(Entry { log_id: wire.id.into(), payload })
    }
}

impl From<&SnapshotMeta> for WSnapshotMeta {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.as_ref().map(Into::into),
            membership_at: meta.last_membership.log_id().as_ref().map(Into::into),
            membership: meta.last_membership.membership().into(),
        }
    }
}
impl TryFrom<WSnapshotMeta> for SnapshotMeta {
    type Error = CodecError;
    fn try_from(wire: WSnapshotMeta) -> Result<Self, CodecError> {
        let membership_at = wire.membership_at.map(Into::into);
        Ok(SnapshotMeta {
            last_log_id: wire.last.map(Into::into),
            last_membership: StoredMembership::new(membership_at, wire.membership.try_into()?),
        })
    }
}

impl Append {
    pub(crate) fn new<R: Runtime>(session: u64, rpc: &AppendEntriesRequest<Types<R>>) -> Self {
        Self {
            session,
            vote: (&rpc.vote).into(),
            prev: rpc.prev_log_id.as_ref().map(Into::into),
            entries: rpc.entries.iter().map(Into::into).collect(),
            commit: rpc.leader_commit.as_ref().map(Into::into),
        }
    }

    /// By whose authority; and, for a leader's heartbeat, how far it has committed.
    pub(crate) fn vote(&self) -> Vote {
        self.vote.into()
    }

    pub(crate) fn commit(&self) -> Option<LogId> {
        self.commit.map(Into::into)
    }

    /// Where the log ends that this makes: the last entry, or what it follows on.
    pub(crate) fn last(&self) -> Option<WLogId> {
        self.entries.last().map(|entry| entry.id).or(self.prev)
    }

    /// openraft's form. Refuses entries that do not follow on from `prev`, since openraft asserts that they do.
    pub(crate) fn into_rpc<R: Runtime>(self) -> Result<AppendEntriesRequest<Types<R>>, CodecError> {
        let mut next = self.prev.map_or(Some(0), |p| p.index.checked_add(1));
        for entry in &self.entries {
            if Some(entry.id.index) != next {
                return Err(CodecError::Malformed("entries are not consecutive".into()));
            }
            next = entry.id.index.checked_add(1);
        }
        Ok(AppendEntriesRequest {
            vote: self.vote.into(),
            prev_log_id: self.prev.map(Into::into),
            entries: self.entries.into_iter().map(Entry::try_from).collect::<Result<_, _>>()?,
            leader_commit: self.commit.map(Into::into),
        })
    }
}

impl Reply {
    pub(crate) fn appended<R: Runtime>(result: StreamAppendResult<Types<R>>) -> Self {
        match result {
            Ok(last) => Reply::Appended(last.as_ref().map(Into::into)),
            Err(StreamAppendError::Conflict(id)) => Reply::Conflict((&id).into()),
            Err(StreamAppendError::HigherVote(vote)) => Reply::HigherVote((&vote).into()),
        }
    }

    /// The append result in this reply, or the reply itself.
    pub(crate) fn into_append_result<R: Runtime>(self) -> Result<StreamAppendResult<Types<R>>, Reply> {
        match self {
            Reply::Appended(last) => Ok(Ok(last.map(Into::into))),
            Reply::Conflict(id) => Ok(Err(StreamAppendError::Conflict(id.into()))),
            Reply::HigherVote(vote) => Ok(Err(StreamAppendError::HigherVote(vote.into()))),
            other => Err(other),
        }
    }

    pub(crate) fn voted<R: Runtime>(resp: &VoteResponse<Types<R>>, now: LogTime) -> Self {
        Reply::Voted {
            vote: (&resp.vote).into(),
            granted: resp.vote_granted,
            last: resp.last_log_id.as_ref().map(Into::into),
            now,
        }
    }

    pub(crate) fn into_vote_response<R: Runtime>(self) -> Result<VoteResponse<Types<R>>, Reply> {
        match self {
            Reply::Voted { vote, granted, last, .. } => Ok(VoteResponse {
                vote: vote.into(),
                vote_granted: granted,
                last_log_id: last.map(Into::into),
            }),
            other => Err(other),
        }
    }
}

impl GroupBody {
    /// Whether it need not name the replica that it is for.
    pub(crate) fn any_can_answer(&self) -> bool {
        matches!(self, Self::Propose(_) | Self::ReadIndex(_) | Self::Query(_) | Self::HandOver(_))
    }

    pub(crate) fn vote<R: Runtime>(pre: bool, rpc: &VoteRequest<Types<R>>) -> Self {
        GroupBody::Vote {
            pre,
            vote: (&rpc.vote).into(),
            last: rpc.last_log_id.as_ref().map(Into::into),
            leadership_transfer: rpc.leadership_transfer,
        }
    }

    pub(crate) fn transfer_leader<R: Runtime>(rpc: &TransferLeaderRequest<Types<R>>, now: LogTime) -> Self {
        GroupBody::TransferLeader {
            from: rpc.from_leader().into(),
            to: *rpc.to_node_id(),
            last: rpc.last_log_id().map(Into::into),
            now,
        }
    }
}

pub(crate) fn vote_request<R: Runtime>(
    vote: WVote,
    last: Option<WLogId>,
    leadership_transfer: bool,
) -> VoteRequest<Types<R>> {
    VoteRequest { vote: vote.into(), last_log_id: last.map(Into::into), leadership_transfer }
}

pub(crate) fn transfer_request<R: Runtime>(
    from: WVote,
    to: ReplicaId,
    last: Option<WLogId>,
) -> TransferLeaderRequest<Types<R>> {
    TransferLeaderRequest::new(from.into(), to, last.map(Into::into))
}

#[cfg(test)]
mod tests;
