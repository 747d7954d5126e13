//! The command line: arguments, their meaning, and what people see.
//!
//! Client commands talk to a node through `api::client`; server commands are resolved to a configuration here and carried
//! out by the [`ServerCommands`] of the composition root. Must never: reach into a node in any other way, or print a
//! secret that was not asked for.
//!
//! Results go to standard output, progress and errors to standard error; exit codes are [`Exit`].

mod api;
mod args;
mod bench;
mod build;
mod cache;
mod children;
mod completions;
mod config;
mod containers;
mod drain;
mod engines;
mod error;
mod follow;
mod group;
mod launch;
mod leave;
mod man;
mod node;
mod op;
mod output;
mod picture;
mod progress;
mod registry;
mod ring;
mod server;
mod session;
pub mod signals;
mod sim;
mod status;
mod streams;
mod submit;
mod suggest;
mod terminal;
#[cfg(test)]
mod tests;
mod token;
mod top;
mod version;

use std::process::ExitCode;

pub use args::Cli;
use args::Command;
pub use error::{CliError, Exit};
pub use server::{Announcer, ServerCommands, join_command};
use session::Session;
pub use terminal::Terminal;

use crate::config::SystemHost;

/// The whole of a `longshore` process: parses the command line, runs it on the real terminal, reports errors.
pub fn main_with(server: &dyn ServerCommands) -> ExitCode {
    if let Some(code) = completions::answered() {
        return code;
    }
    // Prints help, version and usage errors itself, and exits 0 or 2.
    let cli = suggest::parse(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let mut terminal = Terminal::system();
    let exit = run(cli, &mut terminal, server);
    ExitCode::from(exit.code())
}

/// Runs one command and reports its error, if it fails, on the terminal's standard error.
pub fn run(cli: Cli, terminal: &mut Terminal, server: &dyn ServerCommands) -> Exit {
    match dispatch(cli, terminal, server) {
        Ok(()) => Exit::Done,
        Err(error) => {
            let colour = terminal.stderr_colour;
            terminal.report(&error.render(colour));
            error.exit
        }
    }
}

fn dispatch(cli: Cli, terminal: &mut Terminal, server: &dyn ServerCommands) -> Result<(), CliError> {
    let Cli { global, command } = cli;
    terminal.set_colour(global.color);
    match command {
        Command::Init(args) => server::init(&global, args, terminal, server),
        Command::Join(args) => server::join(&global, args, terminal, server),
        Command::Run(args) => server::run(&global, args, terminal, server),
        Command::Launch(args) => launch::launch(&global, &args, terminal),
        Command::Config(command) => config::config(&global, command, terminal),
        Command::Sim(args) => sim::sim(args, terminal),
        Command::Version(args) => version::version(args, terminal),
        Command::Status(args) => Session::with(&global, terminal, async |s| status::status(s, args).await),
        Command::Node(command) => Session::with(&global, terminal, async |s| node::node(s, command).await),
        Command::Token(command) => Session::with(&global, terminal, async |s| token::token(s, command).await),
        Command::Op(command) => Session::with(&global, terminal, async |s| op::op(s, command).await),
        Command::Ring(command) => Session::with(&global, terminal, async |s| ring::ring(s, command).await),
        Command::Group(command) => Session::with(&global, terminal, async |s| group::group(s, command).await),
        Command::Cache(command) => {
            let many = matches!(command, cache::CacheCommand::Bench(_));
            Session::with_hosts(&global, terminal, many, async |s| cache::cache(s, command).await)
        }
        Command::Top(args) => Session::with(&global, terminal, async |s| top::top(s, args).await),
        Command::Api(args) => Session::with(&global, terminal, async |s| api::api(s, args).await),
        Command::Completions(args) => completions::completions(&args, terminal),
        Command::Man(args) => man::man(args, terminal),
        Command::Login(args) => Session::with(&global, terminal, async |s| registry::login(s, args).await),
        Command::Logout(args) => Session::with(&global, terminal, async |s| registry::logout(s, args).await),
        Command::Leave(args) => Session::with(&global, terminal, async |s| leave::leave(s, args).await),
    }
}

/// Settings for a command that needs them.
fn settings(
    global: &args::GlobalArgs,
    flags: crate::config::Flags,
    terminal: &Terminal,
) -> Result<crate::config::Settings, CliError> {
    let flags = flags.text("data_dir", global.data_dir.as_deref());
    let config = global.config_path(&terminal.variables);
    Ok(crate::config::Settings::load(flags, &terminal.variables, config.as_deref(), &SystemHost)?)
}
