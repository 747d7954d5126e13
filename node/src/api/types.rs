//! JSON types of the HTTP API, version 1. Times are milliseconds since the Unix epoch, as the local node sees them.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

mod builds;
mod containers;
mod keys;
mod nodes;
mod operations;
mod registries;
mod ring;

pub use builds::*;
pub use containers::*;
pub use keys::*;
pub use nodes::*;
pub use operations::*;
pub use registries::*;
pub use ring::*;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong; do not retry. HTTP 400, exit 2.
    Invalid,
    /// HTTP 404, exit 1.
    NotFound,
    /// It clashes with what is there (a name taken, would lose the quorum). HTTP 409, exit 1.
    Conflict,
    /// HTTP 403, exit 3.
    Denied,
    /// HTTP 503, exit 4. Nothing was done.
    NoQuorum,
    /// HTTP 504, exit 1. The change may or may not happen, once; look before you retry, or retry with the same idempotency key.
    OutcomeUnknown,
    /// A limit was hit; nothing was done; retry later. HTTP 429, exit 1.
    Busy,
    /// HTTP 413, exit 2.
    TooLarge,
    /// HTTP 500, exit 1.
    Internal,
}

/// Every error of the API.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    /// What went wrong, in one sentence.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
    /// Of a key whose condition failed: its version; absent if there is no such key.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub current_version: Option<u64>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, current_version: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StatusView {
    pub version: String,
    pub fleet: String,
    pub node_id: String,
    pub name: String,
    pub address: String,
    pub role: NodeRole,
    /// Name of the control leader, if there is one.
    pub leader: Option<String>,
    pub term: u64,
    pub applied_index: u64,
    pub committed_index: u64,
    pub voters: u32,
    pub nodes_alive: u32,
    pub nodes_total: u32,
    /// In the groups that this node has a replica of.
    pub operations_running: u32,
    pub engine: EngineView,
    pub uptime_ms: u64,
    /// Largest difference between a peer's wall clock and this node's, if one was measured.
    pub clock_skew_max_ms: Option<i64>,
    /// Things that need a person: one sentence each.
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct HealthView {
    pub live: bool,
    pub ready: bool,
    /// Why not ready, one sentence each.
    pub reasons: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    Leader,
    Voter,
    Learner,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    Alive,
    Suspect,
    Failed,
    Left,
}

/// The Docker engine of a node, as last seen by it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum EngineView {
    Ready {
        version: String,
        api_version: String,
        arch: String,
        /// Processors and memory of its host.
        #[serde(default)]
        cpus: u32,
        #[serde(default)]
        memory_bytes: u64,
        /// What it can do, such as `runtime:runc`; operations can ask for it.
        #[serde(default)]
        capabilities: Vec<String>,
    },
    Unavailable {
        reason: String,
    },
    /// Started with `--docker none`.
    NotConfigured,
    /// Not reported yet.
    Unknown,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenCreate {
    /// Milliseconds until it expires; at most 30 days; default 1 hour.
    #[serde(default)]
    pub ttl_ms: Option<u64>,
    /// How many nodes may join with it; default 1, 0 for no limit.
    #[serde(default)]
    pub uses: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenCreated {
    /// The secret itself; shown this once. Only its hash is kept.
    pub token: String,
    pub info: TokenView,
    /// The exact command for a joiner.
    pub join_command: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TokenState {
    Valid,
    Expired,
    UsedUp,
    Revoked,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct TokenView {
    pub id: String,
    pub state: TokenState,
    pub uses: u32,
    /// 0 for no limit.
    pub uses_max: u32,
    /// Milliseconds left; 0 when expired.
    pub expires_in_ms: u64,
}

/// Last line of a watch that ended early.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct WatchEnd {
    pub error: ApiError,
}
