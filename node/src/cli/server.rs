//! `longshore init | join | run`: flags become a configuration, and the composition root does the rest.

use std::fmt::Display;
use std::io::{self, Write};
use std::net::SocketAddr;

use clap::Args;

use super::args::GlobalArgs;
use super::error::CliError;
use super::terminal::Terminal;
use crate::config::{Flags, JoinConfig, NodeConfig, Secret, SystemHost};

/// Runs a node in the foreground; `main.rs` implements it. Each returns when the node has stopped: `Ok` after a clean stop
/// or a leave.
pub trait ServerCommands {
    /// Makes a fleet of one in an empty data folder and runs it.
    fn init(&self, config: NodeConfig) -> Result<(), CliError>;
    /// Joins a fleet with an empty data folder and runs.
    fn join(&self, config: NodeConfig, join: JoinConfig) -> Result<(), CliError>;
    /// Runs what the data folder belongs to.
    fn run(&self, config: NodeConfig) -> Result<(), CliError>;
}

/// Flags of all three. Values are checked with the rest of the configuration, so that mistakes are told the same way
/// wherever they are made.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct ServerArgs {
    /// Name of this node [env: LONGSHORE_NAME] [default: the host name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Address for the other nodes, UDP [env: LONGSHORE_LISTEN] [default: 0.0.0.0:7400]
    #[arg(long, value_name = "IP[:PORT]")]
    listen: Option<String>,
    /// Address that the other nodes are told [env: LONGSHORE_ADVERTISE] [default: the listen address if it is concrete, else
    /// that of the interface with the default route]
    #[arg(long, value_name = "IP|INTERFACE[:PORT]")]
    advertise: Option<String>,
    /// Address of the HTTP API over TCP: reads only, loopback only; or none [env: LONGSHORE_API] [default: 127.0.0.1:7400, or
    /// the listen address if that is loopback]
    #[arg(long, value_name = "IP:PORT|none")]
    api: Option<String>,
    /// Socket of the Docker Engine, or none [env: LONGSHORE_DOCKER] [default: unix:///var/run/docker.sock]
    #[arg(long, value_name = "SOCKET|none")]
    docker: Option<String>,
    /// What fails together with this node: voters and replicas are spread over zones [env: LONGSHORE_ZONE]
    #[arg(long, value_name = "ZONE")]
    zone: Option<String>,
    /// Where this node is, as people see it: shown with the node [env: LONGSHORE_REGION]
    #[arg(long, value_name = "REGION")]
    region: Option<String>,
    /// How much data this node holds, relative to other nodes; 0: none [env: LONGSHORE_WEIGHT] [default: the host's memory in MiB]
    #[arg(long, value_name = "N")]
    weight: Option<String>,
    /// A label of this node; may be repeated [env: LONGSHORE_LABELS]
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// How long ended operations are in this node's history: 1h to 90d [env: LONGSHORE_HISTORY_KEEP] [default: 24h]
    #[arg(long, value_name = "DURATION")]
    history_keep: Option<String>,
    /// text or json, on standard error [env: LONGSHORE_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// error, warn, info, debug, trace, or a filter [env: LONGSHORE_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL|FILTER")]
    log_level: Option<String>,
}

impl ServerArgs {
    pub(super) fn flags(self) -> Flags {
        Flags::default()
            .text("name", self.name)
            .text("listen", self.listen)
            .text("advertise", self.advertise)
            .text("api", self.api)
            .text("docker", self.docker)
            .text("zone", self.zone)
            .text("region", self.region)
            .text("weight", self.weight)
            .many("labels", self.label)
            .text("history.keep", self.history_keep)
            .text("log.format", self.log_format)
            .text("log.level", self.log_level)
    }
}

