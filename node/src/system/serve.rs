//! Runs a node on this machine.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_raft::model::ring::schedule::ScheduleLimits;
use longshore_storage::DiskFloor;
use longshore_storage::disk::RealDisk;
use longshore_storage::log::{Committer, spawn_committer};
use longshore_storage::tables::{SledTables, Tables};
use tokio_util::sync::CancellationToken;

use super::host::ProcHost;
use super::lock::{DataDirLock, LockError};
use super::network::UdpNetwork;
use crate::api::listener::{BindError, TcpApiListener, UnixApiListener};
use crate::api::server::Access;
use crate::cli::{Announcer, signals};
use crate::config::{FILE_NAME, NodeConfig, settings_file};
use crate::docker::{BollardEngine, ContainerEngine};
use crate::logging::LogHandle;
use crate::node::{
    ApiDoor, Event, Exit, Node, NodeError, NodeOptions, OpenTables, Ports, Start, StartedCommitter,
};
use crate::node_store::NodeStore;

/// Data bytes of a segment of the log: large enough that a segment is begun seldom, small enough that one that must be rewritten
/// is rewritten in a second.
const SEGMENT_BYTES: u32 = 64 << 20;

/// Folder of the history of operations in the data folder.
const HISTORY_DIR: &str = "history";
/// Folder of the inventory of the engine in the data folder.
const INVENTORY_DIR: &str = "inventory";

/// Why a node could not run on this machine.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Api(#[from] BindError),
    #[error("cannot {action}: {source}")]
    System { action: &'static str, source: std::io::Error },
}

impl ServeError {
    /// What the user can do about it.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Lock(LockError::InUse { .. }) => {
                Some("a longshore runs there already; stop it, or give another folder with --data-dir")
            }
            Self::Node(error) => error.hint(),
            _ => None,
        }
    }

    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Node(error) => error.exit_code(),
            _ => 1,
        }
    }
}

/// The name of the node that a data folder belongs to, if it can be told; for the log.
pub fn stored_name(data_dir: &Path) -> Option<String> {
    if !data_dir.is_dir() {
        return None;
    }
    let disk = RealDisk::open(data_dir).ok()?;
    NodeStore::new(Arc::new(disk)).load().ok().flatten().map(|node| node.name)
}

/// Runs a node until it is told to stop, leaves, or fails. Prints what a person should see on standard output.
pub async fn serve(config: NodeConfig, start: Start, log: LogHandle) -> Result<Exit, ServeError> {
    let _lock = DataDirLock::acquire(&config.data_dir)?;
    let system = |action| move |source| ServeError::System { action, source };
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone());
    config.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let (network, bound) = UdpNetwork::bind(config.listen).map_err(|e| NodeError::Listen {
        address: config.listen,
        detail: match e.kind() {
            std::io::ErrorKind::AddrInUse => "the port is already in use".to_owned(),
            _ => e.to_string(),
        },
    })?;
    let disk = RealDisk::open(&config.data_dir).map_err(system("open the data folder"))?;
    let mut doors = vec![ApiDoor {
        listener: Box::new(UnixApiListener::bind(&config.socket_path())?),
        access: Access::Full,
    }];
    if let Some(address) = config.api {
        let listener = TcpApiListener::bind(address).await?;
        let access = Access::ReadOnly { bound: listener.local_addr().ip() };
        doors.push(ApiDoor { listener: Box::new(listener), access });
    }
    let engine = config.docker.as_ref().map(|socket| {
        let engine: Arc<dyn ContainerEngine> = Arc::new(BollardEngine::new(socket));
        engine
    });
    let ports = Ports {
        disk: Arc::new(disk),
        drive: Box::new(drive),
        history: tables_in(config.data_dir.join(HISTORY_DIR)),
        inventory: tables_in(config.data_dir.join(INVENTORY_DIR)),
        network: Arc::new(network),
        engine,
        host: Arc::new(ProcHost::new(&config.data_dir)),
        doors,
        observer: None,
    };
    let options = NodeOptions {
        name: config.name.clone(),
        advertise: advertised(config.advertise, bound),
        zone: config.zone.clone(),
        region: config.region.clone(),
        labels: config.labels.clone(),
        weight: config.weight.unwrap_or_else(weight_of_host),
        ring: config.ring,
        death_pause: config.death_pause,
        docker_operations: config.docker_operations,
        build_context_bytes: config.build_context as u64,
        build_contexts_bytes: config.build_contexts as u64,
        disk_floor: config.disk_floor.map_or(DiskFloor::Usual, |bytes| DiskFloor::Bytes(bytes as u64)),
        history_keep: config.history_keep,
        timings: Timings::control(),
        partition_timings: Timings {
            snapshot_bytes_per_s: NonZeroU64::new(
                (config.copy_rate / ScheduleLimits::default().node_out) as u64,
            ),
            ..Timings::partition()
        },
        segment_bytes: SEGMENT_BYTES,
        api_limits: config.api_limits.clone(),
    };
    let first_start = !matches!(start, Start::Run);
    let on_event = Arc::new(move |event| {
        if first_start && matches!(event, Event::Listening { .. }) {
            keep_settings(&config);
        }
        let mut out = Announcer::stdout();
        let printed = match event {
            Event::Fleet(fleet) => out.fleet(fleet),
            Event::Listening { node, name, address } => {
                log.set_node_id(node);
                out.node(node, &name, address)
            }
            Event::Invitation { token, advertise } => out.invitation(&token, advertise),
            Event::Ready => out.ready(),
        };
        // A closed standard output is nobody's loss.
        drop(printed);
    });
    Ok(Node::<TokioRuntime>::run(ports, options, start, on_event, shutdown).await?)
}

