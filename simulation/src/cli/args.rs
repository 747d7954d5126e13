//! The arguments.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValue;
use clap::{Args, Parser, Subcommand, ValueEnum};

use super::error::CliError;
use crate::batch::Seeds;
use crate::mutants;
use crate::plan::TransportKind;
use crate::plan::profile::Profile;
use crate::plan::scenario::Scenario;
use crate::request::{Minutes, Request, Source};

/// A whole fleet in one thread, from one seed: production code under faults, under virtual time, watched by checkers.
#[derive(Debug, Parser)]
#[command(
    name = "longshore-sim",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  longshore-sim run --seed 42                             One run, and what was verified
  longshore-sim run --seed 7 --scenario slow-disk         One of the scenarios, or a file
  longshore-sim sweep --seeds 0..1000 --jobs 2            Many seeds; the next sweep carries on
  longshore-sim replay capsule.json --shrink              A failure again, and made smaller
  longshore-sim verify-determinism --seeds 0..40          Each seed twice, traces compared
  longshore-sim mutants                                   Planted bugs, and how many seeds find them

Exit codes: 0 pass, 1 safety violated, 2 liveness violated, 3 the harness itself (also: wrong arguments or files),
4 undecided, 130 interrupted"
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run one seed, in this process
    #[command(after_help = "\
Examples:
  longshore-sim run --seed 42 --profile network --nodes 5 --minutes 2 --transport quic
  longshore-sim run --seed 42 --format json
  longshore-sim run --plan plan.json --trace trace.txt")]
    Run(RunArgs),
    /// Run many seeds, a process each, and keep the results
    #[command(after_help = "\
Examples:
  longshore-sim sweep --seeds 0..10000 --profile all --quic-percent 10 --jobs 2
  longshore-sim sweep --seeds 0..200 --scenario all-lose-power --results power.jsonl")]
    Sweep(SweepArgs),
    /// Run the plan of a capsule again, and compare
    #[command(after_help = "\
Examples:
  longshore-sim replay capsule.json
  longshore-sim replay capsule.json --trace trace.txt
  longshore-sim replay capsule.json --shrink --output small.json")]
    Replay(ReplayArgs),
    /// Run each seed twice in fresh processes and compare the traces
    #[command(after_help = "\
Examples:
  longshore-sim verify-determinism --seeds 0..40 --transport both
  longshore-sim verify-determinism --seeds 0..4 --profile all --flip")]
    VerifyDeterminism(VerifyArgs),
    /// Look for planted bugs, and count the seeds that it takes
    #[command(after_help = "\
Examples:
  longshore-sim mutants
  longshore-sim mutants acknowledge-before-sync --seeds-max 50
  longshore-sim mutants --list")]
    Mutants(MutantsArgs),
    /// Print the plan of a seed, as JSON
    #[command(after_help = "\
Examples:
  longshore-sim expand --seed 42 --profile disk >plan.json
  longshore-sim run --plan plan.json")]
    Expand(ExpandArgs),
    /// List the scenarios that can be named
    Scenarios(FormatArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct FormatArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub(super) format: Format,
}

/// What is run, but for the seed and the profile.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "What is run")]
pub(super) struct WhatArgs {
    /// A scenario: its name or a TOML file
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["nodes", "minutes"])]
    pub(super) scenario: Option<String>,
    /// Hosts in all [default: drawn from the seed]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=crate::plan::HOSTS_MAX as i64))]
    pub(super) nodes: Option<u32>,
    /// Virtual minutes of faults [default: 2]
    #[arg(long, value_name = "M")]
    pub(super) minutes: Option<Minutes>,
    /// A planted bug; `longshore-sim mutants --list` has them
    #[arg(long, value_name = "NAME")]
    pub(super) mutant: Option<String>,
}

impl WhatArgs {
    /// Requests for each profile; one for a scenario.
    pub(super) fn requests(
        &self,
        profile: ProfileChoice,
        transport: Option<TransportKind>,
    ) -> Result<Vec<Request>, CliError> {
        if let Some(mutant) = &self.mutant {
            mutants::find(mutant)?;
        }
        let sources = match (&self.scenario, profile) {
            (Some(called), _) => vec![Source::Scenario(Box::new(Scenario::find(called)?), called.clone())],
            (None, ProfileChoice::One(profile)) => vec![Source::Profile(profile)],
            (None, ProfileChoice::All) => Profile::ALL.map(Source::Profile).to_vec(),
        };
        let request = |source| Request {
            source,
            nodes: self.nodes,
            minutes: self.minutes.clone(),
            transport,
            mutant: self.mutant.clone(),
            flip_payload: None,
        };
        Ok(sources.into_iter().map(request).collect())
    }
}

/// A profile, or all of them in turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ProfileChoice {
    One(Profile),
    All,
}

impl ValueEnum for ProfileChoice {
    fn value_variants<'a>() -> &'a [Self] {
        const ONE: [Profile; 10] = Profile::ALL;
        &[
            Self::One(ONE[0]),
            Self::One(ONE[1]),
            Self::One(ONE[2]),
            Self::One(ONE[3]),
            Self::One(ONE[4]),
            Self::One(ONE[5]),
            Self::One(ONE[6]),
            Self::One(ONE[7]),
            Self::One(ONE[8]),
            Self::One(ONE[9]),
            Self::All,
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::One(profile) => profile.to_possible_value(),
            Self::All => Some(PossibleValue::new("all").help("One after the other, by seed")),
        }
    }
}

/// A transport, or each seed with both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum TransportChoice {
    Memory,
    Quic,
    Both,
}

