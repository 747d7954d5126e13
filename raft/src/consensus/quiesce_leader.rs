//! How a leader puts its group to rest, and how it keeps silent when it has lost its quorum: what there is to do for a leader that is awake.
//!
//! Must never: rest while a member that lives lacks anything, while anything is under way, or without a majority.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::core::Core;
use super::machine::{GroupStatus, Member, Role};
use super::quiesce::Lull;
use super::runtime::Runtime;
use super::wire::{GroupBody, Reply};
use crate::model::ids::NodeId;
use crate::transport::Lane;

/// How long members may take to agree. The leader sends no heartbeats meanwhile, so it must be well below its lease.
const AGREE_TIMEOUT: Duration = Duration::from_secs(1);

/// Who is told that the group goes to rest, and who is not there to be told.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    told: Vec<Member>,
    absent: Vec<Member>,
}

/// Whether a leader with this `status` may put its group to rest.
fn plan(status: &GroupStatus, is_suspect: impl Fn(NodeId) -> bool) -> Option<Plan> {
    let settled = status.applied.is_some()
        && status.applied == status.last_log
        && status.applied == status.committed
        && status.role == Role::Leader;
    if !settled {
        return None;
    }
    let members = status.voters.iter().chain(&status.learners);
    let others = members.filter(|member| member.replica != status.replica).copied();
    let (absent, told): (Vec<Member>, Vec<Member>) = others.partition(|member| is_suspect(member.node));
    longshore_storage::mutant!("quiesce-with-a-lagging-follower" => return Some(Plan { told, absent }));
    let holds = |m: &Member| status.matched.iter().any(|(r, at)| *r == m.replica && *at == status.applied);
    let votes = |m: &Member| m.replica == status.replica || told.contains(m);
    let agreeing = status.voters.iter().filter(|voter| votes(voter)).count();
    (told.iter().all(holds) && agreeing > status.voters.len() / 2).then_some(Plan { told, absent })
}

impl<R: Runtime> Core<R> {
    /// Runs while the replica is awake and leads in `term`.
    pub(crate) async fn lead(self: &Arc<Self>, watch: u64, term: u64) {
        let idle = self.idle();
        self.tick(watch, true);
        // The lease, before anybody asks for it.
        self.is_followed().await;
        loop {
            let activity = self.rest.activity();
            if !self.leads_for(watch, term, idle).await {
                return;
            }
            if self.has_lost_its_quorum() {
                self.keep_silent(watch, term).await;
            } else if self.rest.activity() == activity && self.put_to_rest(watch, term, activity).await {
                return;
            }
        }
    }

    /// How long nothing must have been asked for.
    fn idle(&self) -> Duration {
        longshore_storage::mutant!("quiesce-with-a-lagging-follower" => return Duration::from_millis(10));
        self.rest.quiescence.map_or(Duration::MAX, |quiescence| quiescence.idle)
    }

    /// Waits; whether it still leads then.
    async fn leads_for(&self, watch: u64, term: u64, time: Duration) -> bool {
        let over =
            self.until(|| self.is_stopped() || !self.rest.is_awake(watch) || self.office() != Some(term));
        R::timeout(time, over).await.is_err()
    }

    fn has_lost_its_quorum(&self) -> bool {
        let status = self.status();
        let lease_ms = self.timings.election_max_ms;
        status.voters.len() > 1 && status.quorum_ack_ms.is_none_or(|ms| ms >= lease_ms)
    }

    /// Gives followers that hear nobody but this leader the chance to elect one that has a quorum, as openraft's
    /// `quorum_loss_probe_interval` would.
    async fn keep_silent(&self, watch: u64, term: u64) {
        self.rest.mute(true);
        self.tick(watch, false);
        self.leads_for(watch, term, Duration::from_millis(2 * self.timings.election_max_ms)).await;
        self.rest.mute(false);
        self.tick(watch, true);
    }

