//! The command line of `longshore-sim`: arguments, what people see, exit codes.
//!
//! Results go to standard output, progress and errors to standard error. Exit codes are [`Verdict::exit_code`]; what is wrong with the
//! arguments or with a file is 3, as all trouble of the harness is: nothing was found out about the product then.

mod args;
mod determinism;
mod error;
mod execute;
mod mutants;
mod output;
mod plans;
mod progress;
mod replay;
mod report;
mod run;
mod sweep;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use self::args::{Cli, Command};
use self::error::CliError;
use crate::mutants::Mutant;
use crate::result::{Runner, Verdict};

/// What the command line puts to use.
#[derive(Debug, Clone)]
pub struct Harness {
    pub simulate: Runner,
    pub mutants: &'static [Mutant],
    /// What is started for runs in processes of their own: this program.
    pub program: PathBuf,
}

/// Where output goes.
pub struct Console<'a> {
    pub stdout: &'a mut dyn Write,
    pub stderr: &'a mut dyn Write,
    pub stderr_is_terminal: bool,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Console")
    }
}

impl Console<'_> {
    /// Prints a result. Nobody is left to tell when the reader has gone (`| head`).
    fn print(&mut self, text: &str) -> Result<(), CliError> {
        match self.stdout.write_all(text.as_bytes()).and_then(|()| self.stdout.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                Err(CliError::new(format!("cannot write to standard output: {error}")))
            }
            _ => Ok(()),
        }
    }

    fn report(&mut self, text: &str) {
        let _ = self.stderr.write_all(text.as_bytes()).and_then(|()| self.stderr.flush());
    }
}

/// The whole of a `longshore-sim` process.
pub fn main_with(simulate: Runner, mutants: &'static [Mutant]) -> ExitCode {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: cannot find this program's own file: {error}");
            return ExitCode::from(Verdict::Harness.exit_code());
        }
    };
    let harness = Harness { simulate, mutants, program };
    let stderr_is_terminal = io::stderr().is_terminal();
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let mut console = Console { stdout: &mut stdout, stderr: &mut stderr, stderr_is_terminal };
    ExitCode::from(run_with(&harness, std::env::args().collect(), &mut console))
}

/// Runs one command line, its program's name first; gives the exit code.
pub fn run_with(harness: &Harness, args: Vec<String>, console: &mut Console<'_>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => {
            console.report(&error.render().to_string());
            return Verdict::Harness.exit_code();
        }
        // Help and version.
        Err(error) => {
            let _ = console.print(&error.render().to_string());
            return Verdict::Pass.exit_code();
        }
    };
    let ended = match cli.command {
        Command::Run(args) => run::run(harness, &args, console),
        Command::Sweep(args) => sweep::sweep(harness, &args, console),
        Command::Replay(args) => replay::replay(harness, &args, console),
        Command::VerifyDeterminism(args) => determinism::verify(harness, &args, console),
        Command::Mutants(args) => mutants::mutants(harness, &args, console),
        Command::Expand(args) => plans::expand(&args, console),
        Command::Scenarios(args) => plans::scenarios(&args, console),
    };
    match ended {
        Ok(verdict) => verdict.exit_code(),
        Err(error) => {
            console.report(&error.render());
            error.code
        }
    }
}
