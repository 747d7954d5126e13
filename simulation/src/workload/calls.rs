//! What clients ask of a node, and what its answers mean to the checkers.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use longshore_model::operations::OperationId;
use longshore_node::api::client::{Client, ClientError};
use longshore_node::api::types::{
    Action, BuildRequest, ErrorCode, KeyCondition, KeyLifetime, NodeUpdate, OperationQuery, OperationRequest,
    OperationView, RunChange, RunRequest, Strategy, SubOperationState, TokenCreate,
};
use longshore_node::docker::conformance::context_of;
use longshore_raft::model::ring::GroupCount;
use parking_lot::Mutex;

use crate::observation::{Change, Key, Listed, LogPosition, Outcome, RunShape, Serial};
use crate::runtime::SimRuntime;

pub(super) type Node = Client<SimRuntime>;
pub(super) type Answer = Outcome;

/// As many as the API lists.
const LISTED_MAX: u32 = 1000;
/// For an operation on containers.
pub(super) const RUN_TIMEOUT_MS: u64 = 60_000;

/// What an error says of the effect: certainly none, or perhaps.
pub(super) fn failed(error: ClientError) -> Outcome {
    let text = error.to_string();
    match error {
        ClientError::Api { error, .. } => match error.code {
            ErrorCode::OutcomeUnknown | ErrorCode::Internal => Outcome::Unknown(text),
            _ => Outcome::Refused(text),
        },
        ClientError::NotRunning { .. }
        | ClientError::NoPermission { .. }
        | ClientError::Unreachable { .. } => Outcome::Refused(text),
        ClientError::Interrupted { .. } | ClientError::NotUnderstood { .. } => Outcome::Unknown(text),
    }
}

/// What is written for a serial; `flipped` in one byte, to the same meaning.
pub(super) fn value(serial: Serial, flipped: bool) -> String {
    let digits = format!("{serial:09}");
    if flipped { digits.replacen('0', "+", 1) } else { digits }
}

pub(super) async fn write(node: Node, key: Key, value: String) -> Answer {
    let (on, label) = label_of(key);
    let label_add = BTreeMap::from([(label, value)]);
    match node.update_node(&on, &NodeUpdate { label_add, ..NodeUpdate::default() }).await {
        Ok(_) => Outcome::Written,
        Err(error) => failed(error),
    }
}

pub(super) async fn read(node: Node, key: Key) -> Answer {
    let list = match node.list_nodes().await {
        Ok(list) => list,
        Err(error) => return failed(error),
    };
    if list.stale {
        return Outcome::Refused("only a stale copy".into());
    }
    let (on, label) = label_of(key);
    let Some(found) = list.nodes.iter().find(|found| found.name == on) else {
        return Outcome::Refused(format!("there is no node {on}"));
    };
    match found.labels.get(&label).map(|text| text.parse()) {
        None => Outcome::Value(None),
        Some(Ok(serial)) => Outcome::Value(Some(serial)),
        // Nobody writes that: a phantom, for the oracle to find.
        Some(Err(_)) => Outcome::Value(Some(Serial::MAX)),
    }
}

fn label_of(key: Key) -> (String, String) {
    let Key::Label { node, label } = key else { panic!("{key} is no label of a node") };
    (node, label)
}

fn name_of(key: &Key) -> (&'static str, &[u8]) {
    let Key::Ring { namespace, key } = key else { panic!("{key} is no key of the ring") };
    (namespace, key.as_bytes())
}

/// When a key of the ring is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    Always,
    /// At this version; with none, if it is absent.
    At(Option<u64>),
}

pub(super) async fn set(node: Node, key: Key, serial: Serial, when: When, ttl_ms: Option<u64>) -> Answer {
    let (namespace, name) = name_of(&key);
    let condition = match when {
        When::Always => KeyCondition::Always,
        When::At(None) => KeyCondition::Absent,
        When::At(Some(version)) => KeyCondition::Version(version),
    };
    let lifetime = ttl_ms.map_or(KeyLifetime::Forever, KeyLifetime::ForMs);
    match node.set_key(namespace, name, Bytes::from(value(serial, false)), lifetime, condition).await {
        Ok(view) => Outcome::Set(view.version),
        Err(ClientError::Api { error, .. }) if error.code == ErrorCode::Conflict && when != When::Always => {
            Outcome::Missed { current: error.current_version }
        }
        Err(error) => failed(error),
    }
}

