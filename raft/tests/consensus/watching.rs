//! The failure detector at work between nodes, and what an idle fleet costs.

use std::sync::atomic::Ordering;

use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::monitor::PeerState;

use crate::common::*;

#[test]
fn both_sides_notice_a_link_that_works_one_way_only() {
    virtual_time(async {
        for (from, to) in [(1, 2), (2, 1)] {
            let fleet = Fleet::of(3, 1, Timings::control()).await;
            sleep_ms(500).await;
            fleet.net.cut(NodeId(from), NodeId(to));
            let start = now();
            let states =
                || (fleet.nodes[&1].monitor.state(NodeId(2)), fleet.nodes[&2].monitor.state(NodeId(1)));
            eventually("suspicion on both sides", || states() == (PeerState::Suspect, PeerState::Suspect))
                .await;
            println!("{from} -> {to} cut: both suspect after {} ms", ms_since(start));
            assert!(ms_since(start) <= 800);
            assert_eq!(fleet.nodes[&3].monitor.state(NodeId(1)), PeerState::Alive);
            fleet.net.heal();
            eventually("trust", || states() == (PeerState::Alive, PeerState::Alive)).await;
        }
    });
}

#[test]
fn verdicts_age_and_clocks_are_compared() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, Timings::control()).await;
        sleep_ms(2000).await;
        let monitor = fleet.nodes[&1].monitor.clone();
        let peers = monitor.peers();
        assert_eq!(peers.len(), 2);
        for peer in &peers {
            assert_eq!(peer.state, PeerState::Alive);
            assert!(peer.last_heard_ms.unwrap() <= 150 && !peer.slow_disk);
            assert!(peer.clock_skew_ms.unwrap().abs() < 1000, "one clock, one machine");
        }
        fleet.kill(3).await;
        let start = now();
        let mut seen = monitor.version();
        for expected in [PeerState::Suspect, PeerState::Failed] {
            while monitor.state(NodeId(3)) != expected {
                seen = monitor.changed(seen).await;
            }
            println!("{expected:?} after {} ms", ms_since(start));
        }
        assert!((9_900..10_100).contains(&ms_since(start)));
        assert_eq!(monitor.last_heard_ms(NodeId(3)).unwrap() / 1000, 10);
        fleet.start(3).await;
        eventually("its return", || monitor.state(NodeId(3)) == PeerState::Alive).await;
    });
}

#[test]
fn an_idle_fleet_says_little() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        sleep_ms(2000).await;
        let before = fleet.net.delivered();
        sleep_ms(10_000).await;
        let per_second = (fleet.net.delivered() - before) / 10;
        println!("an idle fleet of three delivers {per_second} messages a second");
        // Three pairs' heartbeats and two followers' Raft heartbeats, ten a second, with their answers.
        assert!(per_second <= 110, "{per_second}");
    });
}

#[test]
fn a_node_whose_disk_is_slow_leads_nothing() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        let slow = fleet.leader().unwrap();
        let also_slow = slow % 3 + 1;
        fleet.disks[&also_slow].unsynced_ms.store(1500, Ordering::Relaxed);
        sleep_ms(300).await;
        assert!(fleet.nodes[&slow].monitor.peers().iter().any(|p| p.slow_disk));
        fleet.disks[&slow].unsynced_ms.store(1500, Ordering::Relaxed);
        let start = now();
        let heir = (slow + 1) % 3 + 1;
        eventually("the only fit node leads", || fleet.leader() == Some(heir)).await;
        println!("a slow disk gave leadership away after {} ms", ms_since(start));
        assert!(ms_since(start) <= 500);
        fleet.group(slow).propose("after".into()).await.unwrap();
        // Nobody is left to take over: it stays.
        fleet.disks[&heir].unsynced_ms.store(1500, Ordering::Relaxed);
        sleep_ms(12_000).await;
        assert_eq!(fleet.leader(), Some(heir));
    });
}
