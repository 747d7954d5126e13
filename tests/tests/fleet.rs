//! The life of a fleet, as its users see it: it starts, grows, restarts, shrinks, and tells about itself.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use hyper::{Method, StatusCode};
use longshore_node::api::types::{NodeRole, NodeState, TokenCreate};
use longshore_tests::cli::Cli;
use longshore_tests::fleet::Site;
use longshore_tests::peer::Start;
use longshore_tests::{Fleet, PeerSpec, eventually, eventually_value, machine};
use rustix::process::Signal;

/// A clean stop takes at most 5 s; the rest is for a machine that is busy.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// From the death of a node to `failed`, on a busy machine.
const DEATH_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn init_prints_what_people_need_and_is_usable() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "init");
    let peer = &fleet.peers[0];

    let stdout = peer.stdout();
    let lines: Vec<&str> = stdout.lines().collect();
    assert_eq!(lines.len(), 5, "{stdout}");
    assert!(lines[0].starts_with("fleet "), "{stdout}");
    assert_eq!(lines[1], format!("node n1 (p1) listening on {}", peer.spec.listen));
    assert_eq!(lines[2], "To add a host, run on it:");
    assert!(lines[3].starts_with(' ') && lines[3].ends_with(&peer.spec.seed()), "{stdout}");
    assert!(peer.token().starts_with("LSJ1-"), "{stdout}");
    assert_eq!(lines[4], "ready");

    let status = peer.http().status().expect("status");
    assert_eq!((status.role, status.voters, status.nodes_total), (NodeRole::Leader, 1, 1));
    assert_eq!(status.fleet, peer.fleet_id());
    assert_eq!(status.leader.as_deref(), Some("p1"));
    peer.http().set_label("self", "shore", "east").expect("a fleet of one takes changes");
    assert_eq!(peer.http().node("p1").expect("node").labels["shore"], "east");
}

#[test]
fn the_data_folder_is_private_and_laid_out_as_documented() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "layout");
    let dir = &fleet.peers[0].spec.data_dir;
    let mode = |path: &std::path::Path| {
        path.symlink_metadata()
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()))
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(mode(dir), 0o700);
    for name in ["identity.json", "node.key", "node.crt", "ca.crt", "lock", "longshore.sock"] {
        assert_eq!(mode(&dir.join(name)), 0o600, "{name}");
    }
    for name in ["log", "snapshots"] {
        assert_eq!(mode(&dir.join(name)), 0o700, "{name}");
    }
    let secret = fleet.token.rsplit('-').next().expect("a token has parts");
    let log = fleet.peers[0].stderr();
    assert!(!log.contains(secret), "the token's secret is in the log:\n{log}");
}

#[test]
fn the_printed_join_line_joins() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "joinline");
    let spec = fleet.site.spec(2);
    let words = fleet.peers[0].join_line();
    let mut args = vec!["join".to_owned()];
    args.extend(words);
    args.extend(["--name", "p2", "--docker", "none"].map(str::to_owned));
    args.extend(["--listen".to_owned(), spec.listen.to_string()]);
    args.extend(["--data-dir".to_owned(), spec.data_dir.to_string_lossy().into_owned()]);
    let joiner = Cli::new(args).start();
    eventually("the joiner to be ready", Duration::from_secs(40), || {
        joiner.stdout().lines().any(|line| line == "ready")
    });
    let stdout = joiner.stdout();
    assert!(stdout.starts_with(&format!("fleet {}\n", fleet.peers[0].fleet_id())), "{stdout}");
    assert!(stdout.contains("node n2 (p2) listening on"), "{stdout}");
    let names: Vec<String> =
        fleet.peers[0].http().nodes().expect("nodes").nodes.into_iter().map(|node| node.name).collect();
    assert_eq!(names, ["p1", "p2"]);
    joiner.signal(Signal::TERM);
    assert_eq!(joiner.wait(STOP_TIMEOUT).code, 0);
}

