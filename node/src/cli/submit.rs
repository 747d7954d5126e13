//! What operations have in common: what is to be done, where, and how its submission is repeated; and those about images.

use std::time::Duration;

use clap::Args;
use data_encoding::HEXLOWER;
use longshore_raft::Runtime as _;

use super::args::Format;
use super::error::{CliError, Exit};
use super::follow::{self, PAUSES, Pauses, Views};
use super::op::is_json;
use super::output;
use super::session::{Client, Runtime, Session};
use crate::api::client::ClientError;
use crate::api::types::{Action, ErrorCode, MissingNode, OperationRequest, OperationView, Strategy};
use crate::config::units::{parse_duration, parse_size};

/// How often a submission whose outcome is unknown is repeated, with the same key.
const SUBMIT_ATTEMPTS: u32 = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum StrategyArg {
    /// One node: the one that is asked, the one named by --on, or the best of those that --label and --zone choose
    Local,
    /// Every living node with an engine (it says which it leaves out), those named by --on, or as many as --replicas says
    Replicated,
    /// Each image on one of the nodes: as many for each as it has capacity free
    Distributed,
}

impl From<StrategyArg> for Strategy {
    fn from(strategy: StrategyArg) -> Self {
        match strategy {
            StrategyArg::Local => Self::Local,
            StrategyArg::Replicated => Self::Replicated,
            StrategyArg::Distributed => Self::Distributed,
        }
    }
}

/// Which nodes do it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Where")]
pub(super) struct WhereArgs {
    /// How the work is given to nodes; if none is named: distributed for containers, replicated for a pull and where --replicas is there, else local
    #[arg(long, value_enum)]
    strategy: Option<StrategyArg>,
    /// A node, by name or id; may be repeated
    #[arg(long, value_name = "NODE", conflicts_with_all = ["labels", "zones"])]
    on: Vec<String>,
    /// Only nodes with this label; may be repeated
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<String>,
    /// Only nodes in this zone, or one of these
    #[arg(long = "zone", value_name = "ZONE")]
    zones: Vec<String>,
    /// Only on hosts with so many processors at least
    #[arg(long, value_name = "NUMBER", conflicts_with = "on", value_parser = clap::value_parser!(u32).range(1..))]
    min_cpu: Option<u32>,
    /// Only on hosts with so much memory at least, such as 8GiB
    #[arg(long, value_name = "SIZE", conflicts_with = "on", value_parser = parse_size)]
    min_memory: Option<usize>,
    /// Only where so much of the disk with the engine's images is free at least, such as 20GiB
    #[arg(long, value_name = "SIZE", conflicts_with = "on", value_parser = parse_size)]
    min_storage: Option<usize>,
    /// Only where the engine can do this, such as runtime:runc or gpu (`longshore node inspect` lists it); may be repeated
    #[arg(long = "capability", value_name = "CAPABILITY", conflicts_with = "on")]
    capabilities: Vec<String>,
    /// Only on hosts of this architecture, such as amd64 or arm64
    #[arg(long, value_name = "ARCH", conflicts_with = "on")]
    arch: Option<String>,
    /// Nodes in this zone come first, as far as they can do it
    #[arg(long, value_name = "ZONE", conflicts_with = "on")]
    prefer_zone: Option<String>,
    /// On so many nodes, spread over zones (replicated); of `run`: so many containers, spread over nodes and zones
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    replicas: Option<u32>,
    /// To one node after the other, whatever they can carry (distributed)
    #[arg(long)]
    in_turn: bool,
}

impl WhereArgs {
    /// On this node, or where the strategy says.
    pub(super) fn on_node(node: Option<String>) -> Self {
        let on = node.into_iter().collect();
        Self {
            strategy: None,
            on,
            labels: Vec::new(),
            zones: Vec::new(),
            min_cpu: None,
            min_memory: None,
            min_storage: None,
            capabilities: Vec::new(),
            arch: None,
            prefer_zone: None,
            replicas: None,
            in_turn: false,
        }
    }
}

/// How it is submitted and shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "How")]
pub(super) struct HowArgs {
    /// Give up after so long
    #[arg(long, value_name = "DURATION", default_value = "30m", value_parser = parse_duration)]
    timeout: Duration,
    /// Print the operation's id and do not wait
    #[arg(long, short)]
    detach: bool,
    /// The same key, in the same session, gives the same operation, at every node
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// The session that it belongs to, by a name of yours; without one it gets a session of its own
    #[arg(long, value_name = "NAME")]
    session: Option<String>,
    #[command(flatten)]
    shown: ShownArgs,
}

impl HowArgs {
    pub(super) fn format(&self) -> Format {
        self.shown.format
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.shown.quiet
    }
}

#[derive(Debug, Args)]
pub(super) struct ShownArgs {
    /// How to print the operation
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print the id only
    #[arg(long, short, conflicts_with = "format")]
    quiet: bool,
}

