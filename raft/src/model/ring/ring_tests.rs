//! The whole ring as a state machine: whatever happens to the fleet, in whatever order, the invariants hold, and left alone it reaches its target.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::assign::NodeSpec;
use super::check::check;
use super::error::RingError;
use super::schedule::{Begin, DEATH_PAUSE_MS, ScheduleLimits, next_changes};
use super::slot::GroupCount;
use super::table::{ChangeId, Placement, Ring, Step};
use super::test_fleet::{Fleet, spec};
use crate::model::ids::{GroupId, NodeId, ReplicaId};

const G1: GroupId = GroupId(1);

#[test]
fn one_to_three_grows_in_one_change_and_a_replacement_is_one_for_one() {
    let mut fleet = Fleet::new(3);
    assert_eq!(fleet.ring.step(G1, &BTreeSet::new()), None);
    fleet.join(1, 0);
    fleet.join(1, 0);
    assert_eq!(fleet.retarget(), Ok(true));
    assert_eq!(fleet.retarget(), Ok(false), "the same nodes give the same target");
    let grow = Step { add: vec![NodeId(2), NodeId(3)], remove: vec![] };
    assert_eq!(fleet.ring.step(G1, &BTreeSet::new()), Some(grow.clone()));
    let id = fleet.begin(&Begin { group: G1, step: grow }).unwrap();
    let placement = fleet.ring.placement(G1).unwrap();
    assert_eq!(
        (placement.nodes(), placement.epoch),
        (vec![NodeId(1)], 1),
        "owners change when it is finished"
    );
    assert_eq!(fleet.ring.replicas_on(NodeId(3)).count(), 1, "node 3 has to open its replica");
    fleet.finish(G1, id).unwrap();
    let placement = fleet.ring.placement(G1).unwrap();
    assert_eq!((placement.nodes().len(), placement.epoch, fleet.ring.epoch()), (3, 2, 2));
    // The other 31 groups.
    assert_eq!(fleet.settle(), 31);
    fleet.join(1, 0);
    assert_eq!(fleet.settle(), 24, "a fourth node takes a quarter of 96 replicas");
    fleet.leave(NodeId(2));
    assert_eq!(fleet.settle(), 24);
    fleet.leave(NodeId(2));
    assert_eq!(fleet.ring.replicas_on(NodeId(2)).count(), 0);
    fleet.leave(NodeId(1));
    assert_eq!(fleet.settle(), 32, "two nodes hold one replica of each group");
    assert!(fleet.ring.placements().all(|(_, p)| p.members.len() == 1));
}

#[test]
fn a_damaged_replica_is_replaced_where_it_is() {
    let mut fleet = Fleet::of(3, 3);
    let (node, group) = (NodeId(2), G1);
    let placement = |fleet: &Fleet| fleet.ring.placement(G1).unwrap().clone();
    let under_way = |fleet: &Fleet| placement(fleet).change.expect("a change").id;
    let damaged = placement(&fleet).replica_on(node).unwrap();
    fleet.renew(node, damaged).unwrap();
    let during = placement(&fleet);
    let new = during.replica_on(node).unwrap();
    assert!(new != damaged && during.members.contains_key(&damaged));
    assert!(during.members_after().contains_key(&new) && !during.members_after().contains_key(&damaged));
    assert!(!fleet.ring.is_outdated(G1) && !fleet.ring.is_settled());
    let said = RingError::NotAMember { node, replica: damaged };
    assert_eq!(fleet.renew(node, damaged), Err(said), "it is under way");
    let (other, id) = (during.replica_on(NodeId(1)).unwrap(), under_way(&fleet));
    assert_eq!(fleet.renew(NodeId(1), other), Err(RingError::ChangeUnderWay { group, under_way: id }));
    fleet.finish(G1, id).unwrap();
    assert!(fleet.ring.is_settled() && placement(&fleet).epoch > during.epoch);
    assert_eq!(fleet.tombstones(), [(node, damaged)]);
    // The new one is damaged too, before the old one's files are gone.
    assert_eq!(fleet.renew(node, new), Err(RingError::NotYetDestroyed { group, node, replica: damaged }));
    fleet.destroyed(node, damaged);
    fleet.renew(node, new).unwrap();
    // And so is the next one, before it has a vote: the change is given up, and a third begins.
    let next = placement(&fleet).replica_on(node).unwrap();
    fleet.renew(node, next).unwrap();
    assert!(fleet.ring.is_outdated(G1));
    assert_eq!(fleet.renew(node, next), Err(RingError::NotAMember { node, replica: next }), "it was said");
    let id = under_way(&fleet);
    fleet.ring.abandon_change(G1, id).unwrap();
    assert_eq!((placement(&fleet).replica_on(node), fleet.tombstones()), (Some(new), vec![(node, next)]));
    fleet.destroyed(node, next);
    fleet.ring.set_paused(true);
    assert_eq!(fleet.renew(node, new), Err(RingError::Paused));
    fleet.ring.set_paused(false);
    assert_eq!(fleet.renew(node, new), Ok(()));
}

