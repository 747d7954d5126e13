//! Keeps the rows of one kind what the engine has.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;

use super::flight::Flights;
use super::marks::{Marks, Work};
use super::pulse::{FIND_WITHIN, LIST_WITHIN, Pulse};
use super::store::Store;
use super::{Item, rows};
use crate::docker::{ContainerEngine, EngineError};

/// Events come in bursts.
const GATHER: Duration = Duration::from_millis(100);
/// An engine that takes long to answer is left alone as long as it took, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// How often all is listed if nothing happens: what no event told of is found then.
const LIST_EVERY: Duration = Duration::from_secs(600);
/// Pause after a question that the engine did not answer.
const AGAIN: Duration = Duration::from_secs(5);
/// How long the engine may take for one thing, and for all of them.
const FIND_PATIENCE: Duration = Duration::from_secs(5);
const LIST_PATIENCE: Duration = Duration::from_secs(60);

/// Rows of a kind. Only its own task writes them, one answer of the engine after the other.
pub(crate) struct Shelf<R: Runtime, T> {
    engine: Arc<dyn ContainerEngine>,
    store: Arc<Store<R>>,
    pulse: Arc<Pulse>,
    marks: Marks,
    flights: Flights<T>,
}

/// Why an answer could not be recorded.
enum Fault {
    Engine(String),
    /// There are no tables any more.
    Tables,
}

impl From<EngineError> for Fault {
    fn from(error: EngineError) -> Self {
        Self::Engine(error.to_string())
    }
}

impl<R: Runtime, T: Item> Shelf<R, T> {
    pub(super) fn new(
        engine: Arc<dyn ContainerEngine>,
        store: Arc<Store<R>>,
        pulse: Arc<Pulse>,
    ) -> Arc<Self> {
        let (marks, flights) = (Marks::default(), Flights::default());
        Arc::new(Self { engine, store, pulse, marks, flights })
    }

    pub(super) fn marks(&self) -> &Marks {
        &self.marks
    }

    /// For those who want the engine's own answer.
    pub(super) fn flights(&self) -> &Flights<T> {
        &self.flights
    }

    /// Asks the engine about what is marked, until the tables can not be used any more.
    pub(super) async fn keep(self: Arc<Self>) {
        let Ok(as_of) = self.store.read(|tables| rows::as_of::<T>(tables)).await else { return };
        self.marks.remember_as_of(as_of);
        let mut noted = as_of;
        let (mut due, mut pause) = (R::Instant::now() + LIST_EVERY, GATHER);
        loop {
            if self.marks.noted_as_of() != noted {
                noted = self.note_as_of().await;
            }
            if !self.store.is_open() {
                return;
            }
            // Also while events come faster than they are looked into: it is what finds one that was lost.
            if R::Instant::now() >= due {
                due = R::Instant::now() + LIST_EVERY;
                self.marks.mark_all();
            }
            if !self.marks.has_work() {
                tokio::select! {
                    biased;
                    () = self.marks.stirred() => {}
                    () = R::sleep_until(due) => {}
                }
                continue;
            }
            tokio::select! {
                biased;
                () = self.marks.hurried() => {}
                () = R::sleep(pause) => {}
            }
            let Some(work) = self.marks.take() else { continue };
            let began = R::Instant::now();
            match self.carry_out(&work).await {
                Ok(listed) => {
                    self.marks.answered(&work, listed, R::unix_time_ms());
                    let now = R::Instant::now();
                    due = if listed.is_some() { now + LIST_EVERY } else { due };
                    pause = (now - began).clamp(GATHER, PAUSE_MAX);
                }
                Err(Fault::Tables) => return,
                Err(Fault::Engine(why)) => {
                    tracing::debug!(%why, "the engine does not say which {} it has; trying again", T::WHAT);
                    self.marks.unanswered(self.pulse.sure_until(R::unix_time_ms()));
                    R::sleep(AGAIN).await;
                }
            }
        }
    }

    /// Remembers when the rows were known to be what the engine has.
    pub(super) async fn note_as_of(&self) -> Option<u64> {
        let as_of = self.marks.noted_as_of()?;
        // Without tables there is nothing to remember it for.
        let _ = self.store.write(move |tables| rows::set_as_of::<T>(tables, as_of)).await;
        Some(as_of)
    }

    /// How many there are, if all were listed.
    async fn carry_out(&self, work: &Work) -> Result<Option<usize>, Fault> {
        match work.all || !self.ask_for(work.keys.clone()).await? {
            true => self.list_all().await.map(Some),
            false => Ok(None),
        }
    }

    /// Asks for things one by one. False if all have to be listed instead.
    async fn ask_for(&self, mut keys: BTreeSet<String>) -> Result<bool, Fault> {
        let (mut asked, most) = (BTreeSet::new(), 2 * self.marks.keys_max());
        while let Some(key) = keys.pop_first() {
            if asked.len() >= most {
                return Ok(false);
            }
            let found = self.answer(FIND_WITHIN, FIND_PATIENCE, T::find(&*self.engine, &key)).await?;
            if found.as_ref().is_some_and(|item| !item.is_listed()) {
                return Ok(false);
            }
            asked.insert(key.clone());
            let update = move |tables: &dyn longshore_storage::tables::Tables| {
                rows::update::<T>(tables, &key, found.as_ref())
            };
            let others = self.store.write(update).await.map_err(|_| Fault::Tables)?;
            keys.extend(others.into_iter().filter(|id| !asked.contains(id)));
        }
        Ok(true)
    }

    async fn list_all(&self) -> Result<usize, Fault> {
        let items = self.answer(LIST_WITHIN, LIST_PATIENCE, T::list(&*self.engine)).await?;
        let count = items.len();
        let changed = self.store.write(move |tables| rows::replace(tables, items)).await;
        let changed = changed.map_err(|_| Fault::Tables)?;
        tracing::debug!(changed, "the engine's {} were compared with the inventory", T::WHAT);
        Ok(count)
    }

    /// What the engine answers in time. `within`: how long it may take before it is doubted.
    async fn answer<A: Send>(
        &self,
        within: Duration,
        patience: Duration,
        question: impl Future<Output = Result<A, EngineError>> + Send,
    ) -> Result<A, Fault> {
        let question = self.pulse.sense::<R, _>(Some(within), || {}, question);
        match R::timeout(patience, question).await {
            Ok(answered) => Ok(answered?),
            Err(_) => Err(Fault::Engine(format!("no answer within {} s", patience.as_secs()))),
        }
    }
}