#[derive(Debug, Args)]
pub(super) struct PullArgs {
    /// References such as nginx:1.27 or registry.example:5000/app@sha256:...
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct PushArgs {
    /// References such as registry.example:5000/app:3, which the engine has
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct TagArgs {
    /// An image that the engine has
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Its further names
    #[arg(required = true, value_name = "NAME")]
    targets: Vec<String>,
    #[command(flatten)]
    place: WhereArgs,
    #[command(flatten)]
    how: HowArgs,
}

#[derive(Debug, Args)]
pub(super) struct RetryArgs {
    /// Id of an operation that has ended
    id: String,
    /// Print the new operation's id and do not wait
    #[arg(long, short)]
    detach: bool,
    /// The same key gives the same operation, at every node
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    shown: ShownArgs,
}

pub(super) async fn pull(session: &mut Session<'_>, args: PullArgs) -> Result<(), CliError> {
    let action = Action::Pull { images: args.images };
    submit_and_follow(session, action, StrategyArg::Replicated, args.place, args.how).await
}

pub(super) async fn push(session: &mut Session<'_>, args: PushArgs) -> Result<(), CliError> {
    let action = Action::Push { images: args.images };
    submit_and_follow(session, action, StrategyArg::Local, args.place, args.how).await
}

pub(super) async fn tag(session: &mut Session<'_>, args: TagArgs) -> Result<(), CliError> {
    let action = Action::Tag { source: args.source, targets: args.targets };
    submit_and_follow(session, action, StrategyArg::Local, args.place, args.how).await
}

/// Does again what failed of an operation.
pub(super) async fn retry(session: &mut Session<'_>, args: RetryArgs) -> Result<(), CliError> {
    let what = Submitted::Again(args.id);
    let key = args.idempotency_key.unwrap_or_else(new_key);
    submit_what(session, what, key, args.detach, args.shown).await
}

pub(super) async fn submit_and_follow(
    session: &mut Session<'_>,
    action: Action,
    usual: StrategyArg,
    place: WhereArgs,
    how: HowArgs,
) -> Result<(), CliError> {
    // A number of replicas says which strategy is meant, if none was named. Containers may be more than there are nodes.
    let implied =
        place.replicas.map(|_| StrategyArg::Replicated).filter(|_| usual != StrategyArg::Distributed);
    let strategy = place.strategy.or(implied).unwrap_or(usual);
    let request = OperationRequest {
        action,
        strategy: strategy.into(),
        on: place.on,
        labels: place.labels,
        zones: place.zones,
        min_cpus: place.min_cpu,
        min_memory_bytes: place.min_memory.map(|bytes| bytes as u64),
        min_storage_bytes: place.min_storage.map(|bytes| bytes as u64),
        arch: place.arch,
        capabilities: place.capabilities,
        preferred_zone: place.prefer_zone,
        replicas: place.replicas,
        in_turn: place.in_turn,
        timeout_ms: Some(u64::try_from(how.timeout.as_millis()).unwrap_or(u64::MAX)),
        session: how.session,
    };
    let key = how.idempotency_key.unwrap_or_else(new_key);
    submit_what(session, Submitted::New(Box::new(request)), key, how.detach, how.shown).await
}

async fn submit_what(
    session: &mut Session<'_>,
    what: Submitted,
    key: String,
    detach: bool,
    ShownArgs { format, quiet }: ShownArgs,
) -> Result<(), CliError> {
    let operation = tokio::select! {
        biased;
        () = &mut session.interrupt => {
            session.terminal.report("Interrupted; the operation may have been submitted: see `longshore op ls`.\n");
            return Err(CliError::quiet(Exit::Interrupted));
        }
        submitted = submit(&session.client, &what, &key, PAUSES) => submitted?,
    };
    if !quiet {
        for MissingNode { node, why } in &operation.left_out {
            session.terminal.report(&format!("note: {node} is left out: it {why}\n"));
        }
    }
    if detach {
        return match is_json(format) {
            true => session.print(&output::json(&operation)),
            false => session.print(&format!("{}\n", operation.id)),
        };
    }
    let views = Views::of(session.client.clone(), operation.id.clone(), None);
    follow::follow_to_end(session, operation, views, format, quiet).await
}

/// What is submitted, under one key however often.
#[derive(Debug)]
pub(super) enum Submitted {
    New(Box<OperationRequest>),
    /// What failed of an operation.
    Again(String),
}

impl Submitted {
    async fn send(&self, client: &Client, key: &str) -> Result<OperationView, ClientError> {
        match self {
            Self::New(request) => client.submit_operation(request, Some(key)).await,
            Self::Again(id) => client.retry_operation(id, Some(key)).await,
        }
    }
}

fn new_key() -> String {
    let mut bytes = [0; 16];
    Runtime::entropy(&mut bytes);
    format!("cli-{}", HEXLOWER.encode(&bytes))
}

/// Submits, and repeats with the same key while it is unknown whether it was: that cannot make two operations.
pub(super) async fn submit(
    client: &Client,
    what: &Submitted,
    key: &str,
    mut pauses: Pauses,
) -> Result<OperationView, CliError> {
    let mut unknown: Option<CliError> = None;
    let mut attempts = 0;
    loop {
        let error = match what.send(client, key).await {
            Ok(operation) => return Ok(operation),
            Err(error) => error,
        };
        let (left, may_help) = if may_have_happened(&error) {
            let hint = format!("try again with --idempotency-key {key}: it will not be done twice");
            (CliError::from(error).hint(hint), true)
        } else {
            match unknown.take() {
                // A node has begun to leave, say: that undoes nothing of an earlier attempt.
                Some(earlier) if !is_wrong(&error) => (earlier, error.is_transient()),
                _ => return Err(error.into()),
            }
        };
        attempts += 1;
        if !may_help || attempts == SUBMIT_ATTEMPTS {
            return Err(left);
        }
        unknown = Some(left);
        pauses.pause().await;
    }
}

/// The request itself is: no attempt can have done anything.
fn is_wrong(error: &ClientError) -> bool {
    let wrong = [ErrorCode::Invalid, ErrorCode::TooLarge, ErrorCode::Denied];
    matches!(error, ClientError::Api { error, .. } if wrong.contains(&error.code))
}

fn may_have_happened(error: &ClientError) -> bool {
    match error {
        ClientError::Api { error, .. } => error.code == ErrorCode::OutcomeUnknown,
        ClientError::Interrupted { .. } => true,
        _ => false,
    }
}
