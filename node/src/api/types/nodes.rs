//! Nodes: what is told of them, what can be changed, and how they go.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{EngineView, NodeRole, NodeState, SubOperationState};

/// Whether a node takes new work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeAvailability {
    Active,
    /// Gets no new work; what it has goes on.
    Paused,
    /// Gets no new work, leads nothing if others can, and what it has ends or moves. It keeps its data.
    Draining,
}

/// Whether a node takes new work, and the last order about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AvailabilityView {
    pub state: NodeAvailability,
    pub message: Option<String>,
    /// Name of the node that took the order.
    pub by: Option<String>,
    pub at_ms: Option<u64>,
}

/// What a node says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AnnouncedView {
    pub zone: Option<String>,
    pub region: Option<String>,
    pub weight: u32,
}

/// How busy a node is, and what it has left, as it told last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoadView {
    /// Share of the time for which all processors together were busy lately.
    pub cpu_busy_percent: u32,
    pub memory_bytes: u64,
    /// What of it could be had without swapping.
    pub memory_free_bytes: u64,
    /// Of the disk that holds the engine's images.
    pub disk_bytes: u64,
    pub disk_free_bytes: u64,
    /// Parts of operations that it is at.
    pub running: u32,
    /// How long its engine takes for a short answer, smoothed; absent if it gives none.
    pub engine_ms: Option<u32>,
    /// Names of images that its engine has, up to 1,024; absent if it has not told.
    pub images: Option<u32>,
    /// How long ago it was told.
    pub age_ms: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeView {
    pub id: String,
    pub name: String,
    /// The node that answers.
    #[serde(rename = "self")]
    pub is_self: bool,
    pub role: NodeRole,
    pub state: NodeState,
    pub address: String,
    /// What fails together with it, for the fleet.
    pub zone: Option<String>,
    pub region: Option<String>,
    /// Its share of the ring, for the fleet.
    pub weight: u32,
    /// What the node says of these three itself; an operator's word wins.
    pub announced: AnnouncedView,
    pub availability: AvailabilityView,
    pub labels: BTreeMap<String, String>,
    pub engine: EngineView,
    /// Absent if the node has not told for half a minute.
    #[serde(default)]
    pub load: Option<LoadView>,
    pub version: String,
    /// Milliseconds since the answering node last heard of it; 0 for itself.
    pub last_seen_ms: Option<u64>,
    pub joined_at_ms: u64,
    /// The node's wall clock minus the answering node's, if measured.
    pub clock_skew_ms: Option<i64>,
    pub replica: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeList {
    pub nodes: Vec<NodeView>,
    /// True when there was no quorum and the list is the local copy, which may be behind.
    pub stale: bool,
}

/// What an operator can set instead of what a node announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeSetting {
    Weight,
    Zone,
    Region,
}

/// What is to change about a node; what is absent stays. All of it is done, or nothing.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NodeUpdate {
    #[serde(default)]
    pub label_add: BTreeMap<String, String>,
    #[serde(default)]
    pub label_rm: Vec<String>,
    #[serde(default)]
    pub availability: Option<NodeAvailability>,
    /// Why, with an availability: at most 256 bytes of printable characters.
    #[serde(default)]
    pub message: Option<String>,
    /// Instead of what the node announces.
    #[serde(default)]
    pub weight: Option<u32>,
    /// Instead of what the node announces.
    #[serde(default)]
    pub zone: Option<String>,
    /// Instead of what the node announces.
    #[serde(default)]
    pub region: Option<String>,
    /// For these, what the node announces counts again.
    #[serde(default)]
    pub reset: Vec<NodeSetting>,
}

/// A part of an operation that has not ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OpenPartView {
    pub operation: String,
    /// Its place in the operation.
    pub index: u32,
    pub kind: String,
    /// The image or the container that it is about.
    pub subject: String,
    pub state: SubOperationState,
}

/// What a node still has to do, over the whole fleet; each group was asked at a moment of its own.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeWorkView {
    /// Its name.
    pub node: String,
    pub state: NodeState,
    pub availability: NodeAvailability,
    /// Parts of operations that have not ended.
    pub open: u32,
    /// The first of them, by operation; at most 100.
    pub parts: Vec<OpenPartView>,
}

/// How long a node that leaves waits for its open work, unless told otherwise.
pub const LEAVE_DEADLINE_MS: u64 = 60_000;
/// Longest of such waits: a day, as long as an operation may take.
pub const LEAVE_DEADLINE_MAX_MS: u64 = 24 * 3_600_000;
/// How long a node that leaves waits after that for the fleet to let it go: a change of voters, a hand-over, and its data copied to others.
pub const LEAVE_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaveQuery {
    /// How long to wait for the node's open work, in ms; default [`LEAVE_DEADLINE_MS`]. It leaves then, with work left or not.
    #[serde(default)]
    pub deadline_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LeaveView {
    pub node: String,
    /// Name of the node that leads now, if leadership was handed over.
    pub new_leader: Option<String>,
    /// Parts of operations that were still open on it when it left, and fail; absent if not all groups could be asked.
    pub unfinished: Option<u32>,
    /// The first of them; at most 100.
    pub parts: Vec<OpenPartView>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveQuery {
    /// Also one that is alive, or whose data has no other copy.
    #[serde(default)]
    pub force: bool,
}

/// What goes with a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LossView {
    /// Groups of which too few replicas are left for good: what they hold is lost, and they serve nothing any more.
    pub groups: Vec<String>,
    /// Groups that serve nothing until nodes that cannot be reached now are back.
    pub groups_waiting: Vec<String>,
    /// Parts of operations that are open on it, and fail; absent if not all groups could be asked.
    pub parts: Option<u32>,
}

/// What the removal of a node would mean now.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RemovalView {
    pub id: String,
    pub name: String,
    pub state: NodeState,
    pub loss: LossView,
}

/// A node that was removed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RemovedView {
    #[serde(flatten)]
    pub node: NodeView,
    pub loss: LossView,
}
