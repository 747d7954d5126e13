//! The fleet and its load, drawn from the seed, each aspect from its own stream.

use super::dice::Dice;
use super::profile::Profile;
use super::{
    Calm, DiskShape, EngineShape, FleetShape, HostShape, Latency, Load, NetworkShape, RingLoad, RingPlan,
};

/// Rates of clocks differ by this much at most: 20 %.
const DRIFT_MAX_PPM: u64 = 200_000;

/// Wall clocks are off by this much at most.
const WALL_OFF_MAX_MS: u64 = 5 * 60 * 60 * 1000;

/// Calls of all clients together, per virtual second: what a run costs is mostly this.
const CALLS_PER_S: std::ops::RangeInclusive<u64> = 2..=40;

/// A rate of a clock that is off, either way.
pub(super) fn drift_ppm(dice: &mut Dice) -> i32 {
    let ppm = dice.magnitude(1_000..=DRIFT_MAX_PPM) as i32;
    if dice.percent(50) { ppm } else { -ppm }
}

/// An error of a wall clock, either way.
pub(super) fn wall_off_ms(dice: &mut Dice) -> i64 {
    let ms = dice.magnitude(1_000..=WALL_OFF_MAX_MS) as i64;
    if dice.percent(50) { ms } else { -ms }
}

pub(super) fn fleet(seed: u64, profile: Profile, nodes: Option<u32>) -> FleetShape {
    let mut dice = Dice::new(seed, "shape");
    let (total, late) = sizes(&mut dice, profile, nodes);
    let zones = if profile != Profile::Calm && dice.percent(40) { dice.within(2..=3) } else { 0 };
    let mut hosts: Vec<HostShape> = (0..total)
        .map(|index| HostShape {
            zone: (zones > 0).then(|| format!("zone-{}", dice.within(1..=zones))),
            late: index >= total - late,
            drift_ppm: 0,
            wall_ahead_ms: 0,
            disk: DiskShape::default(),
            engine: EngineShape::default(),
            weight: None,
        })
        .collect();
    let (segment_bytes, snapshot_entries) = match profile {
        Profile::Calm => (4 << 20, 5_000),
        _ => (dice.pick(&[64 << 10, 128 << 10, 256 << 10, 1 << 20]), dice.magnitude(30..=3_000)),
    };
    disks(seed, profile, &mut hosts);
    clocks(seed, profile, &mut hosts);
    engines(seed, profile, &mut hosts);
    let ring = profile.uses_ring().then(|| ring(seed));
    FleetShape { hosts, network: network(seed, profile), segment_bytes, snapshot_entries, ring }
}

/// Few groups, since a run costs what they do; as many as in a real fleet now and then.
fn ring(seed: u64) -> RingPlan {
    let dice = &mut Dice::new(seed, "ring");
    let groups = if dice.percent(4) { 32 } else { dice.pick(&[2, 4, 4, 8]) };
    RingPlan { groups, replication: 3 }
}

/// What clients do with keys of the ring, and when they do nothing at all.
fn ring_load(seed: u64) -> (RingLoad, Vec<Calm>) {
    let dice = &mut Dice::new(seed, "ring workload");
    let ring = RingLoad {
        steady: dice.within(2..=10) as u32,
        volatile: dice.within(1..=3) as u32,
        hot_percent: dice.pick(&[0, 20, 50]),
        gets: dice.within(20..=80) as u32,
        sets: dice.within(20..=80) as u32,
        swaps: dice.within(5..=30) as u32,
        deletes: dice.within(0..=8) as u32,
    };
    let (mut calms, mut at_ms) = (Vec::new(), 0);
    for _ in 0..dice.within(0..=3) {
        let from_ms = at_ms + dice.within(1_000..=50_000);
        at_ms = from_ms + dice.within(7_000..=20_000);
        calms.push(Calm { from_ms, to_ms: at_ms });
    }
    (ring, calms)
}

/// Hosts in all, and those among them that start late.
fn sizes(dice: &mut Dice, profile: Profile, nodes: Option<u32>) -> (u64, u64) {
    let usual = match profile {
        Profile::Calm => 3,
        Profile::Membership => dice.within(1..=7),
        Profile::Containers => dice.within(3..=4),
        Profile::Runs => dice.within(3..=5),
        Profile::Storm => 5,
        Profile::Ring => dice.within(3..=6),
        Profile::Swarm if dice.percent(10) => dice.within(6..=7),
        Profile::Network | Profile::Disk | Profile::Clock | Profile::Swarm => dice.within(3..=5),
    };
    let total = nodes.map_or(usual, u64::from);
    let late = match profile {
        Profile::Membership => dice.within(0..=total - 1),
        // Three at least are there from the beginning: two cannot be partitioned in a way that changes the leader.
        Profile::Swarm if total > 3 && dice.percent(40) => dice.within(1..=(total - 3).min(2)),
        Profile::Ring if total > 3 && dice.percent(50) => dice.within(1..=(total - 3).min(2)),
        _ => 0,
    };
    (total, late)
}

