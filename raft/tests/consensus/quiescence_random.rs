//! Random lives of a group that may rest: whatever happened, it comes to rest with the same state everywhere, and wakes when it is asked.

use std::collections::BTreeSet;

use longshore_raft::NodeId;
use longshore_raft::consensus::machine::GroupError;
use longshore_raft::transport::memory::Link;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use crate::common::*;
use crate::quiescence::timings;

const NODES: u64 = 3;

struct Life {
    fleet: Fleet,
    random: SmallRng,
    /// What happened, for whoever reads a failure.
    story: Vec<String>,
    acknowledged: Vec<String>,
    denied: Vec<String>,
}

impl Life {
    fn node(&mut self) -> u64 {
        self.random.random_range(1..=NODES)
    }

    async fn write(&mut self, n: u64) {
        let node = self.node();
        let Some(process) = self.fleet.nodes.get(&node) else { return };
        let (group, line) = (process.group.clone(), format!("line {n}"));
        let result = group.propose(line.clone()).await;
        self.story.push(format!("{line} at {node}: {result:?}"));
        match result {
            Ok(_) => self.acknowledged.push(line),
            Err(GroupError::OutcomeUnknown { .. } | GroupError::ClientExpired(_)) => {}
            Err(_) => self.denied.push(line),
        }
    }

    async fn step(&mut self, n: u64) {
        let (a, b) = (self.node(), self.node());
        match self.random.random_range(0..11) {
            0..4 => self.write(n).await,
            4 if self.fleet.nodes.contains_key(&a) => {
                self.story.push(format!("{a} dies"));
                self.fleet.kill(a).await;
            }
            4 | 5 => {
                let dead: Vec<u64> = (1..=NODES).filter(|n| !self.fleet.nodes.contains_key(n)).collect();
                for node in dead {
                    self.story.push(format!("{node} starts"));
                    self.fleet.start(node).await;
                }
            }
            6 if a != b => {
                self.story.push(format!("{a} -> {b} is cut"));
                self.fleet.net.cut(NodeId(a), NodeId(b));
            }
            7 => {
                self.story.push(format!("{a} is cut off"));
                let others: Vec<NodeId> = (1..=NODES).filter(|&n| n != a).map(NodeId).collect();
                self.fleet.net.partition(&[NodeId(a)], &others);
            }
            8 => {
                self.story.push("heals".into());
                self.fleet.net.heal();
            }
            9 if a != b => {
                let loss_ppm = self.random.random_range(0..300_000);
                self.story.push(format!("{a} -> {b} loses {loss_ppm} ppm"));
                let link = Link { loss_ppm, delay_ms: 0..20, ..Link::default() };
                self.fleet.net.set_link(NodeId(a), NodeId(b), link);
            }
            _ => {
                self.story.push("nothing".into());
                sleep_ms(self.random.random_range(2_000..15_000)).await;
            }
        }
        sleep_ms(self.random.random_range(0..1_500)).await;
    }

    /// Everything is well again: it rests, agrees, serves at once, and has kept every promise.
    async fn end_well(&mut self) {
        for a in 1..=NODES {
            for b in 1..=NODES {
                self.fleet.net.set_link(NodeId(a), NodeId(b), Link::default());
            }
            if !self.fleet.nodes.contains_key(&a) {
                self.fleet.start(a).await;
            }
        }
        // A node that was cut off may rest on what it knew; its return wakes the group.
        let fleet = &self.fleet;
        let at_ease = || {
            let groups: Vec<_> = (1..=NODES).map(|n| fleet.group(n)).collect();
            groups.iter().all(|g| g.is_quiescent() && g.absent().is_empty())
                && groups.iter().all(|g| g.status().term == groups[0].status().term)
        };
        let start = now();
        while !at_ease() {
            assert!(ms_since(start) < 30_000, "no rest: {:#?}", self.story);
            sleep_ms(5).await;
        }
        let states: BTreeSet<_> = (1..=NODES).map(|n| fleet.group(n).digest()).collect();
        assert_eq!(states.len(), 1, "{:#?}", self.story);
        let office = self.fleet.office();
        sleep_ms(30_000).await;
        assert_eq!(self.fleet.office(), office);
        for node in 1..=NODES {
            let start = now();
            self.fleet.group(node).propose(format!("last of {node}")).await.unwrap();
            assert!(ms_since(start) <= 20, "{} ms: {:#?}", ms_since(start), self.story);
        }
        let lines = self.fleet.agree().await;
        let count = |line: &String| lines.iter().filter(|l| *l == line).count();
        assert!(self.acknowledged.iter().all(|line| count(line) == 1), "{:#?}", self.story);
        assert!(self.denied.iter().all(|line| count(line) == 0), "{:#?}", self.story);
    }
}

#[test]
fn in_the_end_it_rests_agrees_and_wakes() {
    // `SEEDS=1000` looks longer.
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse::<u64>().ok());
    let (first, seeds) = (number("SEED").unwrap_or(0), number("SEEDS").unwrap_or(8));
    for seed in first..first + seeds {
        println!("seed {seed}");
        virtual_time(async {
            let fleet = Fleet::of(NODES, seed, timings()).await;
            let random = SmallRng::seed_from_u64(seed);
            let mut life = Life { fleet, random, story: vec![], acknowledged: vec![], denied: vec![] };
            for n in 0..25 {
                life.step(n).await;
            }
            life.end_well().await;
        });
    }
}
