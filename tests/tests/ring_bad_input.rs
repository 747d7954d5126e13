//! What goes wrong with the ring when people make mistakes, or hosts die: each gets an exit code, a sentence and what to do about it, and
//! nothing is lost by it.

use std::time::Duration;

use hyper::{Method, StatusCode};
use longshore_model::keys::limits::{KEY_BYTES_MAX, SCAN_KEYS_MAX, VALUE_BYTES_MAX};
use longshore_node::api::types::{ApiError, NodeState, PlacementView};
use longshore_tests::cli::Cli;
use longshore_tests::fleet::Site;
use longshore_tests::keys::key_of_each_group;
use longshore_tests::peer::Start;
use longshore_tests::{Fleet, eventually_value, machine};

/// From the death of a node to `failed`, on a busy machine.
const DEATH_TIMEOUT: Duration = Duration::from_secs(30);
/// A request that cannot be served has to say so before people give up.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn shapes_of_a_ring_that_there_are_not() {
    let site = Site::new("ringshape");
    for (extra, error, hint) in [
        (["--groups", "33"], "33", "32, 64, 128, 256"),
        (["--groups", "0"], "0", "32, 64, 128, 256"),
        (["--groups", "512"], "512", "32, 64, 128, 256"),
        (["--groups", "many"], "many", "32, 64, 128, 256"),
        (["--groups", ""], "groups", "32, 64, 128, 256"),
        (["--replication", "2"], "2", "1, 3, 5"),
        (["--replication", "7"], "7", "1, 3, 5"),
        (["--replication", "-1"], "-1", ""),
        (["--weight", "heavy"], "heavy", ""),
    ] {
        let ended = site.spec(1).with(extra).start_ends(&Start::Init);
        ended.fails(2, &[error], &[]);
        assert!(ended.stderr.contains(hint), "what there is instead is not said\n{ended}");
        assert!(!site.path("p1").join("identity.json").exists(), "a fleet was made all the same\n{ended}");
    }
    // Fixed for its life: a joiner, or a second start, cannot give another.
    for command in ["join", "run"] {
        let ended = Cli::new([command, "--groups", "64"]).run();
        assert_eq!(ended.code, 2, "{ended}");
    }
}

#[test]
fn more_replicas_than_nodes_are_as_many_as_there_can_be_and_that_is_told() {
    let _machine = machine::share();
    let fleet = Fleet::with_ring(1, "ringfive", 32, 5);
    let peer = &fleet.peers[0];
    let show = peer.cli(["ring", "show"]).run();
    assert!(show.ok().contains("1 replica each (5 were asked for; there are too few nodes)"), "{show}");
    peer.http().set_key("n", "k", "v", None).expect("one replica serves");
}

/// A node is ready before all its replicas are open. Where it has the only one, requests wait for that, and not for a leader elsewhere.
#[test]
fn a_fleet_of_one_serves_every_group_as_soon_as_it_is_ready() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(1, "ringsoon");
    let keys = key_of_each_group(32);
    for value in ["after init", "after a restart"] {
        for key in &keys {
            let set = fleet.peers[0].http().set_key("n", key, value, None);
            assert!(set.is_ok(), "{key} {value}: {set:?}");
        }
        fleet.peers[0].kill9();
        fleet.peers[0].restart();
        for key in &keys {
            let found = fleet.peers[0].http().get_key("n", key).expect("it reads").expect("nothing is lost");
            assert_eq!(found.0, value, "{key}");
        }
    }
}

