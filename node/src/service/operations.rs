//! Operations: submission, listings and the live view of one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use longshore_model::control::{Command, ControlState, Reply};
use longshore_model::image::ImageReference;
use longshore_model::operations::{self as model, OperationId, OperationKind, Submission};
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{EngineReport, NodeRecord, Standing};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::views::{name_of, operation_view};
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::core::Core;

/// Time an operation may take if none is asked for.
const TIMEOUT_DEFAULT_MS: u64 = 30 * 60_000;
/// Operations in a listing if no limit is asked for, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1_000;
/// Longest idempotency key, in bytes: a UUID has 36.
const KEY_BYTES_MAX: usize = 255;
/// Least time between two items of a watch, so that a busy log does not flood a client.
const WATCH_PAUSE: Duration = Duration::from_millis(100);

impl<R: Runtime> Service<R> {
    pub(super) async fn submit(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> Result<OperationView, ApiError> {
        let OperationRequest::Pull { images, strategy, on, timeout_ms } = request;
        let key = match key {
            Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX => {
                let message = format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes");
                return Err(ApiError::new(ErrorCode::Invalid, message));
            }
            key => key.map(|k| *blake3::hash(k.as_bytes()).as_bytes()),
        };
        let images = images.iter().map(|text| parse_image(text)).collect::<Result<Vec<_>, _>>()?;
        // Names are resolved against what this node knows; a name made a moment ago elsewhere may need the barrier.
        self.linearize().await?;
        let nodes = self.core.group.with_state(|state| targets(&self.core, state, strategy, &on))?;
        let submission = Submission {
            kind: OperationKind::Pull { images },
            strategy: match strategy {
                Strategy::Local => model::Strategy::Local,
                Strategy::Replicated => model::Strategy::Replicated,
            },
            nodes,
            timeout_ms: timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS),
            submitted_by: self.core.me,
            unix_ms: R::unix_time_ms(),
            key,
        };
        match self.propose(Command::Submit(submission)).await? {
            Reply::Submitted(id) => {
                self.linearize().await?;
                self.view(id)
            }
            other => {
                Err(ApiError::new(ErrorCode::Internal, format!("a submission was answered with {other:?}")))
            }
        }
    }

    fn view(&self, id: OperationId) -> Result<OperationView, ApiError> {
        view(&self.core, id).ok_or_else(|| {
            ApiError::new(ErrorCode::NotFound, format!("there is no operation {id}"))
                .hint("operations that have ended are kept for 24 h; see `longshore op ls`")
        })
    }

    pub(super) async fn operations(&self, query: OperationQuery) -> Result<Vec<OperationView>, ApiError> {
        let limit = query.limit.unwrap_or(LIST_DEFAULT);
        if limit == 0 || limit > LIST_MAX {
            return Err(ApiError::new(ErrorCode::Invalid, format!("a limit is between 1 and {LIST_MAX}")));
        }
        self.linearize().await?;
        Ok(self.core.group.with_state(|state| {
            let wanted = state.operations.all().rev().filter(|o| !query.active || o.ended.is_none());
            wanted.take(limit as usize).map(|o| operation_view(state, o)).collect()
        }))
    }

    pub(super) async fn operation(&self, id: String) -> Result<OperationView, ApiError> {
        let id = parse_id(&id)?;
        self.linearize().await?;
        self.view(id)
    }

    pub(super) async fn watch(&self, id: String) -> Result<ApiStream<OperationView>, ApiError> {
        let id = parse_id(&id)?;
        self.linearize().await?;
        self.view(id)?;
        let start = Watch { core: Arc::clone(&self.core), id, seen: 0, shown: None, ended: false };
        Ok(Box::pin(stream::unfold(start, Watch::next)))
    }
}

struct Watch<R: Runtime> {
    core: Arc<Core<R>>,
    id: OperationId,
    seen: u64,
    shown: Option<model::Operation>,
    ended: bool,
}

impl<R: Runtime> Watch<R> {
    async fn next(mut self) -> Option<(Result<OperationView, ApiError>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            let now = self.core.group.with_state(|s| s.operations.get(self.id).cloned());
            match now {
                None => {
                    self.ended = true;
                    let message = format!("operation {} is no longer on record", self.id);
                    return Some((Err(ApiError::new(ErrorCode::NotFound, message)), self));
                }
                Some(operation) if self.shown.as_ref() != Some(&operation) => {
                    let view = self.core.group.with_state(|s| operation_view(s, &operation));
                    self.ended = operation.ended.is_some();
                    if self.shown.replace(operation).is_some() {
                        R::sleep(WATCH_PAUSE).await;
                    }
                    return Some((Ok(view), self));
                }
                Some(_) => self.seen = self.core.group.changed(self.seen).await,
            }
        }
    }
}

fn view<R: Runtime>(core: &Core<R>, id: OperationId) -> Option<OperationView> {
    core.group.with_state(|state| state.operations.get(id).map(|o| operation_view(state, o)))
}

fn parse_id(text: &str) -> Result<OperationId, ApiError> {
    text.parse().map_err(|e| ApiError::new(ErrorCode::Invalid, e))
}

fn parse_image(text: &str) -> Result<ImageReference, ApiError> {
    text.parse::<ImageReference>().map_err(|e| ApiError::new(ErrorCode::Invalid, e.to_string()))
}

/// The nodes that carry the operation out. Named nodes are taken as they are, dead or alive: their work waits for them.
fn targets<R: Runtime>(
    core: &Core<R>,
    state: &ControlState,
    strategy: Strategy,
    on: &[String],
) -> Result<Vec<NodeId>, ApiError> {
    let invalid = |message: String| ApiError::new(ErrorCode::Invalid, message);
    if !on.is_empty() {
        if strategy == Strategy::Local && on.len() > 1 {
            let hint = "use --strategy replicated for more than one";
            return Err(invalid("the local strategy runs on one node".to_owned()).hint(hint));
        }
        let mut nodes = on.iter().map(|name| named(core, state, name)).collect::<Result<Vec<_>, _>>()?;
        nodes.sort_unstable();
        nodes.dedup();
        return Ok(nodes);
    }
    if strategy == Strategy::Local {
        return Ok(vec![core.me]);
    }
    let able = |n: &&NodeRecord| {
        n.standing == Standing::Active
            && n.engine != EngineReport::NotConfigured
            && core.peer_state(n.id) != PeerState::Failed
    };
    let nodes: Vec<NodeId> = state.membership.members().filter(able).map(|n| n.id).collect();
    if nodes.is_empty() {
        let hint = "start a node without `--docker none`, or name nodes with --on";
        return Err(ApiError::new(ErrorCode::Conflict, "no living node has a Docker engine").hint(hint));
    }
    Ok(nodes)
}

fn named<R: Runtime>(core: &Core<R>, state: &ControlState, name: &str) -> Result<NodeId, ApiError> {
    if name == "self" {
        return Ok(core.me);
    }
    let node = state.membership.resolve(name).map_err(|e| {
        ApiError::new(ErrorCode::NotFound, e.to_string()).hint("`longshore node ls` lists the nodes")
    })?;
    if node.standing != Standing::Active {
        let message = format!("node {} is leaving or has left", name_of(state, node.id));
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    Ok(node.id)
}
