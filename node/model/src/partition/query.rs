//! What a group with partitions can be asked, by nodes that have a replica and by those that have none.

use bincode::{Decode, Encode};
use longshore_raft::NodeId;
use longshore_raft::consensus::machine::{LogTime, Queries};

use super::{PartitionId, PartitionMachine, PartitionStatus};
use crate::container::Origin;
use crate::keys::{Found, KeyError, Page, Scan};
use crate::operations::{Kept, Listed, Listing, Operation, OperationId, Verdict};

/// A question, and where its sender believed that it belongs.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct Query {
    /// The group's epoch, by the ring that the front looked at.
    pub epoch: u64,
    /// A partition that it is about; any of the group's if it is about all.
    pub partition: PartitionId,
    pub read: Read,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Read {
    Key {
        namespace: String,
        key: Vec<u8>,
    },
    Scan(Scan),
    Status,
    Operation(OperationId),
    /// Of all the group's partitions.
    Operations(Listing),
    /// What is to become of containers on this node; [`VERDICTS_MAX`] at most.
    Verdicts {
        node: NodeId,
        origins: Vec<Origin>,
    },
    /// Runs that are kept up, behind this one; so many that they take [`KEPT_PAGE_BYTES`], or one.
    Kept {
        after: Option<OperationId>,
    },
}

/// Most containers that are asked about at once.
pub const VERDICTS_MAX: usize = 1_024;
/// About the most bytes of runs in an answer.
pub const KEPT_PAGE_BYTES: usize = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum Answer {
    Key(Result<Option<Found>, KeyError>),
    Page(Result<Page, KeyError>),
    Status(Box<PartitionStatus>),
    Operation(Option<Box<Operation>>),
    Operations(Listed),
    /// In the order of the question.
    Verdicts(Vec<Verdict>),
    Kept(Vec<Kept>),
    /// The query's epoch is superseded: look at the ring again, at least as new as `current`, and retry.
    WrongEpoch {
        current: u64,
    },
    /// A fault of the sender: the group does not carry the partition.
    WrongPartition,
}

impl Queries for PartitionMachine {
    type Query = Query;
    type Answer = Answer;

    fn query(&self, now: LogTime, query: Query) -> Answer {
        let Query { epoch, partition, read } = query;
        match self.admit(epoch, partition) {
            Ok(()) => {}
            Err(super::Reply::WrongEpoch { current }) => return Answer::WrongEpoch { current },
            Err(_) => return Answer::WrongPartition,
        }
        match read {
            Read::Key { namespace, key } => Answer::Key(self.get(now, &namespace, &key)),
            Read::Scan(scan) => Answer::Page(self.scan(now, &scan)),
            Read::Status => Answer::Status(Box::new(self.status())),
            Read::Operation(id) => Answer::Operation(self.operations().get(id).cloned().map(Box::new)),
            Read::Verdicts { node, origins } => {
                let verdict = |origin| self.operations().verdict(origin, node);
                Answer::Verdicts(origins.iter().take(VERDICTS_MAX).map(verdict).collect())
            }
            Read::Kept { after } => {
                let behind =
                    self.operations().kept().filter(|kept| after.is_none_or(|after| kept.run > after));
                let mut bytes = 0;
                let page = behind.take_while(|kept| {
                    let is_first = bytes == 0;
                    bytes += kept.bytes_about();
                    is_first || bytes <= KEPT_PAGE_BYTES
                });
                Answer::Kept(page.cloned().collect())
            }
            Read::Operations(listing) => Answer::Operations(self.operations().list(&listing)),
        }
    }
}
