//! Operations: submission, listings and the live view of one.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use longshore_model::control::ControlState;
use longshore_model::image::ImageReference;
use longshore_model::operations::{
    self as model, Listing, OperationCommand, OperationId, OperationKind, OperationReply, SessionId, SubKey,
    Submission, SubmitError,
};
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{EngineReport, NodeRecord, Standing};
use longshore_raft::{NodeId, Runtime};

use super::Service;
use super::keys::front_error;
use super::views::{name_of, operation_view};
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::core::Core;
use crate::operations::offers_of;
use crate::ring::{Front, FrontError};

/// Time an operation may take if none is asked for.
const TIMEOUT_DEFAULT_MS: u64 = 30 * 60_000;
/// Operations in a listing if no limit is asked for, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1_000;
/// Longest idempotency key, in bytes: a UUID has 36.
const KEY_BYTES_MAX: usize = 255;
/// Least time between two items of a watch, so that a busy log does not flood a client.
const WATCH_PAUSE: Duration = Duration::from_millis(100);
/// How often a watch looks at an operation whose group this node has no replica of.
const WATCH_LOOK: Duration = Duration::from_millis(300);
/// How long a watch waits for a group that cannot be read: an election, and more.
const WATCH_PATIENCE: Duration = Duration::from_secs(30);

impl<R: Runtime> Service<R> {
    pub(super) async fn submit(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> Result<OperationView, ApiError> {
        let OperationRequest::Pull { images, strategy, on, timeout_ms, session } = request;
        let key = match key {
            Some(key) if key.is_empty() || key.len() > KEY_BYTES_MAX => {
                let message = format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes");
                return Err(ApiError::new(ErrorCode::Invalid, message));
            }
            key => key,
        };
        let session = match session {
            Some(name) => parse_session(&name)?,
            None => made_session::<R>(key.as_deref()),
        };
        let key = key.map(|key| {
            let mut hasher = blake3::Hasher::new();
            // No session has a zero in its name.
            hasher.update(session.as_str().as_bytes()).update(&[0]).update(key.as_bytes());
            *hasher.finalize().as_bytes()
        });
        let images = images.iter().map(|text| parse_image(text)).collect::<Result<Vec<_>, _>>()?;
        // Names are resolved against what this node knows; a name made a moment ago elsewhere may need the barrier.
        self.linearize().await?;
        let nodes = self.core.group.with_state(|state| targets(&self.core, state, strategy, &on))?;
        let partition = session.partition();
        let submission = Submission {
            session,
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
        let command = OperationCommand::Submit(submission);
        match self.front.operate(partition, command).await.map_err(operation_error)? {
            OperationReply::Submitted(Ok(id)) => {
                // Whatever comes now, the record stands.
                let operation = self.found(id).await.map_err(|error| {
                    let message = format!(
                        "the operation was submitted as {id}, but can not be shown: {}",
                        error.message
                    );
                    ApiError::new(ErrorCode::OutcomeUnknown, message)
                        .hint(format!("see `longshore op inspect {id}`"))
                })?;
                self.offer(&operation);
                Ok(self.core.group.with_state(|state| operation_view(state, &operation)))
            }
            OperationReply::Submitted(Err(refusal)) => Err(refused(refusal)),
            other => {
                Err(ApiError::new(ErrorCode::Internal, format!("a submission was answered with {other:?}")))
            }
        }
    }

    /// Its nodes begin at once; the leader of its group would offer it to them a moment later.
    fn offer(&self, operation: &model::Operation) {
        if operation.ended.is_some() {
            return;
        }
        let subs = operation.subs.iter().enumerate();
        let open = subs.filter(|(_, sub)| !sub.state.is_terminal());
        let named = open.map(|(i, sub)| (SubKey { operation: operation.id, index: i as u32 }, sub));
        // Nothing of a new operation has to wait.
        for (node, offers) in offers_of(named, LogTime(u64::MAX)) {
            self.work.offers.send(&self.work.transport, node, offers);
        }
    }

    async fn found(&self, id: OperationId) -> Result<model::Operation, ApiError> {
        self.front.operation(id).await.map_err(operation_error)?.ok_or_else(|| not_found(id))
    }

    pub(super) async fn operations(&self, query: OperationQuery) -> Result<Vec<OperationView>, ApiError> {
        let OperationQuery { limit, active, session } = query;
        let limit = limit.unwrap_or(LIST_DEFAULT);
        if limit == 0 || limit > LIST_MAX {
            return Err(ApiError::new(ErrorCode::Invalid, format!("a limit is between 1 and {LIST_MAX}")));
        }
        let session = session.as_deref().map(parse_session).transpose()?;
        let listing = Listing { session, active, limit, before: None };
        let operations = self.front.operations(listing).await.map_err(operation_error)?;
        Ok(self.core.group.with_state(|state| operations.iter().map(|o| operation_view(state, o)).collect()))
    }

    pub(super) async fn operation(&self, id: String) -> Result<OperationView, ApiError> {
        let operation = self.found(parse_id(&id)?).await?;
        Ok(self.core.group.with_state(|state| operation_view(state, &operation)))
    }

    pub(super) async fn watch(&self, id: String) -> Result<ApiStream<OperationView>, ApiError> {
        let id = parse_id(&id)?;
        self.found(id).await?;
        let front = self.front.clone();
        let start = Watch { core: Arc::clone(&self.core), front, id, seen: 0, shown: None, ended: false };
        Ok(Box::pin(stream::unfold(start, Watch::next)))
    }
}

struct Watch<R: Runtime> {
    core: Arc<Core<R>>,
    front: Front<R>,
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
        let mut give_up = R::Instant::now() + WATCH_PATIENCE;
        loop {
            match self.front.operation(self.id).await {
                Ok(Some(operation)) if self.shown.as_ref() != Some(&operation) => {
                    let view = self.core.group.with_state(|state| operation_view(state, &operation));
                    self.ended = operation.ended.is_some();
                    if self.shown.replace(operation).is_some() {
                        R::sleep(WATCH_PAUSE).await;
                    }
                    return Some((Ok(view), self));
                }
                Ok(Some(_)) => {
                    give_up = R::Instant::now() + WATCH_PATIENCE;
                    // Whatever is applied in the group ends the wait, and much may be.
                    R::sleep(WATCH_PAUSE).await;
                    self.seen = self.front.news(self.id.partition, self.seen, WATCH_LOOK).await;
                }
                Ok(None) => {
                    self.ended = true;
                    let message = format!("operation {} is no longer on record", self.id);
                    return Some((Err(ApiError::new(ErrorCode::NotFound, message)), self));
                }
                Err(error) if R::Instant::now() >= give_up => {
                    self.ended = true;
                    return Some((Err(operation_error(error)), self));
                }
                Err(_) => R::sleep(WATCH_LOOK).await,
            }
        }
    }
}

fn not_found(id: OperationId) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no operation {id}"))
        .hint("operations that have ended are kept for 24 h; see `longshore op ls`")
}

