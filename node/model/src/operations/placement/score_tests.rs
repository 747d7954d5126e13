//! Tests of how nodes that are able compare: what is free, which images are there, who is slow.

use super::*;

fn slow(candidate: Candidate, ms: u32) -> Candidate {
    let load = candidate.load.map(|load| Load { engine_ms: Some(ms), ..load });
    Candidate { load, ..candidate }
}

fn first(fleet: &[Candidate]) -> (u64, String) {
    let part = eligible(fleet, &Requirements::default()).unwrap().distribute(1).remove(0);
    (part.node.0, part.why.unwrap())
}

#[test]
fn work_goes_to_hosts_that_have_something_left() {
    let fleet = [free(1, 40, 90), free(2, 90, 80), free(3, 90, 30)];
    assert_eq!(first(&fleet), (2, "weight 10, 0 under way, 80 % free".to_owned()));
    let parts = eligible(&fleet, &Requirements::default()).unwrap().distribute(150);
    assert_eq!(counts(&parts), [(1, 40), (2, 80), (3, 30)].into());
    // However busy, a host counts as one quarter free; so does one that does not tell.
    let fleet = [free(1, 0, 50), free(2, 100, 100), node(3, 10)];
    let parts = eligible(&fleet, &Requirements::default()).unwrap().distribute(60);
    assert_eq!(counts(&parts), [(1, 10), (2, 40), (3, 10)].into());
    // Without memory it counts for next to nothing, image or not.
    let full = Candidate { has: vec![true], ..free(1, 90, 0) };
    assert_eq!(first(&[full, Candidate { has: vec![false], ..free(2, 40, 60) }]).0, 2);
    let tie = [free(1, 50, 60), free(2, 50, 70)];
    assert_eq!(first(&tie).0, 2, "of those that are alike whoever has more left");
}

#[test]
fn an_image_that_is_there_is_worth_a_part_and_a_half() {
    let with = |has: &[bool], open, id| Candidate { has: has.to_vec(), open, ..free(id, 80, 80) };
    let goes = |fleet: &[Candidate]| first(fleet).0;
    assert_eq!(
        first(&[with(&[false], 0, 1), with(&[true], 0, 2)]),
        (2, "weight 10, 0 under way, 80 % free, has the image".to_owned())
    );
    assert_eq!(goes(&[with(&[false], 0, 1), with(&[true], 1, 2)]), 2);
    assert_eq!(goes(&[with(&[false], 0, 1), with(&[true], 2, 2)]), 1, "two parts are more");
    assert_eq!(
        goes(&[with(&[false], 3, 1), with(&[false], 2, 2)]),
        2,
        "what nobody has speaks against nobody"
    );
    // Each image of a pull by itself; all of them for one that is to do all.
    let fleet = [with(&[true, false, false], 0, 1), with(&[false, false, true], 0, 2)];
    let able = eligible(&fleet, &Requirements::default()).unwrap();
    let nodes: Vec<u64> = able.distribute(3).iter().map(|part| part.node.0).collect();
    assert_eq!(nodes, [1, 2, 2]);
    let chosen = |fleet: &[Candidate]| eligible(fleet, &Requirements::default()).unwrap().choose(1).unwrap();
    let fleet = [with(&[true, false], 0, 1), with(&[true, true], 0, 2)];
    assert_eq!(chosen(&fleet), [(NodeId(2), "weight 10, 0 under way, 80 % free, has the images".to_owned())]);
    assert!(chosen(&fleet[..1])[0].1.ends_with("has 1 of 2 images"));
}

#[test]
fn slow_engines_and_nodes_that_are_not_heard_of_get_less() {
    let suspect = Candidate { is_suspect: true, ..free(1, 80, 80) };
    assert_eq!(first(&[suspect.clone(), free(2, 80, 80)]).0, 2);
    assert_eq!(first(&[suspect]).1, "weight 10, 0 under way, 80 % free, not heard of just now");
    let fleet = [slow(free(1, 80, 80), 600), slow(free(2, 80, 80), 400)];
    assert_eq!(first(&fleet).0, 2);
    let parts = eligible(&fleet, &Requirements::default()).unwrap().distribute(10);
    assert_eq!(counts(&parts), [(1, 5), (2, 5)].into(), "as one part more would");
    assert!(first(&fleet[..1]).1.ends_with("80 % free, its engine takes 600 ms to answer"));
    let both = [slow(free(1, 80, 80), 2_500), slow(free(2, 80, 80), 2_500)];
    assert_eq!(
        counts(&eligible(&both, &Requirements::default()).unwrap().distribute(4)),
        [(1, 2), (2, 2)].into()
    );
}

