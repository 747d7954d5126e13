//! Handing leadership over on request of any node: whoever leads is asked, looks whether the heir is fit, and hands over.
//!
//! Must never: hand over to a replica that has no vote, lags, or is on a node that is suspected.

use std::sync::Arc;
use std::time::Duration;

use super::core::Core;
use super::group::Group;
use super::machine::{GroupError, GroupStatus, StateMachine};
use super::remote::RemoteGroup;
use super::route::{Route, Target};
use super::router::Router;
use super::runtime::Runtime;
use super::wire::{GroupBody, Reply};
use crate::model::ids::ReplicaId;
use crate::transport::Lane;

/// Entries by which the heir may be behind. It gets the rest before it stands for election.
const CAUGHT_UP_ENTRIES: u64 = 64;
/// How long the leader may take: an election.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Nodes that are asked before it is given up: each names another, or is passed over.
const ATTEMPTS_MAX: u32 = 5;
/// Pause before the next is asked: an election may be under way.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

impl<R: Runtime, M: StateMachine> Group<R, M> {
    /// As [`Group::transfer_leader`], on any replica: whoever leads is asked. Done already if `to` leads.
    ///
    /// # Errors
    /// [`GroupError::Membership`] if the leader refuses the heir, and why; [`GroupError::NoQuorum`] if there is no leader, or
    /// the heir did not take over in time.
    pub async fn transfer_leader_from_afar(&self, to: ReplicaId) -> Result<(), GroupError> {
        if self.is_leader() {
            return self.hand_to(to).await;
        }
        ask_leader::<R>(&self.core().route, || self.core().target(), to).await
    }

    /// On the leader.
    async fn hand_to(&self, to: ReplicaId) -> Result<(), GroupError> {
        let core = self.core();
        if to == core.replica {
            return Ok(());
        }
        check_heir(&core.status(), &core.router, to).map_err(GroupError::Membership)?;
        self.transfer_leader(to).await
    }
}

impl<R: Runtime, M: StateMachine> RemoteGroup<R, M> {
    /// As [`Group::transfer_leader_from_afar`].
    pub async fn transfer_leader_from_afar(&self, to: ReplicaId) -> Result<(), GroupError> {
        let route = self.route();
        ask_leader::<R>(route, || route.target(None, []), to).await
    }
}

impl<R: Runtime> Core<R> {
    /// See [`Group::transfer_leader`].
    pub(crate) async fn transfer_leader(self: &Arc<Self>, to: ReplicaId) -> Result<(), GroupError> {
        let group = self.group;
        let Some(term) = self.office() else {
            return Err(GroupError::NotLeader { group, leader: self.leader() });
        };
        let has_vote = self.server(|m| m.membership_config.membership().voter_ids().any(|voter| voter == to));
        if !has_vote {
            return Err(GroupError::Membership(format!("{to} has no vote in {group}")));
        }
        let _busy = self.rest.busy();
        self.rouse("a transfer");
        let asked = self.raft.trigger().transfer_leader(to).await;
        asked.map_err(|e| GroupError::Stopped { group, detail: e.to_string() })?;
        if !self.is_relieved(term).await {
            return Err(GroupError::NoQuorum { group, detail: format!("{to} did not take over") });
        }
        Ok(())
    }

    /// Waits for another leader after a transfer. A leader that hands over takes no writes and sends no heartbeats until there is one, and there may never
    /// be: the heir lost its vote while it was asked, or is gone, and of the others none can win. So it takes office again.
    pub(crate) async fn is_relieved(&self, term: u64) -> bool {
        let wait = Duration::from_millis(self.timings.election_max_ms * 2);
        if R::timeout(wait, self.left_office(term)).await.is_ok() {
            return true;
        }
        tracing::info!(group = %self.group, term, "nobody took over; this leader stands for election again");
        let _ = self.raft.trigger().elect(false).await;
        false
    }

