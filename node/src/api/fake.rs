//! A fleet that tests script: enough state to tell that a request arrived whole, and knobs for what can go wrong.

mod contexts;
mod engines;
mod keys;
mod nodes;
mod ring;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::service::{ApiFuture, ApiStream, FleetService};
use super::types::*;
pub(crate) use contexts::CONTEXT_MAX_BYTES;
pub(crate) use ring::{progress, ring};

type Watcher = mpsc::UnboundedSender<Result<OperationView, ApiError>>;

#[derive(Debug, Default)]
struct State {
    nodes: BTreeMap<String, NodeView>,
    tokens: Vec<TokenView>,
    operations: Vec<OperationView>,
    keys: BTreeMap<String, String>,
    watchers: BTreeMap<String, Vec<Watcher>>,
    /// What each call of this name answers instead, taken from the front.
    failures: BTreeMap<&'static str, Vec<ApiError>>,
    panics: BTreeSet<&'static str>,
    ring_paused: bool,
    /// And whether it goes on when the ring has settled.
    ring_watchers: Vec<(ring::RingWatcher, bool)>,
    values: BTreeMap<(String, Vec<u8>), KeyValue>,
    key_version: u64,
    contexts: Vec<ContextView>,
    calls: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct FakeFleet {
    state: Mutex<State>,
    /// Calls wait here for a permit; closed means that none waits.
    pub(crate) gate: Arc<Semaphore>,
}

impl FakeFleet {
    pub(crate) fn new() -> Arc<Self> {
        let gate = Arc::new(Semaphore::new(0));
        gate.close();
        Self::with_gate(gate)
    }

    /// Every call waits until the test adds permits to the gate.
    pub(crate) fn gated() -> Arc<Self> {
        Self::with_gate(Arc::new(Semaphore::new(0)))
    }

    fn with_gate(gate: Arc<Semaphore>) -> Arc<Self> {
        let mut state = State::default();
        for (index, name) in ["alpha", "beta", "gamma"].into_iter().enumerate() {
            state.nodes.insert(name.to_owned(), node(index as u64 + 1, name));
        }
        Arc::new(Self { state: Mutex::new(state), gate })
    }

    /// The next calls of `name` fail with these.
    pub(crate) fn fail(&self, name: &'static str, errors: impl IntoIterator<Item = ApiError>) {
        self.state.lock().failures.entry(name).or_default().extend(errors);
    }

    pub(crate) fn panic_in(&self, name: &'static str) {
        self.state.lock().panics.insert(name);
    }

    /// Calls so far, as `name argument`.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.lock().calls.clone()
    }

    /// Stores an operation's new state and tells its watchers.
    pub(crate) fn publish(&self, view: &OperationView) {
        let mut state = self.state.lock();
        match state.operations.iter_mut().find(|known| known.id == view.id) {
            Some(known) => *known = view.clone(),
            None => state.operations.push(view.clone()),
        }
        let watchers = state.watchers.entry(view.id.clone()).or_default();
        watchers.retain(|watcher| watcher.send(Ok(view.clone())).is_ok());
        if view.state.is_terminal() {
            watchers.clear();
        }
    }

    /// Ends the watches of an operation, with an error or silently.
    pub(crate) fn end_watches(&self, id: &str, error: Option<ApiError>) {
        for watcher in self.state.lock().watchers.remove(id).unwrap_or_default() {
            if let Some(error) = &error {
                let _ = watcher.send(Err(error.clone()));
            }
        }
    }

    pub(crate) fn watchers(&self, id: &str) -> usize {
        let mut state = self.state.lock();
        let watchers = state.watchers.entry(id.to_owned()).or_default();
        watchers.retain(|watcher| !watcher.is_closed());
        watchers.len()
    }

    /// Counts the call, waits at the gate, fails or panics if told to.
    async fn enter(&self, name: &'static str, argument: &str) -> Result<(), ApiError> {
        self.state.lock().calls.push(format!("{name} {argument}").trim_end().to_owned());
        if let Ok(permit) = self.gate.acquire().await {
            permit.forget();
        }
        let mut state = self.state.lock();
        assert!(!state.panics.contains(name), "told to panic");
        match state.failures.get_mut(name) {
            Some(errors) if !errors.is_empty() => Err(errors.remove(0)),
            _ => Ok(()),
        }
    }

