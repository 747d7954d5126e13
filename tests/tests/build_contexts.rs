//! Folders that were sent to be built: how long they stay, what damages them, and where there is no room for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use longshore_node::api::types::{ContextList, OperationState};
use longshore_tests::cli::Ended;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::Yard;
use longshore_tests::{Fleet, eventually_value, machine};

const PATIENCE: Duration = Duration::from_secs(120);

/// A folder whose build copies `bytes` of its own.
fn folder(letter: &str, bytes: usize) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY x /\n").expect("a file");
    fs::write(folder.path().join("x"), letter.repeat(bytes)).expect("a file");
    folder
}

fn build(fleet: &Fleet, peer: usize, folder: &Path, args: &[&str]) -> Ended {
    let words = ["op", "build", folder.to_str().expect("plain")].into_iter().chain(args.iter().copied());
    fleet.peers[peer].cli(words).start().wait(PATIENCE)
}

fn said(ended: &Ended) -> String {
    format!("{}{}", ended.stdout, ended.stderr)
}

fn contexts(fleet: &Fleet, peer: usize) -> ContextList {
    fleet.peers[peer].http().get("/v1/contexts").expect("a list")
}

fn dir_of(fleet: &Fleet, peer: usize) -> PathBuf {
    fleet.peers[peer].spec.data_dir.join("contexts")
}

#[test]
fn folders_of_builds_that_wait_stay_and_their_holder_is_waited_for() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::with(3, "buildwait", UNLIMITED, |mut spec| {
        spec.env.push(("LONGSHORE_LIMITS_BUILD_CONTEXT".to_owned(), "1MiB".into()));
        spec.env.push(("LONGSHORE_LIMITS_BUILD_CONTEXTS".to_owned(), "2MiB".into()));
        spec
    });
    yard.fleet.ring_settles();
    // Both are for p2, which is away.
    yard.fleet.peers[1].kill9();
    yard.fleet.settle_as(2, None);
    let submit = |yard: &Yard, letter: &str| {
        let folder = folder(letter, 450_000);
        let tag = format!("{letter}:1");
        let detached = build(&yard.fleet, 0, folder.path(), &["-t", &tag, "--on", "p2", "--detach"]);
        detached.ok().trim().to_owned()
    };
    let ids = [submit(&yard, "a"), submit(&yard, "b")];
    let third = folder("c", 450_000);
    let refused = build(&yard.fleet, 0, third.path(), &["-t", "c:1"]);
    refused.fails(1, &["needed by builds that have not ended"], &["op ls --active", "limits.build_contexts"]);
    assert_eq!(contexts(&yard.fleet, 0).contexts.len(), 2);

    // Now their holder is away. That is waited for, and does not count as a failure: how often, the model's tests know.
    yard.fleet.peers[0].kill9();
    yard.fleet.peers[1].restart();
    for id in &ids {
        eventually_value("p2 to try again", PATIENCE, || {
            let view = yard.fleet.peers[1].http().operation(id).map_err(|error| error.to_string())?;
            let sub = &view.sub_operations[0];
            if sub.attempts > 1 && !view.state.is_terminal() { Ok(()) } else { Err(format!("{view:?}")) }
        });
    }
    yard.fleet.peers[0].restart();
    for (id, tag) in ids.iter().zip(["a:1", "b:1"]) {
        let view = yard.wait_ended(1, id);
        assert_eq!(view.state, OperationState::Succeeded, "{view:?}");
        assert!(yard.image_id(1, &tag.parse().expect("a reference")).is_some());
    }
}

#[test]
fn a_damaged_folder_is_dropped_and_sent_again() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "buildrot", UNLIMITED);
    yard.fleet.ring_settles();
    let folder = folder("x", 700_000);
    let on_p2 = |tag: &str| build(&yard.fleet, 0, folder.path(), &["-t", tag, "--on", "p2"]);
    let bad = folder_that_fails();
    assert_eq!(build(&yard.fleet, 0, bad.path(), &["-t", "bad:1"]).code, 1);
    let digest = contexts(&yard.fleet, 0).contexts[0].digest.clone();
    let file = dir_of(&yard.fleet, 0).join(format!("{digest}.blob"));
    let sound = fs::read(&file).expect("it is there");

    // One bit: only the digest tells.
    let mut bytes = sound.clone();
    bytes[1_000] ^= 1;
    fs::write(&file, &bytes).expect("it is damaged");
    let gone = build(&yard.fleet, 0, bad.path(), &["-t", "bad:1", "--on", "p2"]);
    assert_eq!(gone.code, 1, "{gone}");
    assert!(said(&gone).contains("no node has an undamaged copy"), "{gone}");
    assert!(said(&gone).contains("build again"), "{gone}");
    let again = build(&yard.fleet, 0, bad.path(), &["-t", "bad:1", "--on", "p2"]);
    assert!(said(&again).contains("sent the folder") && said(&again).contains("nothing"), "{again}");

    // Its end is missing: the node says that it does not have it.
    on_p2("x:1").ok();
    let listed = contexts(&yard.fleet, 0).contexts;
    let large = listed.iter().find(|context| context.bytes > 700_000).expect("it is listed");
    let file = dir_of(&yard.fleet, 0).join(format!("{}.blob", large.digest));
    fs::OpenOptions::new().write(true).open(&file).expect("it is there").set_len(5_000).expect("it is cut");
    let cut = build(&yard.fleet, 0, folder.path(), &["-t", "x:2"]);
    assert!(cut.code == 0 && said(&cut).contains("sent the folder"), "{cut}");
}

/// Sound, but its Dockerfile wants what is not there.
fn folder_that_fails() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("Dockerfile"), "FROM scratch\nCOPY nothing /\n").expect("a file");
    folder
}

#[test]
fn a_node_without_room_or_folder_for_contexts_runs_and_says_so() {
    let _machine = machine::share();
    let mut fleet = Fleet::with(1, "buildfull", |mut spec| {
        spec.env.push(("LONGSHORE_LIMITS_DISK_FLOOR".to_owned(), "1TiB".into()));
        spec
    });
    let folder = folder("x", 10);
    let refused = build(&fleet, 0, folder.path(), &["-t", "x:1"]);
    refused.fails(1, &["bytes left", "are not for build contexts"], &["make room", "limits.disk_floor"]);
    assert!(contexts(&fleet, 0).contexts.is_empty());
    assert_eq!(fs::read_dir(dir_of(&fleet, 0)).expect("a folder").count(), 0);

    fleet.peers[0].terminate(PATIENCE);
    fs::remove_dir(dir_of(&fleet, 0)).expect("it is empty");
    fs::write(dir_of(&fleet, 0), "no folder").expect("a file in its place");
    fleet.peers[0].restart();
    fleet.settle();
    build(&fleet, 0, folder.path(), &["-t", "x:1"]).fails(
        1,
        &["opening the folder contexts"],
        &["data folder"],
    );
    // It is mended without another start: what is in the way now is the disk.
    fs::remove_file(dir_of(&fleet, 0)).expect("it is a file");
    build(&fleet, 0, folder.path(), &["-t", "x:1"]).fails(1, &["not for build contexts"], &[]);
}