#[test]
fn three_peers_show_the_same_fleet() {
    let _machine = machine::share();
    let fleet = Fleet::with(3, "three", |spec| {
        let zone = format!("zone-{}", spec.name);
        spec.with(["--zone", &zone, "--label", "rack=r1", "--label", "disk=ssd"])
    });
    for (index, peer) in fleet.peers.iter().enumerate() {
        assert_eq!(peer.node_id(), format!("n{}", index + 1));
        let listing = peer.cli(["node", "ls"]).run();
        let table = listing.ok();
        let head = table.lines().next().unwrap_or_default();
        for column in ["ID", "NAME", "ROLE", "STATE", "ADDRESS", "ZONE", "ENGINE", "LAST SEEN"] {
            assert!(head.contains(column), "no column {column}:\n{table}");
        }
        for other in &fleet.peers {
            let row = table.lines().find(|line| line.contains(&other.spec.seed()));
            let row = row.unwrap_or_else(|| panic!("no row for {}:\n{table}", other.name()));
            assert!(row.contains(other.name()) && row.contains("alive"), "{table}");
            assert!(row.contains(&format!("zone-{}", other.name())), "{table}");
            let is_self = row.contains(&format!("{}*", other.node_id()))
                || row.contains(&format!("{} *", other.node_id()));
            assert_eq!(is_self, other.name() == peer.name(), "{table}");
        }
        assert_eq!(table.matches("leader").count(), 1, "{table}");
        assert!(!table.contains('\u{1b}'), "no colours off a terminal");

        let ids = peer.cli(["node", "ls", "-q"]).run();
        assert_eq!(ids.ok().lines().count(), 3, "{ids}");
        let json: serde_json::Value =
            serde_json::from_str(peer.cli(["node", "ls", "--format", "json"]).run().ok()).expect("JSON");
        assert!(json.to_string().contains("\"self\":true"), "{json}");
        let status = peer.cli(["status"]).run();
        assert!(status.ok().contains(&fleet.peers[0].fleet_id()), "{status}");
    }
    let view = fleet.peers[2].http().node("p1").expect("node");
    assert_eq!((view.labels["rack"].as_str(), view.labels["disk"].as_str()), ("r1", "ssd"));
    assert_eq!(view.zone.as_deref(), Some("zone-p1"));
    let inspected = fleet.peers[1].cli(["node", "inspect", "p3"]).run();
    assert!(inspected.ok().contains("p3") && inspected.ok().contains("rack"), "{inspected}");
}

#[test]
fn labels_change_at_any_peer_and_are_read_at_every_peer() {
    let _machine = machine::share();
    let fleet = Fleet::of(3, "labels");
    fleet.peers[1].cli(["node", "update", "p3", "--label-add", "a=1", "--label-add", "b=2"]).run().ok();
    for peer in &fleet.peers {
        let labels = peer.http().node("n3").expect("node").labels;
        assert_eq!((labels["a"].as_str(), labels["b"].as_str()), ("1", "2"), "at {}", peer.name());
    }
    fleet.peers[2].cli(["node", "update", "p3", "--label-rm", "a", "--label-add", "b=3"]).run().ok();
    for peer in &fleet.peers {
        let labels = peer.http().node("3").expect("node").labels;
        assert_eq!((labels.get("a"), labels["b"].as_str()), (None, "3"), "at {}", peer.name());
    }
}

