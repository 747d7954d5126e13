//! Groups at rest: that they cost nothing, and that whatever is asked of them wakes them.

use std::time::Duration;

use longshore_raft::NodeId;
use longshore_raft::consensus::config::{Quiescence, Timings};
use longshore_raft::consensus::machine::Role;
use longshore_raft::transport::memory::Link;

use crate::common::*;

/// Rests after one to two seconds.
pub(crate) fn timings() -> Timings {
    Timings { quiescence: Some(Quiescence { idle: Duration::from_secs(1) }), ..Timings::partition() }
}

impl Fleet {
    pub(crate) async fn until_quiescent(&self) {
        eventually("rest", || self.nodes.values().all(|node| node.group.is_quiescent())).await;
    }

    /// Term and leader as every node that runs sees them.
    pub(crate) fn office(&self) -> (u64, u64) {
        let seen: Vec<_> = self.nodes.values().map(|node| node.group.status()).collect();
        let office = |s: &longshore_raft::consensus::machine::GroupStatus| {
            (s.term, s.leader.map_or(0, |leader| leader.node.0))
        };
        assert!(seen.iter().all(|s| office(s) == office(&seen[0])), "{seen:#?}");
        office(&seen[0])
    }
}

#[test]
fn a_group_at_rest_says_nothing_for_ten_minutes_and_log_time_goes_on() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        fleet.group(2).propose("before".into()).await.unwrap();
        fleet.until_quiescent().await;
        let office = fleet.office();
        let stamped = fleet.group(1).with_state(|l| l.last_time.0);
        let times = || (1..=3).map(|n| fleet.group(n).log_time().0).collect::<Vec<_>>();
        let before = times();
        // Heartbeats that were on their way have arrived.
        sleep_ms(10).await;
        fleet.traffic.forget();
        sleep_ms(600_000).await;
        assert_eq!(fleet.traffic.of_groups(), 0, "{:?}", fleet.traffic);
        for (before, after) in before.iter().zip(times()) {
            assert!((600_000..601_000).contains(&(after - before)), "log time went on by {}", after - before);
        }
        assert_eq!(fleet.office(), office);

        fleet.group(3).propose("after".into()).await.unwrap();
        fleet.agree().await;
        let passed = fleet.group(1).with_state(|l| l.last_time.0) - stamped;
        assert!((600_000..610_000).contains(&passed), "the log says that {passed} ms passed");
        assert_eq!(fleet.office(), office, "nobody had to be elected");
    });
}

#[test]
fn reads_of_a_group_at_rest_wake_nobody() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        fleet.group(1).propose("line".into()).await.unwrap();
        fleet.until_quiescent().await;
        sleep_ms(20_000).await;
        fleet.traffic.forget();
        for node in 1..=3 {
            fleet.group(node).read_barrier().await.unwrap();
            assert_eq!(fleet.group(node).with_state(|l| l.count("line")), 1);
        }
        sleep_ms(5_000).await;
        assert!((1..=3).all(|node| fleet.group(node).is_quiescent()));
        // Two through followers, one at the leader.
        let counts =
            (fleet.traffic.count("read-index"), fleet.traffic.count("confirm"), fleet.traffic.of_groups());
        assert_eq!(counts, (2, 1, 3), "{:?}", fleet.traffic);
    });
}

/// No entry says how long the group has been at rest: a replica that was away hears it from the leader.
#[test]
fn log_time_does_not_go_back_where_a_replica_restarts_in_a_group_at_rest() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, timings()).await;
        fleet.group(1).propose("line".into()).await.unwrap();
        fleet.until_quiescent().await;
        sleep_ms(60_000).await;
        let leader = fleet.leader().unwrap();
        let away = leader % 3 + 1;
        fleet.kill(away).await;
        sleep_ms(1_000).await;
        let before = fleet.group(leader).log_time();
        fleet.start(away).await;
        fleet.group(away).read_barrier().await.unwrap();
        let after = fleet.group(away).log_time();
        assert!(after >= before, "{after:?} after a read, {before:?} at the leader before");
        // Whoever leads next does not fall behind either.
        fleet.kill(leader).await;
        fleet.group(away).propose("after".into()).await.unwrap();
        fleet.group(away).read_barrier().await.unwrap();
        assert!(fleet.group(away).with_state(|l| l.last_time) >= after);
    });
}

