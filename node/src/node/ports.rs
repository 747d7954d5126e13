//! The ports of a node: everything that it reaches the outside through.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::control::RingShape;
use longshore_raft::NodeId;
use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::machine::GroupStatus;
use longshore_raft::model::ring::Ring;
use longshore_raft::transport::join::JoinError;
use longshore_raft::transport::pki::Identity;
use longshore_raft::transport::{BoxFuture, Handler, JoinHandler, TransportRef};
use longshore_storage::log::Committer;
use longshore_storage::tables::{Opened, Tables, TablesResult};
use longshore_storage::{Disk, DiskFloor};

use crate::api::listener::Listener;
use crate::api::server::Access;
use crate::docker::ContainerEngine;
use crate::load::HostProbe;

/// Where a fleet may be found: an address, or a name to be resolved by the network port.
pub type Seed = String;

/// Starts this node's transport, and asks a fleet to be let in.
pub trait Network: Send + Sync {
    /// Starts to listen and to talk to peers.
    fn start(
        &self,
        identity: &Identity,
        handler: Arc<dyn Handler>,
        join: Arc<dyn JoinHandler>,
    ) -> Result<TransportRef, String>;
    /// Sends one request to the first of `seeds` that answers and proves to be of the fleet with this authority.
    fn join(
        &self,
        seeds: Vec<Seed>,
        authority: [u8; 32],
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, JoinError>>;
}

/// A committer that something drives: threads, or a simulated disk's task. Awaiting it stops it, and resolves when what was
/// taken is durable.
pub type StartedCommitter = BoxFuture<()>;

/// Opens tables, and again when those that it gave were found to be damaged; blocks.
pub type OpenTables = Arc<dyn Fn() -> TablesResult<(Arc<dyn Tables>, Opened)> + Send + Sync>;

/// A listener of the API, and what may be done through it.
pub struct ApiDoor {
    pub listener: Box<dyn Listener>,
    pub access: Access,
}

impl fmt::Debug for ApiDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiDoor({}, {:?})", self.listener.describe(), self.access)
    }
}

/// One replica, as it shows itself to whoever embeds a node.
pub trait ReplicaView: Send + Sync {
    fn status(&self) -> GroupStatus;
    /// Index of the last entry applied, and a hash of the whole state there.
    fn digest(&self) -> (Option<u64>, [u8; 32]);
    /// Waits until the status or the state changed since `seen`, which begins at 0; returns what to wait with next.
    fn changed(&self, seen: u64) -> BoxFuture<u64>;
    /// The ring's record as this replica has applied it, unless it is `known`. Of the control group only.
    fn ring(&self, _known: Option<&Ring>) -> Option<Ring> {
        None
    }
    /// The group's epoch as this replica has applied it. Of groups with partitions only.
    fn epoch(&self) -> Option<u64> {
        None
    }
}

/// Is shown a node's own replicas, of all groups: by a simulation's checkers, by tests. Must not hold a node up.
pub trait Observer: Send + Sync {
    /// Called once for each replica, when it has been opened and before it serves anyone.
    fn on_replica(&self, node: NodeId, replica: Arc<dyn ReplicaView>);
}

/// All ports of one node.
pub struct Ports {
    /// The node's data folder.
    pub disk: Arc<dyn Disk>,
    /// Drives the log's committer until the log is closed.
    pub drive: Box<dyn FnOnce(Committer) -> std::io::Result<StartedCommitter> + Send>,
    /// Where the history of operations is kept.
    pub history: OpenTables,
    /// Where what the engine has is kept.
    pub inventory: OpenTables,
    pub network: Arc<dyn Network>,
    /// None with `--docker none`.
    pub engine: Option<Arc<dyn ContainerEngine>>,
    /// How busy the node's host is.
    pub host: Arc<dyn HostProbe>,
    pub doors: Vec<ApiDoor>,
    /// None in production.
    pub observer: Option<Arc<dyn Observer>>,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("disk", &self.disk).field("doors", &self.doors).finish_non_exhaustive()
    }
}

/// What a person decides about a node.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    pub name: String,
    /// Where peers reach this node.
    pub advertise: SocketAddr,
    pub zone: Option<String>,
    pub region: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// Its share of the ring relative to other nodes'; see [`NodeProfile::weight`](longshore_raft::model::membership::NodeProfile).
    pub weight: u32,
    /// Of the fleet that `init` makes; others have it from the fleet.
    pub ring: RingShape,
    /// How long a node has to be dead before its replicas are made anew elsewhere.
    pub death_pause: Duration,
    /// Most pieces of operations that the engine carries out at once.
    pub docker_operations: usize,
    /// Most bytes of one build context, and of all that this node keeps.
    pub build_context_bytes: u64,
    pub build_contexts_bytes: u64,
    /// What of the data's disk is not for them.
    pub disk_floor: DiskFloor,
    /// How long ended operations are in this node's history, since they were submitted.
    pub history_keep: Duration,
    /// Of the control group.
    pub timings: Timings,
    /// Of groups with partitions.
    pub partition_timings: Timings,
    /// Data bytes of a segment of the log.
    pub segment_bytes: u32,
    pub api_limits: crate::api::limits::ApiLimits,
}
