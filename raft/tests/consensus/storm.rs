//! Many groups on a few nodes: a node that dies, or comes back, gives all of them cause to act at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use longshore_raft::consensus::group::{Group, GroupOptions};
use longshore_raft::consensus::machine::Member;
use longshore_raft::consensus::monitor::{Monitor, MonitorOptions};
use longshore_raft::consensus::router::Router;
use longshore_raft::model::detector::DetectorConfig;
use longshore_raft::transport::TransportRef;
use longshore_raft::transport::memory::MemoryNetwork;
use longshore_raft::{GroupId, NodeId, ReplicaId};

use crate::common::*;
use crate::quiescence::timings;

const GROUPS: u32 = 64;

struct Process {
    transport: TransportRef,
    monitor: Arc<Monitor<Rt>>,
    groups: BTreeMap<u32, Arc<TestGroup>>,
}

/// Three nodes with a replica of each group.
struct Crowd {
    net: MemoryNetwork<Rt>,
    traffic: Traffic,
    disks: BTreeMap<u64, Disk>,
    processes: BTreeMap<u64, Process>,
}

fn replica(group: u32, node: u64) -> ReplicaId {
    ReplicaId(u64::from(group) * 10 + node)
}

impl Crowd {
    /// Group g is led by node g % 3 + 1.
    async fn form(seed: u64) -> Self {
        let net = MemoryNetwork::new(seed);
        let disks = (1..=3).map(|node| (node, Disk::new())).collect();
        let mut crowd = Self { net, traffic: Traffic::default(), disks, processes: BTreeMap::new() };
        for node in 1..=3 {
            crowd.start(node).await;
        }
        for group in 0..GROUPS {
            let first = u64::from(group % 3) + 1;
            let leader = crowd.group(first, group);
            leader.bootstrap().await.unwrap();
            for node in (1..=3).filter(|&node| node != first) {
                let member = Member { replica: replica(group, node), node: NodeId(node) };
                leader.add_learner(member).await.unwrap();
            }
            leader.change_voters((1..=3).map(|node| replica(group, node)).collect()).await.unwrap();
        }
        crowd
    }

    async fn start(&mut self, id: u64) {
        let node = NodeId(id);
        let transport: TransportRef = self.net.transport(node);
        let router = Router::new(node);
        let disk = self.disks[&id].clone();
        let log = Arc::new(disk.clone());
        let monitor = Monitor::start(MonitorOptions {
            node,
            transport: transport.clone(),
            router: router.clone(),
            log: log.clone(),
            config: DetectorConfig::default(),
        });
        monitor.set_peers((1..=3).map(NodeId).collect());
        self.net.attach(node, self.traffic.handler(node, router.clone()));
        let mut groups = BTreeMap::new();
        for group in 0..GROUPS {
            let opened = Group::open_answering(GroupOptions {
                group: GroupId(group),
                replica: replica(group, id),
                node,
                machine: Ledger::default(),
                log: log.clone(),
                snapshots: disk.snapshots.clone(),
                transport: transport.clone(),
                router: router.clone(),
                timings: timings(),
                hints: vec![],
            });
            groups.insert(group, opened.await.unwrap());
        }
        self.processes.insert(id, Process { transport, monitor, groups });
    }

    async fn kill(&mut self, id: u64) {
        self.net.detach(NodeId(id));
        let process = self.processes.remove(&id).unwrap();
        process.monitor.stop();
        process.transport.close().await;
        for group in process.groups.values() {
            group.shutdown().await;
        }
    }

    fn group(&self, node: u64, group: u32) -> Arc<TestGroup> {
        self.processes[&node].groups[&group].clone()
    }

    fn all(&self) -> impl Iterator<Item = &Arc<TestGroup>> {
        self.processes.values().flat_map(|process| process.groups.values())
    }

    async fn until_quiescent(&self) {
        eventually("rest", || self.all().all(|group| group.is_quiescent())).await;
    }

    /// Has a command applied in every group at once; milliseconds that each took.
    async fn write_everywhere(&self, node: u64, line: &str) -> Vec<u64> {
        let writes = (0..GROUPS).map(|group| {
            let (group, line) = (self.group(node, group), line.to_owned());
            async move {
                let start = now();
                group.propose(line).await.unwrap();
                ms_since(start)
            }
        });
        let mut times = futures_util::future::join_all(writes).await;
        times.sort_unstable();
        times
    }

