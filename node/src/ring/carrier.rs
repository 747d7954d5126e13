//! Carries out the changes of the groups that this node leads, one at a time in each group, from what it sees.
//!
//! A change's steps: the added replicas become learners and catch up; one joint change takes them in and the removed ones out; the removed
//! ones are dropped; the control group hears that it is done, and the group hears of its new epoch. Each pass takes the first step that is
//! missing, so whoever leads next goes on from there. A change that leads nowhere any more is given up: first in the group's own
//! log, so that no later leader can give a vote to a replica that is being destroyed, then in the record.
//! Invariant: voters change only to the members that the record's change leads to, and never by a copy of the record that is older than the
//! group's epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::{Command, Reply, RingCommand};
use longshore_model::partition;
use longshore_raft::consensus::machine::{GroupError, GroupStatus, Member};
use longshore_raft::model::membership::Standing;
use longshore_raft::model::ring::{Change, ChangeId};
use longshore_raft::{GroupId, NodeId, ReplicaId, Runtime};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::{Partitions, Replicas};
use crate::core::Core;

/// How often changes under way are looked at although nothing changed here: leadership may have moved.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause after a step that did not succeed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long a pass waits for learners before it looks at the record again.
const CATCH_UP_LOOK: Duration = Duration::from_secs(1);
/// Between two looks at how far learners are, which nothing announces: while they have little to copy, and at most.
const CATCH_UP_POLL_MIN: Duration = Duration::from_millis(10);
const CATCH_UP_POLL_MAX: Duration = Duration::from_millis(250);
/// Entries by which a learner may be behind and still be given a vote.
const CAUGHT_UP_ENTRIES: u64 = 64;

/// See the module's docs. One per node.
pub(crate) struct Carrier<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    /// Groups that a task of this node is at work on.
    at_work: Mutex<BTreeSet<GroupId>>,
}

/// What the record wants of a group.
#[derive(Debug, Clone)]
struct Wish {
    epoch: u64,
    change: Option<Change>,
    /// The voters when the change is over; without one, now.
    members: BTreeMap<ReplicaId, NodeId>,
    /// The change leads nowhere any more: the target is another, or an added node is not in the fleet, or cannot use its replica.
    outdated: bool,
}

/// The first step that is missing.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    AddLearner(Member),
    /// Until these hold almost all of the log.
    CatchUp(BTreeSet<ReplicaId>),
    ChangeVoters(BTreeSet<ReplicaId>),
    DropLearner(ReplicaId),
    /// Tell the group's log that the change must not be carried on.
    Forbid(ChangeId),
    Finish(ChangeId, BTreeSet<ReplicaId>),
    Abandon(ChangeId),
    /// Tell the group which epoch the record has for it.
    TellEpoch(u64),
}

