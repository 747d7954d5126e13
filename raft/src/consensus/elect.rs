//! Getting a new leader soon after the old one's node is suspected, and handing leadership over.
//!
//! openraft's own timers wait for the leader's lease plus a random time. On suspicion a replica gives up *its own* lease
//! (by `handle_transfer_leader` in favour of the suspected leader itself, never of a live one) and then asks for a
//! pre-vote. A quorum must have given its lease up for that to lead anywhere, so one false suspecter changes nothing.
//!
//! Two candidates at a time are worse than a lost round. If A grants B its vote and then, before it hears more, campaigns
//! itself, B's office ends as it begins; but B has put its first entry into its log by then, so that A cannot win and tries
//! in vain, while B thinks that the matter is settled. And on a slow disk a candidate that tries again too soon gets in its
//! own way, round after round. Hence: whoever voted, or granted a pre-vote, lets that candidate go first (itself too), for
//! longer each time it comes to nothing; and the matter is settled when an entry of the later term is applied, not before.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use openraft::error::Fatal;
use openraft::raft::TransferLeaderRequest;
use tokio::sync::SemaphorePermit;

use super::core::{Core, jitter, voters};
use super::machine::Member;
use super::runtime::Runtime;
use super::types::{Types, Vote};
use crate::model::ids::{NodeId, ReplicaId};

/// Wait between attempts, until there is a leader; [`STAGGER`] comes on top.
const AGAIN: Duration = Duration::from_millis(25);
/// Attempts after which [`AGAIN_LATER`] takes over: there is no quorum, or no reason.
const HASTY_ATTEMPTS: u32 = 30;
const AGAIN_LATER: Duration = Duration::from_millis(500);
/// Wait between attempts of a group that may rest while too many voters are suspected to win: whoever is cut off has hundreds of such
/// groups. News of a voter cuts it short.
const LONELY_PAUSE: Duration = Duration::from_secs(5);
/// How long a leader's restart is reason enough to press: then openraft's own timers have fired.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// Living voters go in the order of their replica ids, this far apart, in every round, so that the first one usually wins
/// before the next tries.
const STAGGER: Duration = Duration::from_millis(25);
/// Random part of every wait: breaks ties that the order does not (two that do not agree on who lives).
const JITTER_MAX_MS: u64 = 15;
/// How long a candidate gets to take office before others try: three durable writes in a row, on a disk that takes 40 ms
/// for each. Doubled with every candidate that needed longer, up to four times. A candidate that still waits for votes gets more.
const CANDIDATE_PATIENCE: Duration = Duration::from_millis(125);
const PATIENCE_DOUBLINGS_MAX: u32 = 2;
/// How long a vote keeps its voter from granting pre-votes to others: as long as a candidate waits for votes, since on a slow disk the
/// winner needs that to take office. One that dies is found by the failure detector before, and one that knows that it lost asks again.
const PROMISE: Duration = Duration::from_secs(1);

/// What one that presses has to do.
enum Task {
    /// There is no leader, or a dead one.
    Elect(Dead),
    /// There is a leader, but it has not shown that a quorum follows it.
    Watch,
    Nothing,
}

/// The leader to be replaced, and its term.
#[derive(Clone, Copy)]
struct Dead {
    leader: Member,
    term: u64,
}

/// Whom one that presses has let go first.
#[derive(Default)]
struct Courtesy {
    /// One that was granted a pre-vote, since the last attempt. Only once an attempt: one that can ask but not hear must not
    /// stop the others.
    pre_voted: bool,
    /// The last candidate that it voted for.
    voted: Option<Vote>,
    /// Such candidates so far.
    candidates: u32,
}

impl Courtesy {
    /// Whether a candidate goes first that was voted for, or granted a pre-vote, so long ago.
    fn is_due(&mut self, voted: Option<(Vote, Duration)>, pre_voted: Option<Duration>) -> bool {
        if let Some((vote, _)) = voted.filter(|(vote, _)| self.voted != Some(*vote)) {
            self.voted = Some(vote);
            self.candidates += 1;
        }
        let doublings = self.candidates.saturating_sub(1).min(PATIENCE_DOUBLINGS_MAX);
        let patience = CANDIDATE_PATIENCE * (1 << doublings);
        if voted.is_some_and(|(_, ago)| ago < patience) {
            return true;
        }
        let first = !self.pre_voted && pre_voted.is_some_and(|ago| ago < patience);
        self.pre_voted |= first;
        first
    }
}

