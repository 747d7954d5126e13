//! Many seeds, each once.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use futures_util::StreamExt;
use serde::Serialize;

use super::Seeds;
use super::child::{Children, Ran};
use super::results::{Record, Results};
use crate::capsule::Capsule;
use crate::plan::{CRASHES, PARTITION};
use crate::request::{Request, Source};
use crate::result::{VERSION, Verdict};

/// Most failures that a summary names.
const NAMED_MAX: usize = 20;

pub struct Sweep<'a> {
    pub children: &'a Children,
    pub seeds: Seeds,
    /// What is asked of each seed.
    pub request: &'a dyn Fn(u64) -> Request,
    /// Processes at a time.
    pub jobs: usize,
    pub build: &'a str,
    /// Folder for the capsules of the first failures; it exists.
    pub capsules: PathBuf,
    /// Most capsules.
    pub keep: usize,
}

impl fmt::Debug for Sweep<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sweep({})", self.seeds)
    }
}

/// A sweep could not go on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("cannot write the result of seed {seed}: {source}")]
    Result { seed: u64, source: io::Error },
    #[error("cannot write {path}: {source}", path = .path.display())]
    Capsule { path: PathBuf, source: io::Error },
}

impl Sweep<'_> {
    /// Runs what has no result yet and appends it; `told` hears of each, with how many are left. Ends early when `stop`
    /// resolves: children that run then are killed, and have no result.
    ///
    /// # Errors
    /// If a result or a capsule cannot be written.
    pub async fn run(
        &self,
        results: &mut Results,
        stop: impl Future<Output = ()>,
        told: &mut dyn FnMut(&Record, u64),
    ) -> Result<(), SweepError> {
        let todo = self.todo(results);
        let mut left = todo.len() as u64;
        let one = |seed: u64| async move {
            let request = (self.request)(seed);
            let mut args = request.args_for(seed);
            args.extend(["--capsule".to_owned(), "none".to_owned()]);
            let ran = self.children.run(&args).await;
            (seed, request, ran)
        };
        let mut running = futures_util::stream::iter(todo).map(one).buffer_unordered(self.jobs);
        let mut stop = std::pin::pin!(stop);
        loop {
            let ended = tokio::select! {
                biased;
                () = stop.as_mut() => return Ok(()),
                ended = running.next() => ended,
            };
            let Some((seed, request, ran)) = ended else { return Ok(()) };
            let mut record = Record::new(seed, &request.what(), VERSION, self.build, &ran);
            let kept = results.records().iter().filter(|record| record.capsule.is_some()).count();
            if kept < self.keep {
                record.capsule = self.keep_capsule(seed, &request, &ran)?;
            }
            left -= 1;
            told(&record, left);
            results.append(record).map_err(|source| SweepError::Result { seed, source })?;
        }
    }

    /// Seeds without a result.
    pub fn todo(&self, results: &Results) -> Vec<u64> {
        self.seeds.iter().filter(|seed| !results.has(*seed, &(self.request)(*seed).what())).collect()
    }

    fn keep_capsule(&self, seed: u64, request: &Request, ran: &Ran) -> Result<Option<PathBuf>, SweepError> {
        let Some(result) =
            ran.result().filter(|_| !matches!(ran.verdict(), Verdict::Pass | Verdict::Undecided))
        else {
            return Ok(None);
        };
        let name = match &request.source {
            Source::Profile(profile) => profile.name(),
            Source::Scenario(..) => "scenario",
        };
        let path = self.capsules.join(format!("{name}-{}-{seed}.json", result.plan.transport.name()));
        Capsule::of(result, self.build)
            .write(&path)
            .map_err(|source| SweepError::Capsule { path: path.clone(), source })?;
        Ok(Some(path))
    }

    /// What is known of these seeds, from this sweep and earlier ones.
    pub fn summary(&self, results: &Results) -> Summary {
        let mut summary = Summary { seeds: self.seeds.count(), ..Summary::default() };
        let mut failures = Vec::new();
        for record in results.records() {
            let asked =
                self.seeds.iter().contains(&record.seed) && (self.request)(record.seed).what() == record.what;
            if asked {
                summary.count(record);
                if record.verdict != Verdict::Pass {
                    failures.push(record.clone());
                }
            }
        }
        failures.sort_by_key(|record| record.seed);
        failures.truncate(NAMED_MAX);
        summary.failures = failures;
        summary
    }
}

/// Of many seeds together.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// How many were asked for, and how many have a result.
    pub seeds: u64,
    pub ran: u64,
    pub passed: u64,
    pub safety: u64,
    pub liveness: u64,
    pub harness: u64,
    pub undecided: u64,
    pub elections: u64,
    /// Seeds in which there was at least one.
    pub with_election: u64,
    pub with_crash: u64,
    pub with_partition: u64,
    pub faults: BTreeMap<String, u64>,
    pub calls: u64,
    pub events: u64,
    pub virtual_ms: u64,
    pub cpu_ms: u64,
    /// The first that did not pass.
    pub failures: Vec<Record>,
}