#[test]
fn what_has_no_other_copy_or_is_to_go_is_not_made_anew() {
    let alone = Fleet::of(1, 3).ring;
    let only = alone.placement(G1).unwrap().replica_on(NodeId(1)).unwrap();
    let (group, node) = (G1, NodeId(1));
    assert_eq!(alone.renewal(node, only), Err(RingError::OnlyReplica { group, node }));
    let mut fleet = Fleet::of(4, 3);
    let (group, node) = fleet.ring.placements().map(|(group, p)| (group, p.nodes()[0])).next().unwrap();
    let damaged = fleet.ring.placement(group).unwrap().replica_on(node).unwrap();
    fleet.leave(node);
    fleet.retarget().unwrap();
    assert_eq!(fleet.renew(node, damaged), Err(RingError::GivenUp { group, node }));
}

#[test]
fn what_is_refused_changes_nothing() {
    let mut fleet = Fleet::of(4, 3);
    fleet.join(1, 0);
    fleet.retarget().unwrap();
    let none = BTreeSet::new();
    let (group, step) =
        fleet.ring.groups().groups().find_map(|g| Some((g, fleet.ring.step(g, &none)?))).unwrap();
    let settled = fleet.ring.groups().groups().find(|g| fleet.ring.step(*g, &none).is_none()).unwrap();
    let before = fleet.ring.clone();
    let nodes: Vec<NodeSpec> = (1..=5).map(spec).collect();
    let mut plan = before.plan(&nodes).unwrap();
    let begin = |fleet: &mut Fleet, group, add: &[NodeId], remove: &[NodeId]| {
        fleet.begin(&Begin { group, step: Step { add: add.to_vec(), remove: remove.to_vec() } }).unwrap_err()
    };
    let bad_step = |e: RingError| assert!(matches!(e, RingError::BadStep { .. }), "{e}");
    let stays = before.target()[&group].iter().find(|n| **n != step.add[0]).copied().unwrap();
    bad_step(begin(&mut fleet, group, &[], &step.remove));
    bad_step(begin(&mut fleet, group, &step.add, &[]));
    bad_step(begin(&mut fleet, group, &[stays], &step.remove));
    bad_step(begin(&mut fleet, group, &step.add, &[stays]));
    bad_step(begin(&mut fleet, group, &[NodeId(9)], &step.remove));
    assert_eq!(begin(&mut fleet, settled, &step.add, &step.remove), RingError::InPlace(settled));
    assert_eq!(begin(&mut fleet, GroupId(0), &[], &[]), RingError::UnknownGroup(GroupId(0), 32));
    assert_eq!(fleet.ring.found(spec(1), || unreachable!("no id is taken")), Err(RingError::AlreadyFounded));
    let not_under_way = Err(RingError::ChangeNotUnderWay { group, change: ChangeId(7) });
    assert_eq!(fleet.ring.finish_change(group, ChangeId(7), &BTreeSet::new()), not_under_way);
    assert_eq!(fleet.ring.abandon_change(group, ChangeId(7)), not_under_way);
    let (node, replica) = (NodeId(1), ReplicaId(1));
    assert_eq!(fleet.ring.forget_tombstone(node, replica), Err(RingError::NoTombstone { node, replica }));
    plan.base -= 1;
    assert!(matches!(fleet.ring.retarget(plan.clone()), Err(RingError::StalePlan { .. })));
    plan.base += 1;
    let moved = plan.layout.get_mut(&G1).unwrap();
    moved[0] = moved[1];
    assert!(matches!(fleet.ring.retarget(plan), Err(RingError::BadPlan(_))));
    fleet.ring.set_paused(true);
    assert_eq!(begin(&mut fleet, group, &step.add, &step.remove), RingError::Paused);
    fleet.ring.set_paused(false);
    assert_eq!(fleet.ring, before);

    let id = fleet.begin(&Begin { group, step: step.clone() }).unwrap();
    let under_way = RingError::ChangeUnderWay { group, under_way: id };
    assert_eq!(begin(&mut fleet, group, &step.add, &step.remove), under_way);
    let other = ChangeId(id.0 - 1);
    let not_under_way = Err(RingError::ChangeNotUnderWay { group, change: other });
    assert_eq!(fleet.finish(group, other), not_under_way);
    assert_eq!(fleet.ring.abandon_change(group, other), not_under_way);
    let members: BTreeSet<_> = fleet.ring.placement(group).unwrap().members.keys().copied().collect();
    let unexpected = fleet.ring.finish_change(group, id, &members).unwrap_err();
    assert!(matches!(unexpected, RingError::UnexpectedMembers { .. }), "{unexpected}");
    // Given up: the node must destroy what it was given before it is given more of this group.
    fleet.ring.abandon_change(group, id).unwrap();
    assert_eq!(fleet.ring.step(group, &none), None);
    assert!(matches!(begin(&mut fleet, group, &step.add, &step.remove), RingError::NotYetDestroyed { .. }));
    let (node, replica) = fleet.tombstones().into_iter().find(|(node, _)| *node == step.add[0]).unwrap();
    assert_eq!(fleet.ring.forget_tombstone(node, replica), Ok(group));
    assert!(fleet.begin(&Begin { group, step }).is_ok());

    let mut empty = Ring::new(GroupCount::G32, 3).unwrap();
    assert_eq!(empty.plan(&nodes), Err(RingError::NotFounded));
    assert_eq!(
        empty.found(NodeSpec { usable: false, ..spec(1) }, || ReplicaId(1)),
        Err(RingError::NoUsableNode)
    );
    assert_eq!(Ring::new(GroupCount::G32, 2), Err(RingError::Replication(2)));
}