#[test]
fn sigterm_stops_cleanly_and_run_goes_on() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "restart");
    fleet.peers[0].http().set_label("p1", "kept", "yes").expect("label");

    // One after the other, the leader first: the fleet goes on all the time.
    for _ in 0..3 {
        let leader = fleet.leader();
        assert_eq!(fleet.peers[leader].terminate(STOP_TIMEOUT), 0);
        let other = fleet.leader();
        fleet.peers[other].http().set_label("p2", "while-away", "yes").expect("two of three take changes");
        fleet.peers[leader].restart();
        fleet.settle();
    }
    // All at once.
    let ids: Vec<String> = fleet.peers.iter().map(|peer| peer.node_id()).collect();
    for peer in &mut fleet.peers {
        assert_eq!(peer.terminate(STOP_TIMEOUT), 0, "{}", peer.stderr());
    }
    for peer in &mut fleet.peers {
        peer.respawn(&Start::Run);
    }
    for peer in &fleet.peers {
        peer.wait_ready();
    }
    fleet.settle();
    for (peer, id) in fleet.peers.iter().zip(ids) {
        assert_eq!(peer.node_id(), id);
        assert_eq!(peer.http().node("p1").expect("node").labels["kept"], "yes");
    }
}

#[test]
fn a_clean_stop_of_the_leader_hands_over() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "handover");
    let leader = fleet.leader();
    let follower = fleet.follower();
    assert_eq!(fleet.peers[leader].terminate(STOP_TIMEOUT), 0);
    // No suspicion and no election are needed: the next change goes through at once.
    let outcome = fleet.peers[follower].http().set_label("self", "x", "1");
    assert!(outcome.is_ok(), "{outcome:?}");
}

#[test]
fn a_node_that_comes_back_under_another_address_is_followed() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "address");
    let follower = fleet.follower();
    fleet.peers[follower].terminate(STOP_TIMEOUT);
    fleet.peers[follower].spec.listen.set_ip(fleet.site.net().host(200));
    fleet.peers[follower].restart();
    fleet.settle();
    let moved = fleet.peers[follower].spec.clone();
    for peer in &fleet.peers {
        eventually_value("the new address to be known", Duration::from_secs(30), || {
            let address = peer.http().node(&moved.name).map_err(|error| error.to_string())?.address;
            if address == moved.seed() { Ok(()) } else { Err(address) }
        });
    }
}

#[test]
fn leave_hands_over_leaves_and_ends_the_process() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "leave");
    let leader = fleet.leader();
    let left = fleet.peers[leader].name().to_owned();
    let leave = fleet.peers[leader].cli(["leave", "--yes"]).run();
    leave.ok();
    assert_eq!(fleet.peers[leader].wait_exit(STOP_TIMEOUT), 0, "{}", fleet.peers[leader].stderr());
    fleet.settle();
    for peer in fleet.running() {
        let list = peer.http().nodes().expect("nodes");
        assert!(
            list.nodes.iter().all(|node| node.name != left || node.state == NodeState::Left),
            "{left} is still there: {list:?}"
        );
    }
    let other = fleet.leader();
    fleet.peers[other].http().set_label("self", "after", "leave").expect("the rest takes changes");

    let again = fleet.peers[leader].spec.start_ends(&Start::Run);
    again.fails(1, &["left"], &["join"]);
    // Its place is free: an emptied folder joins as somebody new.
    let spec = fleet.site.spec(9);
    let name = left.clone();
    let joined = fleet.join(PeerSpec { name, ..spec });
    assert_eq!(joined.node_id(), "n4", "node ids are never used again");
    fleet.settle();
}

#[test]
fn leave_is_refused_when_the_rest_would_have_no_quorum() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(2, "stay");
    let leader = fleet.leader();
    let other = 1 - leader;
    let other_name = fleet.peers[other].name().to_owned();
    fleet.peers[other].kill9();
    fleet.sees(leader, &other_name, NodeState::Failed, DEATH_TIMEOUT);
    let leave = fleet.peers[leader].cli(["leave", "--yes"]).run();
    leave.fails(1, &["quorum"], &[]);
    fleet.peers[leader].http().set_label("self", "still", "here").expect("it goes on");
    fleet.peers[other].restart();
    fleet.settle();
    fleet.peers[leader].cli(["leave", "--yes"]).run().ok();
    assert_eq!(fleet.peers[leader].wait_exit(STOP_TIMEOUT), 0);
    fleet.settle();
}