#[test]
fn names_keys_values_and_pages_that_are_refused() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "ringnames");
    let peer = &fleet.peers[0];
    let cache = |args: &[&str]| peer.cli([&["cache"], args].concat()).run();
    cache(&["set", "n", "kept", "safe"]).ok();

    // Namespaces.
    let long = "n".repeat(65);
    for name in ["", "N", "a b", "a/b", "é", ".hidden", "_x", long.as_str()] {
        for args in
            [vec!["set", name, "k", "v"], vec!["get", name, "k"], vec!["del", name, "k"], vec!["scan", name]]
        {
            cache(&args).fails(2, &["namespace", "a-z", "64"], &[]);
        }
        cache(&["bench", "--namespace", name, "--duration", "1s"]).fails(2, &["namespace"], &[]);
    }
    // Keys.
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    for key in ["", long.as_str()] {
        for args in [vec!["set", "n", key, "v"], vec!["get", "n", key], vec!["del", "n", key]] {
            cache(&args).fails(2, &["key", "1 to 1024 bytes"], &[]);
        }
    }
    cache(&["get", "n", "nothing"]).fails(1, &["nothing", "n"], &["scan"]);
    cache(&["del", "n", "nothing"]).ok();
    cache(&["del", "n", "nothing", "--if-present"]).fails(1, &["does not exist"], &[]);
    // Values, by file: a command line holds less.
    for (len, good) in [(VALUE_BYTES_MAX, true), (VALUE_BYTES_MAX + 1, false), (3 << 20, false)] {
        let file = fleet.site.path("value");
        std::fs::write(&file, vec![b'v'; len]).expect("written");
        let stdin = std::fs::File::open(&file).expect("it is there");
        let mut command = Cli::new(["--host"])
            .arg(peer.socket())
            .arg("cache")
            .arg("set")
            .arg("n")
            .arg("big")
            .arg("-")
            .command();
        let output = command.stdin(stdin).output().expect("it runs");
        let stderr = String::from_utf8_lossy(&output.stderr);
        if good {
            assert!(output.status.success(), "{stderr}");
        } else {
            assert_eq!(output.status.code(), Some(2), "{stderr}");
            assert!(stderr.contains("1044480") && stderr.contains("split"), "{stderr}");
        }
    }
    let kept = peer.http().get_key("n", "big").expect("read").expect("the good one is there");
    assert_eq!(kept.0.len(), VALUE_BYTES_MAX, "what was refused replaced nothing");
    // Times to live, versions.
    cache(&["set", "n", "k", "v", "--ttl", "0s"]).fails(2, &["1 ms"], &[]);
    cache(&["set", "n", "k", "v", "--ttl", "90000d"]).fails(2, &["10 years"], &[]);
    cache(&["set", "n", "k", "v", "--ttl", "soon"]).fails(2, &["soon"], &[]);
    cache(&["set", "n", "k", "v", "--ttl", "1s", "--keep-ttl"]).fails(2, &["ttl"], &[]);
    cache(&["set", "n", "kept", "lost", "--if-absent"]).fails(1, &["version"], &["--if-version"]);
    cache(&["set", "n", "kept", "lost", "--if-version", "77"]).fails(1, &["77"], &["--if-version"]);
    // Pages.
    for limit in ["0", "many", "1000001"] {
        cache(&["scan", "n", "--limit", limit]).fails(2, &["limit"], &[]);
    }
    for (path, status) in [
        (format!("/v1/keys/n?limit={}", SCAN_KEYS_MAX + 1), StatusCode::BAD_REQUEST),
        ("/v1/keys/n?limit=0".to_owned(), StatusCode::BAD_REQUEST),
        ("/v1/keys/n?limit=x".to_owned(), StatusCode::BAD_REQUEST),
        ("/v1/keys/n?what=1".to_owned(), StatusCode::BAD_REQUEST),
        ("/v1/keys/N".to_owned(), StatusCode::BAD_REQUEST),
        ("/v1/keys/n/%zz".to_owned(), StatusCode::BAD_REQUEST),
        (format!("/v1/keys/n/{long}"), StatusCode::PAYLOAD_TOO_LARGE),
    ] {
        let reply = peer.http().send(Method::GET, &path, &[], None).expect("a reply");
        assert_eq!(reply.status, status, "{path}: {}", reply.text());
        let error: ApiError = serde_json::from_slice(&reply.body).expect("errors are JSON");
        assert!(!error.message.is_empty(), "{path}");
    }
    // Over TCP the API reads only.
    let body = Some("x".into());
    let reply = peer.tcp().send(Method::PUT, "/v1/keys/n/kept", &[], body).expect("a reply");
    assert_eq!(reply.status, StatusCode::FORBIDDEN, "{}", reply.text());
    assert_eq!(cache(&["get", "n", "kept"]).ok(), "safe");
}

