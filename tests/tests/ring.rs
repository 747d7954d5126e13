//! The ring through the life of a fleet: it spreads over three nodes, takes in a fourth and a fifth under load, and gives one up.
//!
//! Each key has one writer that uses compare-and-set, so a write that was acknowledged and lost cannot go unseen (see `keys`).

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use longshore_node::api::types::RingView;
use longshore_tests::keys::{self, KeyRecord, Writers};
use longshore_tests::wait::Stopwatch;
use longshore_tests::{Fleet, eventually_value, machine};
use rustix::process::Signal;

const GROUPS: u32 = 32;
const REPLICATION: u32 = 3;
/// Between two writes of a key.
const PACE: Duration = Duration::from_millis(50);
/// Copies made, of those that the plan of the model asks for.
const MOVES_OVER_IDEAL_MAX: f64 = 1.05;
/// A key that is not written for so long is an outage.
const GAP_MAX: Duration = Duration::from_secs(10);
/// Until leaders have followed the load: it is measured over 5 s, and they move when nothing else has for a while.
const SPREAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For a first write of every key.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn the_ring_follows_the_fleet_under_load() {
    // It tells how long keys were not written.
    let _machine = machine::alone();
    let mut fleet = Fleet::with_ring(3, "ring", GROUPS, REPLICATION);
    let ring = fleet.leaders_spread();
    assert_eq!((ring.group_count, ring.replicas, ring.replication), (GROUPS, REPLICATION, REPLICATION));
    assert_eq!(ring.groups.len(), GROUPS as usize);
    println!("three nodes: {}", balance(&ring));

    let keys = keys::key_of_each_group(GROUPS);
    written_at_one_node_is_read_at_every_other(&fleet, &keys);

    let mut records = vec![KeyRecord::default(); keys.len()];
    // Clients stay with nodes that stay: p1, which founded the fleet and leads its control group as likely as not, is to leave.
    let clients: Vec<_> = fleet.clients().into_iter().skip(1).collect();

    for number in [4, 5] {
        let name = format!("p{number}");
        records = under_load(&mut fleet, &keys, records, &clients, &format!("{name} joins"), |fleet| {
            let plan = fleet.peers[0].http().ring_plan(&format!("add={name}")).expect("a plan");
            assert_eq!(plan.copies_anyway, 0, "a settled ring has nothing else to move");
            fleet.join_number(number, &[]);
            plan.copies
        });
    }
    records = under_load(&mut fleet, &keys, records, &clients, "p1 leaves", |fleet| {
        let plan = fleet.peers[1].http().ring_plan("remove=p1").expect("a plan");
        assert_eq!(plan.copies_anyway, 0, "a settled ring has nothing else to move");
        fleet.peers[0].cli(["leave", "--yes"]).timeout(Duration::from_secs(150)).run().ok();
        // It has waited until nobody needs this node: the others have every replica, and it is over at once.
        let ring = fleet.peers[1].http().ring().expect("a ring");
        assert!(ring.groups.iter().all(|group| !group.members.contains(&"p1".to_owned())), "{ring:?}");
        assert!(ring.nodes.iter().all(|node| node.name != "p1" || node.replicas == 0), "{ring:?}");
        assert_eq!(fleet.peers[0].wait_exit(Duration::from_secs(10)), 0, "{}", fleet.peers[0].stderr());
        plan.copies
    });

    fleet.settle();
    println!("four nodes: {}", balance(&fleet.leaders_spread()));
    let wrong = keys::wrong_keys(&keys, &mut records, &fleet.clients());
    assert!(wrong.is_empty(), "{wrong:#?}");
    // Nothing of this is in memory only.
    for peer in fleet.peers.iter().filter(|peer| peer.is_running()) {
        peer.signal(Signal::TERM);
    }
    for peer in fleet.peers.iter_mut().filter(|peer| peer.is_running()) {
        assert_eq!(peer.wait_exit(Duration::from_secs(15)), 0, "{}", peer.stderr());
        peer.respawn(&longshore_tests::peer::Start::Run);
    }
    fleet.running().for_each(longshore_tests::Peer::wait_ready);
    fleet.settle();
    let wrong = keys::wrong_keys(&keys, &mut records, &fleet.clients());
    assert!(wrong.is_empty(), "after a restart of all: {wrong:#?}");
}

