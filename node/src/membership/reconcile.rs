//! The control leader's duty: bring the Raft membership to what the records want, one step at a time, and sweep what log time has
//! made due.
//!
//! Each pass looks at the state and takes the first step that is missing: admit learners, hand over before leaving, change the
//! voters, record departures, drop replicas of nodes that are gone. A crash between two steps loses nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::control::Command;
use longshore_raft::consensus::machine::{GroupError, GroupStatus, Member, Role};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::Standing;
use longshore_raft::model::voters::{Candidate, is_heir, plan_voters, steps_down};
use longshore_raft::{NodeId, ReplicaId, Runtime};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// How often the leader looks although nothing in the log changed: peers fail and come back without a log entry.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Pause after a step that failed, so that a peer that cannot be reached is not hammered.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Pause before a new leader changes voters, so that the failure detector knows who is there.
const SETTLE: Duration = Duration::from_secs(2);

/// One step towards the wanted membership.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    AddLearner(Member),
    ChangeVoters(BTreeSet<ReplicaId>),
    HandOver(ReplicaId),
    /// A leaving node has no vote any more: it is gone.
    RecordLeft(Member),
    DropReplica(ReplicaId),
}

pub(crate) struct Reconciler<R: Runtime> {
    core: Arc<Core<R>>,
    stop: CancellationToken,
}

impl<R: Runtime> Reconciler<R> {
    pub(crate) fn new(core: Arc<Core<R>>, stop: CancellationToken) -> Self {
        Self { core, stop }
    }

    pub(crate) async fn run(self) {
        let mut seen = 0;
        let mut leading_since: Option<R::Instant> = None;
        loop {
            let now = R::Instant::now();
            let leading = self.core.is_leader();
            leading_since = leading.then(|| leading_since.unwrap_or(now));
            // Followers wait for a change only: an idle one costs nothing.
            let pause = if leading { LOOK_EVERY } else { Duration::from_secs(3600) };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
                () = R::sleep(pause) => {}
            }
            let Some(since) = leading_since else { continue };
            let settled = R::Instant::now() - since >= SETTLE;
            if let Some(step) = self.next_step(settled)
                && let Err(error) = self.take(&step).await
            {
                tracing::info!(?step, %error, "a membership step did not succeed; trying again");
                R::sleep(RETRY_PAUSE).await;
            }
        }
    }

    fn next_step(&self, settled: bool) -> Option<Step> {
        let status = self.core.group.status();
        if status.role != Role::Leader {
            return None;
        }
        let candidates = self.core.candidates(&status);
        let (members, leaving) = self.core.group.with_state(|state| {
            let member =
                |n: &longshore_raft::model::membership::NodeRecord| Member { replica: n.replica, node: n.id };
            let leaving = state.membership.members().filter(|n| n.standing == Standing::Leaving);
            (
                state.membership.members().map(member).collect::<Vec<_>>(),
                leaving.map(member).collect::<Vec<_>>(),
            )
        });
        let suspects = |m: &Member| self.core.peer_state(m.node) == PeerState::Failed;
        // A node that still holds data stays until the ring does without it.
        let needed = self.core.group.with_state(|state| {
            let ring = state.ring.as_ref();
            let needed = |m: &&Member| ring.is_some_and(|ring| ring.needs(m.node));
            leaving.iter().filter(needed).map(|m| m.node).collect::<BTreeSet<NodeId>>()
        });
        plan_step(&status, &candidates, &members, &leaving, &needed, settled, suspects)
    }

    async fn take(&self, step: &Step) -> Result<(), GroupError> {
        tracing::info!(?step, "membership");
        let group = &self.core.group;
        match step {
            Step::AddLearner(member) => group.add_learner(*member).await,
            Step::ChangeVoters(voters) => group.change_voters(voters.clone()).await,
            Step::HandOver(to) => group.transfer_leader(*to).await,
            Step::RecordLeft(member) => {
                let command = Command::Remove { node: member.node, left: true };
                group.propose(command).await.map(drop)
            }
            Step::DropReplica(replica) => group.remove_learner(*replica).await,
        }
    }
}

