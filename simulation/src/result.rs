//! What came of a run.
//!
//! Everything but the two times of the machine is a function of the plan and the build.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::observation::{Promise, Verified, Violation};
use crate::plan::Plan;
use crate::trace::TraceSummary;

/// Of this crate, and so of the product: the workspace has one.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Carries out a plan, on the thread and in the process that are its own. With a file, the trace is written there too.
pub type Runner = fn(&Plan, Option<std::fs::File>) -> RunResult;

/// Everything that is told of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunResult {
    pub plan: Plan,
    pub version: String,
    pub virtual_ms: u64,
    /// Of the process and by the machine's clock. Part of nothing that is hashed or compared.
    pub cpu_ms: u64,
    pub wall_ms: u64,
    pub trace: TraceSummary,
    /// Terms of the control group that had a leader.
    pub elections: u64,
    /// Replicas that led.
    pub leaders: u64,
    /// Longest time without an acknowledged write, from the first one to the end of the load.
    pub longest_outage_ms: u64,
    /// By kind; only those that took effect.
    pub faults: BTreeMap<String, u64>,
    /// How processes of nodes ended that were not killed.
    pub ends: BTreeMap<String, u64>,
    /// What operators did, and what was refused to them.
    pub operators: BTreeMap<String, u64>,
    /// By kind (write, read, ...), then by outcome (written, refused, unknown, ...).
    pub calls: BTreeMap<String, BTreeMap<String, u64>>,
    pub network: BTreeMap<String, u64>,
    pub disk: BTreeMap<String, u64>,
    pub verified: Vec<Verified>,
    pub violation: Option<Violation>,
    /// The simulator itself failed: nothing was found out about the product.
    pub harness_error: Option<String>,
}

impl RunResult {
    /// A result that tells nothing yet.
    pub fn empty(plan: Plan) -> Self {
        Self {
            plan,
            version: VERSION.to_owned(),
            virtual_ms: 0,
            cpu_ms: 0,
            wall_ms: 0,
            trace: TraceSummary { hash: String::new(), events: 0 },
            elections: 0,
            leaders: 0,
            longest_outage_ms: 0,
            faults: BTreeMap::new(),
            ends: BTreeMap::new(),
            operators: BTreeMap::new(),
            calls: BTreeMap::new(),
            network: BTreeMap::new(),
            disk: BTreeMap::new(),
            verified: Vec::new(),
            violation: None,
            harness_error: None,
        }
    }

    /// A violation counts for more than trouble of the harness, and that for more than what could not be decided.
    pub fn verdict(&self) -> Verdict {
        match &self.violation {
            Some(Violation { promise: Promise::Safety, .. }) => Verdict::Safety,
            Some(Violation { promise: Promise::Liveness, .. }) => Verdict::Liveness,
            None if self.harness_error.is_some() => Verdict::Harness,
            None if self.undecided() > 0 => Verdict::Undecided,
            None => Verdict::Pass,
        }
    }

    /// Parts that checkers could not decide.
    pub fn undecided(&self) -> u64 {
        self.verified.iter().map(|verified| verified.undecided).sum()
    }

    /// How often a call of this kind ended in this way.
    pub fn calls_that(&self, kind: &str, outcome: &str) -> u64 {
        self.calls.get(kind).and_then(|outcomes| outcomes.get(outcome)).copied().unwrap_or(0)
    }

    /// Compares with the plan's conditions, unless something else was found already.
    pub fn judge_hold(&mut self) {
        if self.violation.is_none() && self.harness_error.is_none() {
            self.violation = self.plan.hold.broken_by(self);
        }
    }

    /// Virtual seconds per second of CPU time.
    pub fn speed(&self) -> f64 {
        self.virtual_ms as f64 / self.cpu_ms.max(1) as f64
    }
}

/// How a run ended. The codes are part of the interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Safety,
    Liveness,
    Harness,
    Undecided,
}

impl Verdict {
    pub const ALL: [Self; 5] = [Self::Pass, Self::Safety, Self::Liveness, Self::Harness, Self::Undecided];

    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Pass => 0,
            Self::Safety => 1,
            Self::Liveness => 2,
            Self::Harness => 3,
            Self::Undecided => 4,
        }
    }

    /// A promise of the product was broken.
    pub const fn is_violation(self) -> bool {
        matches!(self, Self::Safety | Self::Liveness)
    }

    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "passed",
            Self::Safety => "safety violated",
            Self::Liveness => "liveness violated",
            Self::Harness => "the harness failed",
            Self::Undecided => "undecided",
        }
    }

    /// Of several runs together: the gravest. Safety, liveness, harness, undecided, pass.
    pub fn worst(verdicts: impl IntoIterator<Item = Self>) -> Self {
        let rank = |verdict: &Self| match verdict {
            Self::Pass => 0,
            Self::Undecided => 1,
            Self::Harness => 2,
            Self::Liveness => 3,
            Self::Safety => 4,
        };
        verdicts.into_iter().max_by_key(rank).unwrap_or(Self::Pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::expand::{Options, expand};

    #[test]
    fn verdicts() {
        let violation = |promise| Violation { promise, checker: "c".into(), at_ns: 1, what: "w".into() };
        let verified = |undecided| Verified { checker: "c".into(), claim: "x".into(), events: 3, undecided };
        let mut result = RunResult::empty(expand(1, &Options::default()));
        assert_eq!(result.verdict(), Verdict::Pass);
        result.verified = vec![verified(0), verified(2)];
        assert_eq!((result.verdict(), result.undecided()), (Verdict::Undecided, 2));
        result.harness_error = Some("no".into());
        assert_eq!(result.verdict(), Verdict::Harness);
        result.violation = Some(violation(Promise::Liveness));
        assert_eq!(result.verdict(), Verdict::Liveness);
        result.violation = Some(violation(Promise::Safety));
        assert_eq!(result.verdict(), Verdict::Safety);
        let codes: Vec<u8> = Verdict::ALL.into_iter().map(Verdict::exit_code).collect();
        assert_eq!(codes, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn the_worst_of_several() {
        use Verdict::*;
        for (verdicts, worst) in [
            (vec![], Pass),
            (vec![Pass, Undecided], Undecided),
            (vec![Harness, Undecided], Harness),
            (vec![Harness, Liveness, Pass], Liveness),
            (vec![Liveness, Safety, Harness], Safety),
        ] {
            assert_eq!(Verdict::worst(verdicts), worst);
        }
    }

    #[test]
    fn a_result_survives_json() {
        let mut result = RunResult::empty(expand(3, &Options::default()));
        result.calls.entry("write".into()).or_default().insert("written".into(), 7);
        let text = serde_json::to_string(&result).unwrap();
        assert_eq!(serde_json::from_str::<RunResult>(&text).unwrap(), result);
        assert_eq!((result.calls_that("write", "written"), result.calls_that("read", "value")), (7, 0));
    }
}
