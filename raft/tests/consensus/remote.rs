//! A node without a replica: its commands and queries reach the leader, wherever it is, with the same promises.

use longshore_raft::NodeId;
use longshore_raft::consensus::config::{ANSWER_BYTES_MAX, COMMAND_BYTES_MAX, Timings};
use longshore_raft::consensus::machine::GroupError;
use longshore_raft::consensus::monitor::{Monitor, MonitorOptions};
use longshore_raft::consensus::remote::{RemoteGroup, RemoteOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::model::detector::DetectorConfig;
use longshore_raft::transport::TransportRef;
use longshore_raft::transport::memory::Link;

use std::sync::Arc;

use crate::common::*;
use crate::quiescence::timings;

type Remote = Arc<RemoteGroup<Rt, Ledger>>;

/// Node 9, which has no replica but watches its peers.
pub(crate) fn outsider(fleet: &Fleet, hints: &[u64]) -> (Remote, Arc<Monitor<Rt>>) {
    let node = NodeId(9);
    let transport: TransportRef = fleet.net.transport(node);
    let router = Router::new(node);
    let monitor = Monitor::start(MonitorOptions {
        node,
        transport: transport.clone(),
        router: router.clone(),
        log: Arc::new(Disk::new()),
        config: DetectorConfig::default(),
    });
    monitor.set_peers((1..=3).map(NodeId).collect());
    for other in fleet.nodes.values() {
        other.monitor.set_peers((1..=3).chain([9]).map(NodeId).collect());
    }
    fleet.net.attach(node, router.clone());
    let hints = hints.iter().copied().map(NodeId).collect();
    let options =
        RemoteOptions { group: GROUP, node, transport, router, timings: fleet.timings.clone(), hints };
    (Arc::new(RemoteGroup::new(options)), monitor)
}

#[test]
fn commands_and_queries_find_the_leader_and_stay_with_it() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let leader = fleet.leader().unwrap();
        // It is told of one that does not lead.
        let (remote, _monitor) = outsider(&fleet, &[leader % 3 + 1]);
        assert_eq!(remote.propose("one".into()).await.unwrap(), 1);
        assert_eq!(remote.query("one".into()).await.unwrap().0, 1);
        fleet.traffic.forget();
        for n in 2..=10u64 {
            assert_eq!(remote.propose(format!("line {n}")).await.unwrap(), n);
            assert_eq!(remote.query(format!("line {n}")).await.unwrap().0, 1);
        }
        assert_eq!(fleet.traffic.count("propose"), 9, "no detours: {:?}", fleet.traffic);
        assert_eq!(fleet.traffic.count("query"), 9);

        fleet.until_quiescent().await;
        sleep_ms(60_000).await;
        let start = now();
        let (count, at, _) = remote.query("one".into()).await.unwrap();
        assert_eq!(count, 1);
        assert!(at.0 >= 60_000, "queries are told the log time: {at:?}");
        remote.propose("later".into()).await.unwrap();
        assert!(ms_since(start) <= 5, "{} ms", ms_since(start));
        assert_eq!(fleet.agree().await.len(), 11);
    });
}

#[test]
fn what_waits_in_one_turn_shares_a_message_and_an_entry() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, timings()).await;
        let (remote, _monitor) = outsider(&fleet, &[1, 2, 3]);
        remote.propose("registers".into()).await.unwrap();
        fleet.traffic.forget();
        let before = fleet.group(1).status().last_log.unwrap();
        let all = (0..500).map(|n| {
            let remote = remote.clone();
            async move { remote.propose(format!("line {n}")).await.unwrap() }
        });
        futures_util::future::join_all(all).await;
        let entries = fleet.group(fleet.leader().unwrap()).status().last_log.unwrap() - before;
        let messages = fleet.traffic.count("propose");
        println!("500 commands took {messages} messages and {entries} entries");
        assert!(messages <= 40 && entries <= messages);
    });
}

#[test]
fn a_leader_that_dies_is_replaced_under_it_and_nothing_is_applied_twice() {
    for seed in 0..5 {
        virtual_time(async {
            let mut fleet = Fleet::of(3, seed, timings()).await;
            for (a, b) in [(1, 9), (9, 1), (2, 9), (9, 2), (3, 9), (9, 3)] {
                let link = Link { loss_ppm: 30_000, delay_ms: 0..8, ..Link::default() };
                fleet.net.set_link(NodeId(a), NodeId(b), link);
            }
            let (remote, _monitor) = outsider(&fleet, &[1, 2, 3]);
            let clients: Vec<_> = (0..8)
                .map(|client| {
                    let remote = remote.clone();
                    spawn(async move {
                        for n in 0..20 {
                            remote.propose(format!("{client}.{n}")).await.unwrap();
                            let line = format!("{client}.{n}");
                            assert_eq!(remote.query(line).await.unwrap().0, 1, "it was acknowledged");
                            sleep_ms(20).await;
                        }
                    })
                })
                .collect();
            sleep_ms(150).await;
            let leader = fleet.leader().unwrap();
            fleet.kill(leader).await;
            for client in clients {
                client.await.unwrap();
            }
            let mut lines = fleet.agree().await;
            lines.sort_unstable();
            lines.dedup();
            assert_eq!(lines.len(), 160, "each once");
        });
    }
}

#[test]
fn it_says_plainly_what_can_not_be() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, Timings::control()).await;
        let (remote, _monitor) = outsider(&fleet, &[]);
        let nobody = remote.propose("nobody".into()).await.unwrap_err();
        assert!(matches!(nobody, GroupError::NoQuorum { .. }), "{nobody}");
        remote.set_hints(vec![NodeId(1), NodeId(2), NodeId(3)]);
        remote.propose("somebody".into()).await.unwrap();
        let large = "x".repeat(COMMAND_BYTES_MAX + 1);
        let refused = remote.propose(large.clone()).await.unwrap_err();
        assert!(matches!(refused, GroupError::TooLarge { limit: COMMAND_BYTES_MAX, .. }), "{refused}");
        let refused = remote.query(large).await.unwrap_err();
        assert!(matches!(refused, GroupError::TooLarge { limit: COMMAND_BYTES_MAX, .. }), "{refused}");
        let refused = remote.query(HUGE_ANSWER.into()).await.unwrap_err();
        assert!(matches!(refused, GroupError::TooLarge { limit: ANSWER_BYTES_MAX, .. }), "{refused}");
        for node in 1..=2 {
            fleet.kill(node).await;
        }
        let unread = remote.query("somebody".into()).await.unwrap_err();
        assert!(matches!(unread, GroupError::NoQuorum { .. } | GroupError::NotLeader { .. }), "{unread}");
    });
}
