//! Operations: what is asked for, and what became of it.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{BuildRequest, BuildView, MissingNode, RunRequest};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All of it on one node: the one that was asked, the one named by `on`, or the best of those with the labels and zones asked for.
    Local,
    /// All of it on every living node with an engine, on those named by `on`, or on as many as `replicas` says.
    Replicated,
    /// Each piece of it on one of the nodes: as many for each as it has capacity free, or `in_turn`.
    Distributed,
}

/// What is to be done. An image is a reference such as `nginx:1.27`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    Pull {
        images: Vec<String>,
    },
    /// To the registries that their names say, from engines that have them.
    Push {
        images: Vec<String>,
    },
    /// Further names for an image that an engine has.
    Tag {
        source: String,
        targets: Vec<String>,
    },
    /// A new image, by each engine that is chosen, out of a folder that the node has been sent.
    Build(Box<BuildRequest>),
    /// New containers: `replicas` of them, or with the replicated strategy one on each node.
    Run(Box<RunRequest>),
    /// Ends containers, by name or id.
    Stop {
        containers: Vec<String>,
        /// Time between the polite signal and the one that ends it; the container's own if there is none.
        #[serde(default)]
        grace_s: Option<u32>,
    },
    /// Starts containers that do not run, by name or id.
    Start {
        containers: Vec<String>,
    },
    /// Takes containers away, by name or id.
    Rm {
        containers: Vec<String>,
        /// Those too that run.
        #[serde(default)]
        force: bool,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OperationRequest {
    pub action: Action,
    pub strategy: Strategy,
    /// Node names or ids; empty for the strategy's default. Not together with labels, zones or replicas.
    #[serde(default)]
    pub on: Vec<String>,
    /// Only nodes with all of these labels: `disk=ssd`, or `disk` with any value.
    #[serde(default)]
    pub labels: Vec<String>,
    /// Only nodes in one of these zones.
    #[serde(default)]
    pub zones: Vec<String>,
    /// Only on hosts with so many processors at least, and so much memory.
    #[serde(default)]
    pub min_cpus: Option<u32>,
    #[serde(default)]
    pub min_memory_bytes: Option<u64>,
    /// Only where so much of the disk with the engine's images is free at least.
    #[serde(default)]
    pub min_storage_bytes: Option<u64>,
    /// Only on hosts of this architecture, such as `amd64`.
    #[serde(default)]
    pub arch: Option<String>,
    /// Only where the engine can do all of these, such as `runtime:runc` or `gpu`.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Nodes in this zone come first, as far as they can do it. It rules nobody out.
    #[serde(default)]
    pub preferred_zone: Option<String>,
    /// Replicated: on so many nodes, spread over zones. Of a run: so many containers, whatever the strategy.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// Distributed: to one node after the other, whatever they can carry.
    #[serde(default)]
    pub in_turn: bool,
    /// Give up after so long; default 30 minutes.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
    /// The session that it belongs to, by a name of yours; without one it gets a session of its own.
    #[serde(default)]
    pub session: Option<String>,
}

impl OperationRequest {
    /// With the strategy's own choice of nodes, the default timeout, and a session of its own.
    pub fn new(action: Action, strategy: Strategy) -> Self {
        Self {
            action,
            strategy,
            on: Vec::new(),
            labels: Vec::new(),
            zones: Vec::new(),
            min_cpus: None,
            min_memory_bytes: None,
            min_storage_bytes: None,
            arch: None,
            capabilities: Vec::new(),
            preferred_zone: None,
            replicas: None,
            in_turn: false,
            timeout_ms: None,
            session: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OperationState {
    Planned,
    Running,
    Succeeded,
    /// Some sub-operations succeeded, some failed. Exit 5.
    Partial,
    Failed,
    /// It was cancelled before all of it had ended; what had ended by then stands.
    Cancelled,
}

impl OperationState {
    pub const ALL: [Self; 6] =
        [Self::Planned, Self::Running, Self::Succeeded, Self::Partial, Self::Failed, Self::Cancelled];

    /// As it is written in requests and replies.
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Partial => "partial",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    pub fn is_terminal(self) -> bool {
        !matches!(self, Self::Planned | Self::Running)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SubOperationState {
    /// Waits for its node to take it.
    Assigned,
    Running,
    Succeeded,
    Failed,
    Cancelled,
}

/// One piece of work on one node.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SubOperationView {
    pub index: u32,
    pub node: String,
    /// The image that it brings, sends or names, or the container.
    pub subject: String,
    /// Why this node, if the fleet chose it.
    pub why: Option<String>,
    pub state: SubOperationState,
    /// Times it was started.
    pub attempts: u32,
    /// Of a build: steps of its Dockerfile.
    pub layers_done: u32,
    pub layers_total: u32,
    pub current_bytes: u64,
    pub total_bytes: u64,
    /// Image digest or id, or a container's id, once it succeeded.
    pub result: Option<String>,
    pub error: Option<String>,
    pub started_at_ms: Option<u64>,
    pub ended_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OperationView {
    pub id: String,
    pub session: String,
    pub kind: String,
    pub state: OperationState,
    pub strategy: Strategy,
    pub images: Vec<String>,
    /// The containers that it makes, ends or removes, by name.
    #[serde(default)]
    pub containers: Vec<String>,
    /// Of a build: what it is made of.
    #[serde(default)]
    pub build: Option<BuildView>,
    pub submitted_by: String,
    pub submitted_at_ms: u64,
    /// The operation whose failed parts this one does again.
    pub retry_of: Option<String>,
    /// The node that was told to cancel it.
    pub cancelled_by: Option<String>,
    pub ended_at_ms: Option<u64>,
    /// Of one that is meant for all nodes: those that it does without, since they were away, or had not told yet what they have.
    #[serde(default)]
    pub left_out: Vec<MissingNode>,
    pub sub_operations: Vec<SubOperationView>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema, IntoParams)]
#[serde(deny_unknown_fields)]
pub struct OperationQuery {
    /// At most so many; default 100, at most 1000.
    #[serde(default)]
    pub limit: Option<u32>,
    /// Only those not yet ended.
    #[serde(default)]
    pub active: bool,
    /// Only those of this session.
    #[serde(default)]
    pub session: Option<String>,
    /// Only those of this kind, such as `pull`.
    #[serde(default)]
    pub kind: Option<String>,
    /// Only those in this state, such as `failed`.
    #[serde(default)]
    pub state: Option<OperationState>,
    /// Only those submitted since then, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub since_ms: Option<u64>,
}
