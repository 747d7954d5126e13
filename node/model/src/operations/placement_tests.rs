//! Tests of placement: rules in a table, and the shares of any fleet.

use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

use super::*;

fn node(id: u64, weight: u32) -> Candidate {
    Candidate {
        node: NodeId(id),
        name: format!("host-{id}"),
        zone: None,
        labels: BTreeMap::new(),
        capacity: None,
        weight,
        open: 0,
        unable: None,
    }
}

fn labelled(id: u64, labels: &[(&str, &str)], zone: Option<&str>) -> Candidate {
    let labels = labels.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    Candidate { labels, zone: zone.map(str::to_owned), ..node(id, 1) }
}

fn wanted(labels: &[&str], zones: &[&str]) -> Requirements {
    Requirements {
        labels: labels.iter().map(|l| l.parse().unwrap()).collect(),
        zones: zones.iter().map(|z| z.to_string()).collect(),
        ..Requirements::default()
    }
}

fn counts(parts: &[Part]) -> BTreeMap<u64, u32> {
    let mut counts = BTreeMap::new();
    parts.iter().for_each(|part| *counts.entry(part.node.0).or_default() += 1);
    counts
}

#[test]
fn whoever_misses_a_requirement_is_not_chosen_and_the_error_says_why() {
    let mut dead = labelled(4, &[("disk", "ssd")], Some("a"));
    dead.unable = Some("is dead".into());
    let fleet = [
        labelled(1, &[("disk", "ssd"), ("gpu", "")], Some("a")),
        labelled(2, &[("disk", "hdd")], Some("b")),
        labelled(3, &[], None),
        dead,
    ];
    let able = |labels: &[&str], zones: &[&str]| eligible(&fleet, &wanted(labels, zones)).map(|e| e.all());
    let ids = |ids: &[u64]| Ok(ids.iter().copied().map(NodeId).collect::<Vec<_>>());
    assert_eq!(able(&[], &[]), ids(&[1, 2, 3]));
    assert_eq!(able(&["disk=ssd"], &[]), ids(&[1]));
    assert_eq!(able(&["disk"], &[]), ids(&[1, 2]));
    assert_eq!(able(&["disk", "gpu="], &[]), ids(&[1]));
    assert_eq!(able(&[], &["b", "a"]), ids(&[1, 2]));
    let errors = [
        (
            able(&["disk=nvme"], &[]),
            "no node of the fleet has the label disk=nvme; there are disk=hdd, disk=ssd",
        ),
        (able(&["fast"], &[]), "no node of the fleet has the label fast"),
        (able(&[], &["c"]), "no node of the fleet is in zone \"c\"; there are a, b"),
        (
            able(&["gpu"], &["b"]),
            "no node can do this: host-1 is in zone a, host-2 has no label gpu, host-3 has no label gpu, host-4 has no label gpu",
        ),
    ];
    for (got, text) in errors {
        assert_eq!(got.unwrap_err().to_string(), text);
    }
    let too_few = eligible(&fleet, &wanted(&["disk=ssd"], &[])).unwrap().choose(2).unwrap_err();
    assert_eq!(
        too_few.to_string(),
        "2 nodes are asked for, and 1 can do this: host-2 has disk=hdd, host-3 has no label disk, host-4 is dead"
    );
    assert!("=x".parse::<LabelRequirement>().unwrap_err().contains("disk=ssd"));
}

#[test]
fn copies_go_to_different_zones_and_to_who_has_least_to_do() {
    let mut fleet = [("a", 5), ("a", 0), ("b", 9), ("b", 8), ("c", 7)]
        .iter()
        .zip(1..)
        .map(|((zone, open), id)| Candidate { open: *open, ..labelled(id, &[], Some(zone)) })
        .collect::<Vec<_>>();
    let chosen = |fleet: &[Candidate], count| -> Vec<u64> {
        let chosen = eligible(fleet, &Requirements::default()).unwrap().choose(count).unwrap();
        chosen.into_iter().map(|(node, _)| node.0).collect()
    };
    assert_eq!(chosen(&fleet, 1), [2]);
    assert_eq!(chosen(&fleet, 3), [2, 4, 5]);
    assert_eq!(chosen(&fleet, 4), [1, 2, 4, 5]);
    fleet[2].weight = 100;
    assert_eq!(chosen(&fleet, 1), [3], "ten of a hundred is less than one of one");
}

#[test]
fn work_is_dealt_in_turn_where_that_is_asked() {
    let fleet = [node(1, 100), node(2, 1), node(3, 1)];
    let eligible = eligible(&fleet, &Requirements::default()).unwrap();
    assert_eq!(counts(&eligible.deal(7)), [(1, 3), (2, 2), (3, 2)].into());
    assert_eq!(counts(&eligible.distribute(102)), [(1, 100), (2, 1), (3, 1)].into());
}

