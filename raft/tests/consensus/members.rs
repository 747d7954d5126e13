//! Members come and go: learners, voters, removed and wiped replicas.

use std::collections::BTreeSet;

use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::{GroupError, Member, Role};
use longshore_raft::{NodeId, ReplicaId};

use crate::common::*;

fn replicas(ids: &[u64]) -> BTreeSet<ReplicaId> {
    ids.iter().copied().map(ReplicaId).collect()
}

/// A fleet's life, as a transcript.
#[test]
fn a_fleet_grows_shrinks_and_replaces() {
    virtual_time(async {
        let mut fleet = Fleet::new(1, Timings::control());
        fleet.start(1).await;
        fleet.group(1).bootstrap().await.unwrap();
        fleet.group(1).propose("alone".into()).await.unwrap();
        println!("one node is a fleet");

        fleet.start(2).await;
        // A node that is no member yet has things done by those it has heard of.
        fleet.group(2).propose("from outside".into()).await.unwrap();
        assert_eq!(fleet.group(2).status().role, Role::Learner);
        fleet.group(1).add_learner(member(&fleet, 2)).await.unwrap();
        fleet.agree().await;
        let others = fleet.group(2).bootstrap().await.unwrap_err();
        assert!(matches!(others, GroupError::Membership(_)), "{others}");
        println!("a second follows as a learner");

        fleet.start(3).await;
        fleet.group(1).add_learner(member(&fleet, 3)).await.unwrap();
        fleet.group(1).change_voters(replicas(&[1, 2, 3])).await.unwrap();
        fleet.all(|s| s.voters.len() == 3 && s.learners.is_empty()).await;
        println!("three vote");

        fleet.kill(3).await;
        fleet.group(2).propose("without three".into()).await.unwrap();
        fleet.wipe(3, 33);
        fleet.start(3).await;
        let leader = fleet.leader().unwrap();
        fleet.group(leader).add_learner(member(&fleet, 3)).await.unwrap();
        fleet.group(leader).change_voters(replicas(&[1, 2, 33])).await.unwrap();
        fleet.group(leader).remove_learner(ReplicaId(3)).await.unwrap();
        fleet.all(|s| s.voters.len() == 3 && s.learners.is_empty()).await;
        assert_eq!(fleet.agree().await, ["alone", "from outside", "without three"]);
        println!("the third lost its disk, came back as another replica, and caught up");

        let leader = fleet.leader().unwrap();
        let heirs: Vec<u64> = (1..=3).filter(|&n| n != leader).map(|n| fleet.replicas[&n]).collect();
        fleet.group(leader).change_voters(replicas(&heirs)).await.unwrap();
        let left = fleet.group(leader);
        left.wait_for(|s| s.role != Role::Leader).await.unwrap();
        let heir = leader % 3 + 1;
        fleet.group(heir).propose("after".into()).await.unwrap();
        println!("the leader gave its vote away and stepped down");
        assert_eq!(fleet.agree().await.len(), 4);
    });
}

#[test]
fn rules_of_membership_are_refused_with_their_reason() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        let leader = fleet.leader().unwrap();
        let group = fleet.group(leader);
        let unknown = group.change_voters(replicas(&[1, 2, 9])).await.unwrap_err();
        assert!(matches!(&unknown, GroupError::Membership(why) if why.contains("r9")), "{unknown}");
        let none = group.change_voters(BTreeSet::new()).await.unwrap_err();
        assert!(matches!(none, GroupError::Membership(_)), "{none}");
        let voter = group.remove_learner(ReplicaId(2)).await.unwrap_err();
        assert!(matches!(&voter, GroupError::Membership(why) if why.contains("vote")), "{voter}");
        group.bootstrap().await.unwrap();
        assert_eq!(group.status().voters.len(), 3, "done before, so nothing is done");
        let follower = fleet.group(leader % 3 + 1);
        let elsewhere =
            follower.add_learner(Member { replica: ReplicaId(9), node: NodeId(9) }).await.unwrap_err();
        assert!(matches!(elsewhere, GroupError::NotLeader { leader: Some(_), .. }), "{elsewhere}");
    });
}

#[test]
fn what_is_meant_for_an_old_replica_never_reaches_a_new_one() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, Timings::control()).await;
        for n in 0..5 {
            fleet.group(1).propose(format!("line {n}")).await.unwrap();
        }
        let leader = fleet.leader().unwrap();
        let reborn = leader % 3 + 1;
        fleet.kill(reborn).await;
        // The node comes back empty, under another id, and nobody has added that one: the leader still sends entries to the
        // old id, on the same node.
        fleet.wipe(reborn, 77);
        fleet.start(reborn).await;
        fleet.group(leader).propose("meanwhile".into()).await.unwrap();
        sleep_ms(3000).await;
        let status = fleet.group(reborn).status();
        assert_eq!((status.last_log, status.term, status.applied), (None, 0, None), "it took something");
        // Nor did the old id count as alive again: one more death and the quorum is gone.
        assert_eq!(fleet.group(leader).status().voters.len(), 3);
    });
}

#[test]
fn a_replica_that_was_removed_disturbs_nobody() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        let leader = fleet.leader().unwrap();
        let removed = leader % 3 + 1;
        // It is away while it is removed, so it does not know.
        let others: Vec<NodeId> = (1..=3).filter(|&n| n != removed).map(NodeId).collect();
        fleet.net.partition(&[NodeId(removed)], &others);
        let keep: Vec<u64> = (1..=3).filter(|&n| n != removed).collect();
        fleet.group(leader).change_voters(replicas(&keep)).await.unwrap();
        fleet.group(leader).remove_learner(ReplicaId(removed)).await.unwrap();
        let term = fleet.group(leader).status().term;
        fleet.net.heal();
        sleep_ms(10_000).await;
        let status = fleet.group(leader).status();
        assert_eq!((status.role, status.term), (Role::Leader, term));
        fleet.group(leader).propose("undisturbed".into()).await.unwrap();
    });
}