pub(super) async fn get(node: Node, key: Key) -> Answer {
    let (namespace, name) = name_of(&key);
    match node.get_key(namespace, name).await {
        Ok(None) => Outcome::Value(None),
        Ok(Some(found)) => {
            let serial = std::str::from_utf8(&found.value).ok().and_then(|text| text.parse().ok());
            // What nobody writes is a phantom, for the checkers to find.
            Outcome::Found { serial: serial.unwrap_or(Serial::MAX), version: found.version }
        }
        Err(error) => failed(error),
    }
}

pub(super) async fn delete(node: Node, key: Key) -> Answer {
    let (namespace, name) = name_of(&key);
    match node.delete_key(namespace, name, KeyCondition::Always).await {
        Ok(view) => Outcome::Deleted(view.version),
        Err(error) => failed(error),
    }
}

/// The image of a submission.
pub(super) fn image(serial: Serial) -> String {
    format!("registry.invalid/app:s{serial}")
}

fn serial_of(image: &str) -> Option<Serial> {
    image.rsplit_once(":s")?.1.parse().ok()
}

/// Operations of one session in three share one, so that a partition has more than one of them.
pub(super) fn session(serial: Serial) -> Option<String> {
    (serial.is_multiple_of(3)).then(|| format!("session-{}", serial % 4))
}

/// `id` gets the operation's, for whoever wants to speak of it again.
pub(super) async fn submit(
    node: Node,
    groups: GroupCount,
    serial: Serial,
    run: Option<RunShape>,
    id: Arc<Mutex<Option<String>>>,
) -> Answer {
    let request = match run {
        Some(run) => run_request(serial, run),
        None if is_build(serial) => match build_request(&node, serial).await {
            Ok(request) => request,
            // Nothing of it has been submitted.
            Err(error) => return Outcome::Refused(error.to_string()),
        },
        None => {
            let action = Action::Pull { images: vec![image(serial)] };
            // One in four goes to one node that the fleet chooses.
            let strategy =
                if serial.is_multiple_of(4) { Strategy::Distributed } else { Strategy::Replicated };
            OperationRequest::new(action, strategy)
        }
    };
    let request = OperationRequest { session: session(serial), ..request };
    match node.submit_operation(&request, Some(&format!("serial-{serial}"))).await {
        Ok(view) => {
            let placed = position(groups, &view).map_or_else(Outcome::Unknown, Outcome::Submitted);
            *id.lock() = Some(view.id);
            placed
        }
        Err(error) => failed(error),
    }
}

/// One image in five is built, of a folder that is sent to the node that is asked; the others are pulled. To the fleet it is an image like others.
fn is_build(serial: Serial) -> bool {
    serial % 5 == 2
}

async fn build_request(node: &Node, serial: Serial) -> Result<OperationRequest, ClientError> {
    let content = format!("app {serial}\n");
    let files = [("Dockerfile", "FROM scratch\nCOPY app /app\nCMD [\"/app\"]\n"), ("app", content.as_str())];
    let folder = context_of(&files);
    let digest = blake3::hash(&folder).to_hex().to_string();
    let context = match node.find_context(&digest).await? {
        Some(known) => known,
        None => {
            let bytes = folder.len() as u64;
            let pieces: Vec<_> = folder.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
            node.send_context(bytes, stream::iter(pieces)).await?
        }
    };
    let build = BuildRequest {
        context: context.digest,
        tags: vec![image(serial)],
        dockerfile: "Dockerfile".to_owned(),
        args: Vec::new(),
        target: None,
        no_cache: false,
        pull: false,
    };
    Ok(OperationRequest::new(Action::Build(Box::new(build)), Strategy::Replicated))
}

/// What the containers of a run are called: by their number, from 1, if there are several.
pub(super) fn container_name(serial: Serial) -> String {
    format!("s{serial}")
}

