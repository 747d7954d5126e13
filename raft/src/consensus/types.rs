//! What openraft is configured with: our identifiers, one leader per term, and entries that carry many commands.
//!
//! `Types` is generic over the runtime alone. The state machine is erased behind [`super::state::Machine`], so that
//! openraft's core is compiled once a runtime, however many machines there are.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;

use bincode::{Decode, Encode};
use bytes::Bytes;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder};
use openraft::vote::leader_id_std;
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig};

use super::codec::Blob;
use super::machine::LogTime;
use super::runtime::Runtime;
use crate::model::ids::{ClientId, NodeId, ReplicaId};

/// openraft's type configuration. Never holds an `R`, hence `fn() -> R`, and hence the impls by hand: derived ones would
/// ask them of `R`.
pub(crate) struct Types<R>(PhantomData<fn() -> R>);

impl<R> Clone for Types<R> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<R> Copy for Types<R> {}
impl<R> Default for Types<R> {
    fn default() -> Self {
        Self(PhantomData)
    }
}
impl<R> fmt::Debug for Types<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Types")
    }
}
impl<R> PartialEq for Types<R> {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}
impl<R> Eq for Types<R> {}
impl<R> PartialOrd for Types<R> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<R> Ord for Types<R> {
    fn cmp(&self, _: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// Standard Raft: at most one leader a term (openraft's other choice allows several). It keeps a log id at two words and
/// makes "the leader of term T" a fact that tests and status can state.
pub(crate) type LeaderId = leader_id_std::LeaderId<u64, ReplicaId>;
pub(crate) type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
pub(crate) type Vote = openraft::Vote<LeaderId>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Payload = EntryPayload<Batch, ReplicaId, NodeId>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, Payload>;
pub(crate) type Membership = openraft::Membership<ReplicaId, NodeId>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, ReplicaId, NodeId>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, ReplicaId, NodeId>;
/// A snapshot's data is its encoded bytes: a group's state lives in memory anyway.
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, ReplicaId, NodeId, Bytes>;

impl<R: Runtime> RaftTypeConfig for Types<R> {
    type D = Batch;
    type R = Vec<OpReply>;
    type NodeId = ReplicaId;
    type Node = NodeId;
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Vote;
    type Payload = Payload;
    type Entry = Entry;
    type AsyncRuntime = R;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

/// What one entry carries: all that was waiting in one turn of the group, stamped with log time by its leader.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Batch {
    pub(crate) time: LogTime,
    pub(crate) ops: Vec<Op>,
}

impl fmt::Display for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ops at {} ms", self.ops.len(), self.time.0)
    }
}

/// Names one command of one client, so that a retry is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) struct CommandId {
    pub(crate) client: ClientId,
    pub(crate) seq: u64,
    /// The client waits for no reply below this sequence: those replies can be forgotten.
    pub(crate) acked_below: u64,
}

/// One step of a batch.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum Op {
    /// A command of the state machine. Without an id it is applied as often as it is proposed.
    Command { id: Option<CommandId>, body: Blob },
    /// Registers a client; its id is made of the entry's index and the position in it.
    Register,
    /// Removes the clients that were last seen before `unseen_since`.
    ExpireClients { unseen_since: LogTime },
}

impl Op {
    /// Bytes that count against batch limits: the body plus what surrounds it.
    pub(crate) fn weight(&self) -> usize {
        const FRAME_BYTES: usize = 48;
        FRAME_BYTES + if let Op::Command { body, .. } = self { body.len() } else { 0 }
    }
}

/// What became of one [`Op`]. Decided when it is applied, so the same on every replica.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum OpReply {
    /// The machine's reply, encoded; of the first application if this was a retry.
    Done(Blob),
    Registered(ClientId),
    ClientsExpired(u32),
    /// The client is not (or no longer) registered: not applied now, perhaps before.
    UnknownClient,
    /// The client said that it waits for this sequence no longer: not applied now, perhaps before.
    Acknowledged,
    /// Applied before; its reply was dropped since the client held too many bytes of replies.
    ReplyDropped,
    /// The sequence is too far ahead of the client's oldest outstanding one; not applied.
    WindowFull,
    /// As many clients are registered as can be; not registered.
    ClientsFull,
    /// This replica's program does not understand the command; not applied.
    Undecodable(String),
}