impl<R: Runtime> Carrier<R> {
    pub(crate) fn new(core: Arc<Core<R>>, replicas: Arc<Replicas<R>>) -> Arc<Self> {
        Arc::new(Self { core, replicas, at_work: Mutex::default() })
    }

    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut seen = 0;
        loop {
            let unfinished = self.start_work(&stop);
            // Nothing to do anywhere: an idle node wakes for the control group's changes only.
            let pause = if unfinished { LOOK_EVERY } else { Duration::from_secs(3600) };
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
                () = self.replicas.changed.notified() => {}
                () = R::sleep(pause) => {}
            }
        }
    }

    /// Starts a task for each group that this node leads and that is not as the record wants it. True if some group anywhere is not.
    fn start_work(self: &Arc<Self>, stop: &CancellationToken) -> bool {
        let unfinished: Vec<(GroupId, u64)> = self.core.group.with_state(|state| {
            let ring = state.ring.iter();
            let placements = ring.flat_map(|ring| ring.placements());
            placements.filter(|(_, p)| p.change.is_some()).map(|(group, p)| (group, p.epoch)).collect()
        });
        let mut todo: BTreeSet<GroupId> = unfinished.iter().map(|(group, _)| *group).collect();
        let any = !todo.is_empty();
        todo.extend(self.untold());
        for group in todo {
            let Some(replica) = self.replicas.get(group).filter(|replica| replica.is_leader()) else {
                continue;
            };
            if self.at_work.lock().insert(group) {
                let (this, stop) = (Arc::clone(self), stop.clone());
                drop(R::spawn(async move {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => {}
                        () = this.carry(group, replica) => {}
                    }
                    this.at_work.lock().remove(&group);
                }));
            }
        }
        any
    }

    /// Groups here that have not heard of their epoch.
    fn untold(&self) -> Vec<GroupId> {
        let open = self.replicas.all();
        let behind = self.core.group.with_state(|state| {
            let Some(ring) = &state.ring else { return Vec::new() };
            let record = |group: GroupId| ring.placement(group).map_or(0, |p| p.epoch);
            open.into_iter().map(|(group, replica)| (group, record(group), replica)).collect()
        });
        let untold =
            behind.into_iter().filter(|(_, epoch, replica)| replica.with_state(|m| m.epoch() < *epoch));
        untold.map(|(group, _, _)| group).collect()
    }

    /// Takes steps until there is none left, or this node does not lead any more.
    async fn carry(&self, group: GroupId, replica: Partitions<R>) {
        while replica.is_leader() {
            let Some(step) = self.next_step(group, &replica).await else { return };
            match &step {
                Step::Finish(..) | Step::Abandon(_) => {
                    tracing::info!(%group, ?step, "a change of a group is over")
                }
                step => tracing::debug!(%group, ?step, "a step of a change"),
            }
            if let Err(error) = self.take(group, &replica, &step).await {
                tracing::info!(%group, ?step, %error, "a step of a change did not succeed; trying again");
                R::sleep(RETRY_PAUSE).await;
            }
        }
    }

    fn wish(&self, group: GroupId) -> Option<Wish> {
        self.core.group.with_state(|state| {
            let ring = state.ring.as_ref()?;
            let placement = ring.placement(group)?;
            let gone = |node: &NodeId| {
                !state.membership.get(*node).is_some_and(|record| record.standing == Standing::Active)
            };
            let leads_nowhere =
                placement.change.as_ref().is_some_and(|change| change.added.values().any(gone));
            Some(Wish {
                epoch: placement.epoch,
                change: placement.change.clone(),
                members: placement.members_after(),
                outdated: leads_nowhere || ring.is_outdated(group),
            })
        })
    }

    async fn next_step(&self, group: GroupId, replica: &Partitions<R>) -> Option<Step> {
        // What an earlier leader has said must be known here, and whether this one still leads.
        replica.read_barrier().await.ok()?;
        let wish = self.wish(group)?;
        let (forbidden, epoch) = replica.with_state(|machine| (machine.forbidden(), machine.epoch()));
        plan_step(&replica.status(), &wish, forbidden, epoch)
    }

    async fn take(&self, group: GroupId, replica: &Partitions<R>, step: &Step) -> Result<(), GroupError> {
        match step {
            Step::AddLearner(member) => replica.add_learner(*member).await,
            Step::CatchUp(learners) => {
                let _looked = R::timeout(CATCH_UP_LOOK, until_caught_up(replica, learners)).await;
                Ok(())
            }
            Step::ChangeVoters(voters) => replica.change_voters(voters.clone()).await,
            Step::DropLearner(learner) => replica.remove_learner(*learner).await,
            Step::Forbid(change) => {
                replica.propose(partition::Command::Forbid { change: *change }).await.map(drop)
            }
            Step::TellEpoch(epoch) => {
                replica.propose(partition::Command::SetEpoch { epoch: *epoch }).await.map(drop)
            }
            Step::Finish(change, members) => {
                let (change, members) = (*change, members.clone());
                self.say(RingCommand::Finish { group, change, members }).await
            }
            Step::Abandon(change) => self.say(RingCommand::Abandon { group, change: *change }).await,
        }
    }

    /// Proposes to the control group. A refusal is no failure: somebody else said it before, or the record went on.
    async fn say(&self, command: RingCommand) -> Result<(), GroupError> {
        if let Reply::Refused(refusal) = self.core.group.propose(Command::Ring(command)).await? {
            tracing::info!(%refusal, "the record has gone on");
        }
        // The local copy has to show it, or the same step would be taken again.
        self.core.group.read_barrier().await.map(drop)
    }
}

async fn until_caught_up<R: Runtime>(replica: &Partitions<R>, learners: &BTreeSet<ReplicaId>) {
    let mut pause = CATCH_UP_POLL_MIN;
    while !learners.iter().all(|learner| is_caught_up(&replica.status(), *learner)) {
        R::sleep(pause).await;
        pause = (pause * 2).min(CATCH_UP_POLL_MAX);
    }
}

