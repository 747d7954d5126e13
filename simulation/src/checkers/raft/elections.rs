//! Election safety, votes, identities, and that nothing goes back.
//!
//! - at most one leader in a term of a group, whoever says so: a leader of itself, or a disk whose vote a quorum has granted;
//! - a durable vote never goes back, and within a term it moves once at most: from a candidate to the leader that a quorum elected;
//! - a replica id has one group and one host, and is gone for good when that host's disk was emptied;
//! - within one life of a process a replica's term, committed and applied positions only grow.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::calls::seconds;
use crate::checkers::{rotten_hosts, unsafe_at};
use crate::observation::{Checker, Observation, ReplicaStatus, Seen, Verified, Violation, VoteView};
use crate::plan::{HostId, Plan};

const NAME: &str = "raft-elections";

#[derive(Debug, Clone, Copy)]
struct Leader {
    replica: u64,
    /// Whose disk says so, or the leader's own word.
    by_vote_of: Option<u64>,
    at_ns: u64,
}

#[derive(Debug, Clone, Copy)]
struct Home {
    group: u32,
    host: HostId,
    wiped_ns: Option<u64>,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Elections {
    /// Votes there may be lost with the end of a damaged log.
    rotten: BTreeSet<HostId>,
    /// By group and term.
    leaders: BTreeMap<(u32, u64), Leader>,
    homes: BTreeMap<u64, Home>,
    votes: BTreeMap<u64, (Option<VoteView>, u64)>,
    /// Of each host's running process, by group.
    statuses: BTreeMap<(HostId, u32), ReplicaStatus>,
    events: u64,
}

fn show(vote: Option<VoteView>) -> String {
    match vote {
        None => "no vote".to_owned(),
        Some(VoteView { term, voted_for, committed: true }) => {
            format!("replica {voted_for} leads term {term}")
        }
        Some(VoteView { term, voted_for, .. }) => format!("a vote for replica {voted_for} in term {term}"),
    }
}

/// For messages; the control group goes without saying.
fn of_group(group: u32) -> String {
    if group == 0 { String::new() } else { format!(" of group {group}") }
}

impl Elections {
    pub fn new(plan: &Plan) -> Self {
        Self {
            rotten: rotten_hosts(plan),
            leaders: BTreeMap::new(),
            homes: BTreeMap::new(),
            votes: BTreeMap::new(),
            statuses: BTreeMap::new(),
            events: 0,
        }
    }

    fn at_home(&mut self, (group, replica): (u32, u64), host: HostId, at_ns: u64) -> Result<(), String> {
        let home = *self.homes.entry(replica).or_insert(Home { group, host, wiped_ns: None });
        if home.group != group {
            return Err(format!(
                "replica {replica} is seen in group {group}, and was in group {} before: an id used twice",
                home.group
            ));
        }
        if home.host != host {
            return Err(format!(
                "replica {replica} is seen on host {host}, and was on host {} before: an id used twice",
                home.host
            ));
        }
        if let Some(wiped_ns) = home.wiped_ns {
            return Err(format!(
                "replica {replica} is seen on host {host} at {}, whose disk was emptied at {}: an id used again",
                seconds(at_ns),
                seconds(wiped_ns)
            ));
        }
        Ok(())
    }

    fn leads(&mut self, group: u32, term: u64, leader: Leader) -> Result<(), String> {
        let known = *self.leaders.entry((group, term)).or_insert(leader);
        if known.replica == leader.replica {
            return Ok(());
        }
        let tell = |l: Leader| match l.by_vote_of {
            Some(voter) => format!(
                "replica {} by the vote on the disk of replica {voter} at {}",
                l.replica,
                seconds(l.at_ns)
            ),
            None => format!("replica {} by its own word at {}", l.replica, seconds(l.at_ns)),
        };
        let of = of_group(group);
        Err(format!("term {term}{of} has two leaders: {}, and {}", tell(known), tell(leader)))
    }

    fn voted(
        &mut self,
        host: HostId,
        (group, replica): (u32, u64),
        vote: Option<VoteView>,
        at_ns: u64,
    ) -> Result<(), String> {
        if let Some(VoteView { term, voted_for, committed: true }) = vote {
            self.leads(group, term, Leader { replica: voted_for, by_vote_of: Some(replica), at_ns })?;
        }
        let (before, before_ns) = self.votes.insert(replica, (vote, at_ns)).unwrap_or((None, 0));
        let allowed = match (before, vote) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(before), Some(vote)) if before.term == vote.term => {
                before == vote || (!before.committed && vote.committed)
            }
            (Some(before), Some(vote)) => before.term < vote.term,
        };
        if allowed || self.rotten.contains(&host) {
            return Ok(());
        }
        Err(format!(
            "the disk of replica {replica} held {} at {}, and holds {} at {}: a vote that was given is never taken back",
            show(before),
            seconds(before_ns),
            show(vote),
            seconds(at_ns)
        ))
    }

    fn status(&mut self, host: HostId, status: &ReplicaStatus, at_ns: u64) -> Result<(), String> {
        let (group, replica) = (status.group, status.replica);
        self.at_home((group, replica), host, at_ns)?;
        if status.is_leader {
            self.leads(group, status.term, Leader { replica, by_vote_of: None, at_ns })?;
        }
        let before = self.statuses.insert((host, group), status.clone());
        let Some(before) = before.filter(|before| before.replica == replica) else { return Ok(()) };
        let went_back = [
            ("term", Some(before.term), Some(status.term)),
            ("committed position", before.committed, status.committed),
            ("applied position", before.applied, status.applied),
        ];
        match went_back.into_iter().find(|(_, before, now)| now < before) {
            Some((what, before, now)) => Err(format!(
                "the {what} of replica {replica} on host {host} went back from {before:?} to {now:?}"
            )),
            None => Ok(()),
        }
    }
}

impl Checker for Elections {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let seen = match &observation.seen {
            Seen::Status { host, status } => self.status(*host, status, at_ns),
            Seen::State { host, group, replica, .. } => self.at_home((*group, *replica), *host, at_ns),
            Seen::Durable { host, log } => self
                .at_home((log.group, log.replica), *host, at_ns)
                .and_then(|()| self.voted(*host, (log.group, log.replica), log.vote, at_ns)),
            Seen::Started { host, .. } | Seen::Ended { host, .. } => {
                self.statuses.retain(|(of, _), _| of != host);
                return Ok(());
            }
            // It may be opened again with less of its log known to be committed.
            Seen::Closed { host, group, .. } => {
                self.statuses.remove(&(*host, *group));
                return Ok(());
            }
            Seen::Wiped { host } => {
                let here = self.homes.values_mut().filter(|home| home.host == *host);
                here.for_each(|home| home.wiped_ns = home.wiped_ns.or(Some(at_ns)));
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.events += 1;
        seen.map_err(|what| unsafe_at(NAME, at_ns, what))
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let (terms, replicas) = (self.leaders.len(), self.homes.len());
        Ok(Verified {
            checker: NAME.into(),
            claim: format!(
                "one leader in each of {terms} terms; the votes and positions of {replicas} replicas never went back"
            ),
            events: self.events,
            undecided: 0,
        })
    }
}
