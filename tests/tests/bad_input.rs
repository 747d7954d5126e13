//! What goes wrong when people make mistakes: each gets an exit code, a sentence and what to do about it, and
//! nothing is lost by it.

use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use longshore_node::api::types::{EngineView, NodeState, TokenCreate, TokenState};
use longshore_raft::model::token::{JoinToken, TokenSecret};
use longshore_tests::cli::{Cli, Ended};
use longshore_tests::fleet::Site;
use longshore_tests::http::Http;
use longshore_tests::peer::{PeerSpec, Start};
use longshore_tests::tools::{Tool, have};
use longshore_tests::{Fleet, eventually_value, machine};

/// For joins that must fail to reach anybody.
const SHORT_JOIN: [&str; 2] = ["--join-timeout", "2s"];

fn join(token: &str, seeds: &[String]) -> Start {
    Start::Join { token: token.to_owned(), seeds: seeds.to_vec() }
}

/// Tries to join `fleet` with `token` from a fresh folder.
#[track_caller]
fn try_join(fleet: &Fleet, number: u8, token: &str) -> Ended {
    fleet.site.spec(number).start_ends(&join(token, &[fleet.peers[0].spec.seed()]))
}

/// The fleet takes changes, and nobody has joined it unseen.
#[track_caller]
fn still_works(fleet: &Fleet) {
    fleet.settle();
    let leader = &fleet.peers[fleet.leader()];
    leader.http().set_label("self", "still", "works").expect("it takes changes");
    let count = leader.http().nodes().expect("nodes").nodes.len();
    assert_eq!(count, fleet.peers.len(), "somebody joined");
}

#[test]
fn tokens_that_do_not_let_in() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(1, "token");
    let http = fleet.peers[0].http();
    let create = |ttl_ms, uses| {
        http.create_token(&TokenCreate { ttl_ms: Some(ttl_ms), uses: Some(uses) }).expect("token")
    };

    // Revoked.
    let revoked = create(600_000, 1);
    http.revoke_token(&revoked.info.id).expect("revoked");
    try_join(&fleet, 2, &revoked.token).fails(3, &["token", "revoked"], &["token create"]);

    // Expired: by the fleet's own time.
    let short = create(1000, 1);
    eventually_value("the token to expire", Duration::from_secs(20), || {
        let tokens = http.tokens().map_err(|error| error.to_string())?;
        let state = tokens.iter().find(|token| token.id == short.info.id).map(|token| token.state);
        if state == Some(TokenState::Expired) { Ok(()) } else { Err(format!("{state:?}")) }
    });
    try_join(&fleet, 2, &short.token).fails(3, &["token", "expired"], &["token create"]);

    // Used up.
    let once = create(600_000, 1);
    let spec = fleet.site.spec(2);
    fleet.peers.push(spec.start(&join(&once.token, &[fleet.peers[0].spec.seed()])));
    try_join(&fleet, 3, &once.token).fails(3, &["token", "used"], &["token create"]);

    // Wrong: whole by its check digits, and its secret is not the fleet's.
    let good = create(600_000, 1).token;
    let token = JoinToken::parse(&good).expect("a token of this program's");
    let wrong = JoinToken { secret: TokenSecret::new([7; 20]), ..token }.reveal().to_string();
    let ended = try_join(&fleet, 3, &wrong);
    ended.fails(3, &["token"], &[]);
    assert!(!ended.stderr.contains(&wrong), "an error must not repeat a secret\n{ended}");

    // Mistyped: told without asking anybody.
    for typed in
        ["hello", "LSJ1-", &good[..good.len() / 2], &format!("{good}a"), &format!("LSJ9{}", &good[4..])]
    {
        let ended = try_join(&fleet, 3, typed);
        ended.fails(2, &["token"], &[]);
    }
    still_works(&fleet);
}

#[test]
fn the_authority_must_be_the_one_that_the_token_names() {
    let _machine = machine::share();
    let (ours, theirs) = (Fleet::of(1, "ca-a"), Fleet::of(1, "ca-b"));
    let start = join(&ours.token, &[theirs.peers[0].spec.seed()]);
    let spec = ours.site.spec(2);
    spec.start_ends(&start).fails(3, &["certificate"], &["token"]);
    // Nothing of the failed try is in the way.
    let joined = spec.start(&join(&ours.token, &[ours.peers[0].spec.seed()]));
    assert_eq!(joined.fleet_id(), ours.peers[0].fleet_id());
    assert_eq!(theirs.peers[0].http().nodes().expect("nodes").nodes.len(), 1);
}

