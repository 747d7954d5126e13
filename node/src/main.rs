//! The `longshore` binary: the composition root. The command line decides what is wanted; a node is put together out of the
//! real ports in `system`.

use std::process::ExitCode;

use longshore_node::cli::{CliError, Exit, ServerCommands, main_with};
use longshore_node::config::{JoinConfig, NodeConfig};
use longshore_node::logging;
use longshore_node::node::Start;
use longshore_node::system::{ServeError, serve, stored_name};
use longshore_raft::model::token::JoinToken;

/// Threads that run a node's tasks; the log's committer has its own. A second one costs a futex wake at every hand-over between them (an
/// idle node takes 1.5 % of a core instead of 1.0 %), and one group keeps not even one of them busy: it is bound by the disk.
const WORKERS: usize = 1;

/// A node allocates for every message, and glibc's allocator takes 8 % of a busy one's time. Without huge pages: with them an idle
/// node takes 140 MiB instead of 50.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Server;

impl ServerCommands for Server {
    fn init(&self, config: NodeConfig) -> Result<(), CliError> {
        run(config, Start::Init)
    }

    fn join(&self, config: NodeConfig, join: JoinConfig) -> Result<(), CliError> {
        let token =
            JoinToken::parse(join.token.expose()).map_err(|e| CliError::new(Exit::Usage, e.to_string()))?;
        let seeds = join.peers.iter().map(ToString::to_string).collect();
        run(config, Start::Join { token, seeds, patience: join.timeout })
    }

    fn run(&self, config: NodeConfig) -> Result<(), CliError> {
        run(config, Start::Run)
    }
}

fn run(config: NodeConfig, start: Start) -> Result<(), CliError> {
    let failed = |message: String| CliError::new(Exit::Failed, message);
    // A node that was started before has its name.
    let stored = matches!(start, Start::Run).then(|| stored_name(&config.data_dir)).flatten();
    let log = logging::start(&config.log, stored.as_ref().unwrap_or(&config.name)).map_err(failed)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_all()
        .build()
        .map_err(|e| failed(format!("the runtime cannot be started: {e}")))?;
    let ended = runtime.block_on(serve(config, start, log));
    // Blocking calls that hang (a dead disk) must not keep the process from ending.
    runtime.shutdown_background();
    ended.map(drop).map_err(cli_error)
}

fn cli_error(error: ServeError) -> CliError {
    let error = match error {
        ServeError::Api(error) => return error.into(),
        other => other,
    };
    let exit = match error.exit_code() {
        2 => Exit::Usage,
        3 => Exit::Denied,
        4 => Exit::NoQuorum,
        _ => Exit::Failed,
    };
    let cli = CliError::new(exit, error.to_string());
    match error.hint() {
        Some(hint) => cli.hint(hint),
        None => cli,
    }
}

fn main() -> ExitCode {
    main_with(&Server)
}
