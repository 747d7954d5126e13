//! Makes a failing plan smaller: takes out faults, then load and trouble, as long as the same checker still objects.
//!
//! Faults are taken out in halves, quarters, ... and at last one by one (delta debugging: Zeller and Hildebrandt, 2002). Separate streams of
//! chance keep the rest of the run as it was, as far as that is possible.

use crate::plan::fair::is_fair;
use crate::plan::{Latency, Plan};
use crate::result::RunResult;

/// What a shrinking came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Shrunk {
    pub plan: Plan,
    /// How many plans were tried.
    pub tried: u64,
}

/// Makes the plan of a failed run smaller. `fails` runs a plan and says whether it still fails in the same way.
///
/// A fair plan stays fair: an unfair one would fail for another reason.
pub async fn shrink(failed: &RunResult, fails: &mut dyn AsyncFails) -> Shrunk {
    let mut search = Search { best: failed.plan.clone(), was_fair: is_fair(&failed.plan).is_ok(), tried: 0 };
    search.drop_the_future(failed, fails).await;
    search.fewer_faults(fails).await;
    for simpler in SIMPLER {
        let mut plan = search.best.clone();
        simpler(&mut plan);
        search.attempt(plan, fails).await;
    }
    Shrunk { plan: search.best, tried: search.tried }
}

/// Runs a plan; whether it fails as before.
pub trait AsyncFails {
    fn fails<'a>(&'a mut self, plan: &'a Plan) -> std::pin::Pin<Box<dyn Future<Output = bool> + 'a>>;
}

/// Changes that make a run easier to understand; each is kept if the failure stays.
const SIMPLER: &[fn(&mut Plan)] = &[
    |plan| plan.load.pulls = 0,
    |plan| plan.load.others = 0,
    |plan| plan.load.clients = 1,
    |plan| plan.load.clients = plan.load.clients.min(2),
    |plan| plan.load.keys = 1,
    |plan| plan.fleet.network.loss_ppm = 0,
    |plan| plan.fleet.network.duplicate_ppm = 0,
    |plan| plan.fleet.network.reorder_ppm = 0,
    |plan| plan.fleet.hosts.iter_mut().for_each(|host| (host.drift_ppm, host.wall_ahead_ms) = (0, 0)),
    |plan| plan.fleet.hosts.iter_mut().for_each(|host| host.zone = None),
    |plan| plan.fleet.hosts.iter_mut().for_each(|host| host.disk.sync = Latency::even(100, 400)),
];

struct Search {
    best: Plan,
    was_fair: bool,
    tried: u64,
}

impl Search {
    /// Keeps `plan` if it still fails.
    async fn attempt(&mut self, plan: Plan, fails: &mut dyn AsyncFails) -> bool {
        if plan == self.best || plan.check().is_err() || (self.was_fair && is_fair(&plan).is_err()) {
            return false;
        }
        self.tried += 1;
        let kept = fails.fails(&plan).await;
        if kept {
            self.best = plan;
        }
        kept
    }

    /// What is planned for after the failure was seen cannot have caused it. Fault times count from when the fleet was
    /// formed, later than those of violations: this keeps too much rather than too little.
    async fn drop_the_future(&mut self, failed: &RunResult, fails: &mut dyn AsyncFails) {
        let Some(violation) = &failed.violation else { return };
        let seen_ms = violation.at_ns / 1_000_000;
        let mut plan = self.best.clone();
        plan.faults.retain(|scheduled| scheduled.at_ms <= seen_ms);
        self.attempt(plan, fails).await;
    }

    async fn fewer_faults(&mut self, fails: &mut dyn AsyncFails) {
        let mut size = self.best.faults.len();
        while size > 0 {
            let mut removed = false;
            let mut at = 0;
            while at < self.best.faults.len() {
                let mut plan = self.best.clone();
                let end = (at + size).min(plan.faults.len());
                plan.faults.drain(at..end);
                if self.attempt(plan, fails).await {
                    removed = true;
                } else {
                    at += size;
                }
            }
            // One by one until nothing more goes: what is left may need less than before.
            if size > 1 || !removed {
                size /= 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::fake::block_on;
    use crate::observation::{Promise, Violation};
    use crate::plan::expand::{Options, expand};
    use crate::plan::profile::Profile;
    use crate::plan::{Fault, Scheduled};

    struct Rule(fn(&Plan) -> bool, u64);

    impl AsyncFails for Rule {
        fn fails<'a>(&'a mut self, plan: &'a Plan) -> std::pin::Pin<Box<dyn Future<Output = bool> + 'a>> {
            self.1 += 1;
            assert_eq!(is_fair(plan), Ok(()));
            Box::pin(std::future::ready((self.0)(plan)))
        }
    }

    fn failed(seed: u64, at_ns: u64) -> RunResult {
        let options = Options { profile: Profile::Swarm, nodes: Some(5), ..Options::default() };
        let mut result = RunResult::empty(expand(seed, &options));
        let (promise, checker) = (Promise::Safety, "oracle".to_owned());
        result.violation = Some(Violation { promise, checker, at_ns, what: "lost".into() });
        result
    }

    #[test]
    fn only_what_is_needed_is_left() {
        for seed in 0..20 {
            let mut result = failed(seed, u64::MAX);
            let extra = |at_ms, fault| Scheduled { at_ms, fault };
            result.plan.faults.insert(0, extra(0, Fault::EngineForgets { host: 3 }));
            result.plan.faults.push(extra(result.plan.fault_ms, Fault::PowerLossAll));
            let mut rule = Rule(
                |plan| {
                    let has = |name| plan.faults.iter().any(|s| s.fault.name() == name);
                    has("power_loss_all") && has("engine_forgets") && plan.load.clients >= 2
                },
                0,
            );
            let shrunk = block_on(shrink(&result, &mut rule));
            assert_eq!(shrunk.plan.faults.len(), 2, "seed {seed}: {:?}", shrunk.plan.faults);
            assert_eq!((shrunk.plan.load.clients, shrunk.plan.load.keys, shrunk.tried), (2, 1, rule.1));
            assert!(rule.1 < 150, "seed {seed}: {} tries", rule.1);
        }
    }

    #[test]
    fn what_comes_after_the_failure_goes_at_once() {
        let result = failed(1, 50_000_000_000);
        let mut rule = Rule(|plan| plan.faults.iter().all(|s| s.at_ms <= 50_000), 0);
        let shrunk = block_on(shrink(&result, &mut rule));
        assert_eq!(shrunk.plan.faults, []);
    }

    #[test]
    fn what_no_longer_fails_stays_whole() {
        let result = failed(2, u64::MAX);
        let shrunk = block_on(shrink(&result, &mut Rule(|_| false, 0)));
        assert_eq!(shrunk.plan, result.plan);
    }
}
