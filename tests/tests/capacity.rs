//! How busy nodes are and what they have left, as they tell each other; and where work goes for that.

use std::time::Duration;

use longshore_node::api::types::{
    Action, EngineView, LoadView, NodeState, OperationRequest, OperationView, Strategy,
};
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::yard::{PULL_TIMEOUT, Yard};
use longshore_tests::{Fleet, Peer, eventually, eventually_value, machine};

/// Nodes tell when they start, when they see another for the first time, and every ten seconds.
const KNOWN_WITHIN: Duration = Duration::from_secs(10);
/// Slow enough that a pull of the large image is seen while it runs.
const SLOW_BYTES_PER_SECOND: u64 = 1 << 20;

fn load(peer: &Peer, node: &str) -> Option<LoadView> {
    peer.http().node(node).expect("a node").load
}

/// Each of the nodes, as each of them sees it.
fn all_known(peers: &[Peer]) {
    eventually("all nodes to know each other's load", KNOWN_WITHIN, || {
        peers.iter().all(|peer| {
            let nodes = peer.http().nodes().expect("nodes").nodes;
            nodes.len() == peers.len() && nodes.iter().all(|node| node.load.is_some())
        })
    });
}

#[test]
fn nodes_know_how_busy_each_other_is() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "busy");
    all_known(&fleet.peers);
    for node in ["p1", "p2", "p3"] {
        let told = load(&fleet.peers[0], node).expect("it is known");
        assert!(told.cpu_busy_percent <= 100, "{told:?}");
        assert!(told.memory_free_bytes > 0 && told.memory_free_bytes <= told.memory_bytes, "{told:?}");
        assert!(told.disk_free_bytes > 0 && told.disk_free_bytes <= told.disk_bytes, "{told:?}");
        assert_eq!((told.running, told.engine_ms), (0, None), "there is no engine: {told:?}");
    }
    let listed = fleet.peers[1].cli(["node", "ls"]).run();
    let mut lines = listed.ok().lines();
    let head: Vec<&str> = lines.next().expect("a head").split_whitespace().collect();
    assert!(["CPU", "MEM", "DISK"].iter().all(|column| head.contains(column)), "{listed}");
    assert!(lines.all(|line| line.matches('%').count() == 3), "{listed}");
    let inspected = fleet.peers[1].cli(["node", "inspect", "p3"]).run();
    for part in ["of the processors busy", "of memory free", "of disk free"] {
        assert!(inspected.ok().contains(part), "{inspected}");
    }

    // They go on telling, and who has not told for half a minute is not known.
    let age = |fleet: &Fleet| load(&fleet.peers[0], "p3").map(|told| told.age_ms);
    eventually("p3 to tell again", 2 * KNOWN_WITHIN, || age(&fleet).is_some_and(|age| age < 2_000));
    fleet.peers[2].kill9();
    eventually("what p3 told to be too old", Duration::from_secs(60), || age(&fleet).is_none());
    let listed = fleet.peers[0].cli(["node", "ls"]).run();
    let dead = listed.ok().lines().find(|line| line.contains("p3")).expect("its line");
    assert!(dead.contains("failed") && !dead.contains('%'), "{listed}");
}

