//! Histories of a small, correct Raft never alarm; of one with a planted bug they do.
//!
//! The model is Raft without messages: each step takes some replicas at once through an election, a replication, a sync, a crash.
//! What matters is there: logs that run ahead of the disk, leaders that do not know that they are none, joint memberships,
//! snapshots, and disks that are looked at at any time.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::checkers::testing::{Dice, History, plan};
use crate::observation::{Checker, ReplicaStatus, Seen, Violation, VoteView};
use crate::plan::HostId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// A leader counts one acknowledgement as a quorum.
    CommitOnMinority,
    /// Followers acknowledge before they have synced.
    AcknowledgeBeforeSync,
    /// Two votes in one term.
    VoteTwice,
    /// Votes go to candidates that lack committed entries.
    VoteForAnyone,
    PurgePastSnapshot,
    /// Now and then an entry is copied wrongly.
    CopyWrongly,
    /// One replica now and then applies something else.
    ApplyWrongly,
}

#[derive(Debug, Clone, PartialEq)]
struct Entry {
    term: u64,
    content: u64,
    /// Old and new voters, if it is a membership; alike if it is not joint.
    voters: Option<(BTreeSet<u64>, BTreeSet<u64>)>,
}

#[derive(Debug, Clone, Default)]
struct Replica {
    up: bool,
    term: u64,
    vote: Option<VoteView>,
    leads: bool,
    log: Vec<Entry>,
    /// What of the log is on disk. Entries are kept in both when they are purged; `snapshot` and `purged` say which are not shown.
    durable: Vec<Entry>,
    committed: usize,
    snapshot: usize,
    purged: usize,
    /// On a leader: how much of its log each has acknowledged.
    matched: BTreeMap<u64, usize>,
    /// On a follower: how much of its log is known to be the leader's of this term.
    verified: usize,
}

struct Model {
    dice: Dice,
    bug: Bug,
    replicas: BTreeMap<u64, Replica>,
    contents: u64,
    history: History,
    incarnation: u64,
}

const REPLICAS: u64 = 5;

fn membership(log: &[Entry]) -> (BTreeSet<u64>, BTreeSet<u64>) {
    log.iter().rev().find_map(|e| e.voters.clone()).expect("the first entry is a membership")
}

impl Model {
    fn new(seed: u64, bug: Bug) -> Self {
        let voters: BTreeSet<u64> = [1, 2, 3].into();
        let first = Entry { term: 0, content: 0, voters: Some((voters.clone(), voters)) };
        let replica =
            Replica { up: true, log: vec![first.clone()], durable: vec![first], ..Replica::default() };
        let replicas = (1..=REPLICAS).map(|r| (r, replica.clone())).collect();
        Self { dice: Dice(seed), bug, replicas, contents: 0, history: History::default(), incarnation: 1 }
    }

    fn any(&mut self) -> u64 {
        self.dice.roll(REPLICAS as usize) as u64 + 1
    }

    fn quorum(&self, log: &[Entry], mut has: impl FnMut(u64) -> bool) -> bool {
        let (old, new) = membership(log);
        [old, new].iter().all(|voters| voters.iter().filter(|r| has(**r)).count() > voters.len() / 2)
    }

    fn step(&mut self) {
        match self.dice.roll(40) {
            0 => self.campaign(),
            1..=3 => self.append(),
            4..=15 => self.replicate(),
            16..=25 => self.sync(),
            26..=30 => self.commit(),
            31 => self.change_membership(),
            32 => self.compact(),
            33 => self.crash(),
            _ => self.look(),
        }
    }