/// As [`front_error`], with a hint for operations.
fn operation_error(error: FrontError) -> ApiError {
    let error = front_error(error);
    match error.code {
        ErrorCode::OutcomeUnknown => error.hint(
            "look whether it took effect before you try again (`longshore op ls`), or try again with the same idempotency key",
        ),
        _ => error,
    }
}

fn refused(refusal: SubmitError) -> ApiError {
    let code = match refusal {
        SubmitError::Busy => ErrorCode::Busy,
        SubmitError::KeyReused(_) => ErrorCode::Conflict,
        SubmitError::Empty | SubmitError::TooManySubs | SubmitError::Timeout => ErrorCode::Invalid,
        SubmitError::Session(_) => ErrorCode::Internal,
    };
    ApiError::new(code, refusal.to_string())
}

/// The session of an operation that names none: the same for the same idempotency key, at every node.
fn made_session<R: Runtime>(key: Option<&str>) -> SessionId {
    let mut bytes = [0; 16];
    match key {
        Some(key) => bytes.copy_from_slice(&blake3::hash(key.as_bytes()).as_bytes()[..16]),
        None => R::entropy(&mut bytes),
    }
    SessionId::made_of(&bytes)
}

fn parse_session(name: &str) -> Result<SessionId, ApiError> {
    name.parse()
        .map_err(|error: model::SessionNameError| ApiError::new(ErrorCode::Invalid, error.to_string()))
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
        let mut nodes = on.iter().map(|name| named(core.me, state, name)).collect::<Result<Vec<_>, _>>()?;
        nodes.sort_unstable();
        nodes.dedup();
        return Ok(nodes);
    }
    if strategy == Strategy::Local {
        return Ok(vec![named(core.me, state, "self")?]);
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

/// An active node by name, id, or `self`.
fn named(me: NodeId, state: &ControlState, name: &str) -> Result<NodeId, ApiError> {
    let found = match name {
        "self" => state.membership.get(me).ok_or_else(|| format!("{me} is no member")),
        _ => state.membership.resolve(name).map_err(|e| e.to_string()),
    };
    let node = found
        .map_err(|why| ApiError::new(ErrorCode::NotFound, why).hint("`longshore node ls` lists the nodes"))?;
    if node.standing != Standing::Active {
        let message = format!("node {} is leaving or has left", name_of(state, node.id));
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    Ok(node.id)
}

#[cfg(test)]
mod tests {
    use longshore_raft::model::membership::NodeProfile;

    use super::*;

    #[test]
    fn a_node_that_leaves_gets_no_new_work_not_even_its_own() {
        let mut state = ControlState::default();
        for (key, name) in [(1, "alder"), (2, "birch")] {
            let profile = NodeProfile {
                name: name.into(),
                address: ([127, 0, 0, 1], 7400).into(),
                zone: None,
                labels: Default::default(),
                version: "0.1.0".into(),
                weight: 1024,
            };
            state.membership.admit([key; 32], profile, 0).unwrap();
        }
        assert_eq!(named(NodeId(2), &state, "self").unwrap(), NodeId(2));
        assert_eq!(named(NodeId(1), &state, "birch").unwrap(), NodeId(2));
        state.membership.set_standing(NodeId(2), Standing::Leaving).unwrap();
        for (me, name) in [(2, "self"), (2, "birch"), (1, "birch")] {
            let refused = named(NodeId(me), &state, name).unwrap_err();
            assert_eq!(refused.code, ErrorCode::Conflict, "{refused}");
            assert!(refused.message.contains("birch is leaving"), "{refused}");
        }
        assert_eq!(named(NodeId(1), &state, "cedar").unwrap_err().code, ErrorCode::NotFound);
    }
}