fn network(seed: u64, profile: Profile) -> NetworkShape {
    let dice = &mut Dice::new(seed, "network");
    if profile == Profile::Calm {
        return NetworkShape::default();
    }
    let mut latency = |most_us: u64| {
        let min_us = dice.magnitude(20..=most_us / 4);
        let max_us = dice.magnitude(min_us..=most_us);
        let tail_ppm = if dice.percent(30) { dice.magnitude(100..=20_000) as u32 } else { 0 };
        Latency { min_us, max_us, tail_ppm, tail_us: dice.magnitude(1_000..=100_000) }
    };
    let (near, far) = (latency(2_000), latency(30_000));
    let mut chance = |percent: u64, most: u64| {
        if dice.percent(percent) { dice.magnitude(10..=most) as u32 } else { 0 }
    };
    let (loss_ppm, duplicate_ppm, reorder_ppm) = match profile {
        Profile::Network => (chance(70, 30_000), chance(70, 30_000), chance(70, 30_000)),
        Profile::Swarm => (chance(40, 20_000), chance(40, 20_000), chance(40, 20_000)),
        _ => (chance(20, 1_000), 0, 0),
    };
    NetworkShape { near, far, loss_ppm, duplicate_ppm, reorder_ppm }
}

fn disks(seed: u64, profile: Profile, hosts: &mut [HostShape]) {
    let dice = &mut Dice::new(seed, "disk");
    if profile == Profile::Calm {
        return;
    }
    let hangs = matches!(profile, Profile::Disk | Profile::Swarm);
    for host in hosts {
        let min_us = dice.magnitude(50..=1_000);
        let max_us = dice.magnitude(min_us..=5_000);
        let (tail_ppm, tail_us) = (dice.magnitude(100..=5_000) as u32, dice.magnitude(5_000..=300_000));
        let tail_ppm = if hangs && dice.percent(50) { tail_ppm } else { 0 };
        host.disk.sync = Latency { min_us, max_us, tail_ppm, tail_us };
    }
}

fn clocks(seed: u64, profile: Profile, hosts: &mut [HostShape]) {
    let dice = &mut Dice::new(seed, "clocks");
    let wild = match profile {
        Profile::Calm => return,
        Profile::Clock => true,
        Profile::Swarm => dice.percent(40),
        _ => false,
    };
    for host in hosts {
        (host.drift_ppm, host.wall_ahead_ms) = if wild {
            (drift_ppm(dice), wall_off_ms(dice))
        } else {
            // As good as clocks of real hosts are.
            (dice.within(0..=200) as i32 - 100, dice.within(0..=100) as i64 - 50)
        };
    }
}

fn engines(seed: u64, profile: Profile, hosts: &mut [HostShape]) {
    let dice = &mut Dice::new(seed, "engines");
    if profile == Profile::Calm {
        return;
    }
    for host in hosts {
        let min_us = dice.magnitude(500..=10_000);
        host.engine.step = Latency::even(min_us, dice.magnitude(min_us..=500_000));
        host.engine.present = matches!(profile, Profile::Containers | Profile::Runs) || dice.percent(90);
        if profile == Profile::Runs {
            host.engine.step = Latency::even(100_000, dice.within(200_000..=1_500_000));
            host.engine.reply = Latency::even(1_000, dice.magnitude(10_000..=2_000_000));
        } else if profile == Profile::Swarm && dice.percent(30) {
            host.engine.reply = Latency::even(1_000, dice.magnitude(2_000..=500_000));
        }
    }
}

/// How often clients ask for containers. In most profiles seldom or never: what is kept up costs as long as it is.
fn runs(seed: u64, profile: Profile) -> u64 {
    let dice = &mut Dice::new(seed, "runs");
    match profile {
        // What a run costs, and groups at rest, are what these are about.
        Profile::Calm | Profile::Storm => 0,
        Profile::Containers => dice.within(4..=12),
        Profile::Runs => dice.within(20..=60),
        Profile::Swarm => dice.within(0..=4),
        _ => u64::from(dice.percent(30)),
    }
}

pub(super) fn load(seed: u64, profile: Profile) -> Load {
    let dice = &mut Dice::new(seed, "workload");
    if profile == Profile::Calm {
        let think = Latency::even(100_000, 300_000);
        return Load {
            clients: 3,
            think,
            keys: 4,
            writes: 50,
            reads: 50,
            pulls: 1,
            runs: 0,
            others: 1,
            timeout_ms: 5_000,
            ring: None,
            calms: Vec::new(),
        };
    }
    let clients = dice.within(2..=8);
    let mean_us = (clients * 1_000_000 / dice.magnitude(CALLS_PER_S)).clamp(20_000, 4_000_000);
    let min_us = dice.within(mean_us / 4..=mean_us);
    let pulls = match profile {
        Profile::Containers => dice.within(4..=20),
        Profile::Runs => dice.within(0..=1),
        // Groups at rest are what a storm is about.
        Profile::Storm => 0,
        Profile::Ring => Dice::new(seed, "ring pulls").within(0..=2),
        _ => dice.within(0..=3),
    };
    let (ring, calms) = if profile.uses_ring() {
        let (ring, calms) = ring_load(seed);
        (Some(ring), calms)
    } else {
        (None, Vec::new())
    };
    Load {
        clients: clients as u32,
        think: Latency::even(min_us, 2 * mean_us - min_us),
        keys: dice.within(1..=8) as u32,
        writes: dice.within(if profile.uses_ring() { 5..=20 } else { 20..=80 }) as u32,
        reads: dice.within(if profile.uses_ring() { 5..=20 } else { 10..=80 }) as u32,
        pulls: pulls as u32,
        runs: runs(seed, profile) as u32,
        others: dice.within(0..=5) as u32,
        timeout_ms: dice.magnitude(1_000..=10_000),
        ring,
        calms,
    }
}
