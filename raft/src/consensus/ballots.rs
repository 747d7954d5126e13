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
    /// The candidacy for which it asked for votes last.
    poll: Option<Poll>,
    /// The vote for which it last refused others a pre-vote, and since when.
    kept: Option<(Vote, R::Instant)>,
}

/// What became of the votes that one candidacy asked for; the candidate's own is not among them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Poll {
    vote: Vote,
    pub(crate) granted: usize,
    pub(crate) refused: usize,
    /// Still to be answered.
    pub(crate) open: usize,
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
        Self(Mutex::new(Seen { pre_voted: None, poll: None, kept: None }))
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

    /// How long ago this was first asked about this vote, after another. openraft counts a vote as new each time that an answer repeats
    /// it, so what lasts from then would never end for a replica that asks in vain again and again.
    pub(crate) fn kept_for(&self, vote: Vote) -> Duration {
        let mut seen = self.0.lock();
        match seen.kept {
            Some((kept, since)) if kept == vote => since.elapsed(),
            _ => {
                seen.kept = Some((vote, R::Instant::now()));
                Duration::ZERO
            }
        }
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

    pub(crate) fn poll(&self, vote: Vote) -> Option<Poll> {
        self.0.lock().poll.filter(|poll| poll.vote == vote)
    }
}

impl Poll {
    /// Whether votes that are still to come can make a majority of so many voters.
    pub(crate) fn is_open(&self, voters: usize) -> bool {
        self.open > 0 && 1 + self.granted + self.open > voters / 2
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
