//! Who may use the machine at a time.
//!
//! A test that measures time takes the machine alone, others share it. The lock is a file, so it also holds between the
//! test binaries of several runners, and it is per open file, so it also holds between threads.

use std::fs::{File, OpenOptions};

use crate::address::state_dir;

/// Held for the length of a test.
#[derive(Debug)]
#[must_use = "the machine is free again when this is dropped"]
pub struct Machine(#[expect(dead_code, reason = "held for its lock")] File);

/// Runs beside other tests that share.
pub fn share() -> Machine {
    let file = open();
    file.lock_shared().expect("the lock file can be locked");
    Machine(file)
}

/// Runs while no other test does.
pub fn alone() -> Machine {
    let file = open();
    file.lock().expect("the lock file can be locked");
    Machine(file)
}

fn open() -> File {
    let path = state_dir().join("machine.lock");
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .unwrap_or_else(|error| panic!("cannot open {}: {error}", path.display()))
}