#[test]
fn work_goes_where_there_is_what_it_needs() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::with(3, "capacity", SLOW_BYTES_PER_SECOND, |spec| {
        let zone = if spec.name == "p1" { "north" } else { "south" };
        spec.with(["--zone", zone])
    });
    all_known(&yard.fleet.peers);
    let small = yard.registry.image(yard.hosts.small_image()).to_string();
    let pull = |args: &[&str]| {
        let args = [&["op", "pull", &small, "--format", "json"], args].concat();
        yard.fleet.peers[1].cli(args).run()
    };
    let pulled = |args: &[&str]| -> OperationView {
        let ended = pull(args);
        serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
    };
    let placed = |args: &[&str]| -> Vec<(String, String)> {
        let subs = pulled(args).sub_operations;
        subs.into_iter().map(|sub| (sub.node, sub.why.unwrap_or_default())).collect()
    };

    // What nobody has is refused, with what they have.
    let full = pull(&["--min-storage", "1PiB"]);
    full.fails(1, &["no node can do this", "p1 has", "p3 has", "MiB of its disk free"], &["ask for less"]);
    let cannot = pull(&["--capability", "no-such"]);
    cannot.fails(1, &["capability \"no-such\"", "os:linux", "runtime:runc"], &["longshore node inspect"]);
    let nowhere = pull(&["--prefer-zone", "west", "--replicas", "1"]);
    nowhere.fails(1, &["no node of the fleet is in zone \"west\"", "north, south"], &[]);
    pull(&["--prefer-zone", "north"]).fails(2, &["nothing to prefer"], &["--replicas"]);
    pull(&["--capability", "gpu", "--on", "p1"]).fails(2, &["cannot be used with"], &[]);
    let inspected = yard.fleet.peers[1].cli(["node", "inspect", "p1"]).run();
    for told in ["arch:", "os:linux", "runtime:runc", "storage-driver:", "the engine answers in"] {
        assert!(inspected.ok().contains(told), "{told}\n{inspected}");
    }

    // An image that one engine has speaks for its node, as soon as that has told.
    pulled(&["--on", "p3"]);
    eventually("p3 to tell of the image", PULL_TIMEOUT, || {
        load(&yard.fleet.peers[1], "p3").is_some_and(|told| told.images == Some(1))
    });
    for how in
        [&["--strategy", "distributed"][..], &["--replicas", "1"], &["--strategy", "local", "--min-cpu", "1"]]
    {
        let [(node, why)] = &placed(how)[..] else { panic!("one node: {how:?}") };
        assert!(
            node == "p3" && why.contains("has the image") && why.contains("% free"),
            "{how:?}: {node} {why}"
        );
    }
    let listed = yard.fleet.peers[0].cli(["op", "ls", "--limit", "1", "-q"]).run();
    let shown = yard.fleet.peers[0].cli(["op", "inspect", listed.ok().trim()]).run();
    assert!(shown.ok().contains("has the image"), "{shown}");
    // A preferred zone is stronger, and rules nobody out.
    let all = ["--capability", "os:linux", "--min-storage", "1MiB", "--prefer-zone", "north"];
    let [(node, why)] = &placed(&[&all[..], &["--strategy", "local"]].concat())[..] else {
        panic!("one node")
    };
    assert!(node == "p1" && why.contains("preferred zone north"), "{node} {why}");
    assert_eq!(placed(&[&all[..], &["--replicas", "3"]].concat()).len(), 3);

    // What is under way at a node is told while it is.
    let large = yard.registry.image(yard.hosts.large_image());
    let idle = load(&yard.fleet.peers[0], "p1").expect("it is known");
    assert_eq!(idle.running, 0, "{idle:?}");
    let view = yard.pull(0, &[&large], Strategy::Local);
    let seen = |running: u32| {
        eventually_value("the other nodes to see what p1 is at", PULL_TIMEOUT, || {
            match load(&yard.fleet.peers[2], "p1") {
                Some(told) if told.running == running => Ok(told),
                told => Err(format!("{told:?}")),
            }
        })
    };
    assert!(seen(1).engine_ms.is_some());
    let shown = yard.fleet.peers[1].cli(["node", "inspect", "p1"]).run();
    assert!(shown.ok().contains("1 part of operations under way"), "{shown}");
    yard.registry.set_rate(UNLIMITED);
    yard.wait_ended(0, &view.id);
    seen(0);
}

/// A started node is told what the others have within the two seconds that lie between two words of each.
const TOLD_WITHIN: Duration = Duration::from_secs(6);

#[test]
fn a_node_that_is_started_anew_is_told_at_once() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "anew");
    all_known(&fleet.peers);
    for _ in 0..3 {
        fleet.peers[2].kill9();
        fleet.peers[2].restart();
        let restarted = &fleet.peers[2];
        eventually("it to know what the others have", TOLD_WITHIN, || {
            load(restarted, "p1").is_some() && load(restarted, "p2").is_some()
        });
    }
}

/// Kills the engines of these nodes, and waits until all nodes know.
fn kill_engines(yard: &Yard, engines: &[usize]) {
    for engine in engines {
        yard.hosts.kill(*engine).expect("the engine is killed");
    }
    engines_are(yard, engines, false);
}

fn engines_are(yard: &Yard, engines: &[usize], there: bool) {
    eventually("the engines to be known to be away, or back", PULL_TIMEOUT, || {
        yard.fleet.running().all(|peer| {
            let nodes = peer.http().nodes().expect("nodes").nodes;
            engines.iter().all(|engine| {
                let name = format!("p{}", engine + 1);
                let node = nodes.iter().find(|node| node.name == name).expect("a member");
                matches!(node.engine, EngineView::Ready { .. }) == there
            })
        })
    });
}

