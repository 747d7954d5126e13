//! Operations of every kind, where they go, and their end by a person, on real engines.

use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_node::api::types::{OperationState, OperationView, Strategy, SubOperationState};
use longshore_tests::cli::Ended;
use longshore_tests::guarded_registry::GuardedRegistry;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::{PULL_TIMEOUT, Yard};
use longshore_tests::{Stopwatch, eventually, machine};

/// Slow enough that a pull of the large image to three engines takes some ten seconds.
const SLOW_BYTES_PER_SECOND: u64 = 2 << 20;
/// A lease is renewed every five seconds; who is told at once stops well before.
const CANCELLED_WITHIN: Duration = Duration::from_secs(4);

/// The operation that a command prints once it has ended.
fn json(yard: &Yard, peer: usize, args: &[&str]) -> OperationView {
    let ended = yard.fleet.peers[peer].cli(args.iter().copied().chain(["--format", "json"])).run();
    serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

fn nodes(view: &OperationView) -> Vec<&str> {
    view.sub_operations.iter().map(|sub| sub.node.as_str()).collect()
}

#[test]
fn a_cancelled_pull_stops_on_every_engine_and_can_be_done_again() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "cancel", SLOW_BYTES_PER_SECOND);
    let image = yard.registry.image(yard.hosts.large_image());
    let submitted = yard.pull(0, &[&image], Strategy::Replicated);
    eventually("all engines to pull", PULL_TIMEOUT, || {
        yard.proxies.iter().all(|proxy| proxy.pulls(&image).under_way == 1)
    });

    let unended = yard.fleet.peers[1].cli(["op", "retry", &submitted.id]).run();
    unended.fails(1, &["has not ended"], &["longshore op wait"]);
    let watch = Stopwatch::start();
    let cancelled = yard.fleet.peers[1].cli(["op", "cancel", &submitted.id]).run();
    assert!(cancelled.ok().contains("cancelled: 0 of 3 done, 3 cancelled"), "{cancelled}");
    eventually("no engine to pull any more", PULL_TIMEOUT, || {
        yard.proxies.iter().all(|proxy| proxy.pulls(&image).under_way == 0)
    });
    let took = watch.elapsed();
    println!("cancelled on three engines after {} ms", took.as_millis());
    assert!(took < CANCELLED_WITHIN, "{took:?}");
    yard.fleet.peers[2].cli(["op", "cancel", &submitted.id]).run().ok();
    let view = yard.wait_ended(2, &submitted.id);
    assert_eq!(view.state, OperationState::Cancelled, "{view:?}");
    assert_eq!(view.cancelled_by.as_deref(), Some("p2"), "whoever was told first: {view:?}");
    assert!(view.sub_operations.iter().all(|sub| sub.state == SubOperationState::Cancelled), "{view:?}");
    let waited = yard.fleet.peers[0].cli(["op", "wait", &submitted.id]).run();
    waited.fails(1, &["cancelled"], &["longshore op inspect"]);

    yard.registry.set_rate(UNLIMITED);
    let again = json(&yard, 2, &["op", "retry", &submitted.id]);
    assert_eq!((again.state, again.retry_of), (OperationState::Succeeded, Some(submitted.id.clone())));
    for (engine, proxy) in yard.proxies.iter().enumerate() {
        assert!(yard.image_id(engine, &image).is_some());
        let counts = proxy.pulls(&image);
        assert_eq!((counts.started, counts.broken_off, counts.most_at_once), (2, 1, 1), "{counts:?}");
    }
    let done = yard.fleet.peers[0].cli(["op", "retry", &again.id]).run();
    done.fails(1, &["nothing to do again"], &[]);
    let late = yard.fleet.peers[0].cli(["op", "cancel", &again.id]).run();
    late.fails(1, &["has ended already"], &["longshore op inspect"]);

    let listed = |filters: &[&str]| -> Vec<String> {
        let args = ["op", "ls", "-q"].iter().chain(filters).copied();
        let ended = yard.fleet.peers[1].cli(args).run();
        ended.ok().lines().map(str::to_owned).collect()
    };
    assert_eq!(listed(&["--filter", "state=cancelled"]), [submitted.id.as_str()]);
    assert_eq!(
        listed(&["--filter", "kind=pull", "--since", "1h"]),
        [again.id.as_str(), submitted.id.as_str()]
    );
    assert!(listed(&["--filter", "kind=tag"]).is_empty());
    let unknown = yard.fleet.peers[1].cli(["op", "ls", "--filter", "kind=fly"]).run();
    unknown.fails(2, &["no kind of operation"], &[]);
}

