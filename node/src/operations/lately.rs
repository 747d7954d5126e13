//! What this node placed in the last few seconds, and neither a log nor the word of another node tells of yet.
//!
//! Whoever decides next in the same moment would take those nodes for idle, and give them all the rest as well. So whoever decides holds the one
//! lock, is told what was placed before, and notes its own. An entry goes when the operation is seen in a log, when its node has told how busy it is
//! since, when the submission came to nothing, and after a few seconds in any case. A memory, no record: what is in it decides nothing but preferences.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::operations::{OperationId, Part};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::{NodeId, Runtime};
use parking_lot::{Mutex, MutexGuard};

/// How long an entry counts at most: work is offered at once, and nodes tell of it within two seconds.
const KEPT: Duration = Duration::from_secs(5);
/// A node that tells so long after its work was logged has begun it, or told of something else.
const BEGUN_AFTER: Duration = Duration::from_secs(1);
/// Operations in memory; the oldest go.
const ENTRIES_MAX: usize = 1_024;

#[derive(Debug)]
struct Entry<R: Runtime> {
    number: u64,
    placed: R::Instant,
    /// Where it is in a log, and since when.
    logged: Option<(OperationId, R::Instant)>,
    parts: BTreeMap<NodeId, u32>,
}

#[derive(Debug)]
struct State<R: Runtime> {
    entries: VecDeque<Entry<R>>,
    last: u64,
}

/// See the module's docs. One per node.
#[derive(Debug)]
pub(crate) struct Lately<R: Runtime>(Mutex<State<R>>);

/// One who decides. Nobody else does until it is dropped.
pub(crate) struct Deciding<'a, R: Runtime> {
    lately: &'a Arc<Lately<R>>,
    state: MutexGuard<'a, State<R>>,
}

/// A decision on its way to a log. Dropped before it was logged, it is forgotten.
#[derive(Debug)]
pub(crate) struct Ticket<R: Runtime> {
    lately: Arc<Lately<R>>,
    number: u64,
    is_logged: bool,
}

impl<R: Runtime> Lately<R> {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(State { entries: VecDeque::new(), last: 0 })))
    }

    /// `is_seen`: whether an operation is in a log that this node has; `told`: how long ago a node told how busy it is.
    pub(crate) fn decide(
        self: &Arc<Self>,
        is_seen: impl Fn(OperationId) -> bool,
        told: impl Fn(NodeId) -> Option<Duration>,
    ) -> Deciding<'_, R> {
        let mut state = self.0.lock();
        let now = R::Instant::now();
        state.entries.retain_mut(|entry| {
            if let Some((operation, since)) = entry.logged {
                if is_seen(operation) {
                    return false;
                }
                let logged_ago = now - since;
                entry.parts.retain(|node, _| told(*node).is_none_or(|ago| ago + BEGUN_AFTER > logged_ago));
            }
            now - entry.placed < KEPT && !entry.parts.is_empty()
        });
        Deciding { lately: self, state }
    }
}

impl<R: Runtime> Deciding<'_, R> {
    /// How many parts each node was given, of which nothing else tells.
    pub(crate) fn placed(&self) -> BTreeMap<NodeId, u32> {
        let mut placed: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (node, parts) in self.state.entries.iter().flat_map(|entry| &entry.parts) {
            let of = placed.entry(*node).or_default();
            *of = of.saturating_add(*parts);
        }
        placed
    }

    /// Of this decision: no other of this node has it.
    pub(crate) fn number(&self) -> u64 {
        self.state.last + 1
    }

    /// Notes who was given what.
    pub(crate) fn note(mut self, parts: &[Part]) -> Ticket<R> {
        let number = self.number();
        let mut of: BTreeMap<NodeId, u32> = BTreeMap::new();
        parts.iter().for_each(|part| *of.entry(part.node).or_default() += 1);
        let state = &mut *self.state;
        if state.entries.len() >= ENTRIES_MAX {
            state.entries.pop_front();
        }
        state.entries.push_back(Entry { number, placed: R::Instant::now(), logged: None, parts: of });
        state.last = number;
        Ticket { lately: Arc::clone(self.lately), number, is_logged: false }
    }
}