#[test]
fn a_folder_belongs_to_one_fleet_and_one_process() {
    let _machine = machine::share();
    let (mut ours, theirs) = (Fleet::of(1, "own-a"), Fleet::of(1, "own-b"));
    let spec = ours.peers[0].spec.clone();
    let elsewhere = PeerSpec { listen: ours.site.spec(2).listen, ..spec.clone() };

    // In use.
    let pid = ours.peers[0].pid().to_string();
    elsewhere.start_ends(&Start::Run).fails(1, &["in use", &pid], &[]);

    // Of a fleet.
    assert_eq!(ours.peers[0].terminate(Duration::from_secs(10)), 0);
    spec.start_ends(&Start::Init).fails(2, &["fleet"], &["longshore run"]);
    spec.start_ends(&join(&theirs.token, &[theirs.peers[0].spec.seed()])).fails(
        2,
        &["fleet"],
        &["longshore run"],
    );

    // And nothing is lost by all that.
    ours.peers[0].restart();
    still_works(&ours);
    still_works(&theirs);
}

#[test]
fn run_needs_a_fleet() {
    let _machine = machine::share();
    let site = Site::new("empty");
    let ended = site.spec(1).start_ends(&Start::Run);
    ended.fails(2, &["no fleet"], &["init", "join"]);
}

#[test]
fn ports_in_use_are_named() {
    let _machine = machine::share();
    let site = Site::new("ports");
    let spec = site.spec(1);
    let taken = UdpSocket::bind(spec.listen).expect("a free port");
    spec.start_ends(&Start::Init).fails(1, &["7400", "in use"], &["--listen"]);
    drop(taken);
    let taken = TcpListener::bind(spec.listen).expect("a free port");
    spec.start_ends(&Start::Init).fails(1, &["7400", "in use"], &["--api"]);
    drop(taken);
    // The folder is as empty as before.
    spec.start(&Start::Init);
}

#[test]
fn peers_that_cannot_be_reached_are_listed() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "reach");
    let seeds = [fleet.site.spec(8).seed(), fleet.site.spec(9).seed()];
    let ended = fleet.site.spec(2).with(SHORT_JOIN).start_ends(&join(&fleet.token, &seeds));
    ended.fails(1, &[&seeds[0], &seeds[1]], &[]);
    // One that answers is enough.
    let seeds = [fleet.site.spec(8).seed(), fleet.peers[0].spec.seed()];
    fleet.site.spec(2).start(&join(&fleet.token, &seeds));
    let ended = fleet
        .site
        .spec(3)
        .with(SHORT_JOIN)
        .start_ends(&join(&fleet.token, &["no.such.host.invalid".to_owned()]));
    ended.fails(1, &["no.such.host.invalid"], &[]);
}

#[test]
fn a_name_is_one_node_s() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "name");
    let spec = fleet.site.spec(2);
    let taken = PeerSpec { name: "p1".to_owned(), ..spec.clone() };
    let start = join(&fleet.token, &[fleet.peers[0].spec.seed()]);
    taken.start_ends(&start).fails(1, &["p1", "name"], &["--name"]);
    let joined = spec.start(&start);
    assert_eq!(joined.fleet_id(), fleet.peers[0].fleet_id());
}

#[test]
fn flags_that_make_no_sense() {
    let _machine = machine::share();
    let site = Site::new("flags");
    for (extra, error) in [
        (["--api", "0.0.0.0:80"], "loopback"),
        (["--advertise", "no-such-interface"], "no-such-interface"),
        (["--label", "novalue"], "novalue"),
        (["--log-format", "xml"], "xml"),
    ] {
        let ended = site.spec(1).with(extra).start_ends(&Start::Init);
        assert!([1, 2].contains(&ended.code), "{ended}");
        ended.fails(ended.code, &[error], &[]);
    }
    // `with` appends, so the later flag counts or clashes; either way it is an error, or the good value.
    let bad_name = PeerSpec { name: "no spaces".to_owned(), ..site.spec(2) };
    let ended = bad_name.start_ends(&Start::Init);
    ended.fails(2, &["name"], &[]);
}

#[test]
fn unknown_configuration_keys_are_named_with_the_nearest() {
    let _machine = machine::share();
    let site = Site::new("keys");
    let file = site.path("longshore.toml");
    std::fs::write(&file, "lissten = \"127.0.0.1\"\n").expect("written");
    let check = Cli::new(["config", "check"]).arg(&file).run();
    assert!(check.code == 1 || check.code == 2, "{check}");
    assert!(check.stderr.contains("lissten") && check.stderr.contains("`listen`"), "{check}");
    let ended = site.spec(1).with(["--config".into(), file.into_os_string()]).start_ends(&Start::Init);
    assert_eq!(ended.code, 2, "{ended}");
    assert!(ended.stderr.contains("lissten") && ended.stderr.contains("`listen`"), "{ended}");

    let broken = site.path("broken.toml");
    std::fs::write(&broken, "name = \n").expect("written");
    let check = Cli::new(["config", "check"]).arg(&broken).run();
    assert!(check.code != 0 && check.stderr.contains("broken.toml"), "{check}");
}

