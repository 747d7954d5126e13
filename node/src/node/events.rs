//! What the transport tells a node besides requests.

use bytes::Bytes;
use longshore_raft::NodeId;
use longshore_raft::transport::{Handler, Lane, Replier};
use tokio_util::sync::CancellationToken;

/// Takes what is not consensus: nothing yet but the word that this node was removed.
pub(super) struct PeerEvents {
    /// Cancelled when a peer says that this node is no longer in the fleet.
    pub(super) removed: CancellationToken,
}

impl Handler for PeerEvents {
    fn on_request(&self, from: NodeId, lane: Lane, _body: Bytes, replier: Replier) {
        tracing::debug!(%from, ?lane, "a request of an unknown protocol");
        replier.refuse("this version does not know the request");
    }

    fn on_connection(&self, peer: NodeId, up: bool) {
        tracing::debug!(%peer, up, "connection");
    }

    fn on_removed(&self, by: NodeId) {
        tracing::warn!(%by, "a peer says that this node is no longer in the fleet");
        self.removed.cancel();
    }
}
