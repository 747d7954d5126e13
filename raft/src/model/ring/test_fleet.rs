//! A ring with all that it needs around it, for tests: an allocator of ids, members that live and die, and somebody who carries changes out.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::NodeSpec;
use super::check::check;
use super::error::RingError;
use super::schedule::{Begin, DEATH_PAUSE_MS, MemberView, ScheduleLimits, next_changes, nodes_to_plan};
use super::slot::GroupCount;
use super::table::{ChangeId, Placement, Ring};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::model::membership::Membership;

pub(super) fn spec(id: u64) -> NodeSpec {
    NodeSpec::new(NodeId(id), 1, None)
}

/// A ring with the control group's allocator of ids, and what a control leader sees.
pub(super) struct Fleet {
    pub(super) ring: Ring,
    pub(super) membership: Membership,
    pub(super) members: BTreeMap<NodeId, MemberView>,
    pub(super) gone: BTreeSet<NodeId>,
    pub(super) last_node: u64,
    pub(super) now_ms: u64,
    /// Every replica id that was ever given out for the ring.
    pub(super) given: BTreeSet<ReplicaId>,
    /// Those whose files are gone, or whose nodes are.
    pub(super) destroyed: BTreeSet<ReplicaId>,
}

impl Fleet {
    pub(super) fn new(replication: u8) -> Self {
        let mut fleet = Self {
            ring: Ring::new(GroupCount::G32, replication).unwrap(),
            membership: Membership::default(),
            members: BTreeMap::new(),
            gone: BTreeSet::new(),
            last_node: 0,
            now_ms: 0,
            given: BTreeSet::new(),
            destroyed: BTreeSet::new(),
        };
        let first = fleet.join(1, 0);
        let Fleet { ring, membership, given, .. } = &mut fleet;
        let ids = || {
            let id = membership.allocate_replica();
            assert!(given.insert(id));
            id
        };
        ring.found(first, ids).unwrap();
        fleet
    }

    pub(super) fn of(nodes: u64, replication: u8) -> Self {
        let mut fleet = Self::new(replication);
        (1..nodes).for_each(|_| drop(fleet.join(1, 0)));
        fleet.settle();
        fleet
    }

    pub(super) fn join(&mut self, weight: u32, zone: u8) -> NodeSpec {
        self.last_node += 1;
        let zone = (zone > 0).then(|| format!("z{zone}"));
        let spec = NodeSpec::new(NodeId(self.last_node), weight, zone.as_deref());
        self.members.insert(spec.node, MemberView { spec: spec.clone(), dead_since_ms: None });
        spec
    }

    pub(super) fn dead(&self) -> BTreeSet<NodeId> {
        let dead = self.members.values().filter(|m| m.dead_since_ms.is_some());
        dead.map(|m| m.spec.node).chain(self.gone.iter().copied()).collect()
    }

    pub(super) fn retarget(&mut self) -> Result<bool, RingError> {
        let members: Vec<MemberView> = self.members.values().cloned().collect();
        let nodes = nodes_to_plan(&members, self.now_ms, DEATH_PAUSE_MS, self.ring.replication());
        let plan = self.ring.plan(&nodes)?;
        assert_eq!(check(&plan.layout, &nodes, self.ring.groups(), self.ring.replication()), []);
        self.ring.retarget(plan)
    }

    pub(super) fn begin(&mut self, begin: &Begin) -> Result<ChangeId, RingError> {
        let Fleet { ring, membership, given, .. } = self;
        ring.begin_change(begin.group, &begin.step, || {
            let id = membership.allocate_replica();
            assert!(given.insert(id));
            id
        })
    }

    pub(super) fn renew(&mut self, node: NodeId, replica: ReplicaId) -> Result<(), RingError> {
        let Fleet { ring, membership, given, .. } = self;
        ring.renew(node, replica, || {
            let id = membership.allocate_replica();
            assert!(given.insert(id));
            id
        })
    }

    pub(super) fn under_way(&self) -> Vec<(GroupId, ChangeId)> {
        self.ring.placements().filter_map(|(g, p)| p.change.as_ref().map(|c| (g, c.id))).collect()
    }

    pub(super) fn finish(&mut self, group: GroupId, id: ChangeId) -> Result<(), RingError> {
        let members = self.ring.placement(group).unwrap().members_after().into_keys().collect();
        self.ring.finish_change(group, id, &members)
    }

    pub(super) fn tombstones(&self) -> Vec<(NodeId, ReplicaId)> {
        let all = self.ring.placements().flat_map(|(_, p)| &p.tombstones);
        all.map(|(replica, node)| (*node, *replica)).collect()
    }

    pub(super) fn destroyed(&mut self, node: NodeId, replica: ReplicaId) {
        self.ring.forget_tombstone(node, replica).unwrap();
        assert!(self.destroyed.insert(replica), "{replica} was destroyed twice");
    }

    /// Every replica that is somewhere, or is known to be destroyed.
    pub(super) fn accounted(&self) -> BTreeSet<ReplicaId> {
        let of = |p: &Placement| {
            let added = p.change.iter().flat_map(|change| change.added.keys());
            p.members.keys().chain(added).chain(p.tombstones.keys()).copied().collect::<Vec<_>>()
        };
        self.ring.placements().flat_map(|(_, p)| of(p)).chain(self.destroyed.iter().copied()).collect()
    }

    /// A node leaves the fleet, if the ring does not need it; else it begins to leave.
    pub(super) fn leave(&mut self, node: NodeId) {
        if self.ring.needs(node) || self.members.len() == 1 {
            self.members.get_mut(&node).unwrap().spec.usable = false;
        } else {
            self.members.remove(&node);
            self.gone.insert(node);
        }
    }

    /// Everybody is alive and does what the record says, until nothing is left to do. Returns how many changes that took.
    pub(super) fn settle(&mut self) -> usize {
        self.members.values_mut().for_each(|m| m.dead_since_ms = None);
        self.ring.set_paused(false);
        let mut changes = 0;
        for _ in 0..1000 {
            let news = self.retarget() == Ok(true);
            for (group, id) in self.under_way() {
                if self.ring.is_outdated(group) {
                    self.ring.abandon_change(group, id).unwrap();
                } else {
                    self.finish(group, id).unwrap();
                    changes += 1;
                }
            }
            for (node, replica) in self.tombstones() {
                if self.gone.contains(&node) {
                    self.destroyed.insert(replica);
                } else {
                    self.destroyed(node, replica);
                }
            }
            for node in &self.ring.nodes_with_tombstones() & &self.gone {
                assert!(self.ring.forget_node(node) > 0);
            }
            let limits = ScheduleLimits { fleet: 16, node_in: 8, node_out: 8 };
            let next = next_changes(&self.ring, &self.gone, &BTreeMap::new(), &limits);
            let idle = next.is_empty() && self.under_way().is_empty() && self.tombstones().is_empty();
            if idle && !news {
                return changes;
            }
            for begin in next {
                self.begin(&begin).unwrap();
            }
        }
        panic!("the ring does not come to rest: {:?}", self.ring);
    }
}
