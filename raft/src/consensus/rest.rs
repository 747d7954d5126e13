//! Groups at rest: no ticks, no heartbeats, no timers, no tasks but those that wait for a message.
//!
//! A leader that was asked for nothing for a while tells every member that lives: "all of you have applied entry X, and there is
//! nothing more". Each that finds it so stops its ticks and agrees; when all agree, the leader's stay off too. If one does not, the
//! leader goes on, and its next heartbeat wakes the others. Members on suspected nodes are left out and remembered: the leader wakes
//! when such a node is back (`wake.rs`).
//!
//! What openraft sends without ticks: entries, the news of commits, and one round of heartbeats for each ReadIndex. So at rest, nothing;
//! and a ReadIndex works on a group at rest, by which a leader that wakes gets its lease back, without which it may not write.
//!
//! Invariants: a replica rests only if it has applied what its leader named; a leader rests only with a majority that does, nothing
//! under way and nothing asked since it began to tell. Nothing here is needed for safety: ticks only make elections and heartbeats.
//! Must never: rest on the word of another than the leader of the present term.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::Instant as _;
use parking_lot::Mutex;

use super::config::Quiescence;
use super::core::Core;
use super::machine::{GroupStatus, Member, Role};
use super::reads::ReadIndex;
use super::runtime::Runtime;
use super::types::{LogId, Vote};
use super::wire::{Append, GroupBody, Reply};
use crate::model::ids::NodeId;
use crate::transport::Lane;

/// How long members may take to agree. The leader sends no heartbeats meanwhile, so it must be well below its lease.
const AGREE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether a replica rests, and what decides that it may.
pub(crate) struct Rest<R: Runtime> {
    /// `None`: it never does.
    pub(crate) quiescence: Option<Quiescence>,
    state: Mutex<State<R>>,
    /// Counts what was asked of this replica.
    activity: AtomicU64,
    /// Proposals and reads that are not answered.
    outstanding: Arc<AtomicUsize>,
    /// Since it woke, a quorum has confirmed this leader, or this follower has heard its leader: leases hold.
    confirmed: AtomicBool,
    muted: AtomicBool,
}

struct State<R: Runtime> {
    mode: Mode<R>,
    /// Numbers the times that it was awake, so that what belongs to one does nothing in the next.
    watch: u64,
}

enum Mode<R: Runtime> {
    /// Opened; it has heard of nobody yet.
    Dormant,
    Awake,
    Resting(Repose<R>),
}

/// What a replica rests on.
struct Repose<R: Runtime> {
    vote: Vote,
    at: LogId,
    since: R::Instant,
    /// Of a leader: members that were not told.
    absent: Vec<Member>,
}

