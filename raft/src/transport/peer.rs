//! One peer: where it is, the connection in use, and the requests that wait for it.
//!
//! At most one connection (a [`Link`]) is in use at a time; requests queue here, not on the connection, so that another
//! connection can take over what was not sent. Invariants: whatever was sent over a lost link is failed before the next
//! link is used; requests of an older link are never delivered after those of a newer one (the gates). Must never: call
//! the handler while `state` is locked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use openraft_rt::Instant as _;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot};

use super::admission::{self, Stamp, Verdict, View};
use super::agenda::Agenda;
use super::frame::{Batch, Frame, Kind};
use super::gate::Gate;
use super::lanes::{STREAMS, StreamIndex};
use super::link::{CloseCode, Link};
use super::outbox::{Forgotten, Outbox, ReplySender};
use super::warnings::Warnings;
use super::{Lane, TransportError};
use crate::consensus::runtime::Runtime;
use crate::model::ids::NodeId;

/// Pause after the first failed dial or a lost connection; doubled with each failure in a row.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// Longest pause: a node that comes back is found again this soon, if it does not dial first.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A connection that lasted this long was a good one: the next failure is a first one.
const STABLE: Duration = Duration::from_secs(1);

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(super) enum Why {
    Unreachable(String),
    /// The peer says that this node was removed.
    Removed,
}

impl Why {
    fn unsent(&self, to: NodeId) -> TransportError {
        match self {
            Why::Unreachable(reason) => TransportError::Unreachable { to, reason: reason.clone() },
            Why::Removed => TransportError::Removed { to },
        }
    }

    fn unanswered(&self, to: NodeId) -> TransportError {
        let reason = match self {
            Why::Unreachable(reason) => reason.clone(),
            Why::Removed => "it says that this node was removed from the fleet".into(),
        };
        TransportError::NoReply { to, reason }
    }
}

enum Route<R: Runtime> {
    Down { retry_at: Option<R::Instant>, why: Why },
    Dialling { attempt: u64, started: bool },
    Up { link: Arc<Link>, stamp: Stamp, since: R::Instant },
}

struct State<R: Runtime> {
    address: Option<SocketAddr>,
    route: Route<R>,
    outboxes: [Outbox; STREAMS],
    attempts: u64,
    /// Dials that failed, or connections that did not last, in a row.
    failures: u32,
    /// Set for good when the peer is no longer a member, or the transport is closed.
    gone: Option<Why>,
    /// Generation of the link that the handler was told of.
    announced: Option<u64>,
    /// The peer removed us, and the handler has not been told.
    removed_us: bool,
    on_agenda: bool,
}

/// What is to be done about a peer, outside its lock.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) dial: Option<(u64, SocketAddr)>,
    pub(super) announce_down: bool,
    pub(super) announce_up: bool,
    pub(super) announce_removed: bool,
}

/// The answer to a peer that asks to be connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    Welcome(Stamp),
    /// Our own dial goes first; ask again when it is settled.
    Wait,
    /// Overtaken by the connection in use.
    Duplicate,
    Gone,
}

pub(super) struct Peer<R: Runtime> {
    pub(super) id: NodeId,
    state: Mutex<State<R>>,
    /// Notified when a dial has ended or a link is up.
    settled: Notify,
    gates: [Gate; STREAMS],
    agenda: Arc<Agenda<R>>,
    warnings: Warnings<R>,
}

/// A request that waits for its reply.
pub(super) struct Waiter {
    stream: StreamIndex,
    id: u64,
    reply: oneshot::Receiver<Result<Bytes, TransportError>>,
}

/// Answers that were taken out under the lock, to be given outside it.
#[derive(Default)]
struct Failures(Vec<(ReplySender, TransportError)>);

impl Failures {
    fn add(&mut self, senders: Vec<ReplySender>, error: &TransportError) {
        self.0.extend(senders.into_iter().map(|s| (s, error.clone())));
    }

    fn deliver(self) {
        for (sender, error) in self.0 {
            // Whoever stopped waiting does not care.
            let _ = sender.send(Err(error));
        }
    }
}

impl<R: Runtime> Peer<R> {
    pub(super) fn new(id: NodeId, agenda: Arc<Agenda<R>>) -> Arc<Self> {
        let mut streams = StreamIndex::all();
        let outboxes = std::array::from_fn(|_| {
            let stream = streams.next().expect("there are as many streams as outboxes");
            Outbox::new(stream.limits())
        });
        let state = State {
            address: None,
            route: Route::Down { retry_at: None, why: Why::Unreachable("never connected".into()) },
            outboxes,
            attempts: 0,
            failures: 0,
            gone: None,
            announced: None,
            removed_us: false,
            on_agenda: false,
        };
        let gates = std::array::from_fn(|_| Gate::default());
        let (state, settled, warnings) = (Mutex::new(state), Notify::new(), Warnings::default());
        Arc::new(Self { id, state, settled, gates, agenda, warnings })
    }

