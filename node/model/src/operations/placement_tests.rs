//! Tests of placement: rules in a table, and the shares of any fleet.

use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

use super::*;

#[path = "placement/score_tests.rs"]
mod score;

fn node(id: u64, weight: u32) -> Candidate {
    Candidate {
        node: NodeId(id),
        name: format!("host-{id}"),
        zone: None,
        labels: BTreeMap::new(),
        capacity: None,
        load: None,
        has: Vec::new(),
        weight,
        open: 0,
        placed: 0,
        is_suspect: false,
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
    dead.unable = Some(Miss::Away("is dead".into()));
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
        let capabilities = [format!("arch:{arch}")].into();
        let capacity = Capacity { cpus, memory_bytes: gib << 30, arch: arch.into(), capabilities };
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
        "no node can do this: host-1 has 2 processors, host-2 has 4096 MiB of memory, host-3 is arm64, host-4 has not told yet what its host has"
    );
}

const GIB: u64 = 1 << 30;

/// A host of which so much of processors and memory is free, in per cent.
fn free(id: u64, cpu: u32, memory: u64) -> Candidate {
    let load = Load {
        cpu_busy: (1_000 - cpu * 10) as u16,
        memory_bytes: 100 * GIB,
        memory_free_bytes: memory * GIB,
        disk_bytes: 100 * GIB,
        disk_free_bytes: 40 * GIB,
        running: 0,
        engine_ms: Some(5),
    };
    Candidate { load: Some(load), ..node(id, 10) }
}

#[test]
fn a_preferred_zone_comes_first_and_rules_nobody_out() {
    let zones = ["a", "a", "b", "c"];
    let mut fleet: Vec<Candidate> =
        zones.iter().zip(1..).map(|(zone, id)| labelled(id, &[], Some(zone))).collect();
    let prefer = |zone: &str| Requirements { preferred_zone: Some(zone.into()), ..Requirements::default() };
    let able = eligible(&fleet, &prefer("a")).unwrap();
    let chosen = |count| able.choose(count).unwrap().iter().map(|(node, _)| node.0).collect::<Vec<_>>();
    assert_eq!((chosen(1), chosen(2), chosen(3)), (vec![1], vec![1, 2], vec![1, 2, 3]));
    assert!(able.choose(1).unwrap()[0].1.ends_with("0 under way, preferred zone a"));
    assert_eq!(counts(&able.distribute(6)), [(1, 3), (2, 3)].into());
    assert_eq!(counts(&able.deal(3)), [(1, 2), (2, 1)].into());
    assert_eq!(able.all().len(), 4);
    let copies: Vec<u64> = able.spread(5, &BTreeMap::new()).iter().map(|part| part.node.0).collect();
    assert_eq!(copies, [1, 2, 3, 4, 1], "no node has two before each has one");
    // Nobody there is able: the others do it. A zone that there is not is a typing mistake.
    fleet[3].unable = Some(Miss::Away("is dead".into()));
    assert_eq!(eligible(&fleet, &prefer("c")).unwrap().distribute(3).len(), 3);
    assert_eq!(check_preference(&fleet, &prefer("c")), Ok(()));
    assert_eq!(check_preference(&fleet, &Requirements::default()), Ok(()));
    assert_eq!(
        check_preference(&fleet, &prefer("d")).unwrap_err().to_string(),
        "no node of the fleet is in zone \"d\"; there are a, b, c"
    );
}

