//! One run in this process, and the files that go with it.

use std::any::Any;
use std::fs::{File, OpenOptions};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::error::CliError;
use crate::plan::Plan;
use crate::result::{RunResult, Runner};

/// Carries out a plan. A panic of the simulator is a failure of the harness, and has a plan to look into.
pub(super) fn execute(simulate: Runner, plan: &Plan, trace: Option<File>) -> RunResult {
    catch_unwind(AssertUnwindSafe(|| simulate(plan, trace))).unwrap_or_else(|panic| {
        let mut result = RunResult::empty(plan.clone());
        result.harness_error = Some(format!("it panicked: {}", words(&*panic)));
        result
    })
}

fn words(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word")
}

/// The file for a trace.
pub(super) fn create(path: Option<&Path>) -> Result<Option<File>, CliError> {
    let Some(path) = path else { return Ok(None) };
    File::create(path).map(Some).map_err(|error| CliError::unwritable(path, &error))
}

/// Makes sure, before a run that may take long, that a file can be written; leaves none behind.
pub(super) fn can_be_written(path: &Path) -> Result<(), CliError> {
    let is_new = !path.exists();
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .map_err(|error| CliError::unwritable(path, &error))?;
    if is_new {
        std::fs::remove_file(path).map_err(|error| CliError::unwritable(path, &error))?;
    }
    Ok(())
}