impl<R: Runtime> Core<R> {
    /// If `node` leads, presses for an election until there is a leader of a later term, or `node` is back after all (or, if
    /// it `restarted`, for a while: a leader that restarts does not lead any more). Returns at once.
    pub(crate) fn press_for_election(self: Arc<Self>, node: NodeId, restarted: bool) {
        let leader = self.leader().filter(|leader| leader.node == node && node != self.node);
        let Some(leader) = leader else { return };
        tracing::info!(group = %self.group, leader = %leader.replica, %node, restarted, "pressing for an election");
        self.start_pressing(leader, restarted);
    }

    /// As [`Self::press_for_election`], of a replica that was opened and found out that nobody leads.
    pub(crate) fn press_without_leader(self: Arc<Self>) {
        let voted_for = self.server(|m| m.vote.leader_id.voted_for);
        let leader = self.server(|m| m.membership_config.get_node(&voted_for).copied());
        let leader = Member { replica: voted_for, node: leader.unwrap_or(self.node) };
        tracing::info!(group = %self.group, replica = %self.replica, "nobody leads; pressing for an election");
        self.start_pressing(leader, true);
    }

    fn start_pressing(self: Arc<Self>, leader: Member, restarted: bool) {
        if restarted {
            // Also for one that presses already: when it hears that the leader lives again, that one leads no more.
            *self.restarted.lock() = Some((leader.replica, R::Instant::now() + RESTART_PATIENCE));
        }
        if self.pressing.swap(true, Ordering::AcqRel) {
            return;
        }
        self.rouse("its leader is lost");
        let _task = R::spawn(async move {
            let mut dead = Dead { leader, term: self.server(|m| m.vote.leader_id.term) };
            while let Ok(last) = self.press(dead).await {
                self.pressing.store(false, Ordering::Release);
                // A death or a restart may have been heard of between the last look and the end.
                let Task::Elect(next) = self.task(last) else { return };
                if self.pressing.swap(true, Ordering::AcqRel) {
                    return;
                }
                dead = next;
            }
            self.pressing.store(false, Ordering::Release);
        });
    }

    /// Presses until there is nothing to do about the dead leader; whom it pressed against last. An error: this replica has stopped.
    async fn press(&self, mut dead: Dead) -> Result<Dead, Fatal<Types<R>>> {
        let mut courtesy = Courtesy::default();
        let mut attempts = 0;
        let mut wait = Some(self.turn());
        let mut was_lonely = false;
        loop {
            let (server, changes) = (self.server.version(), self.changes.version());
            match self.task(dead) {
                Task::Nothing => return Ok(dead),
                Task::Watch => {
                    tokio::select! {
                        biased;
                        _ = self.server.after(server) => {}
                        _ = self.changes.after(changes) => {}
                    }
                }
                Task::Elect(other) => {
                    dead = other;
                    // Before the wait: whoever is quicker needs this replica's vote.
                    self.give_up_lease(dead.leader).await;
                    if let Some(time) = wait.take() {
                        self.wait_while_needed(dead, time).await;
                        continue;
                    }
                    if !was_lonely && self.is_lonely() {
                        was_lonely = true;
                        if self.wait_for_company(dead).await {
                            (attempts, wait) = (0, Some(self.turn()));
                        }
                        continue;
                    }
                    was_lonely = false;
                    if self.lets_go_first(dead, &mut courtesy).await? {
                        wait = Some(AGAIN + self.turn());
                        continue;
                    }
                    let permit = self.permit_to_elect().await;
                    if !matches!(self.task(dead), Task::Elect(_)) {
                        continue;
                    }
                    self.raft.trigger().elect(true).await?;
                    courtesy.pre_voted = false;
                    attempts += 1;
                    if attempts < HASTY_ATTEMPTS {
                        self.wait_while_needed(dead, AGAIN + self.turn()).await;
                    } else {
                        drop(permit);
                        wait = Some(AGAIN_LATER + self.turn());
                    }
                }
            }
        }
    }

    /// Waits as long as too many voters are suspected to win, but not for ever; whether that has changed.
    async fn wait_for_company(&self, dead: Dead) -> bool {
        let over = || !self.is_lonely() || !matches!(self.task(dead), Task::Elect(_));
        R::timeout(LONELY_PAUSE, self.until(over)).await.is_ok()
    }

    /// Whether there is a candidate that should be given time.
    async fn lets_go_first(&self, dead: Dead, courtesy: &mut Courtesy) -> Result<bool, Fatal<Types<R>>> {
        // The core's own word: what it votes is published when it is saved. While it saves it does not answer.
        let vote = self.raft.with_raft_state(|raft| (*raft.vote_ref(), raft.vote_last_modified()));
        let (vote, since) = vote.await?;
        let ago = |since: R::Instant| R::Instant::now().saturating_duration_since(since);
        let candidate = vote.leader_id.term > dead.term && !self.is_lost(vote);
        if candidate && self.is_polling(vote) {
            return Ok(true);
        }
        let voted = since.filter(|_| candidate).map(|since| (vote, ago(since)));
        Ok(courtesy.is_due(voted, self.ballots.pre_voted_ago()))
    }

