//! One run, from plan to verdict.

use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::checkers::Watch;
use crate::observation::Seen;
use crate::plan::Plan;
use crate::recorder::{Counts, Recorder};
use crate::result::RunResult;
use crate::runtime::{self, Context, HostClock};
use crate::workload::{self, Workload};
use crate::world::World;
use crate::{random, trace};

/// Between looks at whether a healed fleet has settled.
const LOOK: Duration = Duration::from_millis(500);
/// Writes and reads that a healed fleet must serve before the run may end.
const SERVED_MIN: u64 = 10;
/// Quiet time after the clients have ended, so that all replicas apply what was committed.
const QUIET: Duration = Duration::from_secs(2);
/// With groups that have been asked for something: so that they have time to go to rest.
const RING_QUIET: Duration = Duration::from_secs(10);

/// How long it may take, when clients have ended, until all that the fleet keeps up is up: an attempt that hangs is given up after a minute,
/// and a copy that went down again and again is replaced a minute later.
const KEPT_SETTLE: Duration = Duration::from_secs(180);
/// So long after that each node has looked at all of its containers once more, whatever it has missed.
const LOOKED_AT: Duration = Duration::from_secs(35);

/// Carries out a plan on this thread, which must not have run another. With `trace_to`, the trace is written there.
pub fn simulate(plan: &Plan, trace_to: Option<File>) -> RunResult {
    trace::begin(trace_to);
    let watch = Watch::new(plan);
    let recorder = Recorder::new(watch);
    let clock = Arc::new(HostClock::new(0, 0, 0));
    let world = Context::new("world", clock, random::stream(plan.seed, "world"));
    let (begun_cpu, begun_wall) = (cpu_ms(), wall());
    let (failed, virtual_ms, counts) = runtime::run(&world, async {
        let (failed, counts) = course(plan, &recorder).await;
        (failed, runtime::global_ns() / 1_000_000, counts)
    });
    let mut result = RunResult::empty(plan.clone());
    result.virtual_ms = virtual_ms;
    result.cpu_ms = cpu_ms().saturating_sub(begun_cpu);
    result.wall_ms = begun_wall.elapsed().as_millis() as u64;
    result.elections = recorder.elections();
    result.leaders = recorder.leaders();
    result.longest_outage_ms = recorder.longest_outage_ms();
    result.faults = recorder.counts("faults");
    result.ends = recorder.counts("ends");
    result.operators = recorder.counts("operator");
    result.calls = recorder.calls();
    (result.network, result.disk) = counts;
    match recorder.finish() {
        Ok(verified) => result.verified = verified,
        Err(violation) => result.violation = Some(violation),
    }
    result.harness_error = failed;
    result.judge_hold();
    match trace::end() {
        Ok(summary) => result.trace = summary,
        Err(error) => result.harness_error = Some(format!("the trace cannot be written: {error}")),
    }
    result
}

/// What went wrong with the run itself, if anything, and counts of network and disks.
async fn course(plan: &Plan, recorder: &Arc<Recorder>) -> (Option<String>, (Counts, Counts)) {
    let world = World::new(plan, Arc::clone(recorder));
    let failed = tokio::select! {
        biased;
        () = recorder.until_lost() => None,
        failed = phases(plan, &world, recorder) => failed,
    };
    (failed, (world.network_counts(), world.disk_counts()))
}

async fn phases(plan: &Plan, world: &Arc<World>, recorder: &Arc<Recorder>) -> Option<String> {
    if let Err(error) = world.plant() {
        return Some(error.to_string());
    }
    if let Err(error) = world.form().await {
        return Some(error);
    }
    if let Err(error) = world.tamper() {
        return Some(error.to_string());
    }
    drop(runtime::spawn_in(&runtime::current(), Arc::clone(world).watch_disks()));
    let mut clients = Workload::start(world);
    world.break_things().await;
    world.heal();
    clients.served.clear();
    clients.probe(world);
    let deadline = runtime::global_ns() + plan.settle_ms * 1_000_000;
    while runtime::global_ns() < deadline {
        runtime::sleep_global(LOOK).await;
        let served = |kind| clients.served.total(kind) >= SERVED_MIN;
        let does_registers = plan.load.clients > 0 && !plan.registers().is_empty();
        if world.has_settled().await
            && world.has_ended_operations().await
            && (!does_registers || (served("write") && served("read")))
            && clients.is_probed(world)
            && world.has_ring_settled().await
        {
            break;
        }
    }
    clients.finish().await;
    if recorder.has_kept() {
        let deadline = runtime::global_ns() + KEPT_SETTLE.as_nanos() as u64;
        while runtime::global_ns() < deadline && !world.has_kept_settled().await {
            runtime::sleep_global(LOOK).await;
        }
        runtime::sleep_global(LOOKED_AT).await;
        recorder.see(Seen::Settled);
        runtime::sleep_global(LOOKED_AT).await;
    }
    runtime::sleep_global(if plan.fleet.ring.is_some() { RING_QUIET } else { QUIET }).await;
    recorder.see(Seen::Quiet);
    workload::last_look(world).await;
    recorder.see(Seen::Ending);
    None
}

#[expect(clippy::disallowed_methods, reason = "how long a run took is not part of the run")]
fn wall() -> std::time::Instant {
    std::time::Instant::now()
}

/// Processor time of this process, milliseconds.
fn cpu_ms() -> u64 {
    let Ok(text) = std::fs::read_to_string("/proc/thread-self/schedstat") else { return 0 };
    text.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).map_or(0, |ns| ns / 1_000_000)
}
