//! Pulls through the fleet, on real engines from a real registry.

use std::time::Duration;

use longshore_node::api::types::{OperationState, OperationView, Strategy, SubOperationState};
use longshore_tests::cli::Ended;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::{PULL_TIMEOUT, Yard};
use longshore_tests::{eventually, machine};
use rustix::process::Signal;

/// Slow enough that a pull of the large image to three engines takes some ten seconds.
const SLOW_BYTES_PER_SECOND: u64 = 2 << 20;

/// Every sub-operation says what it did, from start to end.
#[track_caller]
fn complete(view: &OperationView) {
    assert!(view.ended_at_ms.is_some(), "{view:?}");
    for sub in &view.sub_operations {
        assert_eq!(sub.state, SubOperationState::Succeeded, "{sub:?}");
        assert!(sub.attempts >= 1, "{sub:?}");
        assert!(sub.result.as_ref().is_some_and(|result| result.contains("sha256:")), "{sub:?}");
        assert!(sub.error.is_none(), "{sub:?}");
        assert!(sub.started_at_ms.is_some() && sub.started_at_ms <= sub.ended_at_ms, "{sub:?}");
        assert!(sub.layers_total > 0, "{sub:?}");
        assert_eq!(sub.layers_done, sub.layers_total, "{sub:?}");
        assert_eq!(sub.current_bytes, sub.total_bytes, "{sub:?}");
    }
}

#[test]
fn a_replicated_pull_outlives_its_coordinator() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(3, "pull", SLOW_BYTES_PER_SECOND);
    let image = yard.registry.image(yard.hosts.large_image());
    let leader = yard.fleet.leader();
    let asked = yard.fleet.follower();
    let survivors: Vec<usize> = (0..3).filter(|peer| *peer != leader).collect();

    let submitted = yard.pull(asked, &[&image], Strategy::Replicated);
    assert_eq!(submitted.sub_operations.len(), 3, "{submitted:?}");
    // Halfway: every engine pulls, and part of the layers has come.
    eventually("all engines to be in the middle of the pull", PULL_TIMEOUT, || {
        let pulling = yard.proxies.iter().all(|proxy| proxy.pulls(&image).under_way == 1);
        pulling && yard.registry.downloaded_bytes() > 6 << 20
    });
    yard.fleet.peers[leader].kill9();
    let view = yard.fleet.peers[asked].http().operation(&submitted.id).expect("the record is there");
    assert!(!view.state.is_terminal(), "the leader was killed too late: {view:?}");

    // The others finish without it.
    eventually("the survivors to have the image", PULL_TIMEOUT, || {
        survivors.iter().all(|survivor| yard.image_id(*survivor, &image).is_some())
    });
    yard.registry.set_rate(UNLIMITED);
    yard.fleet.peers[leader].restart();
    let view = yard.wait_ended(asked, &submitted.id);
    assert_eq!(view.state, OperationState::Succeeded, "{view:?}");
    yard.fleet.settle();

    for (index, peer) in yard.fleet.peers.iter().enumerate() {
        let seen = peer.http().operation(&submitted.id).expect("the record is everywhere");
        complete(&seen);
        let sub = seen
            .sub_operations
            .iter()
            .find(|sub| sub.node == peer.name() || sub.node == peer.node_id())
            .expect("each node has its part");
        let counts = yard.proxies[index].pulls(&image);
        println!("{}: {} attempts, {counts:?}", peer.name(), sub.attempts);
        assert_eq!(counts.most_at_once, 1, "two pulls at a time on the engine of {}", peer.name());
        assert_eq!(counts.under_way, 0, "{}: {counts:?}", peer.name());
        assert_eq!(counts.started, u64::from(sub.attempts), "{}: {counts:?}, {sub:?}", peer.name());
        if index == leader {
            assert!(counts.broken_off >= 1 && sub.attempts >= 2, "it died in the middle: {counts:?}");
        } else {
            assert_eq!(sub.attempts, 1, "a new coordinator does not disturb who works: {sub:?}");
        }
    }
    let ids: Vec<Option<String>> = (0..3).map(|engine| yard.image_id(engine, &image)).collect();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "{ids:?}");
}