    fn campaign(&mut self) {
        let candidate = self.any();
        let me = self.replicas[&candidate].clone();
        if !me.up || !membership(&me.log).0.union(&membership(&me.log).1).any(|r| *r == candidate) {
            return;
        }
        let term = me.term + u64::from(!(self.bug == Bug::VoteTwice && self.dice.once_in(2)));
        let mut granted = BTreeSet::new();
        for (id, replica) in &mut self.replicas {
            let reached = *id == candidate || self.dice.roll(4) > 0;
            let last = |log: &[Entry]| (log.last().unwrap().term, log.len());
            let up_to_date = last(&me.log) >= last(&replica.log) || self.bug == Bug::VoteForAnyone;
            let fresh = term > replica.term || (self.bug == Bug::VoteTwice && term == replica.term);
            if replica.up && reached && fresh && up_to_date {
                (replica.term, replica.leads, replica.verified) = (term, false, 0);
                replica.vote = Some(VoteView { term, voted_for: candidate, committed: false });
                granted.insert(*id);
            }
        }
        if granted.contains(&candidate) && self.quorum(&me.log, |r| granted.contains(&r)) {
            let me = self.replicas.get_mut(&candidate).unwrap();
            me.vote = Some(VoteView { term, voted_for: candidate, committed: true });
            me.leads = true;
            me.matched.clear();
            self.contents += 1;
            me.log.push(Entry { term, content: self.contents, voters: None });
        }
    }

    fn leader(&mut self) -> Option<u64> {
        let leaders = self.replicas.iter().filter(|(_, r)| r.leads && r.up);
        let leaders: BTreeMap<u64, u64> = leaders.map(|(id, r)| (r.term, *id)).collect();
        let old = self.dice.roll(4 * leaders.len().max(1));
        leaders.values().nth(old).or(leaders.values().last()).copied()
    }

    fn append(&mut self) {
        let Some(leader) = self.leader() else { return };
        self.contents += 1;
        let leader = self.replicas.get_mut(&leader).unwrap();
        leader.log.push(Entry { term: leader.term, content: self.contents, voters: None });
    }

    fn change_membership(&mut self) {
        let Some(leader) = self.leader() else { return };
        let size = [1, 3, 5][self.dice.roll(3)];
        let mut goal = BTreeSet::from([leader]);
        while goal.len() < size {
            goal.insert(self.any());
        }
        self.contents += 1;
        let me = self.replicas.get_mut(&leader).unwrap();
        let at = me.log.iter().rposition(|e| e.voters.is_some()).unwrap();
        let (_, new) = membership(&me.log);
        let of_this_term = me.log.get(me.committed.saturating_sub(1)).is_some_and(|e| e.term == me.term);
        if at < me.committed && of_this_term && new != goal {
            me.log.push(Entry { term: me.term, content: self.contents, voters: Some((new, goal)) });
        }
    }

    fn replicate(&mut self) {
        let (Some(leader), to) = (self.leader(), self.any()) else { return };
        let from = self.replicas[&leader].clone();
        let wrong = self.bug == Bug::CopyWrongly && self.dice.once_in(20);
        let extra = self.dice.roll(5);
        let follower = self.replicas.get_mut(&to).unwrap();
        if to == leader || !follower.up || follower.term > from.term {
            return;
        }
        if follower.term < from.term {
            follower.verified = 0;
        }
        (follower.term, follower.leads) = (from.term, false);
        follower.vote = Some(VoteView { term: from.term, voted_for: leader, committed: true });
        let common = follower.log.iter().zip(&from.log).take_while(|(a, b)| a == b).count();
        if common < from.purged {
            // A snapshot takes the place of all that the leader has purged.
            follower.log = from.log.iter().take(from.snapshot).cloned().collect();
            follower.durable = follower.log.clone();
            (follower.snapshot, follower.purged) = (from.snapshot, from.snapshot);
            follower.committed = follower.committed.max(from.snapshot);
            follower.verified = follower.verified.max(from.snapshot);
            return;
        }
        let upto = from.log.len().min(common.max(follower.verified) + extra);
        if upto > common {
            follower.log.truncate(common);
            follower.log.extend_from_slice(&from.log[common..upto]);
            if wrong {
                follower.log.last_mut().unwrap().content += 1_000_000;
            }
        }
        follower.verified = follower.verified.max(upto);
        follower.committed = follower.committed.max(from.committed.min(follower.verified));
        if self.bug == Bug::AcknowledgeBeforeSync {
            let verified = follower.verified;
            self.replicas.get_mut(&leader).unwrap().matched.insert(to, verified);
        }
    }

