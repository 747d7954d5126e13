//! Why a node could not start, or had to stop.

use std::net::SocketAddr;

use longshore_raft::consensus::machine::GroupError;
use longshore_storage::StorageError;

use crate::node_store::NodeStoreError;

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error("this data folder already belongs to node {name:?} of fleet {fleet}")]
    AlreadyMember { name: String, fleet: String },
    #[error("this data folder belongs to no fleet")]
    NoFleet,
    #[error("this node {why} and its certificate is refused by the fleet for ever")]
    Gone { why: String },
    /// The fleet, or its certificate, said no.
    #[error("{0}")]
    Denied(String),
    /// The name is taken, or is none.
    #[error("{0}")]
    Name(String),
    #[error("{0}")]
    Refused(String),
    #[error("the fleet could not be reached:\n{}", list(.0))]
    Unreachable(Vec<(String, String)>),
    #[error("no peer let this node join within the time given; the last one said: {0}")]
    NotAdmitted(String),
    #[error("cannot listen on {address} (UDP, for peers): {detail}")]
    Listen { address: SocketAddr, detail: String },
    #[error(transparent)]
    Store(#[from] NodeStoreError),
    #[error("the log or a snapshot cannot be used: {0}")]
    Storage(#[from] StorageError),
    /// Acknowledged data is damaged: this copy must not vote any more.
    #[error("this node's copy of the control group is damaged: {0}")]
    Damaged(String),
    #[error("the control group: {0}")]
    Group(#[from] GroupError),
    #[error("the node had to stop: {0}")]
    Fatal(String),
}

fn list(attempts: &[(String, String)]) -> String {
    attempts.iter().map(|(address, why)| format!("  {address}: {why}")).collect::<Vec<_>>().join("\n")
}

impl NodeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::AlreadyMember { .. } => {
                "start it again with `longshore run`, or give another folder with --data-dir"
            }
            Self::NoFleet => "found a fleet with `longshore init`, or join one with `longshore join`",
            Self::Gone { .. } => {
                "empty the data folder and join the host anew with `longshore join`; it becomes a new node"
            }
            Self::Denied(_) => "print a new token with `longshore token create` on a node of the fleet",
            Self::Name(_) => "choose another name with --name; the data folder can be used again",
            Self::Unreachable(_) => {
                "check the addresses, that longshore runs there, and that UDP gets through to its port"
            }
            Self::NotAdmitted(_) => "look at `longshore status` on that node, and try again",
            Self::Listen { .. } => "choose another port with --listen IP:PORT, or stop what uses it",
            Self::Damaged(_) => {
                "remove the node on another host with `longshore node rm`, empty this data folder, and join anew"
            }
            Self::Refused(_) | Self::Store(_) | Self::Storage(_) | Self::Group(_) | Self::Fatal(_) => {
                return None;
            }
        })
    }

    /// The process's exit code: 2 a mistake in the call, 3 denied, 4 no quorum, 1 anything else.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::AlreadyMember { .. } | Self::NoFleet => 2,
            Self::Denied(_) => 3,
            Self::Group(GroupError::NoQuorum { .. }) => 4,
            _ => 1,
        }
    }
}
