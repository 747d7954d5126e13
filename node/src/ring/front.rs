//! Brings requests for keys and operations to whoever serves their partition, from any node.
//!
//! A write goes through the group's log, exactly once. A read is linearizable: from this node's own replica after a barrier, or answered by
//! the leader. Whatever is refused because this node's ring is behind is tried again when it has caught up.
//! Must never: answer from a copy without a barrier. (What is said of one is a hint: that it changed, that something is in it.)

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_model::container::Origin;
use longshore_model::keys::{Found, KeyCommand, KeyError, KeyReply, Page, Scan};
use longshore_model::operations::{Kept, Operation, OperationCommand, OperationId, OperationReply, Verdict};
use longshore_model::partition::{
    self, Answer, Envelope, PartitionCommand, PartitionId, PartitionStatus, Query, Read, VERDICTS_MAX,
    partition_of,
};
use longshore_raft::consensus::machine::GroupError;
use longshore_raft::model::ring::GroupCount;
use longshore_raft::{GroupId, NodeId, ReplicaId, Runtime};

use super::replicas::Handle;
use super::{Partitions, Replicas};
use crate::core::Core;

/// Tries of one request whose epoch was superseded: each time the ring has gone on.
const EPOCH_RETRIES: u32 = 5;
/// How long a request waits for this node's copy of the ring to reach the epoch that a group has heard of.
const RING_PATIENCE: Duration = Duration::from_secs(5);

/// Groups whose operations are listed at a time.
pub(super) const GROUPS_LISTED_AT_ONCE: usize = 4;

/// Why a request was not done.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum FrontError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{}", without_quorum(error, missing.as_deref()))]
    Group {
        error: GroupError,
        /// Which members of the group are missing, if that is why.
        missing: Option<String>,
    },
    /// This node has not heard of the ring yet, or is far behind; nothing was done.
    #[error("this node does not know the ring yet")]
    NoRing,
    #[error("the ring kept changing; nothing was done, try again")]
    Unsettled,
    /// Another version of this program, or a bug.
    #[error("group {group} gave an answer that makes no sense here")]
    Nonsense { group: GroupId },
}

/// Who is missing comes first: what the group's replicas say of it is for those who look closer.
fn without_quorum(error: &GroupError, missing: Option<&str>) -> String {
    match (error, missing) {
        (GroupError::NoQuorum { group, detail }, Some(missing)) => {
            format!("group {group} has no quorum: {missing} ({detail})")
        }
        (_, Some(missing)) => format!("{error}; {missing}"),
        (_, None) => error.to_string(),
    }
}

/// See the module's docs. A handle: cheap to clone.
pub(crate) struct Front<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
}

/// A partition of each group.
pub(super) fn first_of_each(groups: GroupCount) -> Vec<PartitionId> {
    let ranges = groups.groups().filter_map(|group| groups.partitions_of(group));
    ranges.map(|range| PartitionId(*range.start())).collect()
}

/// Where a request goes, by this node's copy of the ring.
struct Aim {
    group: GroupId,
    partition: PartitionId,
    epoch: u64,
}

/// What whoever reads is after.
#[derive(Debug, Clone, Copy)]
enum Interest {
    Now,
    /// And the next change, as soon as it is there.
    AndNext,
}

impl<R: Runtime> Clone for Front<R> {
    fn clone(&self) -> Self {
        Self { core: Arc::clone(&self.core), replicas: Arc::clone(&self.replicas) }
    }
}

impl<R: Runtime> Front<R> {
    pub(crate) fn new(core: Arc<Core<R>>, replicas: Arc<Replicas<R>>) -> Self {
        Self { core, replicas }
    }

    pub(crate) async fn change(&self, command: KeyCommand) -> Result<KeyReply, FrontError> {
        let partition = partition_of(command.key());
        match self.request(partition, PartitionCommand::Key(command)).await? {
            (_, partition::Reply::Key(reply)) => Ok(reply?),
            (group, _) => Err(FrontError::Nonsense { group }),
        }
    }

    /// Has a partition do something with its operations.
    pub(crate) async fn operate(
        &self,
        partition: PartitionId,
        command: OperationCommand,
    ) -> Result<OperationReply, FrontError> {
        match self.request(partition, PartitionCommand::Operation(command)).await? {
            (_, partition::Reply::Operation(reply)) => Ok(reply),
            (group, _) => Err(FrontError::Nonsense { group }),
        }
    }

    pub(crate) async fn operation(&self, id: OperationId) -> Result<Option<Operation>, FrontError> {
        self.operation_by(id, Interest::Now).await
    }

    /// As [`Self::operation`], for who goes on to wait for [`Self::news`]: the next are told at once.
    pub(crate) async fn followed_operation(&self, id: OperationId) -> Result<Option<Operation>, FrontError> {
        self.operation_by(id, Interest::AndNext).await
    }

    async fn operation_by(
        &self,
        id: OperationId,
        interest: Interest,
    ) -> Result<Option<Operation>, FrontError> {
        match self.read_by(id.partition, Read::Operation(id), interest).await? {
            (_, Answer::Operation(operation)) => Ok(operation.map(|operation| *operation)),
            (group, _) => Err(FrontError::Nonsense { group }),
        }
    }