#[test]
fn a_dead_node_is_removed_and_a_living_one_is_not() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "remove");
    // Until each group has three replicas, somebody may hold the only one, and is not removed.
    fleet.ring_settles();
    let asked = fleet.leader();
    let dead = fleet.follower();
    let name = fleet.peers[dead].name().to_owned();
    fleet.peers[asked].cli(["node", "rm", &name, "--yes"]).run().fails(1, &[&name], &["leave"]);
    fleet.settle();

    fleet.peers[dead].kill9();
    fleet.sees(asked, &name, NodeState::Failed, DEATH_TIMEOUT);
    fleet.peers[asked].cli(["node", "rm", &name, "--yes"]).run().ok();
    fleet.settle();
    fleet.peers[asked].http().set_label("self", "after", "removal").expect("the rest takes changes");

    // The removed one comes back: it is told so, and harms nobody.
    fleet.peers[dead].spec.start_ends(&Start::Run).fails(1, &["removed"], &["join"]);
    fleet.settle();
}

#[test]
fn launch_runs_a_fleet_on_this_machine() {
    // The addresses are fixed by the command; the port keeps clear of what else runs here.
    let _machine = machine::share();
    let site = Site::new("launch");
    let port = std::net::UdpSocket::bind("127.0.0.1:0")
        .and_then(|socket| socket.local_addr())
        .expect("a port")
        .port();
    let launch = Cli::new(["launch", "--local", "3", "--docker", "none", "--base-port"])
        .arg(port.to_string())
        .arg("--data-dir")
        .arg(site.dir())
        .start();
    let sockets: Vec<_> =
        (1..=3).map(|number| site.path(&format!("node-{number}")).join("longshore.sock")).collect();
    eventually_value("three nodes that agree", Duration::from_secs(60), || {
        for socket in &sockets {
            let status =
                longshore_tests::http::Http::unix(socket).status().map_err(|error| error.to_string())?;
            if status.nodes_alive != 3 || status.voters != 3 {
                return Err(format!("{} alive, {} voters", status.nodes_alive, status.voters));
            }
        }
        Ok(())
    });
    eventually("three lines `ready`", Duration::from_secs(10), || {
        launch.stdout().lines().filter(|line| line.ends_with("ready")).count() == 3
    });
    launch.signal(Signal::INT);
    let ended = launch.wait(Duration::from_secs(20));
    assert!([0, 130].contains(&ended.code), "{ended}");
    for socket in &sockets {
        assert!(
            longshore_tests::http::Http::unix(socket).status().is_err(),
            "{} still answers",
            socket.display()
        );
    }
}

