//! The ring's replicated record: where the replicas of each group are, where they should be, and what is under way between.
//!
//! Level-triggered: nothing here is an order. The control leader proposes a plan or the beginning of a change; every node opens the replicas
//! that the record gives it and destroys those that it tombstones; the node that leads a group carries its change out from what
//! it sees and proposes that it is done. So whoever crashes, the record says what is left to do. The transitions are in [`super::change`].
//!
//! Invariants ([`Ring::check`], asserted after every transition): a group has an odd number of members on distinct nodes; at most one
//! change of a group is under way, and it replaces at most one replica; a replica id is in one place only and, once it was
//! tombstoned, nowhere ever again; epochs only go up, and the members of a group change only together with its epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bincode::{Decode, Encode};

use super::assign::{Layout, NodeSpec, assign_between};
use super::error::RingError;
use super::slot::GroupCount;
use crate::model::ids::{GroupId, NodeId, ReplicaId};

/// One change of a group's members; counted over the whole ring, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub struct ChangeId(pub u64);

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "change {}", self.0)
    }
}

/// A change of a group's members that is under way: `added` catch up as learners, then one joint change takes them in and `removed` out.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Change {
    pub id: ChangeId,
    pub added: BTreeMap<ReplicaId, NodeId>,
    pub removed: BTreeMap<ReplicaId, NodeId>,
    /// An added replica cannot be used on its node: the change is to be given up, unless it has a vote already.
    pub spoiled: bool,
}

/// Where one group is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Placement {
    /// The ring's epoch when the members last changed.
    pub epoch: u64,
    /// The voters, but for a change that is under way.
    pub members: BTreeMap<ReplicaId, NodeId>,
    pub change: Option<Change>,
    /// Replicas whose files are to be destroyed, until their nodes say that they are.
    pub tombstones: BTreeMap<ReplicaId, NodeId>,
}

impl Placement {
    /// Its members' nodes, ascending.
    pub fn nodes(&self) -> Vec<NodeId> {
        let nodes: BTreeSet<NodeId> = self.members.values().copied().collect();
        nodes.into_iter().collect()
    }

    /// What the members are when the change under way is finished.
    pub fn members_after(&self) -> BTreeMap<ReplicaId, NodeId> {
        let mut members = self.members.clone();
        if let Some(change) = &self.change {
            members.retain(|replica, _| !change.removed.contains_key(replica));
            members.extend(&change.added);
        }
        members
    }

    /// The replica that a node has to have open: one that a change adds, or a member. Where both are on one node, the member is damaged and stays shut.
    pub fn replica_on(&self, node: NodeId) -> Option<ReplicaId> {
        let added = self.change.iter().flat_map(|change| &change.added);
        added.chain(&self.members).find(|(_, on)| **on == node).map(|(replica, _)| *replica)
    }
}

/// One step of a group towards its target, by nodes: growth, one replacement, or shrinkage.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Step {
    pub add: Vec<NodeId>,
    pub remove: Vec<NodeId>,
}

/// A new target, worked out by the leader and adopted by [`Ring::retarget`]. It travels in the command, so that nodes of different
/// versions agree on it even if they would work out different ones, and so that nobody works while it applies.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Plan {
    /// The target's epoch that it replaces.
    pub base: u64,
    pub nodes: Vec<NodeSpec>,
    pub layout: Layout,
    /// Replicas that have to be copied.
    pub copies: u32,
}

/// What the last change of target meant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub struct LastPlan {
    /// Replicas to be copied.
    pub copies: u32,
    /// Replicas in all.
    pub replicas: u32,
}

/// The ring.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Ring {
    pub(super) groups: GroupCount,
    pub(super) replication: u8,
    /// The nodes that the target was made for.
    pub(super) nodes: BTreeMap<NodeId, NodeSpec>,
    pub(super) target: Layout,
    pub(super) target_epoch: u64,
    pub(super) epoch: u64,
    pub(super) placements: BTreeMap<GroupId, Placement>,
    pub(super) last_change: ChangeId,
    pub(super) last_plan: LastPlan,
    pub(super) paused: bool,
}

