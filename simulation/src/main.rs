//! The `longshore-sim` binary.

use std::process::ExitCode;

use longshore_simulation::cli::main_with;
use longshore_simulation::mutants::MUTANTS;
use longshore_simulation::simulate::simulate;

fn main() -> ExitCode {
    main_with(simulate, MUTANTS)
}
