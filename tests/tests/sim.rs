//! `longshore sim` becomes `longshore-sim`: arguments, output and exit code.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use longshore_tests::binary::longshore;

#[test]
fn longshore_becomes_its_simulator() {
    let dir = tempfile::tempdir().expect("a folder");
    // Alone in a folder, so that no simulator that was built lies beside it.
    let own = dir.path().join("longshore");
    fs::copy(longshore(), &own).expect("copied");
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).expect("a folder");
    let sim = |args: &[&str]| {
        let ended =
            Command::new(&own).arg("sim").args(args).env("PATH", format!("{}:/bin", bin.display())).output();
        ended.expect("it starts")
    };
    let missing = sim(&["run"]);
    let said = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{said}");
    assert!(
        said.contains("error: the simulator is not installed") && said.contains("hint: build it"),
        "{said}"
    );

    let program = bin.join("longshore-sim");
    fs::write(&program, "#!/bin/sh\necho \"$#: $*\"\nexit 4\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    let ended = sim(&["run", "--seed", "7", "--help"]);
    assert_eq!(String::from_utf8_lossy(&ended.stdout), "4: run --seed 7 --help\n");
    assert_eq!(ended.status.code(), Some(4));
}
