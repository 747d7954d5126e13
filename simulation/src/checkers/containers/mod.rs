//! Containers, as engines see them: who may start one, how long two of the same may run, and which are there in the end.
//!
//! An engine can not be fenced. What is promised is that a node asks the log before it starts anything, stops what it could not bring into the
//! log before its lease ended, and removes what the log says is another's, as soon as it has asked. So almost everything *may* happen on a host
//! whose process stands still or whose engine does not do as it says; rules are about hosts that are *steady*: their process has run, and their
//! engine answered well, for [`STEADY_NS`] without a break. A container is made for a *unit*: a part of an operation, or a copy that the fleet
//! keeps up, whose later parts are later in the log. Rules:
//! - no host runs two containers of one unit at once;
//! - a steady host does not start a container when one of a later attempt, or of a later part of the copy, has started elsewhere;
//! - while the lease holds under which a steady host started a container, no other host starts one of a later attempt at the same part;
//! - once another host has started a later attempt at the same part, a host that was steady ever since it started an earlier one has stopped that;
//! - a steady host to which nothing comes from others, and that is not a quorum by itself, starts nothing: it can not have asked;
//! - a steady host starts nothing of a part whose cancellation was acknowledged, or of a run that is stopped or removed;
//! - a run is known to the fleet until somebody asks for its removal;
//! - liveness: when the fleet has settled, each copy of a run that is wanted has one container that runs, and there is no other container of any
//!   run; from then on none of them ends.
//!
//! Of a host that stays broken nothing is expected, nor of one that can not hear or reach one of these which leads a group. Nor is anything expected
//! of what is in a group that nobody has led since the faults ended: a majority of it may have been wiped. That is left undecided.

mod judge;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use longshore_model::container::{CopyOf, LABEL_PREFIX, Origin};
use longshore_model::operations::{GRACE_MS, LEASE_MS, OperationId, SubKey};
use longshore_raft::model::ring::GroupCount;

use super::calls::{CallEvent, Calls, Invoked, seconds};
use super::liveness::strained;
use super::unsafe_at;
use crate::observation::{
    Call, Change, Checker, EngineCondition, LogPosition, Observation, Outcome, Promise, RunShape, Seen,
    Verified, Violation,
};
use crate::plan::{Fault, HostId, Plan, TransportKind, Verdict};

const NAME: &str = "containers";
/// Longer than any call of an engine that is well, and than one of a slow engine that was under way when it got well.
const STEADY_NS: u64 = 8_000_000_000;
/// Clocks may go a fifth too fast and a fifth too slow, so that a lease ends at its holder after it has ended by the log: so much at most.
const DRIFT_NS: u64 = 3_000_000_000;
/// From the log's answer, that an attempt may start, to the start on a steady host. (Of a network that holds replies back: see
/// [`Containers::slack_ns`].)
const ANSWERED_NS: u64 = 1_500_000_000;
/// As long as this after the start of a container its lease holds by the log, whatever the clocks do.
const HELD_NS: u64 = 10_000_000_000;