#[test]
fn the_api_over_tcp_reads_and_changes_nothing() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "api");
    let peer = &fleet.peers[0];
    let get =
        |path: &str| peer.tcp().send(Method::GET, path, &[("x-request-id", "abc-1")], None).expect("a reply");
    for path in ["/livez", "/readyz", "/v1/status", "/v1/nodes", "/v1/operations", "/v1/openapi.json"] {
        let reply = get(path);
        assert_eq!(reply.status, StatusCode::OK, "{path}: {}", reply.text());
        assert_eq!(reply.headers["x-request-id"], "abc-1", "{path}");
    }
    let openapi: serde_json::Value = serde_json::from_str(&get("/v1/openapi.json").text()).expect("JSON");
    for path in [
        "/v1/status",
        "/v1/nodes",
        "/v1/nodes/{node}",
        "/v1/tokens",
        "/v1/tokens/{id}",
        "/v1/operations",
        "/v1/operations/{id}",
        "/v1/operations/{id}/watch",
        "/v1/leave",
    ] {
        assert!(openapi["paths"].get(path).is_some(), "{path} is not in the OpenAPI document");
    }
    for (method, path, body) in [
        (Method::PATCH, "/v1/nodes/self", r#"{"label_add":{"x":"1"}}"#),
        (Method::DELETE, "/v1/nodes/self", ""),
        (Method::POST, "/v1/tokens", "{}"),
        (Method::POST, "/v1/leave", ""),
        (Method::POST, "/v1/operations", r#"{"action":{"kind":"pull","images":["a"]},"strategy":"local"}"#),
    ] {
        let reply =
            peer.tcp().send(method.clone(), path, &[], Some(body.to_owned().into())).expect("a reply");
        assert!(reply.status.is_client_error(), "{method} {path}: {} {}", reply.status, reply.text());
    }
    // A page of some other site, whose name has been made to point here, is not let in.
    let rebound =
        peer.tcp().send(Method::GET, "/v1/status", &[("host", "evil.example")], None).expect("a reply");
    assert_eq!(rebound.status, StatusCode::FORBIDDEN, "{}", rebound.text());
    assert!(peer.http().node("self").expect("node").labels.is_empty());
    assert_eq!(peer.http().tokens().expect("tokens").len(), 1, "only the one of init");
}

#[test]
fn tokens_are_made_listed_and_revoked() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "tokens");
    let peer = &fleet.peers[0];
    let made = peer.cli(["token", "create", "--ttl", "10m", "--uses", "2", "-q"]).run();
    assert!(made.ok().starts_with("LSJ1-") && made.ok().lines().count() == 1, "{made}");
    let listed = peer.http().tokens().expect("tokens");
    let ours = listed.iter().find(|token| token.uses_max == 2).expect("it is listed");
    assert!((590_000..=600_000).contains(&ours.expires_in_ms), "{ours:?}");
    let table = peer.cli(["token", "ls"]).run();
    assert!(table.ok().contains(&ours.id), "{table}");
    let secret = made.ok().trim().rsplit('-').next().expect("a token has parts").to_owned();
    assert!(!table.ok().contains(&secret), "a listing shows no secrets");
    peer.cli(["token", "revoke", &ours.id]).run().ok();
    let created = peer.http().create_token(&TokenCreate { ttl_ms: None, uses: None }).expect("token");
    assert_eq!(created.info.uses_max, 1, "one use by default");
    assert!(created.join_command.contains(&created.token), "{created:?}");
}

#[test]
fn logs_in_json_carry_the_node_and_the_request() {
    let _machine = machine::share();
    let fleet = Fleet::with(1, "json", |spec| spec.with(["--log-format", "json", "--log-level", "debug"]));
    let peer = &fleet.peers[0];
    let body = r#"{"label_add":{"x":"1"}}"#;
    let headers = [("x-request-id", "find-me-17")];
    peer.http().send(Method::PATCH, "/v1/nodes/self", &headers, Some(body.into())).expect("a reply");
    let lines: Vec<serde_json::Value> = peer
        .stderr()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    assert!(!lines.is_empty());
    assert!(lines.iter().any(|line| line.to_string().contains("n1")), "no line names the node");
    eventually("a line with the request's id", Duration::from_secs(10), || {
        peer.stderr().contains("find-me-17")
    });
}

#[test]
fn version_and_configuration_are_told() {
    let _machine = machine::share();
    let site = Site::new("config");
    let version = Cli::new(["version"]).run();
    assert!(version.ok().contains(env!("CARGO_PKG_VERSION")), "{version}");

    let file = site.path("longshore.toml");
    std::fs::write(&file, "name = \"from-file\"\nzone = \"z1\"\n").expect("written");
    Cli::new(["config", "check"]).arg(&file).run().ok();
    let show = Cli::new(["config", "show", "--config"])
        .arg(&file)
        .env("LONGSHORE_ZONE", "from-env")
        .env("LONGSHORE_DATA_DIR", site.dir())
        .run();
    let line = |key: &str| {
        show.ok()
            .lines()
            .find(|line| line.trim_start().starts_with(key))
            .unwrap_or_else(|| panic!("no {key}\n{show}"))
            .to_owned()
    };
    assert!(line("name").contains("from-file") && line("name").contains("longshore.toml"), "{show}");
    assert!(line("zone").contains("from-env") && line("zone").contains("LONGSHORE_ZONE"), "{show}");
}
