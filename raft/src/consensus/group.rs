//! The public face of a replica: a group of peers that agree on one typed state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use longshore_storage::LogStore;
use openraft::ChangeMembers;
use openraft::Instant as _;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;

use super::client;
use super::codec;
use super::config::Timings;
use super::core::{Core, CoreOptions};
use super::machine::{GroupError, GroupStatus, LogTime, Member, Queries, StateMachine};
use super::router::Router;
use super::runtime::Runtime;
use super::snapshots::Snapshots;
use super::state::Typed;
use super::types::Types;
use crate::model::ids::{GroupId, NodeId, ReplicaId};
use crate::transport::TransportRef;

/// What a replica is made of.
pub struct GroupOptions<M> {
    pub group: GroupId,
    /// This replica: allocated once, never reused. Its log and snapshot are found under it.
    pub replica: ReplicaId,
    /// The node it runs on.
    pub node: NodeId,
    /// The state before the first entry; the same on every replica.
    pub machine: M,
    pub log: Arc<dyn LogStore>,
    pub snapshots: Arc<dyn Snapshots>,
    pub transport: TransportRef,
    pub router: Arc<Router>,
    pub timings: Timings,
    /// Nodes that may have a replica of this group: where a replica turns that has no membership yet.
    pub hints: Vec<NodeId>,
}

impl<M> fmt::Debug for GroupOptions<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupOptions")
            .field("group", &self.group)
            .field("replica", &self.replica)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// One replica of a group. It works until [`Group::shutdown`], also when all handles are dropped.
pub struct Group<R: Runtime, M: StateMachine> {
    core: Arc<Core<R>>,
    machine: PhantomData<fn() -> M>,
}

impl<R: Runtime, M: StateMachine> fmt::Debug for Group<R, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("group", &self.core.group)
            .field("replica", &self.core.replica)
            .finish_non_exhaustive()
    }
}

impl<R: Runtime, M: StateMachine> Group<R, M> {
    /// Opens a replica: a fresh one (which then waits to be bootstrapped, or to be added by a leader), or one with a log
    /// and a snapshot, from which the state is rebuilt before this returns.
    pub async fn open(options: GroupOptions<M>) -> Result<Arc<Self>, GroupError> {
        Self::open_with(options, Typed::mute).await
    }

    async fn open_with(options: GroupOptions<M>, typed: fn(M) -> Typed<M>) -> Result<Arc<Self>, GroupError> {
        let GroupOptions { group, replica, node, machine, log, snapshots, transport, router, timings, hints } =
            options;
        let machine = Box::new(typed(machine));
        let options =
            CoreOptions { group, replica, node, machine, log, snapshots, transport, router, timings, hints };
        Ok(Arc::new(Self { core: Core::open(options).await?, machine: PhantomData }))
    }

    /// Another handle of the same replica, which whoever counts the holders of this one does not see: for observers.
    pub fn twin(&self) -> Arc<Self> {
        Arc::new(Self { core: self.core.clone(), machine: PhantomData })
    }

    /// Makes this fresh replica a group of one, and waits until there is a leader. Nothing but waiting if it was done
    /// before (a crash may have come between this and what follows); an error if the replica has a log of others.
    pub async fn bootstrap(&self) -> Result<(), GroupError> {
        let members = BTreeMap::from([(self.core.replica, self.core.node)]);
        match self.core.raft.initialize(members).await {
            Ok(()) => {
                // No need to wait for a tick: there is nobody to ask.
                let elected = self.core.raft.trigger().elect(false).await;
                elected.map_err(|e| self.stopped(e.to_string()))?;
            }
            Err(RaftError::APIError(_))
                if self.status().voters.iter().any(|v| v.replica == self.core.replica) => {}
            Err(RaftError::APIError(e)) => return Err(GroupError::Membership(e.to_string())),
            Err(RaftError::Fatal(e)) => return Err(self.stopped(e.to_string())),
        }
        self.wait_for(|status| status.leader.is_some() && status.applied.is_some()).await
    }

    /// Reads the state as applied here; cheap, and as old as it is. Keep `read` short: applying waits for it.
    pub fn with_state<T>(&self, read: impl FnOnce(&M) -> T) -> T {
        let applied = self.core.state.applied.read();
        let machine = applied.machine.as_any().downcast_ref::<M>();
        read(machine.expect("the machine is of the type that the group was opened with"))
    }