    /// Whether the group rests now.
    async fn put_to_rest(&self, watch: u64, term: u64, activity: u64) -> bool {
        let Some(at) = self.state.applied.read().last else { return false };
        let status = self.status();
        let (vote, joint) =
            self.server(|m| (m.vote, m.membership_config.membership().get_joint_config().len() > 1));
        let plan = plan(&status, |node| self.router.is_suspect(node));
        let Some(plan) = plan.filter(|_| !joint && Some(at.index) == status.applied && status.term == term)
        else {
            return false;
        };
        // No more heartbeats, from here on: one that comes after what follows would wake its receiver.
        self.tick(watch, false);
        let body = GroupBody::Quiesce { vote: (&vote).into(), at: (&at).into() };
        let tell = |m: &Member| {
            self.route.ask((m.node, Some(m.replica)), Lane::Heartbeat, body.clone(), AGREE_TIMEOUT)
        };
        let answers = join_all(plan.told.iter().map(tell)).await;
        let agreed = answers.iter().all(|answer| matches!(answer, Ok(Reply::Quiesced(true))));
        let lull = Lull { watch, term, activity, vote, at };
        let rests = agreed && self.repose(&lull, &plan.told, plan.absent.clone());
        if rests {
            tracing::debug!(group = %self.group, term, at = at.index, absent = plan.absent.len(), "rests");
        } else {
            self.tick(watch, true);
        }
        rests
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ids::{GroupId, ReplicaId};

    fn on(node: u64) -> Member {
        Member { replica: ReplicaId(node), node: NodeId(node) }
    }

    /// The leader is replica 1 of voters 1 to 3 with learner 4; all hold entry 9.
    fn status() -> GroupStatus {
        GroupStatus {
            group: GroupId(1),
            replica: ReplicaId(1),
            role: Role::Leader,
            term: 2,
            leader: Some(on(1)),
            last_log: Some(9),
            committed: Some(9),
            applied: Some(9),
            snapshot: None,
            purged: None,
            voters: vec![on(1), on(2), on(3)],
            learners: vec![on(4)],
            joint: false,
            matched: (1..=4).map(|r| (ReplicaId(r), Some(9))).collect(),
            quorum_ack_ms: Some(1),
            fatal: None,
        }
    }

    #[test]
    fn a_leader_rests_only_when_every_living_member_holds_everything() {
        let all = Plan { told: vec![on(2), on(3), on(4)], absent: vec![] };
        assert_eq!(plan(&status(), |_| false), Some(all));
        let one_away = Plan { told: vec![on(2), on(4)], absent: vec![on(3)] };
        assert_eq!(plan(&status(), |node| node == NodeId(3)), Some(one_away));
        assert_eq!(plan(&status(), |node| node.0 == 2 || node.0 == 3), None, "no majority");

        type Change = fn(&mut GroupStatus);
        let refused: [(&str, Change); 6] = [
            ("not the leader", |s| s.role = Role::Follower),
            ("an entry that is not committed", |s| s.last_log = Some(10)),
            ("a commit that is not applied", |s| s.applied = Some(8)),
            ("nothing at all", |s| (s.last_log, s.committed, s.applied) = (None, None, None)),
            ("a follower that lags", |s| s.matched[2].1 = Some(8)),
            ("a learner that nothing is known of", |s| s.matched.truncate(3)),
        ];
        for (what, change) in refused {
            let mut status = status();
            change(&mut status);
            assert_eq!(plan(&status, |_| false), None, "{what}");
        }
        let mut lagging = status();
        lagging.matched[2].1 = Some(8);
        assert!(plan(&lagging, |node| node == NodeId(3)).is_some(), "the laggard is dead");
    }

    #[test]
    fn a_group_alone_rests() {
        let mut alone = status();
        (alone.voters, alone.learners) = (vec![on(1)], vec![]);
        assert_eq!(plan(&alone, |_| false), Some(Plan { told: vec![], absent: vec![] }));
    }
}
