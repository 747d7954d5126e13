//! This replica's own client session with its group: who it is, and which of its commands are outstanding.
//!
//! Invariants: a sequence is used for one command only; `acked_below` never passes an outstanding command; no more than
//! [`WINDOW_MAX`] sequences lie between the oldest outstanding command and the next (so the window never refuses one).

use std::collections::BTreeSet;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::clients::WINDOW_MAX;
use super::types::CommandId;
use crate::model::ids::ClientId;

#[derive(Default)]
pub(crate) struct Session {
    state: Mutex<State>,
    /// A command was finished, or a client registered.
    freed: Notify,
    /// Held by whoever registers the client.
    pub(crate) registering: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    client: Option<ClientId>,
    next: u64,
    outstanding: BTreeSet<u64>,
}

/// What a new command gets.
pub(crate) enum Begin {
    Ticket(Ticket),
    /// The window is full; wait for [`Session::freed`].
    Full,
    /// No client is registered.
    Unregistered,
}

/// One outstanding command; finished when dropped.
pub(crate) struct Ticket {
    session: Arc<Session>,
    pub(crate) client: ClientId,
    seq: u64,
}

impl Session {
    pub(crate) fn begin(self: &Arc<Self>) -> Begin {
        let mut state = self.state.lock();
        let Some(client) = state.client else { return Begin::Unregistered };
        let oldest = state.outstanding.first().copied().unwrap_or(state.next);
        if state.next - oldest >= WINDOW_MAX {
            return Begin::Full;
        }
        let seq = state.next;
        state.next += 1;
        state.outstanding.insert(seq);
        Begin::Ticket(Ticket { session: self.clone(), client, seq })
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.state.lock().client.is_some()
    }

    pub(crate) fn register(&self, client: ClientId) {
        *self.state.lock() = State { client: Some(client), ..State::default() };
        self.freed.notify_waiters();
    }

    /// The group does not know this client any more: the next command registers another.
    pub(crate) fn forget(&self, client: ClientId) {
        let mut state = self.state.lock();
        if state.client == Some(client) {
            *state = State::default();
        }
        drop(state);
        self.freed.notify_waiters();
    }

    /// Waits until a command was finished or the client changed, unless `is_ready` says there is no need.
    pub(crate) async fn wait_freed(&self, is_ready: impl Fn() -> bool) {
        let mut notified = std::pin::pin!(self.freed.notified());
        notified.as_mut().enable();
        if !is_ready() {
            notified.await;
        }
    }

    pub(crate) fn has_room(&self) -> bool {
        let state = self.state.lock();
        state.outstanding.first().is_none_or(|oldest| state.next - oldest < WINDOW_MAX)
    }
}

impl Ticket {
    /// The id to send with the next attempt.
    pub(crate) fn id(&self) -> CommandId {
        let state = self.session.state.lock();
        // Another client's outstanding commands say nothing about this one's.
        let same = state.client == Some(self.client);
        let oldest = state.outstanding.first().copied().filter(|_| same).unwrap_or(0);
        CommandId { client: self.client, seq: self.seq, acked_below: oldest.min(self.seq) }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.session.state.lock();
        if state.client == Some(self.client) {
            state.outstanding.remove(&self.seq);
        }
        drop(state);
        self.session.freed.notify_waiters();
    }
}