/// Counts a request as outstanding.
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<R: Runtime> Rest<R> {
    pub(crate) fn new(quiescence: Option<Quiescence>) -> Self {
        let mode = if quiescence.is_some() { Mode::Dormant } else { Mode::Awake };
        Self {
            quiescence,
            state: Mutex::new(State { mode, watch: 0 }),
            activity: AtomicU64::new(0),
            outstanding: Arc::default(),
            confirmed: AtomicBool::new(quiescence.is_none()),
            muted: AtomicBool::new(false),
        }
    }

    pub(crate) fn busy(&self) -> Busy {
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.outstanding.fetch_add(1, Ordering::Acquire);
        Busy(self.outstanding.clone())
    }

    pub(crate) fn confirm(&self) {
        self.confirmed.store(true, Ordering::Release);
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Whether this leader keeps silent, since it has no quorum.
    pub(crate) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    pub(crate) fn is_dormant(&self) -> bool {
        matches!(self.state.lock().mode, Mode::Dormant)
    }

    /// The vote by which it rests, if it does.
    pub(crate) fn rests_by(&self) -> Option<Vote> {
        match &self.state.lock().mode {
            Mode::Resting(repose) => Some(repose.vote),
            Mode::Dormant | Mode::Awake => None,
        }
    }

    /// Of a leader at rest: members that were not told.
    pub(crate) fn absent(&self) -> Option<Vec<Member>> {
        match &self.state.lock().mode {
            Mode::Resting(repose) => Some(repose.absent.clone()),
            Mode::Dormant | Mode::Awake => None,
        }
    }

    fn is_awake(&self, watch: u64) -> bool {
        let state = self.state.lock();
        state.watch == watch && matches!(state.mode, Mode::Awake)
    }

    /// Wakes; gives the number of the watch that begins, if it was not awake.
    fn wake(&self) -> Option<u64> {
        self.activity.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if matches!(state.mode, Mode::Awake) {
            return None;
        }
        state.mode = Mode::Awake;
        state.watch += 1;
        self.confirmed.store(false, Ordering::Release);
        Some(state.watch)
    }

    /// Whether it is a heartbeat that left just before the leader put the group to rest: it says nothing new. One that comes later
    /// says that the leader is awake.
    fn is_echo(&self, lane: Lane, append: &Append, within: Duration) -> bool {
        match &self.state.lock().mode {
            Mode::Resting(repose) => {
                lane == Lane::Heartbeat
                    && append.vote() == repose.vote
                    && append.commit() == Some(repose.at)
                    && repose.since.elapsed() < within
            }
            Mode::Dormant | Mode::Awake => false,
        }
    }
}

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
    /// Wakes, if it rests; in any case it does not go to rest for a while.
    pub(crate) fn rouse(self: &Arc<Self>, why: &'static str) {
        if self.rest.quiescence.is_none() {
            return;
        }
        if let Some(watch) = self.rest.wake() {
            tracing::debug!(group = %self.group, replica = %self.replica, why, "woke");
            let _task = R::spawn(self.clone().keep_watch(watch));
        }
    }

    /// Whether a quorum follows this leader, as far as it can tell; one at rest asks.
    pub(crate) async fn is_followed(self: &Arc<Self>) -> bool {
        if self.rest.quiescence.is_none() {
            return true;
        }
        self.rouse("a command");
        self.rest.is_confirmed() || matches!(self.read_index_here().await, ReadIndex::At(_))
    }

    /// Turns openraft's ticks on or off, unless the watch is over.
    fn tick(&self, watch: u64, on: bool) {
        let state = self.rest.state.lock();
        if state.watch == watch && matches!(state.mode, Mode::Awake) {
            self.raft.runtime_config().tick(on);
        }
    }

    /// A leader that wakes gets time to send its heartbeats: ticks of a follower that has not heard it for hours would make
    /// it campaign at once. Also how long a heartbeat may be on its way.
    fn grace(&self) -> Duration {
        Duration::from_millis(2 * self.timings.heartbeat_ms)
    }

    /// Runs while the replica is awake.
    async fn keep_watch(self: Arc<Self>, watch: u64) {
        let calm = R::Instant::now() + self.grace();
        let mut ticking = false;
        loop {
            let seen = self.server.version();
            if self.is_stopped() || !self.rest.is_awake(watch) {
                return;
            }
            if let Some(term) = self.office() {
                ticking = true;
                self.lead(watch, term).await;
            } else if ticking {
                self.server.after(seen).await;
            } else if R::Instant::now() >= calm {
                ticking = true;
                self.tick(watch, true);
            } else {
                // Whether there is news or the time is up is seen above.
                let _ = R::timeout_at(calm, self.server.after(seen)).await;
            }
        }
    }

    /// Runs while the replica is awake and leads in `term`.
    async fn lead(self: &Arc<Self>, watch: u64, term: u64) {
        let Some(Quiescence { idle }) = self.rest.quiescence else { return };
        self.tick(watch, true);
        // The lease, before anybody asks for it.
        self.is_followed().await;
        loop {
            let activity = self.rest.activity.load(Ordering::Relaxed);
            if !self.leads_for(watch, term, idle).await {
                return;
            }
            if self.has_lost_its_quorum() {
                self.keep_silent(watch, term).await;
            } else if self.rest.activity.load(Ordering::Relaxed) == activity
                && self.put_to_rest(watch, term, activity).await
            {
                return;
            }
        }
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
        self.rest.muted.store(true, Ordering::Release);
        self.rest.confirmed.store(false, Ordering::Release);
        self.tick(watch, false);
        self.leads_for(watch, term, Duration::from_millis(2 * self.timings.election_max_ms)).await;
        self.rest.muted.store(false, Ordering::Release);
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
        let body = GroupBody::Rest { vote: (&vote).into(), at: (&at).into() };
        let tell = |m: &Member| {
            self.route.ask((m.node, Some(m.replica)), Lane::Heartbeat, body.clone(), AGREE_TIMEOUT)
        };
        let answers = join_all(plan.told.iter().map(tell)).await;
        let agreed = answers.iter().all(|answer| matches!(answer, Ok(Reply::Rests(true))));
        let rests = agreed && self.repose(watch, term, activity, (vote, at), &plan);
        if rests {
            tracing::debug!(group = %self.group, term, at = at.index, absent = plan.absent.len(), "rests");
        } else {
            self.tick(watch, true);
        }
        rests
    }

    /// The last step: whether nothing has changed while the others agreed.
    fn repose(&self, watch: u64, term: u64, activity: u64, (vote, at): (Vote, LogId), plan: &Plan) -> bool {
        let mut state = self.rest.state.lock();
        // Whoever asks for something counts first and looks at the mode then, so that either this sees it or it wakes the group.
        let undisturbed = state.watch == watch
            && matches!(state.mode, Mode::Awake)
            && self.rest.activity.load(Ordering::Relaxed) == activity
            && self.rest.outstanding.load(Ordering::Acquire) == 0
            && self.office() == Some(term)
            && plan.told.iter().all(|m| !self.router.is_suspect(m.node))
            && plan.absent.iter().all(|m| self.router.is_suspect(m.node))
            && self.state.applied.read().last == Some(at);
        if undisturbed {
            let since = R::Instant::now();
            state.mode = Mode::Resting(Repose { vote, at, since, absent: plan.absent.clone() });
        }
        undisturbed
    }

    /// The leader by `vote` says that there is nothing after `at`: whether it is so here, and this replica rests.
    pub(crate) fn on_rest(&self, from: NodeId, vote: Vote, at: LogId) -> bool {
        let leads = |leader: Member| leader.node == from && leader.replica == vote.leader_id.voted_for;
        let applied = || {
            longshore_storage::mutant!("quiesce-with-a-lagging-follower" => return true);
            self.state.applied.read().last == Some(at)
        };
        let agrees = self.rest.quiescence.is_some()
            && vote.committed
            && vote == self.server(|m| m.vote)
            && self.leader().is_some_and(leads)
            && self.office().is_none()
            && !self.router.is_suspect(from)
            && !self.pressing.load(Ordering::Acquire)
            && applied();
        if agrees {
            let mut state = self.rest.state.lock();
            self.raft.runtime_config().tick(false);
            state.mode = Mode::Resting(Repose { vote, at, since: R::Instant::now(), absent: Vec::new() });
            drop(state);
            // Ends the watch.
            self.server.bump();
        }
        agrees
    }

    /// What a message of another node means for this replica's rest, before it is dealt with.
    pub(crate) fn heed(self: &Arc<Self>, lane: Lane, body: &GroupBody) {
        if self.rest.quiescence.is_none() {
            return;
        }
        match body {
            GroupBody::Append(append) if self.rest.is_echo(lane, append, self.grace()) => {}
            GroupBody::Append(append) => {
                self.rouse("its leader");
                if append.vote() >= self.server(|m| m.vote) {
                    self.rest.confirm();
                }
            }
            GroupBody::Vote { .. } => self.rouse("a candidate"),
            GroupBody::TransferLeader { .. } | GroupBody::Snapshot(_) => self.rouse("its leader"),
            // These wake a leader where they are dealt with; others only say who leads.
            GroupBody::Propose(_)
            | GroupBody::ReadIndex
            | GroupBody::Query(_)
            | GroupBody::HandOver { .. }
            | GroupBody::Rest { .. } => {}
        }
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
