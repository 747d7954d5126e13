//! Admits joiners: any member can, since the record is made through the log and every member holds the authority.
//!
//! Must never: sign anything before the log has admitted the node, or take anything but the key from the signing request.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use longshore_model::control::{AuthorityRecord, Command, RefusalKind, Reply};
use longshore_raft::Runtime;
use longshore_raft::model::token::TokenSecret;
use longshore_raft::transport::pki::{self, Authority};
use longshore_raft::transport::{BoxFuture, JoinHandler};
use parking_lot::Mutex;

use super::join_protocol::{self, JoinGrant, JoinReply, JoinRequest, TurnedAway};
use crate::core::Core;

/// The joining door of a running node. Closed until the node is up.
pub(crate) struct Admission<R: Runtime> {
    core: Mutex<Option<Arc<Core<R>>>>,
}

impl<R: Runtime> Admission<R> {
    pub(crate) fn closed() -> Arc<Self> {
        Arc::new(Self { core: Mutex::new(None) })
    }

    pub(crate) fn open(&self, core: Arc<Core<R>>) {
        *self.core.lock() = Some(core);
    }
}

impl<R: Runtime> JoinHandler for Admission<R> {
    fn on_join(&self, from: SocketAddr, body: Bytes) -> BoxFuture<Result<Bytes, String>> {
        let core = self.core.lock().clone();
        Box::pin(async move {
            let Some(core) = core else { return Err("this node is still starting; try again".into()) };
            let request = join_protocol::decode::<JoinRequest>(&body)?;
            let name = request.profile.name.clone();
            let reply = admit(&core, request).await.unwrap_or_else(|(why, message)| {
                tracing::warn!(%from, %name, ?why, %message, "turned a joiner away");
                JoinReply::TurnedAway { why, message }
            });
            if let JoinReply::Granted(grant) = &reply {
                tracing::info!(%from, %name, node = %grant.node, "admitted");
            }
            Ok(Bytes::from(join_protocol::encode(&reply)))
        })
    }
}

type Refused = (TurnedAway, String);

async fn admit<R: Runtime>(core: &Core<R>, request: JoinRequest) -> Result<JoinReply, Refused> {
    let unavailable = |message: String| (TurnedAway::Unavailable, message);
    // The key names the node, so it is proven before anything is recorded under it.
    let public_key =
        pki::requested_public_key(&request.csr_der).map_err(|e| (TurnedAway::Invalid, e.to_string()))?;
    let command = Command::Join {
        token: request.token.to_string(),
        secret_hash: TokenSecret::new(request.secret).hash(request.token).0,
        key_hash: *blake3::hash(&public_key).as_bytes(),
        profile: request.profile,
        unix_ms: R::unix_time_ms(),
    };
    let reply = core.group.propose(command).await.map_err(|e| unavailable(e.to_string()))?;
    let (node, replica) = match reply {
        Reply::Admitted { node, replica } => (node, replica),
        Reply::Refused(refusal) => {
            let why = match refusal.kind {
                RefusalKind::Denied => TurnedAway::Denied,
                RefusalKind::Busy => TurnedAway::Unavailable,
                RefusalKind::Conflict => TurnedAway::Name,
                RefusalKind::Invalid | RefusalKind::NotFound => TurnedAway::Invalid,
            };
            return Err((why, refusal.message));
        }
        other => return Err(unavailable(format!("the fleet answered a join with {other:?}"))),
    };
    let (record, peers) = core.group.with_state(|state| {
        let members = state.membership.members().map(|n| (n.id, n.profile.address)).collect::<Vec<_>>();
        (state.fleet.clone(), members)
    });
    let record = record.ok_or_else(|| unavailable("this node has not caught up yet; try again".into()))?;
    let authority = authority(&record.authority).map_err(unavailable)?;
    let certificate_der =
        authority.sign::<R>(&request.csr_der, node).map_err(|e| (TurnedAway::Invalid, e.to_string()))?;
    Ok(JoinReply::Granted(JoinGrant {
        fleet: core.fleet,
        node,
        replica,
        certificate_der,
        authority_der: authority.certificate().to_vec(),
        peers: peers.into_iter().filter(|(id, _)| *id != node).collect(),
    }))
}

/// The authority out of its record.
pub(crate) fn authority(record: &AuthorityRecord) -> Result<Authority, String> {
    Authority::from_pem(&record.certificate_pem, &record.key_pem).map_err(|e| e.to_string())
}
