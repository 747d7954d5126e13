//! Groups at rest when nodes die, return, restart, or suspect each other wrongly.

use std::collections::BTreeSet;

use longshore_raft::consensus::machine::GroupError;
use longshore_raft::transport::memory::Link;
use longshore_raft::{NodeId, ReplicaId};

use crate::common::*;
use crate::quiescence::timings;

/// Three nodes at rest after some commands.
async fn at_rest(seed: u64) -> Fleet {
    let fleet = Fleet::of(3, seed, timings()).await;
    for n in 1..=3 {
        fleet.group(n).propose(format!("line {n}")).await.unwrap();
    }
    fleet.until_quiescent().await;
    sleep_ms(10_000 + seed * 17).await;
    fleet
}

fn others(node: u64) -> Vec<NodeId> {
    (1..=3).filter(|&n| n != node).map(NodeId).collect()
}

#[test]
fn a_leader_that_dies_at_rest_is_missed_no_longer_than_one_that_is_awake() {
    let mut gaps: Vec<u64> = (0..10)
        .map(|seed| {
            virtual_time(async {
                let mut fleet = at_rest(seed).await;
                let leader = fleet.leader().unwrap();
                let start = now();
                fleet.kill(leader).await;
                let survivor = *fleet.nodes.keys().next().unwrap();
                fleet.group(survivor).propose("after".into()).await.unwrap();
                let gap = ms_since(start);
                assert_eq!(fleet.agree().await.len(), 4);
                gap
            })
        })
        .collect();
    gaps.sort_unstable();
    println!("ms from the death of a leader at rest to the next acknowledged command: {gaps:?}");
    assert!(*gaps.last().unwrap() <= 700, "{gaps:?}");
}

#[test]
fn a_dead_leader_is_replaced_although_nobody_asks_for_anything() {
    virtual_time(async {
        let mut fleet = at_rest(1).await;
        let (term, leader) = fleet.office();
        fleet.kill(leader).await;
        let start = now();
        eventually("another leader", || fleet.leader().is_some_and(|l| l != leader)).await;
        println!("another leader after {} ms", ms_since(start));
        assert!(ms_since(start) <= 700);
        fleet.until_quiescent().await;
        assert_eq!(fleet.office().0, term + 1, "one election");
        assert_eq!(fleet.group(fleet.leader().unwrap()).absent(), [member(&fleet, leader)]);
    });
}

/// What broke another system: the follower that comes back knows nothing of what happened, and the one that does is asleep.
#[test]
fn a_follower_dies_the_group_rests_the_leader_dies_the_follower_returns() {
    for seed in 0..10 {
        virtual_time(async {
            let mut fleet = at_rest(seed).await;
            let (_, leader) = fleet.office();
            let follower = leader % 3 + 1;
            fleet.kill(follower).await;
            fleet.group(leader).propose("without the follower".into()).await.unwrap();
            eventually("rest", || fleet.nodes.values().all(|n| n.group.is_quiescent())).await;
            assert_eq!(fleet.group(leader).absent(), [member(&fleet, follower)]);
            sleep_ms(20_000).await;
            fleet.kill(leader).await;
            sleep_ms(seed * 300).await;
            fleet.start(follower).await;
            let start = now();
            fleet.group(follower).propose("after".into()).await.unwrap();
            let gap = ms_since(start);
            assert!(gap <= 1500, "{gap} ms");
            let lines = fleet.agree().await;
            assert_eq!(lines[3..], ["without the follower", "after"]);
        });
    }
}

#[test]
fn a_laggard_that_returns_catches_up_although_nobody_asks_for_anything() {
    for (name, dies) in [("dead", true), ("cut off", false)] {
        virtual_time(async {
            let mut fleet = at_rest(1).await;
            let (term, leader) = fleet.office();
            let away = leader % 3 + 1;
            match dies {
                true => fleet.kill(away).await,
                false => fleet.net.partition(&[NodeId(away)], &others(away)),
            }
            for n in 0..20 {
                fleet.group(leader).propose(format!("meanwhile {n}")).await.unwrap();
            }
            eventually("rest", || fleet.group(leader).is_quiescent()).await;
            assert_eq!(fleet.group(leader).absent(), [member(&fleet, away)]);
            sleep_ms(60_000).await;
            // No attempts to reach it either.
            fleet.traffic.forget();
            sleep_ms(60_000).await;
            if dies {
                assert_eq!(fleet.traffic.of_groups(), 0, "{:?}", fleet.traffic);
                fleet.start(away).await;
            } else {
                fleet.net.heal();
            }
            let start = now();
            let applied = fleet.group(leader).status().applied;
            fleet.all(|s| s.applied >= applied).await;
            println!("one that was {name} caught up after {} ms", ms_since(start));
            assert!(ms_since(start) <= 2_000);
            fleet.until_quiescent().await;
            assert_eq!(fleet.group(leader).absent(), []);
            assert_eq!(fleet.office(), (term, leader), "nobody had to be elected");
        });
    }
}