#[test]
fn room_on_the_disk_and_what_an_engine_can_do_are_required() {
    let can = |id, capabilities: &[&str]| Candidate {
        capacity: Some(Capacity {
            cpus: 1,
            memory_bytes: GIB,
            arch: "amd64".into(),
            capabilities: capabilities.iter().map(|name| name.to_string()).collect(),
        }),
        ..free(id, 50, 50)
    };
    let mut fleet = [can(1, &["os:linux", "gpu"]), can(2, &["os:linux"]), node(3, 1)];
    fleet[0].load.as_mut().unwrap().disk_free_bytes = 3 * GIB;
    let asks = |gib: u64, capabilities: &[&str]| {
        let wanted = Requirements {
            storage_bytes: gib * GIB,
            capabilities: capabilities.iter().map(|name| name.to_string()).collect(),
            ..Requirements::default()
        };
        let able =
            eligible(&fleet, &wanted).map(|able| able.all().iter().map(|node| node.0).collect::<Vec<_>>());
        able.map_err(|error| error.to_string())
    };
    assert_eq!(asks(3, &[]), Ok(vec![1, 2]));
    assert_eq!(asks(4, &["os:linux"]), Ok(vec![2]));
    assert_eq!(asks(0, &["gpu", "os:linux"]), Ok(vec![1]));
    assert_eq!(
        asks(1 << 20, &[]),
        Err("no node can do this: host-1 has 3072 MiB of its disk free, host-2 has 40960 MiB of its disk free, \
             host-3 has not told yet how much of its disk is free"
            .to_owned())
    );
    assert_eq!(
        asks(4, &["gpu"]),
        Err("no node can do this: host-1 has 3072 MiB of its disk free, host-2 lacks gpu, host-3 has not told \
             yet what its host has"
            .to_owned())
    );
    assert_eq!(
        asks(0, &["gpus"]),
        Err("no node can do this: host-1 lacks gpus, host-2 lacks gpus, host-3 has not told yet what its host has".to_owned()),
        "it may be that one's"
    );
    let error = eligible(&fleet[..2], &capability("gpus")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no node of the fleet has the capability \"gpus\"; there are gpu, os:linux"
    );
    assert!(!error.may_pass());
    // One that was known, and is away, is told apart from one that nobody has.
    fleet[0].unable = Some(Miss::Away("has a Docker engine that does not answer".into()));
    let error = eligible(&fleet[..2], &capability("gpu")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no node can do this: host-1 has a Docker engine that does not answer, host-2 lacks gpu"
    );
    assert!(error.may_pass());
    let many: Vec<String> = (0..12).map(|i| format!("runtime:{i}")).collect();
    let many = many.iter().map(String::as_str).collect::<Vec<_>>();
    let wanted = Requirements { capabilities: vec!["x".into()], ..Requirements::default() };
    let error = eligible(&[can(1, &many)], &wanted).unwrap_err().to_string();
    assert!(error.ends_with("runtime:5 and 4 more"), "{error}");
}

fn capability(name: &str) -> Requirements {
    Requirements { capabilities: vec![name.into()], ..Requirements::default() }
}

#[test]
fn whoever_is_away_or_has_not_told_is_left_out_by_name() {
    let able = |id| Candidate {
        capacity: Some(Capacity {
            cpus: 4,
            memory_bytes: GIB,
            arch: "amd64".into(),
            capabilities: ["os:linux".to_owned()].into(),
        }),
        ..free(id, 50, 50)
    };
    let dead = Candidate { unable: Some(Miss::Away("is dead".into())), ..able(2) };
    let paused = Candidate { unable: Some(Miss::Unfit("is paused".into())), ..able(3) };
    let untold = [Candidate { capacity: None, ..able(4) }, Candidate { load: None, ..able(5) }];
    let fleet: Vec<Candidate> = [able(1), dead, paused].into_iter().chain(untold).chain([able(6)]).collect();
    let wanted = Requirements { cpus: 2, storage_bytes: GIB, ..capability("os:linux") };
    let found = eligible(&fleet, &wanted).unwrap();
    assert_eq!(found.all(), [NodeId(1), NodeId(6)]);
    let left_out: Vec<(u64, String)> = found.left_out().into_iter().map(|l| (l.node.0, l.why)).collect();
    assert_eq!(
        left_out,
        [
            (2, "is dead".to_owned()),
            (4, "has not told yet what its host has".to_owned()),
            (5, "has not told yet how much of its disk is free".to_owned()),
        ]
    );
    assert!(is_untold(&fleet, &wanted) && !is_untold(&fleet, &Requirements::default()));
    assert!(!is_untold(&fleet[..3], &wanted), "a dead one tells nothing");
    // What is known to be missing counts before what is not known.
    let hopeless = Requirements { cpus: 8, storage_bytes: GIB, ..Requirements::default() };
    assert!(!is_untold(&fleet[4..], &hopeless));
    let of_nothing = Candidate {
        load: fleet[0].load.map(|load| Load { disk_bytes: 0, disk_free_bytes: 0, ..load }),
        ..able(1)
    };
    assert!(is_untold(&[of_nothing], &wanted), "a disk of which nothing is known");
}

