//! A look into consensus messages, for tools and simulators: what a message is, and forged replies to it.
//!
//! Production code never needs it: a transport must not interpret bodies. A simulator uses [`kind_of`] to write traces that people
//! can read, and the forged replies to plant bugs that its checkers must find.

use std::fmt;

use bytes::Bytes;

use super::codec::decode_prefix;
use super::machine::LogTime;
use super::wire::{self, GroupBody, GroupRequest, Message, Reply, WIRE_VERSION, WLogId, WVote};
use crate::model::ids::{GroupId, ReplicaId};

/// What a request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    /// Replicates so many entries; none: a heartbeat, or a probe.
    Append {
        group: GroupId,
        entries: u64,
    },
    PreVote(GroupId),
    Vote(GroupId),
    TransferLeader(GroupId),
    Snapshot(GroupId),
    /// Forwarded commands.
    Propose(GroupId),
    ReadIndex(GroupId),
    /// The leader puts the group to rest.
    Quiesce(GroupId),
    /// Of the state machine.
    Query(GroupId),
    /// Asks the leader to hand leadership over.
    HandOver(GroupId),
    /// Of the failure detector.
    Ping,
    /// Whether the receiver still stands by so many leaders.
    Confirm(u64),
    /// Not a consensus message, or not one of this version.
    Other,
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { group, entries: 0 } => write!(f, "append {group} empty"),
            Self::Append { group, entries } => write!(f, "append {group} {entries} entries"),
            Self::PreVote(group) => write!(f, "pre-vote {group}"),
            Self::Vote(group) => write!(f, "vote {group}"),
            Self::TransferLeader(group) => write!(f, "transfer-leader {group}"),
            Self::Snapshot(group) => write!(f, "snapshot {group}"),
            Self::Propose(group) => write!(f, "propose {group}"),
            Self::ReadIndex(group) => write!(f, "read-index {group}"),
            Self::Quiesce(group) => write!(f, "quiesce {group}"),
            Self::Query(group) => write!(f, "query {group}"),
            Self::HandOver(group) => write!(f, "hand-over {group}"),
            Self::Ping => f.write_str("ping"),
            Self::Confirm(claims) => write!(f, "confirm {claims} leaders"),
            Self::Other => f.write_str("other"),
        }
    }
}

/// The beginning of every message, as `Message` and `GroupRequest` are encoded: enums are their variant's number.
type GroupHead = (u32, GroupId, Option<ReplicaId>, u32);
/// The beginning of `Append` up to the number of its entries.
type AppendHead = (u64, WVote, Option<WLogId>, u64);

/// What `request` is. Reads only its beginning, so that it costs the same whatever the size.
pub fn kind_of(request: &[u8]) -> MessageKind {
    head(request).unwrap_or(MessageKind::Other)
}

fn head(request: &[u8]) -> Option<MessageKind> {
    let (&version, body) = request.split_first()?;
    if version != WIRE_VERSION {
        return None;
    }
    if body.first() == Some(&1) {
        return Some(MessageKind::Ping);
    }
    if body.first() == Some(&2) {
        return decode_prefix::<(u32, u64)>(body).map(|((_, claims), _)| MessageKind::Confirm(claims));
    }
    let ((message, group, _, variant), rest) = decode_prefix::<GroupHead>(body)?;
    match (message, variant) {
        (0, 0) => {
            let ((_, _, _, entries), _) = decode_prefix::<AppendHead>(rest)?;
            Some(MessageKind::Append { group, entries })
        }
        (0, 1) => match decode_prefix::<bool>(rest)? {
            (true, _) => Some(MessageKind::PreVote(group)),
            (false, _) => Some(MessageKind::Vote(group)),
        },
        (0, 2) => Some(MessageKind::TransferLeader(group)),
        (0, 3) => Some(MessageKind::Snapshot(group)),
        (0, 4) => Some(MessageKind::Propose(group)),
        (0, 5) => Some(MessageKind::ReadIndex(group)),
        (0, 6) => Some(MessageKind::Quiesce(group)),
        (0, 7) => Some(MessageKind::Query(group)),
        (0, 8) => Some(MessageKind::HandOver(group)),
        _ => None,
    }
}

/// The reply to a pre-vote request that grants it; `None` if `request` is not one.
pub fn grant_pre_vote(request: &[u8]) -> Option<Bytes> {
    match wire::decode_message(request).ok()? {
        Message::Group(GroupRequest { body: GroupBody::Vote { pre: true, vote, last, .. }, .. }) => {
            Some(wire::encode_reply(&Reply::Voted { vote, granted: true, last, now: LogTime(0) }))
        }
        _ => None,
    }
}

