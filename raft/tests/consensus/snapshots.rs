//! Snapshots: taken, purged up to, restarted from, and sent to those that are behind.

use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::transport::memory::Link;

use crate::common::*;

fn often() -> Timings {
    Timings { snapshot_every_entries: 50, keep_entries: 5, ..Timings::control() }
}

/// About 20 KiB a line, so that a snapshot takes many chunks.
fn long_line(n: usize) -> String {
    format!("{n:06}").repeat(3500)
}

#[test]
fn a_restart_rebuilds_the_state_from_snapshot_and_log() {
    virtual_time(async {
        let mut fleet = Fleet::of(1, 1, often()).await;
        for n in 0..180 {
            fleet.group(1).propose(format!("line {n}")).await.unwrap();
        }
        let group = fleet.group(1);
        eventually("a purge", || group.status().purged.is_some()).await;
        let before = group.status();
        assert!(before.snapshot >= before.purged, "purged beyond the snapshot: {before:?}");
        drop(group);
        fleet.kill(1).await;
        fleet.start(1).await;
        fleet.group(1).read_barrier().await.unwrap();
        let lines = fleet.agree().await;
        assert_eq!(lines.len(), 180);
        assert_eq!(lines[179], "line 179");
        let after = fleet.group(1).status();
        assert!(after.purged >= before.purged && after.term > before.term);
    });
}

#[test]
fn a_learner_that_is_far_behind_gets_a_snapshot_through_a_link_that_loses_chunks() {
    virtual_time(async {
        let mut fleet = Fleet::of(1, 5, often()).await;
        let lines: Vec<String> = (0..120).map(long_line).collect();
        for line in &lines {
            fleet.group(1).propose(line.clone()).await.unwrap();
        }
        let group = fleet.group(1);
        eventually("a purge", || group.status().purged >= Some(60)).await;
        let link = Link { loss_ppm: 100_000, delay_ms: 1..5, ..Link::default() };
        fleet.net.set_link(NodeId(1), NodeId(2), link.clone());
        fleet.net.set_link(NodeId(2), NodeId(1), link);
        let start = now();
        fleet.start(2).await;
        fleet.group(1).add_learner(member(&fleet, 2)).await.unwrap();
        let learner = fleet.group(2);
        eventually("the snapshot", || learner.status().snapshot.is_some()).await;
        let status = learner.status();
        assert!(status.purged.is_some(), "it began with a snapshot: {status:?}");
        let lossless = |link: Link| Link { loss_ppm: 0, ..link };
        fleet.net.set_link(NodeId(1), NodeId(2), lossless(Link::default()));
        fleet.net.set_link(NodeId(2), NodeId(1), lossless(Link::default()));
        assert_eq!(fleet.agree().await, lines);
        println!("2.4 MB through a link that loses a tenth: {} ms", ms_since(start));
        // The window came along: a client known before the snapshot is known after.
        fleet.kill(2).await;
        fleet.start(2).await;
        assert_eq!(fleet.agree().await, lines, "the installed snapshot is durable");
    });
}

/// A chunk that arrives with a flipped bit is found out by the hash of the whole, refused, and sent again; it is never installed.
#[test]
fn a_snapshot_that_is_damaged_on_its_way_is_not_installed() {
    virtual_time(async {
        let mut fleet = Fleet::of(1, 5, often()).await;
        let lines: Vec<String> = (0..120).map(long_line).collect();
        for line in &lines {
            fleet.group(1).propose(line.clone()).await.unwrap();
        }
        let group = fleet.group(1);
        eventually("a purge", || group.status().purged >= Some(60)).await;
        // Every chunk is damaged: nothing gets through, and nobody is harmed.
        fleet.net.set_link(NodeId(1), NodeId(2), Link { bulk_damage_ppm: 1_000_000, ..Link::default() });
        fleet.start(2).await;
        fleet.group(1).add_learner(member(&fleet, 2)).await.unwrap();
        let learner = fleet.group(2);
        sleep_ms(20_000).await;
        let status = learner.status();
        assert!(
            status.snapshot.is_none() && status.applied.is_none(),
            "damaged data was installed: {status:?}"
        );
        assert!(status.fatal.is_none() && group.status().fatal.is_none(), "it stopped somebody: {status:?}");
        // Some are: it takes a few tries.
        fleet.net.set_link(NodeId(1), NodeId(2), Link { bulk_damage_ppm: 20_000, ..Link::default() });
        eventually("the snapshot", || learner.status().snapshot.is_some()).await;
        fleet.net.set_link(NodeId(1), NodeId(2), Link::default());
        assert_eq!(fleet.agree().await, lines);
        fleet.kill(2).await;
        fleet.start(2).await;
        assert_eq!(fleet.agree().await, lines, "what was installed is whole on the disk");
    });
}

#[test]
fn a_follower_that_was_away_for_long_catches_up() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, often()).await;
        let away = fleet.leader().unwrap() % 3 + 1;
        fleet.kill(away).await;
        let writer = *fleet.nodes.keys().next().unwrap();
        for n in 0..300 {
            fleet.group(writer).propose(format!("line {n}")).await.unwrap();
        }
        fleet.start(away).await;
        assert_eq!(fleet.agree().await.len(), 300);
    });
}

#[test]
fn snapshots_can_be_asked_for() {
    virtual_time(async {
        let fleet = Fleet::of(1, 1, Timings::control()).await;
        for n in 0..10 {
            fleet.group(1).propose(format!("line {n}")).await.unwrap();
        }
        let group = fleet.group(1);
        let applied = group.status().applied;
        group.trigger_snapshot().await.unwrap();
        eventually("the snapshot", || group.status().snapshot == applied).await;
        group.trigger_purge(applied.unwrap()).await.unwrap();
        eventually("the purge", || group.status().purged == applied).await;
        group.propose("on an empty log".into()).await.unwrap();
    });
}