impl TransportChoice {
    pub(super) fn kinds(self) -> &'static [TransportKind] {
        match self {
            Self::Memory => &[TransportKind::Memory],
            Self::Quic => &[TransportKind::Quic],
            Self::Both => &[TransportKind::Memory, TransportKind::Quic],
        }
    }
}

/// How children are run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Processes")]
pub(super) struct ChildArgs {
    /// Processes at a time [default: the machine's cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Longest time for one run, on the machine's clock
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
}

impl ChildArgs {
    pub(super) fn jobs(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.jobs.map_or_else(cores, usize::from)
    }
}

#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// Source of all chance in the run
    #[arg(long, value_name = "N", required_unless_present = "plan")]
    pub(super) seed: Option<u64>,
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// Which kinds of faults [default: swarm]
    #[arg(long, value_enum, conflicts_with = "scenario", help_heading = "What is run")]
    pub(super) profile: Option<Profile>,
    /// How messages travel [default: memory, or what the scenario says]
    #[arg(long, value_enum, help_heading = "What is run")]
    pub(super) transport: Option<TransportKind>,
    /// A plan, as `expand` prints it, in the place of all this
    #[arg(long, value_name = "FILE", help_heading = "What is run",
        conflicts_with_all = ["seed", "scenario", "profile", "nodes", "minutes", "transport", "mutant", "flip_payload"])]
    pub(super) plan: Option<PathBuf>,
    /// Change one byte of the value of this write, numbered from 0: the trace must change
    #[arg(long, value_name = "WRITE", help_heading = "What is run")]
    pub(super) flip_payload: Option<u64>,
    /// Write every event there, a line each
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Where to keep a failure, or none [default: longshore-sim-SEED.json]
    #[arg(long, value_name = "FILE|none")]
    pub(super) capsule: Option<PathBuf>,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct SweepArgs {
    /// A..B (without B), A..=B, or one
    #[arg(long, value_name = "RANGE")]
    pub(super) seeds: Seeds,
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// Which kinds of faults
    #[arg(
        long,
        value_enum,
        default_value = "swarm",
        conflicts_with = "scenario",
        help_heading = "What is run"
    )]
    pub(super) profile: ProfileChoice,
    /// How messages travel [default: memory, or what the scenario says]
    #[arg(long, value_enum, help_heading = "What is run")]
    pub(super) transport: Option<TransportKind>,
    /// This part of the seeds uses QUIC, the others memory
    #[arg(long, value_name = "PERCENT", conflicts_with = "transport", help_heading = "What is run",
        value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(super) quic_percent: Option<u8>,
    /// Results, a JSON line a seed; what is in there already is not run again
    #[arg(long, value_name = "FILE", default_value = "longshore-sim.jsonl")]
    pub(super) results: PathBuf,
    /// Folder for the first failures
    #[arg(long, value_name = "DIR", default_value = "longshore-sim-capsules")]
    pub(super) capsules: PathBuf,
    /// How many failures are kept
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub(super) keep: usize,
    #[command(flatten)]
    pub(super) children: ChildArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct ReplayArgs {
    /// As it was written after a failure
    pub(super) capsule: PathBuf,
    /// Write every event there, a line each
    #[arg(long, value_name = "FILE")]
    pub(super) trace: Option<PathBuf>,
    /// Take out what is not needed for the failure, and write a smaller capsule
    #[arg(long, conflicts_with = "trace")]
    pub(super) shrink: bool,
    /// Where the smaller capsule goes [default: beside the other, with .small.json]
    #[arg(long, value_name = "FILE", requires = "shrink")]
    pub(super) output: Option<PathBuf>,
    /// Longest time for one run while shrinking, on the machine's clock
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = humantime::parse_duration)]
    pub(super) timeout: Duration,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct VerifyArgs {
    /// A..B (without B), A..=B, or one
    #[arg(long, value_name = "RANGE")]
    pub(super) seeds: Seeds,
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// Which kinds of faults; all: each seed with each
    #[arg(
        long,
        value_enum,
        default_value = "swarm",
        conflicts_with = "scenario",
        help_heading = "What is run"
    )]
    pub(super) profile: ProfileChoice,
    /// How messages travel [default: memory, or what the scenario says]
    #[arg(long, value_enum, help_heading = "What is run")]
    pub(super) transport: Option<TransportChoice>,
    /// Also run each with one byte of a payload changed: the trace must be another
    #[arg(long)]
    pub(super) flip: bool,
    /// Folder for the traces of seeds that differ [default: in the system's folder for temporary files]
    #[arg(long, value_name = "DIR")]
    pub(super) traces: Option<PathBuf>,
    #[command(flatten)]
    pub(super) children: ChildArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct MutantsArgs {
    /// Which of them [default: all]
    pub(super) names: Vec<String>,
    /// Only say which there are
    #[arg(long)]
    pub(super) list: bool,
    /// Most seeds for each
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) seeds_max: u64,
    #[command(flatten)]
    pub(super) children: ChildArgs,
    #[command(flatten)]
    pub(super) format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct ExpandArgs {
    /// The seed
    #[arg(long, value_name = "N")]
    pub(super) seed: u64,
    #[command(flatten)]
    pub(super) what: WhatArgs,
    /// Which kinds of faults [default: swarm]
    #[arg(long, value_enum, conflicts_with = "scenario", help_heading = "What is run")]
    pub(super) profile: Option<Profile>,
    /// How messages travel [default: memory, or what the scenario says]
    #[arg(long, value_enum, help_heading = "What is run")]
    pub(super) transport: Option<TransportKind>,
}