fn is_caught_up(status: &GroupStatus, replica: ReplicaId) -> bool {
    let matched = status.matched.iter().find(|(known, _)| *known == replica).and_then(|(_, index)| *index);
    matched.is_some_and(|index| index + CAUGHT_UP_ENTRIES >= status.last_log.unwrap_or(0))
}

/// Pure. Nothing if the group has gone by a later epoch than the record here: what that wants may be long undone. `forbidden`: the last change that the group's log says must not be carried on. `epoch`: what the group has heard of.
fn plan_step(status: &GroupStatus, wish: &Wish, forbidden: ChangeId, epoch: u64) -> Option<Step> {
    if epoch > wish.epoch {
        return None;
    }
    let voters: BTreeSet<ReplicaId> = status.voters.iter().map(|m| m.replica).collect();
    let members: BTreeSet<ReplicaId> = wish.members.keys().copied().collect();
    let in_group =
        |replica: ReplicaId| status.voters.iter().chain(&status.learners).any(|m| m.replica == replica);
    let Some(change) = &wish.change else {
        let stray = status.learners.iter().find(|m| !members.contains(&m.replica));
        return match stray {
            Some(stray) => Some(Step::DropLearner(stray.replica)),
            None => (epoch < wish.epoch).then_some(Step::TellEpoch(wish.epoch)),
        };
    };
    let has_vote = change.added.keys().any(|added| voters.contains(added));
    if change.id <= forbidden {
        if has_vote {
            // The change of voters was already on its way when the group heard that it is given up: back again.
            let added = |replica: &ReplicaId| change.added.contains_key(replica);
            let before = members.into_iter().filter(|replica| !added(replica));
            return Some(Step::ChangeVoters(before.chain(change.removed.keys().copied()).collect()));
        }
        let added = status.learners.iter().find(|m| change.added.contains_key(&m.replica));
        return Some(added.map_or(Step::Abandon(change.id), |learner| Step::DropLearner(learner.replica)));
    }
    if wish.outdated && !has_vote && !change.added.is_empty() {
        return Some(Step::Forbid(change.id));
    }
    if let Some((replica, node)) = change.added.iter().find(|(replica, _)| !in_group(**replica)) {
        return Some(Step::AddLearner(Member { replica: *replica, node: *node }));
    }
    if voters == members && !status.joint {
        let stray = status.learners.iter().find(|m| !members.contains(&m.replica));
        return Some(match stray {
            Some(stray) => Step::DropLearner(stray.replica),
            None => Step::Finish(change.id, members),
        });
    }
    let behind =
        change.added.keys().filter(|added| !voters.contains(added) && !is_caught_up(status, **added));
    let behind: BTreeSet<ReplicaId> = behind.copied().collect();
    Some(if behind.is_empty() { Step::ChangeVoters(members) } else { Step::CatchUp(behind) })
}

#[cfg(test)]
mod tests {
    use longshore_raft::consensus::machine::Role;

    use super::*;

    fn member(id: u64) -> Member {
        Member { replica: ReplicaId(id), node: NodeId(id) }
    }

    fn ids(ids: &[u64]) -> BTreeSet<ReplicaId> {
        ids.iter().map(|id| ReplicaId(*id)).collect()
    }

    fn map(ids: &[u64]) -> BTreeMap<ReplicaId, NodeId> {
        ids.iter().map(|id| (ReplicaId(*id), NodeId(*id))).collect()
    }

    fn status(voters: &[u64], learners: &[u64], matched: &[u64]) -> GroupStatus {
        GroupStatus {
            group: GroupId(1),
            replica: ReplicaId(1),
            role: Role::Leader,
            term: 1,
            leader: Some(member(1)),
            last_log: Some(1000),
            committed: Some(1000),
            applied: Some(1000),
            snapshot: None,
            purged: None,
            voters: voters.iter().map(|id| member(*id)).collect(),
            learners: learners.iter().map(|id| member(*id)).collect(),
            joint: false,
            matched: matched.iter().map(|id| (ReplicaId(*id), Some(1000))).collect(),
            quorum_ack_ms: None,
            fatal: None,
        }
    }

    /// A change from the members `from`.
    fn wish(from: &[u64], added: &[u64], removed: &[u64]) -> Wish {
        let change = Change { id: ChangeId(7), added: map(added), removed: map(removed), spoiled: false };
        let mut members = map(from);
        members.retain(|replica, _| !change.removed.contains_key(replica));
        members.extend(&change.added);
        Wish { epoch: 3, change: Some(change), members, outdated: false }
    }

