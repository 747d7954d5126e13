//! Leadership handed over on request of nodes that do not lead.

use longshore_raft::consensus::machine::GroupError;
use longshore_raft::{NodeId, ReplicaId};

use crate::common::*;
use crate::quiescence::timings;
use crate::remote::outsider;

#[test]
fn whoever_asks_the_leader_hands_over() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let (remote, _monitor) = outsider(&fleet, &[1, 2, 3]);
        let led_by = |node: u64| move |s: &_| leads(s, node);
        let next = |node: u64| node % 3 + 1;

        let first = fleet.leader().unwrap();
        let (asked, heir) = (next(first), next(next(first)));
        fleet.group(asked).transfer_leader_from_afar(member(&fleet, heir).replica).await.unwrap();
        fleet.all(led_by(heir)).await;
        // The heir asked of itself, the leader of itself, and a node without a replica; groups at rest too.
        fleet.group(asked).transfer_leader_from_afar(member(&fleet, asked).replica).await.unwrap();
        fleet.all(led_by(asked)).await;
        fleet.until_quiescent().await;
        fleet.group(asked).transfer_leader_from_afar(member(&fleet, asked).replica).await.unwrap();
        remote.transfer_leader_from_afar(member(&fleet, asked).replica).await.unwrap();
        assert_eq!(fleet.leader(), Some(asked), "it led already");
        remote.transfer_leader_from_afar(member(&fleet, first).replica).await.unwrap();
        fleet.all(led_by(first)).await;
        assert_eq!(remote.propose("after".into()).await.unwrap(), 1);
    });
}

fn leads(status: &longshore_raft::consensus::machine::GroupStatus, node: u64) -> bool {
    status.leader.is_some_and(|leader| leader.node == NodeId(node))
}

/// A leader that hands over takes nothing until another leads; one without a vote never would, and an only voter would wait for ever.
#[test]
fn nobody_hands_over_to_a_learner() {
    virtual_time(async {
        let mut fleet = Fleet::of(1, 1, timings()).await;
        fleet.start(2).await;
        let (group, learner) = (fleet.group(1), member(&fleet, 2));
        group.add_learner(learner).await.unwrap();
        group.propose("before".into()).await.unwrap();
        let refused = group.transfer_leader(learner.replica).await.unwrap_err();
        assert!(matches!(&refused, GroupError::Membership(text) if text.contains("no vote")), "{refused}");
        group.propose("after".into()).await.unwrap();
        assert_eq!(fleet.agree().await, ["before", "after"]);
    });
}

#[test]
fn an_heir_that_is_not_fit_is_refused() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, timings()).await;
        let (remote, _monitor) = outsider(&fleet, &[1, 2, 3]);
        let leader = fleet.leader().unwrap();
        let (other, dead) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let dead_replica = member(&fleet, dead).replica;
        fleet.kill(dead).await;
        let group = fleet.group(leader);
        eventually("the dead node is suspected", || {
            fleet.nodes[&leader].monitor.state(NodeId(dead))
                != longshore_raft::consensus::monitor::PeerState::Alive
        })
        .await;
        for (replica, why) in [(ReplicaId(99), "no vote"), (dead_replica, "cannot be reached")] {
            for refused in [
                group.transfer_leader_from_afar(replica).await.unwrap_err(),
                fleet.group(other).transfer_leader_from_afar(replica).await.unwrap_err(),
                remote.transfer_leader_from_afar(replica).await.unwrap_err(),
            ] {
                let refused_well = matches!(&refused, GroupError::Membership(text) if text.contains(why));
                assert!(refused_well, "{refused}");
            }
        }
        assert_eq!(fleet.leader(), Some(leader));
        let heir = member(&fleet, other).replica;
        drop(group);
        fleet.kill(leader).await;
        fleet.kill(other).await;
        let nobody = remote.transfer_leader_from_afar(heir).await.unwrap_err();
        assert!(matches!(nobody, GroupError::NoQuorum { .. }), "{nobody}");
    });
}

/// It applies entries of minutes ago as they come, and would take office with the log time of then: keys that have expired would be back.
#[test]
fn whoever_has_just_caught_up_does_not_lead_with_the_log_time_of_old_entries() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let old = fleet.leader().unwrap();
        let away = old % 3 + 1;
        let others: Vec<NodeId> = (1..=3).filter(|&n| n != away).map(NodeId).collect();
        fleet.net.partition(&[NodeId(away)], &others);
        sleep_ms(1_000).await;
        fleet.group(old).propose("line".into()).await.unwrap();
        sleep_ms(60_000).await;
        fleet.net.heal();
        eventually("caught up", || fleet.group(away).with_state(|l| l.count("line")) == 1).await;
        let before = fleet.group(old).log_time();
        fleet.group(old).transfer_leader(member(&fleet, away).replica).await.unwrap();
        eventually("a new leader", || fleet.group(away).is_leader()).await;
        let after = fleet.group(away).log_time();
        assert!(after >= before, "{after:?} in office, {before:?} of the leader before");
    });
}
