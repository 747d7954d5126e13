//! What wakes a group by itself: a member's node that is back, and a replica that has just been opened.
//!
//! A replica that was opened again asks who leads before it campaigns: in a group at rest nobody has a lease, so that whoever asks for
//! votes gets them, and a healthy leader would be deposed by every restart. For the same reason a replica that has heard nothing of
//! its leader for long does not answer a pre-vote before it has asked that leader.
//!
//! Must never: wake more than `Router::wakes` groups of a node at a time, or on a sign that a client gave (that one waits).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;

use super::core::{Core, jitter};
use super::machine::Member;
use super::reads::ReadIndex;
use super::runtime::Runtime;
use super::wire::{GroupBody, Reply};
use crate::model::ids::{NodeId, ReplicaId};
use crate::transport::Lane;

/// Groups that wake for the same reason are spread over this long.
const SPREAD_MS: u64 = 100;
/// How long a group that wakes keeps others waiting.
const WAKE_TIME: Duration = Duration::from_millis(100);
/// How long a leader may take to prove that it is well. Longer only than a round that a quorum takes part in; a node that died is
/// suspected sooner, which cancels what waits for it.
const PROOF_TIMEOUT: Duration = Duration::from_millis(500);
/// How often a replica that was opened asks again when others name a leader that does not answer: it may be starting, too.
const ROUNDS_MAX: u32 = 6;
const ROUND_PAUSE: Duration = Duration::from_millis(200);

/// What the others said about who leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Finding {
    /// A leader that a quorum follows answered.
    Led,
    /// Some name a leader that did not answer itself.
    Perhaps,
    Nobody,
}

impl<R: Runtime> Core<R> {
    /// Of a leader at rest: the node of a member is back, with a log that may lack something and a mind to campaign.
    pub(crate) fn wake_for(self: Arc<Self>, node: NodeId) {
        longshore_storage::mutant!("restart-with-ticks-on" => return);
        let leads = |core: &Self| core.rest.rests_by().is_some() && core.office().is_some();
        let is_member = self.server(|m| m.membership_config.nodes().any(|(_, &n)| n == node));
        if !leads(&self) || !is_member {
            return;
        }
        let _task = R::spawn(async move {
            R::sleep(jitter::<R>(SPREAD_MS)).await;
            let _permit = self.router.wakes.acquire().await;
            if leads(&self) {
                // What matters is that it is awake; whether a quorum follows shows soon enough.
                let _ = R::timeout(WAKE_TIME, self.is_followed()).await;
            }
        });
    }

    /// An attempt at something came to nothing: perhaps there is no leader, and nobody noticed.
    pub(crate) fn on_missed(self: Arc<Self>) {
        if self.rest.is_dormant() {
            self.find_leader();
        } else if self.rest.rests_by().is_some() {
            self.rouse("no answer from the leader");
        }
    }

    /// Of a replica that has heard of nobody since it was opened: asks who leads, and campaigns if nobody does. Returns at once.
    pub(crate) fn find_leader(self: Arc<Self>) {
        if self.rest.quiescence.is_none() || self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        longshore_storage::mutant!("restart-with-ticks-on" => return self.rouse("it was opened"));
        let _task = R::spawn(async move {
            let led = self.ask_who_leads().await;
            self.asking.store(false, Ordering::Release);
            if led == Finding::Led || !self.rest.is_dormant() || self.is_stopped() {
                return;
            }
            self.rouse("nobody leads");
            self.press_without_leader();
        });
    }

    async fn ask_who_leads(&self) -> Finding {
        // When this is answered, openraft has published what the log holds.
        if self.raft.with_raft_state(|_| ()).await.is_err() {
            return Finding::Led;
        }
        // One that is no member yet waits to be told; it may not campaign anyway.
        if !self.server(|m| m.membership_config.nodes().any(|(r, _)| *r == self.replica)) {
            return Finding::Led;
        }
        R::sleep(jitter::<R>(SPREAD_MS)).await;
        for round in 0..ROUNDS_MAX {
            let permit = self.router.wakes.acquire().await;
            if !self.rest.is_dormant() {
                return Finding::Led;
            }
            let found = self.ask_round().await;
            if found != Finding::Perhaps || round + 1 == ROUNDS_MAX {
                return found;
            }
            drop(permit);
            R::sleep(ROUND_PAUSE + jitter::<R>(SPREAD_MS)).await;
        }
        Finding::Nobody
    }