/// Where an attempt is among those at its unit: the place of its operation in the log, and its token.
type Order = (u64, u32, u32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unit {
    Part(SubKey),
    Copy(CopyOf),
}

fn unit_of(origin: &Origin) -> Unit {
    origin.kept.map_or(Unit::Part(origin.sub), Unit::Copy)
}

fn order_of(origin: &Origin) -> Order {
    let OperationId { index, position, .. } = origin.sub.operation;
    (index, position, origin.token)
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Running {
    host: HostId,
    name: String,
    origin: Origin,
    since_ns: u64,
    /// Its host was steady when it started.
    was_steady: bool,
}

/// The start of the latest attempt at a unit.
#[derive(Debug, Clone, Copy)]
struct Latest {
    order: Order,
    host: HostId,
    at_ns: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct HostState {
    /// Since when its process has run without standing still; none if it does not run.
    process_ns: Option<u64>,
    /// Since when its engine has been well; none if it is not.
    engine_ns: Option<u64>,
    /// When its engine was last unreliable, if it ever was; it may still be.
    unreliable_ns: Option<u64>,
    is_unreliable: bool,
    /// When a process last began.
    began_ns: u64,
    pulls: usize,
}

impl HostState {
    /// Whether its process ran and its engine was well all the time since then.
    fn is_steady_since(&self, since_ns: u64) -> bool {
        let since = |ns: Option<u64>| ns.is_some_and(|ns| ns <= since_ns);
        since(self.process_ns) && since(self.engine_ns)
    }
}

/// What a client wants of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    Up,
    /// Since a change that was acknowledged then.
    Stopped(u64),
    Removed(u64),
    /// A change is under way, or nobody knows what became of one.
    Unclear,
}

#[derive(Debug)]
struct Run {
    copies: u32,
    wanted: Wanted,
    /// What it was before the change that is under way.
    before: Wanted,
    /// Somebody has asked for its removal, whatever became of that.
    removal_asked: bool,
}

/// An attempt that should be over: the start of the earlier one, and by when.
#[derive(Debug)]
struct Overlap {
    start: u64,
    later: Latest,
    due_ns: u64,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Containers {
    groups: GroupCount,
    unhealed: BTreeSet<HostId>,
    /// One that stays broken, and another: the network between them is as the faults left it.
    strained: BTreeSet<(HostId, HostId)>,
    /// How long after the log's answer a container may start.
    slack_ns: u64,
    /// A host that stays broken may count as alive, and be given work.
    half_broken: bool,
    has_engine: BTreeSet<HostId>,
    /// Replies come at once, or never.
    is_prompt: bool,
    calls: Calls,
    /// Hosts to which nothing comes from others, and since when.
    deaf: BTreeMap<HostId, u64>,
    /// How many vote in a group, as a host's replica of it says.
    voters: BTreeMap<(HostId, u32), usize>,
    hosts: BTreeMap<HostId, HostState>,
    running: BTreeMap<u64, Running>,
    latest: BTreeMap<Unit, Latest>,
    overlaps: Vec<Overlap>,
    runs: BTreeMap<LogPosition, Run>,
    /// Parts whose cancellation was acknowledged, and when.
    cancelled: BTreeMap<LogPosition, (BTreeSet<u32>, u64)>,
    healed_ns: Option<u64>,
    /// Groups that somebody has led since then, and who.
    led: BTreeMap<u32, BTreeSet<HostId>>,
    settled_ns: Option<u64>,
    starts: u64,
    undecided: u64,
}

impl Containers {
    pub fn new(plan: &Plan) -> Self {
        let late = |fault: &Fault| match fault {
            Fault::AddRule { rule } => matches!(rule.verdict, Verdict::Hold | Verdict::Delay { .. }),
            Fault::SlowDisk { .. } => true,
            _ => false,
        };
        let is_prompt = plan.transport == TransportKind::Memory
            && !plan.faults.iter().any(|scheduled| late(&scheduled.fault));
        let last =
            |host: HostId| plan.faults.iter().rev().find(|scheduled| scheduled.fault.host() == Some(host));
        let is_gone = |host: HostId| {
            last(host).is_some_and(|last| matches!(last.fault, Fault::Kill { .. } | Fault::Pause { .. }))
        };
        let engines = (1..).zip(&plan.fleet.hosts).filter(|(_, shape)| shape.engine.present);
        Self {
            groups: plan.fleet.groups(),
            unhealed: plan.unhealed.iter().copied().collect(),
            strained: strained(plan),
            half_broken: plan.unhealed.iter().any(|host| !is_gone(*host)),
            slack_ns: if is_prompt { ANSWERED_NS } else { (LEASE_MS + GRACE_MS) * 1_000_000 },
            has_engine: engines.map(|(host, _)| host).collect(),
            is_prompt,
            calls: Calls::default(),
            deaf: BTreeMap::new(),
            voters: BTreeMap::new(),
            hosts: BTreeMap::new(),
            running: BTreeMap::new(),
            latest: BTreeMap::new(),
            overlaps: Vec::new(),
            runs: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            healed_ns: None,
            led: BTreeMap::new(),
            settled_ns: None,
            starts: 0,
            undecided: 0,
        }
    }

    fn place(&self, id: OperationId) -> LogPosition {
        LogPosition { group: self.groups.group_of(id.partition).0, index: id.index, position: id.position }
    }

    fn host(&mut self, host: HostId) -> &mut HostState {
        self.hosts.entry(host).or_insert(HostState { engine_ns: Some(0), ..HostState::default() })
    }

    fn is_steady(&self, host: HostId, at_ns: u64) -> bool {
        let since_ns = at_ns.saturating_sub(STEADY_NS);
        self.hosts.get(&host).is_some_and(|state| state.is_steady_since(since_ns))
    }

    fn container_started(&mut self, at_ns: u64, start: u64, it: Running) -> Result<(), String> {
        self.starts += 1;
        let (unit, order, host) = (unit_of(&it.origin), order_of(&it.origin), it.host);
        let others = || self.running.values().filter(|other| unit_of(&other.origin) == unit);
        if let Some(other) = others().find(|other| other.host == host) {
            return Err(format!(
                "host {host} started {} ({:?}) at {}, while {} ({:?}), which is for the same, has run there since {}",
                it.name,
                it.origin,
                seconds(at_ns),
                other.name,
                other.origin,
                seconds(other.since_ns)
            ));
        }
        if it.was_steady {
            self.may_start(at_ns, &it)?;
        }
        for (earlier, other) in &self.running {
            if other.origin.sub != it.origin.sub || order_of(&other.origin) >= order {
                continue;
            }
            let state = self.hosts.get(&other.host).copied().unwrap_or_default();
            let was_reliable = !state.is_unreliable
                && state.unreliable_ns.is_none_or(|ns| ns < other.since_ns)
                && state.began_ns < other.since_ns;
            if self.is_prompt && other.was_steady && was_reliable && at_ns < other.since_ns + HELD_NS {
                return Err(format!(
                    "host {host} started {} (attempt {}) at {}, although the lease holds under which host {} started attempt {} at {}",
                    it.name,
                    it.origin.token,
                    seconds(at_ns),
                    other.host,
                    other.origin.token,
                    seconds(other.since_ns)
                ));
            }
            let later = Latest { order, host, at_ns };
            self.overlaps.push(Overlap { start: *earlier, later, due_ns: at_ns + DRIFT_NS });
        }
        let latest = self.latest.entry(unit).or_insert(Latest { order, host, at_ns });
        if order > latest.order {
            *latest = Latest { order, host, at_ns };
        }
        self.running.insert(start, it);
        Ok(())
    }

    /// What a steady host does not start.
    fn may_start(&self, at_ns: u64, it: &Running) -> Result<(), String> {
        let (host, name, order) = (it.host, &it.name, order_of(&it.origin));
        if let Some(later) = self.latest.get(&unit_of(&it.origin)).filter(|latest| latest.order > order)
            && at_ns > later.at_ns + DRIFT_NS
        {
            return Err(format!(
                "host {host}, which is in order, started {name} ({:?}) at {}, although host {} had started what takes its place at {}",
                it.origin,
                seconds(at_ns),
                later.host,
                seconds(later.at_ns)
            ));
        }
        let group = self.place(it.origin.kept.map_or(it.origin.sub.operation, |copy| copy.run)).group;
        let is_quorum = self.voters.get(&(host, group)).is_some_and(|voters| *voters <= 1);
        if let Some(since_ns) = self.deaf.get(&host)
            && !is_quorum
            && at_ns > since_ns + ANSWERED_NS
        {
            return Err(format!(
                "host {host}, which is in order, started {name} ({:?}) at {}, although nothing has come to it from others since {}: it can not \
                 have asked whether it may",
                it.origin,
                seconds(at_ns),
                seconds(*since_ns)
            ));
        }
        if let Some((parts, since_ns)) = self.cancelled.get(&self.place(it.origin.sub.operation))
            && parts.contains(&it.origin.sub.index)
            && at_ns > since_ns + self.slack_ns
        {
            return Err(format!(
                "host {host}, which is in order, started {name} at {}, although the cancellation of that was acknowledged at {}",
                seconds(at_ns),
                seconds(*since_ns)
            ));
        }
        let run = it.origin.kept.and_then(|copy| self.runs.get(&self.place(copy.run)));
        match run.map(|run| run.wanted) {
            Some(Wanted::Stopped(since_ns) | Wanted::Removed(since_ns))
                if at_ns > since_ns + self.slack_ns =>
            {
                Err(format!(
                    "host {host}, which is in order, started {name} at {}, although its run was stopped or removed at {}",
                    seconds(at_ns),
                    seconds(since_ns)
                ))
            }
            _ => Ok(()),
        }
    }

    fn container_ended(&mut self, at_ns: u64, start: u64) -> Result<(), Violation> {
        let Some(it) = self.running.remove(&start) else { return Ok(()) };
        let Some(settled_ns) = self.settled_ns else { return Ok(()) };
        let is_wanted = it.origin.kept.is_some_and(|copy| {
            self.runs.get(&self.place(copy.run)).is_some_and(|run| run.wanted == Wanted::Up)
        });
        let was_there = self.unhealed.is_empty() && it.since_ns < settled_ns;
        if is_wanted && was_there {
            let what = format!(
                "host {} ended {} at {}, although the fleet had settled at {} and it was wanted",
                it.host,
                it.name,
                seconds(at_ns),
                seconds(settled_ns)
            );
            return Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns, what });
        }
        Ok(())
    }

    /// Earlier attempts that should have been stopped by now.
    fn overdue(&mut self, at_ns: u64) -> Result<(), String> {
        let (due, rest): (Vec<Overlap>, Vec<Overlap>) =
            std::mem::take(&mut self.overlaps).into_iter().partition(|overlap| overlap.due_ns < at_ns);
        self.overlaps = rest;
        for Overlap { start, later, due_ns } in due {
            let Some(it) = self.running.get(&start) else { continue };
            let since_ns = it.since_ns.saturating_sub(STEADY_NS);
            if self.hosts.get(&it.host).is_some_and(|state| state.is_steady_since(since_ns)) {
                return Err(format!(
                    "host {}, which was in order all the time, still runs {} (attempt {}, since {}) at {}, although its lease is over and host {} \
                     has run a later attempt since {}",
                    it.host,
                    it.name,
                    it.origin.token,
                    seconds(it.since_ns),
                    seconds(due_ns),
                    later.host,
                    seconds(later.at_ns)
                ));
            }
        }
        Ok(())
    }

    fn call_began(&mut self, invoked: &Invoked) {
        if let Call::Change { at, change } = invoked.what
            && let Some(run) = self.runs.get_mut(&at)
        {
            run.before = std::mem::replace(&mut run.wanted, Wanted::Unclear);
            run.removal_asked |= change == Change::Remove;
        }
    }

    fn call_ended(&mut self, invoked: &Invoked, outcome: &Outcome, at_ns: u64) -> Result<(), String> {
        match (&invoked.what, outcome) {
            (Call::Submit { run: Some(RunShape { copies, kept: true }), .. }, Outcome::Submitted(at)) => {
                let run =
                    Run { copies: *copies, wanted: Wanted::Up, before: Wanted::Up, removal_asked: false };
                self.runs.entry(*at).or_insert(run);
            }
            (Call::Cancel { at, .. }, Outcome::Cancelled(parts)) => {
                self.cancelled.entry(*at).or_insert((parts.clone(), at_ns));
            }
            (Call::Change { at, change }, outcome) => {
                let Some(run) = self.runs.get_mut(at) else { return Ok(()) };
                let is_clear = run.before != Wanted::Unclear;
                run.wanted = match (change, outcome) {
                    (Change::Remove, Outcome::Done) => Wanted::Removed(at_ns),
                    (_, Outcome::Missing) if run.removal_asked => Wanted::Removed(at_ns),
                    (_, Outcome::Missing) => {
                        return Err(format!(
                            "call {} hears at {} that there is no run {at}, which nobody has removed",
                            invoked.call,
                            seconds(at_ns)
                        ));
                    }
                    (Change::Stop, Outcome::Done) if is_clear => Wanted::Stopped(at_ns),
                    (Change::Start, Outcome::Done) if is_clear => Wanted::Up,
                    (_, Outcome::Refused(_)) => run.before,
                    _ => Wanted::Unclear,
                };
            }
            _ => {}
        }
        Ok(())
    }

    fn host_changed(&mut self, at_ns: u64, seen: &Seen) {
        match seen {
            Seen::Started { host, .. } => {
                let state = self.host(*host);
                (state.process_ns, state.began_ns) = (Some(at_ns), at_ns);
            }
            Seen::Resumed { host } => {
                let state = self.host(*host);
                if state.process_ns.is_none() {
                    state.process_ns = Some(at_ns);
                }
            }
            Seen::Paused { host } | Seen::Ended { host, .. } => self.host(*host).process_ns = None,
            Seen::Engine { host, condition } => {
                let state = self.host(*host);
                state.engine_ns = (*condition == EngineCondition::Well).then_some(at_ns);
                let is_unreliable = *condition == EngineCondition::Unreliable;
                if is_unreliable || state.is_unreliable {
                    state.unreliable_ns = Some(at_ns);
                }
                state.is_unreliable = is_unreliable;
            }
            Seen::Deaf { hosts } => {
                let begun: BTreeMap<HostId, u64> = std::mem::take(&mut self.deaf);
                let since = |host: &HostId| begun.get(host).copied().unwrap_or(at_ns);
                self.deaf = hosts.iter().map(|host| (*host, since(host))).collect();
            }
            Seen::Status { host, status } => {
                self.voters.insert((*host, status.group), status.voters.len());
                if status.is_leader && self.healed_ns.is_some() {
                    self.led.entry(status.group).or_default().insert(*host);
                }
            }
            Seen::PullBegan { host, .. } => self.host(*host).pulls += 1,
            Seen::PullEnded { host, .. } => self.host(*host).pulls -= 1,
            _ => {}
        }
    }
}

/// Whose container it is, if the fleet made it.
fn origin_of(name: &str, labels: &BTreeMap<String, String>) -> Option<Origin> {
    Origin::of(labels, name, labels.get(&format!("{LABEL_PREFIX}fleet"))?)
}

impl Checker for Containers {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        let is_unsafe = |what: String| unsafe_at(NAME, at_ns, what);
        self.overdue(at_ns).map_err(is_unsafe)?;
        match &observation.seen {
            Seen::ContainerStarted { host, start, name, labels } => {
                let Some(origin) = origin_of(name, labels) else { return Ok(()) };
                let was_steady = self.is_steady(*host, at_ns);
                let it = Running { host: *host, name: name.clone(), origin, since_ns: at_ns, was_steady };
                self.container_started(at_ns, *start, it).map_err(is_unsafe)
            }
            Seen::ContainerEnded { start, .. } => self.container_ended(at_ns, *start),
            Seen::Healed => {
                self.healed_ns = Some(at_ns);
                Ok(())
            }
            Seen::Settled => {
                self.settled_ns = Some(at_ns);
                self.judge(at_ns)
            }
            Seen::Ending if self.settled_ns.is_some() => self.judge(at_ns),
            seen => {
                self.host_changed(at_ns, seen);
                // Borrowed for as long as the event is looked at.
                let mut calls = std::mem::take(&mut self.calls);
                let looked_at = match calls.see(observation) {
                    Some((_, CallEvent::Invoked(invoked))) => {
                        self.call_began(invoked);
                        Ok(())
                    }
                    Some((_, CallEvent::Completed(invoked, outcome))) => {
                        self.call_ended(&invoked, outcome, at_ns)
                    }
                    None => Ok(()),
                };
                self.calls = calls;
                looked_at.map_err(is_unsafe)
            }
        }
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        Ok(Verified {
            checker: NAME.into(),
            claim: format!(
                "of {} starts of containers none was without right, and {} kept runs were as they should in the end",
                self.starts,
                self.runs.len()
            ),
            events: self.starts,
            undecided: self.undecided,
        })
    }
}
