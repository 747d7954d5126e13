//! What a run does, said in full: the fleet's shape, its load, and every fault with its time.
//!
//! A seed and a profile (or a scenario file) *expand* to a plan; a run takes a plan and nothing else, so that a plan in a capsule
//! replays the run, also with single faults taken out. Durations in a plan are virtual milliseconds by the true clock.

mod check;
mod dice;
mod episodes;
mod essentials;
pub mod expand;
pub mod fair;
pub mod hold;
pub mod profile;
pub mod scenario;

mod shape;
mod storm;

use longshore_raft::model::ring::GroupCount;
use serde::{Deserialize, Serialize};

use crate::observation::{Key, STEADY, VOLATILE};

pub use self::check::HOSTS_MAX;
use self::hold::Hold;

/// Number of a host, from 1. A host outlives its processes, and its node when it is wiped.
pub type HostId = u32;

/// Name of the `generation`th node (from 0) of a host: a host that was wiped comes back as another node.
pub fn node_name(host: HostId, generation: u32) -> String {
    if generation == 0 { format!("h{host}") } else { format!("h{host}-{generation}") }
}

/// How messages travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TransportKind {
    /// Whole messages, through a transport of the simulator's
    #[default]
    Memory,
    /// The production transport: quinn and rustls over simulated datagrams
    Quic,
}

impl TransportKind {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Quic => "quic",
        }
    }
}

/// A whole run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Source of all chance within the run.
    pub seed: u64,
    /// Name of the profile or scenario that it came from; for people.
    pub profile: String,
    pub transport: TransportKind,
    pub fleet: FleetShape,
    pub load: Load,
    /// In order of time.
    pub faults: Vec<Scheduled>,
    /// How long faults happen. Then everything but `unhealed` is healed.
    pub fault_ms: u64,
    /// After healing, the fleet must work again within this time.
    pub settle_ms: u64,
    /// Hosts that stay as broken as the faults left them: a minority.
    pub unhealed: Vec<HostId>,
    /// A planted bug, by name; see `mutants`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// One byte of the value of this write (they are numbered from 0 as clients begin them) differs from what it would be, and of
    /// those after it until one is acknowledged: another plan gives another trace, down to a byte.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flip_payload: Option<u64>,
    /// What must be true of the result, beyond what checkers watch.
    #[serde(default, skip_serializing_if = "Hold::is_empty")]
    pub hold: Hold,
}

impl Plan {
    /// Keys of the ring that clients use; a hot one is the first.
    pub fn ring_keys(&self) -> Vec<Key> {
        let Some(ring) = &self.load.ring else { return Vec::new() };
        let some = |namespace, count| (0..count).map(move |n| Key::Ring { namespace, key: format!("k{n}") });
        some(STEADY, ring.steady).chain(some(VOLATILE, ring.volatile)).collect()
    }

