//! Commands run whole: on a simulator that does as told, in this process or as a script in the place of the program.

use std::fs::File;
use std::path::{Path, PathBuf};

use clap::CommandFactory;

use super::*;
use crate::batch::fake::FakeProgram;
use crate::capsule::Capsule;
use crate::mutants::{MUTANTS, hooks_are_built};
use crate::observation::{Promise, Verified, Violation};
use crate::plan::{Plan, TransportKind};
use crate::result::{RunResult, VERSION};

/// Seed 1 violates safety, 2 liveness, 3 panics, 4 is undecided, 5 fails in the harness; the others pass. A longer plan
/// has another trace.
fn simulate(plan: &Plan, trace: Option<File>) -> RunResult {
    let mut result = RunResult::empty(plan.clone());
    (result.virtual_ms, result.cpu_ms, result.wall_ms) = (180_000, 450, 460);
    (result.elections, result.leaders) = (4, 2);
    result.trace.hash = format!("{:032x}", plan.seed + plan.faults.len() as u64);
    result.trace.events = 12_345;
    result.faults.insert("kill".into(), 3);
    result.calls.entry("write".into()).or_default().insert("written".into(), 1_234);
    let (checker, claim) = ("oracle".to_owned(), "acknowledged writes survive".to_owned());
    let undecided = u64::from(plan.seed == 4);
    result.verified.push(Verified { checker, claim, events: 2_000, undecided });
    let promise = if plan.seed == 1 { Promise::Safety } else { Promise::Liveness };
    match plan.seed {
        1 | 2 => {
            let what = "write 7 is gone".to_owned();
            result.violation =
                Some(Violation { promise, checker: "oracle".into(), at_ns: 34_500_000_000, what });
        }
        3 => panic!("out of {}", "luck"),
        5 => result.harness_error = Some("the fleet did not form".into()),
        _ => {}
    }
    if let Some(mut file) = trace {
        file.write_all(b"1 world begins\n").unwrap();
    }
    result.judge_hold();
    result
}

/// What a command left.
#[derive(Debug)]
struct Ran {
    code: u8,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn is(&self, code: u8, stdout: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        for part in stdout {
            assert!(self.stdout.contains(part), "{part:?} is not in\n{}\n{}", self.stdout, self.stderr);
        }
    }

    #[track_caller]
    fn fails(&self, code: u8, error: &str) {
        assert!(self.code == code && self.stderr.contains(error), "{self:?} (expected: {error})");
    }
}

fn command_with(program: PathBuf, args: &[&str]) -> Ran {
    let harness = Harness { simulate, mutants: MUTANTS, program };
    let args = std::iter::once("longshore-sim").chain(args.iter().copied()).map(str::to_owned).collect();
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut console = Console { stdout: &mut stdout, stderr: &mut stderr, stderr_is_terminal: false };
    let code = run_with(&harness, args, &mut console);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code, stdout: text(stdout), stderr: text(stderr) }
}

fn command(args: &[&str]) -> Ran {
    command_with("/nowhere".into(), args)
}

fn path(dir: &Path, name: &str) -> String {
    dir.join(name).display().to_string()
}

#[test]
fn the_arguments_are_consistent_and_explained() {
    let mut cli = Cli::command();
    cli.clone().debug_assert();
    for command in cli.get_subcommands_mut() {
        let name = command.get_name().to_owned();
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{name} {} is not explained", argument.get_id());
        }
    }
    let help = command(&["--help"]);
    help.is(0, &["Exit codes: 0 pass, 1 safety violated", "verify-determinism", "Examples:"]);
    command(&["--version"]).is(0, &[&format!("longshore-sim {VERSION}")]);
}