    /// Whether this is a candidacy of this replica that too many have refused.
    fn is_lost(&self, vote: Vote) -> bool {
        let voters = self.server(|m| voters(m.membership_config.membership()));
        let living = voters.iter().filter(|v| !self.router.is_suspect(v.node)).count();
        let refused = self.ballots.poll(vote).map_or(0, |poll| poll.refused);
        living.saturating_sub(refused) <= voters.len() / 2
    }

    /// Whether this is a candidacy of this replica that votes still to come can decide. However long a voter's disk takes: a new
    /// candidacy would only be one more vote for it to sync.
    fn is_polling(&self, vote: Vote) -> bool {
        let voters = self.server(|m| m.membership_config.voter_ids().count());
        self.ballots.poll(vote).is_some_and(|poll| poll.is_open(voters))
    }

    /// Whether this replica has promised its vote to another living candidate, which has not had its time: then it grants nobody else a
    /// pre-vote, who would depose that one as soon as it is elected. A candidate that was removed from the fleet is not suspected, so the time counts
    /// from the first refusal, not from the last touch of the vote.
    pub(crate) async fn has_promised(
        &self,
        to_other_than: ReplicaId,
    ) -> Result<Option<Vote>, Fatal<Types<R>>> {
        let vote = self.raft.with_raft_state(|raft| (*raft.vote_ref(), raft.vote_last_modified()));
        let (vote, since) = vote.await?;
        let candidate = vote.leader_id.voted_for;
        if vote.committed || candidate == to_other_than || self.is_lost(vote) {
            return Ok(None);
        }
        let ago = since.map(|since| R::Instant::now().saturating_duration_since(since));
        let node = self.server(|m| m.membership_config.get_node(&candidate).copied());
        let lives = node.is_some_and(|node| node == self.node || !self.router.is_suspect(node));
        let kept = self.ballots.kept_for(vote);
        let promised =
            (lives && kept < PROMISE && ago.is_some_and(|ago| ago < PROMISE)) || self.is_polling(vote);
        Ok(promised.then_some(vote))
    }

    /// Waits for `time`, but no longer than there is something to elect.
    async fn wait_while_needed(&self, dead: Dead, time: Duration) {
        let end = R::Instant::now() + time;
        loop {
            let seen = self.server.version();
            if !matches!(self.task(dead), Task::Elect(_)) {
                return;
            }
            tokio::select! {
                biased;
                _ = self.server.after(seen) => {}
                () = R::sleep_until(end) => return,
            }
        }
    }

    /// What there is to do about the `dead` leader.
    fn task(&self, dead: Dead) -> Task {
        let (vote, votes) =
            self.server(|m| (m.vote, m.membership_config.voter_ids().any(|v| v == self.replica)));
        if self.is_stopped() || !votes {
            return Task::Nothing;
        }
        let later = vote.leader_id.term > dead.term;
        if later && vote.committed {
            return match self.leader() {
                Some(leader) if self.router.is_suspect(leader.node) => {
                    Task::Elect(Dead { leader, term: vote.leader_id.term })
                }
                _ if self.has_applied_after(dead.term) => Task::Nothing,
                _ => Task::Watch,
            };
        }
        // Whoever voted since follows the old leader no more, even if that one is back.
        let reason = later
            || self.router.is_suspect(dead.leader.node)
            || self
                .restarted
                .lock()
                .is_some_and(|(leader, until)| leader == dead.leader.replica && R::Instant::now() < until);
        if reason { Task::Elect(dead) } else { Task::Nothing }
    }

    fn has_applied_after(&self, term: u64) -> bool {
        self.state.applied.read().last.is_some_and(|last| last.leader_id.term > term)
    }

    /// How long after others this replica tries.
    fn turn(&self) -> Duration {
        STAGGER * self.rank() + jitter::<R>(JITTER_MAX_MS)
    }

    /// Ends the lease that this replica grants, if it still grants it to `dead`.
    async fn give_up_lease(&self, dead: Member) {
        let vote = self.server(|m| m.vote);
        // Never in favour of itself: that would be an election that asks nobody's leave.
        if vote.leader_id.voted_for == dead.replica && dead.replica != self.replica {
            let request = TransferLeaderRequest::new(vote, dead.replica, None);
            // A core that has stopped grants nothing.
            let _ = self.raft.handle_transfer_leader(request).await;
        }
    }