#[test]
fn things_that_are_not_there() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "absent");
    let peer = &fleet.peers[0];
    peer.cli(["node", "inspect", "nobody"]).run().fails(1, &["nobody"], &["node ls"]);
    peer.cli(["node", "update", "nobody", "--label-add", "a=1"]).run().fails(1, &["nobody"], &[]);
    peer.cli(["op", "inspect", "op-7-999999-0"]).run().fails(1, &["op-7-999999-0"], &["op ls"]);
    peer.cli(["op", "inspect", "op-nothing"]).run().fails(2, &["op-nothing"], &["op ls"]);
    peer.cli(["token", "revoke", "nothing"]).run().fails(1, &["nothing"], &[]);
    peer.cli(["op", "pull", "busybox", "--on", "nobody"]).run().fails(1, &["nobody"], &[]);
    let nowhere = fleet.site.path("nowhere.sock");
    let ended = Cli::new(["--host"]).arg(&nowhere).arg("status").run();
    ended.fails(1, &["nowhere.sock"], &["run"]);
}

#[test]
fn image_references_are_checked_before_anything_is_done() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "images");
    let long = format!("a/{}", "b".repeat(300));
    for image in ["UPPER/case", "a:b:c", "a@sha256:short", "", " ", "../x", long.as_str()] {
        let ended = fleet.peers[0].cli(["op", "pull", image]).run();
        ended.fails(2, &["image"], &[]);
    }
    assert!(fleet.peers[0].http().operations(10).expect("operations").is_empty());
}

#[test]
fn without_a_quorum_changes_fail_soon_and_reads_go_on() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(3, "quorum");
    fleet.peers[1].kill9();
    fleet.peers[2].kill9();
    for name in ["p2", "p3"] {
        fleet.sees(0, name, NodeState::Failed, Duration::from_secs(30));
    }
    let update = fleet.peers[0].cli(["node", "update", "p1", "--label-add", "a=1"]).run();
    update.fails(4, &["quorum"], &[]);
    assert!(update.took < Duration::from_secs(20), "{update}");
    let list = fleet.peers[0].http().nodes().expect("the local copy is there");
    assert!(list.stale, "it must say that it may be behind");
    fleet.peers[0].cli(["node", "ls"]).run().ok();
    fleet.peers[0].cli(["status"]).run().ok();
    eventually_value("/readyz to say that it is not ready", Duration::from_secs(15), || {
        let http = fleet.peers[0].http();
        let ready = http.send(hyper::Method::GET, "/readyz", &[], None).map_err(|error| error.to_string())?;
        if ready.status == 503 { Ok(()) } else { Err(format!("{}: {}", ready.status, ready.text())) }
    });
    fleet.peers[1].restart();
    fleet.settle_as(2, None);
    let leader = fleet.leader();
    fleet.peers[leader].http().set_label("p1", "a", "2").expect("two of three take changes");
}

#[test]
fn an_engine_that_is_missing_is_told_and_the_node_works_on() {
    let _machine = machine::share();
    let fleet = Fleet::with(1, "noengine", |spec| {
        let socket = spec.data_dir.with_extension("no-docker.sock");
        spec.docker(format!("unix://{}", socket.display()))
    });
    engine_unavailable(&fleet, &["no-docker.sock"]);
}

#[test]
fn an_engine_that_is_not_permitted_is_told_and_the_node_works_on() {
    if !have(Tool::Root) {
        return;
    }
    let _machine = machine::share();
    let site = Site::new("forbidden");
    let socket = site.path("docker.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).expect("a socket");
    // Somebody else's socket, and a server that has lost root's right to pass over file modes.
    std::os::unix::fs::chown(&socket, Some(65534), Some(65534)).expect("chown");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&socket, mode).expect("chmod");
    let docker = format!("unix://{}", socket.display());
    let fleet = Fleet::on(site, 1, |mut spec| {
        spec.wrapper =
            ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--"].map(Into::into).to_vec();
        spec.docker(docker.clone())
    });
    engine_unavailable(&fleet, &["permission"]);
}

