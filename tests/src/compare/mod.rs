//! Longshore's keys beside etcd's, on one machine.
//!
//! Owns: what is compared, in which order, and the report. Both systems are started anew for each round, on the same file system, with
//! their defaults; both are asked over unix sockets; loads come from a process of their own and never at the same time. Rounds alternate, so that a machine that gets
//! slower does so for both. Must never: judge by anything but medians.

pub mod etcd;
pub mod grpc;
pub mod load;
pub mod report;

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Args;
use hyper::Method;
use longshore_node::api::types::RingView;
use report::{CaseReport, Comparison, LoadReport};

use crate::fleet::{Fleet, Site};
use crate::peer::Start;
use crate::wait::eventually_value;
use crate::{binary, machine};

/// How long the ring may take to have three replicas of each group.
const RING_TIMEOUT: Duration = Duration::from_secs(180);

/// One kind of load.
struct Case {
    name: &'static str,
    clients: u32,
    reads: bool,
    hot: bool,
    wanted: Option<f64>,
}

const CASES: [Case; 7] = [
    Case { name: "puts, 1 client", clients: 1, reads: false, hot: false, wanted: Some(1.3) },
    Case { name: "puts, 32 clients", clients: 32, reads: false, hot: false, wanted: Some(1.5) },
    Case { name: "puts, 256 clients", clients: 256, reads: false, hot: false, wanted: Some(2.0) },
    Case { name: "puts, one key, 1", clients: 1, reads: false, hot: true, wanted: None },
    Case { name: "puts, one key, 32", clients: 32, reads: false, hot: true, wanted: None },
    Case { name: "puts, one key, 256", clients: 256, reads: false, hot: true, wanted: None },
    Case { name: "reads, 32 clients", clients: 32, reads: true, hot: false, wanted: Some(2.0) },
];

#[derive(Debug, Clone, Args)]
pub struct CompareArgs {
    /// Where table.md, report.json and plot.svg go
    #[arg(long)]
    pub out: std::path::PathBuf,
    /// Of each run, after a second of warming up
    #[arg(long, default_value_t = 8)]
    pub seconds: u64,
    /// Of each system; odd
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    #[arg(long, default_value_t = 32)]
    pub groups: u32,
    /// Keys that there are
    #[arg(long, default_value_t = 10_000)]
    pub keys: u32,
    /// Most HTTP/2 connections of etcd's clients; they share them
    #[arg(long, default_value_t = 256)]
    pub etcd_connections: u32,
    /// Only cases whose name has this in it
    #[arg(long)]
    pub only: Option<String>,
}

/// Runs everything and writes the report.
pub fn run(args: &CompareArgs) -> Result<Comparison> {
    ensure!(args.rounds % 2 == 1 && args.seconds > 0, "--rounds has to be odd, --seconds at least 1");
    let _alone = machine::alone();
    let wanted = |case: &&Case| args.only.as_ref().is_none_or(|part| case.name.contains(part.as_str()));
    let cases: Vec<&Case> = CASES.iter().filter(wanted).collect();
    ensure!(!cases.is_empty(), "no load is called so");
    let mut reports: Vec<CaseReport> = cases
        .iter()
        .map(|case| CaseReport {
            name: case.name,
            wanted: case.wanted,
            longshore: Vec::new(),
            etcd: Vec::new(),
            errors: 0,
        })
        .collect();
    for round in 1..=args.rounds {
        for system in
            if round % 2 == 1 { [System::Longshore, System::Etcd] } else { [System::Etcd, System::Longshore] }
        {
            eprintln!("round {round} of {}: {system:?}", args.rounds);
            round_of(system, args, &cases, &mut reports)?;
        }
    }
    let comparison = Comparison {
        machine: hardware(),
        longshore: version()?,
        etcd: etcd::version()?,
        groups: args.groups,
        seconds: args.seconds,
        cases: reports,
    };
    std::fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    let write = |name: &str, text: String| {
        let path = args.out.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))
    };
    write("table.md", report::markdown(&comparison))?;
    write("report.json", serde_json::to_string_pretty(&comparison)? + "\n")?;
    write("plot.svg", report::svg(&comparison))?;
    Ok(comparison)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Longshore,
    Etcd,
}

/// Puts one kind of load on a system, after writing all keys once if so.
type Load<'a> = Box<dyn FnMut(&Case, bool) -> Result<LoadReport> + 'a>;

