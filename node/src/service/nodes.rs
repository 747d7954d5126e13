//! Nodes: listing them, what an operator changes about them, and what they still have to do.

use longshore_model::control::Command;
use longshore_raft::model::membership::{
    Availability, AvailabilityNote, AvailabilityOrder, NodeChange, NodeRecord, Override,
};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::operations::operation_error;
use super::views::{name_of, node_view, some};
use crate::api::types::*;
use crate::ring::OpenPart;

pub(super) fn no_such_node(error: impl ToString) -> ApiError {
    ApiError::new(ErrorCode::NotFound, error.to_string()).hint("`longshore node ls` lists the nodes")
}

impl<R: Runtime> Service<R> {
    pub(super) async fn nodes(&self) -> Result<NodeList, ApiError> {
        let stale = !self.linearize_briefly().await;
        let status = self.core.group.status();
        let nodes = self.core.group.with_state(|state| {
            state.membership.all().map(|n| node_view(&self.core, state, &status, n)).collect()
        });
        Ok(NodeList { nodes, stale })
    }

    pub(super) fn resolve(&self, node: &str) -> Result<NodeId, ApiError> {
        if node == "self" {
            return Ok(self.core.me);
        }
        self.core.group.with_state(|s| s.membership.resolve(node).map(|n| n.id).map_err(no_such_node))
    }

    pub(super) fn view_of(&self, id: NodeId) -> Result<NodeView, ApiError> {
        let status = self.core.group.status();
        self.core.group.with_state(|state| {
            let node =
                state.membership.get(id).ok_or_else(|| no_such_node(format!("there is no node {id}")))?;
            Ok(node_view(&self.core, state, &status, node))
        })
    }

    /// Answers without a quorum too: that is when people look.
    pub(super) async fn node(&self, node: String) -> Result<NodeView, ApiError> {
        self.linearize_briefly().await;
        self.view_of(self.resolve(&node)?)
    }

    pub(super) async fn change_node(&self, node: String, update: NodeUpdate) -> Result<NodeView, ApiError> {
        self.linearize().await?;
        let id = self.resolve(&node)?;
        let change = self.change_of(update)?;
        if change.availability.as_ref().is_some_and(|order| order.availability != Availability::Active) {
            self.check_others_reachable(id)?;
        }
        self.propose(Command::UpdateNode { node: id, change: Box::new(change) }).await?;
        self.until_shown().await?;
        self.view_of(id)
    }

    fn change_of(&self, update: NodeUpdate) -> Result<NodeChange, ApiError> {
        let NodeUpdate { label_add, label_rm, availability, message, weight, zone, region, reset } = update;
        if let Some(both) = label_rm.iter().find(|key| label_add.contains_key(*key)) {
            return Err(ApiError::new(
                ErrorCode::Invalid,
                format!("label {both:?} is both added and removed"),
            ));
        }
        let back = |setting| reset.contains(&setting);
        let change = NodeChange {
            label_add,
            label_rm,
            weight: wanted(weight, back(NodeSetting::Weight)),
            zone: wanted(zone, back(NodeSetting::Zone)),
            region: wanted(region, back(NodeSetting::Region)),
            availability: availability.map(|wanted| self.order(availability_of(wanted), message)),
        };
        if change == NodeChange::default() {
            let hint =
                "give --availability, --label-add KEY=VALUE, --label-rm KEY, --weight, --zone or --region";
            return Err(ApiError::new(ErrorCode::Invalid, "there is nothing to update").hint(hint));
        }
        Ok(change)
    }

    /// An order that is taken here and now.
    pub(super) fn order(&self, availability: Availability, message: Option<String>) -> AvailabilityOrder {
        let message = message.filter(|message| !message.is_empty());
        let note = AvailabilityNote { message, by: self.core.me, unix_ms: R::unix_time_ms() };
        AvailabilityOrder { availability, note }
    }

    /// Refuses when of those that would go on taking new work without `id` none can be reached. Whether there are any, the log decides.
    pub(super) fn check_others_reachable(&self, id: NodeId) -> Result<(), ApiError> {
        self.core.group.with_state(|state| {
            let is_available = state.membership.get(id).is_some_and(NodeRecord::is_available);
            let others = state.membership.members().filter(|other| other.id != id && other.is_available());
            let (dead, alive): (Vec<&NodeRecord>, Vec<&NodeRecord>) =
                others.partition(|other| !self.core.is_alive(other.id));
            if !is_available || !alive.is_empty() || dead.is_empty() {
                return Ok(());
            }
            let dead: Vec<&str> = dead.iter().map(|node| node.profile.name.as_str()).collect();
            let (name, dead) = (name_of(state, id), some(&dead));
            let message = format!(
                "{name} is the last node that takes work and can be reached: {dead} cannot be reached"
            );
            Err(ApiError::new(ErrorCode::Conflict, message).hint(format!(
                "bring {dead} back first, or remove what is gone for good with `longshore node rm`"
            )))
        })
    }

    pub(super) async fn work_of(&self, node: String) -> Result<NodeWorkView, ApiError> {
        self.linearize().await?;
        let id = self.resolve(&node)?;
        let open = self.front.open_parts(id).await.map_err(operation_error)?;
        let view = self.view_of(id)?;
        Ok(NodeWorkView {
            node: view.name,
            state: view.state,
            availability: view.availability.state,
            open: open.len() as u32,
            parts: part_views(&open),
        })
    }
}

/// Most parts that a reply names.
const PARTS_NAMED_MAX: usize = 100;

pub(super) fn part_views(open: &[OpenPart]) -> Vec<OpenPartView> {
    let view = |part: &OpenPart| OpenPartView {
        operation: part.sub.operation.to_string(),
        index: part.sub.index,
        kind: part.kind.to_owned(),
        subject: part.subject.clone(),
        state: if part.is_running { SubOperationState::Running } else { SubOperationState::Assigned },
    };
    open.iter().take(PARTS_NAMED_MAX).map(view).collect()
}

/// Setting something and taking it back at a time was refused before.
fn wanted<T>(set: Option<T>, back: bool) -> Option<Override<T>> {
    set.map(Override::Set).or(back.then_some(Override::Announced))
}

fn availability_of(wanted: NodeAvailability) -> Availability {
    match wanted {
        NodeAvailability::Active => Availability::Active,
        NodeAvailability::Paused => Availability::Paused,
        NodeAvailability::Draining => Availability::Draining,
    }
}
