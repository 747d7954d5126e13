//! The transitions of the ring's record: what the commands of the control group do to it.
//!
//! Each checks all it needs before it changes anything, so that a refusal leaves the ring as it was. Must never: decide
//! what to do next (the leader does, see [`super::schedule`]); only whether it may be done.

use std::collections::{BTreeMap, BTreeSet};

use super::assign::NodeSpec;
use super::check::check_counts;
use super::error::RingError;
use super::table::{Change, ChangeId, LastPlan, Placement, Plan, Ring, Step, step_sizes};
use crate::model::ids::{GroupId, NodeId, ReplicaId};

impl Ring {
    /// Puts every group on the fleet's first node. `ids` gives out replica ids.
    ///
    /// # Errors
    /// [`RingError::AlreadyFounded`]; [`RingError::NoUsableNode`] if the node cannot hold data.
    pub fn found(&mut self, first: NodeSpec, mut ids: impl FnMut() -> ReplicaId) -> Result<(), RingError> {
        if !self.placements.is_empty() {
            return Err(RingError::AlreadyFounded);
        }
        if !first.is_eligible() {
            return Err(RingError::NoUsableNode);
        }
        let node = first.node;
        (self.epoch, self.target_epoch) = (1, 1);
        for group in self.groups.groups() {
            let members = BTreeMap::from([(ids(), node)]);
            let placement = Placement { epoch: 1, members, change: None, tombstones: BTreeMap::new() };
            self.placements.insert(group, placement);
            self.target.insert(group, vec![node]);
        }
        self.nodes.insert(node, first);
        self.assert_sound();
        Ok(())
    }

    /// Takes a plan over. True if the target changed, and with it its epoch.
    ///
    /// # Errors
    /// [`RingError::StalePlan`] if the target is another than the plan was made from; [`RingError::BadPlan`] if it breaks a
    /// rule that can be checked without a search.
    pub fn retarget(&mut self, plan: Plan) -> Result<bool, RingError> {
        if self.placements.is_empty() {
            return Err(RingError::NotFounded);
        }
        if plan.base != self.target_epoch {
            return Err(RingError::StalePlan { planned: plan.base, current: self.target_epoch });
        }
        let mut nodes = BTreeMap::new();
        for spec in &plan.nodes {
            if nodes.insert(spec.node, spec.clone()).is_some() {
                return Err(RingError::NodeTwice(spec.node));
            }
        }
        if !plan.nodes.iter().any(NodeSpec::is_eligible) {
            return Err(RingError::NoUsableNode);
        }
        if let Some(breach) = check_counts(&plan.layout, &plan.nodes, self.groups, self.replication).first() {
            return Err(RingError::BadPlan(breach.to_string()));
        }
        if let Some((group, _)) = plan.layout.iter().find(|(_, held)| !held.is_sorted()) {
            return Err(RingError::BadPlan(format!("the nodes of group {group} are not in order")));
        }
        self.nodes = nodes;
        let changed = plan.layout != self.target;
        if changed {
            self.target_epoch += 1;
            let replicas = plan.layout.values().map(|held| held.len() as u32).sum();
            self.last_plan = LastPlan { copies: plan.copies, replicas };
            self.target = plan.layout;
        }
        self.assert_sound();
        Ok(changed)
    }

    /// Begins one step of a group towards its target. From now on the added nodes have to open their replicas.
    ///
    /// # Errors
    /// [`RingError::Paused`], [`RingError::ChangeUnderWay`], [`RingError::InPlace`], [`RingError::BadStep`] if the step does not lead from where the
    /// group is towards its target, [`RingError::NotYetDestroyed`].
    pub fn begin_change(
        &mut self,
        group: GroupId,
        step: &Step,
        mut ids: impl FnMut() -> ReplicaId,
    ) -> Result<ChangeId, RingError> {
        if self.paused {
            return Err(RingError::Paused);
        }
        let removed = self.check_step(group, step)?;
        let id = ChangeId(self.last_change.0 + 1);
        let mut new_replica = |node: NodeId| {
            longshore_storage::mutant!("replica-id-reused-on-return" => {
                return (ReplicaId(1_000_000 * u64::from(group.0) + node.0), node)
            });
            (ids(), node)
        };
        let added: BTreeMap<ReplicaId, NodeId> = step.add.iter().map(|node| new_replica(*node)).collect();
        assert_eq!(added.len(), step.add.len(), "a replica id was given out twice");
        self.last_change = id;
        self.placement_mut(group)?.change = Some(Change { id, added, removed, spoiled: false });
        self.assert_sound();
        Ok(id)
    }