impl<R: Runtime> Ticket<R> {
    /// It is in a log now.
    pub(crate) fn logged(mut self, operation: OperationId) {
        self.is_logged = true;
        let mut state = self.lately.0.lock();
        if let Some(entry) = state.entries.iter_mut().find(|entry| entry.number == self.number) {
            entry.logged = Some((operation, R::Instant::now()));
        }
    }
}

impl<R: Runtime> Drop for Ticket<R> {
    fn drop(&mut self) {
        if !self.is_logged {
            self.lately.0.lock().entries.retain(|entry| entry.number != self.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::partition::PartitionId;
    use longshore_raft::consensus::runtime::TokioRuntime;
    use tokio::time::advance;

    use super::*;

    fn parts(nodes: &[u64]) -> Vec<Part> {
        let part = |node: &u64| Part { node: NodeId(*node), work: 0, why: None };
        nodes.iter().map(part).collect()
    }

    fn id(index: u64) -> OperationId {
        OperationId { index, position: 0, partition: PartitionId(1) }
    }

    type Tested = Arc<Lately<TokioRuntime>>;

    fn placed(lately: &Tested) -> Vec<(u64, u32)> {
        let placed = lately.decide(|_| false, |_| None).placed();
        placed.into_iter().map(|(node, parts)| (node.0, parts)).collect()
    }

    fn note(lately: &Tested, nodes: &[u64]) -> Ticket<TokioRuntime> {
        lately.decide(|_| false, |_| None).note(&parts(nodes))
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_placed_counts_until_it_is_seen_elsewhere() {
        let lately: Tested = Lately::new();
        let first = note(&lately, &[1, 1, 2]);
        let second = note(&lately, &[2]);
        assert_eq!(placed(&lately), [(1, 2), (2, 2)]);
        drop(second);
        assert_eq!(placed(&lately), [(1, 2), (2, 1)], "it came to nothing");
        first.logged(id(1));
        assert_eq!(placed(&lately), [(1, 2), (2, 1)]);
        // Node 2 tells of it, though its log is elsewhere; what it told before that says nothing.
        advance(Duration::from_millis(1_500)).await;
        let told = |ago: u64| move |node| (node == NodeId(2)).then_some(Duration::from_millis(ago));
        assert_eq!(lately.decide(|_| false, told(600)).placed().len(), 2);
        assert_eq!(lately.decide(|_| false, told(500)).placed(), [(NodeId(1), 2)].into());
        // A log that is here tells of all.
        assert_eq!(lately.decide(|operation| operation == id(2), |_| None).placed().len(), 1);
        assert_eq!(lately.decide(|operation| operation == id(1), |_| None).placed().len(), 0);
        assert!(placed(&lately).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_counts_for_long_and_not_without_bound() {
        let lately: Tested = Lately::new();
        let ticket = note(&lately, &[1]);
        advance(KEPT - Duration::from_millis(1)).await;
        assert_eq!(placed(&lately), [(1, 1)]);
        advance(Duration::from_millis(1)).await;
        assert!(placed(&lately).is_empty());
        ticket.logged(id(1));
        let mut numbers = Vec::new();
        let tickets: Vec<Ticket<TokioRuntime>> = (0..2 * ENTRIES_MAX)
            .map(|_| {
                let deciding = lately.decide(|_| false, |_| None);
                numbers.push(deciding.number());
                deciding.note(&parts(&[3]))
            })
            .collect();
        assert!(numbers.is_sorted_by(|one, next| one < next));
        assert_eq!(placed(&lately), [(3, ENTRIES_MAX as u32)]);
        drop(tickets);
        assert!(placed(&lately).is_empty());
    }
}