#[test]
fn the_dead_are_removed_first() {
    let mut fleet = Fleet::of(3, 3);
    (0..3).for_each(|_| drop(fleet.join(1, 0)));
    (1..=3).for_each(|node| fleet.leave(NodeId(node)));
    fleet.retarget().unwrap();
    let step = fleet.ring.step(G1, &BTreeSet::from([NodeId(2), NodeId(4)])).unwrap();
    assert_eq!(step, Step { add: vec![NodeId(5)], remove: vec![NodeId(2)] });
}

#[test]
fn a_change_that_leads_away_from_the_target_is_outdated() {
    // The node that a growth adds is to go again.
    let mut fleet = Fleet::of(1, 3);
    (0..3).for_each(|_| drop(fleet.join(1, 0)));
    fleet.retarget().unwrap();
    let step = fleet.ring.step(G1, &BTreeSet::new()).unwrap();
    fleet.begin(&Begin { group: G1, step: step.clone() }).unwrap();
    assert!(!fleet.ring.is_outdated(G1));
    fleet.leave(step.add[0]);
    fleet.retarget().unwrap();
    assert!(fleet.ring.is_outdated(G1));
    // Shrinkage to one replica, and then the nodes are there after all.
    let mut fleet = Fleet::of(3, 3);
    fleet.leave(NodeId(3));
    fleet.retarget().unwrap();
    let step = fleet.ring.step(G1, &BTreeSet::new()).unwrap();
    assert_eq!((step.add.len(), step.remove.len()), (0, 2));
    let id = fleet.begin(&Begin { group: G1, step }).unwrap();
    assert!(!fleet.ring.is_outdated(G1));
    fleet.members.get_mut(&NodeId(3)).unwrap().spec.usable = true;
    fleet.retarget().unwrap();
    assert!(fleet.ring.is_outdated(G1));
    fleet.ring.abandon_change(G1, id).unwrap();
    assert!(fleet.ring.is_settled() && fleet.tombstones().is_empty());
}

