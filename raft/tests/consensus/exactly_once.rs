//! Commands are applied once, whatever is lost, retried, reordered or led by whom.

use std::time::Duration;

use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::GroupError;
use longshore_raft::transport::memory::Link;

use crate::common::*;

/// What clients were told, line by line.
#[derive(Default)]
struct Told {
    done: Vec<String>,
    not_done: Vec<String>,
    unknown: Vec<String>,
}

impl Told {
    fn record(&mut self, line: String, result: Result<u64, GroupError>) {
        match result {
            Ok(_) => self.done.push(line),
            Err(GroupError::OutcomeUnknown { .. } | GroupError::ClientExpired(_)) => self.unknown.push(line),
            Err(_) => self.not_done.push(line),
        }
    }

    /// Every promise kept, in what the fleet agreed on.
    fn check(&self, lines: &[String]) {
        let count = |line: &String| lines.iter().filter(|l| *l == line).count();
        for line in &self.done {
            assert_eq!(count(line), 1, "{line:?} was acknowledged");
        }
        for line in &self.not_done {
            assert_eq!(count(line), 0, "{line:?} was said not to be done");
        }
        for line in &self.unknown {
            assert!(count(line) <= 1, "{line:?} was applied twice");
        }
    }
}

fn lossy(fleet: &Fleet, loss_ppm: u32) {
    for a in 1..=3 {
        for b in 1..=3 {
            let link = Link { loss_ppm, delay_ms: 0..8, ..Link::default() };
            fleet.net.set_link(NodeId(a), NodeId(b), link);
        }
    }
}

#[test]
fn through_loss_partitions_and_deaths() {
    // `SEEDS=100` looks longer.
    let seeds = std::env::var("SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(4);
    for seed in 0..seeds {
        let (done, unknown, not_done) = virtual_time(async {
            let mut fleet = Fleet::of(3, seed, Timings::control()).await;
            lossy(&fleet, 20_000);
            let mut clients = Vec::new();
            for node in 1..=3u64 {
                for lane in 0..4 {
                    let group = fleet.group(node);
                    clients.push(spawn(async move {
                        let mut told = Told::default();
                        for n in 0..60 {
                            let line = format!("{node}.{lane}.{n}");
                            let result = group.propose(line.clone()).await;
                            if matches!(result, Err(GroupError::Stopped { .. })) {
                                told.record(line, result);
                                break;
                            }
                            told.record(line, result);
                            sleep_ms(50).await;
                        }
                        told
                    }));
                }
            }
            for round in 0..5u64 {
                sleep_ms(1500).await;
                let leader = fleet.leader().unwrap_or(1);
                let victim = if round % 2 == 0 { leader } else { leader % 3 + 1 };
                let others: Vec<NodeId> = (1..=3).filter(|&n| n != victim).map(NodeId).collect();
                match (seed + round) % 3 {
                    0 => {
                        fleet.net.partition(&[NodeId(victim)], &others);
                        sleep_ms(1200).await;
                        fleet.net.heal();
                    }
                    1 => {
                        fleet.net.cut(NodeId(victim), others[0]);
                        sleep_ms(900).await;
                        fleet.net.heal();
                    }
                    _ => {
                        fleet.kill(victim).await;
                        sleep_ms(800).await;
                        fleet.start(victim).await;
                    }
                }
            }
            let mut told = Told::default();
            for client in clients {
                let one = client.await.unwrap();
                told.done.extend(one.done);
                told.not_done.extend(one.not_done);
                told.unknown.extend(one.unknown);
            }
            lossy(&fleet, 0);
            told.check(&fleet.agree().await);
            (told.done.len(), told.unknown.len(), told.not_done.len())
        });
        println!("seed {seed}: {done} acknowledged, {unknown} unknown, {not_done} not done");
        assert!(done > 100, "the fleet made progress: {done}");
    }
}

#[test]
fn pipelined_commands_that_overtake_each_other() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        lossy(&fleet, 50_000);
        let follower = fleet.leader().unwrap() % 3 + 1;
        let group = fleet.group(follower);
        let proposals = (0..500).map(|n| {
            let group = group.clone();
            async move { group.propose(format!("line {n}")).await }
        });
        let results = futures_util::future::join_all(proposals).await;
        let mut told = Told::default();
        results.into_iter().enumerate().for_each(|(n, result)| told.record(format!("line {n}"), result));
        println!("of 500 pipelined through a lossy link: {} acknowledged", told.done.len());
        assert!(told.done.len() >= 490, "{:?}", told.unknown);
        lossy(&fleet, 0);
        let lines = fleet.agree().await;
        told.check(&lines);
        let in_order = lines.windows(2).all(|w| w[0] < w[1]);
        assert!(!in_order, "commands overtook each other, or this tests nothing");
    });
}

