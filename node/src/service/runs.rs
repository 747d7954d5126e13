//! Runs that the fleet keeps up: what they look like, and what people want of them.

use std::collections::BTreeSet;

use longshore_model::control::ControlState;
use longshore_model::operations::{
    CopyState, Kept, OperationCommand, OperationReply, UpkeepChange, UpkeepError,
};
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::EngineReport;
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::operations::operation_error;
use super::views::name_of;
use crate::api::types::*;

impl<R: Runtime> Service<R> {
    pub(super) async fn runs(&self) -> Result<Vec<RunView>, ApiError> {
        Ok(self.kept().await?.iter().map(|kept| self.run_view(kept)).collect())
    }

    pub(super) async fn kept(&self) -> Result<Vec<Kept>, ApiError> {
        self.front.kept().await.map_err(operation_error)
    }

    /// By the id of its operation, or by its name if only one has it.
    async fn kept_named(&self, name: &str) -> Result<Kept, ApiError> {
        let kept = self.kept().await?;
        let is_it = |kept: &&Kept| kept.run.to_string() == name || kept.spec.name.as_deref() == Some(name);
        let found: Vec<&Kept> = kept.iter().filter(is_it).collect();
        match found[..] {
            [] => {
                let message = format!("there is no run {name:?} that the fleet keeps up");
                Err(ApiError::new(ErrorCode::NotFound, message).hint("`longshore op runs` lists them"))
            }
            [kept] => Ok(kept.clone()),
            _ => {
                let ids: Vec<String> = found.iter().map(|kept| kept.run.to_string()).collect();
                let message = format!("several runs are called {name:?}: {}", ids.join(", "));
                Err(ApiError::new(ErrorCode::Conflict, message).hint("name one by its id"))
            }
        }
    }

    pub(super) async fn run(&self, name: &str) -> Result<RunView, ApiError> {
        Ok(self.run_view(&self.kept_named(name).await?))
    }

    /// The run as it was before a removal, else as it is after the change.
    pub(super) async fn change_run(&self, name: &str, change: RunChange) -> Result<RunView, ApiError> {
        let kept = self.kept_named(name).await?;
        let upkeep = match change {
            RunChange::Stop => UpkeepChange::Stop,
            RunChange::Start => UpkeepChange::Start,
            RunChange::Remove => UpkeepChange::Release,
        };
        let command = OperationCommand::Upkeep { run: kept.run, change: upkeep, unix_ms: R::unix_time_ms() };
        match self.front.operate(kept.run.partition, command).await.map_err(operation_error)? {
            OperationReply::Upkept(Ok(())) => {}
            // Somebody else removed it meanwhile.
            OperationReply::Upkept(Err(UpkeepError::Unknown(_))) if change == RunChange::Remove => {}
            OperationReply::Upkept(Err(error)) => {
                return Err(ApiError::new(ErrorCode::NotFound, error.to_string()));
            }
            other => {
                return Err(ApiError::new(
                    ErrorCode::Internal,
                    format!("a run's change was answered with {other:?}"),
                ));
            }
        }
        let nodes: BTreeSet<NodeId> = kept.copies.iter().map(|copy| copy.node).collect();
        for node in nodes {
            self.work.care.tell::<R>(&self.work.transport, self.core.me, node, Vec::new());
        }
        match change {
            RunChange::Remove => Ok(self.run_view(&kept)),
            RunChange::Stop | RunChange::Start => self.run(&kept.run.to_string()).await,
        }
    }

    /// Why nobody knows how a container on this node is, if that is so.
    fn unheard(&self, state: &ControlState, node: NodeId) -> Option<String> {
        let name = name_of(state, node);
        match (self.core.peer_state(node), state.membership.get(node).map(|record| &record.engine)) {
            (PeerState::Suspect | PeerState::Failed, _) => Some(format!("{name} is not heard of")),
            (_, Some(EngineReport::Unavailable { .. })) => {
                Some(format!("the engine of {name} does not answer"))
            }
            _ => None,
        }
    }

    fn run_view(&self, kept: &Kept) -> RunView {
        let spec = &kept.spec;
        self.core.group.with_state(|state| {
            let copies = kept.copies.iter().enumerate().map(|(index, copy)| {
                let (shown, container_id, why) = match &copy.state {
                    CopyState::Starting => (CopyStateView::Starting, None, None),
                    CopyState::Up { container, .. } => match self.unheard(state, copy.node) {
                        None => (CopyStateView::Up, Some(container.clone()), None),
                        Some(why) => (CopyStateView::Unheard, Some(container.clone()), Some(why)),
                    },
                    CopyState::Down { why, .. } => (CopyStateView::Down, None, Some(why.clone())),
                    CopyState::Completed => (CopyStateView::Completed, None, None),
                };
                CopyView {
                    copy: index as u32 + 1,
                    node: name_of(state, copy.node),
                    state: shown,
                    container: spec.container_name(kept.run, index as u32),
                    container_id,
                    operation: copy.part.operation.to_string(),
                    why,
                }
            });
            RunView {
                id: kept.run.to_string(),
                name: spec.name.clone(),
                image: spec.container.image.familiar(),
                stopped: kept.stopped,
                copies: copies.collect(),
            }
        })
    }
}