    fn step(status: &GroupStatus, wish: &Wish) -> Option<Step> {
        plan_step(status, wish, ChangeId(6), 3)
    }

    #[test]
    fn a_group_grows_in_one_joint_change() {
        let wish = wish(&[1], &[2, 3], &[]);
        assert_eq!(step(&status(&[1], &[], &[]), &wish), Some(Step::AddLearner(member(2))));
        assert_eq!(step(&status(&[1], &[2], &[2]), &wish), Some(Step::AddLearner(member(3))));
        assert_eq!(step(&status(&[1], &[2, 3], &[2]), &wish), Some(Step::CatchUp(ids(&[3]))));
        assert_eq!(step(&status(&[1], &[2, 3], &[2, 3]), &wish), Some(Step::ChangeVoters(ids(&[1, 2, 3]))));
        // A leader died in the middle: the union of both sets is not the end of it.
        let joint = GroupStatus { joint: true, ..status(&[1, 2, 3], &[], &[2, 3]) };
        assert_eq!(step(&joint, &wish), Some(Step::ChangeVoters(ids(&[1, 2, 3]))));
        assert_eq!(
            step(&status(&[1, 2, 3], &[], &[2, 3]), &wish),
            Some(Step::Finish(ChangeId(7), ids(&[1, 2, 3])))
        );
    }

    #[test]
    fn a_replica_is_replaced_and_the_old_one_dropped() {
        let wish = wish(&[1, 2, 3], &[4], &[3]);
        assert_eq!(step(&status(&[1, 2, 3], &[], &[]), &wish), Some(Step::AddLearner(member(4))));
        assert_eq!(step(&status(&[1, 2, 3], &[4], &[4]), &wish), Some(Step::ChangeVoters(ids(&[1, 2, 4]))));
        assert_eq!(step(&status(&[1, 2, 4], &[3], &[4]), &wish), Some(Step::DropLearner(ReplicaId(3))));
        assert_eq!(
            step(&status(&[1, 2, 4], &[], &[4]), &wish),
            Some(Step::Finish(ChangeId(7), ids(&[1, 2, 4])))
        );
    }

    #[test]
    fn a_change_is_given_up_in_the_groups_log_first() {
        let outdated = Wish { outdated: true, ..wish(&[1, 2, 3], &[4], &[3]) };
        let learning = status(&[1, 2, 3], &[4], &[]);
        assert_eq!(step(&learning, &outdated), Some(Step::Forbid(ChangeId(7))));
        let forbidden = |status: &GroupStatus| plan_step(status, &outdated, ChangeId(7), 3);
        assert_eq!(forbidden(&learning), Some(Step::DropLearner(ReplicaId(4))));
        assert_eq!(forbidden(&status(&[1, 2, 3], &[], &[])), Some(Step::Abandon(ChangeId(7))));
        // With a vote it is carried on, unless the group has heard otherwise.
        let joint = GroupStatus { joint: true, ..status(&[1, 2, 3, 4], &[], &[4]) };
        assert_eq!(step(&joint, &outdated), Some(Step::ChangeVoters(ids(&[1, 2, 4]))));
        assert_eq!(forbidden(&joint), Some(Step::ChangeVoters(ids(&[1, 2, 3]))));
    }

    /// A leader whose node was cut off still has the change in its copy that others have carried out and followed by another, and the replica
    /// that it would bring back is destroyed.
    #[test]
    fn a_record_that_is_older_than_the_groups_epoch_moves_nothing() {
        let wish = wish(&[1, 2, 3], &[4], &[3]);
        for status in [status(&[1, 2, 5], &[], &[5]), status(&[1, 2, 5], &[4], &[4, 5])] {
            assert_eq!(plan_step(&status, &wish, ChangeId(6), 4), None);
            assert_eq!(plan_step(&status, &Wish { change: None, ..wish.clone() }, ChangeId(6), 4), None);
        }
    }

    #[test]
    fn a_group_at_rest_hears_of_its_epoch_once() {
        let still = Wish { change: None, ..wish(&[1, 2, 3], &[], &[]) };
        let status = status(&[1, 2, 3], &[], &[]);
        assert_eq!(plan_step(&status, &still, ChangeId(0), 2), Some(Step::TellEpoch(3)));
        assert_eq!(plan_step(&status, &still, ChangeId(0), 3), None);
    }
}