    /// Registers that clients use: labels of the nodes of hosts that keep their node for the whole run. Empty if there is none.
    pub fn registers(&self) -> Vec<Key> {
        let loses_its_node = |id: HostId| {
            self.unhealed.contains(&id)
                || self.faults.iter().any(|scheduled| match &scheduled.fault {
                    Fault::Wipe { host }
                    | Fault::Leave { host }
                    | Fault::Remove { host }
                    | Fault::Rot { host }
                    | Fault::FailRead { host } => *host == id,
                    _ => false,
                })
        };
        let hosts = (1..).zip(&self.fleet.hosts);
        let stable: Vec<HostId> =
            hosts.filter(|(id, shape)| !shape.late && !loses_its_node(*id)).map(|(id, _)| id).collect();
        if stable.is_empty() {
            return Vec::new();
        }
        let node = |n: u32| node_name(stable[n as usize % stable.len()], 0);
        (0..self.load.keys).map(|n| Key::Label { node: node(n), label: format!("k{n}") }).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FleetShape {
    /// The first founds the fleet, the others join at the beginning, except for those that a `Fault::Start` starts later.
    pub hosts: Vec<HostShape>,
    pub network: NetworkShape,
    /// Bytes of a log segment: small ones are filled, rewritten and dropped within a run.
    pub segment_bytes: u32,
    /// Log entries after which a group makes a snapshot.
    pub snapshot_entries: u64,
    /// Without: [`UNUSED_RING`], in which nothing is but the records of operations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingPlan>,
}

impl FleetShape {
    /// Groups beside the control group.
    pub fn groups(&self) -> GroupCount {
        GroupCount::new(self.ring.unwrap_or(UNUSED_RING).groups).expect("the plan was checked")
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingPlan {
    /// 2, 4, 8, or as many as a real fleet has.
    pub groups: u32,
    pub replication: u8,
}

/// Of plans without keys: as cheap as one can be.
pub const UNUSED_RING: RingPlan = RingPlan { groups: 2, replication: 3 };

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostShape {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Starts only by a `Fault::Start`.
    #[serde(default)]
    pub late: bool,
    /// Rate of its monotonic clock; parts per million away from the truth.
    #[serde(default)]
    pub drift_ppm: i32,
    #[serde(default)]
    pub wall_ahead_ms: i64,
    #[serde(default)]
    pub disk: DiskShape,
    #[serde(default)]
    pub engine: EngineShape,
    /// Its share of the ring relative to others'; [`WEIGHT`] if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
}

/// What a host weighs if nothing else is said.
pub const WEIGHT: u32 = 1024;

/// Microseconds that a call takes: drawn evenly from the range, and now and then a tail value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    pub min_us: u64,
    pub max_us: u64,
    /// Of a million draws, so many take `tail_us` instead.
    #[serde(default)]
    pub tail_ppm: u32,
    #[serde(default)]
    pub tail_us: u64,
}

impl Latency {
    pub const fn even(min_us: u64, max_us: u64) -> Self {
        Self { min_us, max_us, tail_ppm: 0, tail_us: 0 }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskShape {
    /// Of one sync.
    pub sync: Latency,
}

impl Default for DiskShape {
    fn default() -> Self {
        Self { sync: Latency::even(100, 400) }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EngineShape {
    /// Of one step of a pull (five a layer).
    pub step: Latency,
    /// From what a call changes about a container to the reply: a start takes real engines up to seconds.
    #[serde(default = "EngineShape::at_once")]
    pub reply: Latency,
    /// Without: `--docker none`.
    pub present: bool,
}

impl EngineShape {
    const fn at_once() -> Latency {
        Latency::even(0, 0)
    }
}

impl Default for EngineShape {
    fn default() -> Self {
        Self { step: Latency::even(1_000, 50_000), reply: Self::at_once(), present: true }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkShape {
    /// One way, within a zone.
    pub near: Latency,
    /// One way, between zones.
    pub far: Latency,
    /// Of a million messages (or datagrams), so many are lost, doubled, or held back behind later ones.
    #[serde(default)]
    pub loss_ppm: u32,
    #[serde(default)]
    pub duplicate_ppm: u32,
    #[serde(default)]
    pub reorder_ppm: u32,
}

impl Default for NetworkShape {
    fn default() -> Self {
        let (near, far) = (Latency::even(50, 500), Latency::even(500, 3_000));
        Self { near, far, loss_ppm: 0, duplicate_ppm: 0, reorder_ppm: 0 }
    }
}

/// What clients do, all along.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Each does one thing at a time, against one node, and moves to another after failures and by chance.
    pub clients: u32,
    /// Pause between two things that a client does.
    pub think: Latency,
    /// Registers (labels of nodes) that clients write and read; few, so that they meet.
    pub keys: u32,
    /// How often each kind is chosen, relative to the others.
    pub writes: u32,
    pub reads: u32,
    pub pulls: u32,
    /// Containers, kept up or not, and what becomes of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub runs: u32,
    /// Join tokens made and revoked, operations listed, nodes listed.
    pub others: u32,
    /// How long a client waits for an answer before it takes the outcome for unknown.
    pub timeout_ms: u64,
    /// Keys of the ring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ring: Option<RingLoad>,
    /// When clients begin nothing; in order of time. One may last into the time after healing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calms: Vec<Calm>,
}

/// What clients do with keys of the ring. Frequencies are relative to those of [`Load`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RingLoad {
    /// Keys that are never deleted.
    pub steady: u32,
    /// Keys that are.
    pub volatile: u32,
    /// Of a hundred calls, so many are about one key.
    pub hot_percent: u32,
    pub gets: u32,
    pub sets: u32,
    /// Compare-and-set.
    pub swaps: u32,
    pub deletes: u32,
}

/// Since the fleet was formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calm {
    pub from_ms: u64,
    pub to_ms: u64,
}

/// A fault and its time; in JSON one object.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Scheduled {
    /// Since the fleet was formed.
    pub at_ms: u64,
    #[serde(flatten)]
    pub fault: Fault,
}

impl<'de> Deserialize<'de> for Scheduled {
    /// By hand: serde cannot refuse unknown fields of what it flattens.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let mut fields = serde_json::Map::deserialize(deserializer)?;
        let at_ms = fields.remove("at_ms").ok_or_else(|| D::Error::missing_field("at_ms"))?;
        let at_ms = u64::deserialize(at_ms).map_err(|error| D::Error::custom(format!("at_ms: {error}")))?;
        let fault = Fault::deserialize(serde_json::Value::Object(fields)).map_err(D::Error::custom)?;
        Ok(Self { at_ms, fault })
    }
}

/// Which hosts an end of a rule means.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hosts {
    All,
    Only(Vec<HostId>),
    Except(Vec<HostId>),
}

impl Hosts {
    pub fn contains(&self, host: HostId) -> bool {
        match self {
            Self::All => true,
            Self::Only(hosts) => hosts.contains(&host),
            Self::Except(hosts) => !hosts.contains(&host),
        }
    }
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What a rule of the network does to a message (or datagram) that matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Drop,
    /// On top of the usual latency.
    Delay {
        latency: Latency,
    },
    Duplicate,
    /// Kept until the rule is taken away, then delivered in order.
    Hold,
}

/// A rule of the network: data, so that it can be stored, shown and taken out. The first rule that matches and whose chance
/// strikes decides; without one the network's shape does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub name: String,
    pub from: Hosts,
    pub to: Hosts,
    /// Of a million that match, so many are struck.
    pub chance_ppm: u32,
    pub verdict: Verdict,
}

/// In reports: a rule that lets nothing through.
pub const PARTITION: &str = "partition";
/// In reports: faults that end a process without a warning.
pub const CRASHES: [&str; 4] = ["kill", "power_loss", "power_loss_all", "wipe"];

impl Rule {
    /// Whether nothing gets through.
    pub fn cuts_off(&self) -> bool {
        self.chance_ppm == 1_000_000 && matches!(self.verdict, Verdict::Drop | Verdict::Hold)
    }
}

/// Something that happens to the fleet. A fault that does not fit the moment (restarting what runs) does nothing; the trace says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The process is killed; what it wrote without syncing stays, as under kill -9.
    Kill {
        host: HostId,
    },
    /// The host loses power: unsynced writes are kept, dropped or torn by chance.
    PowerLoss {
        host: HostId,
        /// In the middle of this call of its disk, counted from 1 from now on; 0 for at once.
        #[serde(default, skip_serializing_if = "is_zero")]
        at_call: u32,
    },
    /// All hosts lose power in the same moment.
    PowerLossAll,
    /// The process is asked to stop, as by SIGTERM.
    Stop {
        host: HostId,
    },
    /// Starts the host's node: for the first time (it joins), or again.
    Start {
        host: HostId,
    },
    Pause {
        host: HostId,
    },
    Resume {
        host: HostId,
    },
    /// Kills the process and empties the data folder. When started again, it joins as a new node.
    Wipe {
        host: HostId,
    },
    /// `longshore leave` on this host.
    Leave {
        host: HostId,
    },
    /// `longshore node rm` of this host's node, said to another.
    Remove {
        host: HostId,
    },

    AddRule {
        rule: Rule,
    },
    /// Takes away the rules of this name.
    RemoveRule {
        name: String,
    },
    /// Takes away all rules.
    HealNetwork,

    StepWallClock {
        host: HostId,
        by_ms: i64,
    },
    SetDrift {
        host: HostId,
        drift_ppm: i32,
    },

    SlowDisk {
        host: HostId,
        sync: Latency,
    },
    /// No byte more fits, or (with `full` false) there is room again.
    FullDisk {
        host: HostId,
        full: bool,
    },
    /// The next sync fails.
    FailSync {
        host: HostId,
    },
    /// The next read of file contents fails.
    FailRead {
        host: HostId,
    },
    /// A bit of a file of the log or of a snapshot flips; which, by chance.
    Rot {
        host: HostId,
    },

    /// From its next start on, the host has another weight.
    Weigh {
        host: HostId,
        weight: u32,
    },
    /// `longshore node update --availability drain` and `active`, said to some node.
    Drain {
        host: HostId,
    },
    Undrain {
        host: HostId,
    },
    /// `longshore ring pause`, `resume` and `rebalance`, said to some node.
    PauseRing,
    ResumeRing,
    RebalanceRing,

    EngineDown {
        host: HostId,
    },
    EngineUp {
        host: HostId,
    },
    /// What becomes of the pulls to come.
    EnginePulls {
        host: HostId,
        pulls: PullBehaviour,
    },
    /// What becomes of calls to come that make, start, stop or remove a container. Whoever waits for one that hangs hears when calls work again.
    EngineCalls {
        host: HostId,
        calls: CallBehaviour,
        /// Of a hundred calls, so many are struck.
        percent: u32,
    },
    /// The engine loses its images.
    EngineForgets {
        host: HostId,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullBehaviour {
    Works,
    Slow {
        step: Latency,
    },
    Hangs {
        after_steps: u32,
    },
    Fails {
        after_steps: u32,
    },
    /// The engine goes down in the middle.
    Crashes {
        after_steps: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallBehaviour {
    Works,
    /// So long until it is done, and so long again until the reply.
    Slow {
        each: Latency,
    },
    /// Never replies, and is done or not.
    Hangs {
        effect: bool,
    },
    /// Says that it failed. If it is done all the same, that is a lie.
    Fails {
        effect: bool,
    },
    /// It is done, and the connection breaks before the reply.
    LosesReply,
    /// The engine goes down, before it is done or after.
    Crashes {
        effect: bool,
    },
}