fn tables_in(folder: PathBuf) -> OpenTables {
    Arc::new(move || {
        let (tables, opened) = SledTables::open(&folder)?;
        Ok((Arc::new(tables) as Arc<dyn Tables>, opened))
    })
}

/// The host's memory in MiB, rounded so that hosts of one kind have one weight.
fn weight_of_host() -> u32 {
    const STEP_MIB: u64 = 256;
    let info = rustix::system::sysinfo();
    let mib = (info.totalram as u64).saturating_mul(u64::from(info.mem_unit)) >> 20;
    u32::try_from(((mib + STEP_MIB / 2) / STEP_MIB).max(1) * STEP_MIB).unwrap_or(u32::MAX)
}

/// Writes down what the node was started with, so that `longshore run` needs no flags. Never over a file of the user's.
fn keep_settings(config: &NodeConfig) {
    let path = config.data_dir.join(FILE_NAME);
    let mut options = OpenOptions::new();
    let file = options.write(true).create_new(true).mode(0o600).open(&path);
    match file.and_then(|mut file| file.write_all(settings_file(&config.keep).as_bytes())) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            tracing::warn!(%error, path = %path.display(), "cannot write down the settings; `longshore run` will need the same flags");
        }
        _ => {}
    }
}

fn advertised(wanted: SocketAddr, bound: SocketAddr) -> SocketAddr {
    let port = if wanted.port() == 0 { bound.port() } else { wanted.port() };
    SocketAddr::new(wanted.ip(), port)
}

/// The committer has threads of its own; the future ends them, and resolves when what was taken is durable.
fn drive(committer: Committer) -> std::io::Result<StartedCommitter> {
    let threads = spawn_committer(committer)?;
    Ok(Box::pin(async move {
        #[expect(clippy::disallowed_methods, reason = "real threads exist outside the simulated world only")]
        let ended = tokio::task::spawn_blocking(move || threads.close()).await;
        if let Err(error) = ended {
            tracing::error!(%error, "the log's threads ended badly");
        }
    }))
}

/// The first signal asks the node to stop; a second one ends the process at once.
fn stop_on_signals(shutdown: CancellationToken) {
    #[expect(clippy::disallowed_methods, reason = "signals exist outside the simulated world only")]
    drop(tokio::spawn(async move {
        loop {
            match signals::stop_requested().await {
                Ok(_) if shutdown.is_cancelled() => std::process::exit(130),
                Ok(signal) => tracing::info!(signal, "stopping; a second signal ends the process at once"),
                Err(error) => {
                    tracing::warn!(%error, "cannot watch for signals; only kill -9 will stop this process");
                    return;
                }
            }
            shutdown.cancel();
        }
    }));
}