    /// This node's replica of the partition's group, if it has one.
    fn here(&self, partition: PartitionId) -> Option<Partitions<R>> {
        self.replicas.get(self.groups().ok()?.group_of(partition))
    }

    /// Whether an operation is in the log that this node has of its group, if it has one: then its open parts are counted there.
    pub(crate) fn is_logged_here(&self, id: OperationId) -> bool {
        let holds =
            |replica: Partitions<R>| replica.with_state(|machine| machine.operations().get(id).is_some());
        self.here(id.partition).is_some_and(holds)
    }

    /// Whether this node's replica of the operation's group has something else to say of it than `known`, which is replaced by it. Also true if
    /// there is no replica here: then only [`Self::operation`] knows.
    pub(crate) fn differs_here(&self, id: OperationId, known: &mut Option<Operation>) -> bool {
        let Some(replica) = self.here(id.partition) else { return true };
        replica.with_state(|machine| {
            let now = machine.operations().get(id);
            let differs = now != known.as_ref();
            if differs {
                *known = now.cloned();
            }
            differs
        })
    }

    /// What is to become of containers on a node, all of whose records are in one partition; in their order.
    pub(crate) async fn verdicts(
        &self,
        partition: PartitionId,
        node: NodeId,
        origins: Vec<Origin>,
    ) -> Result<Vec<Verdict>, FrontError> {
        let mut all = Vec::with_capacity(origins.len());
        for some in origins.chunks(VERDICTS_MAX) {
            match self.read(partition, Read::Verdicts { node, origins: some.to_vec() }).await? {
                (_, Answer::Verdicts(verdicts)) if verdicts.len() == some.len() => all.extend(verdicts),
                (group, _) => return Err(FrontError::Nonsense { group }),
            }
        }
        Ok(all)
    }

    /// Runs that the fleet keeps up, oldest first.
    pub(crate) async fn kept(&self) -> Result<Vec<Kept>, FrontError> {
        let partitions = first_of_each(self.groups()?).into_iter();
        let all = partitions.map(|partition| self.kept_at(partition));
        let mut all = futures_util::stream::iter(all).buffered(GROUPS_LISTED_AT_ONCE);
        let mut kept: Vec<Kept> = Vec::new();
        while let Some(some) = all.next().await {
            kept.extend(some?);
        }
        Ok(kept)
    }

    pub(super) async fn kept_at(&self, partition: PartitionId) -> Result<Vec<Kept>, FrontError> {
        let mut all: Vec<Kept> = Vec::new();
        loop {
            let after = all.last().map(|kept| kept.run);
            match self.read(partition, Read::Kept { after }).await? {
                (_, Answer::Kept(page)) if page.is_empty() => return Ok(all),
                (_, Answer::Kept(page)) => all.extend(page),
                (group, _) => return Err(FrontError::Nonsense { group }),
            }
        }
    }

    /// Resolves when something was applied at this node's replica of the partition's group, and after `patience` at the latest.
    pub(crate) async fn news(&self, partition: PartitionId, seen: u64, patience: Duration) -> u64 {
        match self.here(partition) {
            Some(replica) => R::timeout(patience, replica.changed(seen)).await.unwrap_or(seen),
            None => {
                R::sleep(patience).await;
                seen
            }
        }
    }

    async fn request(
        &self,
        partition: PartitionId,
        command: PartitionCommand,
    ) -> Result<(GroupId, partition::Reply), FrontError> {
        for _ in 0..EPOCH_RETRIES {
            let aim = self.aim(partition)?;
            let request = Envelope { epoch: aim.epoch, partition, command: command.clone() };
            let request = partition::Command::Request(request);
            let reply = match self.replicas.handle(aim.group).await {
                Handle::Here(replica) => replica.propose(request).await,
                Handle::Afar(group) => group.propose(request).await,
            };
            match reply.map_err(|error| self.explain(aim.group, error))? {
                partition::Reply::WrongEpoch { current } => self.until_ring(aim.group, current).await?,
                reply => return Ok((aim.group, reply)),
            }
        }
        Err(FrontError::Unsettled)
    }

    pub(crate) async fn get(&self, namespace: String, key: Vec<u8>) -> Result<Option<Found>, FrontError> {
        let partition = partition_of(&key);
        match self.read(partition, Read::Key { namespace, key }).await? {
            (_, Answer::Key(found)) => Ok(found?),
            (group, _) => Err(FrontError::Nonsense { group }),
        }
    }

    /// A page of keys of the whole fleet, in order: every group's page is read, and what all of them cover is given back.
    pub(crate) async fn scan(&self, scan: Scan) -> Result<Page, FrontError> {
        let pages = self.each_group(scan.partition, |_| Read::Scan(scan.clone())).await?;
        let limit = scan.limit as usize;
        let page = |(group, answer)| match answer {
            Answer::Page(page) => Ok(page?),
            _ => Err(FrontError::Nonsense { group }),
        };
        let pages = pages.into_iter().map(page).collect::<Result<Vec<Page>, FrontError>>()?;
        Ok(Page::merge(pages, limit))
    }