    fn sync(&mut self) {
        let id = self.any();
        let replica = self.replicas.get_mut(&id).unwrap();
        if !replica.up {
            return;
        }
        replica.durable = replica.log.clone();
        let (term, verified) = (replica.term, replica.verified);
        if let Some(VoteView { voted_for, committed: true, .. }) = replica.vote
            && let Some(leader) = self.replicas.get_mut(&voted_for).filter(|l| l.leads && l.term == term)
        {
            let matched = leader.matched.entry(id).or_default();
            *matched = verified.max(*matched);
        }
    }

    fn commit(&mut self) {
        let Some(id) = self.leader() else { return };
        let leader = self.replicas[&id].clone();
        let common = leader.durable.iter().zip(&leader.log).take_while(|(a, b)| a == b).count();
        let holds = |r: u64, upto: usize| match r {
            r if r == id => common >= upto,
            r => leader.matched.get(&r).is_some_and(|m| *m >= upto),
        };
        let enough = |upto: usize| match self.bug {
            Bug::CommitOnMinority => (1..=REPLICAS).any(|r| holds(r, upto)),
            // Each entry needs the quorum of the membership that is in force: the log's last.
            _ => self.quorum(&leader.log, |r| holds(r, upto)),
        };
        let upto = (leader.committed + 1..=leader.log.len())
            .rev()
            .find(|n| leader.log[n - 1].term == leader.term && enough(*n));
        let Some(upto) = upto else { return };
        let me = self.replicas.get_mut(&id).unwrap();
        me.committed = upto;
        // A joint membership that is committed is followed by the one it leads to.
        let (old, new) = membership(&me.log);
        let at = me.log.iter().rposition(|e| e.voters.is_some()).unwrap();
        if old != new && at < upto {
            self.contents += 1;
            me.log.push(Entry { term: me.term, content: self.contents, voters: Some((new.clone(), new)) });
        }
    }

    fn compact(&mut self) {
        let id = self.any();
        let slack = self.dice.roll(3);
        let past = if self.bug == Bug::PurgePastSnapshot { 1 } else { 0 };
        let replica = self.replicas.get_mut(&id).unwrap();
        let on_disk = replica.durable.iter().zip(&replica.log).take_while(|(a, b)| a == b).count();
        if replica.up && replica.committed <= on_disk {
            replica.snapshot = replica.committed;
            replica.purged = replica.purged.max((replica.snapshot + past).saturating_sub(slack)).min(on_disk);
        }
    }

    fn crash(&mut self) {
        let (mut id, kept) = (self.any(), self.dice.once_in(3));
        let down = self.replicas.iter().find(|(_, r)| !r.up).map(|(id, _)| *id);
        if let Some(down) = down.filter(|_| self.dice.roll(3) > 0) {
            id = down;
        }
        let host = id as HostId;
        let replica = self.replicas.get_mut(&id).unwrap();
        if replica.up {
            if !kept {
                replica.log = replica.durable.clone();
            }
            replica.durable = replica.log.clone();
            (replica.up, replica.leads, replica.verified) = (false, false, 0);
            replica.committed = replica.snapshot;
            let incarnation = self.incarnation;
            self.history.see(Seen::Ended { host, incarnation, power_loss: !kept, how: "killed".into() });
        } else {
            replica.up = true;
            self.incarnation += 1;
            self.history.see(Seen::Started { host, incarnation: self.incarnation });
        }
    }

    fn look(&mut self) {
        let id = self.any();
        let host = id as HostId;
        let replica = std::mem::take(self.replicas.get_mut(&id).unwrap());
        self.show(id, host, &replica);
        self.replicas.insert(id, replica);
    }

