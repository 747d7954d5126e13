//! One process's end of the memory transport: who waits for answers, and what is done with what arrives.
//!
//! Whatever arrives is handled in the process's own context, at once if it runs. A paused process finds it when it resumes; a dead
//! one gets nothing. Invariant: the handler is never called while a lock is held, and messages reach it in the order of arrival.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use longshore_raft::NodeId;
use longshore_raft::consensus::inspect_wire::{MessageKind, kind_of};
use longshore_raft::transport::{APPEND_STREAMS, Handler, JoinHandler, Lane, Replier};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::fabric::{Draft, Fabric};
use super::join;
use super::parcel::{Answer, Cargo, Digest, Failure, Farewell, Kind, Parcel, ProcessId, ReturnAddress};
use crate::event;
use crate::plan::HostId;
use crate::runtime::{Context, spawn_in};

/// Messages that a paused process finds when it resumes; more are lost.
const PILE_MAX: usize = 4096;

/// Joiners served at a time, as in production.
const JOINS_MAX: usize = 8;

pub(super) struct Process {
    pub(super) id: ProcessId,
    pub(super) host: HostId,
    pub(super) context: Arc<Context>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next_request: u64,
    waiting: BTreeMap<u64, Waiting>,
    /// Requests to one peer on one stream that wait for their answers.
    unanswered: BTreeMap<(NodeId, Lane), usize>,
    endpoint: Option<Endpoint>,
    /// No endpoint will come any more.
    closed: bool,
    pile: VecDeque<Cargo>,
    joins: usize,
}

/// What a started transport knows.
pub(super) struct Endpoint {
    pub(super) node: NodeId,
    pub(super) authority: [u8; 32],
    pub(super) handler: Arc<dyn Handler>,
    pub(super) join: Arc<dyn JoinHandler>,
    pub(super) peers: BTreeMap<NodeId, SocketAddr>,
    pub(super) removed: BTreeSet<NodeId>,
    /// Peers that it has exchanged anything with: in production there would be a connection.
    pub(super) met: BTreeSet<NodeId>,
}

/// Somebody who waits for an answer; `of` is the peer and the stream, unless it is a joiner.
struct Waiting {
    of: Option<(NodeId, Lane)>,
    answer: oneshot::Sender<Answer>,
}

/// The lane that stands for all that share a stream and its limit.
fn stream_of(lane: Lane) -> Lane {
    match lane {
        Lane::Append { key } => Lane::Append { key: key % APPEND_STREAMS },
        other => other,
    }
}

impl State {
    fn take(&mut self, request: u64) -> Option<Waiting> {
        let waiting = self.waiting.remove(&request)?;
        if let Some(of) = waiting.of {
            let unanswered = self.unanswered.get_mut(&of).expect("whoever waits was counted");
            *unanswered -= 1;
        }
        Some(waiting)
    }

    /// Takes all who wait for `peer`.
    fn take_all_of(&mut self, peer: NodeId) -> Vec<Waiting> {
        let is_of = |w: &Waiting| w.of.is_some_and(|(node, _)| node == peer);
        let requests: Vec<u64> = self.waiting.iter().filter(|(_, w)| is_of(w)).map(|(id, _)| *id).collect();
        requests.into_iter().filter_map(|id| self.take(id)).collect()
    }
}

fn fail(waiting: Vec<Waiting>, reason: &'static str) {
    for waiting in waiting {
        // Whoever stopped waiting does not care.
        let _ = waiting.answer.send(Err(Failure::NoReply(reason)));
    }
}

impl Process {
    pub(super) fn new(id: ProcessId, host: HostId, context: Arc<Context>) -> Arc<Self> {
        Arc::new(Self { id, host, context, state: Mutex::default() })
    }

    /// Starts the transport. `false`: there was one before.
    pub(super) fn open(&self, endpoint: Endpoint) -> bool {
        let mut state = self.state.lock();
        if state.closed || state.endpoint.is_some() {
            return false;
        }
        state.endpoint = Some(endpoint);
        true
    }

    /// Looks at the endpoint, if the transport is open.
    pub(super) fn endpoint<T>(&self, look: impl FnOnce(&mut Endpoint) -> T) -> Option<T> {
        self.state.lock().endpoint.as_mut().map(look)
    }

    /// Ends the transport: nothing arrives any more, and nobody waits. Gives what the transport knew.
    pub(super) fn close(&self) -> Option<Endpoint> {
        let mut state = self.state.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        state.unanswered.clear();
        state.pile.clear();
        let endpoint = state.endpoint.take();
        drop(state);
        fail(waiting.into_values().collect(), "the transport is closed");
        endpoint
    }

