//! Records ended operations as this node's replicas learn of them, and answers for what is recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use longshore_model::operations::table::ENDED_MAX;
use longshore_model::operations::{Operation, OperationId, Operations};
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::Replier;
use longshore_raft::{GroupId, ReplicaId, Runtime};
use longshore_storage::tables::{Opened, Tables, TablesError, TablesResult};
use parking_lot::RwLock;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::calls::{HistoryCall, HistoryReply};
use super::records;
use crate::node::OpenTables;
use crate::ring::Replicas;
use crate::wire;

/// How often replicas are looked at. A group drops what ended when so many ([`ENDED_MAX`]) have ended after it, which at a thousand a second is a
/// second later; who looks seldom finds it gone.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often what is too old or too much is removed, and after how many records at the latest.
const PRUNE_EVERY: Duration = Duration::from_secs(600);
const PRUNE_AFTER: usize = 1_000;
/// How long what was recorded may take to be durable: the replicas have it for a day anyway.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(10);
/// How long a node that stops waits for its last checkpoint.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);
/// About the most operations that are taken from a replica at a time, and of their size: applying waits meanwhile.
const TAKEN_MAX: usize = 128;
const TAKEN_SIZE_MAX: usize = 4_096;
/// How often at most something is taken from one replica before the others have their turn.
const TAKES_MAX: usize = 2 * ENDED_MAX / TAKEN_MAX;
/// Most calls that are being answered at a time.
const CALLS_MAX: usize = 16;

/// See the module's docs. One per node.
pub(crate) struct History<R: Runtime> {
    keep: Duration,
    open: OpenTables,
    /// None before they are open, and when they can not be used.
    tables: RwLock<Option<Arc<dyn Tables>>>,
    places: Semaphore,
    runtime: std::marker::PhantomData<fn() -> R>,
}

/// What of a group's operations is recorded.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Of those that the replica still holds.
    ids: BTreeSet<OperationId>,
    /// At which replica and version of its state that was all there is.
    at_rest: Option<(ReplicaId, u64)>,
}

impl Known {
    /// Ended operations that were submitted since then and are not known yet, some of them, and whether those are all. They count as known
    /// from now on.
    pub(super) fn take_new(&mut self, operations: &Operations, since_unix_ms: u64) -> (Vec<Operation>, bool) {
        let (mut taken, mut size, mut all) = (Vec::new(), 0, true);
        let mut held = BTreeSet::new();
        for operation in operations.all().filter(|operation| operation.ended.is_some()) {
            if self.ids.contains(&operation.id) {
                held.insert(operation.id);
            } else if operation.submitted_unix_ms >= since_unix_ms {
                if taken.len() >= TAKEN_MAX || size >= TAKEN_SIZE_MAX {
                    all = false;
                    continue;
                }
                size += operation.size();
                held.insert(operation.id);
                taken.push(operation.clone());
            }
        }
        self.ids = held;
        (taken, all)
    }
}

impl<R: Runtime> History<R> {
    pub(crate) fn new(open: OpenTables, keep: Duration) -> Arc<Self> {
        Arc::new(Self {
            keep,
            open,
            tables: RwLock::new(None),
            places: Semaphore::new(CALLS_MAX),
            runtime: std::marker::PhantomData,
        })
    }

    /// Records until stopped, or until the tables can not be used any more.
    pub(crate) async fn run(self: Arc<Self>, replicas: Arc<Replicas<R>>, stop: CancellationToken) {
        if !self.open_tables().await {
            return;
        }
        let mut known: BTreeMap<GroupId, Known> = BTreeMap::new();
        let (mut pruned, mut saved): (Option<R::Instant>, _) = (None, R::Instant::now());
        let (mut is_dirty, mut is_first, mut unpruned) = (false, true, 0);
        // Beside the looks: a slow disk must not keep them from what groups are about to drop.
        let mut saving = FuturesUnordered::new();
        loop {
            let recorded = self.look(&replicas, &mut known).await;
            let Ok(recorded) = recorded else { return };
            is_dirty |= recorded > 0;
            unpruned += recorded;
            if unpruned >= PRUNE_AFTER || pruned.is_none_or(|at| R::Instant::now() >= at + PRUNE_EVERY) {
                (pruned, unpruned) = (Some(R::Instant::now()), 0);
                let Ok(removed) = self.prune().await else { return };
                is_dirty |= removed > 0;
            }
            let is_due = is_first || R::Instant::now() >= saved + CHECKPOINT_EVERY;
            if is_dirty && is_due && saving.is_empty() {
                (saved, is_dirty, is_first) = (R::Instant::now(), false, false);
                saving.push(self.access(|tables| tables.checkpoint()));
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(saved) = saving.next() => if saved.is_err() { return },
                () = R::sleep(LOOK_EVERY) => {}
            }
        }
    }

