//! What must be true of a run's result: conditions of a scenario.
//!
//! Checkers watch what must never happen; conditions say that enough did happen, so that a scenario which no longer does what it was
//! written for is noticed.

use serde::{Deserialize, Serialize};

use crate::observation::{Promise, Violation};
use crate::result::RunResult;

/// Name of the checker in a violation of a condition.
pub const CHECKER: &str = "hold";

/// Conditions; those that are absent are not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hold {
    /// Acknowledged writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_writes: Option<u64>,
    /// Answered reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_reads: Option<u64>,
    /// Acknowledged operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_operations: Option<u64>,
    /// Terms with a leader, that of the fleet's foundation included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_elections: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_elections: Option<u64>,
    /// Faults that took effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_faults: Option<u64>,
    /// No longer time without an acknowledged write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub no_unavailability_over_ms: Option<u64>,
}

impl Hold {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The first condition that the result does not meet.
    pub fn broken_by(&self, result: &RunResult) -> Option<Violation> {
        let faults: u64 = result.faults.values().sum();
        let at_least = [
            ("min_writes", self.min_writes, result.calls_that("write", "written")),
            ("min_reads", self.min_reads, result.calls_that("read", "value")),
            ("min_operations", self.min_operations, result.calls_that("submit", "submitted")),
            ("min_elections", self.min_elections, result.elections),
            ("min_faults", self.min_faults, faults),
        ];
        let at_most = [
            ("max_elections", self.max_elections, result.elections),
            ("no_unavailability_over_ms", self.no_unavailability_over_ms, result.longest_outage_ms),
        ];
        let too_few = at_least.into_iter().filter_map(|(name, limit, is)| Some((name, limit?, is)));
        let too_many = at_most.into_iter().filter_map(|(name, limit, is)| Some((name, limit?, is)));
        let broken = too_few
            .filter(|(_, limit, is)| is < limit)
            .chain(too_many.filter(|(_, limit, is)| is > limit))
            .next();
        broken.map(|(name, limit, is)| Violation {
            promise: Promise::Liveness,
            checker: CHECKER.to_owned(),
            at_ns: result.virtual_ms.saturating_mul(1_000_000),
            what: format!("{name} is {limit}; it was {is}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::expand::{Options, expand};

    /// A condition, and what is said if it does not hold.
    type Case = (fn(&mut Hold), Option<&'static str>);

    #[test]
    fn conditions() {
        let mut result = RunResult::empty(expand(1, &Options::default()));
        for (kind, outcome, count) in
            [("write", "written", 9), ("read", "value", 8), ("submit", "submitted", 2)]
        {
            result.calls.entry(kind.into()).or_default().insert(outcome.into(), count);
        }
        (result.elections, result.longest_outage_ms) = (3, 900);
        result.faults.insert("kill".into(), 4);
        let hold = |set: fn(&mut Hold)| {
            let mut hold = Hold::default();
            set(&mut hold);
            hold.broken_by(&result).map(|violation| violation.what)
        };
        let cases: [Case; 13] = [
            (|_| {}, None),
            (|h| h.min_writes = Some(9), None),
            (|h| h.min_writes = Some(10), Some("min_writes is 10; it was 9")),
            (|h| h.min_reads = Some(9), Some("min_reads is 9; it was 8")),
            (|h| h.min_operations = Some(3), Some("min_operations is 3; it was 2")),
            (|h| h.min_elections = Some(3), None),
            (|h| h.min_elections = Some(4), Some("min_elections is 4; it was 3")),
            (|h| h.max_elections = Some(3), None),
            (|h| h.max_elections = Some(2), Some("max_elections is 2; it was 3")),
            (|h| h.min_faults = Some(4), None),
            (|h| h.min_faults = Some(5), Some("min_faults is 5; it was 4")),
            (|h| h.no_unavailability_over_ms = Some(900), None),
            (
                |h| h.no_unavailability_over_ms = Some(899),
                Some("no_unavailability_over_ms is 899; it was 900"),
            ),
        ];
        for (set, broken) in cases {
            assert_eq!(hold(set).as_deref(), broken);
        }
    }

    #[test]
    fn what_was_found_before_is_not_overwritten() {
        let mut result = RunResult::empty(expand(1, &Options::default()));
        result.plan.hold.min_writes = Some(1);
        let mut broken = result.clone();
        broken.judge_hold();
        assert_eq!(broken.violation.as_ref().map(|v| v.checker.as_str()), Some(CHECKER));
        result.harness_error = Some("no".into());
        result.judge_hold();
        assert_eq!(result.violation, None);
    }
}
