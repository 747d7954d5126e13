//! Votes as those see them who carry them: what openraft does not tell.

use std::time::Duration;

use openraft::Instant as _;
use parking_lot::Mutex;

use super::runtime::Runtime;
use super::types::Vote;

/// What openraft does not tell of votes, but those see who carry them.
pub(crate) struct Ballots<R: Runtime>(Mutex<Seen<R>>);

struct Seen<R: Runtime> {
    /// When this replica last granted a pre-vote.
    pre_voted: Option<R::Instant>,
    /// How often the vote that it asked for last was refused.
    refused: Option<(Vote, usize)>,
}

impl<R: Runtime> Default for Ballots<R> {
    fn default() -> Self {
        Self(Mutex::new(Seen { pre_voted: None, refused: None }))
    }
}

impl<R: Runtime> Ballots<R> {
    pub(crate) fn pre_vote_granted(&self) {
        self.0.lock().pre_voted = Some(R::Instant::now());
    }

    /// How long ago this replica last granted a pre-vote.
    pub(crate) fn pre_voted_ago(&self) -> Option<Duration> {
        self.0.lock().pre_voted.map(|at| at.elapsed())
    }

    pub(crate) fn vote_refused(&self, vote: Vote) {
        let mut seen = self.0.lock();
        let before = seen.refused.filter(|(v, _)| *v == vote).map_or(0, |(_, times)| times);
        seen.refused = Some((vote, before + 1));
    }

    pub(crate) fn refusals(&self, vote: Vote) -> usize {
        self.0.lock().refused.filter(|(v, _)| *v == vote).map_or(0, |(_, times)| times)
    }
}

#[cfg(test)]
mod tests {
    use openraft::vote::RaftVote as _;

    use super::super::runtime::TokioRuntime;
    use super::super::types::LeaderId;
    use super::*;
    use crate::model::ids::ReplicaId;

    fn vote(term: u64, replica: u64) -> Vote {
        Vote::from_leader_id(LeaderId { term, voted_for: ReplicaId(replica) }, false)
    }

    #[test]
    fn refusals_are_counted_for_the_last_vote_alone() {
        let ballots = Ballots::<TokioRuntime>::default();
        assert_eq!(ballots.refusals(vote(2, 1)), 0);
        ballots.vote_refused(vote(2, 1));
        ballots.vote_refused(vote(2, 1));
        assert_eq!(ballots.refusals(vote(2, 1)), 2);
        ballots.vote_refused(vote(3, 1));
        assert_eq!((ballots.refusals(vote(2, 1)), ballots.refusals(vote(3, 1))), (0, 1));
    }
}
