//! What a node still has to do, over the whole fleet: the open parts of operations that name it, and the copies of runs that are kept up.
//!
//! Must never: say that nothing is left when a group could not be asked.

use std::collections::BTreeSet;

use futures_util::StreamExt;
use longshore_model::operations::table::ACTIVE_MAX;
use longshore_model::operations::{Kept, Listing, Operation, OperationKind, SubKey, SubState};
use longshore_raft::{NodeId, Runtime};

use super::Front;
use super::front::{FrontError, first_of_each};

/// Groups that are asked at a time.
const GROUPS_AT_ONCE: usize = 4;

/// A part of an operation that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OpenPart {
    pub(crate) sub: SubKey,
    /// Name of the operation's kind.
    pub(crate) kind: &'static str,
    /// The image or the container that it is about.
    pub(crate) subject: String,
    pub(crate) is_running: bool,
}

/// Digests of the build contexts that operations name which have not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OpenContexts {
    /// That were sent to the node that is asked about: others come to it for them.
    pub(crate) held: BTreeSet<[u8; 32]>,
    /// That were sent to others.
    pub(crate) elsewhere: BTreeSet<[u8; 32]>,
}

fn active(kind: Option<&str>) -> Listing {
    Listing { active: true, kind: kind.map(str::to_owned), limit: ACTIVE_MAX as u32, ..Listing::default() }
}

impl<R: Runtime> Front<R> {
    /// The contexts that builds need which have not ended. As with [`Self::open_parts`], each group answers linearizably.
    ///
    /// # Errors
    /// If a group does not answer.
    pub(crate) async fn open_contexts(&self, holder: NodeId) -> Result<OpenContexts, FrontError> {
        let groups = first_of_each(self.groups()?).into_iter();
        let asked = groups.map(|partition| self.operations_at(partition, active(Some("build"))));
        let mut asked = futures_util::stream::iter(asked).buffered(GROUPS_AT_ONCE);
        let mut open = OpenContexts::default();
        while let Some(operations) = asked.next().await {
            for operation in operations?.operations {
                let OperationKind::Build(build) = operation.kind else { continue };
                let context = build.context;
                let named = if context.holder == holder { &mut open.held } else { &mut open.elsewhere };
                named.insert(context.digest);
            }
        }
        Ok(open)
    }

    /// The open parts that are on a node, by operation. Each group answers linearizably, but not all at one moment.
    ///
    /// # Errors
    /// If a group does not answer.
    pub(crate) async fn open_parts(&self, node: NodeId) -> Result<Vec<OpenPart>, FrontError> {
        // A few at a time, and no more is kept of them than is asked for: a group can hold many operations, and large ones.
        let groups = first_of_each(self.groups()?).into_iter();
        let asked = groups.map(|partition| async move {
            let operations = self.operations_at(partition, active(None)).await?.operations;
            let kept = self.kept_at(partition).await?;
            let copies = kept.iter().flat_map(|kept| up_on(kept, node));
            Ok::<_, FrontError>(
                operations.iter().flat_map(|o| open_on(o, node)).chain(copies).collect::<Vec<_>>(),
            )
        });
        let mut asked = futures_util::stream::iter(asked).buffered(GROUPS_AT_ONCE);
        let mut open = Vec::new();
        while let Some(parts) = asked.next().await {
            open.extend(parts?);
        }
        open.sort_by_key(|part| part.sub);
        Ok(open)
    }
}

/// Copies of a run that are up on a node: they are to be replaced elsewhere.
fn up_on(kept: &Kept, node: NodeId) -> impl Iterator<Item = OpenPart> + '_ {
    let copies = kept.copies.iter().enumerate().filter(|_| !kept.stopped);
    let up = copies.filter(move |(index, copy)| copy.node == node && kept.is_up(*index));
    up.map(|(index, copy)| OpenPart {
        sub: copy.part,
        kind: "run",
        subject: kept.spec.container_name(kept.run, index as u32),
        is_running: true,
    })
}

fn open_on(operation: &Operation, node: NodeId) -> impl Iterator<Item = OpenPart> + '_ {
    let subs = operation.subs.iter().enumerate();
    let open = subs.filter(move |(_, sub)| sub.node == node && !sub.state.is_terminal());
    open.map(|(index, sub)| OpenPart {
        sub: SubKey { operation: operation.id, index: index as u32 },
        kind: operation.kind.name(),
        subject: operation.kind.subject(operation.id, sub.work),
        is_running: matches!(sub.state, SubState::Running(_)),
    })
}
