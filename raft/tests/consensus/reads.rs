//! Linearizable reads: after a barrier, no replica tells less than what was acknowledged before.

use std::time::Duration;

use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::GroupError;

use crate::common::*;

#[test]
fn any_replica_reads_what_was_acknowledged_anywhere() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        for n in 1..=20u64 {
            let (writer, reader) = (1 + n % 3, 1 + (n + 1) % 3);
            fleet.group(writer).propose(format!("line {n}")).await.unwrap();
            fleet.group(reader).read_barrier().await.unwrap();
            let seen = fleet.group(reader).with_state(|l| l.lines.len());
            assert!(seen as u64 >= n, "node {reader} read {seen} of {n}");
        }
    });
}

#[test]
fn an_old_leader_that_is_cut_off_answers_no_reads() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        fleet.group(1).propose("old".into()).await.unwrap();
        let old = fleet.leader().unwrap();
        let others: Vec<NodeId> = (1..=3).filter(|&n| n != old).map(NodeId).collect();
        fleet.net.partition(&[NodeId(old)], &others);
        // It does not know yet, and reads at once: a lease would still hold.
        let early = fleet.group(old);
        let early = spawn(async move { (early.read_barrier().await, early.with_state(|l| l.lines.len())) });
        let newer = others[0].0;
        fleet.group(newer).propose("new".into()).await.unwrap();
        let late = fleet.group(old).read_barrier().await.unwrap_err();
        assert!(matches!(late, GroupError::NoQuorum { .. } | GroupError::NotLeader { .. }), "{late}");
        let (barrier, seen) = early.await.unwrap();
        assert!(barrier.is_err(), "cut off before it was asked, yet it read {seen} lines");
        fleet.net.heal();
        fleet.group(old).read_barrier().await.unwrap();
        assert_eq!(fleet.group(old).with_state(|l| l.count("new")), 1);
    });
}

/// Many reads at a time cost a question or two, and none of them a heartbeat.
#[test]
fn reads_of_a_leader_share_their_questions() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        fleet.group(1).propose("line".into()).await.unwrap();
        let leader = fleet.group(fleet.leader().unwrap());
        leader.read_barrier().await.unwrap();
        fleet.traffic.forget();
        let reads = (0..100).map(|_| leader.read_barrier());
        let read = futures_util::future::join_all(reads).await;
        assert!(read.iter().all(Result::is_ok), "{read:?}");
        let asked = fleet.traffic.count("confirm");
        assert!((1..=2).contains(&asked), "{asked} questions for 100 reads");
        assert_eq!(fleet.traffic.count("append"), 0, "{:?}", fleet.traffic);
    });
}

/// A follower's own word and the leader's are two of three.
#[test]
fn a_read_through_a_follower_takes_one_message() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        let follower = fleet.leader().unwrap() % 3 + 1;
        fleet.group(follower).propose("line".into()).await.unwrap();
        fleet.group(follower).read_barrier().await.unwrap();
        fleet.traffic.forget();
        fleet.group(follower).read_barrier().await.unwrap();
        assert_eq!(
            (fleet.traffic.count("read-index"), fleet.traffic.of_groups()),
            (1, 1),
            "{:?}",
            fleet.traffic
        );
    });
}

/// The old leader believes in itself and reaches everybody again, but they have promised their votes to another.
#[test]
fn an_old_leader_that_is_back_is_confirmed_by_nobody() {
    for seed in 0..5 {
        virtual_time(async {
            let fleet = Fleet::of(3, seed, Timings::control()).await;
            fleet.group(1).propose("old".into()).await.unwrap();
            let old = fleet.leader().unwrap();
            let others: Vec<NodeId> = (1..=3).filter(|&n| n != old).map(NodeId).collect();
            fleet.net.partition(&[NodeId(old)], &others);
            fleet.group(others[0].0).propose("new".into()).await.unwrap();
            // Not a single message has reached it since.
            fleet.net.heal();
            fleet.group(old).read_barrier().await.unwrap();
            assert_eq!(fleet.group(old).with_state(|l| l.count("new")), 1);
        });
    }
}

/// Without a hold every entry is followed by a message of its own to each follower that says it is committed.
#[test]
fn news_of_commits_travel_with_the_next_entries_and_no_read_waits_for_them() {
    virtual_time(async {
        let appends = async |hold_ms| {
            let timings =
                Timings { commit_news_hold: Duration::from_millis(hold_ms), ..Timings::partition() };
            let fleet = Fleet::of(3, 1, timings).await;
            let leader = fleet.leader().unwrap();
            fleet.group(leader).propose("first".into()).await.unwrap();
            sleep_ms(50).await;
            fleet.traffic.forget();
            for n in 0..50 {
                fleet.group(leader).propose(format!("line {n}")).await.unwrap();
                sleep_ms(5).await;
            }
            let count = fleet.traffic.count("append");
            // What was just committed is read through a follower before its news would have come.
            for node in (1..=3).filter(|&node| node != leader) {
                fleet.group(leader).propose(format!("for {node}")).await.unwrap();
                let start = now();
                fleet.group(node).read_barrier().await.unwrap();
                assert!(ms_since(start) <= 5, "a read took {} ms", ms_since(start));
                assert_eq!(fleet.group(node).with_state(|l| l.count(&format!("for {node}"))), 1);
            }
            count
        };
        let (with, without) = (appends(20).await, appends(0).await);
        // 100 and 200, but for entries that happen to carry the news of the one before them.
        assert!(with <= 110 && without >= 160, "{with} with a hold, {without} without");
    });
}
