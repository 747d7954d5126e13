//! After healing every group serves a write and a read within the plan's time, whatever it was doing, or not doing, before.

use std::collections::BTreeMap;

use longshore_raft::model::ring::GroupCount;

use super::group_of;
use crate::checkers::calls::{CallEvent, Calls, Moment, seconds};
use crate::observation::{Call, Checker, Observation, Promise, Seen, Verified, Violation};
use crate::plan::Plan;

const NAME: &str = "ring-service";

/// When a group had served for the first time since healing.
#[derive(Debug, Default, Clone, Copy)]
struct Since {
    write_ns: Option<u64>,
    read_ns: Option<u64>,
}

/// See the module's docs.
#[derive(Debug)]
pub struct Service {
    groups: GroupCount,
    settle_ns: u64,
    calls: Calls,
    healed: Option<Moment>,
    served: BTreeMap<u32, Since>,
    is_due: bool,
    events: u64,
}

impl Service {
    pub fn new(plan: &Plan, groups: GroupCount) -> Self {
        Self {
            groups,
            settle_ns: plan.settle_ms * 1_000_000,
            calls: Calls::default(),
            healed: None,
            served: groups.groups().map(|group| (group.0, Since::default())).collect(),
            is_due: false,
            events: 0,
        }
    }

    fn judge(&mut self, at_ns: u64) -> Result<(), Violation> {
        let Some(healed) = self.healed.filter(|_| !self.is_due) else { return Ok(()) };
        self.is_due = true;
        let lacking = |since: &Since| match (since.write_ns, since.read_ns) {
            (None, None) => Some("neither a write nor a read"),
            (None, _) => Some("no write"),
            (_, None) => Some("no read"),
            _ => None,
        };
        let Some((group, what)) =
            self.served.iter().find_map(|(group, since)| Some((group, lacking(since)?)))
        else {
            return Ok(());
        };
        let waited = seconds(at_ns - healed.at_ns);
        let what = format!("{waited} after the faults ended group {group} has served {what}");
        Err(Violation { promise: Promise::Liveness, checker: NAME.into(), at_ns, what })
    }
}

impl Checker for Service {
    fn name(&self) -> &'static str {
        NAME
    }

    fn see(&mut self, observation: &Observation) -> Result<(), Violation> {
        let at_ns = observation.at_ns;
        if self.healed.is_some_and(|healed| at_ns > healed.at_ns + self.settle_ns) {
            self.judge(at_ns)?;
        }
        match observation.seen {
            Seen::Healed => self.healed = Some(self.calls.now(at_ns)),
            Seen::Ending => return self.judge(at_ns),
            _ => {}
        }
        let Some((now, CallEvent::Completed(invoked, outcome))) = self.calls.see(observation) else {
            return Ok(());
        };
        if self.healed.is_none_or(|healed| invoked.began <= healed) {
            return Ok(());
        }
        let (key, is_write) = match &invoked.what {
            Call::Write { key, .. } if outcome.is_written() => (key, true),
            Call::Read { key } if outcome.value().is_some() => (key, false),
            _ => return Ok(()),
        };
        let Some(group) = group_of(self.groups, key) else { return Ok(()) };
        self.events += 1;
        let since = self.served.entry(group).or_default();
        let first = if is_write { &mut since.write_ns } else { &mut since.read_ns };
        first.get_or_insert(now.at_ns);
        Ok(())
    }

    fn finish(&mut self) -> Result<Verified, Violation> {
        let healed_ns = self.healed.map_or(0, |healed| healed.at_ns);
        let last_ns = self.served.values().filter_map(|since| since.write_ns.max(since.read_ns)).max();
        let waited = seconds(last_ns.unwrap_or(healed_ns).saturating_sub(healed_ns));
        let claim = format!("all {} groups had served {waited} after the faults ended", self.groups);
        let undecided = u64::from(self.healed.is_none());
        Ok(Verified { checker: NAME.into(), claim, events: self.events, undecided })
    }
}
