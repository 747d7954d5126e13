//! `longshore cache bench`: load on keys from this process, and what it measured.
//!
//! A closed loop: each client has one connection and asks one thing after the other, so a slow reply also delays what comes
//! after it. What is measured is what such clients see; requests in flight never exceed their number.

mod keys;
mod stats;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, ValueEnum};
use longshore_model::keys::limits::{VALUE_BYTES_MAX, check_namespace};
use longshore_raft::consensus::runtime::AsyncRuntime as _;
use longshore_raft::model::ring::{GroupCount, partition_of};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::args::Format;
use super::error::{CliError, Exit};
use super::session::{Client, Runtime, Session};
use crate::api::client::{ClientError, KeyConnection};
use crate::api::timer::Stopwatch;
use crate::api::types::{ErrorCode, KeyCondition, KeyLifetime};
use crate::config::units::{parse_duration, parse_size};
use keys::{Distribution, KeyChooser};
use stats::{Report, Setup, Tally};

/// Most clients: each takes a connection here and at the node, which has a limit of its own.
const CLIENTS_MAX: u32 = 4096;
/// Most keys: the table of a Zipf distribution takes 8 bytes for each.
const KEYS_MAX: u32 = 10_000_000;
/// Pause of a client after an error, so that it does not spin.
const ERROR_PAUSE: Duration = Duration::from_millis(20);
/// Longest time to measure: an hour of load is an experiment, more is a mistake in the unit.
const DURATION_MAX: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, Args)]
pub(super) struct BenchArgs {
    /// Where the keys are
    #[arg(long, default_value = "bench")]
    namespace: String,
    /// Clients, each with a connection of its own; spread over the nodes of --host, which may be repeated or a list
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=i64::from(CLIENTS_MAX)))]
    clients: u32,
    /// How long to measure
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = measured)]
    duration: Duration,
    /// How long to run before that, unmeasured
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_duration)]
    warm_up: Duration,
    /// Bytes of a value
    #[arg(long, value_name = "SIZE", default_value = "256", value_parser = value_size)]
    value_size: usize,
    /// Share of reads, 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.5, value_parser = share)]
    read_share: f64,
    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, value_parser = clap::value_parser!(u32).range(1..=i64::from(KEYS_MAX)))]
    keys: u32,
    /// How often each key is asked for
    #[arg(long, value_enum, default_value_t = DistributionArg::Uniform)]
    distribution: DistributionArg,
    /// Write every key once before that, so that reads find something
    #[arg(long)]
    fill: bool,
    /// The same seed chooses the same keys
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DistributionArg {
    /// All alike
    Uniform,
    /// The k-th with a share of 1/k^0.99, as in YCSB
    Zipf,
    /// One key only
    Hot,
}

fn measured(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    match duration.is_zero() || duration > DURATION_MAX {
        true => Err("measure for more than 0s, and for 1h at most".to_owned()),
        false => Ok(duration),
    }
}

fn value_size(text: &str) -> Result<usize, String> {
    let size = parse_size(text)?;
    match size > VALUE_BYTES_MAX {
        true => Err(format!("a value has at most {VALUE_BYTES_MAX} bytes")),
        false => Ok(size),
    }
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a share; write a number from 0 to 1"))
}

/// What all clients share. They run on one thread, so the lock is never waited for.
struct Load {
    args: BenchArgs,
    chooser: KeyChooser,
    groups: GroupCount,
    clock: Stopwatch<Runtime>,
    /// When measuring begins and ends, on the clock.
    begin: Duration,
    end: Duration,
    stop: CancellationToken,
    tally: Mutex<Tally>,
}