#[test]
fn commands_and_reads_from_any_node_are_served_at_once() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let office = fleet.office();
        for node in 1..=3 {
            // The first command of a node is preceded by its registration.
            fleet.group(node).propose(format!("first of {node}")).await.unwrap();
        }
        for node in 1..=3 {
            fleet.until_quiescent().await;
            sleep_ms(20_000).await;
            let start = now();
            fleet.group(node).propose(format!("from {node}")).await.unwrap();
            assert!(ms_since(start) <= 5, "a command took {} ms", ms_since(start));
            fleet.until_quiescent().await;
            sleep_ms(20_000).await;
            let start = now();
            fleet.group(node).read_barrier().await.unwrap();
            assert!(ms_since(start) <= 5, "a read took {} ms", ms_since(start));
            assert_eq!(fleet.group(node).with_state(|l| l.count(&format!("from {node}"))), 1);
        }
        assert_eq!(fleet.office(), office, "nobody had to be elected");
    });
}

/// Every command is applied everywhere before anybody rests, whatever is lost: entries, heartbeats, the news of commits, and the
/// question whether to rest.
#[test]
fn nobody_rests_who_has_not_applied_everything() {
    for seed in 0..10 {
        virtual_time(async {
            let fleet = Fleet::of(3, seed, timings()).await;
            for (a, b) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1), (3, 2)] {
                let link = Link { loss_ppm: 150_000, delay_ms: 0..20, ..Link::default() };
                fleet.net.set_link(NodeId(a), NodeId(b), link);
            }
            for n in 0..5 {
                // Losses as these make one or the other node suspect others.
                let _ = fleet.group(1 + (seed + n) % 3).propose(format!("line {n}")).await;
                let mut rested = 0;
                let start = now();
                while rested < 3 && ms_since(start) < 60_000 {
                    sleep_ms(7).await;
                    let at_rest = fleet.nodes.values().filter(|node| node.group.is_quiescent());
                    rested = at_rest.clone().count();
                    let applied: Vec<_> = at_rest.map(|node| node.group.status().applied).collect();
                    let leader = fleet.leader().filter(|&leader| fleet.group(leader).is_quiescent());
                    let Some(leader) = leader else { continue };
                    assert_eq!(fleet.group(leader).status().applied, applied[0]);
                    assert!(applied.iter().all(|a| *a == applied[0]), "{applied:?}");
                }
            }
        });
    }
}

#[test]
fn a_group_that_is_used_does_not_rest() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let leader = fleet.leader().unwrap();
        for _ in 0..50 {
            fleet.group(leader % 3 + 1).read_barrier().await.unwrap();
            assert!(!fleet.group(leader).is_quiescent());
            sleep_ms(900).await;
        }
    });
}

#[test]
fn a_group_of_one_rests_and_wakes_and_restarts() {
    virtual_time(async {
        let mut fleet = Fleet::of(1, 1, timings()).await;
        fleet.group(1).propose("one".into()).await.unwrap();
        fleet.until_quiescent().await;
        sleep_ms(60_000).await;
        fleet.group(1).propose("two".into()).await.unwrap();
        fleet.until_quiescent().await;
        fleet.kill(1).await;
        fleet.start(1).await;
        // There is nobody else to turn to.
        fleet.group(1).set_hints(vec![]);
        let start = now();
        fleet.group(1).propose("three".into()).await.unwrap();
        assert!(ms_since(start) < 500, "{} ms", ms_since(start));
        assert_eq!(fleet.agree().await, ["one", "two", "three"]);
    });
}

#[test]
fn changes_of_membership_and_of_leader_wake_it() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, timings()).await;
        fleet.group(1).propose("before".into()).await.unwrap();
        fleet.until_quiescent().await;
        sleep_ms(30_000).await;
        let leader = fleet.leader().unwrap();
        let heir = leader % 3 + 1;
        fleet.group(leader).transfer_leader(member(&fleet, heir).replica).await.unwrap();
        fleet.all(|s| s.leader.is_some_and(|l| l.node == NodeId(heir))).await;
        assert_eq!(fleet.group(heir).status().role, Role::Leader);

        fleet.until_quiescent().await;
        sleep_ms(30_000).await;
        fleet.start(4).await;
        fleet.group(heir).add_learner(member(&fleet, 4)).await.unwrap();
        assert_eq!(fleet.agree().await, ["before"]);
        fleet.until_quiescent().await;
        sleep_ms(30_000).await;
        fleet.group(4).propose("from the learner".into()).await.unwrap();
        assert_eq!(fleet.agree().await.len(), 2);
    });
}

/// The group that must not rest does not, whatever happens in others.
#[test]
fn the_control_group_never_rests() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        sleep_ms(60_000).await;
        assert!(fleet.nodes.values().all(|node| !node.group.is_quiescent()));
        let leader = fleet.leader().unwrap();
        assert!(fleet.group(leader).status().quorum_ack_ms.unwrap() <= 400, "heartbeats go on");
        assert_eq!(fleet.traffic.count("quiesce"), 0);
    });
}
