//! What this replica has bound itself to, known from the moment before it is written: openraft's metrics tell it a moment later.
//!
//! A leader is confirmed by whoever has promised its vote to nobody since (`reads.rs`); that is only safe if the promise is seen before
//! anybody can have been told of it. So the log notes it here before it submits it.
//! Invariant: `vote` never goes back. Must never: be noted later than the write is submitted.

use parking_lot::Mutex;

use super::types::{LeaderId, LogId, Vote};

#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<Promised>);

#[derive(Debug, Default)]
struct Promised {
    vote: Option<Vote>,
    /// Index of the last membership that was appended since the replica was opened.
    membership: Option<u64>,
}

impl Promises {
    /// A vote is about to be written, or was read at the start.
    pub(crate) fn vote(&self, vote: Vote) {
        let mut promised = self.0.lock();
        assert!(promised.vote <= Some(vote), "a vote that goes back: {:?} after {:?}", vote, promised.vote);
        promised.vote = Some(vote);
    }

    /// A membership is about to be appended at `index`.
    pub(crate) fn membership(&self, index: u64) {
        self.0.lock().membership = Some(index);
    }

    /// Entries after `last` are about to be removed. A membership among them is void, and whoever leads later has heard of that.
    pub(crate) fn truncated(&self, last: Option<u64>) {
        let mut promised = self.0.lock();
        promised.membership = promised.membership.filter(|&index| last.is_some_and(|last| index <= last));
    }

    /// By whose vote this replica stands.
    pub(crate) fn leader(&self) -> Option<Vote> {
        self.0.lock().vote
    }

    /// Whether it has promised its vote to this leader, and to nobody since.
    pub(crate) fn stands_by(&self, leader: LeaderId) -> bool {
        self.leader().is_some_and(|vote| vote.leader_id == leader)
    }

    /// Whether no later membership than that of `at` was appended.
    pub(crate) fn is_last_membership(&self, at: Option<&LogId>) -> bool {
        self.0.lock().membership <= at.map(|at| at.index)
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote as _;

    use super::*;
    use crate::consensus::types::CommittedLeaderId;
    use crate::model::ids::ReplicaId;

    fn leader(term: u64, replica: u64) -> LeaderId {
        LeaderId { term, voted_for: ReplicaId(replica) }
    }

    #[test]
    fn it_stands_by_the_last_vote_alone() {
        let promises = Promises::default();
        assert!(!promises.stands_by(leader(1, 1)), "nothing was read yet");
        promises.vote(Vote::from_leader_id(leader(1, 1), false));
        promises.vote(Vote::from_leader_id(leader(1, 1), true));
        assert!(promises.stands_by(leader(1, 1)) && !promises.stands_by(leader(2, 1)));
        promises.vote(Vote::from_leader_id(leader(2, 3), false));
        assert!(!promises.stands_by(leader(1, 1)) && promises.stands_by(leader(2, 3)));
    }

    #[test]
    fn a_membership_counts_until_it_is_cut_off() {
        let promises = Promises::default();
        let at = |index| LogId::new(CommittedLeaderId::new(1), index);
        assert!(promises.is_last_membership(None) && promises.is_last_membership(Some(&at(3))));
        promises.membership(7);
        assert!(!promises.is_last_membership(None) && !promises.is_last_membership(Some(&at(3))));
        assert!(promises.is_last_membership(Some(&at(7))));
        promises.truncated(Some(7));
        assert!(!promises.is_last_membership(Some(&at(3))));
        promises.truncated(Some(6));
        assert!(promises.is_last_membership(Some(&at(3))));
    }
}
