//! Groups of three and five replicas in one process: elections, failover, membership, snapshots, restarts.

mod common;

use common::*;

#[test]
fn a_fleet_of_three_agrees_and_survives_its_leader() {
    virtual_time(async {
        let mut fleet = Fleet::of(3, 1, control()).await;
        for n in 0..10 {
            let node = 1 + n % 3;
            let line = fleet.group(node).propose(format!("line {n}")).await.unwrap();
            assert_eq!(line, n + 1, "every node takes commands");
        }
        assert_eq!(fleet.agree().await.len(), 10);
        let leader = fleet.leader().unwrap();
        let start = now();
        fleet.kill(leader).await;
        let survivor = *fleet.nodes.keys().next().unwrap();
        fleet.group(survivor).propose("after".into()).await.unwrap();
        let gap = ms_since(start);
        println!("leader {leader} dead; next command acknowledged after {gap} ms");
        assert!(gap <= 600, "{gap} ms");
        assert_eq!(fleet.agree().await.last().unwrap(), "after");
    });
}
