//! Tells the transport and the failure detector who the peers are, whenever the applied state says something new.

use std::net::SocketAddr;
use std::sync::Arc;

use longshore_raft::transport::TransportRef;
use longshore_raft::{NodeId, Runtime};
use tokio_util::sync::CancellationToken;

use crate::core::Core;

/// Members with their addresses, and the ids of those that are gone.
type Peers = (Vec<(NodeId, SocketAddr)>, Vec<NodeId>);

/// Runs until stopped.
pub(crate) async fn follow_members<R: Runtime>(
    core: Arc<Core<R>>,
    transport: TransportRef,
    stop: CancellationToken,
) {
    let mut seen = 0;
    let mut known: Option<Peers> = None;
    loop {
        let now = core.group.with_state(|state| {
            let members = state.membership.members().filter(|n| n.id != core.me);
            let gone = state.membership.all().filter(|n| !n.standing.is_member());
            let peers: Vec<_> = members.map(|n| (n.id, n.profile.address)).collect();
            // A node that still catches up may not know of those that it joined through.
            state.fleet.is_some().then(|| (peers, gone.map(|n| n.id).collect::<Vec<_>>()))
        });
        if now.is_some() && now != known {
            let (peers, gone) = now.clone().expect("checked just above");
            core.monitor.set_peers(peers.iter().map(|(id, _)| *id).collect());
            transport.set_peers(peers, gone);
            known = now;
        }
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            version = core.group.changed(seen) => seen = version,
        }
    }
}