#[test]
fn pulls_from_the_command_line() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "pullcli", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image());
    let other = yard.registry.image(yard.hosts.other_small_image());

    // To all, in plain lines.
    let pulled = yard.cli_pull(1, &["--strategy", "replicated"], &[&image]);
    pulled.ok();
    let said = format!("{}{}", pulled.stdout, pulled.stderr);
    assert!(said.contains("p1") && said.contains("p2"), "{pulled}");
    assert!(
        !said.contains('\u{1b}') && !said.contains('\r'),
        "off a terminal there are plain lines\n{pulled}"
    );
    assert!(yard.image_id(0, &image).is_some() && yard.image_id(1, &image).is_some());

    // To one: the node that is asked, or the one named.
    yard.cli_pull(1, &["--strategy", "local"], &[&other]).ok();
    assert!(yard.image_id(0, &other).is_none() && yard.image_id(1, &other).is_some());
    yard.cli_pull(1, &["--strategy", "local", "--on", "p1"], &[&other]).ok();
    assert!(yard.image_id(0, &other).is_some());

    // As JSON; under a key, from two peers, as one operation.
    let as_json = |peer| -> OperationView {
        let args = ["--strategy", "replicated", "--format", "json", "--idempotency-key", "once"];
        let ended = yard.cli_pull(peer, &args, &[&image]);
        serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
    };
    let (one, two) = (as_json(0), as_json(1));
    assert_eq!((one.id.as_str(), one.state), (two.id.as_str(), OperationState::Succeeded));

    // Detached, and followed.
    let detached = yard.cli_pull(0, &["--detach"], &[&image]);
    let id = detached.ok().trim().to_owned();
    assert!(!id.contains(char::is_whitespace), "the id and nothing else\n{detached}");
    yard.fleet.peers[1].cli(["op", "watch", &id]).run().ok();
    let listed = yard.fleet.peers[1].cli(["op", "ls", "-q"]).run();
    assert_eq!(listed.ok().lines().next(), Some(id.as_str()), "newest first\n{listed}");
    let inspected = yard.fleet.peers[1].cli(["op", "inspect", &id]).run();
    assert!(inspected.ok().contains(&image.to_string()), "{inspected}");
    let views = yard.fleet.peers[1].http().watch_operation(&id).expect("a stream");
    assert!(views.last().is_some_and(|view| view.state.is_terminal()), "{views:?}");
}

#[test]
fn an_interrupted_client_leaves_the_operation_running() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(1, "interrupt", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image());
    yard.proxies[0].hold_pulls();
    let client = yard.start_cli_pull(0, &[], &[&image]);
    eventually("the pull to begin, and the client to know", PULL_TIMEOUT, || {
        let told = client.stdout().contains("operation ") || client.stderr().contains("operation ");
        told && yard.proxies[0].pulls(&image).under_way == 1
    });
    client.signal(Signal::INT);
    let ended = client.wait(Duration::from_secs(10));
    assert_eq!(ended.code, 130, "{ended}");
    let id = yard.fleet.peers[0].http().operations(1).expect("operations")[0].id.clone();
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(said.contains(&format!("longshore op watch {id}")), "{ended}");

    let active = yard.fleet.peers[0].cli(["op", "ls", "--active", "-q"]).run();
    assert_eq!(active.ok().trim(), id, "{active}");
    yard.proxies[0].release_pulls();
    yard.fleet.peers[0].cli(["op", "watch", &id]).run().ok();
    complete(&yard.wait_ended(0, &id));
    assert_eq!(yard.proxies[0].pulls(&image).started, 1, "it was the same pull all along");
}

#[test]
fn pulls_that_cannot_succeed_say_why() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "pullbad", UNLIMITED);
    let good = yard.registry.image(yard.hosts.small_image());
    let other = yard.registry.image(yard.hosts.other_small_image());
    let missing = yard.registry.image(&yard.hosts.missing_image());
    let says = |ended: &Ended, parts: &[&str]| {
        let said = format!("{}{}", ended.stdout, ended.stderr);
        for part in parts {
            assert!(said.contains(part), "does not say {part:?}\n{ended}");
        }
    };

    // No such image: at once, without trying again.
    let ended = yard.cli_pull(0, &[], &[&missing]);
    assert_eq!(ended.code, 1, "{ended}");
    says(&ended, &["not found", &missing.to_string()]);
    assert_eq!(yard.proxies[0].pulls(&missing).started, 1, "what does not exist is asked for once");

    // One of two.
    let ended = yard.cli_pull(0, &[], &[&good, &missing]);
    assert_eq!(ended.code, 5, "{ended}");
    says(&ended, &["not found", &missing.to_string()]);
    assert!(yard.image_id(0, &good).is_some(), "the other one came");

    // The registry is down: tried again until the time is up, and said.
    yard.hosts.stop_registry().expect("it stops");
    let ended = yard.cli_pull(0, &["--timeout", "6s"], &[&other]);
    assert_eq!(ended.code, 1, "{ended}");
    says(&ended, &["registry", &other.to_string()]);
    // It comes back while the operation waits: the operation succeeds.
    let before = yard.proxies[0].pulls(&other).started;
    let id = yard.pull(0, &[&other], Strategy::Local).id;
    eventually("a second attempt", PULL_TIMEOUT, || yard.proxies[0].pulls(&other).started >= before + 2);
    yard.hosts.restart_registry().expect("it starts");
    let view = yard.wait_ended(0, &id);
    assert_eq!(view.state, OperationState::Succeeded, "{view:?}");

    // One engine of two is down.
    yard.hosts.stop(1).expect("it stops");
    let ended = yard.cli_pull(0, &["--strategy", "replicated", "--timeout", "6s"], &[&good]);
    assert_eq!(ended.code, 5, "{ended}");
    says(&ended, &["p2"]);
    yard.hosts.restart(1).expect("it starts");
    yard.cli_pull(0, &["--strategy", "replicated"], &[&good]).ok();
    assert!(yard.image_id(1, &good).is_some());
}
