//! Hosts that are not alike: a port that is taken, a disk that is full, an image for another processor. What can not be done on one is said so, the
//! others do it, and nothing is lost.

use std::net::TcpListener;

use hyper::Method;
use longshore_node::api::types::{CopyStateView, OperationState, OperationView, RunView, SubOperationState};
use longshore_tests::cli::Ended;
use longshore_tests::http::Http;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::{PULL_TIMEOUT, Yard};
use longshore_tests::{eventually, machine};

/// Room for an engine that has nothing, and not for the large image.
const SMALL_DISK: &str = "size=6m";

fn cli(yard: &Yard, peer: usize, args: &[&str]) -> Ended {
    yard.fleet.peers[peer].cli(args.iter().copied()).run()
}

fn runs(yard: &Yard, peer: usize) -> Vec<RunView> {
    let ended = cli(yard, peer, &["op", "runs", "--format", "json"]);
    serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

/// Names of all containers of an engine.
fn containers(yard: &Yard, engine: usize) -> Vec<String> {
    let reply = Http::unix(yard.hosts.socket(engine))
        .send(Method::GET, "/containers/json?all=1", &[], None)
        .expect("the engine answers");
    let listed: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    let name = |container: &serde_json::Value| {
        container["Names"][0].as_str().expect("a name").trim_start_matches('/').to_owned()
    };
    listed.as_array().expect("a list").iter().map(name).collect()
}

/// What the command printed as JSON, whatever it ended with.
fn view(ended: &Ended) -> OperationView {
    serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

#[test]
fn a_port_that_is_taken_and_an_image_for_another_processor_are_said() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "unlike", UNLIMITED);
    let small = yard.registry.image(yard.hosts.small_image()).to_string();

    // Whoever listens there need not be a container.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("an address").port();
    yard.hosts.make_network(0, "open").expect("a network");
    let publish = format!("127.0.0.1:{port}:80");
    let open = ["op", "run", "--on", "p1", "--network", "open", "--publish", &publish, "--name", "door"];
    let sleep = ["sleep", "600"];
    let refused = cli(&yard, 1, &[&open[..], &[&small], &sleep].concat());
    assert_eq!(refused.code, 1, "{refused}");
    let said = format!("{}{}", refused.stdout, refused.stderr);
    assert!(said.contains("a port that door asks for is taken on this host"), "{refused}");
    assert!(said.contains(&port.to_string()), "which one it is\n{refused}");
    assert!(containers(&yard, 0).is_empty(), "what could not be started is not left behind");
    drop(taken);
    cli(&yard, 1, &[&open[..], &[&small], &sleep].concat()).ok();
    assert_eq!(containers(&yard, 0), ["door"]);

    // Each engine says it for itself, and so does the operation for all.
    let foreign = yard.registry.image(yard.hosts.foreign_image()).to_string();
    let args = ["op", "run", "--name", "alien", "--replicas", "3", "--format", "json", &foreign, "sh"];
    let refused = cli(&yard, 2, &args);
    assert_eq!(refused.code, 1, "{refused}");
    let alien = view(&refused);
    assert_eq!(alien.state, OperationState::Failed, "{alien:?}");
    for sub in &alien.sub_operations {
        let why = sub.error.as_deref().unwrap_or_default();
        assert!(why.contains("does not run on this host"), "{sub:?}");
        assert_eq!(sub.attempts, 1, "it is not tried again where it can not work: {sub:?}");
    }
    for engine in 1..3 {
        assert!(containers(&yard, engine).is_empty(), "{engine}");
    }
}

#[test]
fn a_full_disk_on_one_host_fails_there_and_copies_go_elsewhere() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "full", UNLIMITED);
    let large = yard.registry.image(yard.hosts.large_image()).to_string();
    yard.hosts.stop(1).expect("it stops");
    yard.hosts.shrink_disk(1, SMALL_DISK).expect("a small file system");
    yard.hosts.restart(1).expect("it starts");
    eventually("the fleet to see the engine again", PULL_TIMEOUT, || {
        let node = yard.fleet.peers[0].http().node("p2").expect("a node");
        matches!(node.engine, longshore_node::api::types::EngineView::Ready { .. })
    });

    // A copy that can not be made on the host with the fewest goes to one where it can.
    let keep = ["op", "run", "--restart-on-failure", "--name", "kept", "--replicas", "3", "--timeout", "10s"];
    let kept = cli(&yard, 0, &[&keep[..], &["--format", "json", &large, "sleep", "600"]].concat());
    assert_eq!(kept.code, 5, "{kept}");
    eventually("three copies on the two hosts with room", PULL_TIMEOUT, || {
        let runs = runs(&yard, 2);
        runs[0].copies.iter().all(|copy| copy.state == CopyStateView::Up && copy.node != "p2")
    });
    assert!(containers(&yard, 1).is_empty());

    let pull = ["op", "pull", "--strategy", "replicated", "--timeout", "10s"];
    let partly = cli(&yard, 0, &[&pull[..], &[&large]].concat());
    assert_eq!(partly.code, 5, "two of three have it\n{partly}");
    let said = format!("{}{}", partly.stdout, partly.stderr);
    assert!(said.contains("p2") && said.contains("the disk of the engine is full"), "{partly}");
    let partly = cli(&yard, 0, &[&pull[..], &["--format", "json", &large]].concat());
    let partly = view(&partly);
    assert_eq!(partly.state, OperationState::Partial, "{partly:?}");

    // When there is room, what failed is done, and only that.
    yard.hosts.grow_disk(1, "size=512m").expect("a larger file system");
    let again = cli(&yard, 1, &["op", "retry", &partly.id, "--format", "json"]);
    let again = view(&again);
    let done: Vec<(&str, SubOperationState)> =
        again.sub_operations.iter().map(|sub| (sub.node.as_str(), sub.state)).collect();
    assert_eq!(done, [("p2", SubOperationState::Succeeded)], "{again:?}");
}