    fn find<'a>(state: &'a mut State, node: &str) -> Result<&'a mut NodeView, ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, format!("there is no node {node}"));
        state
            .nodes
            .values_mut()
            .find(|known| [&known.name, &known.id].map(String::as_str).contains(&node))
            .ok_or_else(unknown)
    }
}

pub(crate) fn node(id: u64, name: &str) -> NodeView {
    let engine = match id {
        1 => EngineView::Ready {
            version: "26.1.5".into(),
            api_version: "1.45".into(),
            arch: "x86_64".into(),
            cpus: 4,
            memory_bytes: 8 << 30,
            capabilities: vec!["arch:amd64".into(), "os:linux".into()],
        },
        2 => EngineView::NotConfigured,
        _ => EngineView::Unavailable { reason: "no socket".into() },
    };
    NodeView {
        id: format!("n{id}"),
        name: name.to_owned(),
        is_self: id == 1,
        role: if id == 1 { NodeRole::Leader } else { NodeRole::Voter },
        state: if id == 3 { NodeState::Suspect } else { NodeState::Alive },
        address: format!("10.0.0.{id}:7400"),
        zone: (id == 2).then(|| "east".to_owned()),
        region: (id == 2).then(|| "north".to_owned()),
        weight: 1024,
        announced: AnnouncedView {
            zone: (id == 2).then(|| "east".to_owned()),
            region: (id == 2).then(|| "north".to_owned()),
            weight: 1024,
        },
        availability: AvailabilityView {
            state: NodeAvailability::Active,
            message: None,
            by: None,
            at_ms: None,
        },
        labels: BTreeMap::new(),
        engine,
        load: (id != 3).then(|| LoadView {
            cpu_busy_percent: 7 * id as u32,
            memory_bytes: 8 << 30,
            memory_free_bytes: 6 << 30,
            disk_bytes: 64 << 30,
            disk_free_bytes: 16 << 30,
            running: id as u32,
            engine_ms: (id == 1).then_some(12),
            images: (id == 1).then_some(4),
            age_ms: 3_000 * (id - 1),
        }),
        version: "0.1.0".into(),
        last_seen_ms: Some((id - 1) * 700),
        joined_at_ms: 1_700_000_000_000,
        clock_skew_ms: None,
        replica: Some(format!("r{id}")),
    }
}

pub(crate) fn operation(id: &str, state: OperationState) -> OperationView {
    let sub = |index: u32, node: &str| SubOperationView {
        index,
        node: node.to_owned(),
        subject: "docker.io/library/nginx:1.27".into(),
        why: None,
        state: match state {
            OperationState::Planned => SubOperationState::Assigned,
            OperationState::Running => SubOperationState::Running,
            OperationState::Succeeded => SubOperationState::Succeeded,
            OperationState::Partial if index == 0 => SubOperationState::Succeeded,
            OperationState::Partial | OperationState::Failed => SubOperationState::Failed,
            OperationState::Cancelled => SubOperationState::Cancelled,
        },
        attempts: 1,
        layers_done: 0,
        layers_total: 2,
        current_bytes: 0,
        total_bytes: 0,
        result: None,
        error: None,
        started_at_ms: None,
        ended_at_ms: None,
    };
    OperationView {
        id: id.to_owned(),
        session: "nightly".into(),
        kind: "pull".into(),
        state,
        strategy: Strategy::Replicated,
        images: vec!["docker.io/library/nginx:1.27".into()],
        containers: Vec::new(),
        build: None,
        submitted_by: "alpha".into(),
        submitted_at_ms: 1_700_000_000_000,
        retry_of: None,
        cancelled_by: None,
        left_out: Vec::new(),
        ended_at_ms: None,
        sub_operations: vec![sub(0, "alpha"), sub(1, "beta")],
    }
}