impl Ring {
    /// A ring without nodes.
    ///
    /// # Errors
    /// [`RingError::Replication`] unless it is 1, 3 or 5.
    pub fn new(groups: GroupCount, replication: u8) -> Result<Self, RingError> {
        if !matches!(replication, 1 | 3 | 5) {
            return Err(RingError::Replication(replication));
        }
        Ok(Self {
            groups,
            replication,
            nodes: BTreeMap::new(),
            target: Layout::new(),
            target_epoch: 0,
            epoch: 0,
            placements: BTreeMap::new(),
            last_change: ChangeId(0),
            last_plan: LastPlan::default(),
            paused: false,
        })
    }

    pub fn groups(&self) -> GroupCount {
        self.groups
    }

    /// The replication that was asked for; see [`Ring::target_replicas`] for what there are nodes for.
    pub fn replication(&self) -> u8 {
        self.replication
    }

    /// Replicas of each group in the target.
    pub fn target_replicas(&self) -> usize {
        self.target.first_key_value().map_or(0, |(_, nodes)| nodes.len())
    }

    /// Goes up whenever the members of a group change.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Goes up whenever the target changes.
    pub fn target_epoch(&self) -> u64 {
        self.target_epoch
    }

    pub fn target(&self) -> &Layout {
        &self.target
    }

