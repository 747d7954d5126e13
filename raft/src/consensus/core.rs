//! One replica's engine, without its machine's type: openraft and everything around it.
//!
//! Invariant: `server` changes whenever role, term, leader or membership does, or the core stops; `changes` then, and
//! whenever something was applied.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use longshore_storage::{LogStore, StreamId};
use openraft::Raft;
use openraft::ServerState;
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::metrics::RaftServerMetrics;
use parking_lot::Mutex;

use super::ballots::Ballots;
use super::changes::Changes;
use super::client::Venue;
use super::config::Timings;
use super::inbox::Inbox;
use super::log::GroupLog;
use super::machine::{GroupError, GroupStatus, Member, Role};
use super::network::{Means, Network};
use super::news::News;
use super::promises::Promises;
use super::proposer::Proposer;
use super::queue::Queue;
use super::quiesce::Rest;
use super::route::{Route, Target};
use super::router::Router;
use super::runtime::Runtime;
use super::session::Session;
use super::snapshots::Snapshots;
use super::state::{Machine, State};
use super::types::{Membership, Types};
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::TransportRef;

/// What a replica is made of.
pub(crate) struct CoreOptions {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) node: NodeId,
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) log: Arc<dyn LogStore>,
    pub(crate) snapshots: Arc<dyn Snapshots>,
    pub(crate) transport: TransportRef,
    pub(crate) router: Arc<Router>,
    pub(crate) timings: Timings,
    pub(crate) hints: Vec<NodeId>,
}

pub(crate) struct Core<R: Runtime> {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) node: NodeId,
    pub(crate) timings: Timings,
    pub(crate) raft: Raft<Types<R>, State<R>>,
    pub(crate) state: State<R>,
    pub(crate) router: Arc<Router>,
    pub(crate) route: Arc<Route>,
    /// Role, term, leader, membership.
    pub(crate) server: Changes,
    /// Those, and what is applied.
    pub(crate) changes: Arc<Changes>,
    pub(crate) queue: Queue,
    pub(crate) session: Arc<Session>,
    pub(crate) inbox: Inbox<R>,
    /// Whether an election is being pressed for.
    pub(crate) pressing: AtomicBool,
    /// A leader that has restarted, and until when that is reason enough to press.
    pub(crate) restarted: Mutex<Option<(ReplicaId, R::Instant)>>,
    pub(crate) ballots: Arc<Ballots<R>>,
    pub(crate) promises: Arc<Promises>,
    pub(crate) news: Arc<News>,
    pub(crate) rest: Rest<R>,
    /// Whether it is being found out who leads.
    pub(crate) asking: AtomicBool,
    server_metrics: WatchReceiverOf<Types<R>, RaftServerMetrics<Types<R>>>,
    stopped: AtomicBool,
}

impl<R: Runtime> Core<R> {
    pub(crate) async fn open(options: CoreOptions) -> Result<Arc<Self>, GroupError> {
        let CoreOptions { group, replica, node, machine, log, snapshots, transport, router, timings, hints } =
            options;
        let failed = |detail: String| GroupError::Stopped { group, detail };
        let stream = StreamId { group: group.0, replica: replica.0 };
        let config = timings.raft_config(group.to_string()).map_err(|e| failed(e.to_string()))?;
        let changes = Arc::new(Changes::default());
        let state = State::<R>::new(machine, changes.clone(), snapshots, stream);
        let ballots = Arc::<Ballots<R>>::default();
        let quiescence = timings.quiescence;
        let patient = quiescence.map(|_| router.clone());
        let news = Arc::new(News::new(timings.commit_news_hold));
        let means = Means {
            ballots: ballots.clone(),
            patient,
            news: news.clone(),
            state: state.clone(),
            snapshot_bytes_per_s: timings.snapshot_bytes_per_s,
        };
        let network = Network::<R>::new(transport.clone(), group, replica, means);
        let promises = Arc::<Promises>::default();
        let storage = GroupLog::<R>::new(log, stream, promises.clone());
        let raft = Raft::new(replica, config, network, storage, state.clone()).await;
        let raft = raft.map_err(|e| failed(e.to_string()))?;
        let (queue, items) = Queue::new();
        let core = Arc::new(Self {
            group,
            replica,
            node,
            timings,
            inbox: Inbox::new(raft.clone(), state.clone()),
            server_metrics: raft.server_metrics(),
            raft,
            state,
            route: Route::new(node, group, transport, router.clone(), hints),
            router,
            server: Changes::default(),
            changes,
            queue,
            session: Arc::default(),
            pressing: AtomicBool::new(false),
            restarted: Mutex::new(None),
            ballots,
            promises,
            news,
            rest: Rest::new(quiescence),
            asking: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
        });
        let _watch = R::spawn(core.clone().watch());
        let _propose = R::spawn(Proposer::new(core.clone(), items).run());
        core.router.add(core.clone());
        core.clone().find_leader();
        Ok(core)
    }

    /// Turns openraft's watch, which one task follows, into changes that any number can wait for.
    async fn watch(self: Arc<Self>) {
        let mut metrics = self.server_metrics.clone();
        while metrics.changed().await.is_ok() {
            self.server.bump();
            self.changes.bump();
            let (led, rests_by) = (self.leader().is_some(), self.rest.rests_by());
            let of_another_time = rests_by.is_some_and(|vote| vote != self.server(|m| m.vote) || !led);
            if of_another_time || (self.office().is_some() && self.rest.is_dormant()) {
                self.rouse("another leader");
            }
            // A leader that was suspected before this replica knew it.
            if let Some(leader) = self.leader().filter(|leader| self.router.is_suspect(leader.node)) {
                self.clone().press_for_election(leader.node, false);
            }
        }
        self.stopped.store(true, Ordering::Release);
        self.server.bump();
        self.changes.bump();
    }

