//! What this node's engine has: its containers, images and volumes, in tables of the node's own, kept up by the engine's events.
//!
//! Level-triggered: an event only says what to ask the engine about; the answer is compared with the rows, and what differs is written. When the engine
//! begins to be heard, after a break, and now and then, all there is is compared. What this node's own calls to the engine do is marked before they
//! return, and a listing waits for what is marked, so that whoever did something sees it. One task for each kind reads and writes, so that an older
//! answer never comes after a newer one. Tables that are missing, damaged or of another format are begun empty and made anew. An engine that leaves
//! anybody without an answer is doubted: until its next answer or event the rows are what it had when it was heard last.
//! Must never: be believed over the engine (rows are shown, and decide nothing), hold up a call to the engine, or keep its rows in memory.

mod engine;
mod flight;
mod items;
mod marks;
mod pulse;
mod rows;
mod shelf;
mod store;
#[cfg(test)]
mod tests;
mod watch;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use tokio_util::sync::CancellationToken;

use crate::docker::{BoxFuture, Changed, Container, ContainerEngine, EngineError, ListedImage, ListedVolume};
use crate::node::OpenTables;

use engine::NotedEngine;
pub(crate) use items::Item;
use pulse::Pulse;
use shelf::Shelf;
use store::Store;
pub(crate) use watch::{Heard, Listener, listen};

/// How long a listing waits for what is marked. After that the engine itself is asked.
const SETTLE_PATIENCE: Duration = Duration::from_secs(2);

/// How long the engine may take to say which images it has, for whoever wants their names.
const IMAGES_PATIENCE: Duration = Duration::from_secs(10);

/// Pause before tables that can not be used are opened again.
const OPEN_AGAIN: Duration = Duration::from_secs(60);

/// Rows of a listing, in the engine's own order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rows<T> {
    pub(crate) items: Vec<T>,
    /// There are more than fit.
    pub(crate) cut: bool,
}

/// Why the engine's own word can not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unanswered {
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("the Docker engine did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

/// What the engine had when it was heard last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LastSeen<T> {
    pub(crate) rows: Rows<T>,
    pub(crate) age_ms: u64,
}

/// See the module's docs. One per node with an engine.
pub(crate) struct Inventory<R: Runtime> {
    engine: Arc<dyn ContainerEngine>,
    store: Arc<Store<R>>,
    pulse: Arc<Pulse>,
    containers: Arc<Shelf<R, Container>>,
    images: Arc<Shelf<R, ListedImage>>,
    volumes: Arc<Shelf<R, ListedVolume>>,
}

impl<R: Runtime> Inventory<R> {
    pub(crate) fn new(engine: Arc<dyn ContainerEngine>, open: OpenTables) -> Arc<Self> {
        let (store, pulse) = (Store::new(open), Arc::new(Pulse::default()));
        Arc::new(Self {
            containers: Shelf::new(Arc::clone(&engine), Arc::clone(&store), Arc::clone(&pulse)),
            images: Shelf::new(Arc::clone(&engine), Arc::clone(&store), Arc::clone(&pulse)),
            volumes: Shelf::new(Arc::clone(&engine), Arc::clone(&store), Arc::clone(&pulse)),
            engine,
            store,
            pulse,
        })
    }

    /// The engine, for all calls of this node: what they change is marked.
    pub(crate) fn engine(self: &Arc<Self>) -> Arc<dyn ContainerEngine> {
        Arc::new(NotedEngine::new(Arc::clone(&self.engine), Arc::clone(self)))
    }