/// The reply to an append request that says that all of it is durable; `None` if `request` is not one.
pub fn acknowledge_append(request: &[u8]) -> Option<Bytes> {
    match wire::decode_message(request).ok()? {
        Message::Group(GroupRequest { body: GroupBody::Append(append), .. }) => {
            Some(wire::encode_reply(&Reply::Appended(append.last())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use openraft::raft::{AppendEntriesRequest, VoteRequest};

    use super::*;
    use crate::consensus::codec::Blob;
    use crate::consensus::runtime::TokioRuntime;
    use crate::consensus::types::{CommittedLeaderId, Entry, LogId, Payload, Vote};
    use crate::consensus::wire::{Append, Ping, SnapshotPart, encode_message, transfer_request};

    type Rt = TokioRuntime;

    const GROUP: GroupId = GroupId(300);

    fn log_id(index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(900), index)
    }

    fn request(body: GroupBody) -> Bytes {
        encode_message(&Message::Group(GroupRequest { group: GROUP, to: Some(ReplicaId(7)), body }))
    }

    fn append(entries: u64) -> Bytes {
        let rpc = AppendEntriesRequest {
            vote: Vote::new_committed(900, ReplicaId(2)),
            prev_log_id: Some(log_id(1000)),
            entries: (1001..1001 + entries)
                .map(|index| Entry { log_id: log_id(index), payload: Payload::Blank })
                .collect(),
            leader_commit: Some(log_id(900)),
        };
        request(GroupBody::Append(Append::new::<Rt>(u64::MAX, &rpc)))
    }

    fn vote(pre: bool) -> Bytes {
        let rpc = VoteRequest::new(Vote::new(901, ReplicaId(2)), Some(log_id(1000)));
        request(GroupBody::vote::<Rt>(pre, &rpc))
    }

    #[test]
    fn every_kind_is_recognised() {
        let transfer = transfer_request::<Rt>((&Vote::new(1, ReplicaId(2))).into(), ReplicaId(3), None);
        let chunk = SnapshotPart::Chunk { hash: [1; 32], offset: 2, data: Blob::default() };
        let rest = GroupBody::Quiesce { vote: (&Vote::new(1, ReplicaId(2))).into(), at: (&log_id(3)).into() };
        let ping = Ping { incarnation: 1, unsynced_ms: 2, unix_ms: 3, deaf_ms: 4, skew_ms: None };
        let claim = wire::Claim {
            group: GROUP,
            replica: ReplicaId(900),
            vote: (&Vote::new_committed(900, ReplicaId(2))).into(),
        };
        let claims = wire::encode_message(&Message::Confirm(vec![claim; 3]));
        let cases = [
            (append(0), MessageKind::Append { group: GROUP, entries: 0 }),
            (append(500), MessageKind::Append { group: GROUP, entries: 500 }),
            (vote(true), MessageKind::PreVote(GROUP)),
            (vote(false), MessageKind::Vote(GROUP)),
            (request(GroupBody::transfer_leader(&transfer, LogTime(7))), MessageKind::TransferLeader(GROUP)),
            (request(GroupBody::Snapshot(chunk)), MessageKind::Snapshot(GROUP)),
            (request(GroupBody::Propose(vec![])), MessageKind::Propose(GROUP)),
            (request(GroupBody::ReadIndex(None)), MessageKind::ReadIndex(GROUP)),
            (claims, MessageKind::Confirm(3)),
            (request(rest), MessageKind::Quiesce(GROUP)),
            (request(GroupBody::Query(Blob::default())), MessageKind::Query(GROUP)),
            (request(GroupBody::HandOver(ReplicaId(2))), MessageKind::HandOver(GROUP)),
            (encode_message(&Message::Ping(ping)), MessageKind::Ping),
            (Bytes::new(), MessageKind::Other),
            (Bytes::from_static(&[WIRE_VERSION]), MessageKind::Other),
            (Bytes::from_static(b"something else"), MessageKind::Other),
            (append(500).slice(..8), MessageKind::Other),
        ];
        for (request, expected) in cases {
            assert_eq!(kind_of(&request), expected);
        }
    }

    #[test]
    fn forged_replies_are_what_openraft_takes_for_success() {
        let granted = wire::decode_reply(&grant_pre_vote(&vote(true)).unwrap()).unwrap();
        assert!(granted.into_vote_response::<Rt>().unwrap().vote_granted);
        assert_eq!(grant_pre_vote(&vote(false)), None);
        for entries in [0, 3] {
            let reply = wire::decode_reply(&acknowledge_append(&append(entries)).unwrap()).unwrap();
            assert_eq!(reply.into_append_result::<Rt>().unwrap(), Ok(Some(log_id(1000 + entries))));
        }
        assert_eq!(acknowledge_append(&vote(true)), None);
    }
}