    fn put_on_agenda(self: &Arc<Self>, state: &mut State<R>) {
        if !state.on_agenda {
            state.on_agenda = true;
            self.agenda.add(self.clone());
        }
    }

    /// Where to dial from now on. A new address is tried at once.
    pub(super) fn set_address(self: &Arc<Self>, address: SocketAddr) {
        let mut state = self.state.lock();
        if state.address.replace(address) == Some(address) {
            return;
        }
        state.failures = 0;
        match &mut state.route {
            Route::Down { retry_at, .. } => *retry_at = None,
            Route::Dialling { .. } => self.start_dialling(&mut state),
            Route::Up { .. } => {}
        }
    }

    /// Has the supervisor dial; a dial that is under way counts no more.
    fn start_dialling(self: &Arc<Self>, state: &mut State<R>) {
        state.attempts += 1;
        state.route = Route::Dialling { attempt: state.attempts, started: false };
        self.put_on_agenda(state);
    }

    /// Queues a request; dials if there is no connection.
    pub(super) fn enqueue(self: &Arc<Self>, lane: Lane, body: Bytes) -> Result<Waiter, TransportError> {
        let (stream, to) = (StreamIndex::of(lane), self.id);
        let key = if let Lane::Append { key } = lane { key } else { 0 };
        let mut state = self.state.lock();
        if let Some(why) = &state.gone {
            return Err(why.unsent(to));
        }
        if let Route::Down { retry_at, why } = &state.route {
            if state.address.is_none() {
                return Err(TransportError::Unreachable { to, reason: "its address is not known".into() });
            }
            if retry_at.is_some_and(|at| R::Instant::now() < at) {
                return Err(why.unsent(to));
            }
        }
        let (sender, reply) = oneshot::channel();
        let id = state.outboxes[stream.get()]
            .push(key, body, sender)
            .map_err(|full| TransportError::Unreachable { to, reason: full.to_string() })?;
        match &state.route {
            Route::Up { link, .. } => link.wake(stream),
            Route::Dialling { .. } => {}
            Route::Down { .. } => self.start_dialling(&mut state),
        }
        Ok(Waiter { stream, id, reply })
    }