    /// Whether a step may begin, and which replicas it removes.
    fn check_step(&self, group: GroupId, step: &Step) -> Result<BTreeMap<ReplicaId, NodeId>, RingError> {
        let placement = self.known(group)?;
        if let Some(change) = &placement.change {
            return Err(RingError::ChangeUnderWay { group, under_way: change.id });
        }
        let (actual, target) = (placement.nodes(), &self.target[&group]);
        let bad = |reason: String| Err(RingError::BadStep { group, reason });
        let Some((add, remove)) = step_sizes(&actual, target) else { return Err(RingError::InPlace(group)) };
        if (step.add.len(), step.remove.len()) != (add, remove) {
            return bad(format!("it has to add {add} and remove {remove}"));
        }
        let (adds, removes): (BTreeSet<_>, BTreeSet<_>) =
            (step.add.iter().collect(), step.remove.iter().collect());
        if adds.len() < add || removes.len() < remove {
            return bad("a node is named twice".into());
        }
        if let Some(node) = step.add.iter().find(|node| actual.contains(node) || !target.contains(node)) {
            return bad(format!("node {node} is not to take it"));
        }
        if let Some(node) = step.remove.iter().find(|node| !actual.contains(node) || target.contains(node)) {
            return bad(format!("node {node} is not to give it up"));
        }
        // One of a group's replicas on a node at a time, ever: what is left of an old one must not be taken for the new one. It also keeps
        // tombstones few: one a node and group, but for a renewal that was given up.
        if let Some((replica, node)) = placement.tombstones.iter().find(|(_, node)| adds.contains(node)) {
            return Err(RingError::NotYetDestroyed { group, node: *node, replica: *replica });
        }
        Ok(placement.members.iter().filter(|(_, n)| removes.contains(n)).map(|(r, n)| (*r, *n)).collect())
    }

    /// A replica cannot be used on its node any more, since what it acknowledged is damaged: it must never vote again. A member is replaced by a new
    /// one on the same node, which the node opens from now on, leaving the old one shut. A change that adds it is marked, to be given up.
    ///
    /// # Errors
    /// Those of [`Ring::renewal`].
    pub fn renew(
        &mut self,
        node: NodeId,
        replica: ReplicaId,
        mut ids: impl FnMut() -> ReplicaId,
    ) -> Result<(), RingError> {
        let group = self.renewal(node, replica)?;
        let last = self.last_change;
        let placement = self.placement_mut(group)?;
        match &mut placement.change {
            Some(change) => change.spoiled = true,
            None => {
                let id = ChangeId(last.0 + 1);
                let (added, removed) = (BTreeMap::from([(ids(), node)]), BTreeMap::from([(replica, node)]));
                placement.change = Some(Change { id, added, removed, spoiled: false });
                self.last_change = id;
            }
        }
        self.assert_sound();
        Ok(())
    }

    /// The group of a replica of which [`Ring::renew`] would hear.
    ///
    /// # Errors
    /// [`RingError::NotAMember`], also when that was said before; [`RingError::Paused`]; [`RingError::OnlyReplica`] if there is nothing to
    /// copy from; [`RingError::ChangeUnderWay`], [`RingError::NotYetDestroyed`]: later; [`RingError::GivenUp`]: the group moves away from the node anyway.
    pub fn renewal(&self, node: NodeId, replica: ReplicaId) -> Result<GroupId, RingError> {
        let is_on = |held: &BTreeMap<ReplicaId, NodeId>| held.get(&replica) == Some(&node);
        let adds = |p: &Placement| p.change.as_ref().is_some_and(|c| !c.spoiled && is_on(&c.added));
        if let Some((group, _)) = self.placements().find(|(_, placement)| adds(placement)) {
            return Ok(group);
        }
        let holder = self.placements().find(|(_, placement)| is_on(&placement.members));
        let Some((group, placement)) = holder else { return Err(RingError::NotAMember { node, replica }) };
        if let Some(change) = &placement.change {
            return Err(match change.removed.contains_key(&replica) {
                true => RingError::NotAMember { node, replica },
                false => RingError::ChangeUnderWay { group, under_way: change.id },
            });
        }
        if self.paused {
            return Err(RingError::Paused);
        }
        if placement.members.len() == 1 {
            return Err(RingError::OnlyReplica { group, node });
        }
        if !self.target[&group].contains(&node) {
            return Err(RingError::GivenUp { group, node });
        }
        match placement.tombstones.iter().find(|(_, on)| **on == node) {
            Some((old, _)) => Err(RingError::NotYetDestroyed { group, node, replica: *old }),
            None => Ok(group),
        }
    }