/// The first step that is missing. Pure.
fn plan_step(
    status: &GroupStatus,
    candidates: &[Candidate],
    members: &[Member],
    leaving: &[Member],
    needed: &BTreeSet<NodeId>,
    settled: bool,
    failed: impl Fn(&Member) -> bool,
) -> Option<Step> {
    let me = status.replica;
    let in_group = |r: ReplicaId| status.voters.iter().chain(&status.learners).any(|m| m.replica == r);
    let voters: BTreeSet<ReplicaId> = status.voters.iter().map(|m| m.replica).collect();
    let gone = |m: &&Member| !members.iter().any(|known| known.replica == m.replica);

    if let Some(new) = members.iter().find(|m| !in_group(m.replica) && !failed(m)) {
        return Some(Step::AddLearner(*new));
    }
    let wanted = plan_voters(candidates);
    if wanted.is_empty() {
        return None;
    }
    let leaves = leaving.iter().any(|m| m.replica == me);
    if leaves || steps_down(candidates) {
        // The leader itself leaves, or is drained: first somebody else must be able to lead.
        if status.joint || !wanted.is_subset(&voters) {
            return Some(Step::ChangeVoters(wanted.iter().copied().chain([me]).collect()));
        }
        let able = |r: ReplicaId, test: fn(&Candidate) -> bool| {
            candidates.iter().any(|c| c.replica == r && !c.is_leader && test(c))
        };
        let heir = wanted.iter().find(|r| able(**r, is_heir));
        // Whoever leaves goes, and be it to one that is drained.
        let heir = heir.or_else(|| wanted.iter().find(|r| leaves && able(**r, |c| c.alive && c.caught_up)));
        return heir.map(|heir| Step::HandOver(*heir));
    }
    // A wish of the records (somebody left or was removed) is carried out at once; what the detector says waits until it knows.
    let ordered_out = status.voters.iter().any(|v| !candidates.iter().any(|c| c.replica == v.replica));
    // A leader before this one left a change half done: its voters are those of both sets, and may look as if nothing were missing.
    if status.joint || (wanted != voters && (settled || ordered_out)) {
        return Some(Step::ChangeVoters(wanted));
    }
    let may_go = |m: &&Member| !voters.contains(&m.replica) && !needed.contains(&m.node);
    if let Some(left) = leaving.iter().find(may_go) {
        return Some(Step::RecordLeft(*left));
    }
    status.learners.iter().find(gone).map(|m| Step::DropReplica(m.replica))
}

#[cfg(test)]
mod tests {
    use longshore_raft::GroupId;

    use super::*;

    fn member(id: u64) -> Member {
        Member { replica: ReplicaId(id), node: NodeId(id) }
    }

    /// A group led by `leader`; ids of voters and learners.
    fn status(leader: u64, voters: &[u64], learners: &[u64]) -> GroupStatus {
        let members = |ids: &[u64]| ids.iter().map(|id| member(*id)).collect();
        GroupStatus {
            group: GroupId::CONTROL,
            replica: ReplicaId(leader),
            role: Role::Leader,
            term: 1,
            leader: Some(member(leader)),
            last_log: Some(10),
            committed: Some(10),
            applied: Some(10),
            snapshot: None,
            purged: None,
            voters: members(voters),
            learners: members(learners),
            joint: false,
            matched: Vec::new(),
            quorum_ack_ms: None,
            fatal: None,
        }
    }

    fn candidates(status: &GroupStatus, active: &[u64], dead: &[u64]) -> Vec<Candidate> {
        let one = |id: &u64| Candidate {
            node: NodeId(*id),
            replica: ReplicaId(*id),
            zone: None,
            is_voter: status.voters.contains(&member(*id)),
            is_leader: status.leader == Some(member(*id)),
            alive: !dead.contains(id),
            replaced: false,
            draining: false,
            caught_up: !dead.contains(id),
        };
        active.iter().map(one).collect()
    }

    fn step(status: &GroupStatus, active: &[u64], leaving: &[u64], dead: &[u64]) -> Option<Step> {
        let members: Vec<Member> = active.iter().chain(leaving).map(|id| member(*id)).collect();
        let leaving: Vec<Member> = leaving.iter().map(|id| member(*id)).collect();
        let candidates = candidates(status, active, dead);
        let none = BTreeSet::new();
        plan_step(status, &candidates, &members, &leaving, &none, true, |m| dead.contains(&m.node.0))
    }

    fn voters(ids: &[u64]) -> Option<Step> {
        Some(Step::ChangeVoters(ids.iter().map(|id| ReplicaId(*id)).collect()))
    }

    #[test]
    fn a_fleet_grows_from_one_to_three_voters() {
        let mut s = status(1, &[1], &[]);
        assert_eq!(step(&s, &[1, 2, 3], &[], &[]), Some(Step::AddLearner(member(2))));
        s = status(1, &[1], &[2]);
        assert_eq!(step(&s, &[1, 2, 3], &[], &[]), Some(Step::AddLearner(member(3))));
        s = status(1, &[1], &[2, 3]);
        assert_eq!(step(&s, &[1, 2, 3], &[], &[]), voters(&[1, 2, 3]));
        s = status(1, &[1, 2, 3], &[]);
        assert_eq!(step(&s, &[1, 2, 3], &[], &[]), None);
    }

