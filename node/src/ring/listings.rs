//! Listings of operations over groups, and what of other sources may be added to them.
//!
//! Owns the order in which groups are asked, and the bounds of what they said. Must never: ask a history.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use futures_util::StreamExt;
use longshore_model::operations::table::ENDED_KEPT_MS;
use longshore_model::operations::{Listed, Listing, Operation, OperationId};
use longshore_model::partition::{Answer, PartitionId, Read};
use longshore_raft::model::ring::GroupCount;
use longshore_raft::{GroupId, Runtime};

use super::front::{Front, FrontError, GROUPS_LISTED_AT_ONCE, first_of_each};

/// By how much the wall clocks of nodes, and log time, may differ.
pub(crate) const CLOCKS_DIFFER_MS: u64 = 10 * 60_000;

/// What groups have of a listing.
#[derive(Debug)]
pub(crate) struct GroupsListed {
    /// Newest first.
    pub(crate) operations: Vec<Operation>,
    bounds: Bounds,
}

/// How far the logs went of which a listing tells.
#[derive(Debug)]
struct Bounds {
    groups: GroupCount,
    /// The last operation in each group that was asked; none if it has none.
    last: BTreeMap<GroupId, Option<OperationId>>,
}

impl GroupsListed {
    /// Whether an operation that these groups did not list was there when they were asked, and dropped before: not one that came since, or the
    /// listing would show it without those that came before it.
    pub(crate) fn may_have_dropped(&self, operation: &Operation, now_unix_ms: u64) -> bool {
        self.bounds.may_have_dropped(operation, now_unix_ms)
    }
}

impl Bounds {
    fn may_have_dropped(&self, operation: &Operation, now_unix_ms: u64) -> bool {
        match self.last.get(&self.groups.group_of(operation.id.partition)) {
            Some(Some(last)) => operation.id <= *last,
            // A group that holds nothing has dropped what it had for its age.
            Some(None) => {
                operation.submitted_unix_ms + ENDED_KEPT_MS <= now_unix_ms.saturating_add(CLOCKS_DIFFER_MS)
            }
            None => false,
        }
    }
}

impl<R: Runtime> Front<R> {
    /// Operations of one session, or of the whole fleet, newest first; `listing.limit` of each group at most.
    pub(crate) async fn operations(&self, listing: Listing) -> Result<GroupsListed, FrontError> {
        let groups = self.groups()?;
        let partitions = match &listing.session {
            Some(session) => vec![session.partition()],
            None => first_of_each(groups),
        };
        let limit = listing.limit as usize;
        // A few at a time, and no more than are asked for: a group can hold many, and large ones.
        let all = partitions.into_iter().map(|partition| {
            let listed = self.operations_at(partition, listing.clone());
            async move { Ok::<_, FrontError>((groups.group_of(partition), listed.await?)) }
        });
        let mut all = futures_util::stream::iter(all).buffered(GROUPS_LISTED_AT_ONCE);
        let (mut newest, mut last): (Vec<Operation>, _) = (Vec::new(), BTreeMap::new());
        while let Some(listed) = all.next().await {
            let (group, listed) = listed?;
            last.insert(group, listed.last);
            newest.extend(listed.operations);
            newest.sort_by_key(|operation| Reverse((operation.submitted_unix_ms, operation.id)));
            newest.truncate(limit);
        }
        Ok(GroupsListed { operations: newest, bounds: Bounds { groups, last } })
    }

    /// All pages of one group as one.
    pub(super) async fn operations_at(
        &self,
        partition: PartitionId,
        mut listing: Listing,
    ) -> Result<Listed, FrontError> {
        let mut all = Listed { operations: Vec::new(), more: true, last: None };
        loop {
            match self.read(partition, Read::Operations(listing.clone())).await? {
                (_, Answer::Operations(Listed { operations, more, last })) => {
                    // Pages go back in the log: what came after the first is behind it.
                    if listing.before.is_none() {
                        all.last = last;
                    }
                    listing.limit = listing.limit.saturating_sub(operations.len() as u32);
                    listing.before = operations.last().map(|last| last.id);
                    all.operations.extend(operations);
                    all.more = more;
                    if !more || listing.before.is_none() || listing.limit == 0 {
                        return Ok(all);
                    }
                }
                (group, _) => return Err(FrontError::Nonsense { group }),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::operations::{OperationKind, Operations, Part, Strategy, Submission};
    use longshore_raft::NodeId;
    use longshore_raft::consensus::machine::LogTime;

    use super::*;

    fn operation(index: u64, partition: PartitionId, unix_ms: u64) -> Operation {
        let submission = Submission {
            session: "nightly".parse().unwrap(),
            kind: OperationKind::Pull { images: vec!["busybox".parse().unwrap()] },
            strategy: Strategy::Local,
            places: Default::default(),
            parts: vec![Part { node: NodeId(1), work: 0, why: None }],
            left_out: Vec::new(),
            timeout_ms: 60_000,
            submitted_by: NodeId(1),
            unix_ms,
            retry_of: None,
            asked: [0; 32],
            key: None,
        };
        let mut operations = Operations::default();
        let id = OperationId { index, position: 0, partition: submission.session.partition() };
        operations.submit(id, LogTime(0), submission).unwrap();
        let operation = operations.get(id).unwrap().clone();
        // Where it is counts here, not how its session is called.
        Operation { id: OperationId { partition, ..id }, ..operation }
    }

    #[test]
    fn what_came_after_a_group_was_asked_is_not_added_to_its_listing() {
        let (held, empty, unasked) = (PartitionId(0), PartitionId(8), PartitionId(16));
        let groups = GroupCount::G32;
        let last = Some(OperationId { index: 7, position: 0, partition: PartitionId(3) });
        let last = BTreeMap::from([(groups.group_of(held), last), (groups.group_of(empty), None)]);
        let bounds = Bounds { groups, last };
        let now = 3 * ENDED_KEPT_MS;
        let may =
            |index, partition, unix_ms| bounds.may_have_dropped(&operation(index, partition, unix_ms), now);
        assert_eq!([6, 7, 8, 9].map(|index| may(index, held, now)), [true, true, false, false]);
        assert_eq!((may(1, empty, now), may(1, empty, now - ENDED_KEPT_MS)), (false, true));
        assert!(!may(1, unasked, 0));
    }
}