pub(super) async fn bench(session: &mut Session<'_>, args: BenchArgs) -> Result<(), CliError> {
    check_namespace(&args.namespace).map_err(|error| CliError::new(Exit::Usage, error.to_string()))?;
    let count = session.client.ring().await?.group_count;
    let groups = GroupCount::new(count).map_err(|error| CliError::new(Exit::Failed, error.to_string()))?;
    let distribution = match args.distribution {
        DistributionArg::Uniform => Distribution::Uniform,
        DistributionArg::Zipf => Distribution::Zipf,
        DistributionArg::Hot => Distribution::Hot,
    };
    let setup = Setup {
        nodes: session.clients().map(|client| client.target().to_string()).collect(),
        clients: args.clients,
        value_bytes: args.value_size as u64,
        read_share: args.read_share,
        keys: args.keys,
        distribution: distribution.name(),
        seed: args.seed,
    };
    let stop = CancellationToken::new();
    if args.fill {
        session.terminal.report(&format!("writing {} keys\n", args.keys));
        let work = run_clients(session, args.clients, |index, client| {
            fill(args.clone(), index, client, stop.clone())
        });
        until_done(session, work, &stop).await?;
    }
    let clock = Stopwatch::start();
    let load = Arc::new(Load {
        chooser: KeyChooser::new(distribution, args.keys),
        groups,
        clock,
        begin: args.warm_up,
        end: args.warm_up + args.duration,
        stop: stop.clone(),
        tally: Mutex::new(Tally::new()),
        args,
    });
    let work =
        run_clients(session, load.args.clients, |index, client| drive(Arc::clone(&load), index, client));
    let interrupted = match until_done(session, work, &stop).await {
        Ok(()) => false,
        Err(error) if error.exit == Exit::Interrupted => true,
        Err(error) => return Err(error),
    };
    let measured = load.clock.elapsed().min(load.end).saturating_sub(load.begin);
    let report = Report::new(setup, measured, &load.tally.lock());
    session.show(load.args.format, &report, stats::render)?;
    match (interrupted, report.operations) {
        (true, _) => Err(CliError::quiet(Exit::Interrupted)),
        (false, 0) => Err(CliError::new(Exit::Failed, "nothing succeeded")),
        (false, _) => Ok(()),
    }
}

type Work =
    <Runtime as longshore_raft::consensus::runtime::AsyncRuntime>::JoinHandle<Result<(), ClientError>>;

/// A task for each client, spread over the nodes.
fn run_clients<F: Future<Output = Result<(), ClientError>> + Send + 'static>(
    session: &Session<'_>,
    clients: u32,
    work: impl Fn(u32, Client) -> F,
) -> Vec<Work> {
    let nodes: Vec<Client> = session.clients().cloned().collect();
    let of = |index: u32| nodes[index as usize % nodes.len()].clone();
    (0..clients).map(|index| Runtime::spawn(work(index, of(index)))).collect()
}

/// Waits for all clients. Ctrl-C, or the first error that trying again would not mend, ends them all.
async fn until_done(
    session: &mut Session<'_>,
    work: Vec<Work>,
    stop: &CancellationToken,
) -> Result<(), CliError> {
    let mut ended: Result<(), CliError> = Ok(());
    let mut all = futures_util::stream::FuturesUnordered::from_iter(work);
    loop {
        let done = tokio::select! {
            biased;
            () = &mut session.interrupt, if ended.is_ok() => {
                ended = Err(CliError::quiet(Exit::Interrupted));
                stop.cancel();
                continue;
            }
            done = futures_util::StreamExt::next(&mut all) => done,
        };
        match done {
            None => return ended,
            Some(Ok(Ok(()))) => {}
            Some(Ok(Err(error))) if ended.is_ok() => {
                ended = Err(error.into());
                stop.cancel();
            }
            Some(Ok(Err(_))) => {}
            Some(Err(error)) => return Err(CliError::new(Exit::Failed, format!("a client ended: {error}"))),
        }
    }
}

/// Whether every further try would end the same way.
fn is_hopeless(error: &ClientError) -> bool {
    match error {
        ClientError::Api { error, .. } => matches!(
            error.code,
            ErrorCode::Invalid | ErrorCode::NotFound | ErrorCode::Denied | ErrorCode::TooLarge
        ),
        ClientError::NoPermission { .. } | ClientError::NotUnderstood { .. } => true,
        _ => false,
    }
}

