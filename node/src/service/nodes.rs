//! Nodes: listing, labels, leaving, and removing the dead.

use std::collections::BTreeSet;
use std::time::Duration;

use longshore_model::control::Command;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::Standing;
use longshore_raft::model::voters::can_spare;
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::views::{leader_name, leads, name_of, node_view, some};
use crate::api::types::*;

/// How long a node that leaves waits for the fleet to let it go: a change of voters, a hand-over, and its data copied to others.
const LEAVE_PATIENCE: Duration = Duration::from_secs(120);

pub(super) fn no_such_node(error: impl ToString) -> ApiError {
    ApiError::new(ErrorCode::NotFound, error.to_string()).hint("`longshore node ls` lists the nodes")
}

impl<R: Runtime> Service<R> {
    pub(super) async fn nodes(&self) -> Result<NodeList, ApiError> {
        let stale = !self.linearize_briefly().await;
        let status = self.core.group.status();
        let nodes = self
            .core
            .group
            .with_state(|state| state.membership.all().map(|n| node_view(&self.core, &status, n)).collect());
        Ok(NodeList { nodes, stale })
    }

    pub(super) fn resolve(&self, node: &str) -> Result<NodeId, ApiError> {
        if node == "self" {
            return Ok(self.core.me);
        }
        self.core.group.with_state(|s| s.membership.resolve(node).map(|n| n.id).map_err(no_such_node))
    }

    fn view_of(&self, id: NodeId) -> Result<NodeView, ApiError> {
        let status = self.core.group.status();
        self.core.group.with_state(|state| {
            let node =
                state.membership.get(id).ok_or_else(|| no_such_node(format!("there is no node {id}")))?;
            Ok(node_view(&self.core, &status, node))
        })
    }

    /// Answers without a quorum too: that is when people look.
    pub(super) async fn node(&self, node: String) -> Result<NodeView, ApiError> {
        self.linearize_briefly().await;
        self.view_of(self.resolve(&node)?)
    }

    pub(super) async fn relabel_node(&self, node: String, update: NodeUpdate) -> Result<NodeView, ApiError> {
        self.linearize().await?;
        let id = self.resolve(&node)?;
        if let Some(both) = update.label_rm.iter().find(|key| update.label_add.contains_key(*key)) {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                format!("label {both:?} is both added and removed"),
            ));
        }
        if update.label_add.is_empty() && update.label_rm.is_empty() {
            let hint = "give --label-add KEY=VALUE or --label-rm KEY";
            return Err(ApiError::new(ErrorCode::Invalid, "there is nothing to update").hint(hint));
        }
        let command = Command::UpdateLabels { node: id, add: update.label_add, remove: update.label_rm };
        self.propose(command).await?;
        self.linearize().await?;
        self.view_of(id)
    }

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

    pub(super) async fn remove_dead_node(&self, node: String) -> Result<NodeView, ApiError> {
        self.linearize().await?;
        let id = self.resolve(&node)?;
        if self.core.peer_state(id) != PeerState::Failed {
            let name = self.core.group.with_state(|s| name_of(s, id));
            let message = format!("node {name} is alive");
            return Err(ApiError::new(ErrorCode::Conflict, message)
                .hint(format!("run `longshore leave` on {name}; `node rm` is for nodes that have failed")));
        }
        self.check_spare(id)?;
        self.check_data(id)?;
        self.propose(Command::Remove { node: id, left: false }).await?;
        self.linearize().await?;
        self.view_of(id)
    }

    pub(super) async fn leave_fleet(&self) -> Result<LeaveView, ApiError> {
        self.linearize().await?;
        let me = self.core.me;
        self.check_spare(me)?;
        self.check_data(me)?;
        self.check_drain()?;
        let name = self.core.group.with_state(|s| name_of(s, me));
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
        Ok(LeaveView { node: name, new_leader })
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
