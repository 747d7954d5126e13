//! What the caretaker of a node is told: that something may have changed, and which copies the fleet believes to be there.
//!
//! Nothing that is told has to be true or to come: the log is asked.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use longshore_model::codec;
use longshore_model::container::Origin;
use longshore_raft::NodeId;
use longshore_raft::transport::{Lane, TransportRef};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::Notify;

use longshore_raft::Runtime;

/// First byte of a message that lists copies, its version included.
pub(crate) const CARE_TAG: u8 = 0xD4;
/// Most copies in one message, and most that are kept in mind.
pub(crate) const EXPECTED_MAX: usize = 4_096;
/// Nobody waits for the reply.
const SEND_TIMEOUT: Duration = Duration::from_secs(2);

/// One per node.
#[derive(Debug, Default)]
pub(crate) struct Care {
    expected: Mutex<BTreeSet<Origin>>,
    /// Containers that were stopped since nobody could say whether they may run.
    fenced: Mutex<BTreeSet<String>>,
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
        self.fenced.lock().insert(container);
    }

    /// Whether that is why a container was stopped.
    pub(crate) fn is_fenced(&self, container: &str) -> bool {
        self.fenced.lock().contains(container)
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
        let mut message = vec![CARE_TAG];
        codec::encode_into(&copies, &mut message);
        let sent = transport.request(to, Lane::Control, message.into(), SEND_TIMEOUT);
        drop(R::spawn(async move {
            if let Err(error) = sent.await {
                tracing::debug!(%to, %error, "a node could not be told of its containers; it is told again");
            }
        }));
    }

    /// Takes a message from another node, its tag included.
    pub(crate) fn receive(&self, body: &Bytes) -> Result<(), String> {
        let copies: Vec<Origin> = match body.split_first() {
            Some((&CARE_TAG, copies)) => codec::decode(copies).map_err(|error| error.to_string())?,
            _ => return Err("not a list of copies".to_owned()),
        };
        if copies.len() > EXPECTED_MAX {
            return Err(format!("{} copies in one message, {EXPECTED_MAX} are the most", copies.len()));
        }
        self.expect(copies);
        Ok(())
    }
}
