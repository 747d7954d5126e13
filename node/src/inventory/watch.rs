//! Listens to this node's engine, once for all who want to hear of it.

use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;

use crate::docker::{Changed, ContainerEngine};

/// Pause before the engine is listened to again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// What a listener is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Heard {
    /// Of each event; first of all, and after each break, of [`Changed::Everything`].
    Changed(Changed),
    /// The engine can not be heard: nothing of what happens from now on is told.
    BrokeOff,
}

/// Called in the order of events. Must not block.
pub(crate) type Listener = Arc<dyn Fn(&Heard) + Send + Sync>;

/// Tells all listeners of each event of the engine. Never ends.
pub(crate) async fn listen<R: Runtime>(engine: Arc<dyn ContainerEngine>, listeners: Vec<Listener>) {
    let tell = Arc::new(move |heard: Heard| listeners.iter().for_each(|listener| listener(&heard)));
    loop {
        let told = Arc::clone(&tell);
        let ended = engine.watch(Arc::new(move |changed| told(Heard::Changed(changed)))).await;
        tell(Heard::BrokeOff);
        if let Err(error) = ended {
            tracing::debug!(%error, "the engine's events can not be heard; trying again");
        }
        R::sleep(LISTEN_AGAIN).await;
    }
}