    /// Sum of terms: what elections add to.
    fn terms(&self, node: u64) -> u64 {
        self.processes[&node].groups.values().map(|group| group.status().term).sum()
    }

    fn leaders(&self) -> BTreeMap<u64, usize> {
        let led = |process: &Process| process.groups.values().filter(|group| group.is_leader()).count();
        self.processes.iter().map(|(&node, process)| (node, led(process))).collect()
    }
}

#[test]
fn all_groups_of_a_dead_node_are_led_again_soon_and_without_a_storm() {
    let cases = [("at rest", true, 0), ("awake", false, 0), ("at rest, syncs of 10 ms", true, 10)];
    for (name, at_rest, sync_ms) in cases {
        virtual_time(async {
            let mut crowd = Crowd::form(1).await;
            crowd.write_everywhere(2, "before").await;
            if at_rest {
                crowd.until_quiescent().await;
                sleep_ms(30_000).await;
            }
            crowd.disks.values().for_each(|disk| disk.sync_ms.store(sync_ms, Ordering::Relaxed));
            let led = crowd.leaders()[&1];
            let terms = crowd.terms(2);
            crowd.kill(1).await;
            crowd.traffic.forget();
            let times = crowd.write_everywhere(2, "after").await;
            let (p50, worst) = (times[times.len() / 2], times[times.len() - 1]);
            let elections = crowd.terms(2) - terms;
            let (pre_votes, votes) = (crowd.traffic.count("pre-vote"), crowd.traffic.count("vote"));
            println!(
                "{GROUPS} groups {name}, a node that led {led} of them dies: all serve after {worst} ms (p50 {p50}); {elections} \
                 elections, {pre_votes} pre-votes, {votes} votes, {} messages; leaders now {:?}",
                crowd.traffic.of_groups(),
                crowd.leaders(),
            );
            assert!(worst <= 1000, "{times:?}");
            assert!(elections <= led as u64 * 5 / 4, "{elections} elections for {led} groups");
            let shares: Vec<usize> = crowd.leaders().into_values().collect();
            assert!(shares.iter().all(|&share| share >= GROUPS as usize / 3), "{shares:?}");
        });
    }
}

#[test]
fn a_node_that_comes_back_finds_its_leaders_and_deposes_none() {
    virtual_time(async {
        let mut crowd = Crowd::form(1).await;
        crowd.write_everywhere(1, "before").await;
        crowd.until_quiescent().await;
        crowd.kill(3).await;
        crowd.write_everywhere(1, "meanwhile").await;
        crowd.until_quiescent().await;
        sleep_ms(30_000).await;
        let (terms, leaders) = (crowd.terms(1), crowd.leaders());
        crowd.traffic.forget();
        crowd.start(3).await;
        let start = now();
        let applied = |group: &Arc<TestGroup>| group.with_state(|l| l.count("meanwhile")) == 1;
        eventually("all caught up", || crowd.processes[&3].groups.values().all(applied)).await;
        println!("{GROUPS} groups caught up after {} ms", ms_since(start));
        crowd.until_quiescent().await;
        println!("{} messages until all rest again: {:?}", crowd.traffic.of_groups(), ms_since(start));
        assert_eq!(crowd.terms(1), terms, "nobody had to be elected");
        assert_eq!(crowd.leaders().get(&1), leaders.get(&1));
        let offices: BTreeSet<_> = crowd.all().map(|g| (g.status().group, g.status().term)).collect();
        assert_eq!(offices.len(), GROUPS as usize, "all agree who leads");
    });
}

#[test]
fn no_quorum_in_one_half_does_not_keep_the_other_from_electing() {
    virtual_time(async {
        // Groups whose nodes are all there elect, although others press without end.
        let mut crowd = Crowd::form(1).await;
        crowd.until_quiescent().await;
        crowd.kill(1).await;
        crowd.kill(2).await;
        sleep_ms(30_000).await;
        let start = now();
        crowd.start(2).await;
        let times = crowd.write_everywhere(3, "after").await;
        println!(
            "two of three were away: all serve {} ms after one is back: {:?}",
            ms_since(start),
            times.last()
        );
        // Not openraft's own timers, which are there for who hears of nobody.
        assert!(ms_since(start) <= 1_500);
    });
}