#[test]
fn a_run_that_passes() {
    let ran = command(&["run", "--seed", "42", "--nodes", "4", "--capsule", "none"]);
    ran.is(
        0,
        &[
            "seed 42, swarm, 4 hosts, memory: passed\n",
            "3 min 0 s virtual, 0.45 s CPU, 0.46 s real: 400 virtual seconds per CPU second",
            "elections   4, with 2 leaders",
            "faults      kill 3\n",
            "operations  write: written 1,234\n",
            "oracle: acknowledged writes survive (2,000 events)",
            "over 12,345 events",
        ],
    );
    assert!(!ran.stdout.contains("reproduce") && ran.stderr.is_empty(), "{ran:?}");
    let json = command(&["run", "--seed", "42", "--format", "json", "--capsule", "none"]);
    let value: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!((&value["verdict"], &value["result"]["elections"]), (&"pass".into(), &4.into()));
    assert_eq!(value["reproduce"], "longshore-sim run --seed 42 --profile swarm");
}

#[test]
fn a_run_that_fails_says_how_to_do_it_again() {
    let dir = tempfile::tempdir().unwrap();
    let capsule = path(dir.path(), "c.json");
    let run = |seed: &str| {
        command(&["run", "--seed", seed, "--profile", "disk", "--transport", "quic", "--capsule", &capsule])
    };
    run("1").is(
        1,
        &[
            "seed 1, disk, 4 hosts, quic: safety violated\n",
            "violation      safety, by oracle at 34.50 s: write 7 is gone",
            &format!("version        longshore-sim {VERSION} (build "),
            "configuration  disk, 4 hosts, quic; 2 min 0 s of faults",
            &capsule,
            "reproduce with: longshore-sim run --seed 1 --profile disk --transport quic\n",
        ],
    );
    let kept = Capsule::read(Path::new(&capsule)).unwrap();
    assert_eq!((kept.plan.seed, kept.plan.transport), (1, TransportKind::Quic));
    run("2").is(2, &["liveness violated", "liveness, by oracle"]);
    run("3").is(3, &["the harness failed", "it panicked: out of luck", "reproduce with"]);
    run("5").is(3, &["the fleet did not form"]);
    std::fs::remove_file(&capsule).unwrap();
    run("4").is(4, &["undecided\n", "(2,000 events, 1 UNDECIDED)"]);
    assert!(!Path::new(&capsule).exists(), "only failures are kept");
}

#[test]
fn plans_go_out_and_in() {
    let dir = tempfile::tempdir().unwrap();
    let plan = path(dir.path(), "plan.json");
    let printed = command(&["expand", "--seed", "9", "--profile", "clock", "--minutes", "0.5"]);
    std::fs::write(&plan, &printed.stdout).unwrap();
    let trace = path(dir.path(), "trace");
    let ran = command(&["run", "--plan", &plan, "--capsule", "none", "--trace", &trace]);
    ran.is(0, &["seed 9, clock, "]);
    assert_eq!(std::fs::read_to_string(&trace).unwrap(), "1 world begins\n");
    let mut value: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    value["unhealed"] = serde_json::json!([1, 2, 3]);
    std::fs::write(&plan, value.to_string()).unwrap();
    let ran = command(&["run", "--plan", &plan, "--capsule", "none"]);
    ran.fails(0, "warning: this plan asks for more than a fleet can survive: ");
    value["load"]["clients"] = 0.into();
    std::fs::write(&plan, value.to_string()).unwrap();
    command(&["run", "--plan", &plan]).fails(3, "error: the plan cannot be run: load: clients are 1 to 64");
    std::fs::write(&plan, "{}").unwrap();
    command(&["run", "--plan", &plan]).fails(3, "plan.json is not a plan: missing field");
}

#[test]
fn scenarios_by_name_and_by_file() {
    let listed = command(&["scenarios"]);
    listed.is(0, &["leader-power-loss  ", "rolling-restart"]);
    let run = |scenario: &str| command(&["run", "--seed", "8", "--scenario", scenario, "--capsule", "none"]);
    run("minority-deaf").is(0, &["seed 8, minority-deaf, 5 hosts, memory: passed"]);
    // This simulator shows enough writes and elections, and too few faults.
    run("rolling-restart").is(2, &["liveness, by hold", "min_faults is 12; it was 3"]);
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), "mine.toml");
    std::fs::write(&file, "description = 'x'\n[fleet]\nhosts = 3\nfault_ms = 20_000\nsetle_ms = 5\n")
        .unwrap();
    run(&file).fails(3, "mine.toml, line 5: unknown key `setle_ms`; did you mean `settle_ms`?");
    run("no-such").fails(3, "hint: `longshore-sim scenarios` lists those that can be named");
}

