//! Load on etcd, as `longshore cache bench` loads Longshore: a closed loop of clients in a process of its own.
//!
//! The names of keys, the values, the warm-up and the histogram are the same, so that the two reports say the same things.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use hdrhistogram::Histogram;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

use super::grpc::Etcd;
use super::report::{Latencies, LoadReport};

/// Longest latency that is told apart, as in `longshore cache bench`.
const LATENCY_MAX_US: u64 = 60_000_000;

/// What to do to etcd.
#[derive(Debug, Clone, Args)]
pub struct LoadArgs {
    /// Client sockets of the members
    #[arg(long, value_delimiter = ',', required = true)]
    pub endpoints: Vec<PathBuf>,
    #[arg(long, default_value_t = 32)]
    pub clients: u32,
    /// HTTP/2 connections; the clients share them
    #[arg(long, default_value_t = 32)]
    pub connections: u32,
    #[arg(long, default_value_t = 10)]
    pub seconds: u64,
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    #[arg(long, default_value_t = 100_000)]
    pub keys: u32,
    /// One key only
    #[arg(long)]
    pub hot: bool,
    /// Reads instead of writes
    #[arg(long)]
    pub reads: bool,
    /// Write every key once before
    #[arg(long)]
    pub fill: bool,
}

struct Tally {
    histogram: Histogram<u64>,
    errors: u64,
    absent: u64,
}

/// Runs the load; the report is that of `longshore cache bench`, as far as the comparison reads it.
pub async fn run(args: LoadArgs) -> Result<LoadReport> {
    ensure!(args.clients > 0 && args.connections > 0 && args.keys > 0, "there has to be a client and a key");
    let mut connections = Vec::new();
    for index in 0..args.connections.min(args.clients) as usize {
        connections.push(Rc::new(Etcd::connect(&args.endpoints[index % args.endpoints.len()]).await?));
    }
    let args = Rc::new(args);
    let of = |client: u32| Rc::clone(&connections[client as usize % connections.len()]);
    if args.fill {
        let fills = (0..args.clients).map(|client| fill(Rc::clone(&args), client, of(client)));
        futures_util::future::try_join_all(fills).await?;
    }
    let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("the bounds are sound");
    let tally = Rc::new(RefCell::new(Tally { histogram, errors: 0, absent: 0 }));
    let begin = Instant::now() + Duration::from_secs(1);
    let end = begin + Duration::from_secs(args.seconds);
    let all = (0..args.clients)
        .map(|client| drive(Rc::clone(&args), client, of(client), begin, end, Rc::clone(&tally)));
    futures_util::future::join_all(all).await;
    let tally = tally.borrow();
    let latencies = Latencies::of(&tally.histogram, Duration::from_secs(args.seconds));
    let none = Latencies::default();
    let (reads, writes) = if args.reads { (latencies, none) } else { (none, latencies) };
    Ok(LoadReport {
        reads,
        writes,
        reads_absent: tally.absent,
        errors: [("failed".to_owned(), tally.errors)].into_iter().filter(|(_, count)| *count > 0).collect(),
        writes_by_group: Default::default(),
    })
}

/// As `longshore cache bench` names them.
fn name(number: u32) -> String {
    format!("key-{number:08}")
}

fn value(random: &mut SmallRng, size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size];
    random.fill(&mut bytes[..]);
    bytes
}

async fn fill(args: Rc<LoadArgs>, client: u32, etcd: Rc<Etcd>) -> Result<()> {
    let value = value(&mut SmallRng::seed_from_u64(u64::from(client)), args.value_size);
    for number in (client..args.keys).step_by(args.clients as usize) {
        etcd.put(name(number).as_bytes(), &value).await.context("filling")?;
    }
    Ok(())
}

async fn drive(
    args: Rc<LoadArgs>,
    client: u32,
    etcd: Rc<Etcd>,
    begin: Instant,
    end: Instant,
    tally: Rc<RefCell<Tally>>,
) {
    let mut random = SmallRng::seed_from_u64(u64::from(client) + 1);
    let value = value(&mut random, args.value_size);
    loop {
        let began = Instant::now();
        if began >= end {
            return;
        }
        let key = name(if args.hot { 0 } else { random.random_range(0..args.keys) });
        let result = match args.reads {
            true => etcd.get(key.as_bytes()).await,
            false => etcd.put(key.as_bytes(), &value).await.map(|()| true),
        };
        let took = began.elapsed();
        if began < begin {
            continue;
        }
        let mut tally = tally.borrow_mut();
        match result {
            Ok(found) => {
                tally.absent += u64::from(!found);
                tally.histogram.saturating_record((took.as_micros() as u64).max(1));
            }
            Err(_) => tally.errors += 1,
        }
    }
}