    /// The group's members are now those that the change leads to. The ring's epoch and the group's go up, and what was removed is to be
    /// destroyed. To be proposed by whoever leads the group, once the joint change is over.
    ///
    /// # Errors
    /// [`RingError::ChangeNotUnderWay`] if another change is, or none; [`RingError::UnexpectedMembers`].
    pub fn finish_change(
        &mut self,
        group: GroupId,
        id: ChangeId,
        members: &BTreeSet<ReplicaId>,
    ) -> Result<(), RingError> {
        let epoch = self.epoch + 1;
        self.under_way(group, id)?;
        let placement = self.placement_mut(group)?;
        let after = placement.members_after();
        if !after.keys().eq(members) {
            return Err(RingError::UnexpectedMembers {
                group,
                change: id,
                reported: list(members),
                expected: list(after.keys()),
            });
        }
        let change = placement.change.take().expect("it is under way");
        placement.members = after;
        placement.tombstones.extend(change.removed);
        placement.epoch = epoch;
        self.epoch = epoch;
        self.assert_sound();
        Ok(())
    }

    /// Gives a change up, before any added replica has a vote or any removed one has lost it. What was added is to be destroyed; its ids are never used again.
    ///
    /// Only whoever leads the group may propose it, and only after something in the *group's own log* forbids every later leader to carry the
    /// change on: another leader that has not heard of it could else give a vote to a replica that is being destroyed.
    ///
    /// # Errors
    /// [`RingError::ChangeNotUnderWay`].
    pub fn abandon_change(&mut self, group: GroupId, id: ChangeId) -> Result<(), RingError> {
        self.under_way(group, id)?;
        let placement = self.placement_mut(group)?;
        let change = placement.change.take().expect("it is under way");
        placement.tombstones.extend(change.added);
        self.assert_sound();
        Ok(())
    }

    /// A node says that the files of a replica are gone.
    ///
    /// # Errors
    /// [`RingError::NoTombstone`], also when it said so before.
    pub fn forget_tombstone(&mut self, node: NodeId, replica: ReplicaId) -> Result<GroupId, RingError> {
        let holder = self.placements.iter_mut().find(|(_, p)| p.tombstones.get(&replica) == Some(&node));
        let Some((group, placement)) = holder else { return Err(RingError::NoTombstone { node, replica }) };
        let group = *group;
        placement.tombstones.remove(&replica);
        self.assert_sound();
        Ok(group)
    }

    /// Drops the tombstones of a node that is no longer in the fleet: it will never say that they are gone, and its
    /// certificate is refused for ever. Returns how many there were.
    pub fn forget_node(&mut self, node: NodeId) -> usize {
        let mut dropped = 0;
        for placement in self.placements.values_mut() {
            let before = placement.tombstones.len();
            placement.tombstones.retain(|_, on| *on != node);
            dropped += before - placement.tombstones.len();
        }
        self.assert_sound();
        dropped
    }

    /// While paused no change begins; those under way go on. True if that is news.
    pub fn set_paused(&mut self, paused: bool) -> bool {
        std::mem::replace(&mut self.paused, paused) != paused
    }

    fn known(&self, group: GroupId) -> Result<&Placement, RingError> {
        if self.placements.is_empty() {
            return Err(RingError::NotFounded);
        }
        self.placements.get(&group).ok_or(RingError::UnknownGroup(group, self.groups.get()))
    }

    fn placement_mut(&mut self, group: GroupId) -> Result<&mut Placement, RingError> {
        self.placements.get_mut(&group).ok_or(RingError::UnknownGroup(group, self.groups.get()))
    }

    fn under_way(&self, group: GroupId, id: ChangeId) -> Result<(), RingError> {
        match &self.known(group)?.change {
            Some(change) if change.id == id => Ok(()),
            _ => Err(RingError::ChangeNotUnderWay { group, change: id }),
        }
    }

    fn assert_sound(&self) {
        if let Err(breach) = self.check() {
            panic!("the ring is broken: {breach}");
        }
    }
}

fn list<'a>(replicas: impl IntoIterator<Item = &'a ReplicaId>) -> String {
    let words: Vec<String> = replicas.into_iter().map(ToString::to_string).collect();
    words.join(" ")
}
