//! Longshore's keys beside etcd's: `longshore-compare run --out FOLDER`. See `scripts/bench etcd`.

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use longshore_tests::compare::load::{self, LoadArgs};
use longshore_tests::compare::{self, CompareArgs, report};

#[derive(Debug, Parser)]
#[command(about = "Longshore's keys beside etcd's, on this machine")]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Compare, and write a table, JSON and a plot; exits 1 when a target is not met
    Run(CompareArgs),
    /// Load on an etcd cluster, reported as JSON like that of `longshore cache bench`
    EtcdLoad(LoadArgs),
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        What::Run(args) => {
            let comparison = compare::run(&args)?;
            println!("{}", report::markdown(&comparison));
            let missed: Vec<&str> =
                comparison.cases.iter().filter(|case| !case.is_met()).map(|case| case.name).collect();
            if !missed.is_empty() {
                bail!("not as wanted: {}", missed.join("; "));
            }
            Ok(())
        }
        What::EtcdLoad(args) => {
            // One thread, as `longshore cache bench` has.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let report = tokio::task::LocalSet::new().block_on(&runtime, load::run(args))?;
            println!("{}", serde_json::to_string(&report)?);
            Ok(())
        }
    }
}
