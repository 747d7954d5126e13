//! What client commands have in common: a node to talk to and a terminal.

use longshore_raft::consensus::runtime::TokioRuntime;
use serde::Serialize;

use super::args::{Format, GlobalArgs};
use super::error::{CliError, Exit};
use super::terminal::Terminal;
use crate::api::client::{self, Target};
use crate::config::{SOCKET_NAME, Settings, SystemHost};

/// The command line lives in the real world only.
pub(super) type Runtime = TokioRuntime;
pub(super) type Client = client::Client<Runtime>;

/// One client command under way.
pub(super) struct Session<'a> {
    pub(super) client: Client,
    pub(super) terminal: &'a mut Terminal,
    /// Ctrl-C, for commands that do something about it.
    pub(super) interrupt: super::signals::Interrupt,
}

impl<'a> Session<'a> {
    /// Runs `command` against the node that the arguments name.
    pub(super) fn with(
        global: &GlobalArgs,
        terminal: &'a mut Terminal,
        command: impl AsyncFnOnce(&mut Session<'a>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let client = Client::new(target(global, terminal)?);
        let verbose = global.verbose;
        let result = block_on(async {
            let interrupt = super::signals::interrupt();
            command(&mut Session { client, terminal, interrupt }).await
        })?;
        result.map_err(|error| match verbose {
            true => error,
            false => CliError { request_id: None, ..error },
        })
    }

    pub(super) fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.terminal.print(text)
    }

    /// Prints `value` as JSON or as `render` has it, with colour or not.
    pub(super) fn show<T: Serialize>(
        &mut self,
        format: Format,
        value: &T,
        render: impl FnOnce(&T, bool) -> String,
    ) -> Result<(), CliError> {
        let text = match format {
            Format::Json => super::output::json(value),
            Format::Table => render(value, self.terminal.stdout_colour),
        };
        self.terminal.print(&text)
    }
}

/// Runs a client command's future on this thread.
pub(super) fn block_on<F: Future>(future: F) -> Result<F::Output, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime
        .map_err(|error| CliError::new(Exit::Failed, format!("the system gives no event queue: {error}")))?;
    Ok(runtime.block_on(future))
}

fn target(global: &GlobalArgs, terminal: &Terminal) -> Result<Target, CliError> {
    if let Some(host) = global.host(&terminal.variables) {
        return Ok(Target::parse(&host)?);
    }
    let data_dir = Settings::data_dir(
        global.data_dir.as_deref(),
        &terminal.variables,
        global.config_path(&terminal.variables).as_deref(),
        &SystemHost,
    )?;
    Ok(Target::Unix(data_dir.join(SOCKET_NAME)))
}