#[test]
fn groups_and_nodes_that_are_not_there() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "ringabsent");
    let peer = &fleet.peers[0];
    let run = |args: &[&str]| peer.cli(args.iter().copied()).run();
    for group in ["g0", "g33", "33", "x", "-"] {
        run(&["group", "inspect", group]).fails(1, &[group, "g32"], &["group ls"]);
        run(&["group", "transfer", group, "p1"]).fails(1, &[group, "g32"], &["group ls"]);
    }
    run(&["group", "transfer", "g1", "nobody"]).fails(1, &["nobody"], &["node ls"]);
    run(&["ring", "plan"]).fails(2, &["--add"], &[]);
    run(&["ring", "plan", "--remove", "nobody"]).fails(1, &["nobody"], &["node ls"]);
    run(&["ring", "plan", "--remove", "p1"]).fails(1, &[], &[]);
    run(&["ring", "plan", "--add", "p1"]).fails(1, &["p1", "already"], &[]);
    run(&["ring", "plan", "--add", "no spaces"]).fails(2, &["name"], &[]);
    run(&["ring", "plan", "--add", "p2:heavy"]).fails(2, &["heavy", "weight"], &[]);
    run(&["ring", "plan", "--add", "p2:0"]).ok();
}

/// Two of three nodes die: every group is without a quorum, and says which it is and who is missing.
#[test]
fn a_group_without_a_quorum_says_so_and_loses_nothing() {
    let _machine = machine::share();
    let mut fleet = Fleet::with_ring(3, "ringstuck", 32, 3);
    let keys = key_of_each_group(32);
    for key in &keys {
        fleet.peers[0].http().set_key("n", key, "kept", None).expect("written");
    }
    let ring = fleet.leaders_spread();
    let led_by_p1 = |group: &PlacementView| group.leader.as_deref() == Some("p1");
    let own = ring.groups.iter().position(led_by_p1).expect("p1 leads a third");
    let of_others = ring.groups.iter().position(|group| !led_by_p1(group)).expect("others lead the rest");
    fleet.peers[1].kill9();
    fleet.peers[2].kill9();
    for name in ["p2", "p3"] {
        fleet.sees(0, name, NodeState::Failed, DEATH_TIMEOUT);
    }
    let peer = &fleet.peers[0];
    // A group that p1 did not lead: nothing was done. One that it led: it may have written the change down.
    let key = &keys[of_others];
    let name = format!("g{}", of_others + 1);
    let set = peer.cli(["cache", "set", "n", key, "lost"]).run();
    set.fails(4, &[&name, "p2", "p3", "quorum"], &["nothing was done", "group ls"]);
    assert!(set.took < PATIENCE, "{set}");
    let get = peer.cli(["cache", "get", "n", key]).run();
    get.fails(4, &[&name, "p2", "p3"], &["group ls"]);
    assert!(get.took < PATIENCE, "{get}");
    let set = peer.cli(["cache", "set", "n", &keys[own], "perhaps"]).run();
    assert!(set.took < PATIENCE, "{set}");
    match set.code {
        4 => set.fails(4, &["p2", "p3", "quorum"], &["nothing was done", "group ls"]),
        _ => set.fails(1, &["outcome unknown", "p2", "p3"], &["read the key"]),
    };
    peer.cli(["cache", "scan", "n"]).run().fails(4, &["p2", "p3"], &["group ls"]);
    peer.cli(["group", "transfer", "g7", "p2"]).run().fails(4, &["quorum"], &[]);
    peer.cli(["ring", "pause"]).run().fails(4, &["quorum"], &[]);
    // Whoever looks sees it, and what to do.
    let ring = peer.cli(["ring", "show"]).run();
    assert!(ring.ok().contains("p2, p3 missing") && ring.stderr.contains("no quorum"), "{ring}");
    let list = peer.cli(["group", "ls"]).run();
    assert!(list.ok().contains("no quorum: p2, p3 missing"), "{list}");
    let one = peer.cli(["group", "inspect", "g7"]).run();
    assert!(one.ok().contains("missing p2, p3") && one.ok().contains("does not answer"), "{one}");
    let status = peer.http().status().expect("status");
    let told = |warning: &String| warning.contains("no quorum") && warning.contains("bring p2, p3 back");
    assert!(status.warnings.iter().any(told), "{:?}", status.warnings);

    fleet.peers[1].restart();
    for (index, key) in keys.iter().enumerate() {
        let found = eventually_value("the key to be read", DEATH_TIMEOUT, || {
            fleet.peers[0].http().get_key("n", key).map_err(|error| error.to_string())
        });
        let found = found.map(|(value, _)| String::from_utf8_lossy(&value).into_owned());
        // The refused write was not done, and nothing was lost.
        let unknown = index == own && set.code != 4 && found.as_deref() == Some("perhaps");
        assert!(unknown || found.as_deref() == Some("kept"), "{key}: {found:?}");
    }
}