#[test]
fn mistakes_are_met_with_clear_errors() {
    let dir = tempfile::tempdir().unwrap();
    let gone = path(dir.path(), "no/such/file");
    let folder = dir.path().display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["run"], "--seed <N>"),
        (&["run", "--seed", "1", "--profile", "swam"], "similar value exists: 'swarm'"),
        (&["sweep", "--seeds", "0..9", "--profile", "membersip"], "similar value exists: 'membership'"),
        (&["run", "--seed", "1", "--transport", "quick"], "similar value exists: 'quic'"),
        (&["run", "--seed", "1", "--profle", "disk"], "similar argument exists: '--profile'"),
        (&["run", "--seed", "1", "--nodes", "0"], "0 is not in 1..=50"),
        (&["run", "--seed", "1", "--minutes", "0"], "0 is not from 0.17 to 1440 minutes"),
        (&["run", "--seed", "1", "--scenario", "slow-disk", "--nodes", "4"], "cannot be used with"),
        (&["run", "--seed", "1", "--mutant", "read-by-leas"], "did you mean read-by-lease?"),
        (&["run", "--seed", "1", "--trace", &gone], "error: cannot write /"),
        (&["run", "--seed", "1", "--capsule", &gone], "error: cannot write /"),
        (&["run", "--plan", &gone], "error: cannot read /"),
        (&["sweep", "--seeds", "5..5"], "there is no seed in 5..5"),
        (&["sweep", "--seeds", "9..3"], "there is no seed in 9..3"),
        (&["verify-determinism", "--seeds", "0..0"], "there is no seed in 0..0"),
        (
            &["sweep", "--seeds", "1..3", "--capsules", &folder, "--results", &gone],
            "cannot write results to /",
        ),
        (&["sweep", "--seeds", "1..3", "--capsules", &path(dir.path(), "f/x")], "error: cannot write /"),
        (&["sweep", "--seeds", "1..3", "--quic-percent", "101"], "101 is not in 0..=100"),
        (&["replay", &gone], "error: cannot read /"),
        (&["replays"], "similar subcommand exists: 'replay'"),
        (&["mutants", "acknowledge-befor-sync"], "did you mean acknowledge-before-sync?"),
    ];
    std::fs::write(dir.path().join("f"), "").unwrap();
    for (args, expected) in cases {
        command(args).fails(3, expected);
    }
}

#[test]
fn capsules_are_replayed_and_compared() {
    let dir = tempfile::tempdir().unwrap();
    let file = path(dir.path(), "c.json");
    command(&["run", "--seed", "1", "--capsule", &file]).is(1, &[]);
    let replay = || command(&["replay", &file]);
    replay().is(
        1,
        &["safety violated", "replayed: the same to the byte", "reproduce with: longshore-sim replay "],
    );
    let mut capsule = Capsule::read(Path::new(&file)).unwrap();
    let mut change = |change: &dyn Fn(&mut Capsule)| {
        change(&mut capsule);
        capsule.write(Path::new(&file)).unwrap();
    };
    change(&|capsule| capsule.trace.hash = "other".into());
    replay().is(3, &["NOT replayed", "not deterministic"]);
    change(&|capsule| capsule.build = "older".into());
    replay().is(1, &["another build (older wrote the capsule) fails in the same way"]);
    change(&|capsule| capsule.plan.seed = 7);
    replay().is(0, &["another build wrote the capsule (older); there it was: safety, by oracle at 34.50 s"]);
    change(&|capsule| capsule.version = "0.0.1".into());
    replay().fails(3, "was written by version 0.0.1; this is ");
    assert!(replay().stderr.contains("hint: build the version that wrote it"));
    change(&|capsule| capsule.format = 9);
    replay().fails(3, "has capsule format 9; this program reads 1");
}

