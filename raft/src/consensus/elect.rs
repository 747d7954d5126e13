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
use parking_lot::Mutex;

use super::core::{Core, voters};
use super::machine::Member;
use super::runtime::Runtime;
use super::types::{Types, Vote};
use crate::model::ids::{NodeId, ReplicaId};

/// Wait between attempts, until there is a leader; [`STAGGER`] comes on top.
const AGAIN: Duration = Duration::from_millis(25);
/// Attempts after which [`AGAIN_LATER`] takes over: there is no quorum, or no reason.
const HASTY_ATTEMPTS: u32 = 30;
const AGAIN_LATER: Duration = Duration::from_millis(500);
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

/// What openraft does not tell of votes, but those see who carry them.
pub(crate) struct Ballots<R: Runtime>(Mutex<Seen<R>>);

struct Seen<R: Runtime> {
    /// When this replica last granted a pre-vote.
    pre_voted: Option<R::Instant>,
    /// The candidacy for which it asked for votes last.
    poll: Option<Poll>,
}

/// What became of the votes that one candidacy asked for; the candidate's own is not among them.
#[derive(Debug, Clone, Copy)]
struct Poll {
    vote: Vote,
    granted: usize,
    refused: usize,
    /// Still to be answered.
    open: usize,
}

/// One vote that was asked for. Dropped without an answer, it is one that will not come.
pub(crate) struct Asked<'a, R: Runtime> {
    ballots: &'a Ballots<R>,
    vote: Vote,
}

impl<R: Runtime> Asked<'_, R> {
    pub(crate) fn answered(self, granted: bool) {
        self.ballots.in_poll(self.vote, |poll| match granted {
            true => poll.granted += 1,
            false => poll.refused += 1,
        });
    }
}

impl<R: Runtime> Drop for Asked<'_, R> {
    fn drop(&mut self) {
        self.ballots.in_poll(self.vote, |poll| poll.open -= 1);
    }
}

impl<R: Runtime> Default for Ballots<R> {
    fn default() -> Self {
        Self(Mutex::new(Seen { pre_voted: None, poll: None }))
    }
}

impl<R: Runtime> Ballots<R> {
    pub(crate) fn pre_vote_granted(&self) {
        self.0.lock().pre_voted = Some(R::Instant::now());
    }

    pub(crate) fn ask(&self, vote: Vote) -> Asked<'_, R> {
        let fresh = Poll { vote, granted: 0, refused: 0, open: 0 };
        let mut seen = self.0.lock();
        let poll = seen.poll.get_or_insert(fresh);
        if poll.vote != vote {
            *poll = fresh;
        }
        poll.open += 1;
        drop(seen);
        Asked { ballots: self, vote }
    }

    /// Counts in the poll of this candidacy, if there was no other since.
    fn in_poll(&self, vote: Vote, count: impl FnOnce(&mut Poll)) {
        if let Some(poll) = self.0.lock().poll.as_mut().filter(|poll| poll.vote == vote) {
            count(poll);
        }
    }

    fn poll(&self, vote: Vote) -> Option<Poll> {
        self.0.lock().poll.filter(|poll| poll.vote == vote)
    }
}

