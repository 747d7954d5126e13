//! Operations: submission, cancellation, doing again what failed, and listings.

use std::collections::BTreeMap;
use std::sync::Arc;

use longshore_model::operations::placement::Places;
use longshore_model::operations::{
    self as model, CancelError, Listing, OperationCommand, OperationId, OperationKind, OperationReply, Part,
    SessionId, SubKey, SubState, Submission, SubmitError, Upkeep,
};
use longshore_raft::{NodeId, Runtime};

use super::asking::AskedFor;
use super::keys::front_error;
use super::placing::{Placed, Wanted, named};
use super::views::operation_view;
use super::{Service, operation_watch};
use crate::api::service::ApiStream;
use crate::api::types::*;
use crate::history::{merged, reaches_beyond};
use crate::operations::{OFFERED_MAX, Offer, Ticket};
use crate::ring::FrontError;

/// Time an operation may take if none is asked for.
const TIMEOUT_DEFAULT_MS: u64 = 30 * 60_000;
/// Operations in a listing if no limit is asked for, and at most.
const LIST_DEFAULT: u32 = 100;
const LIST_MAX: u32 = 1_000;
/// So many more are asked of histories: those that came after groups were asked do not count.
const LATER_MAX: u32 = 100;
/// Longest idempotency key, in bytes: a UUID has 36.
const KEY_BYTES_MAX: usize = 255;
impl<R: Runtime> Service<R> {
    pub(super) async fn submit(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> Result<OperationView, ApiError> {
        let (wanted, asked) = (Wanted::of(&request)?, asked(&request));
        let OperationRequest { action, strategy, timeout_ms, session, on, replicas, .. } = request;
        let (asked_for, unreadable) = match self.asked_for(action, &on, replicas.unwrap_or(1)).await {
            Ok(asked_for) => (asked_for, None),
            // The operation may be there already, and what it was about gone with it.
            Err(error) if key.is_some() && error.code != ErrorCode::Invalid => {
                let nothing = OperationKind::Stop { containers: Vec::new(), grace_s: None };
                (AskedFor::Containers(nothing, Vec::new()), Some(error))
            }
            Err(error) => return Err(error),
        };
        let (works, works_max) = (asked_for.kind().works(), asked_for.kind().works_max());
        if works > works_max {
            let message = format!("{works} are too many for one operation, {works_max} are the most");
            return Err(ApiError::new(ErrorCode::Invalid, message).hint("submit several operations"));
        }
        let session = match session {
            Some(name) => parse_session(&name)?,
            None => made_session::<R>(key.as_deref()),
        };
        let key = checked_key(&session, key)?;
        // Names are resolved against what this node knows; a name made a moment ago elsewhere may need the barrier.
        self.linearize().await?;
        if !matches!(asked_for, AskedFor::Containers(..)) {
            self.until_told(&wanted).await;
        }
        let (placed, ticket) = self.place(&wanted, &asked_for, &[session.as_str().as_bytes(), &asked]);
        let places = self.core.group.with_state(|state| match &asked_for {
            // It is done where the containers are.
            AskedFor::Containers(..) => Ok(Places::default()),
            AskedFor::Images(_) | AskedFor::Run(_) => wanted.places(self.core.me, state),
        });
        let (Placed { parts, left_out }, places, unplaced) = match (placed, places, unreadable) {
            (Ok(placed), Ok(places), None) => (placed, places, None),
            (_, _, Some(error)) | (Err(error), _, None) | (_, Err(error), None) => {
                (Placed::default(), Places::default(), Some(error))
            }
        };
        let kind = asked_for.into_kind(parts.len() as u32);
        let strategy = match strategy {
            Strategy::Local => model::Strategy::Local,
            Strategy::Replicated => model::Strategy::Replicated,
            Strategy::Distributed => model::Strategy::Distributed,
        };
        let timeout_ms = timeout_ms.unwrap_or(TIMEOUT_DEFAULT_MS);
        let submission = Submission {
            session,
            kind,
            strategy,
            places,
            parts,
            left_out,
            timeout_ms,
            submitted_by: self.core.me,
            unix_ms: R::unix_time_ms(),
            retry_of: None,
            asked,
            key,
        };
        self.commit(submission, unplaced, ticket).await
    }

    /// `unplaced`: why it has no parts. With a key it is brought to the log all the same: the operation may be there already, submitted
    /// when there were nodes for it.
    async fn commit(
        &self,
        submission: Submission,
        unplaced: Option<ApiError>,
        ticket: Option<Ticket<R>>,
    ) -> Result<OperationView, ApiError> {
        if submission.key.is_none()
            && let Some(error) = unplaced
        {
            return Err(error);
        }
        let partition = submission.session.partition();
        let nodes: Vec<NodeId> = submission.parts.iter().map(|part| part.node).collect();
        let command = OperationCommand::Submit(Box::new(submission));
        match self.front.operate(partition, command).await.map_err(operation_error)? {
            OperationReply::Submitted(Ok(id)) => {
                if let Some(ticket) = ticket {
                    ticket.logged(id);
                }
                self.offer(id, &nodes);
                // Whatever comes now, the record stands.
                let operation = self.found(id).await.map_err(|error| {
                    let message = format!(
                        "the operation was submitted as {id}, but can not be shown: {}",
                        error.message
                    );
                    ApiError::new(ErrorCode::OutcomeUnknown, message)
                        .hint(format!("see `longshore op inspect {id}`"))
                })?;
                Ok(self.core.group.with_state(|state| operation_view(state, &operation)))
            }
            OperationReply::Submitted(Err(SubmitError::Empty)) => {
                Err(unplaced.unwrap_or_else(|| refused(SubmitError::Empty)))
            }
            OperationReply::Submitted(Err(refusal)) => Err(refused(refusal)),
            other => Err(nonsense("a submission", &other)),
        }
    }

    /// The nodes of its parts, in their order, begin at once; the leader of its group would offer it to them a moment later. (If it is an older
    /// operation that had the same key, they find nothing to do.)
    fn offer(&self, operation: OperationId, nodes: &[NodeId]) {
        let mut offers: BTreeMap<NodeId, Vec<Offer>> = BTreeMap::new();
        for (index, node) in (0..).zip(nodes) {
            let offered = offers.entry(*node).or_default();
            if offered.len() < OFFERED_MAX {
                offered.push(Offer { sub: SubKey { operation, index }, wait_ms: 0 });
            }
        }
        for (node, offers) in offers {
            self.work.offers.send(&self.work.transport, node, offers);
        }
    }

    async fn found(&self, id: OperationId) -> Result<model::Operation, ApiError> {
        self.front.operation(id).await.map_err(operation_error)?.ok_or_else(|| not_found(id))
    }

    pub(super) async fn cancel(&self, id: String) -> Result<OperationView, ApiError> {
        let id = parse_id(&id)?;
        let command =
            OperationCommand::Cancel { operation: id, by: self.core.me, unix_ms: R::unix_time_ms() };
        let again = "cancel it again: the same twice does no harm";
        let cancelled = self.front.operate(id.partition, command).await.map_err(|error| {
            let error = front_error(error);
            if error.code == ErrorCode::OutcomeUnknown { error.hint(again) } else { error }
        });
        match cancelled? {
            OperationReply::Cancelled(Ok(())) => {
                let operation = self.found(id).await.map_err(|error| {
                    let message =
                        format!("operation {id} was cancelled, but can not be shown: {}", error.message);
                    ApiError::new(ErrorCode::OutcomeUnknown, message).hint(again)
                })?;
                self.recall(&operation);
                Ok(self.core.group.with_state(|state| operation_view(state, &operation)))
            }
            OperationReply::Cancelled(Err(CancelError::Unknown)) => Err(not_found(id)),
            OperationReply::Cancelled(Err(CancelError::Ended)) => {
                let error = ApiError::new(ErrorCode::Conflict, format!("operation {id} has ended already"));
                Err(error.hint(format!("see `longshore op inspect {id}`")))
            }
            other => Err(nonsense("a cancellation", &other)),
        }
    }

    /// Whoever may be at it asks the log now, and not only when its lease wants renewal.
    fn recall(&self, operation: &model::Operation) {
        let mut by_node: BTreeMap<NodeId, Vec<SubKey>> = BTreeMap::new();
        for (index, sub) in operation.subs.iter().enumerate() {
            if sub.state == SubState::Cancelled && sub.attempts > 0 {
                let key = SubKey { operation: operation.id, index: index as u32 };
                by_node.entry(sub.node).or_default().push(key);
            }
        }
        for (node, subs) in by_node {
            self.work.offers.recall(&self.work.transport, node, subs);
        }
    }

    pub(super) async fn retry(&self, id: String, key: Option<String>) -> Result<OperationView, ApiError> {
        let of = self.found(parse_id(&id)?).await?;
        let conflict = |message: String| ApiError::new(ErrorCode::Conflict, message);
        if of.ended.is_none() {
            let error = conflict(format!("operation {} has not ended", of.id));
            return Err(error.hint("wait for it with `longshore op wait`, or cancel it"));
        }
        let again = of.subs.iter().filter(|sub| !matches!(sub.state, SubState::Succeeded { .. }));
        let part = |sub: &model::SubOperation| Part { node: sub.node, work: sub.work, why: sub.why.clone() };
        let parts: Vec<Part> = again.map(part).collect();
        if matches!(&of.kind, OperationKind::Run(run) if run.upkeep != Upkeep::None) {
            let error = conflict(format!("the fleet keeps what operation {} began up by itself", of.id));
            return Err(error.hint("see `longshore op runs`"));
        }
        if parts.is_empty() {
            return Err(conflict(format!(
                "all of operation {} succeeded; there is nothing to do again",
                of.id
            )));
        }
        self.linearize().await?;
        let gone = self.core.group.with_state(|state| {
            let mut nodes = parts.iter().map(|part| part.node.to_string());
            let named = nodes.try_for_each(|node| named(self.core.me, state, &node).map(drop));
            named.err().map(|error| error.hint("submit it anew, for the nodes that are there"))
        });
        let key = checked_key(&of.session, key)?;
        let submission = Submission {
            asked: *blake3::hash(format!("retry {}", of.id).as_bytes()).as_bytes(),
            session: of.session,
            kind: of.kind,
            strategy: of.strategy,
            places: of.places,
            parts: if gone.is_some() { Vec::new() } else { parts },
            left_out: Vec::new(),
            timeout_ms: of.timeout_ms,
            submitted_by: self.core.me,
            unix_ms: R::unix_time_ms(),
            retry_of: Some(of.id),
            key,
        };
        self.commit(submission, gone, None).await
    }

    pub(super) async fn operations(&self, query: OperationQuery) -> Result<Vec<OperationView>, ApiError> {
        let OperationQuery { limit, active, session, kind, state, since_ms } = query;
        let limit = limit.unwrap_or(LIST_DEFAULT);
        if limit == 0 || limit > LIST_MAX {
            return Err(ApiError::new(ErrorCode::Invalid, format!("a limit is between 1 and {LIST_MAX}")));
        }
        let session = session.as_deref().map(parse_session).transpose()?;
        let kinds = OperationKind::NAMES;
        if let Some(kind) = kind.as_deref().filter(|kind| !kinds.contains(kind)) {
            let message = format!("{kind:?} is no kind of operation; there are {}", kinds.join(", "));
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        let state = state.map(|state| match state {
            OperationState::Planned => model::OperationState::Planned,
            OperationState::Running => model::OperationState::Running,
            OperationState::Succeeded => model::OperationState::Succeeded,
            OperationState::Partial => model::OperationState::Partial,
            OperationState::Failed => model::OperationState::Failed,
            OperationState::Cancelled => model::OperationState::Cancelled,
        });
        let since_unix_ms = since_ms.unwrap_or(0);
        let listing = Listing { session, active, kind, state, since_unix_ms, limit, before: None };
        let listed = self.front.operations(listing.clone()).await.map_err(operation_error)?;
        let now = R::unix_time_ms();
        let operations = if reaches_beyond(&listing, &listed.operations, now) {
            let more = Listing { limit: limit + LATER_MAX, ..listing };
            let mut recorded = self.work.histories.list(self.living(), &more).await;
            recorded.retain(|operation| listed.may_have_dropped(operation, now));
            merged(listed.operations, recorded, limit)
        } else {
            listed.operations
        };
        Ok(self.core.group.with_state(|state| operations.iter().map(|o| operation_view(state, o)).collect()))
    }

    pub(super) async fn operation(&self, id: String) -> Result<OperationView, ApiError> {
        let id = parse_id(&id)?;
        let operation = match self.front.operation(id).await.map_err(operation_error)? {
            Some(operation) => operation,
            None => self.work.histories.find(self.living(), id).await.ok_or_else(|| not_found(id))?,
        };
        Ok(self.core.group.with_state(|state| operation_view(state, &operation)))
    }

    /// Members that can be asked, as this node sees them.
    fn living(&self) -> Vec<NodeId> {
        let is_alive = |node: &NodeId| self.core.is_alive(*node);
        self.core
            .group
            .with_state(|state| state.membership.members().map(|node| node.id).filter(is_alive).collect())
    }

    pub(super) async fn watch(&self, id: String) -> Result<ApiStream<OperationView>, ApiError> {
        let id = parse_id(&id)?;
        self.found(id).await?;
        let front = self.front.clone();
        Ok(operation_watch::watch(Arc::clone(&self.core), front, id))
    }
}

fn not_found(id: OperationId) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("there is no operation {id}"))
        .hint("operations that have ended are kept for 24 h, and in the history of nodes for as long as their `history.keep`; see `longshore op ls`")
}

