//! How nodes go: leaving, and removal by an operator.
//!
//! Must never: let a node go at the expense of the control group's quorum, whatever is forced.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_model::control::Command;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{Availability, NodeChange, Standing};
use longshore_raft::model::voters::can_spare;
use longshore_raft::{NodeId, Runtime};

use super::nodes::part_views;
use super::views::{leader_name, leads, name_of, some};
use super::{LISTING_PATIENCE, Service};
use crate::api::types::*;
use crate::ring::OpenPart;

/// How often a node that leaves looks for its open work.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Looks that find nothing before nothing is taken to be left: a submission that was placed before may be on its way to the log.
const EMPTY_LOOKS: u32 = 2;

impl<R: Runtime> Service<R> {
    /// Refuses when the fleet could not go on without `leaver`.
    fn check_spare(&self, leaver: NodeId) -> Result<(), ApiError> {
        let status = self.core.group.status();
        let candidates = self.core.candidates(&status);
        let Err(dead) = can_spare(&candidates, leaver) else { return Ok(()) };
        let name = self.core.group.with_state(|s| name_of(s, leaver));
        if dead.is_empty() {
            let message = format!("{name} is the last node of the fleet; without it there is no fleet");
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .hint("to end the fleet, stop the process and delete its data folder"));
        }
        let dead: Vec<String> =
            self.core.group.with_state(|s| dead.iter().map(|id| name_of(s, *id)).collect());
        let dead = dead.join(", ");
        let message = format!("without {name} the fleet would lose its quorum: {dead} cannot be reached");
        Err(ApiError::new(ErrorCode::Conflict, message)
            .hint(format!("bring {dead} back, or remove what is gone for good with `longshore node rm`")))
    }

    /// Refuses when the last copies of some data would go with `leaver`: what no quorum holds cannot be copied away from it.
    fn check_data(&self, leaver: NodeId) -> Result<(), ApiError> {
        if self.core.group.with_state(|state| state.ring.is_none()) {
            return Ok(());
        }
        self.look(|look| {
            let stuck = look.stuck_with(leaver);
            if stuck.is_empty() {
                return Ok(());
            }
            let name = name_of(look.state, leaver);
            let missing: BTreeSet<&String> = stuck.iter().flat_map(|group| &group.stuck_without).collect();
            let missing: Vec<&str> = missing.into_iter().map(String::as_str).collect();
            let groups: Vec<&str> = stuck.iter().map(|group| group.group.as_str()).collect();
            let message = format!(
                "{name} holds a replica of {}, which have no quorum: {} cannot be reached, and what these groups hold could be \
                 lost for good without {name}",
                some(&groups),
                some(&missing)
            );
            Err(ApiError::new(ErrorCode::Conflict, message).hint(format!(
                "bring {} back first; `longshore group ls` shows the groups",
                missing.join(" or ")
            )))
        })
    }

    /// Refuses when the data of this node could not begin to move.
    fn check_drain(&self) -> Result<(), ApiError> {
        let (me, name) = (self.core.me, self.core.group.with_state(|s| name_of(s, self.core.me)));
        let held = self
            .core
            .group
            .with_state(|state| state.ring.as_ref().is_some_and(|ring| ring.is_paused() && ring.needs(me)));
        if !held {
            return Ok(());
        }
        let message = format!("the ring is paused, so what {name} holds cannot move to other nodes");
        Err(ApiError::new(ErrorCode::Conflict, message).hint("run `longshore ring resume` first"))
    }

    /// Refuses when the votes that are left without `leaver`, which may be alive and stops at once, decide nothing.
    fn check_votes(&self, leaver: NodeId) -> Result<(), ApiError> {
        let voters: Vec<NodeId> = self.core.group.status().voters.iter().map(|voter| voter.node).collect();
        let is_there = |node: &NodeId| *node != leaver && self.core.peer_state(*node) == PeerState::Alive;
        if voters.iter().filter(|node| is_there(node)).count() * 2 > voters.len() {
            return Ok(());
        }
        let (name, missing) = self.core.group.with_state(|s| {
            let missing = voters.iter().filter(|node| **node != leaver && !is_there(node));
            (name_of(s, leaver), missing.map(|node| name_of(s, *node)).collect::<Vec<_>>().join(", "))
        });
        if voters == [leaver] {
            let message =
                format!("{name} has the only vote of the fleet; without it the fleet would lose its quorum");
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .hint(format!("`longshore node drain {name}` gives its vote to another node first")));
        }
        let message = format!("without {name} the fleet would lose its quorum: {missing} cannot be reached");
        Err(ApiError::new(ErrorCode::Conflict, message).hint(format!("bring {missing} back first")))
    }

    /// What goes with a node. How many parts of operations that are is left open when a group does not answer soon.
    async fn loss(&self, id: NodeId) -> LossView {
        let open = R::timeout(LISTING_PATIENCE, self.front.open_parts(id)).await;
        let parts = open.ok().and_then(Result::ok).map(|open| open.len() as u32);
        let (groups, groups_waiting) = self.look(|look| Ok(look.lost_with(id))).unwrap_or_default();
        LossView { groups, groups_waiting, parts }
    }

    pub(super) async fn removal(&self, node: String) -> Result<RemovalView, ApiError> {
        self.linearize().await?;
        let id = self.resolve(&node)?;
        let loss = self.loss(id).await;
        let NodeView { id, name, state, .. } = self.view_of(id)?;
        Ok(RemovalView { id, name, state, loss })
    }

    pub(super) async fn remove(&self, node: String, query: RemoveQuery) -> Result<RemovedView, ApiError> {
        let RemoveQuery { force } = query;
        self.linearize().await?;
        let id = self.resolve(&node)?;
        let name = self.core.group.with_state(|s| name_of(s, id));
        if !force && self.core.peer_state(id) != PeerState::Failed {
            let message = format!("node {name} is alive");
            return Err(ApiError::new(ErrorCode::Conflict, message).hint(format!(
                "run `longshore leave` on {name}; `node rm` is for nodes that have failed, or takes --force"
            )));
        }
        if id == self.core.me {
            let message = format!("{name} is the node that was asked, and does not remove itself");
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .hint("ask another node with --host, or run `longshore leave`"));
        }
        // Before the checks, for it takes a while.
        let loss = self.loss(id).await;
        self.check_spare(id)?;
        if force {
            self.check_votes(id)?
        } else {
            self.check_data(id)?
        }
        self.propose(Command::Remove { node: id, left: false }).await?;
        self.until_shown().await?;
        Ok(RemovedView { node: self.view_of(id)?, loss })
    }

    pub(super) async fn leave_fleet(&self, query: LeaveQuery) -> Result<LeaveView, ApiError> {
        let deadline_ms = query.deadline_ms.unwrap_or(LEAVE_DEADLINE_MS);
        if deadline_ms > LEAVE_DEADLINE_MAX_MS {
            let message = format!("a deadline is at most {LEAVE_DEADLINE_MAX_MS} ms, a day");
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        self.linearize().await?;
        let me = self.core.me;
        let may_go = || {
            self.check_spare(me)?;
            self.check_data(me)?;
            self.check_drain()
        };
        may_go()?;
        self.check_others_reachable(me)?;
        let name = self.core.group.with_state(|s| name_of(s, me));
        let availability = Some(self.order(Availability::Draining, None));
        let change = Box::new(NodeChange { availability, ..NodeChange::default() });
        self.propose(Command::UpdateNode { node: me, change }).await?;
        let open = self.until_idle(me, Duration::from_millis(deadline_ms)).await;
        // Others may have died meanwhile.
        may_go().map_err(|error| ApiError {
            message: format!("{}; {name} stays drained", error.message),
            ..error
        })?;
        let led = leads(&self.core.group.status());
        self.propose(Command::StartLeaving { node: me }).await?;
        let gone = R::timeout(LEAVE_PATIENCE, self.until_gone()).await.is_ok();
        if !gone {
            let message =
                format!("{name} has asked to leave, but the fleet has not let it go within 2 minutes");
            return Err(ApiError::new(ErrorCode::OutcomeUnknown, message)
                .hint("it leaves as soon as a majority can agree and its data is elsewhere; see `longshore ring show` on another node"));
        }
        let status = self.core.group.status();
        let new_leader = self.core.group.with_state(|s| leader_name(s, &status)).filter(|_| led);
        self.left.notify_one();
        Ok(LeaveView {
            node: name,
            new_leader,
            unfinished: open.as_ref().map(|open| open.len() as u32),
            parts: open.as_deref().map(part_views).unwrap_or_default(),
        })
    }

    /// Waits until nothing is open on a node that is drained, for so long at most. What is open then; `None` if a group did not answer.
    async fn until_idle(&self, node: NodeId, patience: Duration) -> Option<Vec<OpenPart>> {
        let give_up = R::Instant::now() + patience;
        let (mut empty, mut open) = (0, None);
        loop {
            let left = give_up.saturating_duration_since(R::Instant::now());
            open = match R::timeout(left.max(LISTING_PATIENCE), self.front.open_parts(node)).await {
                Ok(Ok(open)) => Some(open),
                Ok(Err(error)) => {
                    tracing::info!(%error, "what is open on this node is not known; asking again");
                    None
                }
                Err(_) => open,
            };
            empty = if open.as_ref().is_some_and(Vec::is_empty) { empty + 1 } else { 0 };
            if empty >= EMPTY_LOOKS || R::Instant::now() + LOOK_EVERY > give_up {
                return open;
            }
            R::sleep(LOOK_EVERY).await;
        }
    }

    /// Resolves when this node's own copy says that it has left, or when a peer says so.
    async fn until_gone(&self) {
        let mut seen = 0;
        loop {
            let standing = self.core.group.with_state(|s| s.membership.get(self.core.me).map(|n| n.standing));
            if matches!(standing, Some(Standing::Left | Standing::Removed)) {
                return;
            }
            tokio::select! {
                biased;
                () = self.core.removed.cancelled() => return,
                version = self.core.group.changed(seen) => seen = version,
            }
        }
    }
}
