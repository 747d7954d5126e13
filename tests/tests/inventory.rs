//! What the engines have is known without asking them: by their events, also what nobody told the fleet, also when an engine or the tables are gone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use longshore_node::api::types::{ContainerList, ContainerStateView, ImageList, Strategy, VolumeList};
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::Yard;
use longshore_tests::{Peer, eventually, eventually_value, machine};

const PATIENCE: Duration = Duration::from_secs(60);
/// An engine is asked every five seconds whether it is there, and a listing waits for it for ten.
const DOUBTED_WITHIN: Duration = Duration::from_secs(30);
/// Listings that are asked for in a row.
const LISTINGS: usize = 20;
/// Ends at once when it is told to.
const WAITS: &str = "trap 'exit 0' TERM; while true; do sleep 0.2; done";

/// Runs `docker` on an engine, behind the fleet's back.
#[track_caller]
fn docker(yard: &Yard, engine: usize, args: &[&str]) -> String {
    let mut docker = Command::new("docker");
    docker.arg("--host").arg(format!("unix://{}", yard.hosts.socket(engine).display()));
    let output = docker.args(args).stdin(Stdio::null()).output().expect("docker runs");
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn json<T: serde::de::DeserializeOwned>(peer: &Peer, args: &[&str]) -> T {
    let ended = peer.cli(args.iter().copied().chain(["--format", "json"])).run();
    serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

fn containers(peer: &Peer) -> ContainerList {
    json(peer, &["op", "ps", "--all"])
}

/// `name@node`, with a `-` before what does not run.
fn shown(list: &ContainerList) -> Vec<String> {
    let word = |c: &longshore_node::api::types::ContainerView| {
        let is_up = c.state == ContainerStateView::Running;
        format!("{}{}@{}", if is_up { "" } else { "-" }, c.name, c.node)
    };
    list.containers.iter().map(word).collect()
}

#[track_caller]
fn until_shown(peer: &Peer, wanted: &[&str]) {
    eventually_value("the listing to be right", PATIENCE, || {
        let list = containers(peer);
        match shown(&list) == wanted && list.stale.is_empty() && list.missing.is_empty() {
            true => Ok(()),
            false => Err(format!("{list:?}")),
        }
    });
}

/// How often an engine was asked for all of a kind.
fn listed(yard: &Yard, engine: usize, kind: &str) -> usize {
    let path = format!("/{kind}");
    yard.proxies[engine]
        .log()
        .iter()
        .filter(|logged| logged.target.split('?').next().is_some_and(|target| target.ends_with(&path)))
        .count()
}

#[test]
fn what_engines_have_is_known_without_asking_them() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(3, "invent", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image()).clone();
    let name = image.familiar();
    yard.cli_pull(0, &["--strategy", "replicated"], &[&image]).ok();
    let images: ImageList = json(&yard.fleet.peers[1], &["op", "images"]);
    let there = images.images.iter().filter(|found| found.tags.contains(&name)).count();
    assert_eq!((there, images.stale.len()), (3, 0), "what was pulled is shown at once: {images:?}");

    // What nobody told the fleet.
    let peers = &yard.fleet.peers;
    docker(
        &yard,
        1,
        &["run", "--detach", "--name", "by-hand", "--volume", "things:/data", &name, "sh", "-c", WAITS],
    );
    until_shown(&peers[0], &["by-hand@p2"]);
    docker(&yard, 1, &["rename", "by-hand", "renamed"]);
    docker(&yard, 1, &["stop", "renamed"]);
    until_shown(&peers[2], &["-renamed@p2"]);
    docker(&yard, 1, &["tag", &name, "by-hand:1"]);
    eventually("the volume and the name to be shown", PATIENCE, || {
        let volumes: VolumeList = json(&peers[2], &["op", "volumes"]);
        let images: ImageList = json(&peers[2], &["op", "images"]);
        volumes.volumes.iter().any(|volume| (volume.node.as_str(), volume.name.as_str()) == ("p2", "things"))
            && images
                .images
                .iter()
                .any(|image| image.node == "p2" && image.tags.contains(&"by-hand:1".to_owned()))
    });
    docker(&yard, 1, &["rmi", "by-hand:1"]);
    docker(&yard, 1, &["rm", "renamed"]);
    until_shown(&peers[0], &[]);

    // Whoever does something sees it, wherever it was done.
    for round in 0..5 {
        let (asked, at) = (&peers[round % 3], &peers[(round + 1) % 3]);
        let place = format!("p{}", (round + 2) % 3 + 1);
        asked.cli(["op", "run", "--name", "once", "--on", &place, &name, "sh", "-c", WAITS]).run().ok();
        assert_eq!(shown(&containers(at)), [format!("once@{place}")]);
        asked.cli(["op", "stop", "once"]).run().ok();
        assert_eq!(shown(&containers(at)), [format!("-once@{place}")]);
        asked.cli(["op", "rm", "once"]).run().ok();
        assert_eq!(shown(&containers(at)), Vec::<String>::new());
    }

    // Nobody is asked for that. (For containers the caretakers ask, now and then.)
    let asked = |kind: &str| -> usize { (0..3).map(|engine| listed(&yard, engine, kind)).sum() };
    let kinds = ["images/json", "volumes", "containers/json"];
    let before = kinds.map(asked);
    for number in 0..LISTINGS {
        let images: ImageList = json(&peers[number % 3], &["op", "images"]);
        let volumes: VolumeList = json(&peers[number % 3], &["op", "volumes"]);
        assert!(images.images.len() >= 3 && volumes.volumes.len() == 1, "{images:?} {volumes:?}");
        until_shown(&peers[number % 3], &[]);
    }
    let after = kinds.map(asked);
    assert!(before.iter().all(|asked| *asked > 0), "the paths have other names now: {before:?}");
    assert_eq!(after[..2], before[..2]);
    assert!(after[2] - before[2] < LISTINGS, "{} listings of containers", after[2] - before[2]);

    an_engine_that_is_away(&mut yard, &name);
    an_engine_that_stands_still(&yard);
}

/// Its containers are shown as they were seen last, also by a node that has been started since.
fn an_engine_that_is_away(yard: &mut Yard, image: &str) {
    docker(yard, 1, &["run", "--detach", "--name", "left", image, "sh", "-c", WAITS]);
    until_shown(&yard.fleet.peers[0], &["left@p2"]);
    yard.hosts.kill(1).expect("the engine is killed");
    for started_anew in [false, true] {
        if started_anew {
            assert_eq!(yard.fleet.peers[1].terminate(PATIENCE), 0);
            yard.fleet.peers[1].restart();
        }
        eventually_value("the listing to be as last seen", PATIENCE, || {
            let list = containers(&yard.fleet.peers[0]);
            let stale: Vec<&str> = list.stale.iter().map(|stale| stale.node.as_str()).collect();
            match (shown(&list) == ["left@p2"], &stale[..], &list.missing[..]) {
                (true, ["p2"], []) => Ok(()),
                _ => Err(format!("{list:?}")),
            }
        });
        let said = yard.fleet.peers[2].cli(["op", "ps"]).run();
        assert!(said.ok().contains("left"), "{said}");
        let note = said.stderr.lines().find(|line| line.contains("note: p2 is shown as last seen "));
        assert!(note.is_some_and(|note| note.contains("start dockerd")), "{said}");
        // It is shown, and nothing to act on.
        let removed = yard.fleet.peers[0].cli(["op", "rm", "--force", "left"]).run();
        removed.fails(1, &["not all that \"left\" could mean is seen", "p2"], &["--on"]);
    }
    yard.hosts.restart(1).expect("the engine starts");
    // Docker ends what ran on without it.
    until_shown(&yard.fleet.peers[0], &["-left@p2"]);
}

/// It answers nothing and tells of nothing: what it had is not taken for what it has.
fn an_engine_that_stands_still(yard: &Yard) {
    yard.hosts.pause(1).expect("the engine is paused");
    eventually_value("the listing to be as last seen", DOUBTED_WITHIN, || {
        let list = containers(&yard.fleet.peers[0]);
        let stale: Vec<&str> = list.stale.iter().map(|stale| stale.node.as_str()).collect();
        // Whether it had ended is known only if the inventory had caught up with the engine's start.
        let names: Vec<&str> = list.containers.iter().map(|container| container.name.as_str()).collect();
        match (&names[..], &stale[..], &list.missing[..]) {
            (["left"], ["p2"], []) => Ok(()),
            _ => Err(format!("{list:?}")),
        }
    });
    yard.hosts.resume(1).expect("the engine goes on");
    until_shown(&yard.fleet.peers[0], &["-left@p2"]);
}

fn folder(peer: &Peer) -> PathBuf {
    peer.spec.data_dir.join("inventory")
}

/// Flips a bit in every page of the store's log, so that one of them is of something that is in use.
fn damage(inventory: &Path) {
    const PAGE_BYTES: usize = 4 << 10;
    let log = inventory.join("1/db");
    let mut bytes = std::fs::read(&log).expect("the store is there");
    bytes.iter_mut().skip(PAGE_BYTES / 2).step_by(PAGE_BYTES).for_each(|byte| *byte ^= 4);
    std::fs::write(log, bytes).expect("writable");
}

#[test]
fn an_inventory_that_is_lost_or_damaged_is_made_anew() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(1, "lost", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image()).clone();
    let name = image.familiar();
    let pulled = yard.pull(0, &[&image], Strategy::Local);
    yard.wait_ended(0, &pulled.id);
    let run = |yard: &Yard, name: &str, image: &str| {
        docker(yard, 0, &["run", "--detach", "--name", name, image, "sh", "-c", WAITS]);
    };
    // Enough for more than a few pages.
    for number in 0..4 {
        docker(
            &yard,
            0,
            &[
                "create",
                "--name",
                &format!("made-{number}"),
                "--label",
                &format!("long={}", "x".repeat(4_000)),
                &name,
                "true",
            ],
        );
    }
    run(&yard, "web", &name);
    let made = ["-made-0@p1", "-made-1@p1", "-made-2@p1", "-made-3@p1"];
    let with =
        |names: &[&str]| -> Vec<String> { made.iter().chain(names).map(|name| (*name).to_owned()).collect() };
    let is_right = |yard: &Yard, said: &str, wanted: &[String]| {
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        until_shown(&yard.fleet.peers[0], &wanted);
        let images: ImageList = json(&yard.fleet.peers[0], &["op", "images"]);
        assert!(images.images.iter().any(|image| image.tags.contains(&name)), "{images:?}");
        eventually_value("its inventory to be open", PATIENCE, || match yard.fleet.peers[0].stderr() {
            all if all.contains(said) => Ok(()),
            all => Err(all),
        });
    };
    is_right(&yard, "there is no inventory here", &with(&["web@p1"]));

    let dir = folder(&yard.fleet.peers[0]);
    assert_eq!(yard.fleet.peers[0].terminate(PATIENCE), 0);
    // What happens while nobody listens is found as well.
    run(&yard, "web2", &name);
    yard.fleet.peers[0].restart();
    is_right(&yard, "the inventory is open", &with(&["web@p1", "web2@p1"]));

    assert_eq!(yard.fleet.peers[0].terminate(PATIENCE), 0);
    damage(&dir);
    docker(&yard, 0, &["rm", "--force", "web"]);
    yard.fleet.peers[0].restart();
    is_right(&yard, "the inventory was damaged and is set aside", &with(&["web2@p1"]));
    assert!(yard.fleet.peers[0].spec.data_dir.join("inventory.damaged-1").is_dir());

    yard.fleet.peers[0].kill9();
    std::fs::remove_dir_all(&dir).expect("the store is there");
    run(&yard, "web3", &name);
    yard.fleet.peers[0].restart();
    is_right(&yard, "there is no inventory here", &with(&["web2@p1", "web3@p1"]));

    // Killed in the middle of what it writes.
    for number in 0..3 {
        docker(&yard, 0, &["rename", &format!("web{}", number + 3), &format!("web{}", number + 4)]);
        yard.fleet.peers[0].kill9();
        yard.fleet.peers[0].restart();
    }
    until_shown(&yard.fleet.peers[0], &[&made[..], &["web2@p1", "web6@p1"]].concat());
}