    /// Resolves with the reply, or fails at `deadline`.
    pub(super) async fn wait(
        self: Arc<Self>,
        mut waiter: Waiter,
        deadline: R::Instant,
    ) -> Result<Bytes, TransportError> {
        let to = self.id;
        match R::timeout_at(deadline, &mut waiter.reply).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(TransportError::NoReply { to, reason: "the transport is gone".into() }),
            Err(_) => Err(self.timed_out(&waiter)),
        }
    }

    fn timed_out(&self, waiter: &Waiter) -> TransportError {
        let (to, mut state) = (self.id, self.state.lock());
        match state.outboxes[waiter.stream.get()].forget(waiter.id) {
            Forgotten::Sent => TransportError::NoReply { to, reason: "timed out".into() },
            Forgotten::Unsent => {
                let reason = match (&state.route, state.address) {
                    (Route::Dialling { .. }, Some(address)) => {
                        format!("not sent in time: still dialling {address}")
                    }
                    _ => "not sent in time: the lane is congested".into(),
                };
                TransportError::Unreachable { to, reason }
            }
        }
    }

    /// Fails all who wait.
    pub(super) fn cancel_pending(&self) {
        let mut failures = Failures::default();
        let why = Why::Unreachable("cancelled".into());
        self.fail_waiting(&mut self.state.lock(), &why, &mut failures);
        failures.deliver();
    }

    fn fail_waiting(&self, state: &mut State<R>, why: &Why, failures: &mut Failures) {
        for outbox in &mut state.outboxes {
            let (queued, sent) = outbox.take_waiting();
            failures.add(queued, &why.unsent(self.id));
            failures.add(sent, &why.unanswered(self.id));
        }
    }

    /// What is to be done now; called by the supervisor alone, so that the handler learns of things in their order.
    pub(super) fn steps(self: &Arc<Self>) -> Steps {
        let mut state = self.state.lock();
        state.on_agenda = false;
        let address = state.address;
        let mut steps = Steps::default();
        if let Route::Dialling { attempt, started: started @ false } = &mut state.route {
            *started = true;
            let address = address.expect("a node is dialled only once its address is known");
            steps.dial = Some((*attempt, address));
        }
        let up = match &state.route {
            Route::Up { link, .. } => Some(link.generation),
            Route::Dialling { .. } | Route::Down { .. } => None,
        };
        if state.announced != up {
            steps.announce_down = state.announced.is_some();
            steps.announce_up = up.is_some();
            state.announced = up;
        }
        steps.announce_removed = std::mem::take(&mut state.removed_us);
        steps
    }

    /// A stamp for the greeting of dial `attempt`, unless another connection has made it needless.
    pub(super) fn may_greet(&self, attempt: u64, stamp: impl FnOnce() -> Stamp) -> Option<Stamp> {
        let state = self.state.lock();
        // Under the lock: the order of stamps is the order of decisions.
        matches!(state.route, Route::Dialling { attempt: a, .. } if a == attempt).then(stamp)
    }

    /// Dial `attempt` was welcomed. `false` if another connection is used instead.
    pub(super) fn dialled(self: &Arc<Self>, attempt: u64, link: &Arc<Link>, stamp: Stamp) -> bool {
        let state = self.state.lock();
        if state.gone.is_some() || !matches!(state.route, Route::Dialling { attempt: a, .. } if a == attempt)
        {
            return false;
        }
        self.install(state, link, stamp);
        true
    }

    /// The peer asks to be connected by `link`. Of `waited`: it has been told to wait, long enough.
    pub(super) fn admit(
        self: &Arc<Self>,
        me: NodeId,
        link: &Arc<Link>,
        hello: Stamp,
        waited: bool,
        stamp: impl FnOnce() -> Stamp,
    ) -> Admission {
        let state = self.state.lock();
        if state.gone.is_some() {
            return Admission::Gone;
        }
        let view = match &state.route {
            Route::Down { .. } | Route::Dialling { started: false, .. } => View::Down,
            Route::Dialling { .. } => View::Dialling,
            Route::Up { stamp, .. } => View::Up(*stamp),
        };
        match admission::decide(me, self.id, view, hello, waited) {
            Verdict::Wait => Admission::Wait,
            Verdict::Void => Admission::Duplicate,
            Verdict::Accept => {
                let ours = stamp();
                self.install(state, link, hello);
                Admission::Welcome(ours)
            }
        }
    }

    /// Puts `link` in use, in place of any other.
    fn install(
        self: &Arc<Self>,
        mut state: parking_lot::MutexGuard<'_, State<R>>,
        link: &Arc<Link>,
        stamp: Stamp,
    ) {
        let mut failures = Failures::default();
        let superseded = Why::Unreachable("the peer has connected anew".into()).unanswered(self.id);
        for outbox in &mut state.outboxes {
            failures.add(outbox.take_sent(), &superseded);
            outbox.start_over();
        }
        let up = Route::Up { link: link.clone(), stamp, since: R::Instant::now() };
        let before = std::mem::replace(&mut state.route, up);
        self.put_on_agenda(&mut state);
        drop(state);
        if let Route::Up { link: old, .. } = before {
            old.close(CloseCode::Superseded, "another connection is in use");
        }
        failures.deliver();
        self.gates.iter().for_each(|gate| gate.turn_to(link.generation));
        self.settled.notify_waiters();
    }

    /// Dial `attempt` came to nothing; `failed`: for a reason that is likely to last.
    pub(super) fn dial_ended(self: &Arc<Self>, attempt: u64, why: Why, failed: bool) {
        let mut state = self.state.lock();
        if !matches!(state.route, Route::Dialling { attempt: a, .. } if a == attempt) {
            return;
        }
        state.failures = if failed { state.failures.saturating_add(1) } else { state.failures };
        self.go_down(state, why);
    }

    /// The link of this generation is gone.
    pub(super) fn link_lost(self: &Arc<Self>, generation: u64, why: Why) {
        let mut state = self.state.lock();
        let Route::Up { link, since, .. } = &state.route else { return };
        if link.generation != generation {
            return;
        }
        let lasted = R::Instant::now().saturating_duration_since(*since) >= STABLE;
        state.failures = if lasted { 0 } else { state.failures.saturating_add(1) };
        self.go_down(state, why);
    }

    fn go_down(self: &Arc<Self>, mut state: parking_lot::MutexGuard<'_, State<R>>, why: Why) {
        let mut failures = Failures::default();
        self.fail_waiting(&mut state, &why, &mut failures);
        for outbox in &mut state.outboxes {
            outbox.start_over();
        }
        state.removed_us |= matches!(why, Why::Removed);
        let retry_at = Some(R::Instant::now() + backoff::<R>(state.failures));
        state.route = Route::Down { retry_at, why };
        self.put_on_agenda(&mut state);
        drop(state);
        failures.deliver();
        self.settled.notify_waiters();
    }

    /// Ends all dealings with this peer, for good.
    pub(super) fn end(self: &Arc<Self>, why: Why, code: CloseCode) {
        // First, so that nothing more is delivered from it.
        self.gates.iter().for_each(Gate::shut);
        let mut failures = Failures::default();
        let mut state = self.state.lock();
        self.fail_waiting(&mut state, &why, &mut failures);
        for outbox in &mut state.outboxes {
            outbox.start_over();
        }
        state.gone = Some(why.clone());
        let before = std::mem::replace(&mut state.route, Route::Down { retry_at: None, why });
        self.put_on_agenda(&mut state);
        drop(state);
        if let Route::Up { link, .. } = before {
            link.close(code, "");
        }
        failures.deliver();
        self.settled.notify_waiters();
    }

    /// A future that resolves at the next change; made before the state is looked at, so that none is missed.
    pub(super) fn settled(&self) -> tokio::sync::futures::Notified<'_> {
        self.settled.notified()
    }

    /// Streams on which something is queued.
    pub(super) fn queued_streams(&self) -> Vec<StreamIndex> {
        let state = self.state.lock();
        StreamIndex::all().filter(|s| state.outboxes[s.get()].has_queued()).collect()
    }

    /// Moves queued requests into `batch`. `false` when `link` is no longer in use.
    pub(super) fn take(&self, link: &Link, stream: StreamIndex, batch: &mut Batch) -> bool {
        let mut state = self.state.lock();
        let current = uses(&state.route, link);
        if current {
            state.outboxes[stream.get()].take(batch);
        }
        current
    }

    /// Gives an answer to whom it is for. An error is a violation by the peer.
    pub(super) fn answered(&self, link: &Link, stream: StreamIndex, answer: Frame) -> Result<(), String> {
        let sender = {
            let mut state = self.state.lock();
            if !uses(&state.route, link) {
                return Ok(());
            }
            state.outboxes[stream.get()].answered(answer.id)?
        };
        let Some(sender) = sender else { return Ok(()) };
        let reason = |body: Bytes| String::from_utf8_lossy(&body).into_owned();
        let result = match answer.kind {
            Kind::Reply => Ok(answer.body),
            Kind::Refusal => Err(TransportError::Refused { to: self.id, reason: reason(answer.body) }),
            Kind::NoReply => Err(TransportError::NoReply { to: self.id, reason: reason(answer.body) }),
            Kind::Request => return Err("a request where answers belong".into()),
        };
        // Whoever stopped waiting does not care.
        let _ = sender.send(result);
        Ok(())
    }

    /// Runs `hand_over` unless a newer link has taken over; says whether it did.
    pub(super) fn deliver(&self, link: &Link, stream: StreamIndex, hand_over: impl FnOnce()) -> bool {
        self.gates[stream.get()].pass(link.generation, hand_over)
    }

    /// Logs a warning about this peer, now and then.
    pub(super) fn warn(&self, what: &str) {
        self.warnings.give(|withheld| tracing::warn!(peer = %self.id, withheld, "{what}"));
    }
}

