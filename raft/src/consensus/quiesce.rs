//! Quiescence, or groups at rest: no ticks, no heartbeats, no timers, no tasks but those that wait for a message.
//!
//! A leader that was asked for nothing for a while tells every member that lives: "all of you have applied entry X, and there is
//! nothing more". Each that finds it so stops its ticks and agrees; when all agree, the leader's stay off too. If one does not, the
//! leader goes on, and its next heartbeat wakes the others (`quiesce_leader.rs`). Members on suspected nodes are left out and
//! remembered: the leader wakes when such a node is back (`wake.rs`).
//!
//! What openraft sends without ticks: entries, the news of commits, and one round of heartbeats for each ReadIndex. So at rest, nothing;
//! and a ReadIndex works on a group at rest, by which a leader that wakes gets its lease back, without which it may not write.
//!
//! Invariants: a replica rests only if it has applied what its leader named; a leader rests only with a majority that does, nothing
//! under way and nothing asked since it began to tell. Nothing here is needed for safety: ticks only make elections and heartbeats.
//! Must never: rest on the word of another than the leader of the present term.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use openraft::Instant as _;
use parking_lot::Mutex;

use super::config::Quiescence;
use super::core::Core;
use super::machine::Member;
use super::reads::ReadIndex;
use super::runtime::Runtime;
use super::types::{LogId, Vote};
use super::wire::{Append, GroupBody};
use crate::model::ids::NodeId;
use crate::transport::Lane;

/// Whether a replica rests, and what decides that it may.
pub(crate) struct Rest<R: Runtime> {
    /// `None`: it never does.
    pub(crate) quiescence: Option<Quiescence>,
    state: Mutex<State<R>>,
    /// Counts what was asked of this replica.
    activity: AtomicU64,
    /// Proposals and reads that are not answered.
    outstanding: Arc<AtomicUsize>,
    /// Since it woke, a quorum has confirmed this leader, or this follower has heard its leader: leases hold.
    confirmed: AtomicBool,
    muted: AtomicBool,
}

struct State<R: Runtime> {
    mode: Mode<R>,
    /// Numbers the times that it was awake, so that what belongs to one does nothing in the next.
    watch: u64,
}

enum Mode<R: Runtime> {
    /// Opened; it has heard of nobody yet.
    Dormant,
    Awake,
    Resting(Repose<R>),
}

/// What a replica rests on.
struct Repose<R: Runtime> {
    vote: Vote,
    at: LogId,
    since: R::Instant,
    /// Of a leader: members that were not told.
    absent: Vec<Member>,
}

/// What a leader saw when it began to ask whether the others agree to rest.
pub(crate) struct Lull {
    pub(crate) watch: u64,
    pub(crate) term: u64,
    /// [`Rest::activity`] then.
    pub(crate) activity: u64,
    pub(crate) vote: Vote,
    /// The last entry.
    pub(crate) at: LogId,
}