#[track_caller]
fn engine_unavailable(fleet: &Fleet, words: &[&str]) {
    let peer = &fleet.peers[0];
    let reason = eventually_value("the engine to be reported", Duration::from_secs(20), || {
        match peer.http().node("self").map_err(|error| error.to_string())?.engine {
            EngineView::Unavailable { reason } => Ok(reason),
            other => Err(format!("{other:?}")),
        }
    });
    for word in words {
        assert!(reason.contains(word), "{reason:?} does not say {word:?}");
    }
    peer.http().set_label("self", "works", "on").expect("it takes changes");
    let pull = peer.cli(["op", "pull", "busybox:1", "--timeout", "5s"]).run();
    assert_eq!(pull.code, 1, "{pull}");
    assert!(words.iter().all(|word| pull.stderr.contains(word) || pull.stdout.contains(word)), "{pull}");
}

#[test]
fn clocks_an_hour_apart_change_nothing_and_are_told() {
    if !have(Tool::Faketime) {
        return;
    }
    let _machine = machine::share();
    let mut fleet = Fleet::with(3, "clocks", |spec| match spec.name.as_str() {
        "p1" => spec,
        "p2" => spec.clock_off_by(3600),
        _ => spec.clock_off_by(-3600),
    });
    // Skew is measured and told.
    for (observer, node, expected_ms) in
        [(0, "p2", 3_600_000_i64), (0, "p3", -3_600_000), (1, "p3", -7_200_000)]
    {
        eventually_value("the skew to be measured", Duration::from_secs(30), || {
            let skew =
                fleet.peers[observer].http().node(node).map_err(|error| error.to_string())?.clock_skew_ms;
            match skew {
                Some(skew_ms) if (skew_ms - expected_ms).abs() < 5_000 => Ok(()),
                other => Err(format!("{node} seen by p{}: {other:?}", observer + 1)),
            }
        });
    }
    let status = fleet.peers[0].http().status().expect("status");
    assert!(status.warnings.iter().any(|warning| warning.contains("clock")), "{:?}", status.warnings);

    // A token lasts by the fleet's time, wherever it was made and whoever leads.
    for maker in 0..3 {
        let request = TokenCreate { ttl_ms: Some(600_000), uses: Some(1) };
        let token = fleet.peers[maker].http().create_token(&request).expect("token");
        assert_eq!(token.info.state, TokenState::Valid);
        fleet.token = token.token;
        let spec = fleet.site.spec(4 + maker as u8).clock_off_by(if maker == 0 { 3600 } else { -3600 });
        fleet.join(spec);
        let leader = fleet.leader();
        fleet.peers[leader].kill9();
        let survivor = fleet.leader();
        fleet.peers[survivor].http().set_label("self", "survived", "yes").expect("changes go on");
        fleet.peers[leader].restart();
        fleet.settle();
    }
}

#[test]
fn the_api_says_what_is_wrong_with_a_request() {
    let _machine = machine::share();
    let fleet = Fleet::of(1, "requests");
    let http = fleet.peers[0].http();
    let check = |method: &str, path: &str, body: String, status: u16| {
        let method = hyper::Method::from_bytes(method.as_bytes()).expect("a method");
        let reply = http.send(method.clone(), path, &[], Some(body.into())).expect("a reply");
        assert_eq!(reply.status, status, "{method} {path}: {}", reply.text());
        let error: serde_json::Value = serde_json::from_slice(&reply.body).expect("errors are JSON");
        assert!(error["code"].is_string() && error["message"].is_string(), "{error}");
    };
    check("GET", "/nowhere", String::new(), 404);
    check("GET", "/v1/nodes/nobody", String::new(), 404);
    check("POST", "/v1/operations", "{".to_owned(), 400);
    check("POST", "/v1/operations", r#"{"kind":"dance"}"#.to_owned(), 400);
    check("POST", "/v1/tokens", r#"{"ttl_ms":1,"surprise":true}"#.to_owned(), 400);
    check("POST", "/v1/tokens", r#"{"ttl_ms":99999999999999}"#.to_owned(), 400);
    check("PATCH", "/v1/nodes/self", r#"{"label_add":{"":"x"}}"#.to_owned(), 400);
    check("PUT", "/v1/nodes/self", "{}".to_owned(), 405);
    let huge = format!(r#"{{"label_add":{{"x":"{}"}}}}"#, "y".repeat(8 << 20));
    let outcome = http.send(hyper::Method::PATCH, "/v1/nodes/self", &[], Some(huge.into()));
    match outcome {
        Ok(reply) => assert_eq!(reply.status, 413, "{}", reply.text()),
        // The server may close a connection whose body it does not want to read.
        Err(longshore_tests::http::HttpError::Broken(_)) => {}
        Err(other) => panic!("{other}"),
    }
    still_works(&fleet);
    assert!(Http::unix(fleet.peers[0].socket()).status().is_ok());
}