    /// Commands that this process has applied to its replica so far.
    pub fn commands_applied(&self) -> u64 {
        self.core.state.applied.read().commands
    }

    /// Log time as far as this replica can tell: of the last entry applied, plus the time since.
    pub fn log_time(&self) -> LogTime {
        self.core.state.applied.read().now()
    }

    /// Index of the last entry applied here, and a hash of all that the log decided up to there: the machine, the
    /// exactly-once window, log time, membership. Equal at equal indexes on every replica.
    pub fn digest(&self) -> (Option<u64>, [u8; 32]) {
        self.core.state.digest()
    }

    pub fn status(&self) -> GroupStatus {
        self.core.status()
    }

    pub fn replica(&self) -> ReplicaId {
        self.core.replica
    }

    /// Whether the replica rests ([`Timings::quiescence`]): nothing happens in it until somebody asks for something.
    pub fn is_quiescent(&self) -> bool {
        self.core.rest.rests_by().is_some()
    }

    /// Of a leader at rest: the members that were dead when the group went to rest, and may lack entries; empty otherwise.
    pub fn absent(&self) -> Vec<Member> {
        self.core.rest.absent().unwrap_or_default()
    }

    /// The leader as this replica knows it.
    pub fn leader(&self) -> Option<Member> {
        self.core.leader()
    }

    pub fn is_leader(&self) -> bool {
        self.core.office().is_some()
    }

    /// Goes up whenever something is applied, or role, term, leader or membership change, or the replica stops.
    pub fn version(&self) -> u64 {
        self.core.changes.version()
    }

    /// Waits until [`Group::version`] is above `seen`; returns it.
    pub async fn changed(&self, seen: u64) -> u64 {
        self.core.changes.after(seen).await
    }

    /// Waits for a condition on the status, at most as long as a proposal may take.
    pub async fn wait_for(&self, condition: impl Fn(&GroupStatus) -> bool) -> Result<(), GroupError> {
        let deadline = R::Instant::now() + self.core.timings.propose_deadline;
        loop {
            let seen = self.version();
            let status = self.status();
            if condition(&status) {
                return Ok(());
            }
            if let Some(fatal) = status.fatal {
                return Err(self.stopped(fatal));
            }
            if R::timeout_at(deadline, self.changed(seen)).await.is_err() {
                let detail = format!("waited in vain as {:?} of term {}", status.role, status.term);
                return Err(GroupError::NoQuorum { group: self.core.group, detail });
            }
        }
    }

    /// Has a command applied, exactly once, wherever the leader is; returns the machine's reply. Works on any replica,
    /// learner or not yet a member (see [`GroupOptions::hints`]), and through leader changes, until the deadline
    /// ([`Timings::propose_deadline`]). Dropping the future does not take the command back.
    pub async fn propose(&self, command: M::Command) -> Result<M::Reply, GroupError> {
        let reply = client::execute::<R, _>(&self.core, codec::encode(&command)).await?;
        codec::decode(&reply).map_err(|e| GroupError::OutcomeUnknown {
            detail: format!("applied, but this program does not understand the reply: {e}"),
        })
    }

    /// Waits until this replica has applied all that was committed anywhere before the call, so that a read of
    /// [`Group::with_state`] after it is linearizable. Returns the index. Works on any replica.
    pub async fn read_barrier(&self) -> Result<u64, GroupError> {
        self.core.read_barrier(0).await
    }

    /// Adds a member without a vote; returns when that is committed. It then catches up ([`GroupStatus::matched`]).
    /// On the leader only, as are the other changes of membership.
    pub async fn add_learner(&self, member: Member) -> Result<(), GroupError> {
        let add = self.core.raft.add_learner(member.replica, member.node, false);
        self.membership_change(add).await
    }

