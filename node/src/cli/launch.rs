//! `longshore launch`: several nodes on this machine, each a process of its own.
//!
//! Node *i* is `node-i` in `DIR/node-i`, on 127.0.0.*i*. Nodes with state are started with `run`; without any, the first is
//! made with `init`; the rest join. All of them end with this process.

use std::path::{Path, PathBuf};

use clap::Args;

use super::args::GlobalArgs;
use super::children::{Children, Spec};
use super::error::{CliError, Exit};
use super::session::{Client, block_on};
use super::signals;
use super::terminal::Terminal;
use crate::api::client::Target;
use crate::api::types::TokenCreate;
use crate::config::{SOCKET_NAME, Settings, SystemHost};

/// How long the token for the joiners is good.
const TOKEN_TTL_MS: u64 = 10 * 60 * 1000;

#[derive(Debug, Args)]
pub(super) struct LaunchArgs {
    /// How many nodes, on 127.0.0.1 to 127.0.0.N
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    local: u8,
    /// Port of every node, UDP and TCP
    #[arg(long, value_name = "PORT", default_value_t = crate::config::addresses::DEFAULT_PORT,
        value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
    /// Socket of the Docker Engine that all of them use, or none
    #[arg(long, value_name = "SOCKET|none")]
    docker: Option<String>,
}

pub(super) fn launch(
    global: &GlobalArgs,
    args: &LaunchArgs,
    terminal: &mut Terminal,
) -> Result<(), CliError> {
    let program = std::env::current_exe().map_err(|error| {
        CliError::new(Exit::Failed, format!("cannot find this program's own file: {error}"))
    })?;
    let plan = Plan::new(global, args, terminal, program)?;
    block_on(plan.carry_out(terminal, signals::stop_requested()))?
}

/// What to start, in order.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) program: PathBuf,
    pub(super) nodes: Vec<PlannedNode>,
    /// Arguments of every node.
    pub(super) common: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct PlannedNode {
    pub(super) name: String,
    pub(super) data_dir: PathBuf,
    /// IP:PORT, UDP and TCP.
    pub(super) address: String,
}

impl PlannedNode {
    fn has_state(&self) -> bool {
        self.data_dir.join("identity.json").exists()
    }

    fn socket(&self) -> PathBuf {
        self.data_dir.join(SOCKET_NAME)
    }
}

impl Plan {
    pub(super) fn new(
        global: &GlobalArgs,
        args: &LaunchArgs,
        terminal: &Terminal,
        program: PathBuf,
    ) -> Result<Self, CliError> {
        let folder = match &global.data_dir {
            Some(folder) => PathBuf::from(folder),
            // Beside the state of this host's own node, not in it.
            None => Settings::data_dir(None, &terminal.variables, None, &SystemHost)?.join("local"),
        };
        let folder = std::path::absolute(&folder).map_err(|error| {
            CliError::new(Exit::Usage, format!("{} is not a folder: {error}", folder.display()))
        })?;
        let nodes = (1..=args.local).map(|number| PlannedNode {
            name: format!("node-{number}"),
            data_dir: folder.join(format!("node-{number}")),
            address: format!("127.0.0.{number}:{}", args.base_port),
        });
        let mut common = Vec::new();
        if let Some(docker) = &args.docker {
            common.extend(["--docker".to_owned(), docker.clone()]);
        }
        if let Some(config) = global.config_path(&terminal.variables) {
            common.extend(["--config".to_owned(), config.display().to_string()]);
        }
        Ok(Self { program, nodes: nodes.collect(), common })
    }

    /// Runs the fleet until `stop` resolves or a node dies; ends all of them in any case.
    pub(super) async fn carry_out(
        &self,
        terminal: &mut Terminal,
        stop: impl Future<Output = std::io::Result<&'static str>>,
    ) -> Result<(), CliError> {
        let mut children = Children::new(self.nodes.iter().map(|node| node.name.len()).max().unwrap_or(0));
        let mut stop = std::pin::pin!(stop);
        let outcome = tokio::select! {
            biased;
            stopped = stop.as_mut() => match stopped {
                Ok(signal) => {
                    terminal.report(&format!("{signal}: stopping all nodes\n"));
                    Ok(())
                }
                Err(error) => Err(CliError::new(Exit::Failed, format!("cannot watch for signals: {error}"))),
            },
            failed = self.run(&mut children, terminal) => failed,
        };
        children.stop_all(terminal).await;
        outcome
    }

    /// Starts all nodes and follows them. Ends when all have ended by themselves, or one in an error.
    async fn run(&self, children: &mut Children, terminal: &mut Terminal) -> Result<(), CliError> {
        let (mut old, mut new): (Vec<&PlannedNode>, Vec<&PlannedNode>) =
            self.nodes.iter().partition(|node| node.has_state());
        let first = if old.is_empty() { "init" } else { "run" };
        if old.is_empty() {
            old = vec![new.remove(0)];
        }
        // Those with state may need each other for a quorum: all of them at once.
        for node in &old {
            children.start(self.spec(node, first, &[], None))?;
        }
        children.until_ready(terminal).await?;
        if !new.is_empty() {
            let token = new_token(&old[0].socket(), new.len()).await?;
            for node in new {
                let seeds = [old[0].address.clone()];
                children.start(self.spec(node, "join", &seeds, Some(&token)))?;
                children.until_ready(terminal).await?;
            }
        }
        let socket = self.nodes[0].socket();
        terminal.print(&format!(
            "{} of {} nodes are ready. Ctrl-C stops them; starting again goes on with them. Reach them with:\n    \
             longshore --host {} node ls\n",
            children.running(),
            self.nodes.len(),
            socket.display()
        ))?;
        children.until_none_runs(terminal).await
    }

    pub(super) fn spec(
        &self,
        node: &PlannedNode,
        command: &str,
        seeds: &[String],
        token: Option<&str>,
    ) -> Spec {
        let data_dir = node.data_dir.display().to_string();
        let mut args: Vec<String> = vec![command.to_owned()];
        args.extend(seeds.iter().cloned());
        for (flag, value) in [
            ("--data-dir", &data_dir),
            ("--name", &node.name),
            ("--listen", &node.address),
            ("--advertise", &node.address),
            ("--api", &node.address),
        ] {
            args.extend([flag.to_owned(), value.clone()]);
        }
        args.extend(self.common.iter().cloned());
        // A variable, since other users can read a process's arguments.
        let variables = token.map(|token| ("LONGSHORE_JOIN_TOKEN", token.to_owned()));
        Spec {
            name: node.name.clone(),
            program: self.program.clone(),
            args,
            variables: variables.into_iter().collect(),
        }
    }
}

async fn new_token(socket: &Path, uses: usize) -> Result<String, CliError> {
    let client = Client::new(Target::Unix(socket.to_owned()));
    let uses = u32::try_from(uses).expect("launch takes fewer than a hundred nodes");
    let request = TokenCreate { ttl_ms: Some(TOKEN_TTL_MS), uses: Some(uses) };
    Ok(client.create_token(&request).await?.token)
}
