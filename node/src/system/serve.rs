//! Runs a node on this machine.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use longshore_raft::consensus::config::Timings;
use longshore_raft::consensus::runtime::TokioRuntime;
use longshore_storage::disk::RealDisk;
use longshore_storage::log::{Committer, spawn_committer};
use tokio_util::sync::CancellationToken;

use super::lock::{DataDirLock, LockError};
use super::network::UdpNetwork;
use super::signals::stop_on_signals;
use crate::api::listener::{BindError, TcpApiListener, UnixApiListener};
use crate::api::server::Access;
use crate::config::NodeConfig;
use crate::docker::{BollardEngine, ContainerEngine};
use crate::logging::LogHandle;
use crate::node::{ApiDoor, Event, Exit, Node, NodeError, NodeOptions, Ports, Start, StartedCommitter};

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

/// Runs a node until it is told to stop, leaves, or fails. Prints what a person should see on standard output.
pub async fn serve(config: NodeConfig, start: Start, log: LogHandle) -> Result<Exit, ServeError> {
    let _lock = DataDirLock::acquire(&config.data_dir)?;
    let system = |action| move |source| ServeError::System { action, source };
    let shutdown = CancellationToken::new();
    stop_on_signals(shutdown.clone()).map_err(system("handle signals"))?;
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
    let ports =
        Ports { disk: Arc::new(disk), drive: Box::new(drive), network: Arc::new(network), engine, doors };
    let options = NodeOptions {
        name: config.name.clone(),
        advertise: advertised(config.advertise, bound),
        zone: config.zone.clone(),
        labels: config.labels.clone(),
        timings: Timings::control(),
        api_limits: config.api_limits.clone(),
    };
    let on_event = Arc::new(move |event| {
        if let Event::Listening { node, .. } = &event {
            log.set_node_id(node);
        }
        announce(&event);
    });
    Ok(Node::<TokioRuntime>::run(ports, options, start, on_event, shutdown).await?)
}

fn advertised(wanted: SocketAddr, bound: SocketAddr) -> SocketAddr {
    let port = if wanted.port() == 0 { bound.port() } else { wanted.port() };
    SocketAddr::new(wanted.ip(), port)
}

/// The committer has a thread of its own; the future resolves when that has ended.
fn drive(committer: Committer) -> StartedCommitter {
    let thread = spawn_committer(committer);
    Box::pin(async move {
        match thread {
            Ok(handle) => {
                #[expect(clippy::disallowed_methods, reason = "a real thread exists outside the simulated world only")]
                let ended = tokio::task::spawn_blocking(move || handle.join()).await;
                if !matches!(ended, Ok(Ok(_))) {
                    tracing::error!("the committer's thread ended badly");
                }
            }
            Err(error) => tracing::error!(%error, "the committer's thread could not be started"),
        }
    })
}

/// Prints what people and scripts wait for. A closed standard output is nobody's loss.
fn announce(event: &Event) {
    let mut out = std::io::stdout().lock();
    let printed = match event {
        Event::Fleet(fleet) => writeln!(out, "fleet {fleet}"),
        Event::Listening { node, name, address } => writeln!(out, "node {node} ({name}) listening on {address}"),
        Event::JoinCommand(command) => writeln!(out, "To add a host, run on it:\n  {command}"),
        Event::Ready => writeln!(out, "ready"),
    };
    let _ = printed.and_then(|()| out.flush());
}
