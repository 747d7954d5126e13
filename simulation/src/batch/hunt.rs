//! Planted bugs: how many seeds it takes to find each. A bug that is not found is a hole in the simulation.

use futures_util::StreamExt;
use serde::Serialize;

use super::child::{Children, Ran};
use crate::mutants::Mutant;
use crate::plan::TransportKind;
use crate::request::Request;

/// What came of a hunt.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hunted {
    pub mutant: &'static str,
    /// The first seed that found it.
    pub seed: Option<u64>,
    /// Seeds run, that one included.
    pub seeds: u64,
    pub cpu_ms: u64,
    /// Which checker, and what it said.
    pub checker: Option<String>,
    pub what: Option<String>,
    /// Runs that the harness itself failed in.
    pub broken: u64,
}

/// Runs seeds from 0 until one finds the bug, at most `seeds_max`. Counts in the order of seeds, however many run at a time.
pub async fn hunt(children: &Children, mutant: &Mutant, seeds_max: u64, jobs: usize) -> Hunted {
    assert!(!mutant.profiles.is_empty(), "a mutant is looked for somewhere");
    let mut hunted =
        Hunted { mutant: mutant.name, seed: None, seeds: 0, cpu_ms: 0, checker: None, what: None, broken: 0 };
    let one = |seed: u64| async move {
        let profile = mutant.profiles[(seed % mutant.profiles.len() as u64) as usize];
        let request = Request {
            mutant: Some(mutant.name.to_owned()),
            // Some are planted in the messages of this transport.
            transport: Some(TransportKind::Memory),
            ..Request::profile(profile)
        };
        let mut args = request.args_for(seed);
        args.extend(["--capsule".to_owned(), "none".to_owned()]);
        (seed, children.run(&args).await)
    };
    let mut running = futures_util::stream::iter(0..seeds_max).map(one).buffered(jobs);
    while let Some((seed, ran)) = running.next().await {
        hunted.seeds += 1;
        let result = match ran {
            Ran::Broken(what) => {
                hunted.broken += 1;
                hunted.what.get_or_insert(what);
                continue;
            }
            Ran::Reported(report) => report.result,
        };
        hunted.cpu_ms += result.cpu_ms;
        if let Some(violation) = result.violation {
            hunted.seed = Some(seed);
            hunted.checker = Some(violation.checker);
            hunted.what = Some(violation.what);
            break;
        }
        if let Some(error) = result.harness_error {
            hunted.broken += 1;
            hunted.what.get_or_insert(error);
        }
    }
    hunted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::fake::{FakeProgram, block_on};
    use crate::mutants::{Class, Plant};
    use crate::observation::{Promise, Violation};
    use crate::plan::profile::Profile;

    const MUTANT: Mutant = Mutant {
        name: "early",
        description: "",
        class: Class::AcknowledgedTooEarly,
        plant: Plant::Wipe,
        exposed_by: "",
        profiles: &[Profile::Disk, Profile::Swarm],
    };

    #[test]
    fn the_first_seed_that_finds_it_counts() {
        let fake = FakeProgram::new();
        let children = Children { program: fake.path(), timeout: Duration::from_secs(60) };
        fake.reports("default", |_| {});
        fake.script("1", "exit 3");
        for seed in ["3", "4"] {
            fake.reports(seed, |result| {
                let (promise, checker) = (Promise::Safety, format!("oracle-{seed}"));
                result.violation = Some(Violation { promise, checker, at_ns: 5, what: "lost".into() });
            });
        }
        let hunted = block_on(hunt(&children, &MUTANT, 300, 2));
        assert_eq!((hunted.seed, hunted.seeds, hunted.cpu_ms, hunted.broken), (Some(3), 4, 1_500, 1));
        assert_eq!(hunted.checker.as_deref(), Some("oracle-3"));
        let call =
            "run --seed 0 --profile disk --transport memory --mutant early --capsule none --format json";
        assert_eq!(fake.calls().iter().filter(|made| *made == call).count(), 1);
        assert!(fake.calls().iter().any(|made| made.starts_with("run --seed 1 --profile swarm")));
        let missed = block_on(hunt(&children, &MUTANT, 3, 1));
        assert_eq!((missed.seed, missed.seeds), (None, 3));
    }
}
