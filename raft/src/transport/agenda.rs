//! The peers that something is to be done about: dial them, or tell the handler of them.
//!
//! One supervisor works it off, so that requests can be made from any thread, and the handler hears of each peer's
//! connections in order. Bounded: a peer is on it at most once.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::peer::Peer;
use crate::consensus::runtime::Runtime;

pub(super) struct Agenda<R: Runtime> {
    /// `None` once closed.
    peers: Mutex<Option<VecDeque<Arc<Peer<R>>>>>,
    added: Notify,
}

impl<R: Runtime> Default for Agenda<R> {
    fn default() -> Self {
        Self { peers: Mutex::new(Some(VecDeque::new())), added: Notify::new() }
    }
}

impl<R: Runtime> Agenda<R> {
    pub(super) fn add(&self, peer: Arc<Peer<R>>) {
        if let Some(peers) = &mut *self.peers.lock() {
            peers.push_back(peer);
            self.added.notify_one();
        }
    }

    /// The next peer; `None` once closed.
    pub(super) async fn next(&self) -> Option<Arc<Peer<R>>> {
        loop {
            if let Some(peer) = self.peers.lock().as_mut()?.pop_front() {
                return Some(peer);
            }
            self.added.notified().await;
        }
    }

    pub(super) fn close(&self) {
        *self.peers.lock() = None;
        self.added.notify_one();
    }
}