    /// Lets go of the node that this process ran.
    pub(super) fn discard(self: Arc<Self>) {
        // Its destructors look at clocks.
        self.context.clone().enter(|| drop(self.close()));
    }

    /// Takes a number for a request. `None`: too many wait already.
    pub(super) fn expect_answer(
        &self,
        of: Option<(NodeId, Lane)>,
    ) -> Option<(ReturnAddress, oneshot::Receiver<Answer>)> {
        let mut state = self.state.lock();
        let of = of.map(|(node, lane)| (node, stream_of(lane)));
        if let Some((node, lane)) = of {
            let unanswered = state.unanswered.entry((node, lane)).or_default();
            if *unanswered >= lane.max_unanswered() {
                return None;
            }
            *unanswered += 1;
        }
        let request = state.next_request;
        state.next_request += 1;
        let (answer, answered) = oneshot::channel();
        state.waiting.insert(request, Waiting { of, answer });
        Some((ReturnAddress { host: self.host, process: self.id, request }, answered))
    }

    /// Nobody waits for this one any more.
    pub(super) fn forget(&self, request: u64) {
        self.state.lock().take(request);
    }

    pub(super) fn fail_all_of(&self, peer: NodeId, reason: &'static str) {
        let waiting = self.state.lock().take_all_of(peer);
        fail(waiting, reason);
    }

    /// Answers a request of this process's own.
    pub(super) fn complete(&self, request: u64, answer: Answer) {
        let waiting = self.state.lock().take(request);
        let Some(waiting) = waiting else { return };
        if answer == Err(Failure::Removed)
            && let Some((peer, _)) = waiting.of
            && let Some(handler) = self.endpoint(|e| e.handler.clone())
        {
            handler.on_removed(peer);
        }
        let _ = waiting.answer.send(answer);
    }

    /// Whether there is anybody in this process for what has arrived.
    pub(super) fn wants(&self, parcel: &Parcel) -> bool {
        if self.context.is_dead() {
            return false;
        }
        let state = self.state.lock();
        let is_node = |node: NodeId| state.endpoint.as_ref().is_some_and(|e| e.node == node);
        let for_us = match &parcel.cargo {
            Cargo::Request { to, .. } | Cargo::Goodbye { to, .. } => is_node(*to),
            Cargo::Reply { to, .. } => to.process == self.id && state.waiting.contains_key(&to.request),
            Cargo::JoinHello { .. } | Cargo::JoinRequest { .. } => state.endpoint.is_some(),
            Cargo::Datagram { .. } => false,
        };
        for_us && state.pile.len() < PILE_MAX
    }

    /// Handles what has arrived: now, or when the process resumes.
    pub(super) fn arrive(self: &Arc<Self>, fabric: &Arc<Fabric>, cargo: Cargo) {
        let mut state = self.state.lock();
        if !self.context.is_paused() && state.pile.is_empty() {
            drop(state);
            return self.context.enter(|| self.receive(fabric, cargo));
        }
        state.pile.push_back(cargo);
        let is_first = state.pile.len() == 1;
        drop(state);
        if is_first {
            let (process, fabric) = (self.clone(), fabric.clone());
            drop(spawn_in(&self.context, async move { process.work_off_pile(&fabric) }));
        }
    }

    /// What arrives meanwhile goes behind it: the pile is empty only once all of it was handled.
    fn work_off_pile(self: &Arc<Self>, fabric: &Arc<Fabric>) {
        loop {
            let next = self.state.lock().pile.front().cloned();
            let Some(cargo) = next else { return };
            self.receive(fabric, cargo);
            self.state.lock().pile.pop_front();
        }
    }

    /// A panic in a node's handler is that node's: others must go on.
    fn receive(self: &Arc<Self>, fabric: &Arc<Fabric>, cargo: Cargo) {
        if catch_unwind(AssertUnwindSafe(|| self.handle(fabric, cargo))).is_err() {
            event!("net the handler panicked");
        }
    }

