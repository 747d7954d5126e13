//! The root of the command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::api::ApiArgs;
use super::cache::CacheCommand;
use super::completions::CompletionsArgs;
use super::config::ConfigCommand;
use super::group::GroupCommand;
use super::launch::LaunchArgs;
use super::leave::LeaveArgs;
use super::man::ManArgs;
use super::node::NodeCommand;
use super::op::OpCommand;
use super::registry::{LoginArgs, LogoutArgs};
use super::ring::RingCommand;
use super::server::{InitArgs, JoinArgs, ServerArgs};
use super::sim::SimArgs;
use super::token::TokenCommand;
use super::top::TopArgs;
use crate::config::Variables;

/// A fleet of Docker hosts that works as one.
#[derive(Debug, Parser)]
#[command(
    name = "longshore",
    version,
    max_term_width = 110,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    after_help = "\
Examples:
  longshore init                          Start a fleet of one on this host
  longshore token create                  Make a token for another host to join with
  longshore join --token T 192.0.2.1      Join the fleet of that host
  longshore node ls                       Show the fleet
  longshore top                           Look at it as it lives
  longshore op pull nginx:1.27            Bring an image to every engine
  longshore node drain web-2              Take a host out of service
  longshore ring show                     Show who leads which part of the data
  longshore cache set config greeting hi  Set a key, on all nodes at once

Exit codes: 0 done, 1 failed, 2 usage, 3 denied, 4 no quorum, 5 partly done, 130 interrupted"
)]
pub struct Cli {
    #[command(flatten)]
    pub(super) global: GlobalArgs,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(super) struct GlobalArgs {
    /// The node to talk to: unix:///PATH, a path, or http://IP:PORT for reads [env: LONGSHORE_HOST] [default: the socket
    /// in the data folder]
    #[arg(long, global = true, value_name = "URL|PATH")]
    pub(super) host: Vec<String>,
    /// Where the node keeps its state [env: LONGSHORE_DATA_DIR] [default: /var/lib/longshore as root, else
    /// ~/.local/share/longshore]
    #[arg(long, global = true, value_name = "DIR")]
    pub(super) data_dir: Option<String>,
    /// Configuration file [env: LONGSHORE_CONFIG] [default: longshore.toml in the data folder, if it exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// When to use colour
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t = ColourChoice::Auto)]
    pub(super) color: ColourChoice,
    /// Say more: request ids with errors
    #[arg(long, global = true)]
    pub(super) verbose: bool,
}

impl GlobalArgs {
    /// The file named by flag or variable.
    pub(super) fn config_path(&self, variables: &Variables) -> Option<PathBuf> {
        let variable = variables.get("LONGSHORE_CONFIG").filter(|path| !path.is_empty());
        self.config.clone().or_else(|| variable.map(PathBuf::from))
    }