    /// Whether so many voters are suspected that an attempt is hardly worth its messages; the one group that never rests always tries.
    fn is_lonely(&self) -> bool {
        let voters = self.server(|m| voters(m.membership_config.membership()));
        let living = voters.iter().filter(|v| !self.router.is_suspect(v.node)).count();
        self.rest.quiescence.is_some() && living <= voters.len() / 2
    }

    /// Held during an attempt, so that not all groups of a node elect at once; the one group that never rests need not wait.
    async fn permit_to_elect(&self) -> Option<SemaphorePermit<'_>> {
        self.rest.quiescence?;
        self.router.wakes.acquire().await.ok()
    }

    /// How many living voters come before this one. Which is the first differs from group to group, so that the groups of a node that
    /// died are shared out among those that are left.
    fn rank(&self) -> u32 {
        let voters = self.server(|m| voters(m.membership_config.membership()));
        let mut living: Vec<ReplicaId> =
            voters.iter().filter(|v| !self.router.is_suspect(v.node)).map(|v| v.replica).collect();
        living.sort_unstable();
        rank_of(self.replica, &living, if self.rest.quiescence.is_some() { self.group.0 } else { 0 })
    }

    /// Hands leadership, if held, to the voter that holds most of the log and whose node is not one to avoid.
    pub(crate) fn hand_over(self: Arc<Self>, avoid: &dyn Fn(NodeId) -> bool) {
        let Some(term) = self.office() else { return };
        let status = self.status();
        if status.joint {
            // The change of voters under way would be left half done, and while it is, nothing is decided without a majority of the
            // old voters, of which there may be one.
            return;
        }
        let matched =
            |m: &Member| status.matched.iter().find(|(r, _)| *r == m.replica).and_then(|(_, at)| *at);
        let others = status.voters.iter().filter(|v| v.replica != self.replica && !avoid(v.node));
        let Some(heir) = others.max_by_key(|v| matched(v)).copied() else { return };
        tracing::info!(group = %self.group, to = %heir.replica, node = %heir.node, "handing leadership over");
        let _task = R::spawn(async move {
            // A core that has stopped leads nothing.
            let permit = self.permit_to_elect().await;
            let _ = self.raft.trigger().transfer_leader(heir.replica).await;
            if permit.is_some() {
                let _ = R::timeout(CANDIDATE_PATIENCE, self.until(|| self.office().is_none())).await;
            }
            drop(permit);
            self.is_relieved(term).await;
        });
    }
}

/// How many of the `living` go before `replica`, when the turn begins with the `first` of them, counted round.
fn rank_of(replica: ReplicaId, living: &[ReplicaId], first: u32) -> u32 {
    let count = living.len().max(1) as u32;
    let place = living.iter().filter(|&&other| other < replica).count() as u32;
    (place + count - first % count) % count
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote as _;

    use super::super::types::LeaderId;
    use super::*;

    fn vote(term: u64, replica: u64) -> Vote {
        Vote::from_leader_id(LeaderId { term, voted_for: ReplicaId(replica) }, false)
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_candidate_that_was_voted_for_goes_first_and_the_next_one_for_longer() {
        let mut courtesy = Courtesy::default();
        let mut due = |vote, ago| courtesy.is_due(Some((vote, ms(ago))), None);
        assert!(due(vote(2, 1), 0) && due(vote(2, 1), 124));
        assert!(!due(vote(2, 1), 125), "had its time");
        assert!(due(vote(3, 2), 249) && !due(vote(3, 2), 250));
        assert!(due(vote(4, 1), 499) && !due(vote(4, 1), 500));
        assert!(due(vote(5, 1), 499) && !due(vote(5, 1), 500), "no longer than that");
    }

    #[test]
    fn one_that_asks_for_pre_votes_without_end_is_let_go_first_once_an_attempt() {
        let mut courtesy = Courtesy::default();
        assert!(!courtesy.is_due(None, None));
        assert!(courtesy.is_due(None, Some(ms(10))));
        assert!(!courtesy.is_due(None, Some(ms(10))));
        courtesy.pre_voted = false;
        assert!(courtesy.is_due(None, Some(ms(124))));
        courtesy.pre_voted = false;
        assert!(!courtesy.is_due(None, Some(ms(125))));
    }

    #[test]
    fn every_voter_is_the_first_in_some_group() {
        let living = [3, 5, 9].map(ReplicaId);
        let ranks = |group| living.map(|replica| rank_of(replica, &living, group));
        assert_eq!(ranks(0), [0, 1, 2]);
        assert_eq!(ranks(1), [2, 0, 1]);
        assert_eq!(ranks(5), [1, 2, 0]);
        assert_eq!(rank_of(ReplicaId(1), &[], 4), 0);
    }
}
