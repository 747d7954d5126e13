//! What is sent comes back as it was, and what is damaged is an error.

use proptest::prelude::*;

use super::*;
use crate::consensus::machine::LogTime;
use crate::consensus::runtime::TokioRuntime;
use crate::consensus::types::CommandId;
use crate::model::ids::ClientId;

type Rt = TokioRuntime;

fn log_id() -> impl Strategy<Value = LogId> {
    (0u64..5, any::<u64>()).prop_map(|(term, index)| WLogId { term, index }.into())
}

fn vote() -> impl Strategy<Value = Vote> {
    (any::<u64>(), any::<u64>(), any::<bool>()).prop_map(|(term, candidate, committed)| {
        WVote { term, candidate: ReplicaId(candidate), committed }.into()
    })
}

fn op() -> impl Strategy<Value = Op> {
    let body = proptest::collection::vec(any::<u8>(), 0..50).prop_map(Blob::from);
    let id =
        proptest::option::of((any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(client, seq, acked)| {
            CommandId { client: ClientId(client), seq, acked_below: acked }
        }));
    prop_oneof![
        (id, body).prop_map(|(id, body)| Op::Command { id, body }),
        Just(Op::Register),
        any::<u64>().prop_map(|t| Op::ExpireClients { unseen_since: LogTime(t) }),
    ]
}

fn membership() -> impl Strategy<Value = Membership> {
    proptest::collection::btree_set(1u64..20, 1..6).prop_map(|voters| {
        let voters: BTreeSet<ReplicaId> = voters.into_iter().map(ReplicaId).collect();
        let nodes: std::collections::BTreeMap<_, _> =
            (1..25).map(|n| (ReplicaId(n), NodeId(n * 7))).collect();
        Membership::new(vec![voters], nodes).unwrap()
    })
}

fn payload() -> impl Strategy<Value = Payload> {
    let batch = (any::<u64>(), proptest::collection::vec(op(), 0..8));
    prop_oneof![
        Just(Payload::Blank),
        batch.prop_map(|(time, ops)| Payload::Normal(Batch { time: LogTime(time), ops })),
        membership().prop_map(Payload::Membership),
    ]
}

proptest! {
    #[test]
    fn records_come_back_as_they_were(id in log_id(), payload in payload(), vote in vote(), membership in membership()) {
        let entry = Entry { log_id: id, payload };
        prop_assert_eq!(decode_entry(&encode_entry(&entry)), Ok(entry));
        prop_assert_eq!(decode_log_id(&encode_log_id(&id)), Ok(id));
        prop_assert_eq!(decode_vote(&encode_vote(&vote)), Ok(vote));
        let last_membership = StoredMembership::new(Some(id), membership);
        let meta = SnapshotMeta { last_log_id: Some(id), last_membership };
        prop_assert_eq!(decode_snapshot_meta(&encode_snapshot_meta(&meta)), Ok(meta));
    }

    #[test]
    fn append_requests_come_back_as_they_were(
        vote in vote(),
        commit in proptest::option::of(log_id()),
        payloads in proptest::collection::vec(payload(), 0..6),
    ) {
        let prev: LogId = WLogId { term: 1, index: 41 }.into();
        let entries: Vec<Entry> = payloads
            .into_iter()
            .zip(42..)
            .map(|(payload, index)| Entry { log_id: WLogId { term: 2, index }.into(), payload })
            .collect();
        let rpc = AppendEntriesRequest::<Types<Rt>> { vote, prev_log_id: Some(prev), entries, leader_commit: commit };
        let body = GroupBody::Append(Append::new(9, &rpc));
        let message = Message::Group(GroupRequest { group: GroupId(3), to: Some(ReplicaId(4)), body });
        let decoded = decode_message(&encode_message(&message)).unwrap();
        prop_assert_eq!(&decoded, &message);
        let Message::Group(GroupRequest { body: GroupBody::Append(append), .. }) = decoded else { unreachable!() };
        let back = append.into_rpc::<Rt>().unwrap();
        prop_assert_eq!(back.entries, rpc.entries);
        prop_assert_eq!((back.vote, back.prev_log_id, back.leader_commit), (vote, Some(prev), commit));
    }

    #[test]
    fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        for version in [WIRE_VERSION, DISK_VERSION] {
            if let Some(first) = bytes.first_mut() {
                *first = version;
            }
            if let Ok(Message::Group(GroupRequest { body: GroupBody::Append(append), .. })) = decode_message(&bytes) {
                let _ = append.into_rpc::<Rt>();
            }
            let _ = (decode_reply(&bytes), decode_entry(&bytes), decode_vote(&bytes), decode_log_id(&bytes));
            let _ = decode_snapshot_meta(&bytes);
        }
    }

    /// One flipped or missing byte of a real message: an error or another message, never a panic.
    #[test]
    fn damage_never_panics(payload in payload(), at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<bool>()) {
        let entry = Entry { log_id: WLogId { term: 1, index: 7 }.into(), payload };
        let mut bytes = encode_entry(&entry).to_vec();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] ^= flip }
        prop_assert_ne!(decode_entry(&bytes), Ok(entry));
    }
}

#[test]
fn entries_that_are_not_consecutive_are_refused() {
    let entry = |index| WEntry { id: WLogId { term: 1, index }, payload: WPayload::Blank };
    let append = |prev: Option<u64>, indexes: &[u64]| Append {
        session: 0,
        vote: WVote { term: 1, candidate: ReplicaId(1), committed: true },
        prev: prev.map(|index| WLogId { term: 1, index }),
        entries: indexes.iter().copied().map(entry).collect(),
        commit: None,
    };
    for (prev, indexes, fine) in [
        (None, &[0, 1][..], true),
        (Some(4), &[5, 6], true),
        (Some(4), &[], true),
        (None, &[1], false),
        (Some(4), &[6], false),
        (Some(4), &[5, 7], false),
        (Some(4), &[5, 5], false),
        (Some(u64::MAX), &[0], false),
    ] {
        assert_eq!(append(prev, indexes).into_rpc::<Rt>().is_ok(), fine, "{prev:?} {indexes:?}");
    }
}

#[test]
fn voters_that_are_no_members_are_refused() {
    let wire = WMembership { configs: vec![vec![ReplicaId(1)]], members: Vec::new() };
    assert!(Membership::try_from(wire).is_err());
    let empty = WMembership { configs: vec![Vec::new()], members: Vec::new() };
    assert!(Membership::try_from(empty).is_err());
}