impl Summary {
    fn count(&mut self, record: &Record) {
        self.ran += 1;
        *match record.verdict {
            Verdict::Pass => &mut self.passed,
            Verdict::Safety => &mut self.safety,
            Verdict::Liveness => &mut self.liveness,
            Verdict::Harness => &mut self.harness,
            Verdict::Undecided => &mut self.undecided,
        } += 1;
        self.elections += record.elections;
        let saw = |kinds: &[&str]| u64::from(kinds.iter().any(|kind| record.faults.contains_key(*kind)));
        self.with_election += u64::from(record.elections > 0);
        self.with_crash += saw(&CRASHES);
        self.with_partition += saw(&[PARTITION]);
        self.calls += record.calls;
        self.events += record.events;
        self.virtual_ms += record.virtual_ms;
        self.cpu_ms += record.cpu_ms;
        for (kind, count) in &record.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
    }

    pub fn verdict(&self) -> Verdict {
        let found = [
            (self.safety, Verdict::Safety),
            (self.liveness, Verdict::Liveness),
            (self.harness, Verdict::Harness),
            (self.undecided, Verdict::Undecided),
        ];
        Verdict::worst(found.into_iter().filter(|(count, _)| *count > 0).map(|(_, verdict)| verdict))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::batch::fake::{FakeProgram, block_on};
    use crate::observation::{Promise, Violation};
    use crate::plan::profile::Profile;

    fn violated(result: &mut crate::result::RunResult) {
        let (promise, checker, what) = (Promise::Safety, "oracle".to_owned(), "lost".to_owned());
        result.violation = Some(Violation { promise, checker, at_ns: 5, what });
    }

    struct Bench {
        fake: FakeProgram,
        children: Children,
    }

    impl Bench {
        fn new() -> Self {
            let fake = FakeProgram::new();
            fake.reports("default", |result| {
                result.elections = 2;
                result.faults.insert("kill".into(), 3);
            });
            fake.reports("3", violated);
            fake.reports("5", violated);
            fake.script("4", "exit 101");
            let children = Children { program: fake.path(), timeout: Duration::from_secs(60) };
            Self { fake, children }
        }

        fn sweep(&self, seeds: &str, stop: bool) -> (Summary, Vec<u64>) {
            let request = |seed: u64| {
                Request::profile(if seed.is_multiple_of(2) { Profile::Calm } else { Profile::Swarm })
            };
            let sweep = Sweep {
                children: &self.children,
                seeds: seeds.parse().unwrap(),
                request: &request,
                jobs: 2,
                build: "b",
                capsules: self.fake.dir().to_owned(),
                keep: 1,
            };
            let mut results = Results::open(&self.fake.dir().join("results"), VERSION, "b").unwrap();
            let mut told = Vec::new();
            let stop = async {
                if !stop {
                    std::future::pending::<()>().await;
                }
            };
            block_on(sweep.run(&mut results, stop, &mut |record, _| told.push(record.seed))).unwrap();
            told.sort_unstable();
            (sweep.summary(&results), told)
        }
    }

    #[test]
    fn each_seed_runs_once_and_failures_are_kept() {
        let bench = Bench::new();
        let (summary, told) = bench.sweep("0..6", false);
        assert_eq!(told, [0, 1, 2, 3, 4, 5]);
        assert_eq!((summary.seeds, summary.ran, summary.passed), (6, 6, 3));
        assert_eq!((summary.safety, summary.harness, summary.verdict()), (2, 1, Verdict::Safety));
        assert_eq!((summary.elections, summary.faults["kill"], summary.cpu_ms), (6, 9, 2_500));
        // One has no report; nobody's network was cut.
        assert_eq!((summary.with_election, summary.with_crash, summary.with_partition), (3, 3, 0));
        assert_eq!(summary.failures.iter().map(|record| record.seed).collect::<Vec<_>>(), [3, 4, 5]);
        let capsules: Vec<&PathBuf> = summary.failures.iter().filter_map(|r| r.capsule.as_ref()).collect();
        assert_eq!(capsules.len(), 1, "only the first is kept");
        assert_eq!(Capsule::read(capsules[0]).unwrap().violation.unwrap().checker, "oracle");
        let calls = bench.fake.calls();
        let call = |seed: u64, profile: &str| {
            format!("run --seed {seed} --profile {profile} --capsule none --format json")
        };
        assert!(calls.contains(&call(2, "calm")) && calls.contains(&call(3, "swarm")), "{calls:?}");
    }

    #[test]
    fn the_next_sweep_carries_on() {
        let bench = Bench::new();
        bench.sweep("0..4", false);
        let (summary, told) = bench.sweep("2..8", false);
        assert_eq!(told, [4, 5, 6, 7]);
        assert_eq!((summary.seeds, summary.ran), (6, 6));
        assert_eq!(bench.fake.calls().len(), 8);
        assert_eq!(bench.sweep("0..8", false).1, Vec::<u64>::new());
    }

    #[test]
    fn a_sweep_that_is_stopped_tells_what_it_has() {
        let bench = Bench::new();
        let (summary, told) = bench.sweep("0..6", true);
        assert_eq!((summary.seeds, summary.ran, told.len()), (6, 0, 0));
        assert_eq!(summary.verdict(), Verdict::Pass);
    }
}