proptest! {
    /// No node has more than its exact share of all there is to do by a whole piece, unless it had more before; and every piece is given once.
    #[test]
    fn shares_follow_weights(nodes in prop::collection::vec((1u32..64, 0u32..20), 1..40), works in 0u32..300) {
        let fleet: Vec<Candidate> = nodes.iter().zip(1..)
            .map(|((weight, open), id)| Candidate { open: *open, ..node(id, *weight) })
            .collect();
        let parts = eligible(&fleet, &Requirements::default()).unwrap().distribute(works);
        prop_assert_eq!(parts.iter().map(|p| p.work).collect::<Vec<_>>(), (0..works).collect::<Vec<_>>());
        let counts = counts(&parts);
        let level = |c: &Candidate| f64::from(c.open + counts.get(&c.node.0).copied().unwrap_or(0)) / f64::from(c.weight);
        for heavy in fleet.iter().filter(|c| counts.contains_key(&c.node.0)) {
            for other in &fleet {
                // Moving its last piece to the other would not help.
                let moved = level(other) + 1.0 / f64::from(other.weight);
                prop_assert!(level(heavy) <= moved + 1e-9, "{heavy:?} has too much beside {other:?}");
            }
        }
    }
}

#[test]
fn copies_are_spread_over_nodes_then_zones_then_by_weight() {
    let fleet = [
        Candidate { weight: 4, ..labelled(1, &[], Some("a")) },
        labelled(2, &[], Some("a")),
        labelled(3, &[], Some("b")),
    ];
    let spread = |copies, there: &[(u64, u32)]| {
        let there = there.iter().map(|(node, has)| (NodeId(*node), *has)).collect();
        let parts = eligible(&fleet, &wanted(&[], &[])).unwrap().spread(copies, &there);
        parts.iter().map(|part| part.node.0).collect::<Vec<_>>()
    };
    assert_eq!(spread(1, &[]), [1], "the one that can carry most");
    assert_eq!(spread(2, &[]), [1, 3], "another zone before another node of the same");
    assert_eq!(spread(3, &[]), [1, 3, 2]);
    assert_eq!(spread(5, &[]), [1, 3, 2, 3, 1], "each has one before any has two");
    assert_eq!(spread(1, &[(1, 1), (3, 1)]), [2], "where no other copy is");
    assert_eq!(spread(1, &[(1, 1), (2, 1)]), [3]);
    let parts = eligible(&fleet, &wanted(&[], &[])).unwrap().spread(4, &BTreeMap::new());
    assert_eq!(parts[0].why.as_deref(), Some("no other copy, weight 4, 0 under way, zone a"));
    assert_eq!(parts[3].why.as_deref(), Some("1 other copy, weight 1, 0 under way, zone b"));
}

proptest! {
    /// However many copies, and wherever some are already: no node has two more than another that could have taken one.
    #[test]
    fn no_node_has_two_copies_more_than_another(
        weights in prop::collection::vec(1u32..9, 1..8),
        copies in 0u32..40,
    ) {
        let fleet: Vec<Candidate> = weights.iter().enumerate().map(|(i, w)| node(i as u64 + 1, *w)).collect();
        let parts = eligible(&fleet, &wanted(&[], &[])).unwrap().spread(copies, &BTreeMap::new());
        prop_assert_eq!(parts.len() as u32, copies);
        prop_assert!(parts.iter().zip(0..).all(|(part, work)| part.work == work));
        let counts = counts(&parts);
        let of = |c: &Candidate| counts.get(&c.node.0).copied().unwrap_or(0);
        let (least, most) = (fleet.iter().map(of).min(), fleet.iter().map(of).max());
        prop_assert!(most.unwrap() - least.unwrap() <= 1);
    }
}

#[test]
fn hosts_that_are_too_small_or_of_another_kind_are_told_apart() {
    let host = |id, cpus, gib: u64, arch: &str| {
        let capacity = Capacity { cpus, memory_bytes: gib << 30, arch: arch.into() };
        Candidate { capacity: Some(capacity), ..node(id, 1) }
    };
    let fleet = [host(1, 2, 4, "amd64"), host(2, 8, 4, "x86_64"), host(3, 8, 64, "arm64"), node(4, 1)];
    let able = |cpus, gib: u64, arch: Option<&str>| {
        let wanted = Requirements {
            cpus,
            memory_bytes: gib << 30,
            arch: arch.map(str::to_owned),
            ..Requirements::default()
        };
        eligible(&fleet, &wanted).map(|e| e.all().iter().map(|node| node.0).collect::<Vec<_>>())
    };
    assert_eq!(able(0, 0, None), Ok(vec![1, 2, 3, 4]));
    assert_eq!(able(8, 0, None), Ok(vec![2, 3]));
    assert_eq!(able(0, 8, None), Ok(vec![3]));
    assert_eq!(able(0, 0, Some("amd64")), Ok(vec![1, 2]));
    assert_eq!(
        able(4, 8, Some("amd64")).unwrap_err().to_string(),
        "no node can do this: host-1 has 2 processors, host-2 has 4096 MiB of memory, host-3 is arm64, host-4 has not told what its host has"
    );
}