#[test]
fn nodes_that_are_away_or_have_not_told_are_named() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(3, "untold", UNLIMITED);
    all_known(&yard.fleet.peers);
    let small = yard.registry.image(yard.hosts.small_image()).to_string();
    let pull = |yard: &Yard, peer: usize, args: &[&str]| {
        let args = [&["op", "pull", &small, "--detach", "--format", "json"], args].concat();
        yard.fleet.peers[peer].cli(args).run()
    };
    let placed = |yard: &Yard, peer: usize, args: &[&str]| -> (Vec<String>, Vec<String>) {
        let ended = pull(yard, peer, args);
        let view: OperationView =
            serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"));
        let said = ended.stderr.lines().filter(|line| line.starts_with("note: ")).count();
        assert_eq!(said, view.left_out.len(), "{ended}");
        let left_out = view.left_out.iter().map(|node| format!("{} {}", node.node, node.why)).collect();
        (view.sub_operations.into_iter().map(|sub| sub.node).collect(), left_out)
    };
    let names = |of: &[&str]| -> Vec<String> { of.iter().map(|name| (*name).to_owned()).collect() };
    let linux = ["--capability", "os:linux"];

    // What an engine can do is known while it is away: what is for all is for it too, and waits for it.
    kill_engines(&yard, &[2]);
    assert_eq!(placed(&yard, 1, &linux), (names(&["p1", "p2", "p3"]), Vec::new()));
    let three = pull(&yard, 1, &[&linux[..], &["--replicas", "3"]].concat());
    three.fails(
        1,
        &["3 nodes are asked for, and 2 can do this: p3 has a Docker engine that does not answer"],
        &["try again in a moment"],
    );
    kill_engines(&yard, &[0, 1]);
    let nobody = pull(&yard, 1, &[&linux[..], &["--replicas", "1"]].concat());
    nobody.fails(1, &["no node can do this: p1 has a Docker engine that does not answer"], &["in a moment"]);
    let nonsense = pull(&yard, 1, &["--capability", "gpu", "--replicas", "1"]);
    nonsense.fails(1, &["no node of the fleet has the capability \"gpu\"", "os:linux"], &[]);
    (0..3).for_each(|engine| yard.hosts.restart(engine).expect("the engine starts"));
    engines_are(&yard, &[0, 1, 2], true);

    // A node that is dead is left out, and that is said.
    yard.fleet.peers[2].kill9();
    yard.fleet.sees(0, "p3", NodeState::Failed, PULL_TIMEOUT);
    assert_eq!(placed(&yard, 0, &linux), (names(&["p1", "p2"]), names(&["p3 is dead"])));
    let listed = yard.fleet.peers[0].cli(["op", "ls", "--limit", "1", "-q"]).run();
    let shown = yard.fleet.peers[1].cli(["op", "inspect", listed.ok().trim()]).run();
    assert!(
        shown.ok().lines().any(|line| line.contains("left out") && line.contains("p3 is dead")),
        "{shown}"
    );
    yard.fleet.peers[2].restart();
    yard.fleet.sees(0, "p3", NodeState::Alive, PULL_TIMEOUT);

    // A node that has just begun waits for the others to tell it what they have.
    yard.fleet.peers[0].kill9();
    yard.fleet.peers[0].restart();
    assert_eq!(placed(&yard, 0, &["--min-storage", "1MiB"]), (names(&["p1", "p2", "p3"]), Vec::new()));
}

/// Submissions of one moment, and the least of them that each of three nodes gets: they are busy in different ways while they start.
const AT_ONCE: usize = 48;
const EACH_GETS: usize = 8;

#[test]
fn submissions_of_one_moment_do_not_all_go_to_one_node() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "herd", UNLIMITED);
    all_known(&yard.fleet.peers);
    // Nobody has it, and nobody gets it: only where it was to go matters.
    let action = Action::Pull { images: vec![yard.hosts.missing_image().to_string()] };
    let request = OperationRequest::new(action, Strategy::Distributed);
    let http = yard.fleet.peers[0].http();
    let nodes: Vec<String> = std::thread::scope(|scope| {
        let submit = || http.submit(&request, None).expect("it is taken").sub_operations.remove(0).node;
        let all: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(submit)).collect();
        all.into_iter().map(|one| one.join().expect("it is submitted")).collect()
    });
    for node in ["p1", "p2", "p3"] {
        let count = nodes.iter().filter(|chosen| *chosen == node).count();
        assert!(count >= EACH_GETS, "{node} got {count} of {AT_ONCE}: {nodes:?}");
    }
}
