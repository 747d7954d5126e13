//! `sim`: finding the simulator. That this process becomes it is tested with the real binary (`tests/tests/sim.rs`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::cli::args::Command;
use crate::cli::sim::find;

fn program(dir: &Path, mode: u32) -> PathBuf {
    let file = dir.join("longshore-sim");
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
    file
}

#[test]
fn it_is_looked_for_beside_the_program_and_then_on_the_path() {
    let dirs = [0, 1, 2].map(|_| tempfile::tempdir().unwrap());
    let [beside, first, second] = dirs.each_ref().map(tempfile::TempDir::path);
    let path = format!("{}:{}", first.display(), second.display());
    let missing = find(Some(beside), &path).unwrap_err();
    assert_eq!(missing.exit, Exit::Failed);
    assert!(
        missing.message.contains("there is no longshore-sim beside this program or on the PATH"),
        "{missing}"
    );
    assert!(missing.hint.unwrap().contains("cargo build"));
    let there = program(second, 0o755);
    assert_eq!(find(Some(beside), &path).unwrap(), there);
    // What cannot be executed is passed over, as shells do.
    program(first, 0o644);
    assert_eq!(find(Some(beside), &path).unwrap(), there);
    let there = program(first, 0o755);
    assert_eq!(find(None, &path).unwrap(), there);
    let there = program(beside, 0o755);
    assert_eq!(find(Some(beside), &path).unwrap(), there);
}

#[test]
fn its_arguments_are_its_own() {
    for args in
        [&["run", "--seed", "3", "--format", "json"][..], &["--help"], &["-h"], &["--verbose-not"], &[]]
    {
        let cli = Cli::try_parse_from(["longshore", "sim"].iter().chain(args)).unwrap();
        let Command::Sim(sim) = cli.command else { panic!("{args:?}") };
        assert_eq!(sim.args, *args);
    }
}