    /// The nodes named by flag or variable.
    pub(super) fn hosts(&self, variables: &Variables) -> Vec<String> {
        let variable = variables.get("LONGSHORE_HOST").filter(|host| !host.is_empty());
        if self.host.is_empty() { variable.into_iter().cloned().collect() } else { self.host.clone() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ColourChoice {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    Table,
    Json,
}

/// For commands that show one thing.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct FormatArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
}

/// For listings.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct ListArgs {
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub(super) format: Format,
    /// Print ids only
    #[arg(long, short, conflicts_with = "format")]
    pub(super) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Start a fleet of one on this host, in the foreground
    #[command(after_help = "\
Examples:
  longshore init
  longshore init --name web-1 --advertise eth0 --zone rack-7
  longshore init --data-dir /tmp/a --listen 127.0.0.1 --docker none")]
    Init(InitArgs),
    /// Join a fleet with this host, in the foreground
    #[command(after_help = "\
Examples:
  longshore join --token-file /run/secrets/token 192.0.2.1
  longshore join --token LSJ1-... 192.0.2.1 192.0.2.2:7400
  longshore token create -q | ssh web-2 longshore join --token-file - 192.0.2.1")]
    Join(JoinArgs),
    /// Start this host's node again, in the foreground
    #[command(after_help = "\
Examples:
  longshore run
  longshore run --data-dir /srv/longshore --log-format json")]
    Run(ServerArgs),
    /// Show how the node and its fleet are
    #[command(after_help = "\
Examples:
  longshore status
  longshore --host http://127.0.0.1:7400 status --format json")]
    Status(FormatArgs),
    /// Look at the fleet as it lives: nodes, groups that are not healthy, operations under way
    #[command(after_help = "\
Examples:
  longshore top
  longshore --host http://127.0.0.1:7400 top
  longshore top --once")]
    Top(TopArgs),
    /// See and change the fleet's nodes
    #[command(subcommand)]
    Node(NodeCommand),
    /// Make and revoke tokens for joining
    #[command(subcommand)]
    Token(TokenCommand),
    /// Operations on the fleet's engines
    #[command(subcommand)]
    Op(OpCommand),
    /// See the ring of partitions, and how they move
    #[command(subcommand)]
    Ring(RingCommand),
    /// See the groups that carry the partitions, and who leads them
    #[command(subcommand)]
    Group(GroupCommand),
    /// Keys of the whole fleet, strongly consistent
    #[command(subcommand)]
    Cache(CacheCommand),
    /// Let every node's engine into a registry, or list the registries
    #[command(after_help = "\
The password is kept sealed under the fleet's key, and given to engines with each pull and push of the registry's images.

Examples:
  longshore login registry.example:5000 --username ci
  longshore login docker.io -u ci --password-stdin < token
  longshore login")]
    Login(LoginArgs),
    /// Forget the password of a registry
    #[command(after_help = "\
Examples:
  longshore logout registry.example:5000")]
    Logout(LogoutArgs),
    /// Take this host out of the fleet and stop its node: it is drained, its data moves to others, then it goes
    #[command(after_help = "\
Examples:
  longshore leave
  longshore leave --yes
  longshore leave --deadline 10m")]
    Leave(LeaveArgs),
    /// Start a fleet of several nodes on this machine, to try things out
    #[command(after_help = "\
Examples:
  longshore launch --local 3
  longshore launch --local 5 --docker none --data-dir /tmp/fleet
  longshore --host /tmp/fleet/node-1/longshore.sock node ls")]
    Launch(LaunchArgs),
    /// See and check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Simulate whole fleets under faults: runs longshore-sim
    #[command(
        disable_help_flag = true,
        after_help = "\
Examples:
  longshore sim run --seed 42
  longshore sim --help"
    )]
    Sim(SimArgs),
    /// Call any endpoint of the node's HTTP API
    #[command(after_help = "\
Examples:
  longshore api /v1/nodes
  longshore api /v1/operations?active=true --include
  longshore api POST /v1/tokens -F ttl_ms=600000 -F uses=3
  longshore api PATCH /v1/nodes/web-2 -F label_add='{\"disk\": \"ssd\"}'
  longshore api -X PUT /v1/keys/images/logo --input logo.png
  longshore api POST /v1/operations -H 'Idempotency-Key: nightly-7' --input - < request.json
  longshore api '/v1/ring/watch?forever=true'
  longshore api /v1/openapi.json

Exit codes: those of the other commands, by the error that the node gives; 0 for any status from 200 to 299")]
    Api(ApiArgs),
    /// Print a script that completes commands and the fleet's names on TAB
    #[command(after_help = "\
Examples:
  source <(longshore completions bash)
  longshore completions bash > ~/.local/share/bash-completion/completions/longshore
  longshore completions zsh > ~/.zfunc/_longshore
  longshore completions fish > ~/.config/fish/completions/longshore.fish
  longshore completions powershell >> $PROFILE
  longshore completions elvish >> ~/.config/elvish/rc.elv")]
    Completions(CompletionsArgs),
    /// Write the manual pages
    #[command(after_help = "\
Examples:
  longshore man ~/.local/share/man/man1
  longshore man > longshore.1")]
    Man(ManArgs),
    /// Show the version
    Version(FormatArgs),
}