#[test]
fn capsules_are_shrunk() {
    let fake = FakeProgram::new();
    let fails = |result: &mut RunResult| {
        result.violation = Some(Violation {
            promise: Promise::Safety,
            checker: "oracle".into(),
            at_ns: u64::MAX / 2,
            what: "lost".into(),
        });
    };
    fake.result("0", fails);
    fake.result("1", |_| {});
    // It fails as long as all hosts lose power.
    fake.script(
        "default",
        r#"
        while [ "$1" != --plan ]; do shift; done
        if grep -q power_loss_all "$2"; then cat "$here/0.json"; else cat "$here/1.json"; fi"#,
    );
    let seed = (0..).find(|seed| {
        let plan = crate::request::Request::profile(crate::plan::profile::Profile::Disk).plan(*seed);
        plan.faults.iter().filter(|s| s.fault.name() == "power_loss_all").count() == 1
    });
    let mut failed = RunResult::empty(
        crate::request::Request::profile(crate::plan::profile::Profile::Disk).plan(seed.unwrap()),
    );
    fails(&mut failed);
    let file = fake.dir().join("capsule.json");
    Capsule::of(&failed, "b").write(&file).unwrap();
    let shrink = || command_with(fake.path(), &["replay", &file.display().to_string(), "--shrink"]);
    let ran = shrink();
    ran.is(1, &["1 of ", "PowerLossAll", "safety, by oracle", "capsule.small.json"]);
    assert!(ran.stderr.contains("still fails with 1 fault"), "{ran:?}");
    assert!(!fake.dir().join("capsule.small.plan.json").exists());
    // The fake reports a plan of its own; what counts is that the last failing run is kept.
    assert_eq!(Capsule::read(&fake.dir().join("capsule.small.json")).unwrap().violation, failed.violation);
    fake.reports("default", |_| {});
    shrink().fails(3, "does not fail in that way any more");
}

#[test]
fn a_sweep_is_told_and_carries_on() {
    let fake = FakeProgram::new();
    fake.reports("default", |result| result.elections = 2);
    fake.reports("3", |result| {
        let (promise, checker) = (Promise::Liveness, "liveness".to_owned());
        result.violation = Some(Violation { promise, checker, at_ns: 1, what: "no leader".into() });
    });
    let (results, capsules) = (path(fake.dir(), "r.jsonl"), path(fake.dir(), "capsules"));
    let sweep = |seeds: &str, more: &[&str]| {
        let args = ["sweep", "--seeds", seeds, "--results", &results, "--capsules", &capsules, "--jobs", "2"];
        command_with(fake.path(), &[&args[..], more].concat())
    };
    let ran = sweep("0..10", &["--profile", "all", "--quic-percent", "30"]);
    ran.is(
        2,
        &[
            "10 of 10 seeds: 9 passed, 0 safety, 1 liveness, 0 harness, 0 undecided\n",
            "1,000.00 s virtual".replace("1,000.00 s", "16 min 40 s").as_str(),
            "200 virtual seconds per CPU second",
            "elections   18",
            "seed 3 (--profile membership --transport ",
            "liveness, by liveness at 0.00 s: no leader; ",
        ],
    );
    assert!(ran.stderr.contains("10 of 10 seeds: 1 did not pass"), "{}", ran.stderr);
    let calls = fake.calls();
    let quic = calls.iter().filter(|call| call.contains("--transport quic")).count();
    assert!((1..=6).contains(&quic) && calls.len() == 10, "{calls:?}");
    let ran = sweep("0..12", &["--profile", "all", "--quic-percent", "30", "--format", "json"]);
    let summary: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&summary["ran"], &summary["passed"]), (&12.into(), &11.into()));
    assert!(ran.stderr.contains("10 seeds of 0..=11 in "), "{}", ran.stderr);
    assert_eq!(fake.calls().len(), 12);
    // Anything else asked for is another result.
    sweep("0..2", &[]).is(0, &["2 of 2 seeds: 2 passed"]);
    assert_eq!(fake.calls().len(), 14);
    std::fs::write(&results, "hello\n").unwrap();
    sweep("0..2", &[]).fails(3, "r.jsonl, line 1: not a result of a sweep");
}