    /// The nodes that the target was made for, in order of id.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeSpec> {
        self.nodes.values()
    }

    pub fn is_paused(&self) -> bool {
        self.paused
    }

    pub fn last_plan(&self) -> LastPlan {
        self.last_plan
    }

    /// Every group, in order; none before the ring has its first node.
    pub fn placements(&self) -> impl Iterator<Item = (GroupId, &Placement)> {
        self.placements.iter().map(|(group, placement)| (*group, placement))
    }

    pub fn placement(&self, group: GroupId) -> Option<&Placement> {
        self.placements.get(&group)
    }

    /// The replicas that a node has to have open, by group.
    pub fn replicas_on(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaId)> {
        self.placements().filter_map(move |(group, p)| p.replica_on(node).map(|replica| (group, replica)))
    }

    /// The replicas that a node has to destroy, by group.
    pub fn tombstones_on(&self, node: NodeId) -> impl Iterator<Item = (GroupId, ReplicaId)> {
        self.placements().flat_map(move |(group, p)| {
            p.tombstones.iter().filter(move |(_, on)| **on == node).map(move |(replica, _)| (group, *replica))
        })
    }

    /// Whether others count on a node: a replica is on it, or is to come to it. Until then it must not go.
    pub fn needs(&self, node: NodeId) -> bool {
        self.replicas_on(node).next().is_some() || self.target.values().any(|nodes| nodes.contains(&node))
    }

    /// Nodes that are named by a tombstone; one that is no longer in the fleet can be [forgotten](Ring::forget_node).
    pub fn nodes_with_tombstones(&self) -> BTreeSet<NodeId> {
        self.placements.values().flat_map(|p| p.tombstones.values().copied()).collect()
    }

    /// Where the members are.
    pub fn actual(&self) -> Layout {
        self.placements().map(|(group, p)| (group, p.nodes())).collect()
    }

    /// Whether every group is where it should be and nothing is under way.
    pub fn is_settled(&self) -> bool {
        self.placements().all(|(group, p)| p.change.is_none() && p.nodes() == self.target[&group])
    }

    /// A target for these nodes. Pure: nothing changes until the plan comes back through the log to [`Ring::retarget`].
    ///
    /// # Errors
    /// Those of [`super::assign::assign`], and [`RingError::NotFounded`].
    pub fn plan(&self, nodes: &[NodeSpec]) -> Result<Plan, RingError> {
        if self.placements.is_empty() {
            return Err(RingError::NotFounded);
        }
        let result = assign_between(&self.actual(), &self.target, nodes, self.groups, self.replication)?;
        Ok(Plan {
            base: self.target_epoch,
            nodes: nodes.to_vec(),
            layout: result.layout,
            copies: result.copies,
        })
    }

    /// Whether a plan would change anything: the target, or what is on record of the nodes.
    pub fn is_news(&self, plan: &Plan) -> bool {
        plan.layout != self.target
            || plan.nodes.len() != self.nodes.len()
            || plan.nodes.iter().any(|spec| self.nodes.get(&spec.node) != Some(spec))
    }

    /// The next step of a group towards its target, or `None` if it is there, if a change is under way, or if it has to wait: for a node that is
    /// to take a replica but is dead or has not destroyed an older one. The dead are removed first.
    ///
    /// Growth and shrinkage come before replacement, so that a group that got more nodes is safe soonest.
    pub fn step(&self, group: GroupId, dead: &BTreeSet<NodeId>) -> Option<Step> {
        let (placement, target) = (self.placements.get(&group)?, self.target.get(&group)?);
        let actual = placement.nodes();
        let mut leaving: Vec<NodeId> = actual.iter().filter(|node| !target.contains(node)).copied().collect();
        leaving.sort_by_key(|node| (!dead.contains(node), *node));
        let ready = |node: &&NodeId| {
            !actual.contains(node)
                && !dead.contains(node)
                && placement.tombstones.values().all(|on| on != *node)
        };
        let arriving = target.iter().filter(ready).copied();
        let (add, remove) = step_sizes(&actual, target)?;
        let step =
            Step { add: arriving.take(add).collect(), remove: leaving.into_iter().take(remove).collect() };
        (placement.change.is_none() && step.add.len() == add).then_some(step)
    }

    /// Whether the change under way leads away from the target, which has changed since: it adds a replica on a node that the target no longer
    /// names, or one that its node cannot use; or it only removes, and one that the target names again. Whoever leads the group should give it up, if it can still
    /// be [abandoned](Ring::abandon_change).
    pub fn is_outdated(&self, group: GroupId) -> bool {
        let Some(change) = self.placements.get(&group).and_then(|p| p.change.as_ref()) else { return false };
        let named = |node: &NodeId| self.target[&group].contains(node);
        change.spoiled
            || !change.added.values().all(named)
            || (change.added.is_empty() && change.removed.values().any(named))
    }

    /// The invariants of the module, as far as one state shows them.
    pub fn check(&self) -> Result<(), String> {
        let wanted: Vec<GroupId> = if self.epoch == 0 { Vec::new() } else { self.groups.groups().collect() };
        ensure(self.placements.keys().copied().eq(wanted.iter().copied()), || {
            "groups without placement".into()
        })?;
        ensure(self.target.keys().copied().eq(wanted), || "groups without target".into())?;
        let (mut replicas, mut changes) = (BTreeSet::new(), BTreeSet::new());
        let mut epochs: BTreeMap<u64, GroupId> = BTreeMap::new();
        for (group, placement) in self.placements() {
            placement.check().map_err(|what| format!("group {group}: {what}"))?;
            let added = placement.change.iter().flat_map(|change| change.added.keys());
            for replica in placement.members.keys().chain(added).chain(placement.tombstones.keys()) {
                ensure(replicas.insert(*replica), || format!("replica {replica} is in two places"))?;
            }
            if let Some(change) = &placement.change {
                let fresh = change.id <= self.last_change && changes.insert(change.id);
                ensure(fresh, || format!("{} of group {group} was not given out once", change.id))?;
            }
            ensure(placement.epoch <= self.epoch, || format!("group {group} is ahead of the ring"))?;
            // All groups begin at epoch 1; each later one belongs to one change.
            if placement.epoch > 1 {
                let other = epochs.insert(placement.epoch, group);
                ensure(other.is_none(), || format!("groups {other:?} and {group} share an epoch"))?;
            }
            let target = &self.target[&group];
            let distinct = target.windows(2).all(|pair| pair[0] < pair[1]);
            let odd = target.len() == self.target_replicas() && target.len() % 2 == 1;
            ensure(distinct && odd, || format!("the target of group {group} is {target:?}"))?;
        }
        Ok(())
    }

    /// What must hold between a state and any later one.
    pub fn check_successor(&self, later: &Ring) -> Result<(), String> {
        ensure(self.epoch <= later.epoch && self.target_epoch <= later.target_epoch, || {
            "epochs went back".into()
        })?;
        ensure(self.last_change <= later.last_change, || "ids of changes went back".into())?;
        let same_target = self.target_epoch < later.target_epoch || self.target == later.target;
        ensure(same_target, || format!("there are two targets {}", self.target_epoch))?;
        let added = |p: &Placement| p.change.as_ref().map(|change| change.added.clone()).unwrap_or_default();
        for (group, before) in self.placements() {
            let after = &later.placements[&group];
            let same = before.epoch == after.epoch;
            ensure(before.epoch <= after.epoch, || format!("the epoch of group {group} went back"))?;
            ensure(!same || before.members == after.members, || {
                format!("group {group} has two sets of owners in epoch {}", before.epoch)
            })?;
            let risen = before
                .tombstones
                .keys()
                .find(|r| after.members.contains_key(r) || added(after).contains_key(r));
            ensure(risen.is_none(), || format!("replica {risen:?} of group {group} rose from the dead"))?;
        }
        Ok(())
    }
}

