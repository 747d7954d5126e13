//! What the records of a group's log say, for tools and simulators that look at a disk from outside.
//!
//! Reads what [`super::log`] and [`super::state`] wrote, through the same codec. Must never: be used by a running replica.

use super::codec::{self, CodecError};
use super::types::{Membership, Payload};
use super::wire;
use crate::model::ids::ReplicaId;

/// The bytes are no such record, or of another version. Nothing can be done about it here.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unreadable {what}: {detail}")]
pub struct Unreadable {
    what: &'static str,
    detail: String,
}

/// Term and index: which entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryId {
    pub term: u64,
    pub index: u64,
}

/// An entry, without what its commands say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryView {
    pub id: EntryId,
    pub kind: EntryKind,
}

/// Who votes by one membership.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Voters {
    /// Sorted; of both configurations if it is `joint`.
    pub all: Vec<ReplicaId>,
    /// A quorum takes a majority of the old and one of the new configuration.
    pub joint: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// What a new leader begins its term with.
    Blank,
    Commands,
    Membership(Voters),
}

/// A vote as it is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VoteRecord {
    pub term: u64,
    pub voted_for: ReplicaId,
    /// Granted by a quorum: `voted_for` led this term.
    pub committed: bool,
}

/// What a snapshot reaches to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotView {
    /// The last entry in it; `None` if there is none.
    pub last: Option<EntryId>,
    /// As of then.
    pub voters: Voters,
}

/// Variants of an entry's payload, as encoded; a test keeps them in step with `wire`.
const BLANK: u32 = 0;
const COMMANDS: u32 = 1;

fn unreadable(what: &'static str) -> impl Fn(CodecError) -> Unreadable {
    move |error| Unreadable { what, detail: error.to_string() }
}

fn voters_of(membership: &Membership) -> Voters {
    Voters { all: membership.voter_ids().collect(), joint: membership.get_joint_config().len() > 1 }
}

/// Reads one entry of the log. Commands are not decoded, so that whole logs can be looked at often.
pub fn entry(bytes: &[u8]) -> Result<EntryView, Unreadable> {
    let failed = unreadable("log entry");
    let (term, index, variant) =
        codec::decode_front::<(u64, u64, u32)>(wire::DISK_VERSION, bytes).map_err(&failed)?;
    let kind = match variant {
        BLANK => EntryKind::Blank,
        COMMANDS => EntryKind::Commands,
        _ => match wire::decode_entry(bytes).map_err(&failed)?.payload {
            Payload::Membership(membership) => EntryKind::Membership(voters_of(&membership)),
            Payload::Blank | Payload::Normal(_) => unreachable!("they have variants of their own"),
        },
    };
    Ok(EntryView { id: EntryId { term, index }, kind })
}

/// Reads a saved vote.
pub fn vote(bytes: &[u8]) -> Result<VoteRecord, Unreadable> {
    let vote = wire::decode_vote(bytes).map_err(unreadable("vote"))?;
    let leader = vote.leader_id;
    Ok(VoteRecord { term: leader.term, voted_for: leader.voted_for, committed: vote.committed })
}

/// Reads a position: a purge marker, or a committed position.
pub fn position(bytes: &[u8]) -> Result<EntryId, Unreadable> {
    let id = wire::decode_log_id(bytes).map_err(unreadable("log position"))?;
    Ok(EntryId { term: id.leader_id.term, index: id.index })
}

/// Reads the meta of a snapshot.
pub fn snapshot(meta: &[u8]) -> Result<SnapshotView, Unreadable> {
    let meta = wire::decode_snapshot_meta(meta).map_err(unreadable("snapshot"))?;
    let last = meta.last_log_id.map(|id| EntryId { term: id.leader_id.term, index: id.index });
    Ok(SnapshotView { last, voters: voters_of(meta.last_membership.membership()) })
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::super::machine::LogTime;
    use super::super::types::{
        Batch, CommittedLeaderId, Entry, LogId, Op, SnapshotMeta, StoredMembership, Vote,
    };
    use super::*;
    use crate::model::ids::NodeId;

    fn log_id(term: u64, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term), index)
    }

    fn membership() -> Membership {
        let configs = [[1, 2, 3], [2, 3, 4]].map(|c| c.map(ReplicaId).into_iter().collect::<BTreeSet<_>>());
        let nodes: BTreeMap<_, _> = (1..=5).map(|n| (ReplicaId(n), NodeId(n + 10))).collect();
        Membership::new(configs.to_vec(), nodes).unwrap()
    }

    #[test]
    fn records_are_told_apart() {
        let voters = Voters { all: (1..=4).map(ReplicaId).collect(), joint: true };
        let commands = Payload::Normal(Batch { time: LogTime(9), ops: vec![Op::Register; 3] });
        for (payload, kind) in [
            (Payload::Blank, EntryKind::Blank),
            (commands, EntryKind::Commands),
            (Payload::Membership(membership()), EntryKind::Membership(voters.clone())),
        ] {
            let bytes = wire::encode_entry(&Entry { log_id: log_id(300, 70_000), payload });
            let id = EntryId { term: 300, index: 70_000 };
            assert_eq!(entry(&bytes), Ok(EntryView { id, kind }));
        }
        for committed in [false, true] {
            let new = if committed { Vote::new_committed } else { Vote::new };
            let expect = VoteRecord { term: 7, voted_for: ReplicaId(3), committed };
            assert_eq!(vote(&wire::encode_vote(&new(7, ReplicaId(3)))), Ok(expect));
        }
        assert_eq!(position(&wire::encode_log_id(&log_id(2, 8))), Ok(EntryId { term: 2, index: 8 }));
        let last_membership = StoredMembership::new(Some(log_id(1, 2)), membership());
        let meta = SnapshotMeta { last_log_id: Some(log_id(4, 5)), last_membership };
        let expect = SnapshotView { last: Some(EntryId { term: 4, index: 5 }), voters };
        assert_eq!(snapshot(&wire::encode_snapshot_meta(&meta)), Ok(expect));
    }

    #[test]
    fn garbage_is_unreadable() {
        for bytes in [&[][..], &[9, 1, 1, 0], &[1], &[1, 1, 1, 7], &[1, 255, 255]] {
            assert!(entry(bytes).is_err() && vote(bytes).is_err(), "{bytes:?}");
            assert!(position(bytes).is_err() && snapshot(bytes).is_err(), "{bytes:?}");
        }
    }
}
