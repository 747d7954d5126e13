//! What a run shows to checkers: every call of every client, and what every node durably holds, knows and does.
//!
//! Checkers see observations in the order of global virtual time. Invariant: nothing here is a node's own opinion of what
//! *other* nodes hold; acknowledgements are what a client received.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::plan::HostId;

/// Numbers calls of all clients; an invocation and its completion share it.
pub type CallId = u64;

/// Unique over all writes of a run, so that a value says which write it came from.
pub type Serial = u64;

/// A register.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Key {
    /// A label of a node: in the control group.
    Label { node: String, label: String },
    /// A key of the ring, in the group that carries its partition.
    Ring { namespace: &'static str, key: String },
}

/// Namespace of keys that are never absent again once they were written.
pub const STEADY: &str = "steady";
/// Namespace of keys that are deleted now and then: that one is absent does not say which deletion it was.
pub const VOLATILE: &str = "volatile";
/// Namespace of keys that are written once, with a time to live.
pub const BRIEF: &str = "brief";

impl Key {
    /// Whether values alone tell which write a read saw: of keys that are never absent again.
    pub fn is_steady(&self) -> bool {
        !matches!(self, Self::Ring { namespace, .. } if *namespace != STEADY)
    }

    /// Whether it is absent after some time, by itself.
    pub fn is_brief(&self) -> bool {
        matches!(self, Self::Ring { namespace, .. } if *namespace == BRIEF)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Label { node, label } => write!(f, "register {node}/{label}"),
            Self::Ring { namespace, key } => write!(f, "key {namespace}/{key}"),
        }
    }
}

/// Where an operation is: a place in a group's log. Unique for ever, and ordered within a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct LogPosition {
    pub group: u32,
    pub index: u64,
    pub position: u32,
}

impl std::fmt::Display for LogPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "op {}-{} of group {}", self.index, self.position, self.group)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Call {
    Write {
        key: Key,
        serial: Serial,
    },
    /// Linearizable.
    Read {
        key: Key,
    },
    /// Compare-and-set: writes if the key is at a version, that of `expected`; with none, if it is absent.
    Swap {
        key: Key,
        expected: Option<Serial>,
        serial: Serial,
    },
    Delete {
        key: Key,
    },
    /// A write that is to be gone after `ttl_ms`.
    Expiring {
        key: Key,
        serial: Serial,
        ttl_ms: u64,
    },
    /// An operation under an idempotency key, which a client repeats until it knows the outcome: the same `serial` then.
    Submit {
        serial: Serial,
        image: String,
        /// Containers of this image instead of a pull.
        run: Option<RunShape>,
    },
    /// An operation that was acknowledged is to end now.
    Cancel {
        at: LogPosition,
        serial: Serial,
    },
    /// A run that the fleet keeps up, and whose submission was acknowledged, is to be otherwise.
    Change {
        at: LogPosition,
        change: Change,
    },
    /// All operations; of each group as one moment during the call has them.
    ListOperations,
    /// Of no interest to checkers but for its outcome.
    Other {
        what: String,
    },
}

/// What containers a submission asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RunShape {
    pub copies: u32,
    /// The fleet keeps all copies running.
    pub kept: bool,
}

/// What a client wants of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Change {
    Stop,
    Start,
    Remove,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Outcome {
    Written,
    /// A key was written; this is its version now.
    Set(u64),
    /// `None`: the register was never written, or the key is absent.
    Value(Option<Serial>),
    /// What a key holds, and since which version.
    Found {
        serial: Serial,
        version: u64,
    },
    /// The key was at another version: nothing was done.
    Missed {
        current: Option<u64>,
    },
    /// The version that the deletion took; none if nothing was there.
    Deleted(Option<u64>),
    /// The operation's id: it is where the log put it.
    Submitted(LogPosition),
    /// The parts of the operation that had not ended, and are not to be done.
    Cancelled(BTreeSet<u32>),
    /// The fleet knows no such run.
    Missing,
    /// Operations by id, without those that no client numbered: repairs of runs, and removals of containers.
    Operations(BTreeMap<LogPosition, Listed>),
    Done,
    /// Certainly not done.
    Refused(String),
    /// May or may not be done, now or later.
    Unknown(String),
}

impl Outcome {
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Written | Self::Set(_))
    }

    /// What a read returned.
    pub fn value(&self) -> Option<Option<Serial>> {
        match self {
            Self::Value(value) => Some(*value),
            Self::Found { serial, .. } => Some(Some(*serial)),
            _ => None,
        }
    }
}

/// An operation as a listing shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// That it was submitted with: it is in the image's tag.
    pub serial: Serial,
    /// Its last sub-operation has ended, well or badly.
    pub ended: bool,
}

/// What one replica's durable log holds, as production recovery reads it from the durable image of its disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DurableLog {
    /// 0 is the control group.
    pub group: u32,
    /// Of the fleet, not of the host.
    pub node: u64,
    pub replica: u64,
    pub vote: Option<VoteView>,
    /// Index of the last purged entry.
    pub purged: Option<u64>,
    /// Index to (term, hash of the entry's bytes), without holes, from `purged + 1`.
    pub entries: BTreeMap<u64, (u64, [u8; 16])>,
    /// Index of the last entry in the newest durable snapshot.
    pub snapshot: Option<u64>,
    /// Voters (replica ids) by the last membership entry in `entries` or the snapshot, if there is one.
    pub voters: Vec<u64>,
    /// That membership is a joint one: `voters` is the union of the old and the new, and a majority of it may be no quorum.
    pub joint: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct VoteView {
    pub term: u64,
    /// Replica voted for.
    pub voted_for: u64,
    /// Granted by a quorum: it leads.
    pub committed: bool,
}

