//! What travels through the fabric: whole messages of the memory transport, or datagrams of QUIC.

use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use longshore_raft::NodeId;
use longshore_raft::consensus::inspect_wire::MessageKind;
use longshore_raft::transport::Lane;

use crate::plan::HostId;

/// Numbers the processes that have had a network port, over the whole run.
pub(super) type ProcessId = u64;

/// Messages of one lane of one process to one node keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LaneKey {
    pub(super) process: ProcessId,
    pub(super) to: NodeId,
    pub(super) lane: Lane,
}

/// A short digest of a payload, for events: as [`crate::trace::digest`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Digest(u64);

impl Digest {
    pub(super) fn of(payload: &[u8]) -> Self {
        let hash = blake3::hash(payload);
        let first = hash.as_bytes().first_chunk::<8>().expect("a hash has 32 bytes");
        Self(u64::from_be_bytes(*first) >> 16)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

/// What a parcel is, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Datagram,
    Request(MessageKind),
    Reply(MessageKind),
    JoinHello,
    JoinWelcome,
    JoinRequest,
    JoinReply,
    Goodbye(Farewell),
    /// Tells whoever waits that something was lost by chance. Not sent by anybody.
    LossNotice,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Datagram => f.write_str("udp"),
            Self::Request(kind) => kind.fmt(f),
            Self::Reply(kind) => write!(f, "reply to {kind}"),
            Self::JoinHello => f.write_str("join-hello"),
            Self::JoinWelcome => f.write_str("join-welcome"),
            Self::JoinRequest => f.write_str("join-request"),
            Self::JoinReply => f.write_str("join-reply"),
            Self::Goodbye(Farewell::Closing) => f.write_str("goodbye closing"),
            Self::Goodbye(Farewell::Removed) => f.write_str("goodbye removed"),
            Self::LossNotice => f.write_str("loss noticed"),
        }
    }
}

/// Why a node wants no more of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    Closing,
    Removed,
}

/// Why a request has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    Refused(String),
    /// The other side says that the sender was removed from the fleet.
    Removed,
    /// Whatever happened to it, the sender knows no more than that there will be no answer.
    NoReply(&'static str),
    /// The other side could not take it, and did nothing.
    Busy(&'static str),
}

pub(super) type Answer = Result<Bytes, Failure>;

/// Who waits for the answer to a request, and under which number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReturnAddress {
    pub(super) host: HostId,
    pub(super) process: ProcessId,
    pub(super) request: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Cargo {
    Datagram { from: SocketAddr, to: SocketAddr, bytes: Bytes },
    Request { from: NodeId, to: NodeId, lane: Lane, body: Bytes, sender: ReturnAddress },
    JoinHello { sender: ReturnAddress },
    JoinRequest { body: Bytes, from: SocketAddr, sender: ReturnAddress },
    Reply { to: ReturnAddress, answer: Answer },
    Goodbye { from: NodeId, to: NodeId, why: Farewell },
}

impl Cargo {
    /// Who is to be told if this is lost by chance, as the end of a broken stream.
    pub(super) fn waiting(&self) -> Option<ReturnAddress> {
        match self {
            Self::Request { sender, .. } | Self::JoinHello { sender } | Self::JoinRequest { sender, .. } => {
                Some(*sender)
            }
            Self::Reply { to, .. } => Some(*to),
            Self::Datagram { .. } | Self::Goodbye { .. } => None,
        }
    }
}

/// Something on its way.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    /// What it is in events. Made once, by [`Parcel::labelled`]: each parcel is in two events at least.
    pub(super) label: Box<str>,
    /// Number of the sending, unique over the run; a copy has its original's.
    pub(super) number: u64,
    pub(super) from: HostId,
    pub(super) to: HostId,
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) digest: Digest,
    pub(super) lane: Option<LaneKey>,
    pub(super) cargo: Cargo,
}

impl Parcel {
    /// With the label that its fields ask for.
    pub(super) fn labelled(self) -> Self {
        let Self { number, from, to, kind, len, digest, .. } = &self;
        let label = format!("#{number} {from}->{to} {kind} {len}B {digest}").into();
        Self { label, ..self }
    }
}

impl fmt::Display for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}
