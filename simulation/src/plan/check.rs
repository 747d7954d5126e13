//! Whether a plan makes sense at all: what comes out of a file is looked at before it is run.

use longshore_raft::model::ring::GroupCount;

use super::{CallBehaviour, Fault, HostId, Hosts, Latency, PARTITION, Plan, PullBehaviour, Verdict};

/// Most hosts of a simulated fleet: what the speed of a run and the addresses of the simulated network allow.
pub const HOSTS_MAX: usize = 50;

/// Most clients.
const CLIENTS_MAX: u32 = 64;

/// Longest phase: a day. Virtual time is cheap, but a typing mistake must not run for hours.
const PHASE_MAX_MS: u64 = 24 * 60 * 60 * 1000;

/// Most a clock may differ in rate from the true one: a fifth. A lease by the slowest clock then ends within lease and grace by the true one.
const DRIFT_MAX_PPM: i32 = 200_000;

const MILLION: u32 = 1_000_000;

/// Data bytes of a log segment: a multiple of the log's block, large enough for its largest small record and for a
/// batch of a few dozen commands.
const SEGMENT_BLOCK_BYTES: u32 = 4096;
const SEGMENT_MIN_BYTES: u32 = 64 << 10;
const SEGMENT_MAX_BYTES: u32 = 64 << 20;

impl Plan {
    /// Says what is wrong with a plan.
    ///
    /// # Errors
    /// With the first thing that no run can do.
    pub fn check(&self) -> Result<(), String> {
        let hosts = self.fleet.hosts.len();
        ensure((1..=HOSTS_MAX).contains(&hosts), || {
            format!("a fleet has 1 to {HOSTS_MAX} hosts, not {hosts}")
        })?;
        ensure(!self.fleet.hosts[0].late, || "the first host founds the fleet: it cannot be late".into())?;
        for (index, host) in self.fleet.hosts.iter().enumerate() {
            let at = format!("host {}", index + 1);
            drift(host.drift_ppm).map_err(|what| format!("{at}: {what}"))?;
            latency(&host.disk.sync).map_err(|what| format!("{at}: disk: {what}"))?;
            latency(&host.engine.step).map_err(|what| format!("{at}: engine: {what}"))?;
        }
        let network = &self.fleet.network;
        for each in [&network.near, &network.far] {
            latency(each).map_err(|what| format!("network: {what}"))?;
        }
        for (name, chance) in [
            ("loss_ppm", network.loss_ppm),
            ("duplicate_ppm", network.duplicate_ppm),
            ("reorder_ppm", network.reorder_ppm),
        ] {
            chance_ppm(chance).map_err(|what| format!("network: {name}: {what}"))?;
        }
        let segment = self.fleet.segment_bytes;
        ensure(
            segment.is_multiple_of(SEGMENT_BLOCK_BYTES)
                && (SEGMENT_MIN_BYTES..=SEGMENT_MAX_BYTES).contains(&segment),
            || {
                format!(
                    "segment_bytes is {segment}: it must be a multiple of {SEGMENT_BLOCK_BYTES} from \
                     {SEGMENT_MIN_BYTES} to {SEGMENT_MAX_BYTES}"
                )
            },
        )?;
        ensure(self.fleet.snapshot_entries > 0, || "snapshot_entries must be at least 1".into())?;
        if let Some(ring) = &self.fleet.ring {
            GroupCount::new(ring.groups).map_err(|error| format!("ring: {error}"))?;
            ensure(matches!(ring.replication, 1 | 3 | 5), || {
                format!("ring: replication is {}: 1, 3 or 5", ring.replication)
            })?;
        }
        self.check_load()?;
        for (name, ms) in [("fault_ms", self.fault_ms), ("settle_ms", self.settle_ms)] {
            ensure((1..=PHASE_MAX_MS).contains(&ms), || format!("{name} is {ms}: from 1 to {PHASE_MAX_MS}"))?;
        }
        for host in &self.unhealed {
            self.host(*host).map_err(|what| format!("unhealed: {what}"))?;
        }
        let mut last_ms = 0;
        for (index, scheduled) in self.faults.iter().enumerate() {
            let at = |what: String| format!("fault {} ({} ms): {what}", index + 1, scheduled.at_ms);
            ensure(scheduled.at_ms >= last_ms, || at("faults must be in order of time".into()))?;
            ensure(scheduled.at_ms <= self.fault_ms, || at("it comes after the end of the faults".into()))?;
            last_ms = scheduled.at_ms;
            self.check_fault(&scheduled.fault).map_err(at)?;
        }
        Ok(())
    }

