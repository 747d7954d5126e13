//! Which entries are committed for certain, and whether a quorum holds them.
//!
//! An index is *reported* when somebody says that it is committed (or applied, or in a snapshot). From that moment on a quorum holds it, so:
//! - an entry that a majority of the voters has been seen to hold at a reported index, each at any time since the report, is
//!   the committed one: the majorities share a replica, and that one never replaces it;
//! - if so many voters have been seen to lack a reported index, each at any time since the report, that the others are no
//!   majority, then no quorum held it when it was reported.
//!
//! Joint memberships prove nothing here: a majority of all their voters may be no quorum. A membership that is not joint does even while
//! it is not committed itself, since the joint one before it was, and that took a majority of its voters.

use std::collections::{BTreeMap, BTreeSet};

use crate::checkers::calls::seconds;
use crate::observation::DurableLog;

/// Term and hash.
pub(super) type Entry = (u64, [u8; 16]);

#[derive(Debug, Clone, Copy)]
struct Report {
    index: u64,
    replica: u64,
    at_ns: u64,
}

/// Reported indices `from..upto` that a log did not hold.
#[derive(Debug, Clone)]
struct Lack {
    from: u64,
    upto: u64,
    voters: BTreeSet<u64>,
    at_ns: u64,
}

/// A replica no longer held an entry at an index that was reported.
#[derive(Debug, Clone, Copy)]
struct Loss {
    entry: Entry,
    replica: u64,
    held_ns: u64,
    gone_ns: u64,
    now: Option<Entry>,
}

#[derive(Debug, Default)]
pub(super) struct Commits {
    /// Each of a higher index than the one before.
    reports: Vec<Report>,
    committed: BTreeMap<u64, Entry>,
    /// At reported indices whose committed entry is not known yet: who holds what.
    holders: BTreeMap<u64, BTreeMap<Entry, BTreeSet<u64>>>,
    /// By replica: indices below were counted in `holders`.
    counted_below: BTreeMap<u64, u64>,
    lacks: BTreeMap<u64, Vec<Lack>>,
    /// At indices whose committed entry was not known then.
    losses: BTreeMap<u64, Vec<Loss>>,
}

fn majority(voters: &BTreeSet<u64>) -> usize {
    voters.len() / 2 + 1
}

fn voters_of(log: &DurableLog) -> Option<BTreeSet<u64>> {
    let voters: BTreeSet<u64> = log.voters.iter().copied().collect();
    (!log.joint && voters.contains(&log.replica)).then_some(voters)
}

fn show((term, hash): Entry) -> String {
    format!("entry {:02x}{:02x} of term {term}", hash[0], hash[1])
}

impl Commits {
    pub(super) fn report(&mut self, index: u64, replica: u64, at_ns: u64) {
        if index >= self.reported_below() {
            self.reports.push(Report { index, replica, at_ns });
        }
    }

    /// Indices below this were reported.
    pub(super) fn reported_below(&self) -> u64 {
        self.reports.last().map_or(0, |report| report.index + 1)
    }

    fn report_of(&self, index: u64) -> String {
        let report = self.reports[self.reports.partition_point(|r| r.index < index)];
        format!(
            "replica {} reported index {} committed at {}",
            report.replica,
            report.index,
            seconds(report.at_ns)
        )
    }

    /// Counts what a log holds at reported indices.
    pub(super) fn held(&mut self, log: &DurableLog) -> Result<(), String> {
        let upto = self.reported_below();
        let from = self.counted_below.insert(log.replica, upto).unwrap_or(0);
        // A log that was short counts again from where it ended.
        let end = log.entries.last_key_value().map_or(0, |(index, _)| index + 1);
        self.counted_below.insert(log.replica, upto.min(end));
        let voters = voters_of(log);
        for (&index, &entry) in log.entries.range(from.min(upto)..upto) {
            if self.committed.contains_key(&index) {
                continue;
            }
            let holders = self.holders.entry(index).or_default().entry(entry).or_default();
            holders.insert(log.replica);
            if voters.as_ref().is_some_and(|v| holders.intersection(v).count() >= majority(v)) {
                self.holders.remove(&index);
                self.committed.insert(index, entry);
                for loss in self.losses.remove(&index).unwrap_or_default() {
                    self.judge(index, entry, loss)?;
                }
            }
        }
        Ok(())
    }

    /// A log that held `entry` at a reported index holds `now` there.
    pub(super) fn lost(
        &mut self,
        index: u64,
        entry: Entry,
        replica: u64,
        (held_ns, gone_ns): (u64, u64),
        now: Option<Entry>,
    ) -> Result<(), String> {
        let below = self.counted_below.entry(replica).or_default();
        *below = index.min(*below);
        let loss = Loss { entry, replica, held_ns, gone_ns, now };
        match self.committed.get(&index) {
            Some(committed) => self.judge(index, *committed, loss),
            None => {
                self.losses.entry(index).or_default().push(loss);
                Ok(())
            }
        }
    }

    fn judge(&self, index: u64, committed: Entry, loss: Loss) -> Result<(), String> {
        if loss.entry != committed {
            return Ok(());
        }
        let now = loss.now.map_or("nothing".to_owned(), show);
        Err(format!(
            "replica {} durably held the committed {} at index {index} at {}, and holds {now} there at {}: {}",
            loss.replica,
            show(committed),
            seconds(loss.held_ns),
            seconds(loss.gone_ns),
            self.report_of(index)
        ))
    }

    /// A log that holds nothing at `held_below` or above.
    pub(super) fn lacked(&mut self, log: &DurableLog, held_below: u64, at_ns: u64) -> Result<(), String> {
        let (from, upto) = (held_below, self.reported_below());
        let Some(voters) = voters_of(log).filter(|_| from < upto) else { return Ok(()) };
        let lack = Lack { from, upto, voters, at_ns };
        self.enough_hold(log.replica, &lack)?;
        let lacks = self.lacks.entry(log.replica).or_default();
        // What it lacks now covers what it lacked before, as far as it has not caught up since.
        while lacks.pop_if(|last| last.voters == lack.voters && last.from >= lack.from).is_some() {}
        lacks.push(lack);
        Ok(())
    }

    fn enough_hold(&self, replica: u64, lack: &Lack) -> Result<(), String> {
        let voters = &lack.voters;
        let mut others: Vec<(u64, &Lack)> = Vec::new();
        for voter in voters.iter().filter(|voter| **voter != replica) {
            // `upto` never goes down in one replica's list.
            let lately = self.lacks.get(voter).into_iter().flat_map(|lacks| lacks.iter().rev());
            let lately = lately.take_while(|other| lack.from < other.upto);
            others.extend(lately.filter(|o| o.from < lack.upto && o.voters == *voters).map(|o| (*voter, o)));
        }
        // The most lacks cover the first index of one of them.
        let firsts = others.iter().map(|(_, other)| other.from.max(lack.from));
        for index in firsts.chain([lack.from]) {
            let lacking: BTreeMap<u64, u64> = others
                .iter()
                .filter(|(_, other)| (other.from..other.upto).contains(&index))
                .map(|(voter, other)| (*voter, other.at_ns))
                .chain([(replica, lack.at_ns)])
                .collect();
            if voters.len() - lacking.len() < majority(voters) {
                let lacking: Vec<String> = lacking
                    .iter()
                    .map(|(voter, at_ns)| format!("replica {voter} (at {})", seconds(*at_ns)))
                    .collect();
                return Err(format!(
                    "{}, but of the voters {voters:?} these have been seen without it durably since: {}",
                    self.report_of(index),
                    lacking.join(", ")
                ));
            }
        }
        Ok(())
    }
}
