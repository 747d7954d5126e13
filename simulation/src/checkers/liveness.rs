//! After healing the fleet agrees and serves again, within the plan's time; with a permanently faulty minority the others do.
//!
//! Agreement, at one moment: one leader that all hosts which should work take for theirs, the same voters, and the same state at some index
//! at or above all that was committed when the faults ended. Service: several writes and several reads, begun after
//! healing, answered; of clients that began fewer, since each asked other things again and again, one, if any. What is not expected of a
//! host: anything if it is `unhealed`, left, was removed, or has rotten data; agreement while an unhealed host leads, and the network between the two is as broken as the faults left it. (Raft's leader stays as long as a
//! majority hears it, and whoever does not is behind.)

use std::collections::{BTreeMap, BTreeSet};

use super::calls::{CallEvent, Calls, Moment, seconds};
use super::rotten_hosts;
use crate::observation::{
    Call, Checker, Observation, Outcome, Promise, ReplicaStatus, Seen, Verified, Violation,
};
use crate::plan::{Fault, HostId, Plan, Rule};

const NAME: &str = "liveness";
/// Answered writes, and answered reads, that show that the fleet serves: more than one could be luck.
const SERVED_MIN: u64 = 5;

/// See the module's docs.
#[derive(Debug)]
pub struct Liveness {
    settle_ns: u64,
    writes_expected: bool,
    reads_expected: bool,
    /// Hosts of which nothing is expected.
    excused: BTreeSet<HostId>,
    /// An unhealed host and another, where a rule for the network between them stays.
    strained: BTreeSet<(HostId, HostId)>,
    /// Hosts that must be running at the end.
    expected: BTreeSet<HostId>,
    running: BTreeSet<HostId>,
    statuses: BTreeMap<HostId, ReplicaStatus>,
    /// Of each host's running process.
    states: BTreeMap<HostId, (u64, [u8; 16])>,
    calls: Calls,
    /// Committed, by anybody's word.
    committed: Option<u64>,
    healed: Option<Healed>,
    agreed_ns: Option<u64>,
    served_ns: Option<u64>,
    events: u64,
}

/// See [`Liveness::strained`].
pub(super) fn strained(plan: &Plan) -> BTreeSet<(HostId, HostId)> {
    let mut rules: Vec<&Rule> = Vec::new();
    for scheduled in &plan.faults {
        match &scheduled.fault {
            Fault::AddRule { rule } => rules.push(rule),
            Fault::RemoveRule { name } => rules.retain(|rule| rule.name != *name),
            Fault::HealNetwork => rules.clear(),
            _ => {}
        }
    }
    let hosts = 1..=plan.fleet.hosts.len() as HostId;
    let pairs = plan.unhealed.iter().flat_map(|unhealed| hosts.clone().map(|host| (*unhealed, host)));
    let touches = |rule: &Rule, (a, b): (HostId, HostId)| {
        (rule.from.contains(a) && rule.to.contains(b)) || (rule.from.contains(b) && rule.to.contains(a))
    };
    pairs.filter(|pair| rules.iter().any(|rule| touches(rule, *pair))).collect()
}

type States = BTreeMap<u64, BTreeMap<[u8; 16], BTreeSet<HostId>>>;

#[derive(Debug)]
struct Healed {
    at: Moment,
    /// States must agree at or above.
    committed: Option<u64>,
    /// Then and since: which hosts had which state at an index.
    states: States,
    writes: Served,
    reads: Served,
}

/// Calls of a kind, begun after healing; through a host of which nothing is expected, only those that were answered.
#[derive(Debug, Default, Clone, Copy)]
struct Served {
    ended: u64,
    answered: u64,
}

impl Served {
    /// Whether clients asked so seldom that it shows nothing.
    fn is_rare(self) -> bool {
        (self.answered > 0 || self.ended == 0) && self.ended < 2 * SERVED_MIN
    }
}