/// As [`front_error`], with a hint for operations.
pub(super) fn operation_error(error: FrontError) -> ApiError {
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
        SubmitError::Busy | SubmitError::KeptFull => ErrorCode::Busy,
        SubmitError::KeyReused(_) => ErrorCode::Conflict,
        SubmitError::Empty
        | SubmitError::TooManySubs(_)
        | SubmitError::Timeout
        | SubmitError::Container(_)
        | SubmitError::Build(_) => ErrorCode::Invalid,
        SubmitError::Session(_) | SubmitError::Part => ErrorCode::Internal,
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

/// A hash of what a request asks for, so that another request under the same key is told from the same.
fn asked(request: &OperationRequest) -> [u8; 32] {
    let request = OperationRequest { timeout_ms: None, session: None, ..request.clone() };
    let text = serde_json::to_vec(&request).expect("plain structs of strings and numbers encode as JSON");
    *blake3::hash(&text).as_bytes()
}

fn nonsense(asked: &str, reply: &OperationReply) -> ApiError {
    ApiError::new(ErrorCode::Internal, format!("{asked} was answered with {reply:?}"))
}

/// The hash of an idempotency key in its session; an error if the key is empty or too long.
fn checked_key(session: &SessionId, key: Option<String>) -> Result<Option<[u8; 32]>, ApiError> {
    let Some(key) = key else { return Ok(None) };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        let message = format!("an idempotency key has 1 to {KEY_BYTES_MAX} bytes");
        return Err(ApiError::new(ErrorCode::Invalid, message));
    }
    let mut hasher = blake3::Hasher::new();
    // No session has a zero in its name.
    hasher.update(session.as_str().as_bytes()).update(&[0]).update(key.as_bytes());
    Ok(Some(*hasher.finalize().as_bytes()))
}