/// A replica that starts with its ticks on campaigns within two seconds, and in a group at rest nobody has a lease to refuse it.
#[test]
fn a_follower_that_restarts_does_not_depose_a_leader_at_rest() {
    for seed in 0..5 {
        virtual_time(async {
            let mut fleet = at_rest(seed).await;
            let office = fleet.office();
            for pause_ms in [0, 300, 5_000] {
                for follower in (1..=3).filter(|&n| n != office.1) {
                    fleet.kill(follower).await;
                    sleep_ms(pause_ms).await;
                    fleet.start(follower).await;
                    let leader = fleet.group(office.1);
                    eventually("it heard", || fleet.group(follower).leader().is_some()).await;
                    fleet.until_quiescent().await;
                    sleep_ms(10_000).await;
                    assert_eq!(fleet.office(), office, "after a pause of {pause_ms} ms");
                    assert_eq!(fleet.group(follower).status().applied, leader.status().applied);
                }
            }
        });
    }
}

#[test]
fn a_leader_that_restarts_at_rest_is_replaced_at_once() {
    virtual_time(async {
        let mut fleet = at_rest(1).await;
        let leader = fleet.leader().unwrap();
        let start = now();
        fleet.kill(leader).await;
        fleet.start(leader).await;
        fleet.group(leader % 3 + 1).propose("after".into()).await.unwrap();
        println!("restarted leader: next command acknowledged after {} ms", ms_since(start));
        assert!(ms_since(start) <= 700);
        assert_eq!(fleet.agree().await.len(), 4);
    });
}

#[test]
fn a_fleet_that_restarts_as_a_whole_serves_again() {
    for seed in 0..5 {
        virtual_time(async {
            let mut fleet = at_rest(seed).await;
            for node in 1..=3 {
                fleet.kill(node).await;
            }
            sleep_ms(seed * 1000).await;
            for node in 1..=3 {
                fleet.start(node).await;
                sleep_ms(seed * 100).await;
            }
            let start = now();
            fleet.group(2).propose("after".into()).await.unwrap();
            println!("all restarted: next command acknowledged after {} ms", ms_since(start));
            assert!(ms_since(start) <= 3_000);
            assert_eq!(fleet.agree().await.len(), 4);
        });
    }
}

#[test]
fn one_false_suspecter_changes_nothing_at_rest() {
    virtual_time(async {
        let fleet = at_rest(1).await;
        let office = fleet.office();
        let deaf = office.1 % 3 + 1;
        // It hears the leader no more, presses for an election, and the third has no lease to refuse it.
        fleet.net.partition(&[NodeId(deaf)], &[NodeId(office.1)]);
        sleep_ms(10_000).await;
        let third = fleet.group((office.1 + 1) % 3 + 1);
        third.propose("goes on".into()).await.unwrap();
        let status = third.status();
        assert_eq!((status.term, status.leader.unwrap().node.0), office);
        fleet.net.heal();
        assert_eq!(fleet.agree().await.len(), 4);
        fleet.until_quiescent().await;
        assert_eq!(fleet.office(), office);
    });
}

/// It lives, as far as anybody can tell, but its replica takes nothing.
#[test]
fn a_member_that_lives_and_lags_keeps_the_group_awake() {
    virtual_time(async {
        let fleet = at_rest(1).await;
        let (_, leader) = fleet.office();
        let lags = leader % 3 + 1;
        fleet.traffic.refuse(Some((NodeId(lags), "append")));
        fleet.group(leader).propose("not for one".into()).await.unwrap();
        for _ in 0..200 {
            sleep_ms(100).await;
            assert!(!fleet.group(leader).is_quiescent());
        }
        fleet.traffic.refuse(None);
        fleet.until_quiescent().await;
        assert_eq!(fleet.group(lags).with_state(|l| l.count("not for one")), 1);
    });
}