    /// Asks all others at once. A leader answers after a round of heartbeats, which also bring this replica up to date.
    async fn ask_round(&self) -> Finding {
        let members: Vec<Member> = self.server(|m| {
            let all = m.membership_config.nodes();
            all.map(|(&replica, &node)| Member { replica, node }).collect()
        });
        let others = members.iter().filter(|m| m.node != self.node && !self.router.is_suspect(m.node));
        let asks = others.map(|m| {
            let reply = self.route.ask(
                (m.node, Some(m.replica)),
                Lane::Control,
                GroupBody::ReadIndex(None),
                PROOF_TIMEOUT,
            );
            async { (m.replica, reply.await) }
        });
        let replies: Vec<(ReplicaId, Option<Reply>)> =
            join_all(asks).await.into_iter().map(|(replica, reply)| (replica, reply.ok())).collect();
        // What passed while this replica was away, of which no entry tells if the group was at rest.
        for (_, reply) in &replies {
            if let Some(Reply::ReadIndex { now, .. }) = reply {
                self.state.hear(*now);
            }
        }
        let is_suspect = |node| self.router.is_suspect(node);
        judge(&replies, self.replica, &is_suspect)
    }

    /// Whether the leader that this replica knows can prove that it leads although nothing was heard of it; `false` also if leases
    /// say who leads, or there are signs against it.
    pub(crate) async fn leader_is_well(self: &Arc<Self>) -> bool {
        longshore_storage::mutant!("restart-with-ticks-on" => return false);
        let leases_hold = self.rest.quiescence.is_none() || self.rest.is_confirmed();
        if leases_hold || self.pressing.load(Ordering::Acquire) {
            return false;
        }
        let proof = async {
            if self.office().is_some() {
                return matches!(self.prove_leadership().await, ReadIndex::At { .. });
            }
            let usable = |m: &Member| m.node != self.node && !self.router.is_suspect(m.node);
            let Some(leader) = self.leader().filter(usable) else { return false };
            let target = (leader.node, Some(leader.replica));
            let reply = self.route.ask(target, Lane::Control, GroupBody::ReadIndex(None), PROOF_TIMEOUT);
            matches!(reply.await, Ok(Reply::ReadIndex { .. }))
        };
        R::timeout(PROOF_TIMEOUT, proof).await.unwrap_or(false)
    }
}

fn judge(
    replies: &[(ReplicaId, Option<Reply>)],
    me: ReplicaId,
    is_suspect: &dyn Fn(NodeId) -> bool,
) -> Finding {
    if replies.iter().any(|(_, reply)| matches!(reply, Some(Reply::ReadIndex { .. }))) {
        return Finding::Led;
    }
    // Whoever answered otherwise does not lead, whatever others have heard.
    let answered: BTreeSet<ReplicaId> =
        replies.iter().filter(|(_, reply)| reply.is_some()).map(|(replica, _)| *replica).collect();
    let is_named = replies.iter().any(|(_, reply)| match reply {
        Some(Reply::NotLeader { leader: Some(leader) }) => {
            leader.replica != me && !answered.contains(&leader.replica) && !is_suspect(leader.node)
        }
        _ => false,
    });
    if is_named { Finding::Perhaps } else { Finding::Nobody }
}

#[cfg(test)]
mod tests {
    use super::super::machine::LogTime;
    use super::*;

    #[test]
    fn a_leader_is_one_that_says_so_itself_or_one_that_may_yet() {
        let me = ReplicaId(1);
        let names = |r: u64| {
            let leader = Member { replica: ReplicaId(r), node: NodeId(r) };
            Some(Reply::NotLeader { leader: Some(leader) })
        };
        let none = || Some(Reply::NotLeader { leader: None });
        let leads = || Some(Reply::ReadIndex { index: 7, now: LogTime(70) });
        let cases = [
            ("nobody answers", vec![(2, None), (3, None)], Finding::Nobody),
            ("one leads", vec![(2, none()), (3, leads())], Finding::Led),
            ("one is named and silent", vec![(2, names(3)), (3, None)], Finding::Perhaps),
            ("one is named and denies it", vec![(2, names(3)), (3, none())], Finding::Nobody),
            ("one has no quorum", vec![(2, names(3)), (3, Some(Reply::NoQuorum))], Finding::Nobody),
            ("I am named", vec![(2, names(1)), (3, names(1))], Finding::Nobody),
            ("a suspect is named", vec![(2, names(9)), (3, none())], Finding::Nobody),
        ];
        for (what, replies, expected) in cases {
            let replies: Vec<_> = replies.into_iter().map(|(r, reply)| (ReplicaId(r), reply)).collect();
            assert_eq!(judge(&replies, me, &|node| node == NodeId(9)), expected, "{what}");
        }
    }
}
