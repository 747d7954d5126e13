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
    /// Further nodes, for commands that take several.
    pub(super) others: Vec<Client>,
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
        Self::with_hosts(global, terminal, false, command)
    }

    /// The same; with `many` the arguments may name several nodes, each by a flag or in a list with commas.
    pub(super) fn with_hosts(
        global: &GlobalArgs,
        terminal: &'a mut Terminal,
        many: bool,
        command: impl AsyncFnOnce(&mut Session<'a>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let (client, others) = clients(global, terminal, many)?;
        let verbose = global.verbose;
        let result = block_on(async {
            let interrupt = super::signals::interrupt();
            command(&mut Session { client, others, terminal, interrupt }).await
        })?;
        result.map_err(|error| match verbose {
            true => error,
            false => CliError { request_id: None, ..error },
        })
    }

    /// All nodes that the arguments name, in order.
    pub(super) fn clients(&self) -> impl Iterator<Item = &Client> {
        std::iter::once(&self.client).chain(&self.others)
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

/// The node that the arguments name, and, with `many`, further ones.
pub(super) fn clients(
    global: &GlobalArgs,
    terminal: &Terminal,
    many: bool,
) -> Result<(Client, Vec<Client>), CliError> {
    let named = global.hosts(&terminal.variables);
    let hosts: Vec<&str> = match many {
        true => named.iter().flat_map(|list| list.split(',')).collect(),
        false => named.iter().map(String::as_str).collect(),
    };
    let mut targets = hosts.into_iter().map(Target::parse);
    let Some(first) = targets.next() else {
        return Ok((Client::new(own_node(global, terminal)?), Vec::new()));
    };
    let client = Client::new(first?);
    let others = targets.map(|target| Ok(Client::new(target?))).collect::<Result<Vec<_>, CliError>>()?;
    match many || others.is_empty() {
        true => Ok((client, others)),
        false => Err(CliError::new(Exit::Usage, "this command talks to one node: give --host once")),
    }
}

/// The node whose data folder the arguments or the configuration name.
fn own_node(global: &GlobalArgs, terminal: &Terminal) -> Result<Target, CliError> {
    let data_dir = Settings::data_dir(
        global.data_dir.as_deref(),
        &terminal.variables,
        global.config_path(&terminal.variables).as_deref(),
        &SystemHost,
    )?;
    Ok(Target::Unix(data_dir.join(SOCKET_NAME)))
}
