//! The labels that say whose a container is.
//!
//! An engine can not be fenced, and a node that comes back knows nothing. What it may keep running, it learns by asking the fleet's log
//! about the attempt that the labels name.

use std::collections::BTreeMap;

use longshore_raft::NodeId;

use crate::operations::{OperationId, SubKey};

/// What the keys of all these labels begin with.
pub const LABEL_PREFIX: &str = "dev.longshore.";

const FLEET: &str = "dev.longshore.fleet";
const NODE: &str = "dev.longshore.node";
const OPERATION: &str = "dev.longshore.operation";
const PART: &str = "dev.longshore.part";
const TOKEN: &str = "dev.longshore.token";
const NAME: &str = "dev.longshore.name";
const RUN: &str = "dev.longshore.run";
const COPY: &str = "dev.longshore.copy";

/// One of the copies of a run that the fleet keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct CopyOf {
    /// The operation that began it.
    pub run: OperationId,
    /// From 0.
    pub copy: u32,
}

/// Which attempt of which sub-operation made a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, bincode::Encode, bincode::Decode)]
pub struct Origin {
    pub sub: SubKey,
    pub token: u32,
    /// If the fleet keeps it running.
    pub kept: Option<CopyOf>,
}

impl Origin {
    /// As labels of a container of this name that this node of this fleet makes.
    pub fn labels(&self, fleet: &str, node: NodeId, name: &str) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from([
            (FLEET.to_owned(), fleet.to_owned()),
            (NODE.to_owned(), node.to_string()),
            (OPERATION.to_owned(), self.sub.operation.to_string()),
            (PART.to_owned(), self.sub.index.to_string()),
            (TOKEN.to_owned(), self.token.to_string()),
            (NAME.to_owned(), name.to_owned()),
        ]);
        if let Some(CopyOf { run, copy }) = self.kept {
            labels.insert(RUN.to_owned(), run.to_string());
            labels.insert(COPY.to_owned(), copy.to_string());
        }
        labels
    }

    /// The node that made a container. Two nodes may share an engine.
    pub fn made_by(labels: &BTreeMap<String, String>) -> Option<NodeId> {
        labels.get(NODE)?.strip_prefix('n')?.parse().ok().map(NodeId)
    }

    /// Of a container of this name and with these labels, if it is this fleet's. One that has the labels and another name is somebody's own: images made of a
    /// container (`docker commit`) have its labels, and so has what is run of them.
    pub fn of(labels: &BTreeMap<String, String>, name: &str, fleet: &str) -> Option<Self> {
        if labels.get(FLEET)? != fleet || labels.get(NAME)? != name {
            return None;
        }
        let operation = labels.get(OPERATION)?.parse().ok()?;
        let index = labels.get(PART)?.parse().ok()?;
        let token = labels.get(TOKEN)?.parse().ok()?;
        let kept = match (labels.get(RUN), labels.get(COPY)) {
            (Some(run), Some(copy)) => Some(CopyOf { run: run.parse().ok()?, copy: copy.parse().ok()? }),
            _ => None,
        };
        Some(Self { sub: SubKey { operation, index }, token, kept })
    }
}