    fn check_load(&self) -> Result<(), String> {
        let load = &self.load;
        ensure((1..=CLIENTS_MAX).contains(&load.clients), || {
            format!("load: clients are 1 to {CLIENTS_MAX}, not {}", load.clients)
        })?;
        ensure(load.keys >= 1, || "load: there must be a key at least".into())?;
        ensure(load.timeout_ms >= 1, || "load: timeout_ms must be at least 1".into())?;
        ensure(load.writes + load.reads + load.pulls + load.runs + load.others >= 1, || {
            "load: writes, reads, pulls, runs and others are all 0".into()
        })?;
        if let Some(ring) = &load.ring {
            ensure(ring.steady >= 1 && ring.volatile >= 1, || {
                "load: ring: there must be a steady and a volatile key at least".into()
            })?;
            ensure(ring.hot_percent <= 100, || format!("load: ring: hot_percent is {}", ring.hot_percent))?;
        }
        let mut last_ms = 0;
        for calm in &load.calms {
            ensure(last_ms <= calm.from_ms && calm.from_ms < calm.to_ms, || {
                "load: calms must be in order of time, and end after they begin".into()
            })?;
            last_ms = calm.to_ms;
        }
        latency(&load.think).map_err(|what| format!("load: think: {what}"))
    }

    fn check_fault(&self, fault: &Fault) -> Result<(), String> {
        if let Some(host) = fault.host() {
            self.host(host)?;
        }
        match fault {
            Fault::AddRule { rule } => {
                chance_ppm(rule.chance_ppm)?;
                for host in named(&rule.from).iter().chain(named(&rule.to)) {
                    self.host(*host)?;
                }
                match &rule.verdict {
                    Verdict::Delay { latency: of } => latency(of),
                    Verdict::Drop | Verdict::Duplicate | Verdict::Hold => Ok(()),
                }
            }
            Fault::SetDrift { drift_ppm, .. } => drift(*drift_ppm),
            Fault::SlowDisk { sync, .. } => latency(sync),
            Fault::EnginePulls { pulls: PullBehaviour::Slow { step }, .. } => latency(step),
            Fault::EngineCalls { calls, percent, .. } => {
                ensure(*percent <= 100, || format!("percent is {percent}"))?;
                match calls {
                    CallBehaviour::Slow { each } => latency(each),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn host(&self, host: HostId) -> Result<(), String> {
        let hosts = self.fleet.hosts.len();
        ensure(host >= 1 && host as usize <= hosts, || {
            format!("there is no host {host}: hosts are numbered 1 to {hosts}")
        })
    }
}

impl Fault {
    /// The one host that it happens to.
    pub fn host(&self) -> Option<HostId> {
        match self {
            Self::Kill { host }
            | Self::PowerLoss { host, .. }
            | Self::Stop { host }
            | Self::Start { host }
            | Self::Pause { host }
            | Self::Resume { host }
            | Self::Wipe { host }
            | Self::Leave { host }
            | Self::Remove { host }
            | Self::StepWallClock { host, .. }
            | Self::SetDrift { host, .. }
            | Self::SlowDisk { host, .. }
            | Self::FullDisk { host, .. }
            | Self::FailSync { host }
            | Self::FailRead { host }
            | Self::Rot { host }
            | Self::Weigh { host, .. }
            | Self::Drain { host }
            | Self::Undrain { host }
            | Self::EngineDown { host }
            | Self::EngineUp { host }
            | Self::EnginePulls { host, .. }
            | Self::EngineCalls { host, .. }
            | Self::EngineForgets { host } => Some(*host),
            Self::PowerLossAll
            | Self::AddRule { .. }
            | Self::RemoveRule { .. }
            | Self::HealNetwork
            | Self::PauseRing
            | Self::ResumeRing
            | Self::RebalanceRing => None,
        }
    }

    /// As it is called in counts: what cuts the network is told from what slows it.
    pub fn reported_as(&self) -> &'static str {
        match self {
            Self::AddRule { rule } if rule.cuts_off() => PARTITION,
            other => other.name(),
        }
    }

    /// As it is called in plans.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Kill { .. } => "kill",
            Self::PowerLoss { .. } => "power_loss",
            Self::PowerLossAll => "power_loss_all",
            Self::Stop { .. } => "stop",
            Self::Start { .. } => "start",
            Self::Pause { .. } => "pause",
            Self::Resume { .. } => "resume",
            Self::Wipe { .. } => "wipe",
            Self::Leave { .. } => "leave",
            Self::Remove { .. } => "remove",
            Self::AddRule { .. } => "add_rule",
            Self::RemoveRule { .. } => "remove_rule",
            Self::HealNetwork => "heal_network",
            Self::StepWallClock { .. } => "step_wall_clock",
            Self::SetDrift { .. } => "set_drift",
            Self::SlowDisk { .. } => "slow_disk",
            Self::FullDisk { .. } => "full_disk",
            Self::FailSync { .. } => "fail_sync",
            Self::FailRead { .. } => "fail_read",
            Self::Rot { .. } => "rot",
            Self::Weigh { .. } => "weigh",
            Self::Drain { .. } => "drain",
            Self::Undrain { .. } => "undrain",
            Self::PauseRing => "pause_ring",
            Self::ResumeRing => "resume_ring",
            Self::RebalanceRing => "rebalance_ring",
            Self::EngineDown { .. } => "engine_down",
            Self::EngineUp { .. } => "engine_up",
            Self::EnginePulls { .. } => "engine_pulls",
            Self::EngineCalls { .. } => "engine_calls",
            Self::EngineForgets { .. } => "engine_forgets",
        }
    }
}

fn named(hosts: &Hosts) -> &[HostId] {
    match hosts {
        Hosts::All => &[],
        Hosts::Only(hosts) | Hosts::Except(hosts) => hosts,
    }
}

fn latency(latency: &Latency) -> Result<(), String> {
    ensure(latency.min_us <= latency.max_us, || {
        format!("min_us {} is more than max_us {}", latency.min_us, latency.max_us)
    })?;
    chance_ppm(latency.tail_ppm).map_err(|what| format!("tail_ppm: {what}"))
}

fn chance_ppm(chance: u32) -> Result<(), String> {
    ensure(chance <= MILLION, || format!("{chance} is more than a million parts per million"))
}

fn drift(ppm: i32) -> Result<(), String> {
    ensure((-DRIFT_MAX_PPM..=DRIFT_MAX_PPM).contains(&ppm), || {
        format!("drift_ppm is {ppm}: at most {DRIFT_MAX_PPM} either way")
    })
}

fn ensure(is_right: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if is_right { Ok(()) } else { Err(what()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::expand::{Options, expand};
    use crate::plan::{Rule, Scheduled};

    /// How to spoil a plan, and what is said then.
    type Case = (fn(&mut Plan), &'static str);

    #[test]
    fn each_mistake_is_named() {
        let cases: [Case; 15] = [
            (|p| p.fleet.hosts.clear(), "1 to 50 hosts, not 0"),
            (|p| p.fleet.hosts[0].late = true, "cannot be late"),
            (|p| p.fleet.hosts[1].drift_ppm = 600_000, "host 2: drift_ppm is 600000"),
            (|p| p.fleet.hosts[0].disk.sync = Latency::even(2, 1), "host 1: disk: min_us 2 is more"),
            (|p| p.fleet.network.loss_ppm = 1_000_001, "network: loss_ppm: 1000001"),
            (|p| p.fleet.segment_bytes = 65_537, "segment_bytes is 65537"),
            (|p| p.fleet.snapshot_entries = 0, "snapshot_entries"),
            (|p| p.load.clients = 0, "clients are 1 to 64"),
            (|p| p.load.keys = 0, "a key at least"),
            (
                |p| {
                    let load = &mut p.load;
                    (load.writes, load.reads, load.pulls, load.runs, load.others) = (0, 0, 0, 0, 0);
                },
                "are all 0",
            ),
            (|p| p.fault_ms = 0, "fault_ms is 0"),
            (|p| p.unhealed = vec![9], "unhealed: there is no host 9"),
            (
                |p| {
                    let fault = Fault::Kill { host: 0 };
                    p.faults.insert(0, Scheduled { at_ms: 0, fault });
                },
                "fault 1 (0 ms): there is no host 0",
            ),
            (
                |p| {
                    let fault = Fault::HealNetwork;
                    p.faults = vec![Scheduled { at_ms: p.fault_ms + 1, fault }];
                },
                "after the end of the faults",
            ),
            (
                |p| {
                    let rule = Rule {
                        name: "r".into(),
                        from: Hosts::Only(vec![7]),
                        to: Hosts::All,
                        chance_ppm: 5,
                        verdict: Verdict::Drop,
                    };
                    p.faults = vec![Scheduled { at_ms: 1, fault: Fault::AddRule { rule } }];
                },
                "there is no host 7",
            ),
        ];
        for (spoil, expected) in cases {
            let mut plan = expand(1, &Options { nodes: Some(3), ..Options::default() });
            assert_eq!(plan.check(), Ok(()));
            spoil(&mut plan);
            let error = plan.check().unwrap_err();
            assert!(error.contains(expected), "{error} (expected: {expected})");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let read = |text: &str| serde_json::from_str::<Scheduled>(text).map_err(|error| error.to_string());
        assert!(read(r#"{"at_ms": 1, "do": "heal_network"}"#).is_ok());
        for (text, expected) in [
            (r#"{"at_ms": 1, "do": "kill", "hots": 1}"#, "unknown field `hots`"),
            (r#"{"at_ms": 1, "do": "kil", "host": 1}"#, "unknown variant `kil`"),
            (r#"{"do": "kill", "host": 1}"#, "missing field `at_ms`"),
            (r#"{"at_ms": -1, "do": "kill", "host": 1}"#, "at_ms: invalid value"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn names_are_those_of_the_format() {
        for seed in 0..50 {
            for scheduled in expand(seed, &Options::default()).faults {
                let json = serde_json::to_value(&scheduled).unwrap();
                assert_eq!(json["do"], scheduled.fault.name());
                assert_eq!(
                    json.get("host").and_then(|host| host.as_u64()),
                    scheduled.fault.host().map(u64::from)
                );
            }
        }
    }
}