impl Liveness {
    pub fn new(plan: &Plan) -> Self {
        let mut excused: BTreeSet<HostId> = plan.unhealed.iter().copied().collect();
        excused.extend(rotten_hosts(plan));
        excused.extend(plan.faults.iter().filter_map(|f| match f.fault {
            Fault::Leave { host } | Fault::Remove { host } => Some(host),
            _ => None,
        }));
        let has_registers = plan.load.clients > 0 && !plan.registers().is_empty();
        let early = (1..).zip(&plan.fleet.hosts).filter(|(_, h)| !h.late).map(|(host, _)| host);
        let expected = early.filter(|host| !excused.contains(host)).collect();
        Self {
            settle_ns: plan.settle_ms * 1_000_000,
            writes_expected: has_registers && plan.load.writes > 0,
            reads_expected: has_registers && plan.load.reads > 0,
            strained: strained(plan),
            excused,
            expected,
            running: BTreeSet::new(),
            statuses: BTreeMap::new(),
            states: BTreeMap::new(),
            calls: Calls::default(),
            committed: None,
            healed: None,
            agreed_ns: None,
            served_ns: None,
            events: 0,
        }
    }

    /// Hosts that have to agree, if they can hear the leader and it them. A late host is one of them once it runs.
    fn healthy(&self) -> impl Iterator<Item = HostId> {
        let running = self.running.iter().filter(|host| !self.excused.contains(host));
        self.expected.iter().chain(running).copied().collect::<BTreeSet<_>>().into_iter()
    }

    /// Why the healthy hosts do not agree; none if they do.
    fn disagreement(&self) -> Option<String> {
        let healed = self.healed.as_ref()?;
        let mut first: Option<(HostId, &ReplicaStatus)> = None;
        let leaders = self.statuses.iter().filter(|(_, status)| status.is_leader);
        let leader = leaders.max_by_key(|(_, status)| status.term).map(|(host, _)| *host);
        let apart = |host: &HostId| leader.is_some_and(|leader| self.strained.contains(&(leader, *host)));
        let asked: Vec<HostId> = self.healthy().filter(|host| !apart(host)).collect();
        for host in asked.iter().copied() {
            if !self.running.contains(&host) {
                return Some(format!("host {host} is not running"));
            }
            let Some(status) = self.statuses.get(&host) else {
                return Some(format!("host {host} has said nothing of itself since it started"));
            };
            let Some(leader) = status.leader else { return Some(format!("host {host} knows no leader")) };
            let (first_host, first) = *first.get_or_insert((host, status));
            if first.leader != Some(leader) || first.term != status.term {
                return Some(format!(
                    "host {host} has replica {leader} for the leader of term {}, host {first_host} replica {} of term {}",
                    status.term,
                    first.leader.unwrap_or_default(),
                    first.term
                ));
            }
            if sorted(&first.voters) != sorted(&status.voters) {
                return Some(format!(
                    "host {first_host} has the voters {:?}, host {host} {:?}",
                    first.voters, status.voters
                ));
            }
        }
        let (_, first) = first?;
        if !self
            .statuses
            .values()
            .any(|s| Some(s.replica) == first.leader && s.is_leader && s.term == first.term)
        {
            return Some(format!(
                "replica {} is taken for the leader, but does not lead",
                first.leader.unwrap_or_default()
            ));
        }
        let from = healed.committed.unwrap_or(0);
        let alike = |hosts: &BTreeSet<HostId>| asked.iter().all(|host| hosts.contains(host));
        if !healed.states.range(from..).any(|(_, by_hash)| by_hash.values().any(alike)) {
            return Some(format!("the hosts have not shown the same state at any index from {from} on"));
        }
        None
    }

    /// What is not served yet; none if all is.
    fn unserved(&self) -> Option<String> {
        let healed = self.healed.as_ref()?;
        let lacks = (self.writes_expected && healed.writes.answered < SERVED_MIN)
            || (self.reads_expected && healed.reads.answered < SERVED_MIN);
        lacks.then(|| {
            format!(
                "{} writes and {} reads were answered, {SERVED_MIN} of each are due",
                healed.writes.answered, healed.reads.answered
            )
        })
    }

    fn judge(&mut self, at_ns: u64) {
        if self.agreed_ns.is_none() && self.disagreement().is_none() {
            self.agreed_ns = Some(at_ns);
        }
        if self.served_ns.is_none() && self.unserved().is_none() {
            self.served_ns = Some(at_ns);
        }
    }

