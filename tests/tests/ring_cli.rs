//! The ring, its groups and keys from the command line, each command once for real: what it says, that it fits a terminal, that its JSON is
//! JSON, and its exit code.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use longshore_node::api::types::{GroupList, GroupView, KeyPageView, RingPlanView, RingView};
use longshore_tests::cli::{Cli, Ended};
use longshore_tests::{Fleet, eventually, eventually_value, machine};
use rustix::process::Signal;
use serde_json::Value;

/// Columns of a terminal.
const WIDTH: usize = 80;

/// Standard output of a command that must have succeeded, and must fit a terminal.
#[track_caller]
fn table(ended: &Ended) -> &str {
    let text = ended.ok();
    assert!(!text.contains('\u{1b}'), "no colours off a terminal\n{ended}");
    for line in text.lines() {
        assert!(line.chars().count() <= WIDTH, "{} columns: {line:?}\n{ended}", line.chars().count());
        assert_eq!(line.trim_end(), line, "trailing blanks\n{ended}");
    }
    text
}

#[track_caller]
fn json<T: serde::de::DeserializeOwned>(ended: &Ended) -> T {
    serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

#[test]
fn the_ring_and_its_groups() {
    let _machine = machine::share();
    let mut fleet = Fleet::with_ring(3, "ringcli", 32, 3);
    fleet.leaders_spread();
    let run = |fleet: &Fleet, args: &[&str]| fleet.peers[1].cli(args.iter().copied()).run();

    let show = run(&fleet, &["ring", "show"]);
    for part in ["32 groups of 8 partitions, 3 replicas each", "settled", "p1", "p2", "p3", "leaders:  A p1"]
    {
        assert!(table(&show).contains(part), "no {part:?}\n{show}");
    }
    let ring: RingView = json(&run(&fleet, &["ring", "show", "--format", "json"]));
    assert!(ring.settled && !ring.stale && ring.groups.len() == 32);

    let plan = run(&fleet, &["ring", "plan", "--add", "p4"]);
    for part in ["24 replicas", "GROUP", "p4"] {
        assert!(table(&plan).contains(part), "no {part:?}\n{plan}");
    }
    let plan: RingPlanView = json(&run(&fleet, &["ring", "plan", "--add", "p4", "--format", "json"]));
    assert_eq!((plan.copies, plan.moves.len(), plan.copies_anyway), (24, 24, 0));
    let plan = run(&fleet, &["ring", "plan", "--remove", "p3"]);
    assert!(table(&plan).contains("3 -> 1 per group"), "{plan}");

    let rebalance = run(&fleet, &["ring", "rebalance"]);
    assert!(table(&rebalance).contains("nothing to do"), "{rebalance}");
    let rebalance: Value = json(&run(&fleet, &["ring", "rebalance", "--format", "json"]));
    assert_eq!(rebalance["changed"], false, "{rebalance}");
    let watch = run(&fleet, &["ring", "watch"]);
    assert!(table(&watch).starts_with("settled"), "{watch}");

    groups(&fleet);

    // Paused, nothing begins; resumed, it does, and a watch tells and ends.
    let pause = run(&fleet, &["ring", "pause"]);
    assert_eq!(table(&pause), "paused; nothing is under way\n");
    assert!(table(&run(&fleet, &["ring", "show"])).contains("paused; settled"));
    fleet.join_number(4, &[]);
    eventually_value("a plan for four nodes", Duration::from_secs(30), || {
        let ring = fleet.ring()?;
        if ring.movement.copies_left == 24 { Ok(()) } else { Err(format!("{:?}", ring.movement)) }
    });
    let show = run(&fleet, &["ring", "show"]);
    assert!(table(&show).contains("paused; 0 changes under way, 24 to copy"), "{show}");
    let rebalance = run(&fleet, &["ring", "rebalance"]);
    assert!(
        table(&rebalance).contains("24 replicas still to copy") && rebalance.stdout.contains("ring resume"),
        "{rebalance}"
    );
    let text = fleet.peers[1].cli(["ring", "watch"]).start();
    let lines = fleet.peers[1].cli(["ring", "watch", "--format", "json"]).start();
    eventually("both to watch", Duration::from_secs(10), || {
        !text.stdout().is_empty() && !lines.stdout().is_empty()
    });
    let resume: Value = json(&run(&fleet, &["ring", "resume", "--format", "json"]));
    assert_eq!(resume["paused"], false, "{resume}");
    let (text, lines) = (text.wait(Duration::from_secs(90)), lines.wait(Duration::from_secs(90)));
    // Lines of a log: they say what is waited for, however long that is.
    let last = text.ok().lines().last().unwrap_or_default();
    assert!(last.starts_with("settled: every group is where it should be; 24 replicas copied in"), "{text}");
    assert!(text.stdout.contains("-> p4: "), "{text}");
    let views: Vec<Value> =
        lines.ok().lines().map(|line| serde_json::from_str(line).expect("a JSON value a line")).collect();
    let last = views.last().expect("there are views");
    assert_eq!((&last["settled"], &last["copies_done"]), (&true.into(), &24.into()), "{last}");

    // Somebody who has seen enough.
    let watch = fleet.peers[1].cli(["ring", "watch", "--forever"]).start();
    eventually("it to watch", Duration::from_secs(10), || !watch.stdout().is_empty());
    watch.signal(Signal::INT);
    assert_eq!(watch.wait(Duration::from_secs(10)).code, 130);
}

fn groups(fleet: &Fleet) {
    let run = |args: &[&str]| fleet.peers[1].cli(args.iter().copied()).run();
    let list = run(&["group", "ls"]);
    assert_eq!(table(&list).lines().count(), 33, "{list}");
    assert!(list.stdout.contains("g32") && list.stdout.contains("248-255"), "{list}");
    let keys = run(&["group", "ls", "--keys"]);
    assert_eq!(keys.ok().lines().count(), 33, "{keys}");
    assert!(keys.stdout.contains("KEYS") && !list.stdout.contains("KEYS"), "{keys}");
    let ids = run(&["group", "ls", "-q"]);
    assert_eq!(ids.ok().lines().next_back(), Some("g32"), "{ids}");
    let list: GroupList = json(&run(&["group", "ls", "--format", "json"]));
    assert!(list.groups.iter().all(|group| group.replica.is_some() && group.keys.is_none()));
    let inspect = run(&["group", "inspect", "g7"]);
    for part in ["48 to 55", "voters", "p1, p2, p3", "keys", "committed"] {
        assert!(table(&inspect).contains(part), "no {part:?}\n{inspect}");
    }
    let group: GroupView = json(&run(&["group", "inspect", "7", "--format", "json"]));
    let leader = group.placement.leader.expect("a settled group has a leader");
    let heir = ["p1", "p2", "p3"].into_iter().find(|name| *name != leader).expect("there are three");
    let transfer = run(&["group", "transfer", "g7", heir]);
    assert_eq!(table(&transfer), format!("g7 is led by {heir} now; before it was {leader}\n"));
}

#[test]
fn keys() {
    let _machine = machine::share();
    let fleet = Fleet::with_ring(3, "cachecli", 32, 3);
    let run = |index: usize, args: &[&str]| fleet.peers[index].cli([&["cache"], args].concat()).run();
    let version = |ended: &Ended| {
        let text = table(ended).strip_prefix("version ").unwrap_or_else(|| panic!("{ended}"));
        text.split([',', '\n']).next().expect("a first part").to_owned()
    };
    let first = version(&run(0, &["set", "config", "greeting", "hello"]));
    assert_eq!(run(1, &["get", "config", "greeting"]).ok(), "hello", "bytes as they are, no line end");
    let set = run(1, &["set", "config", "greeting", "hi", "--if-version", &first, "--ttl", "1h"]);
    assert!(table(&set).contains("expires in"), "{set}");
    run(2, &["set", "config", "greeting", "ho", "--if-version", &first]).fails(
        1,
        &["version"],
        &["--if-version"],
    );
    let set: Value = json(&run(2, &["set", "config", "greeting", "hey", "--keep-ttl", "--format", "json"]));
    assert!(set["ttl_ms"].as_u64().is_some_and(|ms| ms > 3_000_000), "{set}");
    // What a shell pipes in and out.
    let mut child = Cli::new(["--host"])
        .arg(fleet.peers[0].socket())
        .arg("cache")
        .arg("set")
        .arg("config")
        .arg("bytes")
        .arg("-")
        .command()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts");
    let bytes = b"\x00\xff\n\r\n";
    child.stdin.take().expect("piped").write_all(bytes).expect("it reads");
    assert!(child.wait().expect("it ends").success());
    let got = fleet.peers[2].cli(["cache", "get", "config", "bytes"]).command().output().expect("it runs");
    assert_eq!(got.stdout, bytes);

    for number in 0..12 {
        run(number % 3, &["set", "many", &format!("key-{number:02}"), &"x".repeat(number * 20)]).ok();
    }
    let scan = run(0, &["scan", "many", "--values"]);
    assert_eq!(table(&scan).lines().count(), 13, "{scan}");
    let keys = run(1, &["scan", "many", "--prefix", "key-0", "--limit", "4", "-q"]);
    assert_eq!(keys.ok(), "key-00\nkey-01\nkey-02\nkey-03\n");
    let more = run(1, &["scan", "many", "--after", "key-03", "--limit", "3"]);
    assert!(table(&more).contains("key-06") && more.stderr.contains("there are more keys"), "{more}");
    let page: KeyPageView = json(&run(2, &["scan", "many", "--limit", "5", "--format", "json"]));
    assert_eq!((page.entries.len(), page.next.is_some()), (5, true));
    let none = run(2, &["scan", "nothing-here"]);
    assert_eq!(none.code, 0, "{none}");

    let deleted = run(1, &["del", "config", "greeting"]);
    assert_eq!(table(&deleted), "deleted\n");
    assert_eq!(table(&run(1, &["del", "config", "greeting"])), "there was no such key\n");
    let deleted: Value = json(&run(1, &["del", "config", "greeting", "--format", "json"]));
    assert_eq!(deleted["deleted"], false, "{deleted}");
    run(0, &["get", "config", "greeting"]).fails(1, &["greeting", "config"], &["cache scan config"]);

    // Over TCP, which has no access control, the API only reads.
    let url = format!("http://{}", fleet.peers[0].spec.seed());
    let over_tcp = |args: [&str; 4]| {
        Cli::new(["--host", &url]).arg(args[0]).arg(args[1]).arg(args[2]).arg(args[3]).run()
    };
    assert!(over_tcp(["cache", "get", "many", "key-01"]).ok().starts_with("xxxx"));
    over_tcp(["cache", "del", "many", "key-01"]).fails(3, &["TCP"], &["socket"]);

    bench(&fleet);
}

fn bench(fleet: &Fleet) {
    let load = [
        "cache",
        "bench",
        "--clients",
        "4",
        "--keys",
        "500",
        "--fill",
        "--duration",
        "1s",
        "--warm-up",
        "200ms",
    ];
    let text = fleet.peers[0].cli(load).run();
    for part in ["reads", "writes", "P99 MS"] {
        assert!(table(&text).contains(part), "no {part:?}\n{text}");
    }
    // Clients spread over nodes; each distribution.
    for distribution in ["zipf", "hot"] {
        let mut command =
            Cli::new(["--host"]).arg(fleet.peers[1].socket()).arg("--host").arg(fleet.peers[2].socket());
        for word in load.into_iter().chain(["--distribution", distribution, "--format", "json"]) {
            command = command.arg(word);
        }
        let report: Value = json(&command.run());
        assert!(report["operations"].as_u64().is_some_and(|count| count > 0), "{report}");
    }
    for (args, error) in [
        (["--clients", "0"], "clients"),
        (["--duration", "0s"], "1h"),
        (["--value-size", "2MiB"], "1044480"),
        (["--read-share", "2"], "0 to 1"),
        (["--keys", "0"], "keys"),
    ] {
        fleet.peers[0].cli(["cache", "bench"].into_iter().chain(args)).run().fails(2, &[error], &[]);
    }
}