/// Three busy groups that one node leads, among 32 that are led evenly: two of them are given to the others, for idle ones.
#[test]
fn busy_groups_are_not_all_led_by_one_node() {
    let _machine = machine::alone();
    let fleet = Fleet::with_ring(3, "busy", GROUPS, REPLICATION);
    let ring = fleet.leaders_spread();
    let leaders = |ring: &RingView| -> Vec<Option<String>> {
        ring.groups.iter().map(|group| group.leader.clone()).collect()
    };
    let first = leaders(&ring)[0].clone();
    let busy: Vec<usize> = (0..ring.groups.len()).filter(|i| leaders(&ring)[*i] == first).take(3).collect();
    let all = keys::key_of_each_group(GROUPS);
    let keys: Vec<String> = busy.iter().map(|i| all[*i].clone()).collect();
    let records = vec![KeyRecord::default(); keys.len()];
    let writers = Writers::resume(&keys, records, &fleet.clients(), Duration::from_millis(1));
    let loads = eventually_value("each busy group to be led by another node", SPREAD_TIMEOUT, || {
        let ring = fleet.peers[0].http().ring().map_err(|error| error.to_string())?;
        let led: Vec<_> = busy.iter().map(|i| leaders(&ring)[*i].clone()).collect();
        let loads: Vec<u64> = busy.iter().map(|i| ring.groups[*i].load).collect();
        let nodes: BTreeSet<_> = led.iter().flatten().collect();
        if nodes.len() == busy.len() { Ok(loads) } else { Err(format!("led by {led:?}, loads {loads:?}")) }
    });
    println!("groups with {loads:?} commands a second are led by three nodes");
    assert!(loads.iter().all(|load| *load >= 50), "{loads:?}");
    fleet.leaders_spread();
    for (record, key) in writers.finish().iter().zip(&keys) {
        assert!(record.wrong.is_empty(), "{key}: {:#?}", record.wrong);
    }
}

fn written_at_one_node_is_read_at_every_other(fleet: &Fleet, keys: &[String]) {
    let clients = fleet.clients();
    for (index, key) in keys.iter().enumerate() {
        let writer = &clients[index % clients.len()];
        let value = format!("written to {key} at node {}", index % clients.len());
        let set = writer.set_key("life", key, value.clone(), None).expect("a settled ring takes writes");
        for reader in &clients {
            let found = reader.get_key("life", key).expect("a settled ring reads");
            assert_eq!(found, Some((value.clone().into(), set.version)), "{key}");
        }
    }
}

/// Changes the fleet while every key is written, waits until the ring has settled, and judges.
fn under_load(
    fleet: &mut Fleet,
    keys: &[String],
    records: Vec<KeyRecord>,
    clients: &[longshore_tests::http::Http],
    what: &str,
    change: impl FnOnce(&mut Fleet) -> u32,
) -> Vec<KeyRecord> {
    // Gaps of this change only.
    let records = records.into_iter().map(KeyRecord::without_history).collect();
    let writers = Writers::resume(keys, records, clients, PACE);
    writers.all_acknowledged_since(0, WRITE_TIMEOUT);
    let before = fleet.peers[1].http().ring().expect("a ring");
    let watch = Stopwatch::start();

    let ideal = change(fleet);
    let ring = fleet.ring_settles();
    let took = watch.elapsed();
    // Writes go on where the data is now.
    writers.all_acknowledged_since(longshore_tests::probe::now_us(), WRITE_TIMEOUT);
    let records = writers.finish();

    // Every change that was carried out is an epoch of the ring, and moved one replica.
    let moves = ring.epoch - before.epoch;
    let mut gaps: Vec<_> =
        records.iter().zip(keys).map(|(record, key)| (record.largest_gap(), key)).collect();
    gaps.sort();
    let (worst, key) = *gaps.last().expect("there are keys");
    let worst = worst.expect("each key was written before and after");
    let mut report = format!("{what}: {moves} moves, ideal {ideal}, in {:.1} s; ", took.as_secs_f64());
    let _ = write!(
        report,
        "worst gap of a key {:.3} s ({key}), median key's {:.3} s; {}; {}",
        worst.as_secs_f64(),
        gaps[gaps.len() / 2].0.unwrap_or_default().as_secs_f64(),
        keys::summary(&records),
        balance(&ring)
    );
    println!("{report}");
    for (record, key) in records.iter().zip(keys) {
        assert!(record.wrong.is_empty(), "{key}: {:#?}\n{report}", record.wrong);
    }
    assert!(ideal > 0 && f64::from(ideal) * MOVES_OVER_IDEAL_MAX >= moves as f64, "{report}");
    assert!(worst <= GAP_MAX, "{report}");
    records
}

fn balance(ring: &RingView) -> String {
    let (replicas, leaders) = (ring.balance.replicas, ring.balance.leaders);
    format!(
        "replicas {} to {} per node (max/mean {:.2}), leaders {} to {} (max/mean {:.2})",
        replicas.min, replicas.max, replicas.max_over_mean, leaders.min, leaders.max, leaders.max_over_mean
    )
}