    /// The verdict when time is up.
    fn verdict(&self, at_ns: u64) -> Result<(), Violation> {
        let Some(healed) = &self.healed else { return Ok(()) };
        let disagreement = if self.agreed_ns.is_none() { self.disagreement() } else { None };
        let enough = |is_due: bool, of: Served| !is_due || of.answered >= SERVED_MIN || of.is_rare();
        let rare = enough(self.writes_expected, healed.writes) && enough(self.reads_expected, healed.reads);
        let unserved = || if rare { None } else { self.unserved() };
        let Some(why) = disagreement.or_else(unserved) else { return Ok(()) };
        let waited = seconds(at_ns - healed.at.at_ns);
        let what = format!("{waited} after the faults ended (at {}) {why}", healed.at);
        Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns, what })
    }

    fn note(&mut self, observation: &Observation) -> bool {
        match &observation.seen {
            Seen::Started { host, .. } => {
                self.running.insert(*host);
            }
            Seen::Ended { host, .. } => {
                self.running.remove(host);
                self.statuses.remove(host);
                self.states.remove(host);
            }
            // Other groups have a checker of their own.
            Seen::Status { status, .. } if status.group != 0 => return false,
            Seen::State { group, .. } if *group != 0 => return false,
            Seen::Status { host, status } => {
                self.committed = self.committed.max(status.committed);
                self.statuses.insert(*host, status.clone());
            }
            Seen::State { host, applied, hash, .. } => {
                self.committed = self.committed.max(Some(*applied));
                self.states.insert(*host, (*applied, *hash));
                let Some(healed) = &mut self.healed else { return false };
                healed.states.entry(*applied).or_default().entry(*hash).or_default().insert(*host);
            }
            _ => return self.note_call(observation),
        }
        self.healed.is_some()
    }

    fn note_call(&mut self, observation: &Observation) -> bool {
        let Some((_, CallEvent::Completed(invoked, outcome))) = self.calls.see(observation) else {
            return false;
        };
        let Some(healed) = self.healed.as_mut().filter(|healed| invoked.began > healed.at) else {
            return false;
        };
        let (served, is_answered) = match (&invoked.what, outcome) {
            (Call::Write { .. }, outcome) => (&mut healed.writes, *outcome == Outcome::Written),
            (Call::Read { .. }, outcome) => (&mut healed.reads, matches!(outcome, Outcome::Value(_))),
            _ => return false,
        };
        let is_due = !self.excused.contains(&invoked.host);
        served.ended += u64::from(is_answered || is_due);
        served.answered += u64::from(is_answered);
        true
    }
}

fn sorted(voters: &[u64]) -> BTreeSet<u64> {
    voters.iter().copied().collect()
}

impl Checker for Liveness {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let done = self.agreed_ns.is_some() && self.served_ns.is_some();
        if let Some(healed) = &self.healed
            && !done
            && at_ns > healed.at.at_ns + self.settle_ns
        {
            self.verdict(at_ns)?;
        }
        if let Seen::Healed = observation.seen {
            let at = self.calls.now(at_ns);
            let mut states = States::new();
            for (host, (applied, hash)) in &self.states {
                states.entry(*applied).or_default().entry(*hash).or_default().insert(*host);
            }
            self.healed = Some(Healed {
                at,
                committed: self.committed,
                states,
                writes: Served::default(),
                reads: Served::default(),
            });
            self.judge(at_ns);
        } else if self.note(observation) && !done {
            self.events += 1;
            self.judge(at_ns);
        }
        if let Seen::Ending = observation.seen {
            self.verdict(at_ns)?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let claim = match (&self.healed, self.agreed_ns.max(self.served_ns)) {
            (Some(healed), Some(at_ns)) => {
                format!(
                    "the fleet agreed and served {} after the faults ended",
                    seconds(at_ns - healed.at.at_ns)
                )
            }
            _ => "the run ended before its faults did".to_owned(),
        };
        let undecided = u64::from(self.served_ns.is_none() || self.agreed_ns.is_none());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided })
    }
}