    /// Does what [`GroupBody::HandOver`] asks.
    pub(crate) async fn hand_over_here(self: &Arc<Self>, to: ReplicaId) -> Reply {
        if self.office().is_none() {
            return Reply::NotLeader { leader: self.leader() };
        }
        if to == self.replica {
            return Reply::TransferLeader(None);
        }
        if let Err(why) = check_heir(&self.status(), &self.router, to) {
            return Reply::TransferLeader(Some(why));
        }
        match self.transfer_leader(to).await {
            Ok(()) => Reply::TransferLeader(None),
            Err(GroupError::NotLeader { leader, .. }) => Reply::NotLeader { leader },
            Err(error) => Reply::TransferLeader(Some(error.to_string())),
        }
    }
}

fn check_heir(status: &GroupStatus, router: &Router, to: ReplicaId) -> Result<(), String> {
    let Some(heir) = status.voters.iter().find(|voter| voter.replica == to) else {
        return Err(format!("{to} has no vote in {}", status.group));
    };
    if router.is_suspect(heir.node) {
        return Err(format!("{} cannot be reached from the leader", heir.node));
    }
    let matched = status.matched.iter().find(|(replica, _)| *replica == to).and_then(|(_, index)| *index);
    let behind = status.last_log.unwrap_or(0).saturating_sub(matched.unwrap_or(0));
    if behind > CAUGHT_UP_ENTRIES {
        return Err(format!("{to} is {behind} entries behind; try again when it has caught up"));
    }
    Ok(())
}

async fn ask_leader<R: Runtime>(
    route: &Route,
    target: impl Fn() -> Option<Target>,
    to: ReplicaId,
) -> Result<(), GroupError> {
    let mut detail = "no node that may have a replica is there".to_owned();
    for attempt in 0..ATTEMPTS_MAX {
        if attempt > 0 {
            R::sleep(RETRY_PAUSE).await;
        }
        let Some(target) = target() else { continue };
        match route.ask(target, Lane::Control, GroupBody::HandOver(to), ANSWER_TIMEOUT).await {
            Ok(Reply::TransferLeader(None)) => return Ok(()),
            Ok(Reply::TransferLeader(Some(why))) => return Err(GroupError::Membership(why)),
            Ok(Reply::NotLeader { leader }) => {
                route.declined(target, leader);
                detail = format!("{} does not lead it", target.0);
            }
            Ok(_) => detail = format!("{} gave an answer that makes no sense", target.0),
            Err(error) => {
                route.declined(target, None);
                detail = error.to_string();
            }
        }
    }
    Err(GroupError::NoQuorum { group: route.group, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::machine::{Member, Role};
    use crate::model::ids::{GroupId, NodeId};

    #[test]
    fn only_a_fit_heir_is_handed_leadership() {
        let on = |node: u64| Member { replica: ReplicaId(node * 10), node: NodeId(node) };
        let status = GroupStatus {
            group: GroupId(7),
            replica: ReplicaId(10),
            role: Role::Leader,
            term: 1,
            leader: Some(on(1)),
            last_log: Some(100),
            committed: Some(100),
            applied: Some(100),
            snapshot: None,
            purged: None,
            voters: vec![on(1), on(2), on(3), on(4)],
            learners: vec![on(5)],
            joint: false,
            matched: vec![
                (ReplicaId(20), Some(100 - CAUGHT_UP_ENTRIES)),
                (ReplicaId(30), Some(35)),
                (ReplicaId(40), Some(100)),
            ],
            quorum_ack_ms: Some(0),
            fatal: None,
        };
        let router = Router::new(NodeId(1));
        router.set_suspect(NodeId(4), true);
        let check = |replica| check_heir(&status, &router, ReplicaId(replica));
        assert_eq!(check(20), Ok(()));
        for (replica, why) in
            [(30, "65 entries behind"), (40, "n4 cannot be reached"), (50, "no vote"), (60, "no vote")]
        {
            let refused = check(replica).unwrap_err();
            assert!(refused.contains(why), "{replica}: {refused}");
        }
    }
}