#[test]
fn what_was_placed_a_moment_ago_counts_as_under_way() {
    let mut fleet = [free(1, 80, 80), free(2, 80, 79), free(3, 80, 78)];
    // One after the other in one moment, of which no log tells yet.
    let mut chosen = [0; 3];
    for _ in 0..51 {
        let (node, _) = first(&fleet);
        fleet[node as usize - 1].placed += 1;
        chosen[node as usize - 1] += 1;
    }
    assert_eq!(chosen, [17; 3]);
    let both = [Candidate { open: 2, placed: 3, ..free(1, 80, 80) }];
    assert_eq!(first(&both).1, "weight 10, 5 under way, 80 % free");
    let many = [Candidate { open: u32::MAX, placed: u32::MAX, ..free(1, 80, 80) }, free(2, 80, 80)];
    assert_eq!(first(&many).0, 2);
    assert_eq!(eligible(&many[..1], &Requirements::default()).unwrap().distribute(2).len(), 2);
}

#[test]
fn of_nodes_that_are_alike_the_lot_decides() {
    let mut fleet: Vec<Candidate> = (1..=4).map(|id| free(id, 80, 80)).collect();
    let chosen = |fleet: &[Candidate], lot| {
        let able = eligible(fleet, &Requirements::default()).unwrap().drawn_by(lot);
        let (one, many, copy) =
            (able.choose(1).unwrap()[0].0, able.distribute(1), able.spread(1, &BTreeMap::new()));
        assert!(many[0].node == one && copy[0].node == one, "however it is asked for");
        one
    };
    let drawn: Vec<NodeId> = (0..1_000).map(|lot| chosen(&fleet, lot)).collect();
    assert!((0..1_000).all(|lot| chosen(&fleet, lot) == drawn[lot as usize]), "the same lot, the same node");
    for node in 1..=4 {
        let count = drawn.iter().filter(|drawn| drawn.0 == node).count();
        assert!((150..350).contains(&count), "node {node}: {count} of 1000");
    }
    // It decides nothing else.
    fleet[2] = free(3, 80, 81);
    assert!((0..100).all(|lot| chosen(&fleet, lot) == NodeId(3)));
}

proptest! {
    /// Of two nodes that are alike but for what is free, the freer one never gets less, whatever others there are.
    #[test]
    fn a_freer_node_never_gets_less(
        others in prop::collection::vec(prop::array::uniform4(0u8..), 0..6),
        busy in (0u32..=100, 0u64..=100),
        more in (0u32..=50, 0u64..=50),
        weight in 1u32..50,
        works in 0u32..60,
    ) {
        let (cpu, memory) = (busy.0.min(100 - more.0), busy.1.min(100 - more.1));
        proptest::prop_assume!(more.0 + more.1 as u32 > 0);
        let mut fleet: Vec<Candidate> =
            others.iter().zip(10..).map(|([a, b, c, d], id)| any_candidate(id, (*a, *b, *c, *d))).collect();
        // The busier one has the lower id, which wins where nothing else does.
        fleet.push(Candidate { weight, has: vec![false], ..free(1, cpu, memory) });
        fleet.push(Candidate { weight, has: vec![false], ..free(2, cpu + more.0, memory + more.1) });
        let able = eligible(&fleet, &Requirements::default()).unwrap();
        for parts in [able.distribute(works), able.spread(works, &BTreeMap::new())] {
            let counts = counts(&parts);
            prop_assert!(counts.get(&2) >= counts.get(&1), "{counts:?}");
        }
    }

    /// Of nodes that are alike otherwise, those that have the image are taken first, until they have a part and a half more to do.
    #[test]
    fn images_that_are_there_are_preferred_among_equals(
        has in prop::collection::vec(proptest::bool::ANY, 1..12),
        works in 1u32..60,
    ) {
        let fleet: Vec<Candidate> =
            has.iter().zip(1..).map(|(has, id)| Candidate { has: vec![*has], ..free(id, 70, 70) }).collect();
        let able = eligible(&fleet, &Requirements::default()).unwrap();
        let with = has.iter().filter(|has| **has).count();
        let is_with = |node: NodeId| has[node.0 as usize - 1];
        if with > 0 {
            prop_assert!(able.choose(with).unwrap().into_iter().all(|(node, _)| is_with(node)));
        }
        let counts = counts(&able.distribute(works));
        let of = |wanted: bool| {
            let of = has.iter().zip(1..).filter(move |(has, _)| **has == wanted);
            of.map(|(_, id)| counts.get(&id).copied().unwrap_or(0)).collect::<Vec<u32>>()
        };
        if let (Some(least), Some(most)) = (of(true).iter().min(), of(false).iter().max()) {
            prop_assert!(least >= most && (*most == 0 || least - most <= 2), "{counts:?}");
        }
    }
}