#[test]
fn many_at_once_share_entries() {
    virtual_time(async {
        let fleet = Fleet::of(3, 1, Timings::control()).await;
        let leader = fleet.leader().unwrap();
        fleet.group(leader).propose("first".into()).await.unwrap();
        let before = fleet.group(leader).status().last_log.unwrap();
        let group = fleet.group(leader);
        let proposals = (0..1000).map(|n| group.propose(format!("line {n}")));
        for result in futures_util::future::join_all(proposals).await {
            result.unwrap();
        }
        let entries = fleet.group(leader).status().last_log.unwrap() - before;
        println!("1000 concurrent commands took {entries} entries");
        assert!(entries <= 50, "{entries}");
    });
}

#[test]
fn a_client_that_was_idle_is_forgotten_and_comes_back_unnoticed() {
    virtual_time(async {
        let timings = Timings { client_idle: Duration::from_secs(5), ..Timings::control() };
        let fleet = Fleet::of(3, 1, timings).await;
        for node in 1..=3 {
            fleet.group(node).propose(format!("hello {node}")).await.unwrap();
        }
        for n in 0..10 {
            sleep_ms(1000).await;
            fleet.group(1).propose(format!("tick {n}")).await.unwrap();
        }
        fleet.group(2).propose("back".into()).await.unwrap();
        let lines = fleet.agree().await;
        assert_eq!(lines.iter().filter(|l| *l == "back").count(), 1);
        assert_eq!(lines.len(), 14);
    });
}

#[test]
fn a_retry_of_a_forgotten_client_is_outcome_unknown_and_never_applied_again() {
    virtual_time(async {
        let timings = Timings { client_idle: Duration::from_secs(2), ..Timings::control() };
        let fleet = Fleet::of(3, 1, timings).await;
        let leader = fleet.leader().unwrap();
        let (cut_off, other) = (leader % 3 + 1, (leader + 1) % 3 + 1);
        let group = fleet.group(cut_off);
        group.propose("hello".into()).await.unwrap();
        // Its next command gets through; the reply does not, until the leader has forgotten the client.
        fleet.net.cut(NodeId(leader), NodeId(cut_off));
        let lost = spawn(async move { group.propose("lost".into()).await });
        let ledger = fleet.group(leader);
        eventually("the command", || ledger.with_state(|l| l.count("lost") == 1)).await;
        for n in 0..4 {
            sleep_ms(1000).await;
            fleet.group(other).propose(format!("tick {n}")).await.unwrap();
        }
        fleet.net.heal();
        let outcome = lost.await.unwrap().unwrap_err();
        assert!(matches!(outcome, GroupError::ClientExpired(_)), "{outcome}");
        assert_eq!(fleet.agree().await.iter().filter(|l| *l == "lost").count(), 1);
        // And it goes on as another client.
        fleet.group(cut_off).propose("again".into()).await.unwrap();
    });
}

#[test]
fn a_command_that_is_too_large_is_refused() {
    virtual_time(async {
        let fleet = Fleet::of(1, 1, Timings::control()).await;
        let refused = fleet.group(1).propose("x".repeat(2 << 20)).await.unwrap_err();
        assert!(matches!(refused, GroupError::TooLarge { limit: 1_048_576, .. }), "{refused}");
        fleet.group(1).propose("x".repeat(1_000_000)).await.unwrap();
    });
}

#[test]
fn log_time_moves_on_in_an_idle_group_and_never_goes_back() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, Timings::control()).await;
        fleet.group(1).propose("a".into()).await.unwrap();
        let before = fleet.group(2).log_time();
        sleep_ms(10_000).await;
        let idle = fleet.group(2).log_time();
        assert!((9_900..10_200).contains(&(idle.0 - before.0)), "{before:?} {idle:?}");
        // The ledger asserts that no command's time is before an earlier one's; here over a change of leader.
        let leader = fleet.leader().unwrap();
        fleet.kill(leader).await;
        let survivor = leader % 3 + 1;
        fleet.group(survivor).propose("b".into()).await.unwrap();
        let time = fleet.group(survivor).with_state(|l| l.last_time);
        assert!(time.0 >= idle.0, "{time:?} {idle:?}");
    });
}
