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
pub(crate) const REPLY_BYTES_MAX: usize = 1 << 20;
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const CLIENT: ClientId = ClientId(1 << 12);

    fn registered() -> Clients {
        let mut clients = Clients::default();
        assert!(clients.register(CLIENT, LogTime(1000)));
        clients
    }

    fn id(seq: u64, acked_below: u64) -> CommandId {
        CommandId { client: CLIENT, seq, acked_below }
    }

    /// Applies as the state does; true if the command took effect.
    fn apply(clients: &mut Clients, id: CommandId) -> bool {
        let verdict = clients.admit(id, LogTime(1000));
        if verdict == Verdict::Apply {
            clients.record(id, vec![id.seq as u8].into());
        }
        verdict == Verdict::Apply
    }

    #[test]
    fn out_of_order_and_repeated() {
        let mut clients = registered();
        assert!(apply(&mut clients, id(2, 0)));
        assert!(apply(&mut clients, id(0, 0)));
        assert!(!apply(&mut clients, id(2, 0)));
        assert_eq!(clients.admit(id(2, 0), LogTime(1000)), Verdict::Repeat(Some(vec![2].into())));
        assert!(apply(&mut clients, id(1, 0)));
        // The client waits for nothing below 3 any more: their replies go, and their retries are not applied.
        assert!(apply(&mut clients, id(3, 3)));
        assert_eq!(clients.admit(id(1, 0), LogTime(1000)), Verdict::Acknowledged);
        assert_eq!(clients.admit(id(3, 0), LogTime(1000)), Verdict::Repeat(Some(vec![3].into())));
    }

    #[test]
    fn unknown_clients_are_never_admitted() {
        let mut clients = registered();
        let stranger = CommandId { client: ClientId(5), seq: 0, acked_below: 0 };
        assert_eq!(clients.admit(stranger, LogTime(1000)), Verdict::UnknownClient);
        assert!(apply(&mut clients, id(0, 0)));
        assert_eq!(clients.expire(LogTime(1001)), 1);
        assert_eq!(clients.admit(id(0, 0), LogTime(1000)), Verdict::UnknownClient);
    }

    #[test]
    fn clients_that_are_heard_of_do_not_expire() {
        let mut clients = registered();
        assert!(!clients.any_unseen_since(LogTime(1000)) && clients.any_unseen_since(LogTime(1001)));
        let _ = clients.admit(id(0, 0), LogTime(5000));
        assert_eq!(clients.expire(LogTime(5000)), 0);
    }

    #[test]
    fn the_window_is_bounded_in_sequences_and_bytes() {
        let mut clients = registered();
        assert!(apply(&mut clients, id(WINDOW_MAX - 1, 0)));
        assert_eq!(clients.admit(id(WINDOW_MAX, 0), LogTime(1000)), Verdict::WindowFull);
        assert!(apply(&mut clients, id(WINDOW_MAX, 1)), "the floor moved");
        let large = vec![0; REPLY_BYTES_MAX / 2 + 1];
        for seq in [10, 11] {
            assert_eq!(clients.admit(id(seq, 1), LogTime(1000)), Verdict::Apply);
            clients.record(id(seq, 1), large.clone().into());
        }
        assert_eq!(clients.admit(id(10, 1), LogTime(1000)), Verdict::Repeat(None), "its reply made room");
        assert!(matches!(clients.admit(id(11, 1), LogTime(1000)), Verdict::Repeat(Some(_))));
    }

    #[test]
    fn as_many_clients_as_can_be() {
        let mut clients = Clients::default();
        for n in 0..CLIENTS_MAX as u64 {
            assert!(clients.register(client_id(n, 0), LogTime(n)));
        }
        assert!(!clients.register(client_id(CLIENTS_MAX as u64, 0), LogTime(0)));
        assert_eq!(clients.expire(LogTime(1)), 1);
        assert!(clients.register(client_id(CLIENTS_MAX as u64, 0), LogTime(0)));
    }

    #[test]
    fn ids_are_unique_by_position() {
        let ids: BTreeSet<ClientId> =
            (0..50).flat_map(|index| (0..50).map(move |position| client_id(index, position))).collect();
        assert_eq!(ids.len(), 2500);
    }

    proptest! {
        /// Whatever is retried and reordered, a command takes effect at most once, and not after it was acknowledged.
        #[test]
        fn applied_at_most_once(steps in proptest::collection::vec((0u64..40, 0u64..40), 1..300)) {
            let mut clients = registered();
            let mut applied = BTreeSet::new();
            let mut acked = 0;
            for (seq, acked_below) in steps {
                let took_effect = apply(&mut clients, id(seq, acked_below));
                acked = acked.max(acked_below.min(seq));
                if took_effect {
                    prop_assert!(applied.insert(seq), "{} twice", seq);
                    prop_assert!(seq >= acked);
                } else {
                    prop_assert!(applied.contains(&seq) || seq < acked);
                }
            }
            let decoded: Clients = super::super::codec::decode(&super::super::codec::encode(&clients)).unwrap();
            prop_assert_eq!(decoded, clients);
        }
    }
}
