//! The exactly-once window: which commands of which clients were applied, and what they returned. Pure.
//!
//! A client registers through the log, numbers its commands, and says with each below which number it waits for nothing
//! (Raft dissertation, section 6.3, extended to pipelined commands, which arrive in any order).
//!
//! Invariants: a command of a registered client is applied at most once, whatever is retried or reordered; a retry gets
//! the first reply; memory a client can hold is bounded ([`WINDOW_MAX`] sequences, [`REPLY_BYTES_MAX`] bytes of replies).
//! Part of the replicated state: the same on every replica, and in snapshots.

use std::collections::BTreeMap;

use bincode::{Decode, Encode};

use super::codec::Blob;
use super::machine::LogTime;
use super::types::CommandId;
use crate::model::ids::ClientId;

/// Most sequences between a client's oldest outstanding command and its newest: what it may pipeline.
pub(crate) const WINDOW_MAX: u64 = 1024;
/// Most bytes of replies kept for one client; the oldest are dropped first (their commands stay known as applied).
pub(crate) const REPLY_BYTES_MAX: usize = 4 << 20;
/// Most clients of one group: each takes about 100 bytes, and every snapshot carries them all.
pub(crate) const CLIENTS_MAX: usize = 10_000;
/// Positions in an entry that [`client_id`] has room for; also the most ops of one batch.
pub(crate) const POSITIONS_MAX: u32 = 1 << 12;

/// The id of the client that the op at (`index`, `position`) registers: unique, since log positions are.
pub(crate) fn client_id(index: u64, position: u32) -> ClientId {
    assert!(position < POSITIONS_MAX && index < 1 << 52, "a batch has at most {POSITIONS_MAX} ops");
    ClientId(index << 12 | u64::from(position))
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
struct Client {
    seen: LogTime,
    /// Every sequence below was acknowledged by the client.
    floor: u64,
    /// Applied sequences at or above `floor`; `None` where the reply was dropped.
    applied: BTreeMap<u64, Option<Blob>>,
    reply_bytes: u64,
}

/// All clients of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Clients {
    by_id: BTreeMap<ClientId, Client>,
}

/// What to do with a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Apply it and [`Clients::record`] its reply.
    Apply,
    /// Applied before; here is its reply, unless it was dropped.
    Repeat(Option<Blob>),
    Acknowledged,
    WindowFull,
    UnknownClient,
}

impl Clients {
    /// False if there are [`CLIENTS_MAX`] already.
    #[must_use]
    pub(crate) fn register(&mut self, id: ClientId, now: LogTime) -> bool {
        if self.by_id.len() >= CLIENTS_MAX {
            return false;
        }
        let earlier = self.by_id.insert(id, Client { seen: now, ..Client::default() });
        assert!(earlier.is_none(), "client {id} registered twice: log positions are unique");
        true
    }

    pub(crate) fn admit(&mut self, id: CommandId, now: LogTime) -> Verdict {
        let Some(client) = self.by_id.get_mut(&id.client) else { return Verdict::UnknownClient };
        client.seen = client.seen.max(now);
        // A client can not acknowledge what it has not sent, so its own floor never passes its sequence.
        client.raise_floor(id.acked_below.min(id.seq));
        if id.seq < client.floor {
            Verdict::Acknowledged
        } else if let Some(reply) = client.applied.get(&id.seq) {
            Verdict::Repeat(reply.clone())
        } else if id.seq - client.floor >= WINDOW_MAX {
            Verdict::WindowFull
        } else {
            Verdict::Apply
        }
    }

    /// Keeps the reply to a command that [`Verdict::Apply`] was given for.
    pub(crate) fn record(&mut self, id: CommandId, reply: Blob) {
        let client = self.by_id.get_mut(&id.client).expect("the command was admitted in the same step");
        client.reply_bytes += reply.len() as u64;
        let earlier = client.applied.insert(id.seq, Some(reply));
        assert!(earlier.is_none(), "{id:?} was applied twice");
        client.drop_replies();
        assert!(client.applied.len() as u64 <= WINDOW_MAX, "{id:?} outgrew its window");
    }

    /// Removes clients last seen before `unseen_since`; returns how many.
    pub(crate) fn expire(&mut self, unseen_since: LogTime) -> u32 {
        let before = self.by_id.len();
        self.by_id.retain(|_, client| client.seen >= unseen_since);
        (before - self.by_id.len()) as u32
    }

    /// Whether [`Clients::expire`] would remove any.
    pub(crate) fn any_unseen_since(&self, time: LogTime) -> bool {
        self.by_id.values().any(|client| client.seen < time)
    }
}

impl Client {
    fn raise_floor(&mut self, floor: u64) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        let kept = self.applied.split_off(&floor);
        let gone = std::mem::replace(&mut self.applied, kept);
        self.reply_bytes -= gone.values().flatten().map(|r| r.len() as u64).sum::<u64>();
    }

    fn drop_replies(&mut self) {
        for reply in self.applied.values_mut() {
            if self.reply_bytes <= REPLY_BYTES_MAX as u64 {
                break;
            }
            if let Some(reply) = reply.take() {
                self.reply_bytes -= reply.len() as u64;
            }
        }
    }
}