/// Counts a request as outstanding.
pub(crate) struct Busy(Arc<AtomicUsize>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

impl<R: Runtime> Rest<R> {
    pub(crate) fn new(quiescence: Option<Quiescence>) -> Self {
        let mode = if quiescence.is_some() { Mode::Dormant } else { Mode::Awake };
        Self {
            quiescence,
            state: Mutex::new(State { mode, watch: 0 }),
            activity: AtomicU64::new(0),
            outstanding: Arc::default(),
            confirmed: AtomicBool::new(quiescence.is_none()),
            muted: AtomicBool::new(false),
        }
    }

    pub(crate) fn busy(&self) -> Busy {
        self.activity.fetch_add(1, Ordering::Relaxed);
        self.outstanding.fetch_add(1, Ordering::Acquire);
        Busy(self.outstanding.clone())
    }

    pub(crate) fn activity(&self) -> u64 {
        self.activity.load(Ordering::Relaxed)
    }

    pub(crate) fn mute(&self, muted: bool) {
        self.confirmed.fetch_and(!muted, Ordering::AcqRel);
        self.muted.store(muted, Ordering::Release);
    }

    pub(crate) fn confirm(&self) {
        self.confirmed.store(true, Ordering::Release);
    }

    pub(crate) fn is_confirmed(&self) -> bool {
        self.confirmed.load(Ordering::Acquire)
    }

    /// Whether this leader keeps silent, since it has no quorum.
    pub(crate) fn is_muted(&self) -> bool {
        self.muted.load(Ordering::Acquire)
    }

    pub(crate) fn is_dormant(&self) -> bool {
        matches!(self.state.lock().mode, Mode::Dormant)
    }

    /// The vote by which it rests, if it does.
    pub(crate) fn rests_by(&self) -> Option<Vote> {
        match &self.state.lock().mode {
            Mode::Resting(repose) => Some(repose.vote),
            Mode::Dormant | Mode::Awake => None,
        }
    }

    /// Of a leader at rest: members that were not told.
    pub(crate) fn absent(&self) -> Option<Vec<Member>> {
        match &self.state.lock().mode {
            Mode::Resting(repose) => Some(repose.absent.clone()),
            Mode::Dormant | Mode::Awake => None,
        }
    }

    pub(crate) fn is_awake(&self, watch: u64) -> bool {
        let state = self.state.lock();
        state.watch == watch && matches!(state.mode, Mode::Awake)
    }

    /// Wakes; gives the number of the watch that begins, if it was not awake.
    fn wake(&self) -> Option<u64> {
        self.activity.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.lock();
        if matches!(state.mode, Mode::Awake) {
            return None;
        }
        state.mode = Mode::Awake;
        state.watch += 1;
        self.confirmed.store(false, Ordering::Release);
        Some(state.watch)
    }

    /// Whether it is a heartbeat that left just before the leader put the group to rest: it says nothing new. One that comes later
    /// says that the leader is awake.
    fn is_echo(&self, lane: Lane, append: &Append, within: Duration) -> bool {
        match &self.state.lock().mode {
            Mode::Resting(repose) => {
                lane == Lane::Heartbeat
                    && append.vote() == repose.vote
                    && append.commit() == Some(repose.at)
                    && repose.since.elapsed() < within
            }
            Mode::Dormant | Mode::Awake => false,
        }
    }
}

impl<R: Runtime> Core<R> {
    /// Wakes, if it rests; in any case it does not go to rest for a while.
    pub(crate) fn rouse(self: &Arc<Self>, why: &'static str) {
        if self.rest.quiescence.is_none() {
            return;
        }
        if let Some(watch) = self.rest.wake() {
            tracing::debug!(group = %self.group, replica = %self.replica, why, "woke");
            let _task = R::spawn(self.clone().keep_watch(watch));
        }
    }

    /// Whether a quorum follows this leader, as far as it can tell; one at rest asks.
    pub(crate) async fn is_followed(self: &Arc<Self>) -> bool {
        if self.rest.quiescence.is_none() {
            return true;
        }
        self.rouse("a command");
        self.rest.is_confirmed() || matches!(self.prove_leadership().await, ReadIndex::At { .. })
    }

    /// Turns openraft's ticks on or off, unless the watch is over.
    pub(crate) fn tick(&self, watch: u64, on: bool) {
        let state = self.rest.state.lock();
        if state.watch == watch && matches!(state.mode, Mode::Awake) {
            self.raft.runtime_config().tick(on);
        }
    }

    /// A leader that wakes gets time to send its heartbeats: ticks of a follower that has not heard it for hours would make
    /// it campaign at once. Also how long a heartbeat may be on its way.
    fn grace(&self) -> Duration {
        Duration::from_millis(2 * self.timings.heartbeat_ms)
    }

    /// Runs while the replica is awake.
    async fn keep_watch(self: Arc<Self>, watch: u64) {
        let calm = R::Instant::now() + self.grace();
        let mut ticking = false;
        loop {
            let seen = self.server.version();
            if self.is_stopped() || !self.rest.is_awake(watch) {
                return;
            }
            if let Some(term) = self.office() {
                ticking = true;
                self.lead(watch, term).await;
            } else if ticking {
                self.server.after(seen).await;
            } else if R::Instant::now() >= calm {
                ticking = true;
                self.tick(watch, true);
            } else {
                // Whether there is news or the time is up is seen above.
                let _ = R::timeout_at(calm, self.server.after(seen)).await;
            }
        }
    }

    /// The last step of a leader: rests if nothing has disturbed the lull while the others agreed.
    pub(crate) fn repose(&self, lull: &Lull, told: &[Member], absent: Vec<Member>) -> bool {
        let Lull { vote, at, .. } = *lull;
        let mut state = self.rest.state.lock();
        // Whoever asks for something counts first and looks at the mode then, so that either this sees it or it wakes the group.
        let undisturbed = state.watch == lull.watch
            && matches!(state.mode, Mode::Awake)
            && self.rest.activity() == lull.activity
            && self.rest.outstanding.load(Ordering::Acquire) == 0
            && self.office() == Some(lull.term)
            && told.iter().all(|m| !self.router.is_suspect(m.node))
            && absent.iter().all(|m| self.router.is_suspect(m.node))
            && self.state.applied.read().last == Some(at);
        if undisturbed {
            state.mode = Mode::Resting(Repose { vote, at, since: R::Instant::now(), absent });
        }
        undisturbed
    }

    /// The leader by `vote` says that there is nothing after `at`: whether it is so here, and this replica rests.
    pub(crate) fn on_quiesce(&self, from: NodeId, vote: Vote, at: LogId) -> bool {
        let leads = |leader: Member| leader.node == from && leader.replica == vote.leader_id.voted_for;
        let applied = || {
            longshore_storage::mutant!("quiesce-with-a-lagging-follower" => return true);
            self.state.applied.read().last == Some(at)
        };
        let agrees = self.rest.quiescence.is_some()
            && vote.committed
            && vote == self.server(|m| m.vote)
            && self.leader().is_some_and(leads)
            && self.office().is_none()
            && !self.router.is_suspect(from)
            && !self.pressing.load(Ordering::Acquire)
            && applied();
        if agrees {
            let mut state = self.rest.state.lock();
            self.raft.runtime_config().tick(false);
            state.mode = Mode::Resting(Repose { vote, at, since: R::Instant::now(), absent: Vec::new() });
            drop(state);
            // Ends the watch.
            self.server.bump();
        }
        agrees
    }

    /// What a message of another node means for this replica's rest, before it is dealt with.
    pub(crate) fn heed(self: &Arc<Self>, lane: Lane, body: &GroupBody) {
        if self.rest.quiescence.is_none() {
            return;
        }
        match body {
            GroupBody::Append(append) if self.rest.is_echo(lane, append, self.grace()) => {}
            GroupBody::Append(append) => {
                self.rouse("its leader");
                if append.vote() >= self.server(|m| m.vote) {
                    self.rest.confirm();
                }
            }
            GroupBody::Vote { .. } => self.rouse("a candidate"),
            GroupBody::TransferLeader { .. } | GroupBody::Snapshot(_) => self.rouse("its leader"),
            // These wake a leader where they are dealt with; others only say who leads.
            GroupBody::Propose(_)
            | GroupBody::ReadIndex(_)
            | GroupBody::Query(_)
            | GroupBody::HandOver(_)
            | GroupBody::Quiesce { .. } => {}
        }
    }
}