/// A follower does not take its leader's word for what it has not applied.
#[test]
fn a_group_rests_only_when_the_news_of_the_last_commit_has_arrived() {
    for seed in 0..10 {
        virtual_time(async {
            let fleet = at_rest(seed).await;
            let (_, leader) = fleet.office();
            for other in others(leader) {
                let link = Link { loss_ppm: 400_000, delay_ms: 0..30, ..Link::default() };
                fleet.net.set_link(NodeId(leader), other, link);
            }
            let _ = fleet.group(leader).propose("last".into()).await;
            eventually("rest", || fleet.group(leader).is_quiescent()).await;
            let applied = |n: u64| fleet.group(n).status().applied;
            let absent = fleet.group(leader).absent();
            let told = (1..=3).filter(|&n| absent.iter().all(|m| m.node != NodeId(n)));
            told.for_each(|n| assert_eq!(applied(n), applied(leader), "node {n}"));
        });
    }
}

#[test]
fn a_leader_without_a_quorum_neither_rests_nor_says_that_it_leads() {
    virtual_time(async {
        let mut fleet = at_rest(1).await;
        let leader = fleet.leader().unwrap();
        for node in (1..=3).filter(|&n| n != leader) {
            fleet.kill(node).await;
        }
        let refused = fleet.group(leader).propose("alone".into()).await.unwrap_err();
        assert!(matches!(refused, GroupError::NoQuorum { .. }), "{refused}");
        sleep_ms(30_000).await;
        assert!(!fleet.group(leader).is_quiescent());
        fleet.start(leader % 3 + 1).await;
        fleet.group(leader).propose("together".into()).await.unwrap();
        assert_eq!(fleet.agree().await.last().unwrap(), "together");
    });
}

/// Four of five are left. The leader reaches one of them, who hears the other two; these need that one's vote, and its lease is renewed
/// for as long as the leader goes on.
#[test]
fn a_leader_that_lost_its_quorum_gives_others_a_chance() {
    virtual_time(async {
        let mut fleet = Fleet::of(5, 1, timings()).await;
        fleet.group(1).propose("before".into()).await.unwrap();
        let leader = fleet.leader().unwrap();
        let rest: Vec<u64> = (1..=5).filter(|&n| n != leader).collect();
        fleet.kill(rest[0]).await;
        sleep_ms(1000).await;
        fleet.net.partition(&[NodeId(leader)], &[NodeId(rest[2]), NodeId(rest[3])]);
        let start = now();
        let replaced = || (1..4).any(|n| fleet.group(rest[n]).is_leader());
        eventually("another leader", replaced).await;
        println!("another leader after {} ms", ms_since(start));
        // The lease, the time of silence, and what is left of the bridge's own lease and timer.
        assert!(ms_since(start) <= 15_000);
        fleet.group(rest[2]).propose("after".into()).await.unwrap();
        fleet.net.heal();
        assert_eq!(fleet.agree().await, ["before", "after"]);
    });
}

#[test]
fn a_replica_that_was_removed_while_away_deposes_nobody() {
    virtual_time(async {
        let mut fleet = at_rest(1).await;
        let (_, leader) = fleet.office();
        let removed = leader % 3 + 1;
        fleet.kill(removed).await;
        let keep: BTreeSet<ReplicaId> = (1..=3).filter(|&n| n != removed).map(ReplicaId).collect();
        fleet.group(leader).change_voters(keep).await.unwrap();
        fleet.group(leader).remove_learner(ReplicaId(removed)).await.unwrap();
        let term = fleet.group(leader).status().term;
        eventually("rest", || fleet.group(leader).is_quiescent()).await;
        fleet.start(removed).await;
        sleep_ms(30_000).await;
        assert_eq!(fleet.group(leader).status().term, term);
        assert!(fleet.group(leader).is_quiescent());
    });
}

/// Lost entries, heartbeats and questions, suspicions on both sides: in the end all have applied the same and rest.
#[test]
fn through_loss_and_restarts_it_comes_to_rest_with_everything_applied() {
    for seed in 0..4 {
        virtual_time(async {
            let mut fleet = at_rest(seed).await;
            for (a, b) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
                let link = Link { loss_ppm: 50_000, delay_ms: 0..15, ..Link::default() };
                fleet.net.set_link(NodeId(a), NodeId(b), link);
            }
            for n in 0..12 {
                let node = 1 + (seed + n) % 3;
                fleet.group(node).propose(format!("line {n} of {node}")).await.unwrap();
                sleep_ms(n * 700).await;
                if n % 4 == 3 {
                    fleet.kill(node).await;
                    sleep_ms(n * 200).await;
                    fleet.start(node).await;
                }
            }
            fleet.until_quiescent().await;
            let applied: BTreeSet<_> = (1..=3).map(|n| fleet.group(n).digest()).collect();
            assert_eq!(applied.len(), 1);
        });
    }
}