fn round_of(system: System, args: &CompareArgs, cases: &[&Case], reports: &mut [CaseReport]) -> Result<()> {
    // Dropped after the loads: the processes end then.
    let site = Site::new("compare");
    let mut run: Load = match system {
        System::Longshore => {
            let fleet = start_longshore(site, args.groups);
            Box::new(move |case, fill| load_longshore(&fleet, args, case, fill))
        }
        System::Etcd => {
            let cluster = etcd::EtcdCluster::start(site.dir(), site.net())?;
            Box::new(move |case, fill| {
                let _files = &site;
                load_etcd(&cluster, args, case, fill)
            })
        }
    };
    for (index, (case, report)) in cases.iter().zip(reports).enumerate() {
        let found = run(case, index == 0)?;
        let latencies = if case.reads { found.reads } else { found.writes };
        ensure!(latencies.count > 0, "{system:?}, {}: nothing succeeded: {:?}", case.name, found.errors);
        ensure!(found.reads_absent == 0, "{system:?}, {}: reads found nothing", case.name);
        eprintln!("    {:<20} {:>7.0} per s  {:?}", case.name, latencies.per_s, found.errors);
        report.errors += found.errors.values().sum::<u64>();
        match system {
            System::Longshore => report.longshore.push(latencies),
            System::Etcd => report.etcd.push(latencies),
        }
    }
    Ok(())
}

fn start_longshore(site: Site, groups: u32) -> Fleet {
    let mut first =
        site.spec(1).with(["--groups", &groups.to_string(), "--replication", "3"]).start(&Start::Init);
    first.spec = site.spec(1);
    let token = first.token();
    let mut fleet = Fleet { peers: vec![first], site, token };
    for number in 2..=3 {
        let spec = fleet.site.spec(number);
        fleet.join(spec);
    }
    fleet.settle();
    eventually_value("three replicas of every group, in place", RING_TIMEOUT, || {
        let reply = fleet.peers[0].http().send(Method::GET, "/v1/ring", &[], None);
        let ring: RingView = reply.and_then(|reply| reply.parse()).map_err(|error| error.to_string())?;
        match ring.settled && ring.replicas == 3 && ring.balance.leaders.max_over_mean < 1.2 {
            true => Ok(()),
            false => Err(format!("{:?}, leaders {:?}", ring.movement, ring.balance.leaders)),
        }
    });
    fleet
}

fn load_longshore(fleet: &Fleet, args: &CompareArgs, case: &Case, fill: bool) -> Result<LoadReport> {
    let mut command = Command::new(binary::longshore());
    for peer in &fleet.peers {
        command.arg("--host").arg(peer.socket());
    }
    command.args(["cache", "bench", "--format", "json", "--warm-up", "1s", "--value-size", "256"]);
    command.args(["--duration", &format!("{}s", args.seconds), "--clients", &case.clients.to_string()]);
    command.args(["--keys", &args.keys.to_string(), "--read-share", if case.reads { "1" } else { "0" }]);
    command.args(["--distribution", if case.hot { "hot" } else { "uniform" }]);
    if fill {
        command.arg("--fill");
    }
    report_of(command)
}

fn load_etcd(cluster: &etcd::EtcdCluster, args: &CompareArgs, case: &Case, fill: bool) -> Result<LoadReport> {
    let endpoints: Vec<String> = cluster.endpoints.iter().map(|path| path.display().to_string()).collect();
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["etcd-load", "--endpoints", &endpoints.join(","), "--value-size", "256"]);
    command.args(["--seconds", &args.seconds.to_string(), "--clients", &case.clients.to_string()]);
    command.args(["--keys", &args.keys.to_string(), "--connections", &args.etcd_connections.to_string()]);
    for (flag, is_set) in [("--reads", case.reads), ("--hot", case.hot), ("--fill", fill)] {
        if is_set {
            command.arg(flag);
        }
    }
    report_of(command)
}

/// Runs a load in a process of its own and reads the report that it prints.
fn report_of(mut command: Command) -> Result<LoadReport> {
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(output.status.success(), "{command:?}: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("the report of {command:?}"))
}

fn version() -> Result<String> {
    let output = Command::new(binary::longshore()).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("longshore").to_owned())
}

fn hardware() -> String {
    let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or(": unknown");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("{cores} cores, {}", model.trim_start_matches([' ', '\t', ':']))
}