fn uses<R: Runtime>(route: &Route<R>, link: &Link) -> bool {
    matches!(route, Route::Up { link: used, .. } if used.generation == link.generation)
}

/// Half to all of the pause, at random, so that peers that lost each other together do not return together.
fn backoff<R: Runtime>(failures: u32) -> Duration {
    let pause = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
    let mut random = [0u8; 2];
    R::entropy(&mut random);
    pause.mul_f64(0.5 + 0.5 * f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::runtime::TokioRuntime;

    const PEER: NodeId = NodeId(2);

    #[test]
    fn backoff_grows_to_its_limit_with_jitter() {
        for failures in 0..40 {
            let full = BACKOFF_MIN.saturating_mul(1 << failures.min(16)).min(BACKOFF_MAX);
            let pause = backoff::<TokioRuntime>(failures);
            assert!(pause >= full / 2 && pause <= full, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn without_an_address_or_within_the_pause_a_request_fails_at_once() {
        let agenda = Arc::new(Agenda::<TokioRuntime>::default());
        let peer = Peer::new(PEER, agenda);
        let refused = peer.enqueue(Lane::Control, Bytes::new()).map(|_| ());
        assert!(matches!(refused, Err(TransportError::Unreachable { .. })), "{refused:?}");
        peer.set_address("127.0.0.1:1".parse().unwrap());
        let waiter = peer.enqueue(Lane::Control, Bytes::new()).unwrap();
        let (attempt, _) = peer.steps().dial.unwrap();
        assert!(peer.steps().dial.is_none(), "one dial at a time");
        peer.dial_ended(attempt, Why::Unreachable("no answer".into()), true);
        let failed = waiter.reply.blocking_recv().unwrap();
        assert!(matches!(failed, Err(TransportError::Unreachable { .. })), "{failed:?}");
        // A new address ends the pause.
        peer.set_address("127.0.0.1:2".parse().unwrap());
        assert!(peer.enqueue(Lane::Control, Bytes::new()).is_ok());
    }
}