/// What a replica says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplicaStatus {
    /// 0 is the control group.
    pub group: u32,
    /// Of the fleet, not of the host.
    pub node: u64,
    pub replica: u64,
    pub term: u64,
    pub is_leader: bool,
    /// Replica that it takes for the leader.
    pub leader: Option<u64>,
    pub last_log: Option<u64>,
    pub committed: Option<u64>,
    pub applied: Option<u64>,
    pub voters: Vec<u64>,
    /// The group's epoch in the ring as far as this replica has applied it; none of the control group.
    pub epoch: Option<u64>,
}

/// The ring's record, as one node has applied it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RingView {
    /// Replicas of each group, once there are nodes for them.
    pub replication: u8,
    pub epoch: u64,
    pub target_epoch: u64,
    pub groups: BTreeMap<u32, PlacementView>,
}

/// Where one group is, by the record. Replicas with their nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacementView {
    pub epoch: u64,
    pub members: BTreeMap<u64, u64>,
    pub added: BTreeMap<u64, u64>,
    pub removed: BTreeMap<u64, u64>,
    pub tombstones: BTreeMap<u64, u64>,
    /// Nodes that should have it.
    pub target: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Seen {
    Invoked {
        client: u32,
        /// Whose node is asked.
        host: HostId,
        call: CallId,
        what: Call,
    },
    Completed {
        client: u32,
        call: CallId,
        outcome: Outcome,
    },
    /// A node's process started; `incarnation` goes up with each start of this host.
    Started {
        host: HostId,
        incarnation: u64,
    },
    /// It ended: how, in words. After a power loss, what was not durable is gone.
    Ended {
        host: HostId,
        incarnation: u64,
        power_loss: bool,
        how: String,
    },
    /// The process stands still from now on.
    Paused {
        host: HostId,
    },
    /// It goes on.
    Resumed {
        host: HostId,
    },
    /// The host's disk was emptied: its replicas are no more.
    Wiped {
        host: HostId,
    },
    /// A replica's own state, each time it changed.
    Status {
        host: HostId,
        status: ReplicaStatus,
    },
    /// A replica was closed while its node goes on.
    Closed {
        host: HostId,
        group: u32,
        replica: u64,
    },
    /// The ring's record as a node has applied it, each time it changed.
    Ring {
        host: HostId,
        ring: RingView,
    },
    /// The state machine's hash at an applied index (all of the state, as a snapshot encodes it).
    State {
        host: HostId,
        group: u32,
        replica: u64,
        applied: u64,
        hash: [u8; 16],
    },
    /// Taken after each end of a process, now and then, and at the end.
    Durable {
        host: HostId,
        log: DurableLog,
    },
    /// An engine began to carry out a sub-operation's pull; `pull` numbers pulls over all engines.
    PullBegan {
        host: HostId,
        incarnation: u64,
        pull: u64,
        image: String,
    },
    /// `completed` false: dropped, failed, or the engine went down.
    PullEnded {
        host: HostId,
        pull: u64,
        completed: bool,
    },
    /// A container began to run, because somebody asked or by its restart policy; `start` numbers starts over all engines.
    ContainerStarted {
        host: HostId,
        start: u64,
        name: String,
        labels: BTreeMap<String, String>,
    },
    /// It runs no more, whoever has noticed.
    ContainerEnded {
        host: HostId,
        start: u64,
        code: i64,
    },
    /// Hosts to which, from now on, nothing comes from any other; at first there are none.
    Deaf {
        hosts: BTreeSet<HostId>,
    },
    /// How an engine is from now on; at first it is well.
    Engine {
        host: HostId,
        condition: EngineCondition,
    },
    /// Faults end; from now on only `unhealed` hosts are broken.
    Healed,
    /// Nobody asks for anything any more, and what the fleet keeps up has had time to be as it should.
    Settled,
    /// Nobody has asked for anything for a while.
    Quiet,
    /// The run is over; what the fleet looks like then has been observed before.
    Ending,
}

/// What may become of what an engine is asked, whatever the caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum EngineCondition {
    /// It answers at once, and the truth.
    Well,
    /// It takes its time, or never answers; what it says is true.
    Slow,
    /// It is down, or may go down with the next call; or it says that it failed, true or not.
    Unreliable,
}

/// One observation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Observation {
    /// Virtual nanoseconds since the run began.
    pub at_ns: u64,
    pub seen: Seen,
}

/// Which promise was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Promise {
    /// Something wrong happened: exit code 1.
    Safety,
    /// Something right did not happen: exit code 2.
    Liveness,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Violation {
    pub promise: Promise,
    /// Name of the checker.
    pub checker: String,
    pub at_ns: u64,
    /// What was seen and what it contradicts, in one or two sentences.
    pub what: String,
}

/// What a checker says at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Verified {
    pub checker: String,
    /// What was verified, in a few words.
    pub claim: String,
    /// Over how many events.
    pub events: u64,
    /// Parts that could not be decided within the budget; they never count as a pass.
    pub undecided: u64,
}

/// Watches one promise.
pub trait Checker: Send {
    fn name(&self) -> &'static str;
    /// Looks at the next observation. A violation ends the run.
    fn see(&mut self, observation: &Observation) -> Result<(), Violation>;
    /// The run is over.
    fn finish(&mut self) -> Result<Verified, Violation>;
}