#[test]
fn images_are_named_pushed_and_spread_over_nodes_that_meet_what_is_asked() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "spread", UNLIMITED);
    let small = yard.hosts.small_image().clone();
    let name = |text: &str| -> ImageReference {
        format!("{}/{text}", yard.hosts.registry()).parse().expect("a reference")
    };
    let run = |args: &[&str]| yard.fleet.peers[0].cli(args.iter().copied()).run();

    // What an engine does not have can be neither tagged nor pushed.
    let (renamed, pushed) = (name("renamed:1"), name("renamed:2"));
    let lacks = |ended: Ended| {
        ended.fails(1, &["0 of"], &["longshore op inspect"]);
        assert!(ended.stdout.contains("the engine has no image"), "{ended}");
    };
    lacks(run(&["op", "push", &renamed.to_string()]));
    let tag = ["op", "tag", &small.to_string(), &renamed.to_string(), &pushed.to_string()];
    lacks(run(&tag));
    let pinned = format!("{}@sha256:{}", renamed.name(), "0".repeat(64));
    run(&["op", "push", &pinned]).fails(2, &["names a digest"], &[]);
    run(&["op", "pull", &small.to_string(), "--strategy", "local"]).ok();
    run(&tag).ok();
    let view = json(&yard, 0, &["op", "push", &renamed.to_string(), &pushed.to_string()]);
    assert_eq!((view.state, view.sub_operations.len()), (OperationState::Succeeded, 2), "{view:?}");
    for sub in &view.sub_operations {
        assert!(sub.result.as_ref().is_some_and(|result| result.starts_with("sha256:")), "{sub:?}");
        assert!(sub.layers_total > 0 && sub.layers_done == sub.layers_total, "{sub:?}");
    }
    let id = yard.image_id(0, &small).expect("it was pulled");
    assert_eq!(yard.image_id(1, &renamed), None);

    // Labels and zones.
    for (node, disk) in [("p2", "ssd"), ("p3", "ssd"), ("p1", "hdd")] {
        run(&["node", "update", node, "--label-add", &format!("disk={disk}")]).ok();
    }
    let pull = |args: &[&str]| [&["op", "pull", &renamed.to_string()], args].concat().join(" ");
    let pulled = |args: &[&str]| {
        let words = pull(args);
        json(&yard, 0, &words.split(' ').collect::<Vec<_>>())
    };
    assert_eq!(nodes(&pulled(&["--label", "disk=ssd"])), ["p2", "p3"]);
    assert_eq!(yard.image_id(1, &renamed).as_ref(), Some(&id), "what was pushed is what was pulled");
    let one = pulled(&["--strategy", "local", "--label", "disk=hdd"]);
    assert_eq!(nodes(&one), ["p1"]);
    assert!(one.sub_operations[0].why.as_ref().is_some_and(|why| why.contains("weight")), "{one:?}");
    assert_eq!(pulled(&["--replicas", "2"]).sub_operations.len(), 2);
    let fails = |args: &[&str], code, error: &[&str]| {
        let words = pull(args);
        let ended = yard.fleet.peers[0].cli(words.split(' ')).run();
        ended.fails(code, error, &[]);
    };
    fails(
        &["--label", "disk=nvme"],
        1,
        &["no node of the fleet has the label disk=nvme", "disk=hdd, disk=ssd"],
    );
    fails(&["--zone", "north"], 1, &["no node of the fleet is in zone"]);
    fails(&["--label", "disk=ssd", "--replicas", "3"], 1, &["3 nodes", "2 can", "p1 has disk=hdd"]);
    fails(&["--on", "p1", "--label", "disk"], 2, &["cannot be used with"]);
    fails(&["--strategy", "local", "--in-turn"], 2, &["distributed strategy only"]);
    fails(&["--strategy", "distributed", "--replicas", "2"], 2, &["replicated strategy only"]);

    // A key finds its operation also when nobody could do it any more, and stands for that request only.
    let keyed = ["--label", "disk=hdd", "--idempotency-key", "k"];
    let first = pulled(&keyed);
    run(&["node", "update", "p1", "--label-add", "disk=ssd"]).ok();
    assert_eq!(pulled(&keyed).id, first.id);
    fails(&["--label", "disk=hdd"], 1, &["no node of the fleet has the label disk=hdd"]);
    fails(
        &["--label", "disk=hdd", "--idempotency-key", "other"],
        1,
        &["no node of the fleet has the label disk=hdd"],
    );
    fails(&["--idempotency-key", "k", "--on", "p1"], 1, &["used for another request"]);
    let again = run(&["op", "retry", &first.id, "--idempotency-key", "k"]);
    again.fails(1, &["nothing to do again"], &[]);

    // Spread: each image once.
    let both = ["op", "pull", &renamed.to_string(), &pushed.to_string(), &small.to_string()];
    // Where an image is speaks for a node; here all are everywhere.
    run(&both).ok();
    eventually("all nodes to tell of all three images", PULL_TIMEOUT, || {
        let nodes = yard.fleet.peers[0].http().nodes().expect("nodes").nodes;
        nodes.iter().all(|node| node.load.as_ref().is_some_and(|load| load.images == Some(3)))
    });
    let spread = json(&yard, 0, &[&both[..], &["--strategy", "distributed", "--in-turn"]].concat());
    assert_eq!(nodes(&spread), ["p1", "p2", "p3"]);
    let spread = json(&yard, 0, &[&both[..], &["--strategy", "distributed"]].concat());
    let mut by_weight = nodes(&spread);
    by_weight.sort_unstable();
    assert_eq!(by_weight, ["p1", "p2", "p3"], "hosts of the same weight get the same share: {spread:?}");
    let inspected = run(&["op", "inspect", &spread.id]);
    assert!(inspected.ok().contains("CHOSEN FOR") && inspected.stdout.contains("weight"), "{inspected}");

    // An engine that is down gets nothing that could go elsewhere.
    yard.hosts.stop(2).expect("it stops");
    eventually("the fleet to know", PULL_TIMEOUT, || {
        let node = yard.fleet.peers[0].http().node("p3").expect("a node");
        matches!(node.engine, longshore_node::api::types::EngineView::Unavailable { .. })
    });
    let spread = json(&yard, 0, &[&both[..], &["--strategy", "distributed"]].concat());
    assert!(!nodes(&spread).contains(&"p3"), "{spread:?}");
    assert_eq!(spread.state, OperationState::Succeeded);
    let two = pulled(&["--replicas", "2"]);
    assert_eq!((nodes(&two), two.state), (vec!["p1", "p2"], OperationState::Succeeded), "{two:?}");
    fails(&["--replicas", "3"], 1, &["3 nodes", "2 can", "p3 has a Docker engine that does not answer"]);
}

