//! Programs that some tests need beside the binary.
//!
//! A missing one fails the test and names the Debian package, so that a green run means everything ran. Whoever cannot
//! install it lists it in `LONGSHORE_TEST_WITHOUT` (comma-separated) and the test says that it was left out.

use std::path::{Path, PathBuf};

use crate::docker_hosts;

/// What a test may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tool {
    /// Debian's `docker.io`, `docker-registry` and `busybox-static`, as root.
    Docker,
    Strace,
    Faketime,
    /// To be root: for files that a user may not use.
    Root,
}

impl Tool {
    fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Strace => "strace",
            Self::Faketime => "faketime",
            Self::Root => "root",
        }
    }

    fn missing(self) -> Option<String> {
        let lacks = |program: &str, package: &str| {
            which(program).is_none().then(|| format!("{program} is missing (Debian package {package})"))
        };
        let not_root = || (!rustix::process::geteuid().is_root()).then(|| "it must run as root".to_owned());
        match self {
            Self::Docker => docker_hosts::available().err().map(|why| why.to_string()),
            Self::Strace => lacks("strace", "strace"),
            Self::Faketime => faketime_library()
                .is_none()
                .then(|| "libfaketimeMT.so.1 is missing (Debian package faketime)".to_owned()),
            Self::Root => not_root(),
        }
    }
}

/// True when the tool is there. False when it is not and `LONGSHORE_TEST_WITHOUT` names it; the caller then returns.
///
/// # Panics
/// When it is missing and nobody said that it may be.
#[track_caller]
pub fn have(tool: Tool) -> bool {
    let Some(reason) = tool.missing() else { return true };
    let without = std::env::var("LONGSHORE_TEST_WITHOUT").unwrap_or_default();
    if without.split(',').any(|name| name.trim() == tool.name()) {
        eprintln!("left out, as LONGSHORE_TEST_WITHOUT says: {reason}");
        return false;
    }
    panic!(
        "{reason}; `scripts/test` installs it, or set LONGSHORE_TEST_WITHOUT={} to leave such tests out",
        tool.name()
    );
}

/// The library that fakes the wall clock of a process it is preloaded into.
pub fn faketime_library() -> Option<PathBuf> {
    let lib = std::fs::read_dir("/usr/lib").ok()?;
    let mut found: Vec<PathBuf> = lib
        .flatten()
        .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
        .filter(|path| path.exists())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Where a program is, by `PATH` and the folders of system programs.
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(program))
        .find(|candidate| Path::is_file(candidate))
}