/// Any candidate: the numbers choose among few values, so that many are alike.
fn any_candidate(id: u64, (a, b, c, d): (u8, u8, u8, u8)) -> Candidate {
    let mut candidate = match a % 3 {
        0 => node(id, 1 + u32::from(b % 4)),
        _ => {
            Candidate { weight: 1 + u32::from(b % 4), ..free(id, u32::from(c % 11) * 10, u64::from(d % 101)) }
        }
    };
    candidate.zone = ["x", "y"].get(usize::from(b % 3)).map(|zone| (*zone).to_owned());
    candidate.open = u32::from(d % 4);
    candidate.is_suspect = c % 7 == 0;
    candidate.has = vec![a % 2 == 0];
    if d % 2 == 0 {
        candidate.labels.insert("disk".into(), "ssd".into());
    }
    if c % 4 > 0 {
        let capabilities = if c % 4 > 1 { BTreeSet::from(["gpu".to_owned()]) } else { BTreeSet::new() };
        let capacity =
            Capacity { cpus: u32::from(c % 4), memory_bytes: GIB, arch: "amd64".into(), capabilities };
        candidate.capacity = Some(capacity);
    }
    if let Some(load) = &mut candidate.load {
        load.disk_free_bytes = u64::from(c) * GIB;
    }
    candidate
}

proptest! {
    /// Whatever is asked, and however it is given out: nobody gets anything that misses a requirement.
    #[test]
    fn nobody_is_chosen_that_misses_a_requirement(
        nodes in prop::collection::vec(prop::array::uniform4(0u8..), 1..20),
        asks in prop::array::uniform6(0u8..3),
        works in 1u32..20,
    ) {
        let fleet: Vec<Candidate> =
            nodes.iter().zip(1..).map(|([a, b, c, d], id)| any_candidate(id, (*a, *b, *c, *d))).collect();
        let [label, zone, cpus, storage, gpu, prefer] = asks;
        let wanted = Requirements {
            labels: if label == 0 { vec!["disk=ssd".parse().unwrap()] } else { vec![] },
            zones: if zone == 0 { vec!["x".into()] } else { vec![] },
            cpus: u32::from(cpus),
            storage_bytes: u64::from(storage) * 40 * GIB,
            capabilities: if gpu == 0 { vec!["gpu".into()] } else { vec![] },
            preferred_zone: (prefer > 0).then(|| "y".to_owned()),
            ..Requirements::default()
        };
        let Ok(able) = eligible(&fleet, &wanted) else { return Ok(()) };
        let mut chosen: Vec<NodeId> = able.choose(able.all().len()).unwrap().into_iter().map(|(node, _)| node).collect();
        for parts in [able.distribute(works), able.spread(works, &BTreeMap::new()), able.deal(works)] {
            prop_assert_eq!(parts.len() as u32, works);
            chosen.extend(parts.iter().map(|part| part.node));
        }
        for node in chosen {
            let of = &fleet[node.0 as usize - 1];
            let (told, load) = (of.capacity.as_ref(), of.load.as_ref());
            prop_assert!(wanted.labels.is_empty() || of.labels.contains_key("disk"));
            prop_assert!(wanted.zones.is_empty() || of.zone.as_deref() == Some("x"));
            prop_assert!(wanted.cpus == 0 || told.is_some_and(|told| told.cpus >= wanted.cpus));
            prop_assert!(wanted.capabilities.is_empty() || told.is_some_and(|told| told.capabilities.contains("gpu")));
            prop_assert!(
                wanted.storage_bytes == 0 || load.is_some_and(|load| load.disk_free_bytes >= wanted.storage_bytes)
            );
        }
    }
}
