//! Becoming a node: found a fleet, join one, or be what the data folder says.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::membership::NodeProfile;
use longshore_raft::model::token::JoinToken;
use longshore_raft::transport::join::JoinError;
use longshore_raft::transport::pki::{Authority, Identity, NodeKey};
use longshore_raft::{FleetId, NodeId, ReplicaId, Runtime};

use super::error::NodeError;
use super::ports::{Network, NodeOptions, Seed};
use crate::membership::join_protocol::{self, JoinReply, JoinRequest, TurnedAway};
use crate::node_store::{NodeStore, StoredNode};

/// Pause between two attempts to be admitted by a fleet that is there but cannot decide.
const ADMISSION_PAUSE: Duration = Duration::from_millis(500);

/// How a node comes to be.
#[derive(Debug)]
pub enum Start {
    /// Found a fleet of one.
    Init,
    /// Join a fleet through any of its nodes.
    Join { token: JoinToken, seeds: Vec<Seed>, patience: Duration },
    /// Be the node that the data folder belongs to.
    Run,
}

/// A node that knows who it is.
pub(super) struct Started {
    pub(super) node: StoredNode,
    /// Where the other members were when this node joined; empty otherwise.
    pub(super) peers: Vec<(NodeId, std::net::SocketAddr)>,
    /// The authority of a fleet whose first command may not be committed yet.
    pub(super) founding: Option<Authority>,
}

pub(super) async fn start<R: Runtime>(
    start: Start,
    store: &NodeStore,
    network: &Arc<dyn Network>,
    options: &NodeOptions,
) -> Result<Started, NodeError> {
    let known = store.load()?;
    if let (Some(node), Start::Init | Start::Join { .. }) = (&known, &start) {
        let fleet = node.identity.fleet().to_string();
        return Err(NodeError::AlreadyMember { name: node.name.clone(), fleet });
    }
    let mut peers = Vec::new();
    match start {
        Start::Init => found::<R>(store, options)?,
        Start::Join { token, seeds, patience } => {
            peers = join::<R>(store, network, options, token, seeds, patience).await?;
        }
        Start::Run => {}
    }
    let node = store.load()?.ok_or(NodeError::NoFleet)?;
    if let Some(why) = node.gone.clone() {
        return Err(NodeError::Gone { why });
    }
    let founding = store.load_founding(node.identity.fleet())?;
    Ok(Started { node, peers, founding })
}

/// The first node of a fleet, and its authority.
fn found<R: Runtime>(store: &NodeStore, options: &NodeOptions) -> Result<(), NodeError> {
    let mut id = [0; 16];
    R::entropy(&mut id);
    let fatal = |e: longshore_raft::transport::pki::PkiError| NodeError::Fatal(e.to_string());
    let authority = Authority::create::<R>(FleetId(id)).map_err(fatal)?;
    let identity = authority.issue::<R>(NodeId(1)).map_err(fatal)?;
    store.save_founding(&authority)?;
    store.save(&identity, ReplicaId(1), &options.name)?;
    Ok(())
}

/// Gets this node admitted; returns where its peers are.
async fn join<R: Runtime>(
    store: &NodeStore,
    network: &Arc<dyn Network>,
    options: &NodeOptions,
    token: JoinToken,
    seeds: Vec<Seed>,
    patience: Duration,
) -> Result<Vec<(NodeId, std::net::SocketAddr)>, NodeError> {
    let key = match store.load_key()? {
        Some(key) => key,
        None => {
            let key = NodeKey::generate::<R>();
            store.save_key(&key)?;
            key
        }
    };
    let csr_der = key.signing_request().map_err(|e| NodeError::Fatal(e.to_string()))?;
    let request = JoinRequest {
        token: token.id,
        secret: *token.secret.expose(),
        csr_der,
        profile: NodeProfile {
            name: options.name.clone(),
            address: options.advertise,
            zone: options.zone.clone(),
            region: options.region.clone(),
            labels: options.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            weight: options.weight,
        },
    };
    let request = Bytes::from(join_protocol::encode(&request));
    let give_up = R::Instant::now() + patience;
    let is_late = || R::Instant::now() + ADMISSION_PAUSE >= give_up;
    loop {
        let reply = network.join(seeds.clone(), token.authority, request.clone()).await;
        let said = match reply {
            Ok(bytes) => match join_protocol::decode::<JoinReply>(&bytes).map_err(NodeError::Refused)? {
                JoinReply::Granted(grant) => {
                    let identity = Identity::new(key, grant.certificate_der, grant.authority_der)
                        .map_err(|e| NodeError::Denied(format!("the fleet sent a bad certificate: {e}")))?;
                    if identity.node() != grant.node || identity.authority_fingerprint() != token.authority {
                        let message = "the fleet sent a certificate that is not the one it promised";
                        return Err(NodeError::Denied(message.into()));
                    }
                    store.save(&identity, grant.replica, &options.name)?;
                    return Ok(grant.peers);
                }
                JoinReply::TurnedAway { why: TurnedAway::Denied, message } => {
                    return Err(NodeError::Denied(message));
                }
                JoinReply::TurnedAway { why: TurnedAway::Name, message } => {
                    return Err(NodeError::Name(message));
                }
                JoinReply::TurnedAway { why: TurnedAway::Invalid, message } => {
                    return Err(NodeError::Refused(message));
                }
                JoinReply::TurnedAway { why: TurnedAway::Unavailable, message } => message,
            },
            Err(JoinError::Refused(message)) => message,
            Err(JoinError::Unreachable(_) | JoinError::NoReply { .. }) if !is_late() => {
                "nobody answers".into()
            }
            Err(error) => return Err(join_error(error)),
        };
        if is_late() {
            return Err(NodeError::NotAdmitted(said));
        }
        tracing::info!(%said, "not admitted yet; trying again");
        R::sleep(ADMISSION_PAUSE).await;
    }
}

fn join_error(error: JoinError) -> NodeError {
    match error {
        JoinError::Unreachable(attempts) => {
            NodeError::Unreachable(attempts.into_iter().map(|(a, why)| (a.to_string(), why)).collect())
        }
        JoinError::CaMismatch { .. } => NodeError::Denied(error.to_string()),
        other => NodeError::Refused(other.to_string()),
    }
}