/// What an error is counted as.
fn kind(error: &ClientError) -> &'static str {
    match error {
        ClientError::Api { error, .. } => match error.code {
            ErrorCode::Invalid => "invalid",
            ErrorCode::NotFound => "not_found",
            ErrorCode::Conflict => "conflict",
            ErrorCode::Denied => "denied",
            ErrorCode::NoQuorum => "no_quorum",
            ErrorCode::OutcomeUnknown => "outcome_unknown",
            ErrorCode::Busy => "busy",
            ErrorCode::TooLarge => "too_large",
            ErrorCode::Internal => "internal",
        },
        ClientError::NotRunning { .. } | ClientError::Unreachable { .. } => "unreachable",
        ClientError::NoPermission { .. } => "denied",
        ClientError::Interrupted { .. } => "interrupted",
        ClientError::NotUnderstood { .. } => "not_understood",
    }
}

fn random(seed: u64, client: u32) -> SmallRng {
    // Distinct streams: the generator's own seeding mixes neighbouring numbers well.
    SmallRng::seed_from_u64(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(u64::from(client)))
}

fn value(random: &mut SmallRng, size: usize) -> Bytes {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes[..]);
    Bytes::from(bytes)
}

/// Writes every key whose number is this client's.
async fn fill(
    args: BenchArgs,
    index: u32,
    client: Client,
    stop: CancellationToken,
) -> Result<(), ClientError> {
    let mut connection = KeyConnection::new(client);
    let value = value(&mut random(args.seed, index), args.value_size);
    let mut number = index;
    while number < args.keys && !stop.is_cancelled() {
        let key = keys::name(number);
        let (lifetime, condition) = (KeyLifetime::Forever, KeyCondition::Always);
        match connection.set(&args.namespace, key.as_bytes(), value.clone(), lifetime, condition).await {
            Ok(_) => number += args.clients,
            Err(error) if is_hopeless(&error) => return Err(error),
            Err(_) => Runtime::sleep(ERROR_PAUSE).await,
        }
    }
    Ok(())
}

/// One client.
async fn drive(load: Arc<Load>, index: u32, client: Client) -> Result<(), ClientError> {
    let Load { args, chooser, groups, clock, .. } = &*load;
    let mut connection = KeyConnection::new(client);
    let mut random = random(args.seed, index);
    let value = value(&mut random, args.value_size);
    loop {
        let begun = clock.elapsed();
        if begun >= load.end || load.stop.is_cancelled() {
            return Ok(());
        }
        let key = keys::name(chooser.choose(&mut random));
        let is_read = random.random_bool(args.read_share);
        let result = if is_read {
            connection.get(&args.namespace, key.as_bytes()).await.map(|found| found.is_some())
        } else {
            let (lifetime, condition) = (KeyLifetime::Forever, KeyCondition::Always);
            let set = connection.set(&args.namespace, key.as_bytes(), value.clone(), lifetime, condition);
            set.await.map(|_| true)
        };
        let took = clock.elapsed().saturating_sub(begun);
        let counts = begun >= load.begin;
        match result {
            Ok(found) if counts => {
                let mut tally = load.tally.lock();
                match is_read {
                    true => tally.read(took, found),
                    false => tally.write(took, groups.group_of(partition_of(key.as_bytes()))),
                }
            }
            Ok(_) => {}
            Err(error) if is_hopeless(&error) => return Err(error),
            Err(error) => {
                if counts {
                    load.tally.lock().error(kind(&error));
                }
                Runtime::sleep(ERROR_PAUSE).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_sizes_and_durations() {
        for (text, good) in
            [("0", true), ("1", true), ("0.25", true), ("1.1", false), ("-0.1", false), ("NaN", false)]
        {
            assert_eq!(share(text).is_ok(), good, "{text}");
        }
        assert_eq!((value_size("1KiB"), value_size("1MiB").is_err()), (Ok(1024), true));
        assert_eq!(
            (measured("0s").is_err(), measured("2h").is_err(), measured("1s").is_ok()),
            (true, true, true)
        );
    }

    #[test]
    fn clients_draw_different_numbers_and_the_same_again() {
        let draw = |seed, client| random(seed, client).random::<u64>();
        assert_eq!(draw(1, 0), draw(1, 0));
        let drawn: std::collections::BTreeSet<u64> = (0..4)
            .flat_map(|seed| (0..64).map(move |client| (seed, client)))
            .map(|(s, c)| draw(s, c))
            .collect();
        assert_eq!(drawn.len(), 256);
    }
}