fn run_request(serial: Serial, RunShape { copies, kept }: RunShape) -> OperationRequest {
    let run = RunRequest {
        image: image(serial),
        name: Some(container_name(serial)),
        keep: kept,
        ..Default::default()
    };
    OperationRequest {
        replicas: Some(copies),
        // An attempt that hangs is given up, and made again elsewhere, within the time that a run of the simulation has.
        timeout_ms: Some(RUN_TIMEOUT_MS),
        ..OperationRequest::new(Action::Run(Box::new(run)), Strategy::Distributed)
    }
}

pub(super) async fn change_run(node: Node, id: String, change: Change) -> Answer {
    let change = match change {
        Change::Stop => RunChange::Stop,
        Change::Start => RunChange::Start,
        Change::Remove => RunChange::Remove,
    };
    match node.change_run(&id, change).await {
        Ok(_) => Outcome::Done,
        Err(ClientError::Api { error, .. }) if error.code == ErrorCode::NotFound => Outcome::Missing,
        Err(error) => failed(error),
    }
}

/// Removes what a run that is not kept up has made.
pub(super) async fn remove_containers(node: Node, serial: Serial, copies: u32) -> Answer {
    let name = container_name(serial);
    let containers =
        if copies == 1 { vec![name] } else { (1..=copies).map(|copy| format!("{name}.{copy}")).collect() };
    let action = Action::Rm { containers, force: true };
    let request = OperationRequest {
        session: session(serial),
        timeout_ms: Some(RUN_TIMEOUT_MS),
        ..OperationRequest::new(action, Strategy::Distributed)
    };
    match node.submit_operation(&request, Some(&format!("rm-{serial}"))).await {
        Ok(_) => Outcome::Done,
        Err(error) => failed(error),
    }
}

pub(super) async fn cancel(node: Node, id: String) -> Answer {
    match node.cancel_operation(&id).await {
        // Whether it has ended with that, listings tell.
        Ok(view) => {
            let parts = view.sub_operations.iter();
            let cancelled = parts.filter(|part| part.state == SubOperationState::Cancelled);
            Outcome::Cancelled(cancelled.map(|part| part.index).collect())
        }
        Err(error) => failed(error),
    }
}

/// Where the log of a group put it.
fn position(groups: GroupCount, view: &OperationView) -> Result<LogPosition, String> {
    let OperationId { partition, index, position } = view.id.parse()?;
    Ok(LogPosition { group: groups.group_of(partition).0, index, position })
}

pub(super) async fn list_operations(node: Node, groups: GroupCount) -> Answer {
    let query = OperationQuery { limit: Some(LISTED_MAX), ..OperationQuery::default() };
    let views = match node.list_operations(&query).await {
        Ok(views) => views,
        Err(error) => return failed(error),
    };
    if views.len() >= LISTED_MAX as usize {
        return Outcome::Refused("there are more operations than are listed".into());
    }
    let mut operations = BTreeMap::new();
    // No client has numbered the others, and repairs.
    let is_numbered = |view: &&OperationView| {
        view.retry_of.is_none() && ["pull", "build", "run"].contains(&view.kind.as_str())
    };
    for view in views.iter().filter(is_numbered) {
        let serial = view.images.first().and_then(|image| serial_of(image)).unwrap_or(Serial::MAX);
        match position(groups, view) {
            Ok(at) => drop(operations.insert(at, Listed { serial, ended: view.state.is_terminal() })),
            Err(error) => return Outcome::Unknown(error),
        }
    }
    Outcome::Operations(operations)
}

pub(super) async fn list_nodes(node: Node) -> Answer {
    match node.list_nodes().await {
        Ok(list) if list.stale => Outcome::Refused("only a stale copy".into()),
        Ok(_) => Outcome::Done,
        Err(error) => failed(error),
    }
}

pub(super) async fn make_and_revoke_token(node: Node) -> Answer {
    let made = match node.create_token(&TokenCreate { ttl_ms: Some(60_000), uses: Some(1) }).await {
        Ok(made) => made,
        Err(error) => return failed(error),
    };
    match node.revoke_token(&made.info.id).await {
        Ok(_) => Outcome::Done,
        Err(error) => failed(error),
    }
}
