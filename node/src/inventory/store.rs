//! Opens the inventory's tables, and has them work off the runtime's threads.

use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use longshore_storage::tables::{Opened, Tables, TablesError, TablesResult};
use parking_lot::RwLock;
use tokio::sync::Notify;

use super::rows;
use crate::node::OpenTables;

/// How long what was written may take to be durable: the engine has it anyway.
const SAVE_EVERY: Duration = Duration::from_secs(10);
/// How long a node that stops waits for its last checkpoint.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The tables of an inventory, for as long as they can be used.
pub(super) struct Store<R: Runtime> {
    open: OpenTables,
    /// None before they are open, and while they can not be used.
    tables: RwLock<Option<Arc<dyn Tables>>>,
    written: Notify,
    gone: Notify,
    runtime: std::marker::PhantomData<fn() -> R>,
}

impl<R: Runtime> Store<R> {
    pub(super) fn new(open: OpenTables) -> Arc<Self> {
        Arc::new(Self {
            open,
            tables: RwLock::new(None),
            written: Notify::new(),
            gone: Notify::new(),
            runtime: std::marker::PhantomData,
        })
    }

    pub(super) fn is_open(&self) -> bool {
        self.tables.read().is_some()
    }

    /// Whether the tables can be used.
    pub(super) async fn open(&self) -> bool {
        let open = Arc::clone(&self.open);
        let opened = R::blocking(move || {
            let (tables, opened) = open()?;
            let is_known = rows::prepare(&*tables)?;
            Ok::<_, TablesError>((tables, opened, is_known))
        });
        match opened.await.map_err(|error| error.to_string()).and_then(|o| o.map_err(|e| e.to_string())) {
            Ok((tables, opened, is_known)) => {
                match opened {
                    Opened::Kept if is_known => tracing::info!("the inventory is open"),
                    Opened::Kept => {
                        tracing::info!(
                            "the inventory is of another release; it is made anew of what the engine has"
                        )
                    }
                    Opened::Fresh => {
                        tracing::info!("there is no inventory here; it is made of what the engine has")
                    }
                    Opened::SetAside { to, why } => tracing::warn!(
                        to = %to.display(),
                        %why,
                        "the inventory was damaged and is set aside; it is made anew of what the engine has"
                    ),
                }
                *self.tables.write() = Some(tables);
                true
            }
            Err(error) => {
                tracing::error!(%error, "there is no inventory on this node; it is tried again in a minute, and the engine is asked each time until then");
                false
            }
        }
    }

    /// Has the tables say something. After an error there is no inventory until they are opened again.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Tables) -> TablesResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let Some(tables) = self.tables.read().clone() else {
            return Err("this node has no inventory now".to_owned());
        };
        let done = match R::blocking(move || work(&*tables)).await {
            Ok(done) => done.map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        done.inspect_err(|error| {
            if self.tables.write().take().is_some() {
                tracing::error!(%error, "there is no inventory on this node now; it is made anew in a minute, and the engine is asked each time until then");
                self.gone.notify_one();
            }
        })
    }

    /// Likewise, to write something.
    pub(super) async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&dyn Tables) -> TablesResult<T> + Send + 'static,
    ) -> Result<T, String> {
        let done = self.read(work).await;
        self.written.notify_one();
        done
    }

    /// Resolves when the tables that were opened last can not be used any more.
    pub(super) async fn gone(&self) {
        self.gone.notified().await;
    }

    /// Makes durable what is written, until the tables can not be used any more.
    pub(super) async fn save_now_and_then(&self) {
        loop {
            self.written.notified().await;
            if self.read(|tables| tables.checkpoint()).await.is_err() {
                return;
            }
            R::sleep(SAVE_EVERY).await;
        }
    }

    pub(super) async fn close(&self) {
        let tables = self.tables.write().take();
        if let Some(tables) = tables {
            let saved = R::timeout(CLOSE_PATIENCE, R::blocking(move || tables.checkpoint())).await;
            if !matches!(saved, Ok(Ok(Ok(())))) {
                tracing::debug!(?saved, "the inventory could not be saved; the engine still has it all");
            }
        }
    }
}