    /// Makes durable what is recorded.
    pub(crate) async fn close(&self) {
        let tables = self.tables.write().take();
        if let Some(tables) = tables {
            let saved = R::timeout(CLOSE_PATIENCE, R::blocking(move || tables.checkpoint())).await;
            if !matches!(saved, Ok(Ok(Ok(())))) {
                tracing::debug!(?saved, "the history could not be saved; the replicas still have it");
            }
        }
    }

    pub(super) async fn open_tables(&self) -> bool {
        let open = Arc::clone(&self.open);
        let opened = R::blocking(move || {
            let (tables, opened) = open()?;
            let count = records::count(&*tables)?;
            Ok::<_, TablesError>((tables, opened, count))
        });
        match opened.await.map_err(|error| error.to_string()).and_then(|o| o.map_err(|e| e.to_string())) {
            Ok((tables, opened, count)) => {
                match opened {
                    Opened::Kept => tracing::info!(operations = count, "the history is open"),
                    Opened::Fresh => {
                        tracing::info!("there is no history here; it is made of what the replicas hold")
                    }
                    Opened::SetAside { to, why } => tracing::warn!(
                        to = %to.display(),
                        %why,
                        "the history was damaged and is set aside; it is made anew of what the replicas hold"
                    ),
                }
                *self.tables.write() = Some(tables);
                true
            }
            Err(error) => {
                tracing::error!(%error, "there will be no history on this node until it starts again");
                false
            }
        }
    }

    /// Has the tables do something, off the runtime's threads. After an error there is no history any more.
    async fn access<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Tables) -> TablesResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let Some(tables) = self.tables.read().clone() else {
            return Err("this node has no history now".to_owned());
        };
        let done = match R::blocking(move || work(&*tables)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        done.inspect_err(|error| {
            if self.tables.write().take().is_some() {
                tracing::error!(%error, "there is no history on this node any more");
            }
        })
    }

    /// Records what is new in all replicas; how many operations that were.
    async fn look(
        &self,
        replicas: &Replicas<R>,
        known: &mut BTreeMap<GroupId, Known>,
    ) -> Result<usize, String> {
        // Not the replicas themselves: whoever wants to take one apart waits for those who hold it.
        let all: BTreeSet<GroupId> = replicas.all().into_iter().map(|(group, _)| group).collect();
        known.retain(|group, _| all.contains(group));
        let since = self.kept_since_ms();
        let mut recorded = 0;
        for group in all {
            let known = known.entry(group).or_default();
            for _ in 0..TAKES_MAX {
                let Some(replica) = replicas.get(group) else { break };
                // Before the look at the state: what changes after it is seen the next time.
                let version = (replica.replica(), replica.version());
                if known.at_rest == Some(version) {
                    break;
                }
                let (new, all) = replica.with_state(|machine| known.take_new(machine.operations(), since));
                known.at_rest = all.then_some(version);
                drop(replica);
                if !new.is_empty() {
                    recorded += self.access(move |tables| records::record(tables, &new)).await?;
                }
                if all {
                    break;
                }
            }
        }
        Ok(recorded)
    }

    /// Operations that were submitted before are not kept, by this node's wall clock.
    fn kept_since_ms(&self) -> u64 {
        R::unix_time_ms().saturating_sub(u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX))
    }

    /// Removes what is not kept; how many operations that were.
    pub(super) async fn prune(&self) -> Result<u64, String> {
        let since = self.kept_since_ms();
        self.access(move |tables| records::prune(tables, since, records::RECORDS_MAX)).await
    }

    /// Takes a call from another node. Returns at once.
    pub(crate) fn receive(self: &Arc<Self>, body: &Bytes, replier: Replier) {
        let call = match wire::decode::<HistoryCall>(body) {
            Ok(call) => call,
            Err(error) => return replier.refuse(error),
        };
        let this = Arc::clone(self);
        drop(R::spawn(async move { replier.reply(wire::encode_reply(&this.answer(call).await)) }));
    }

    pub(super) async fn answer(&self, call: HistoryCall) -> HistoryReply {
        let Ok(_place) = self.places.try_acquire() else {
            return HistoryReply::Unavailable(format!("the node is answering {CALLS_MAX} calls"));
        };
        let answered = self.access(move |tables| {
            Ok(match call {
                HistoryCall::Page { listing, before } => {
                    HistoryReply::Page(records::page(tables, &listing, before)?)
                }
                HistoryCall::Find(id) => HistoryReply::Found(records::find(tables, id)?.map(Box::new)),
            })
        });
        answered.await.unwrap_or_else(HistoryReply::Unavailable)
    }
}