#[test]
fn the_fleet_shows_registries_the_password_that_it_was_given_and_nobody_else() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(2, "login", UNLIMITED);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let start = GuardedRegistry::start(yard.hosts.registry(), "ci", "s3cret-word");
    let guarded = runtime.block_on(start).expect("a registry with a guard");
    let (address, image) = (guarded.address().to_string(), guarded.image(yard.hosts.small_image()));
    let cli = |peer: usize, args: &[&str]| yard.fleet.peers[peer].cli(args.iter().copied());
    let login = |peer: usize, password: &str| {
        let script = format!("printf %s '{password}' | \"$0\" \"$@\"");
        let command = cli(peer, &["login", &address, "--username", "ci", "--password-stdin"]).command();
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script]).arg(command.get_program()).args(command.get_args());
        assert!(shell.status().expect("a shell").success());
    };

    let refused = cli(0, &["op", "pull", &image.to_string()]).run();
    assert!(refused.code == 1 && refused.stdout.contains("refused"), "{refused}");
    login(0, "wrong");
    let refused = cli(0, &["op", "pull", &image.to_string()]).run();
    assert!(refused.code == 1 && refused.stdout.contains("refused"), "{refused}");
    assert!(guarded.refused() > 0);

    // Said to one peer, known to all, also after a restart; asked for by a container, too.
    login(1, "s3cret-word");
    let listed = cli(0, &["login"]).run();
    assert!(listed.ok().contains(&address) && !listed.ok().contains("s3cret"), "{listed}");
    cli(0, &["op", "pull", &image.to_string()]).run().ok();
    assert!(yard.image_id(0, &image).is_some() && yard.image_id(1, &image).is_some());
    cli(0, &["op", "tag", &image.to_string(), &format!("{}:again", image.name())]).run().ok();
    cli(0, &["op", "push", &format!("{}:again", image.name())]).run().ok();

    // The password is nowhere that people or files show it.
    for peer in &yard.fleet.peers {
        for text in [peer.stdout(), peer.stderr()] {
            assert!(!text.contains("s3cret-word"), "the log of {}", peer.name());
        }
    }
    let found = std::process::Command::new("grep")
        .args(["-rlF", "s3cret-word"])
        .arg(yard.fleet.site.dir())
        .output()
        .expect("grep");
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "in files of the fleet");

    cli(1, &["logout", &address]).run().ok();
    cli(1, &["logout", &address]).run().fails(1, &["has no credentials"], &["longshore login"]);
    let again = cli(0, &["op", "push", &format!("{}:again", image.name())]).run();
    assert!(again.code == 1, "{again}");
}
