//! Getting a new leader soon after the old one's node is suspected, and handing leadership over.
//!
//! openraft's own timers wait for the leader's lease plus a random time. On suspicion a replica gives up *its own* lease
//! (by `handle_transfer_leader` in favour of the suspected leader itself, never of a live one) and then asks for a
//! pre-vote. A quorum must have given its lease up for that to lead anywhere, so one false suspecter changes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::Instant as _;
use openraft::raft::TransferLeaderRequest;

use super::core::{Core, voters};
use super::machine::Member;
use super::runtime::Runtime;
use super::types::Vote;
use crate::model::ids::NodeId;

/// Wait between attempts, until there is a leader.
const AGAIN: Duration = Duration::from_millis(50);
/// Attempts after which [`AGAIN_LATER`] takes over: there is no quorum, or no reason.
const HASTY_ATTEMPTS: u32 = 20;
const AGAIN_LATER: Duration = Duration::from_millis(500);
/// How long a leader's restart is reason enough to press: then openraft's own timers have fired.
const RESTART_PATIENCE: Duration = Duration::from_secs(2);
/// Living voters go in the order of their replica ids, this far apart, so that the first one usually wins before the next
/// tries.
const STAGGER: Duration = Duration::from_millis(25);
/// Random part of every wait: breaks ties that the order does not (two that do not agree on who lives).
const JITTER_MAX_MS: u64 = 15;
/// How long a voter that voted for another lets that one take office: a few disk syncs.
const VOTED_PATIENCE: Duration = Duration::from_millis(150);

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

    async fn press(&self, dead: Member, until: Option<R::Instant>) {
        let deposed = self.server(|m| m.vote);
        self.give_up_lease(dead).await;
        R::sleep(STAGGER * self.rank() + jitter::<R>()).await;
        let mut voted = deposed;
        let mut attempts = 0;
        let needed = || self.needs_leader(dead, &deposed, until);
        while needed() {
            let vote = self.server(|m| m.vote);
            if self.voted_for_another(&voted, &vote) {
                voted = vote;
                self.wait_while(&needed, VOTED_PATIENCE).await;
                continue;
            }
            self.give_up_lease(dead).await;
            if self.raft.trigger().elect(true).await.is_err() {
                return;
            }
            attempts += 1;
            let wait = if attempts < HASTY_ATTEMPTS { AGAIN } else { AGAIN_LATER };
            self.wait_while(&needed, wait + jitter::<R>()).await;
        }
    }

    /// Waits for `time`, but no longer than a leader is needed.
    async fn wait_while(&self, needed: impl Fn() -> bool, time: Duration) {
        let until = R::Instant::now() + time;
        loop {
            let seen = self.server.version();
            if !needed() {
                return;
            }
            tokio::select! {
                biased;
                _ = self.server.after(seen) => {}
                () = R::sleep_until(until) => return,
            }
        }
    }

    /// Whether this replica should still press: no later leader, the old one not back, and a vote to give.
    fn needs_leader(&self, dead: Member, deposed: &Vote, until: Option<R::Instant>) -> bool {
        let led_again = self.server(|m| m.vote.committed && m.vote.leader_id.term > deposed.leader_id.term);
        let votes = self.server(|m| m.membership_config.voter_ids().any(|v| v == self.replica));
        let reason =
            self.router.is_suspect(dead.node) || until.is_some_and(|until| R::Instant::now() < until);
        !led_again && votes && reason && !self.is_stopped()
    }

    fn voted_for_another(&self, before: &Vote, now: &Vote) -> bool {
        before != now && now.leader_id.voted_for != self.replica
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
