//! The `longshore-sim` binary.

use std::process::ExitCode;

use longshore_simulation::cli::main_with;
use longshore_simulation::mutants::MUTANTS;
use longshore_simulation::simulate::simulate;

/// A run allocates about 600 times for each call of a client; with this allocator it takes 3 to 8 % less time than with the system's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    main_with(simulate, MUTANTS)
}
