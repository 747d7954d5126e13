//! What the caretaker of a node is told: that something may have changed, and which copies the fleet believes to be there.
//!
//! Nothing that is told has to be true or to come: the log is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bincode::{Decode, Encode};
use longshore_model::container::Origin;
use longshore_raft::NodeId;
use longshore_raft::transport::{Lane, TransportRef};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

use longshore_raft::Runtime;

use crate::docker::Changed;
use crate::inventory::Heard;
use crate::wire::{self, Kind, Message};

/// Most copies in one message, and most that are kept in mind.
pub(crate) const EXPECTED_MAX: usize = 4_096;
/// Nobody waits for the reply.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// Which copies a node should have.
#[derive(Debug, PartialEq, Eq, Encode, Decode)]
struct Copies(Vec<Origin>);

impl Message for Copies {
    const KIND: Kind = Kind::Care;

    fn check(&self) -> Result<(), String> {
        wire::at_most(self.0.len(), EXPECTED_MAX, "copies")
    }
}

/// One per node.
#[derive(Debug, Default)]
pub(crate) struct Care {
    expected: Mutex<BTreeSet<Origin>>,
    /// Containers that were stopped since nobody could say whether they may run, and whether that is done.
    fenced: Mutex<BTreeMap<String, bool>>,
    /// Of containers that were seen to run: in which unbroken stretch of listening to the engine.
    up: Mutex<BTreeMap<String, u64>>,
    stretch: AtomicU64,
    changed: Notify,
}

impl Care {
    pub(crate) fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Something may have changed: look again.
    pub(crate) fn look(&self) {
        self.changed.notify_one();
    }

    fn expect(&self, copies: Vec<Origin>) {
        let mut expected = self.expected.lock();
        let room = EXPECTED_MAX.saturating_sub(expected.len());
        expected.extend(copies.into_iter().take(room));
        drop(expected);
        self.look();
    }

    /// This container is about to be stopped only because the log could not be asked in time; it runs again once the log says that it may.
    pub(crate) fn fence(&self, container: String) {
        self.fenced.lock().insert(container, false);
    }

    /// The engine has stopped it.
    pub(crate) fn fence_done(&self, container: &str) {
        if let Some(done) = self.fenced.lock().get_mut(container) {
            *done = true;
        }
        self.look();
    }

    /// Whether that is why a container was stopped, and whether it is stopped by now.
    pub(crate) fn fenced(&self, container: &str) -> Option<bool> {
        self.fenced.lock().get(container).copied()
    }

    /// Takes word of the engine.
    pub(crate) fn hear(&self, heard: &Heard) {
        match heard {
            Heard::Changed(Changed::Everything | Changed::Container(_)) => self.look(),
            Heard::Changed(Changed::Image(_) | Changed::Volume(_)) => {}
            // Containers may have ended with it.
            Heard::BrokeOff => drop(self.stretch.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A container runs.
    pub(crate) fn is_up(&self, container: &str) {
        self.up.lock().insert(container.to_owned(), self.stretch.load(Ordering::Relaxed));
    }

    /// Whether it ended by itself, as far as can be told: its engine was there all the time since it was seen to run.
    pub(super) fn ended_by_itself(&self, container: &str) -> bool {
        self.up.lock().get(container) == Some(&self.stretch.load(Ordering::Relaxed))
    }

    /// Forgets all that are not there any more.
    pub(super) fn retain(&self, is_there: impl Fn(&str) -> bool) {
        self.up.lock().retain(|id, _| is_there(id));
    }

    pub(crate) fn unfence(&self, container: &str) {
        self.fenced.lock().remove(container);
    }

    /// What was told since the last call.
    pub(crate) fn expected(&self) -> BTreeSet<Origin> {
        std::mem::take(&mut *self.expected.lock())
    }

    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Tells a node, this one (`me`) too, to look, and that these copies should be there. Returns at once.
    pub(crate) fn tell<R: Runtime>(
        &self,
        transport: &TransportRef,
        me: NodeId,
        to: NodeId,
        mut copies: Vec<Origin>,
    ) {
        copies.truncate(EXPECTED_MAX);
        if to == me {
            return self.expect(copies);
        }
        let sent = transport.request(to, Lane::Control, wire::encode(&Copies(copies)), SEND_TIMEOUT);
        drop(R::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%to, %error, "a node could not be told of its containers; it is told again");
            }
        }));
    }

    /// Takes a message from another node, its tag included.
    pub(crate) fn receive(&self, body: &[u8]) -> Result<(), String> {
        let Copies(copies) = wire::decode(body)?;
        self.expect(copies);
        Ok(())
    }
}