impl FleetService for FakeFleet {
    fn status(&self) -> ApiFuture<'_, StatusView> {
        Box::pin(async {
            self.enter("status", "").await?;
            Ok(StatusView {
                version: "0.1.0".into(),
                fleet: "00112233445566778899aabbccddeeff".into(),
                node_id: "n1".into(),
                name: "alpha".into(),
                address: "10.0.0.1:7400".into(),
                role: NodeRole::Leader,
                leader: Some("alpha".into()),
                term: 3,
                applied_index: 41,
                committed_index: 42,
                voters: 3,
                nodes_alive: 2,
                nodes_total: 3,
                operations_running: 1,
                engine: self.state.lock().nodes["alpha"].engine.clone(),
                uptime_ms: 3_723_000,
                clock_skew_max_ms: Some(-12),
                warnings: vec!["node gamma is suspected to be dead".into()],
            })
        })
    }

    fn health(&self) -> ApiFuture<'_, HealthView> {
        Box::pin(async {
            self.enter("health", "").await?;
            let reasons = vec!["there is no leader".to_owned()];
            Ok(HealthView { live: true, ready: false, reasons })
        })
    }

    fn list_nodes(&self) -> ApiFuture<'_, NodeList> {
        Box::pin(async {
            self.enter("list_nodes", "").await?;
            Ok(NodeList { nodes: self.state.lock().nodes.values().cloned().collect(), stale: false })
        })
    }

    fn inspect_node(&self, node: String) -> ApiFuture<'_, NodeView> {
        Box::pin(async move {
            self.enter("inspect_node", &node).await?;
            Self::find(&mut self.state.lock(), &node).cloned()
        })
    }

    fn update_node(&self, node: String, update: NodeUpdate) -> ApiFuture<'_, NodeView> {
        Box::pin(async move {
            self.enter("update_node", &node).await?;
            let mut state = self.state.lock();
            let view = Self::find(&mut state, &node)?;
            nodes::update(view, update);
            Ok(view.clone())
        })
    }

    fn node_work(&self, node: String) -> ApiFuture<'_, NodeWorkView> {
        Box::pin(async move {
            self.enter("node_work", &node).await?;
            let mut state = self.state.lock();
            let view = Self::find(&mut state, &node)?.clone();
            Ok(nodes::work(&view, &state.operations))
        })
    }

    fn node_removal(&self, node: String) -> ApiFuture<'_, RemovalView> {
        Box::pin(async move {
            self.enter("node_removal", &node).await?;
            let mut state = self.state.lock();
            let NodeView { id, name, state, .. } = Self::find(&mut state, &node)?.clone();
            Ok(RemovalView { loss: nodes::loss(&name), id, name, state })
        })
    }

    fn remove_node(&self, node: String, query: RemoveQuery) -> ApiFuture<'_, RemovedView> {
        Box::pin(async move {
            let forced = if query.force { " by force" } else { "" };
            self.enter("remove_node", &format!("{node}{forced}")).await?;
            let mut state = self.state.lock();
            let view = Self::find(&mut state, &node)?.clone();
            state.nodes.remove(&view.name);
            let loss = if query.force { nodes::loss(&view.name) } else { nodes::loss("") };
            Ok(RemovedView { node: NodeView { state: NodeState::Left, ..view }, loss })
        })
    }

    fn leave(&self, query: LeaveQuery) -> ApiFuture<'_, LeaveView> {
        Box::pin(async move {
            self.enter("leave", &query.deadline_ms.map_or_else(String::new, |ms| ms.to_string())).await?;
            let parts = nodes::work(&node(1, "alpha"), &self.state.lock().operations).parts;
            Ok(LeaveView {
                node: "alpha".into(),
                new_leader: Some("beta".into()),
                unfinished: Some(parts.len() as u32),
                parts,
            })
        })
    }

    fn create_token(&self, request: TokenCreate) -> ApiFuture<'_, TokenCreated> {
        Box::pin(async move {
            self.enter("create_token", &format!("{:?} {:?}", request.ttl_ms, request.uses)).await?;
            let mut state = self.state.lock();
            let info = TokenView {
                id: format!("t{}", state.tokens.len() + 1),
                state: TokenState::Valid,
                uses: 0,
                uses_max: request.uses.unwrap_or(1),
                expires_in_ms: request.ttl_ms.unwrap_or(3_600_000),
            };
            state.tokens.push(info.clone());
            let token = "LSJ1-secret".to_owned();
            let join_command = format!("longshore join --token {token} 10.0.0.1:7400");
            Ok(TokenCreated { token, info, join_command })
        })
    }

    fn list_tokens(&self) -> ApiFuture<'_, Vec<TokenView>> {
        Box::pin(async {
            self.enter("list_tokens", "").await?;
            Ok(self.state.lock().tokens.clone())
        })
    }

    fn revoke_token(&self, id: String) -> ApiFuture<'_, TokenView> {
        Box::pin(async move {
            self.enter("revoke_token", &id).await?;
            let mut state = self.state.lock();
            let token = state.tokens.iter_mut().find(|token| token.id == id);
            let token =
                token.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no token {id}")))?;
            token.state = TokenState::Revoked;
            Ok(token.clone())
        })
    }

    fn submit_operation(
        &self,
        request: OperationRequest,
        key: Option<String>,
    ) -> ApiFuture<'_, OperationView> {
        Box::pin(async move {
            let OperationRequest { action, on, .. } = request;
            let images = match action {
                Action::Pull { images } => images,
                Action::Push { images } => [vec!["push".into()], images].concat(),
                Action::Tag { source, targets } => [vec!["tag".into(), source], targets].concat(),
                Action::Build(build) => {
                    let BuildRequest { context, tags, dockerfile, args, target, no_cache, pull } = *build;
                    let rest = format!("{target:?} {no_cache} {pull}");
                    [vec!["build".into(), context, dockerfile], tags, args, vec![rest]].concat()
                }
                Action::Run(run) => vec!["run".into(), run.image],
                Action::Stop { containers, .. } => [vec!["stop".into()], containers].concat(),
                Action::Start { containers } => [vec!["start".into()], containers].concat(),
                Action::Rm { containers, .. } => [vec!["rm".into()], containers].concat(),
            };
            self.enter("submit_operation", &format!("{} on {}", images.join(","), on.join(","))).await?;
            let mut state = self.state.lock();
            if let Some(id) = key.as_ref().and_then(|key| state.keys.get(key)) {
                let known = state.operations.iter().find(|known| known.id == *id);
                return Ok(known.expect("keys lead to operations").clone());
            }
            let view = operation(&format!("op{}", state.operations.len() + 1), OperationState::Planned);
            state.operations.push(view.clone());
            state.keys.extend(key.map(|key| (key, view.id.clone())));
            Ok(view)
        })
    }

    fn list_operations(&self, query: OperationQuery) -> ApiFuture<'_, Vec<OperationView>> {
        Box::pin(async move {
            self.enter("list_operations", &format!("{:?} {}", query.limit, query.active)).await?;
            let state = self.state.lock();
            let wanted =
                state.operations.iter().rev().filter(|view| !query.active || !view.state.is_terminal());
            Ok(wanted.take(query.limit.unwrap_or(100) as usize).cloned().collect())
        })
    }

    fn inspect_operation(&self, id: String) -> ApiFuture<'_, OperationView> {
        Box::pin(async move {
            self.enter("inspect_operation", &id).await?;
            let state = self.state.lock();
            let found = state.operations.iter().find(|view| view.id == id).cloned();
            found.ok_or_else(|| ApiError::new(ErrorCode::NotFound, format!("there is no operation {id}")))
        })
    }

    fn cancel_operation(&self, id: String) -> ApiFuture<'_, OperationView> {
        Box::pin(async move {
            self.enter("cancel_operation", &id).await?;
            let view = OperationView {
                cancelled_by: Some("alpha".into()),
                left_out: Vec::new(),
                ..operation(&id, OperationState::Cancelled)
            };
            self.publish(&view);
            Ok(view)
        })
    }

    fn retry_operation(&self, id: String, _: Option<String>) -> ApiFuture<'_, OperationView> {
        Box::pin(async move {
            self.enter("retry_operation", &id).await?;
            let again = format!("op{}", self.state.lock().operations.len() + 1);
            let view = OperationView { retry_of: Some(id), ..operation(&again, OperationState::Planned) };
            self.publish(&view);
            Ok(view)
        })
    }

    fn watch_operation(&self, id: String) -> ApiFuture<'_, ApiStream<OperationView>> {
        Box::pin(async move {
            self.enter("watch_operation", &id).await?;
            let mut state = self.state.lock();
            let Some(now) = state.operations.iter().find(|view| view.id == id).cloned() else {
                return Err(ApiError::new(ErrorCode::NotFound, format!("there is no operation {id}")));
            };
            let (sender, receiver) = mpsc::unbounded_channel();
            let ended = now.state.is_terminal();
            let _ = sender.send(Ok(now));
            if !ended {
                state.watchers.entry(id).or_default().push(sender);
            }
            let stream = futures_util::stream::unfold(receiver, |mut receiver| async {
                receiver.recv().await.map(|item| (item, receiver))
            });
            Ok(stream.boxed() as ApiStream<OperationView>)
        })
    }
}