impl Poll {
    /// Whether votes that are still to come can make a majority of so many voters.
    fn is_open(&self, voters: usize) -> bool {
        self.open > 0 && 1 + self.granted + self.open > voters / 2
    }
}

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
        if self.pressing.swap(true, Ordering::AcqRel) {
            return;
        }
        let _task = R::spawn(async move {
            tracing::info!(group = %self.group, leader = %leader.replica, %node, restarted, "pressing for an election");
            let until = restarted.then(|| R::Instant::now() + RESTART_PATIENCE);
            self.press(leader, until).await;
            self.pressing.store(false, Ordering::Release);
        });
    }

    async fn press(&self, leader: Member, until: Option<R::Instant>) {
        let mut dead = Dead { leader, term: self.server(|m| m.vote.leader_id.term) };
        let mut courtesy = Courtesy::default();
        let mut attempts = 0;
        let mut wait = Some(self.turn());
        loop {
            let (server, changes) = (self.server.version(), self.changes.version());
            match self.task(dead, until) {
                Task::Nothing => return,
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
                        self.wait_while_needed(dead, until, time).await;
                        continue;
                    }
                    let Ok(first) = self.lets_go_first(dead, &mut courtesy).await else { return };
                    if first {
                        wait = Some(AGAIN + self.turn());
                        continue;
                    }
                    if self.raft.trigger().elect(true).await.is_err() {
                        return;
                    }
                    courtesy.pre_voted = false;
                    attempts += 1;
                    wait = Some(if attempts < HASTY_ATTEMPTS { AGAIN } else { AGAIN_LATER } + self.turn());
                }
            }
        }
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
        let pre_voted = self.ballots.0.lock().pre_voted;
        Ok(courtesy.is_due(voted, pre_voted.map(ago)))
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
    /// pre-vote, who would depose that one as soon as it is elected.
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
        let promised = (lives && ago.is_some_and(|ago| ago < PROMISE)) || self.is_polling(vote);
        Ok(promised.then_some(vote))
    }

    /// Waits for `time`, but no longer than there is something to elect.
    async fn wait_while_needed(&self, dead: Dead, until: Option<R::Instant>, time: Duration) {
        let end = R::Instant::now() + time;
        loop {
            let seen = self.server.version();
            if !matches!(self.task(dead, until), Task::Elect(_)) {
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
    fn task(&self, dead: Dead, until: Option<R::Instant>) -> Task {
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
            || until.is_some_and(|until| R::Instant::now() < until);
        if reason { Task::Elect(dead) } else { Task::Nothing }
    }

    fn has_applied_after(&self, term: u64) -> bool {
        self.state.applied.read().last.is_some_and(|last| last.leader_id.term > term)
    }

    /// How long after others this replica tries.
    fn turn(&self) -> Duration {
        STAGGER * self.rank() + jitter::<R>()
    }

    /// Ends the lease that this replica grants, if it still grants it to `dead`.
    async fn give_up_lease(&self, dead: Member) {
        let vote = self.server(|m| m.vote);
        if vote.leader_id.voted_for == dead.replica {
            let request = TransferLeaderRequest::new(vote, dead.replica, None);
            // A core that has stopped grants nothing.
            let _ = self.raft.handle_transfer_leader(request).await;
        }
    }

    /// How many living voters come before this one.
    fn rank(&self) -> u32 {
        let voters = self.server(|m| voters(m.membership_config.membership()));
        let before = |v: &&Member| v.replica < self.replica && !self.router.is_suspect(v.node);
        voters.iter().filter(before).count() as u32
    }

    /// Hands leadership, if held, to the voter that holds most of the log and whose node is not one to avoid.
    pub(crate) fn hand_over(self: Arc<Self>, avoid: &dyn Fn(NodeId) -> bool) {
        if self.office().is_none() {
            return;
        }
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
            let _ = self.raft.trigger().transfer_leader(heir.replica).await;
        });
    }
}

fn jitter<R: Runtime>() -> Duration {
    let mut random = [0; 8];
    R::entropy(&mut random);
    Duration::from_millis(u64::from_le_bytes(random) % (JITTER_MAX_MS + 1))
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote as _;

    use super::super::runtime::TokioRuntime;
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
    fn votes_are_counted_for_the_last_candidacy_alone() {
        let ballots = Ballots::<TokioRuntime>::default();
        assert!(ballots.poll(vote(2, 1)).is_none());
        let asked: Vec<_> = (0..4).map(|_| ballots.ask(vote(2, 1))).collect();
        let poll = |term| ballots.poll(vote(term, 1)).map(|poll| (poll.granted, poll.refused, poll.open));
        let open = |voters| ballots.poll(vote(2, 1)).unwrap().is_open(voters);
        assert_eq!(poll(2), Some((0, 0, 4)));
        let mut asked = asked.into_iter();
        asked.next().unwrap().answered(false);
        asked.next().unwrap().answered(true);
        assert_eq!(poll(2), Some((1, 1, 2)));
        assert!(open(5));
        drop(asked.next());
        assert!(open(5), "its own, one granted, one to come");
        let last = asked.next().unwrap();
        assert!(!open(7));
        let next = ballots.ask(vote(3, 1));
        last.answered(true);
        assert_eq!((poll(2), poll(3)), (None, Some((0, 0, 1))));
        drop(next);
        assert_eq!(poll(3), Some((0, 0, 0)));
    }
}