    /// Makes exactly these members the voters (all must be members), through joint consensus. Voters that are not among
    /// them stay as learners; a leader that is not hands leadership over. If leadership is lost half way, call it again
    /// on the new leader.
    pub async fn change_voters(&self, voters: BTreeSet<ReplicaId>) -> Result<(), GroupError> {
        let stays = voters.contains(&self.core.replica);
        let change = self.core.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true);
        self.membership_change(change).await?;
        if !stays {
            // openraft would let it lead on, without a vote.
            let router = self.core.router.clone();
            self.core.clone().hand_over(&|node| router.is_suspect(node));
        }
        Ok(())
    }

    /// Removes a member that has no vote. Its replica id is never used again.
    pub async fn remove_learner(&self, replica: ReplicaId) -> Result<(), GroupError> {
        if self.status().voters.iter().any(|v| v.replica == replica) {
            return Err(GroupError::Membership(format!("{replica} has a vote; change the voters first")));
        }
        let change = ChangeMembers::RemoveNodes(BTreeSet::from([replica]));
        let change = self.core.raft.change_membership(change, true);
        self.membership_change(change).await
    }

    async fn membership_change(
        &self,
        change: impl Future<
            Output = Result<ClientWriteResponse<Types<R>>, RaftError<Types<R>, ClientWriteError<Types<R>>>>,
        > + Send,
    ) -> Result<(), GroupError> {
        let group = self.core.group;
        let _busy = self.core.rest.busy();
        if self.core.office().is_some() && !self.core.is_followed().await {
            let detail = "no quorum follows this leader".into();
            return Err(GroupError::NoQuorum { group, detail });
        }
        let unknown = |detail: String| GroupError::OutcomeUnknown { detail };
        match R::timeout(self.core.timings.propose_deadline, change).await {
            Err(_) => Err(unknown("the membership change was not committed in time".into())),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::Fatal(e))) => Err(self.stopped(e.to_string())),
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
                let leader = forward.leader_id.zip(forward.leader_node);
                let leader = leader.map(|(replica, node)| Member { replica, node });
                Err(GroupError::NotLeader { group, leader })
            }
            Ok(Err(RaftError::APIError(e @ ClientWriteError::LogEntryDiscarded(_)))) => {
                Err(unknown(e.to_string()))
            }
            Ok(Err(RaftError::APIError(e))) => Err(GroupError::Membership(e.to_string())),
        }
    }

    /// Hands leadership to another voter, and waits until this replica does not lead any more.
    pub async fn transfer_leader(&self, to: ReplicaId) -> Result<(), GroupError> {
        self.core.transfer_leader(to).await
    }

    /// Has a snapshot taken of what is applied now; does not wait for it.
    pub async fn trigger_snapshot(&self) -> Result<(), GroupError> {
        let asked = self.core.raft.trigger().snapshot().await;
        asked.map_err(|e| self.stopped(e.to_string()))
    }

    /// Removes log entries up to `index` that a snapshot covers, without keeping any; does not wait for it.
    pub async fn trigger_purge(&self, index: u64) -> Result<(), GroupError> {
        let asked = self.core.raft.trigger().purge_log(index).await;
        asked.map_err(|e| self.stopped(e.to_string()))
    }

    /// Replaces [`GroupOptions::hints`].
    pub fn set_hints(&self, hints: Vec<NodeId>) {
        self.core.route.set_hints(hints);
    }

    /// Stops the replica and waits for it. What it acknowledged is durable; everything pending fails.
    pub async fn shutdown(&self) {
        self.core.shutdown().await;
    }

    pub(super) fn core(&self) -> &Arc<Core<R>> {
        &self.core
    }

    fn stopped(&self, detail: String) -> GroupError {
        GroupError::Stopped { group: self.core.group, detail }
    }
}

impl<R: Runtime, M: Queries> Group<R, M> {
    /// As [`Group::open`], of a replica that answers queries, also of nodes that have none.
    pub async fn open_answering(options: GroupOptions<M>) -> Result<Arc<Self>, GroupError> {
        Self::open_with(options, Typed::answering).await
    }

    /// Answers a query, linearizably, from this replica's state.
    pub async fn query(&self, query: M::Query) -> Result<M::Answer, GroupError> {
        self.query_ahead(query, 0).await
    }

    /// As [`Group::query`], for who waits for what comes next ([`Group::changed`]): a leader elsewhere tells this replica of the next
    /// commit at once, and does not wait for entries that the news could travel with.
    pub async fn query_and_follow(&self, query: M::Query) -> Result<M::Answer, GroupError> {
        self.query_ahead(query, 1).await
    }

    async fn query_ahead(&self, query: M::Query, ahead: u8) -> Result<M::Answer, GroupError> {
        self.core.read_barrier(ahead).await?;
        let now = self.log_time();
        Ok(self.with_state(|machine| machine.query(now, query)))
    }
}