#[test]
fn a_node_that_is_gone_leaves_no_tombstones_behind() {
    let mut fleet = Fleet::of(4, 3);
    let node = NodeId(4);
    fleet.leave(node);
    fleet.retarget().unwrap();
    let limits = ScheduleLimits { fleet: 100, node_in: 100, node_out: 100 };
    for begin in next_changes(&fleet.ring, &BTreeSet::new(), &BTreeMap::new(), &limits) {
        let id = fleet.begin(&begin).unwrap();
        assert!(fleet.ring.needs(node), "until its last replica has moved");
        fleet.finish(begin.group, id).unwrap();
    }
    assert!(!fleet.ring.needs(node));
    assert_eq!((fleet.ring.tombstones_on(node).count(), fleet.ring.forget_node(node)), (24, 24));
    assert_eq!((fleet.ring.tombstones_on(node).count(), fleet.ring.forget_node(node)), (0, 0));
}

#[test]
fn the_record_survives_encoding() {
    let mut fleet = Fleet::of(4, 3);
    fleet.join(7, 2);
    fleet.retarget().unwrap();
    for begin in next_changes(&fleet.ring, &BTreeSet::new(), &BTreeMap::new(), &ScheduleLimits::default()) {
        fleet.begin(&begin).unwrap();
    }
    let config = bincode::config::standard();
    let bytes = bincode::encode_to_vec(&fleet.ring, config).unwrap();
    let (back, used): (Ring, usize) = bincode::decode_from_slice(&bytes, config).unwrap();
    assert_eq!((back, used), (fleet.ring, bytes.len()));
}

/// What may happen. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Event {
    Join { weight: u32, zone: u8 },
    Leave(usize),
    Die(usize),
    Return(usize),
    Wait,
    Retarget,
    Begin(usize),
    Finish(usize),
    Abandon(usize),
    Destroyed(usize),
    Damage(usize),
    Pause(bool),
    Settle,
}

fn event() -> impl Strategy<Value = Event> {
    let which = 0usize..1000;
    prop_oneof![
        4 => (1u32..4, 0u8..4).prop_map(|(weight, zone)| Event::Join { weight, zone }),
        3 => which.clone().prop_map(Event::Leave),
        3 => which.clone().prop_map(Event::Die),
        2 => which.clone().prop_map(Event::Return),
        2 => Just(Event::Wait),
        6 => Just(Event::Retarget),
        12 => (0usize..6).prop_map(Event::Begin),
        12 => which.clone().prop_map(Event::Finish),
        4 => which.clone().prop_map(Event::Abandon),
        6 => which.clone().prop_map(Event::Destroyed),
        3 => which.prop_map(Event::Damage),
        1 => any::<bool>().prop_map(Event::Pause),
        1 => Just(Event::Settle),
    ]
}

fn pick<T: Clone>(from: &[T], at: usize) -> Option<T> {
    (!from.is_empty()).then(|| from[at % from.len()].clone())
}