/// How many replicas the next step adds and removes, or `None` if there is nothing to do. Sizes stay odd: growth goes to the
/// target's size at once, and a replacement is one for one.
pub(super) fn step_sizes(actual: &[NodeId], target: &[NodeId]) -> Option<(usize, usize)> {
    if target.len() > actual.len() {
        Some((target.len() - actual.len(), 0))
    } else if target.len() < actual.len() {
        Some((0, actual.len() - target.len()))
    } else {
        longshore_storage::mutant!("move-two-replicas-at-once" => {
            if target.iter().filter(|node| !actual.contains(node)).count() > 1 {
                return Some((2, 2));
            }
        });
        (actual != target).then_some((1, 1))
    }
}

impl Placement {
    fn check(&self) -> Result<(), String> {
        let distinct = |members: &BTreeMap<ReplicaId, NodeId>| {
            members.len() % 2 == 1 && members.values().collect::<BTreeSet<_>>().len() == members.len()
        };
        ensure(distinct(&self.members), || format!("members {:?}", self.members))?;
        ensure(distinct(&self.members_after()), || {
            format!("members after the change {:?}", self.members_after())
        })?;
        let Some(change) = &self.change else { return Ok(()) };
        let sizes = (change.added.len(), change.removed.len());
        longshore_storage::mutant!("move-two-replicas-at-once" => if sizes == (2, 2) { return Ok(()) });
        ensure(sizes == (1, 1) || (sizes.0 == 0) != (sizes.1 == 0), || {
            format!("a change of {sizes:?} replicas")
        })?;
        let known = change.removed.iter().all(|(replica, node)| self.members.get(replica) == Some(node));
        ensure(known, || format!("{} removes who is not a member", change.id))?;
        // A damaged replica is replaced where it is; no other node has two.
        let kept = self.members.iter().filter(|(replica, _)| !change.removed.contains_key(replica));
        let mut held = kept.map(|(_, node)| node).chain(self.tombstones.values());
        let twice = held.any(|node| change.added.values().any(|on| on == node));
        ensure(!twice, || format!("{} adds a replica where one is", change.id))
    }
}

fn ensure(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}