    pub(crate) async fn shutdown(&self) {
        self.router.remove(self.group, self.replica);
        if let Err(e) = self.raft.shutdown().await {
            tracing::warn!(group = %self.group, replica = %self.replica, error = ?e, "core did not stop cleanly");
        }
        self.until_stopped().await;
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    pub(crate) async fn until_stopped(&self) {
        self.until(|| self.is_stopped()).await;
    }

    /// Resolves when this replica does not lead in `term` any more.
    pub(crate) async fn left_office(&self, term: u64) {
        self.until(|| self.is_stopped() || self.office() != Some(term)).await;
    }

    /// Waits for a condition on what `server` announces.
    pub(crate) async fn until(&self, condition: impl Fn() -> bool) {
        loop {
            let seen = self.server.version();
            if condition() {
                return;
            }
            self.server.after(seen).await;
        }
    }

    /// A look at openraft's view of the group; short, since it holds a lock that the core needs.
    pub(crate) fn server<T>(&self, look: impl FnOnce(&RaftServerMetrics<Types<R>>) -> T) -> T {
        look(&self.server_metrics.borrow_watched())
    }

    /// The term in which this replica leads, if it does.
    pub(crate) fn office(&self) -> Option<u64> {
        if self.is_stopped() {
            return None;
        }
        self.server(|m| {
            let mine = m.vote.committed && m.vote.leader_id.voted_for == self.replica;
            (m.state == ServerState::Leader && mine).then_some(m.vote.leader_id.term)
        })
    }

    /// The leader, if one is known and its node too.
    pub(crate) fn leader(&self) -> Option<Member> {
        self.server(|m| {
            let replica = m.current_leader?;
            let node = *m.membership_config.get_node(&replica)?;
            Some(Member { replica, node })
        })
    }

    /// Where to send what only the leader can do.
    pub(crate) fn target(&self) -> Option<Target> {
        let members: Vec<NodeId> = self.server(|m| m.membership_config.nodes().map(|(_, &n)| n).collect());
        self.route.target(self.leader(), members)
    }

    pub(crate) fn status(&self) -> GroupStatus {
        // Role, term, leader and membership from where `watch` hears of them: openraft publishes the rest a moment later, and whoever waits
        // for a change would look too early, and then wait for the next one.
        let (vote, state, leader, membership_config) =
            self.server(|m| (m.vote, m.state, m.current_leader, Arc::clone(&m.membership_config)));
        let metrics = self.raft.metrics();
        let m = metrics.borrow_watched();
        let fatal = match &m.running_state {
            Ok(()) => self.is_stopped().then(|| "shut down".to_owned()),
            Err(e) => Some(e.to_string()),
        };
        let membership = membership_config.membership();
        let role = match state {
            _ if fatal.is_some() => Role::Stopped,
            ServerState::Leader => Role::Leader,
            ServerState::Follower => Role::Follower,
            ServerState::Candidate => Role::Candidate,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        };
        let member = |replica: ReplicaId| membership.get_node(&replica).map(|&node| Member { replica, node });
        let index = |id: &Option<super::types::LogId>| id.as_ref().map(|id| id.index);
        GroupStatus {
            group: self.group,
            replica: self.replica,
            role,
            term: vote.leader_id.term,
            leader: leader.and_then(member),
            last_log: m.last_log_index,
            committed: index(&m.local_committed),
            // What the state says, not what openraft has heard of it yet: `changed` announces this.
            applied: index(&self.state.applied.read().last),
            snapshot: index(&m.snapshot),
            purged: index(&m.purged),
            voters: voters(membership),
            learners: membership.learner_ids().filter_map(member).collect(),
            joint: membership.get_joint_config().len() > 1,
            matched: m
                .replication
                .iter()
                .flatten()
                .map(|(&replica, matched)| (replica, index(matched)))
                .collect(),
            quorum_ack_ms: m
                .last_quorum_acked
                .filter(|_| state == ServerState::Leader)
                .map(|at| openraft::Instant::elapsed(&at.into_inner()).as_millis() as u64),
            fatal,
        }
    }
}

impl<R: Runtime> Venue for Core<R> {
    fn group(&self) -> GroupId {
        self.group
    }
    fn patience(&self) -> Duration {
        self.timings.propose_deadline
    }
    fn queue(&self) -> &Queue {
        &self.queue
    }
    fn session(&self) -> &Arc<Session> {
        &self.session
    }
    fn news(&self) -> &Changes {
        &self.server
    }
    fn stopped(&self) -> Option<String> {
        self.is_stopped().then(|| self.status().fatal.unwrap_or_else(|| "shut down".into()))
    }
    fn missed(self: Arc<Self>) {
        self.on_missed();
    }
}

/// A random time of at most `max_ms`.
pub(crate) fn jitter<R: Runtime>(max_ms: u64) -> Duration {
    let mut random = [0; 8];
    R::entropy(&mut random);
    Duration::from_millis(u64::from_le_bytes(random) % (max_ms + 1))
}

/// Every voter, of both sets while they change.
pub(crate) fn voters(membership: &Membership) -> Vec<Member> {
    let member = |replica: ReplicaId| membership.get_node(&replica).map(|&node| Member { replica, node });
    membership.voter_ids().filter_map(member).collect()
}