    /// What one group says of its keys.
    pub(crate) async fn status(&self, group: GroupId) -> Result<PartitionStatus, FrontError> {
        let partitions = self.groups()?.partitions_of(group).ok_or(FrontError::NoRing)?;
        match self.read(PartitionId(*partitions.start()), Read::Status).await? {
            (_, Answer::Status(status)) => Ok(*status),
            (group, _) => Err(FrontError::Nonsense { group }),
        }
    }

    /// Has whoever leads a group hand leadership to one of its replicas.
    pub(crate) async fn transfer(&self, group: GroupId, to: ReplicaId) -> Result<(), FrontError> {
        let handed = match self.replicas.handle(group).await {
            Handle::Here(replica) => replica.transfer_leader_from_afar(to).await,
            Handle::Afar(afar) => afar.transfer_leader_from_afar(to).await,
        };
        handed.map_err(|error| self.explain(group, error))
    }

    /// Asks every group, or the one of a partition, all at once.
    async fn each_group(
        &self,
        only: Option<PartitionId>,
        read: impl Fn(GroupId) -> Read,
    ) -> Result<Vec<(GroupId, Answer)>, FrontError> {
        let groups = self.groups()?;
        let partitions: Vec<PartitionId> = match only {
            Some(partition) => vec![partition],
            None => first_of_each(groups),
        };
        let asked =
            partitions.into_iter().map(|partition| self.read(partition, read(groups.group_of(partition))));
        futures_util::future::try_join_all(asked).await
    }

    pub(super) async fn read(
        &self,
        partition: PartitionId,
        read: Read,
    ) -> Result<(GroupId, Answer), FrontError> {
        self.read_by(partition, read, Interest::Now).await
    }

    async fn read_by(
        &self,
        partition: PartitionId,
        read: Read,
        interest: Interest,
    ) -> Result<(GroupId, Answer), FrontError> {
        for _ in 0..EPOCH_RETRIES {
            let aim = self.aim(partition)?;
            let query = Query { epoch: aim.epoch, partition: aim.partition, read: read.clone() };
            let answer = match self.replicas.handle(aim.group).await {
                Handle::Here(replica) => match interest {
                    Interest::Now => replica.query(query).await,
                    Interest::AndNext => replica.query_and_follow(query).await,
                },
                Handle::Afar(group) => group.query(query).await,
            };
            match answer.map_err(|error| self.explain(aim.group, error))? {
                Answer::WrongEpoch { current } => self.until_ring(aim.group, current).await?,
                answer => return Ok((aim.group, answer)),
            }
        }
        Err(FrontError::Unsettled)
    }

    pub(super) fn groups(&self) -> Result<GroupCount, FrontError> {
        let groups = self.core.group.with_state(|state| state.ring.as_ref().map(|ring| ring.groups()));
        groups.ok_or(FrontError::NoRing)
    }

    fn aim(&self, partition: PartitionId) -> Result<Aim, FrontError> {
        self.core.group.with_state(|state| {
            let ring = state.ring.as_ref().ok_or(FrontError::NoRing)?;
            let group = ring.groups().group_of(partition);
            let epoch = ring.placement(group).ok_or(FrontError::NoRing)?.epoch;
            longshore_storage::mutant!("serve-under-an-old-epoch" => {
                return Ok(Aim { group, partition, epoch: u64::MAX })
            });
            Ok(Aim { group, partition, epoch })
        })
    }

    /// Waits until this node's copy of the ring has this epoch of the group.
    async fn until_ring(&self, group: GroupId, epoch: u64) -> Result<(), FrontError> {
        let reached = async {
            let mut seen = 0;
            loop {
                let known = self.core.group.with_state(|state| {
                    let placement = state.ring.as_ref().and_then(|ring| ring.placement(group));
                    placement.map_or(0, |placement| placement.epoch)
                });
                if known >= epoch {
                    return;
                }
                seen = self.core.group.changed(seen).await;
            }
        };
        R::timeout(RING_PATIENCE, reached).await.map_err(|_| FrontError::Unsettled)
    }

    /// Adds who is missing.
    fn explain(&self, group: GroupId, error: GroupError) -> FrontError {
        let missing = match &error {
            GroupError::NoQuorum { .. }
            | GroupError::NotLeader { .. }
            | GroupError::OutcomeUnknown { .. } => self.missing(group),
            _ => None,
        };
        FrontError::Group { error, missing }
    }

    fn missing(&self, group: GroupId) -> Option<String> {
        let members: Vec<_> = self.core.group.with_state(|state| {
            let placement = state.ring.as_ref()?.placement(group)?;
            let name = |node| {
                state.membership.get(node).map_or_else(|| node.to_string(), |n| n.profile.name.clone())
            };
            Some(placement.members.values().map(|node| (*node, name(*node))).collect())
        })?;
        let total = members.len();
        let dead: Vec<String> = members
            .into_iter()
            .filter(|(node, _)| !self.core.is_alive(*node))
            .map(|(_, name)| name)
            .collect();
        (!dead.is_empty())
            .then(|| format!("of its {total} replicas, those on {} are missing", dead.join(", ")))
    }
}