fn happen(fleet: &mut Fleet, event: Event) {
    let members: Vec<NodeId> = fleet.members.keys().copied().collect();
    match event {
        Event::Join { weight, zone } if members.len() < 9 => drop(fleet.join(weight, zone)),
        Event::Join { .. } => {}
        Event::Leave(at) => fleet.leave(pick(&members, at).unwrap()),
        Event::Die(at) => {
            let since = fleet.now_ms;
            fleet.members.get_mut(&pick(&members, at).unwrap()).unwrap().dead_since_ms.get_or_insert(since);
        }
        Event::Return(at) => {
            fleet.members.get_mut(&pick(&members, at).unwrap()).unwrap().dead_since_ms = None
        }
        Event::Wait => fleet.now_ms += DEATH_PAUSE_MS / 2,
        Event::Retarget => {
            let none = fleet.members.values().all(|m| !m.spec.usable);
            assert_eq!(fleet.retarget().err(), none.then_some(RingError::NoUsableNode));
        }
        Event::Begin(most) => {
            let dead = fleet.dead();
            let limits = ScheduleLimits::default();
            for begin in next_changes(&fleet.ring, &dead, &BTreeMap::new(), &limits).iter().take(most) {
                assert!(begin.step.add.iter().all(|node| !dead.contains(node)));
                fleet.begin(begin).unwrap();
            }
        }
        Event::Finish(at) => {
            if let Some((group, id)) = pick(&fleet.under_way(), at) {
                fleet.finish(group, id).unwrap();
                let again = fleet.finish(group, id);
                assert_eq!(again, Err(RingError::ChangeNotUnderWay { group, change: id }));
            }
        }
        Event::Abandon(at) => {
            if let Some((group, id)) = pick(&fleet.under_way(), at) {
                fleet.ring.abandon_change(group, id).unwrap();
            }
        }
        Event::Destroyed(at) => {
            if let Some((node, replica)) = pick(&fleet.tombstones(), at) {
                fleet.destroyed(node, replica);
            }
        }
        Event::Damage(at) => {
            let all =
                |p: &Placement| p.members.clone().into_iter().chain(p.members_after()).collect::<Vec<_>>();
            let held = fleet.ring.placements().flat_map(|(_, p)| all(p)).collect::<Vec<_>>();
            if let Some((replica, node)) = pick(&held, at) {
                let possible = fleet.ring.renewal(node, replica);
                assert_eq!(fleet.renew(node, replica).err(), possible.clone().err());
                if let Ok(group) = possible {
                    let shut = fleet.ring.placement(group).unwrap().replica_on(node) != Some(replica);
                    assert!(shut || fleet.ring.is_outdated(group));
                    assert!(fleet.renew(node, replica).is_err(), "once is enough");
                }
            }
        }
        Event::Pause(paused) => drop(fleet.ring.set_paused(paused)),
        Event::Settle => drop(fleet.settle()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The invariants hold at every step and between any two; a ring that is left alone reaches a target that obeys every rule.
    #[test]
    fn whatever_happens(
        replication in prop::sample::select(vec![1u8, 3, 5]),
        events in prop::collection::vec(event(), 1..60),
    ) {
        let mut fleet = Fleet::new(replication);
        let mut earlier = fleet.ring.clone();
        for event in events {
            let before = fleet.ring.clone();
            happen(&mut fleet, event);
            prop_assert_eq!(fleet.ring.check(), Ok(()));
            prop_assert_eq!(fleet.accounted(), fleet.given.clone());
            prop_assert_eq!(before.check_successor(&fleet.ring), Ok(()));
            prop_assert_eq!(earlier.check_successor(&fleet.ring), Ok(()));
            if fleet.ring.epoch().is_multiple_of(7) {
                earlier = fleet.ring.clone();
            }
        }
        fleet.settle();
        prop_assert_eq!(earlier.check_successor(&fleet.ring), Ok(()));
        let nodes: Vec<NodeSpec> = fleet.members.values().map(|m| m.spec.clone()).collect();
        if nodes.iter().any(|n| n.usable) {
            prop_assert!(fleet.ring.is_settled());
            let (groups, replication) = (fleet.ring.groups(), fleet.ring.replication());
            prop_assert_eq!(check(&fleet.ring.actual(), &nodes, groups, replication), []);
        }
        prop_assert_eq!(fleet.accounted(), fleet.given.clone());
        prop_assert!(fleet.tombstones().is_empty());
    }
}
