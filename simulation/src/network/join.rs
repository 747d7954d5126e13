//! Joining over the memory transport: first a look at who is there, then the one request.
//!
//! As in production, nothing of the request is sent before the other side has shown the fleet's authority, and a joiner
//! can tell what was certainly not delivered from what may have been.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_node::node::Seed;
use longshore_raft::transport::join::{
    ADDRESSES_MAX, CONNECT_TIMEOUT, DECISION_TIMEOUT, JOIN_MAX_BYTES, JoinError, REPLY_TIMEOUT,
};
use longshore_raft::transport::{BoxFuture, JoinHandler};
use openraft_rt::AsyncRuntime as _;

use super::fabric::{Draft, Fabric};
use super::parcel::{Answer, Cargo, Digest, Failure, Kind, ReturnAddress};
use super::process::Process;
use crate::runtime::SimRuntime;

/// Turns seeds into addresses. There are no names here: a seed is an address.
pub(super) fn resolve(seeds: &[Seed]) -> Result<Vec<SocketAddr>, JoinError> {
    let addresses: Vec<SocketAddr> = seeds.iter().filter_map(|seed| seed.parse().ok()).collect();
    if addresses.is_empty() {
        return Err(JoinError::Protocol(format!("no address to join at: {}", seeds.join("; "))));
    }
    if addresses.len() > ADDRESSES_MAX {
        return Err(JoinError::Protocol(format!("more than {ADDRESSES_MAX} addresses to join")));
    }
    Ok(addresses)
}

/// How an attempt at one address failed.
enum Attempt {
    Unsent(String),
    Mismatch([u8; 32]),
    Unanswered(String),
    Refused(String),
}

/// See [`longshore_node::node::Network::join`].
pub(super) async fn request(
    fabric: Arc<Fabric>,
    process: Arc<Process>,
    seeds: Vec<Seed>,
    authority: [u8; 32],
    body: Bytes,
) -> Result<Bytes, JoinError> {
    let len = body.len();
    if len > JOIN_MAX_BYTES {
        return Err(JoinError::Protocol(format!(
            "a request of {len} bytes is over the limit of {JOIN_MAX_BYTES}"
        )));
    }
    let from = fabric.ephemeral(process.host);
    let mut failures = Vec::new();
    let mut mismatch = None;
    for address in resolve(&seeds)? {
        match ask(&fabric, &process, from, address, authority, body.clone()).await {
            Ok(reply) => return Ok(reply),
            Err(Attempt::Unsent(reason)) => failures.push((address, reason)),
            Err(Attempt::Mismatch(found)) => {
                mismatch = Some(JoinError::CaMismatch { address, expected: authority, found });
            }
            Err(Attempt::Unanswered(reason)) => return Err(JoinError::NoReply { address, reason }),
            Err(Attempt::Refused(reason)) => return Err(JoinError::Refused(reason)),
        }
    }
    Err(mismatch.unwrap_or(JoinError::Unreachable(failures)))
}

async fn ask(
    fabric: &Fabric,
    process: &Arc<Process>,
    from: SocketAddr,
    address: SocketAddr,
    authority: [u8; 32],
    body: Bytes,
) -> Result<Bytes, Attempt> {
    // Only nodes listen.
    let host = Fabric::host_of(address).filter(|host| Fabric::address(*host) == address);
    let Some(host) = host else { return Err(Attempt::Unsent("nobody listens there".into())) };
    let draft = |kind, payload: &[u8], cargo| Draft {
        from: process.host,
        to: host,
        kind,
        lane: None,
        len: payload.len(),
        digest: Digest::of(payload),
        cargo,
    };
    let hello = exchange(process, CONNECT_TIMEOUT, |sender| {
        fabric.send(draft(Kind::JoinHello, &[], Cargo::JoinHello { sender }));
    });
    let shown = match hello.await {
        Ok(Ok(shown)) => shown,
        Ok(Err(failure)) => return Err(Attempt::Unsent(format!("{failure:?}"))),
        Err(timeout) => return Err(Attempt::Unsent(timeout)),
    };
    if *shown != authority {
        let found = shown[..].try_into().expect("a node shows the 32 bytes of its authority's fingerprint");
        return Err(Attempt::Mismatch(found));
    }
    let asked = exchange(process, REPLY_TIMEOUT, |sender| {
        let cargo = Cargo::JoinRequest { body: body.clone(), from, sender };
        fabric.send(draft(Kind::JoinRequest, &body, cargo));
    });
    match asked.await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(Failure::Refused(reason))) => Err(Attempt::Refused(reason)),
        Ok(Err(Failure::Busy(reason))) => Err(Attempt::Unsent(reason.into())),
        Ok(Err(failure)) => Err(Attempt::Unanswered(format!("{failure:?}"))),
        Err(timeout) => Err(Attempt::Unanswered(timeout)),
    }
}

/// Sends something, and waits for its answer.
async fn exchange(
    process: &Arc<Process>,
    timeout: Duration,
    send: impl FnOnce(ReturnAddress),
) -> Result<Answer, String> {
    let (sender, answered) = process.expect_answer(None).expect("joiners have no limit of their own");
    let _forget = Forget { process: process.clone(), request: sender.request };
    send(sender);
    match SimRuntime::timeout(timeout, answered).await {
        Ok(answer) => Ok(answer.unwrap_or(Err(Failure::NoReply("the process ended")))),
        Err(_) => Err(format!("nothing within {} s", timeout.as_secs())),
    }
}

/// Forgets a request that nobody waits for.
pub(super) struct Forget {
    pub(super) process: Arc<Process>,
    pub(super) request: u64,
}

impl Drop for Forget {
    fn drop(&mut self) {
        self.process.forget(self.request);
    }
}

/// The fleet's answer to a joiner, within its time.
pub(super) fn decide(handler: Arc<dyn JoinHandler>, from: SocketAddr, body: Bytes) -> BoxFuture<Answer> {
    Box::pin(async move {
        match SimRuntime::timeout(DECISION_TIMEOUT, handler.on_join(from, body)).await {
            Ok(Ok(reply)) if reply.len() > JOIN_MAX_BYTES => {
                Err(Failure::NoReply("the reply is over the limit"))
            }
            Ok(decision) => decision.map_err(Failure::Refused),
            Err(_) => Err(Failure::NoReply("the fleet did not decide in time")),
        }
    })
}