    #[test]
    fn the_next_leader_finishes_a_change_of_voters_that_is_half_done() {
        let joint = |leader| GroupStatus { joint: true, ..status(leader, &[1, 2, 3], &[]) };
        assert_eq!(step(&joint(3), &[1, 2, 3], &[], &[]), voters(&[1, 2, 3]));
        // Also at once, before the detector has had its time, and when the leader itself leaves.
        let all: Vec<Member> = (1..=3).map(member).collect();
        let known = candidates(&joint(3), &[1, 2, 3], &[]);
        assert_eq!(
            plan_step(&joint(3), &known, &all, &[], &BTreeSet::new(), false, |_| false),
            voters(&[1, 2, 3])
        );
        assert!(matches!(step(&joint(1), &[2, 3], &[1], &[]), Some(Step::ChangeVoters(_))));
    }

    #[test]
    fn a_follower_leaves() {
        let mut s = status(1, &[1, 2, 3], &[]);
        assert_eq!(step(&s, &[1, 2], &[3], &[]), voters(&[1]));
        s = status(1, &[1], &[2, 3]);
        assert_eq!(step(&s, &[1, 2], &[3], &[]), Some(Step::RecordLeft(member(3))));
        assert_eq!(step(&s, &[1, 2], &[], &[]), Some(Step::DropReplica(ReplicaId(3))));
    }

    #[test]
    fn a_node_that_holds_data_stays_until_it_does_not() {
        let s = status(1, &[1], &[2, 3]);
        let members: Vec<Member> = [1, 2, 3].map(member).to_vec();
        let with = |needed: &[u64]| {
            let needed = needed.iter().map(|id| NodeId(*id)).collect();
            plan_step(&s, &candidates(&s, &[1, 2], &[]), &members, &members[2..], &needed, true, |_| false)
        };
        assert_eq!(with(&[3]), None);
        assert_eq!(with(&[2]), Some(Step::RecordLeft(member(3))));
    }

    #[test]
    fn the_leader_hands_over_before_it_leaves() {
        let mut s = status(1, &[1, 2, 3], &[]);
        assert_eq!(step(&s, &[2, 3], &[1], &[]), Some(Step::HandOver(ReplicaId(2))));
        assert_eq!(step(&s, &[2, 3], &[1], &[2]), Some(Step::HandOver(ReplicaId(3))));
        s = status(1, &[1], &[2]);
        assert_eq!(step(&s, &[2], &[1], &[]), voters(&[1, 2]));
    }

    #[test]
    fn a_drained_leader_hands_over_if_somebody_can_take_over() {
        let drained = |s: &GroupStatus, active: &[u64], drained: &[u64], dead: &[u64]| {
            let members: Vec<Member> = active.iter().map(|id| member(*id)).collect();
            let mut candidates = candidates(s, active, dead);
            candidates.iter_mut().for_each(|c| c.draining = drained.contains(&c.node.0));
            plan_step(s, &candidates, &members, &[], &BTreeSet::new(), true, |m| dead.contains(&m.node.0))
        };
        let mut s = status(1, &[1, 2, 3], &[]);
        assert_eq!(drained(&s, &[1, 2, 3], &[1], &[]), Some(Step::HandOver(ReplicaId(2))));
        assert_eq!(drained(&s, &[1, 2, 3], &[1, 2], &[]), Some(Step::HandOver(ReplicaId(3))));
        assert_eq!(drained(&s, &[1, 2, 3], &[1], &[2]), Some(Step::HandOver(ReplicaId(3))));
        assert_eq!(drained(&s, &[1, 2, 3], &[1, 2], &[3]), None, "nobody else");
        assert_eq!(drained(&s, &[1, 2, 3], &[2], &[]), None, "it does not lead");
        // Of two, the other one gets the vote first, and is then alone with it.
        s = status(1, &[1], &[2]);
        assert_eq!(drained(&s, &[1, 2], &[1], &[]), voters(&[1, 2]));
        s = status(1, &[1, 2], &[]);
        assert_eq!(drained(&s, &[1, 2], &[1], &[]), Some(Step::HandOver(ReplicaId(2))));
        s = status(2, &[1, 2], &[]);
        assert_eq!(drained(&s, &[1, 2], &[1], &[]), voters(&[2]));
        s = status(2, &[2], &[1]);
        assert_eq!(drained(&s, &[1, 2], &[1], &[]), None);
    }

    #[test]
    fn a_dead_voter_is_replaced_only_by_the_living_and_a_dead_joiner_is_waited_for() {
        let s = status(1, &[1, 2, 3], &[4]);
        assert_eq!(step(&s, &[1, 2, 3, 4], &[], &[3]), voters(&[1, 2, 4]));
        assert_eq!(step(&s, &[1, 2, 3, 4], &[], &[3, 4]), None);
        assert_eq!(step(&s, &[1, 2, 3, 4, 5], &[], &[5]), None);
    }
}