    fn handle(self: &Arc<Self>, fabric: &Arc<Fabric>, cargo: Cargo) {
        match cargo {
            Cargo::Request { from, lane, body, sender, .. } => {
                self.on_request(fabric, from, lane, body, sender);
            }
            Cargo::Reply { to, answer } => self.complete(to.request, answer),
            Cargo::Goodbye { from, why, .. } => self.on_goodbye(from, why),
            Cargo::JoinHello { sender } => {
                let authority = self.endpoint(|e| e.authority);
                let answer = authority.map(|a| Bytes::copy_from_slice(&a));
                let answer = answer.ok_or(Failure::NoReply("the transport is closed"));
                fabric.reply(self.host, sender, Kind::JoinWelcome, answer);
            }
            Cargo::JoinRequest { body, from, sender } => self.on_join(fabric, body, from, sender),
            Cargo::Datagram { .. } => unreachable!("datagrams go to sockets"),
        }
    }

    fn on_request(
        self: &Arc<Self>,
        fabric: &Arc<Fabric>,
        from: NodeId,
        lane: Lane,
        body: Bytes,
        sender: ReturnAddress,
    ) {
        let kind = kind_of(&body);
        let admitted = self.endpoint(|endpoint| {
            if endpoint.removed.contains(&from) {
                return None;
            }
            endpoint.met.insert(from);
            endpoint.peers.insert(from, Fabric::address(sender.host));
            Some(endpoint.handler.clone())
        });
        let handler = match admitted {
            Some(Some(handler)) => handler,
            Some(None) => return fabric.reply(self.host, sender, Kind::Reply(kind), Err(Failure::Removed)),
            None => return,
        };
        let answer = Answering {
            process: self.clone(),
            fabric: fabric.clone(),
            sender,
            lane,
            kind,
            request: body.clone(),
        };
        handler.on_request(from, lane, body, Replier::new(move |reply| answer.send(reply)));
    }

    fn on_goodbye(&self, from: NodeId, why: Farewell) {
        let handler = self.endpoint(|endpoint| {
            endpoint.met.remove(&from);
            endpoint.handler.clone()
        });
        match why {
            Farewell::Closing => self.fail_all_of(from, "it is shutting down"),
            Farewell::Removed => {
                self.fail_all_of(from, "it says that this node was removed from the fleet");
                if let Some(handler) = handler {
                    handler.on_removed(from);
                }
            }
        }
    }

    fn on_join(self: &Arc<Self>, fabric: &Arc<Fabric>, body: Bytes, from: SocketAddr, sender: ReturnAddress) {
        let mut state = self.state.lock();
        let Some(endpoint) = &state.endpoint else { return };
        let handler = endpoint.join.clone();
        let is_busy = state.joins >= JOINS_MAX;
        state.joins += usize::from(!is_busy);
        drop(state);
        if is_busy {
            let answer = Err(Failure::Busy("too many nodes are joining; try again"));
            return fabric.reply(self.host, sender, Kind::JoinReply, answer);
        }
        let (process, fabric) = (self.clone(), fabric.clone());
        let decided = join::decide(handler, from, body);
        drop(spawn_in(&self.context, async move {
            let answer = decided.await;
            process.state.lock().joins -= 1;
            fabric.reply(process.host, sender, Kind::JoinReply, answer);
        }));
    }

    fn is_gone(&self) -> bool {
        self.context.is_dead() || self.state.lock().closed
    }
}

/// The way back of one answer.
struct Answering {
    process: Arc<Process>,
    fabric: Arc<Fabric>,
    sender: ReturnAddress,
    lane: Lane,
    kind: MessageKind,
    request: Bytes,
}

impl Answering {
    fn send(self, reply: Result<Bytes, String>) {
        let Self { process, fabric, sender, lane, kind, request } = self;
        if process.is_gone() {
            return;
        }
        let answer = match reply {
            Ok(body) if body.len() > lane.max_body_bytes() => {
                Err(Failure::NoReply("the reply is over the lane's limit"))
            }
            other => other.map_err(Failure::Refused),
        };
        let forged = fabric.tamper().and_then(|tamper| tamper.instead_of_reply(kind, &request));
        if forged.is_some() {
            event!("net forge reply to {kind}");
        }
        fabric.reply(process.host, sender, Kind::Reply(kind), forged.map_or(answer, Ok));
    }
}

impl Process {
    /// Tells a peer that this node wants no more of it.
    pub(super) fn say_goodbye(
        &self,
        fabric: &Fabric,
        from: NodeId,
        to: NodeId,
        address: SocketAddr,
        why: Farewell,
    ) {
        let Some(host) = Fabric::host_of(address) else { return };
        fabric.send(Draft {
            from: self.host,
            to: host,
            kind: Kind::Goodbye(why),
            lane: None,
            len: 0,
            digest: Digest::of(&[]),
            cargo: Cargo::Goodbye { from, to, why },
        });
    }
}