#[test]
fn determinism_is_verified() {
    let fake = FakeProgram::new();
    fake.reports("default", |result| (result.trace.events, result.elections) = (500, 3));
    let verify = |more: &[&str]| {
        let traces = path(fake.dir(), "traces");
        command_with(fake.path(), &[&["verify-determinism", "--traces", &traces], more].concat())
    };
    let ran = verify(&["--seeds", "0..4", "--transport", "both", "--profile", "all"]);
    ran.is(0, &["80 of 80 runs the same in two processes: 40,000 events, at least 3 elections each\n"]);
    assert_eq!(fake.calls().len(), 160);
    // Without a write there is no byte to change.
    verify(&["--seeds", "1", "--flip"])
        .is(0, &["1 of 1 run the same in two processes, another in 0 with a byte"]);
    fake.reports("1", |result| {
        result.calls.entry("write".into()).or_default().insert("written".into(), 9);
    });
    verify(&["--seeds", "1", "--flip"])
        .is(3, &["seed 1 (--profile swarm): a changed byte left the trace as it was"]);
    fake.reports("2", |result| result.harness_error = Some("no".into()));
    verify(&["--seeds", "2"])
        .is(3, &["seed 2 (--profile swarm): the same twice, hash-2, but the harness failed"]);
    fake.script("3", "echo gone >&2; exit 7");
    verify(&["--seeds", "3"])
        .is(3, &["seed 3 (--profile swarm): exit status: 7: gone", "0 of 1 run the same"]);
    for (name, hash) in [("even", "h0"), ("odd", "h1")] {
        fake.result(name, |result| result.trace.hash = hash.into());
    }
    fake.script(
        "4",
        r#"
        if [ "$(($(wc -l <"$here/calls") % 2))" = 0 ]; then which=even; else which=odd; fi
        previous=
        for argument in "$@"; do
            if [ "$previous" = --trace ]; then { echo same; echo "event $which"; } >"$argument"; fi
            previous="$argument"
        done
        cat "$here/$which.json""#,
    );
    let ran = verify(&["--seeds", "4"]);
    ran.is(
        3,
        &[
            "seed 4 (--profile swarm): NOT the same: ",
            "the first difference is in line 2:\n      same\n    a event ",
        ],
    );
}

#[test]
fn mutants_are_hunted() {
    let fake = FakeProgram::new();
    fake.reports("default", |_| {});
    let mutants = |more: &[&str]| command_with(fake.path(), &[&["mutants"], more].concat());
    mutants(&["--list"]).is(0, &["a sync of the log returns at once"]);
    let name = "acknowledge-before-sync";
    let ran = mutants(&[name, "--seeds-max", "3"]);
    ran.is(3, &["MUTANT", name, "    3          1.5  NOT FOUND", "0 of 1 found"]);
    assert!(ran.stderr.contains("NOT found in 3 seeds"), "{}", ran.stderr);
    fake.reports("1", |result| {
        let (promise, checker) = (Promise::Safety, "oracle".to_owned());
        result.violation = Some(Violation { promise, checker, at_ns: 1, what: "lost".into() });
    });
    mutants(&[name]).is(0, &["    2          1.0  oracle", "1 of 1 found"]);
    if !hooks_are_built() {
        mutants(&["read-by-lease"]).fails(3, "this build has no hook for read-by-lease");
        mutants(&["read-by-lease"]).fails(3, "hint: build with them: cargo build");
    }
}
