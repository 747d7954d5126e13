//! The `longshore` binary under test.
//!
//! Cargo gives a test the path of a binary of its own package only, and binary dependencies are not in stable cargo, so
//! the harness asks cargo to build the one of `longshore-node`, once per test process; cargo's own lock makes that safe
//! between processes, and when nothing changed it takes a fraction of a second. A release build, because tests
//! that measure time and tests that check behaviour should judge the same program: the one that users run.
//!
//! `LONGSHORE_BIN` names a binary to use as it is; `LONGSHORE_TEST_PROFILE` another cargo profile.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The path of the binary; builds it when needed.
pub fn longshore() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("LONGSHORE_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "LONGSHORE_BIN={} is not a file", path.display());
            path
        }
        None => build(),
    })
}

/// The workspace's root folder.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace's root")
}

fn build() -> PathBuf {
    let profile = std::env::var("LONGSHORE_TEST_PROFILE").unwrap_or_else(|_| "release".to_owned());
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    eprintln!("building the longshore binary, profile {profile}");
    let mut command = Command::new(cargo);
    // What cargo told this test about its own package would look like a changed environment to build scripts (ring's
    // watches these), and everything above it would be built again.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_", "CARGO_PRIMARY_"]
            .iter()
            .any(|p| name.starts_with(p))
        {
            command.env_remove(&*name);
        }
    }
    let output = command
        .current_dir(workspace())
        .args(["build", "--package", "longshore-node", "--bin", "longshore", "--profile", &profile])
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(std::process::Stdio::inherit())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "the longshore binary does not build");
    // Cargo says where it put the executable, whatever target folder and profile are configured.
    cargo_metadata::Message::parse_stream(output.stdout.as_slice())
        .flatten()
        .find_map(|message| match message {
            cargo_metadata::Message::CompilerArtifact(artifact) if artifact.target.name == "longshore" => {
                artifact.executable
            }
            _ => None,
        })
        .map(PathBuf::from)
        .expect("cargo names the executable that it built")
}
