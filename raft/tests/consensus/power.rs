//! Power cuts over the real log: what was acknowledged is there afterwards, once.

use std::collections::BTreeSet;

use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::GroupError;
use longshore_storage::disk::{MemDisk, SeededChance};

use crate::common::*;

const ROUNDS: u64 = 6;

/// In real time, since the log has threads of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_power_fails() {
    let mut fleet =
        Fleet::new(1, Timings { snapshot_every_entries: 40, keep_entries: 5, ..Timings::control() });
    for id in 1..=3 {
        fleet.disks.insert(id, Disk { power: Some(MemDisk::new()), ..Disk::new() });
    }
    fleet.form(3).await;
    let mut chance = SeededChance::new(7);
    let (mut done, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
    for round in 0..ROUNDS {
        let mut clients = Vec::new();
        for node in 1..=3u64 {
            for lane in 0..4 {
                let group = fleet.group(node);
                clients.push(spawn(async move {
                    let mut told = Vec::new();
                    for n in 0.. {
                        let line = format!("{round}.{node}.{lane}.{n}");
                        let result = group.propose(line.clone()).await;
                        let over = matches!(
                            result,
                            Err(GroupError::Stopped { .. } | GroupError::OutcomeUnknown { .. })
                        );
                        told.push((line, result));
                        if over {
                            break;
                        }
                    }
                    told
                }));
            }
        }
        sleep_ms(100 + chance.next_u64() % 200).await;
        // All three at once, or the two that are needed.
        let survivor = if round % 2 == 0 { None } else { Some(1 + chance.next_u64() % 3) };
        let victims: Vec<u64> = (1..=3).filter(|&id| Some(id) != survivor).collect();
        for id in &victims {
            fleet.disks[id].power.as_ref().unwrap().crash(&mut chance);
        }
        for &id in &victims {
            fleet.kill(id).await;
        }
        for &id in &victims {
            fleet.start(id).await;
        }
        if let Some(id) = survivor {
            // Its clients went on all the while; end them as the others ended.
            fleet.kill(id).await;
            fleet.start(id).await;
        }
        for client in clients {
            for (line, result) in client.await.unwrap() {
                match result {
                    Ok(_) => assert!(done.insert(line)),
                    Err(GroupError::OutcomeUnknown { .. } | GroupError::ClientExpired(_)) => {
                        doubtful.insert(line);
                    }
                    Err(_) => {}
                }
            }
        }
        let lines = fleet.agree().await;
        let distinct: BTreeSet<&String> = lines.iter().collect();
        assert_eq!(distinct.len(), lines.len(), "round {round}: a line was applied twice");
        let lost: Vec<&String> = done.iter().filter(|line| !distinct.contains(line)).collect();
        assert!(lost.is_empty(), "round {round}: acknowledged and lost: {lost:?}");
        let from_nowhere = lines.iter().find(|line| !done.contains(*line) && !doubtful.contains(*line));
        assert_eq!(from_nowhere, None, "round {round}: said not to be done");
        println!("round {round}: power cut at {victims:?}; {} acknowledged, all there", done.len());
    }
    assert!(done.len() > 200, "the fleet made progress: {}", done.len());
}