    /// Keeps the tables up until stopped. When they can not be used any more they are opened again, and made anew.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        let kept = async {
            loop {
                if self.store.open().await {
                    self.containers.marks().begin_anew();
                    self.images.marks().begin_anew();
                    self.volumes.marks().begin_anew();
                    self.keep_while_open().await;
                }
                R::sleep(OPEN_AGAIN).await;
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = kept => {}
        }
    }

    async fn keep_while_open(self: &Arc<Self>) {
        let kept = async {
            tokio::join!(
                biased;
                Arc::clone(&self.containers).keep(),
                Arc::clone(&self.images).keep(),
                Arc::clone(&self.volumes).keep(),
                self.store.save_now_and_then(),
            )
        };
        tokio::select! {
            biased;
            () = self.store.gone() => {}
            _ = kept => {}
        }
    }

    /// Makes durable what is in the tables.
    pub(crate) async fn close(&self) {
        self.hear(&Heard::BrokeOff);
        self.containers.note_as_of().await;
        self.images.note_as_of().await;
        self.volumes.note_as_of().await;
        self.store.close().await;
    }

    /// Takes word of the engine. Returns at once.
    pub(crate) fn hear(&self, heard: &Heard) {
        let now_ms = R::unix_time_ms();
        match heard {
            Heard::Changed(changed) => {
                self.pulse.beat(now_ms);
                match changed {
                    Changed::Everything => {
                        self.containers.marks().hears();
                        self.images.marks().hears();
                        self.volumes.marks().hears();
                    }
                    changed => self.touch(changed.clone()),
                }
            }
            Heard::BrokeOff => {
                let sure_ms = self.pulse.sure_until(now_ms);
                self.containers.marks().broke_off(sure_ms);
                self.images.marks().broke_off(sure_ms);
                self.volumes.marks().broke_off(sure_ms);
            }
        }
    }

    /// Something may have changed: listings that are asked for from now on wait until the engine has been asked about it. Returns at once.
    fn touch(&self, changed: Changed) {
        match changed {
            Changed::Everything => {
                self.containers.marks().mark_all();
                self.images.marks().mark_all();
                self.volumes.marks().mark_all();
            }
            Changed::Container(key) => self.containers.marks().mark(key),
            Changed::Image(key) => self.images.marks().mark(key),
            Changed::Volume(key) => self.volumes.marks().mark(key),
        }
    }

    /// The engine did not answer somebody: what it does not tell of is looked for, when it does again.
    fn doubt(&self) {
        let now_ms = R::unix_time_ms();
        self.containers.marks().doubt(now_ms);
        self.images.marks().doubt(now_ms);
        self.volumes.marks().doubt(now_ms);
    }

    /// All of a kind, up to about so many bytes of them, as the engine has it; `None` if the engine has to be asked.
    pub(crate) async fn current<T: Item>(&self, bytes_max: usize) -> Option<Rows<T>> {
        if self.is_current::<T>().await { self.rows(bytes_max).await } else { None }
    }

    async fn is_current<T: Item>(&self) -> bool {
        if !self.store.is_open() {
            return false;
        }
        tokio::select! {
            biased;
            () = self.pulse.doubted() => false,
            is_current = R::timeout(SETTLE_PATIENCE, T::shelf(self).marks().current()) => matches!(is_current, Ok(true)),
        }
    }

    /// Likewise, as the engine had it when it was heard last; `None` if that never was.
    pub(crate) async fn last_seen<T: Item>(&self, bytes_max: usize) -> Option<LastSeen<T>> {
        let now_ms = R::unix_time_ms();
        let as_of_ms = T::shelf(self).marks().as_of(now_ms)?.min(self.pulse.sure_until(now_ms));
        let rows = self.rows(bytes_max).await?;
        Some(LastSeen { rows, age_ms: now_ms.saturating_sub(as_of_ms) })
    }

    /// All of a kind by the engine's own word of this moment; whoever asks at the same time shares it.
    pub(crate) async fn ask<T: Item>(
        self: &Arc<Self>,
        patience: Duration,
    ) -> Result<Arc<Vec<T>>, Unanswered> {
        let late = move |_| Unanswered::Late(patience);
        let engine = self.engine();
        let question = || -> BoxFuture<'static, _> {
            Box::pin(async move { Ok(R::timeout(patience, T::list(&*engine)).await.map_err(late)??) })
        };
        let answer = T::shelf(self).flights().join(question);
        R::timeout(patience, answer).await.map_err(late)?
    }

    async fn rows<T: Item>(&self, bytes_max: usize) -> Option<Rows<T>> {
        // A disk that stands still holds up no listing: the engine is asked.
        let read = self.store.read(move |tables| rows::list(tables, bytes_max));
        R::timeout(SETTLE_PATIENCE, read).await.ok()?.ok()
    }

    /// Names of images that the engine has, the first ones up to so many; `None` if it does not say.
    pub(crate) async fn image_names(self: &Arc<Self>, most: usize) -> Option<BTreeSet<String>> {
        if self.is_current::<ListedImage>().await
            && let Ok(names) = self.store.read(move |tables| rows::names::<ListedImage>(tables, most)).await
        {
            return Some(names);
        }
        let images = self.ask::<ListedImage>(IMAGES_PATIENCE).await.ok()?;
        let names: BTreeSet<String> = images.iter().flat_map(|image| image.tags.iter().cloned()).collect();
        Some(names.into_iter().take(most).collect())
    }
}
