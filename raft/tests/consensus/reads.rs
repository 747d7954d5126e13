//! Linearizable reads: after a barrier, no replica tells less than what was acknowledged before.

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