/// Where each group has one replica, a dead node takes data with it. It must not be removed as if that were nothing.
#[test]
fn a_node_that_holds_the_last_copy_is_not_removed_nor_does_one_leave_that_cannot_hand_over() {
    let _machine = machine::share();
    let mut fleet = Fleet::with_ring(3, "ringlast", 32, 1);
    let keys = key_of_each_group(32);
    for key in &keys {
        fleet.peers[0].http().set_key("n", key, "kept", None).expect("written");
    }
    let (observer, dead) = (fleet.leader(), fleet.follower());
    let name = fleet.peers[dead].name().to_owned();

    // What leaves has to hand over first, and that needs a ring that moves.
    fleet.peers[observer].cli(["ring", "pause"]).run().ok();
    fleet.peers[dead].cli(["leave", "--yes"]).run().fails(1, &["paused", &name], &["ring resume"]);
    fleet.peers[observer].cli(["ring", "resume"]).run().ok();

    fleet.peers[dead].kill9();
    fleet.sees(observer, &name, NodeState::Failed, DEATH_TIMEOUT);
    let remove = fleet.peers[observer].cli(["node", "rm", &name, "--yes"]).run();
    remove.fails(1, &[&name, "no quorum", "lost"], &["bring", &name, "group ls"]);
    fleet.peers[dead].restart();
    fleet.settle();
    for key in &keys {
        let found = eventually_value("the key to be read", DEATH_TIMEOUT, || {
            fleet.peers[observer].http().get_key("n", key).map_err(|error| error.to_string())
        });
        assert_eq!(found.map(|(value, _)| value), Some("kept".into()), "{key}");
    }
}

#[test]
fn a_node_with_less_room_than_it_must_hold_is_told() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(2, "ringroom");
    let total: u32 = fleet.ring_settles().nodes.iter().map(|node| node.weight).sum();
    let weight = (total / 100).max(1).to_string();
    fleet.join_number(3, &["--weight", &weight]);
    fleet.settle();
    // A group has three replicas on distinct nodes, so each of three nodes holds all groups, room or not.
    let ring = fleet.ring_settles();
    assert!(ring.nodes.iter().all(|node| node.replicas == 32), "{ring:?}");
    for peer in &fleet.peers {
        let status = peer.http().status().expect("status");
        let told = |warning: &String| ["p3", "32", "--weight"].iter().all(|word| warning.contains(word));
        assert!(status.warnings.iter().any(told), "{:?}", status.warnings);
    }
}

/// Changes that wait for a dead node are given up when it is removed, and what it had taken is made anew elsewhere.
#[test]
fn a_node_that_dies_while_replicas_move_to_it_is_removed_and_nothing_waits_for_it() {
    let _machine = machine::share();
    let mut fleet = Fleet::with_ring(3, "ringdies", 32, 3);
    let keys = key_of_each_group(32);
    for key in &keys {
        fleet.peers[0].http().set_key("n", key, "kept", None).expect("written");
    }
    fleet.join_number(4, &[]);
    eventually_value("replicas to move to p4", DEATH_TIMEOUT, || {
        let ring = fleet.ring()?;
        let p4 = ring.nodes.iter().find(|node| node.name == "p4").ok_or("p4 is not known")?;
        let taken = p4.replicas + p4.arriving;
        if taken > 0 && p4.replicas < p4.target { Ok(()) } else { Err(format!("{p4:?}")) }
    });
    fleet.peers[3].kill9();
    fleet.sees(0, "p4", NodeState::Failed, DEATH_TIMEOUT);
    // With two of three replicas the groups it had joined go on.
    for key in &keys {
        eventually_value("the key to be written", DEATH_TIMEOUT, || {
            fleet.peers[1].http().set_key("n", key, "kept on", None).map_err(|error| error.to_string())
        });
    }
    fleet.peers[0].cli(["node", "rm", "p4", "--yes"]).run().ok();
    let ring = fleet.ring_settles();
    assert!(ring.groups.iter().all(|group| group.members == ["p1", "p2", "p3"]), "{ring:?}");
    for key in &keys {
        let found = fleet.peers[2].http().get_key("n", key).expect("a settled ring reads");
        assert_eq!(found.map(|(value, _)| value), Some("kept on".into()), "{key}");
    }
}