    fn show(&mut self, id: u64, host: HostId, replica: &Replica) {
        let (index, union) = (
            |n: usize| (n as u64).checked_sub(1),
            |(a, b): (BTreeSet<u64>, BTreeSet<u64>)| a.union(&b).copied().collect::<Vec<u64>>(),
        );
        if replica.up && self.dice.once_in(2) {
            let status = ReplicaStatus {
                group: 0,
                node: id,
                replica: id,
                term: replica.term,
                is_leader: replica.leads,
                leader: None,
                last_log: index(replica.log.len()),
                committed: index(replica.committed),
                applied: index(replica.committed),
                voters: union(membership(&replica.log)),
                epoch: None,
            };
            self.history.see(Seen::Status { host, status });
            if let Some(applied) = index(replica.committed) {
                let mut hash = replica
                    .log
                    .iter()
                    .take(replica.committed)
                    .fold(7u128, |h, e| h.wrapping_mul(31).wrapping_add(u128::from(e.content)));
                if self.bug == Bug::ApplyWrongly && id == 2 && self.dice.once_in(3) {
                    hash += 1;
                }
                self.history.see(Seen::State {
                    host,
                    group: 0,
                    replica: id,
                    applied,
                    hash: hash.to_le_bytes(),
                });
            }
            return;
        }
        let (old, new) = membership(&replica.durable[..]);
        let entries = replica.durable.iter().enumerate().skip(replica.purged);
        let log = DurableLog {
            group: 0,
            node: id,
            replica: id,
            vote: replica.vote,
            purged: index(replica.purged),
            entries: entries
                .map(|(i, e)| (i as u64, (e.term, u128::from(e.content).to_le_bytes())))
                .collect(),
            snapshot: index(replica.snapshot),
            joint: old != new,
            voters: union((old, new)),
        };
        self.history.see(Seen::Durable { host, log });
    }
}

fn run(seed: u64, steps: usize, bug: Bug) -> Model {
    let mut model = Model::new(seed, bug);
    (0..steps).for_each(|_| model.step());
    model
}

fn judge(model: &Model) -> Result<(), Violation> {
    let plan = plan(&[]);
    let checkers: Vec<Box<dyn Checker>> =
        vec![Box::new(Elections::new(&plan)), Box::new(Logs::new(&plan)), Box::new(States::new())];
    model.history.judge(checkers).map(drop)
}

#[test]
fn a_correct_raft_never_alarms() {
    let (mut terms, mut committed, mut joint) = (0, 0, 0);
    for seed in 0..2_000 {
        let model = run(seed, 120 + seed as usize % 360, Bug::None);
        if let Err(violation) = judge(&model) {
            panic!("seed {seed}: {violation:?}");
        }
        let replicas = model.replicas.values();
        terms += replicas.clone().map(|r| r.term).max().unwrap();
        let furthest = replicas.max_by_key(|r| r.committed).unwrap();
        committed += furthest.committed;
        let memberships = furthest.log.iter().take(furthest.committed).filter_map(|e| e.voters.as_ref());
        joint += memberships.filter(|(old, new)| old != new).count();
    }
    // The model does what a fleet does, and not just nothing.
    assert!(
        terms > 5_000 && committed > 12_000 && joint > 400,
        "{terms} terms, {committed} committed, {joint} joint"
    );
}

#[test]
fn planted_bugs_are_found() {
    let bugs = [
        Bug::CommitOnMinority,
        Bug::AcknowledgeBeforeSync,
        Bug::VoteTwice,
        Bug::VoteForAnyone,
        Bug::PurgePastSnapshot,
        Bug::CopyWrongly,
        Bug::ApplyWrongly,
    ];
    for bug in bugs {
        let found = (0..100).filter(|seed| judge(&run(*seed, 600, bug)).is_err()).count();
        eprintln!("{bug:?} {found}");
        assert!(found >= 5, "{bug:?} was found with {found} of 100 seeds");
    }
}