#[derive(Debug, Args)]
pub(super) struct InitArgs {
    /// Raft groups that carry the fleet's data: 32, 64, 128 or 256; fixed for its life [env: LONGSHORE_RING_GROUPS] [default: 32]
    #[arg(long, value_name = "N")]
    groups: Option<String>,
    /// Replicas of each group: 1, 3 or 5, as soon as there are as many nodes; fixed for its life
    /// [env: LONGSHORE_RING_REPLICATION] [default: 3]
    #[arg(long, value_name = "N")]
    replication: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

impl InitArgs {
    fn flags(self) -> Flags {
        self.server.flags().text("ring.groups", self.groups).text("ring.replication", self.replication)
    }
}

#[derive(Debug, Args)]
pub(super) struct JoinArgs {
    /// Nodes to ask; any of the fleet will do [env: LONGSHORE_JOIN_PEERS]
    #[arg(value_name = "HOST[:PORT]")]
    peers: Vec<String>,
    /// The token; other users of this host can see it here: prefer --token-file [env: LONGSHORE_JOIN_TOKEN]
    #[arg(long, value_name = "TOKEN", conflicts_with = "token_file")]
    token: Option<Secret>,
    /// A file with the token, or - for standard input [env: LONGSHORE_JOIN_TOKEN_FILE]
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    /// Give up when no node could be reached for so long [env: LONGSHORE_JOIN_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "DURATION")]
    join_timeout: Option<String>,
    #[command(flatten)]
    server: ServerArgs,
}

impl JoinArgs {
    fn flags(self) -> Flags {
        self.server
            .flags()
            .many("join.peers", self.peers)
            .text("join.token", self.token.as_ref().map(Secret::expose))
            .text("join.token_file", self.token_file)
            .text("join.timeout", self.join_timeout)
    }
}

pub(super) fn init(
    global: &GlobalArgs,
    args: InitArgs,
    terminal: &mut Terminal,
    server: &dyn ServerCommands,
) -> Result<(), CliError> {
    let settings = super::settings(global, args.flags(), terminal)?;
    server.init(settings.node_config(&SystemHost)?)
}

pub(super) fn join(
    global: &GlobalArgs,
    args: JoinArgs,
    terminal: &mut Terminal,
    server: &dyn ServerCommands,
) -> Result<(), CliError> {
    let settings = super::settings(global, args.flags(), terminal)?;
    let config = settings.node_config(&SystemHost)?;
    let join = settings.join_config(&mut terminal.stdin)?;
    server.join(config, join)
}

pub(super) fn run(
    global: &GlobalArgs,
    args: ServerArgs,
    terminal: &mut Terminal,
    server: &dyn ServerCommands,
) -> Result<(), CliError> {
    let settings = super::settings(global, args.flags(), terminal)?;
    server.run(settings.node_config(&SystemHost)?)
}

/// What a server command tells people, on standard output, each line flushed. Scripts and `launch` read these lines: their
/// form is part of the interface.
#[derive(Debug)]
pub struct Announcer<W: Write> {
    out: W,
}

impl Announcer<io::Stdout> {
    pub fn stdout() -> Self {
        Self::new(io::stdout())
    }
}

impl<W: Write> Announcer<W> {
    pub fn new(out: W) -> Self {
        Self { out }
    }

    pub fn fleet(&mut self, fleet: impl Display) -> io::Result<()> {
        self.line(format_args!("fleet {fleet}"))
    }

    pub fn node(&mut self, id: impl Display, name: &str, listening: SocketAddr) -> io::Result<()> {
        self.line(format_args!("node {id} ({name}) listening on {listening}"))
    }

    /// How another host joins.
    pub fn invitation(&mut self, token: &str, advertised: SocketAddr) -> io::Result<()> {
        self.line(format_args!("To add a host, run on it:"))?;
        self.line(format_args!("    {}", join_command(token, advertised)))
    }

    pub fn ready(&mut self) -> io::Result<()> {
        self.line(format_args!("{READY_LINE}"))
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) -> io::Result<()> {
        writeln!(self.out, "{text}")?;
        self.out.flush()
    }
}

/// The last line of a start.
pub(super) const READY_LINE: &str = "ready";

/// The command for a joiner, as `init` and `token create` print it.
pub fn join_command(token: &str, advertised: SocketAddr) -> String {
    format!("longshore join --token {token} {advertised}")
}
