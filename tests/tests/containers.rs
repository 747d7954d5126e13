//! Containers and runs on real engines: their life, hosts that die and come back, and everything a person could get wrong.

use std::time::Duration;

use hyper::Method;
use longshore_node::api::types::{CopyStateView, NodeState, OperationState, OperationView, RunView};
use longshore_tests::cli::Ended;
use longshore_tests::http::Http;
use longshore_tests::registry::UNLIMITED;
use longshore_tests::tools::{Tool, have};
use longshore_tests::wait::pause;
use longshore_tests::yard::{PULL_TIMEOUT, Yard};
use longshore_tests::{Stopwatch, eventually, eventually_value, machine};

/// From the death of a host to its copy running elsewhere: the suspicion, two seconds of patience, and the start.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);
/// For what has no promise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Says something now and then, for ever; ends at once when it is told to.
const TICK: [&str; 3] = ["sh", "-c", "trap 'exit 0' TERM; while true; do echo tick; sleep 0.2; done"];

/// A container as its engine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: String,
    id: String,
    running: bool,
}

/// All containers of an engine; none if it does not answer.
fn seen(yard: &Yard, engine: usize) -> Vec<Seen> {
    let Ok(reply) =
        Http::unix(yard.hosts.socket(engine)).send(Method::GET, "/containers/json?all=1", &[], None)
    else {
        return Vec::new();
    };
    let listed: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a text").to_owned();
    let containers = listed.as_array().expect("a list").iter().map(|container| Seen {
        name: text(&container["Names"][0]).trim_start_matches('/').to_owned(),
        id: text(&container["Id"]),
        running: container["State"] == "running",
    });
    let mut containers: Vec<Seen> = containers.collect();
    containers.sort_by(|a, b| a.name.cmp(&b.name));
    containers
}

fn running(yard: &Yard, engine: usize) -> usize {
    seen(yard, engine).iter().filter(|container| container.running).count()
}

/// Asks the engine itself for something, behind the fleet's back.
fn engine(yard: &Yard, engine: usize, method: Method, path: &str) {
    let reply =
        Http::unix(yard.hosts.socket(engine)).send(method, path, &[], None).expect("the engine answers");
    assert!(reply.status.is_success(), "{path}: {}", reply.text());
}

fn json<T: serde::de::DeserializeOwned>(yard: &Yard, peer: usize, args: &[&str]) -> T {
    let ended = yard.fleet.peers[peer].cli(args.iter().copied()).run();
    serde_json::from_str(ended.ok()).unwrap_or_else(|error| panic!("{error}\n{ended}"))
}

fn runs(yard: &Yard, peer: usize) -> Vec<RunView> {
    json(yard, peer, &["op", "runs", "--format", "json"])
}

/// `op run` with these flags, of the small image with [`TICK`].
fn run(yard: &Yard, peer: usize, flags: &[&str]) -> OperationView {
    let image = yard.registry.image(yard.hosts.small_image()).to_string();
    let args = ["op", "run", "--format", "json"].iter().chain(flags).copied();
    let args: Vec<&str> = args.chain([image.as_str()]).chain(TICK).collect();
    json(yard, peer, &args)
}

/// What becomes of parts is told on standard output, off a terminal.
#[track_caller]
fn says(ended: &Ended, code: i32, what: &str) {
    let said = format!("{}{}", ended.stdout, ended.stderr);
    assert!(ended.code == code && said.contains(what), "does not say {what:?}\n{ended}");
}

#[test]
fn containers_live_and_are_found_wherever_they_are() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(3, "contain", UNLIMITED);
    let cli = |peer: usize, args: &[&str]| yard.fleet.peers[peer].cli(args.iter().copied()).run();
    let view = run(&yard, 0, &["--name", "web", "--replicas", "3", "--env", "WHO=me", "--memory", "32MiB"]);
    assert_eq!((view.state, view.containers.len()), (OperationState::Succeeded, 3), "{view:?}");
    for number in 0..3 {
        let on: Vec<Seen> = seen(&yard, number);
        assert!(on.len() == 1 && on[0].running, "one copy on each host: {on:?}");
        let sub = view.sub_operations.iter().find(|sub| sub.result.as_ref() == Some(&on[0].id));
        assert!(sub.is_some_and(|sub| sub.subject == on[0].name && sub.why.is_some()), "{view:?}");
    }
    let listed = cli(2, &["op", "ps"]);
    for name in ["web.1", "web.2", "web.3", "running", &view.id] {
        assert!(listed.ok().contains(name), "{name}\n{listed}");
    }

    // What they write, from any node: of one as it is, of all with their names.
    eventually("ticks of all three", PATIENCE, || {
        let said = cli(1, &["op", "logs", "web", "--tail", "2"]);
        (1..=3).all(|n| said.ok().lines().filter(|line| line.starts_with(&format!("web.{n}@"))).count() == 2)
    });
    assert_eq!(cli(1, &["op", "logs", "web.2", "--tail", "1"]).ok(), "tick\n");
    let follow = yard.fleet.peers[0].cli(["op", "logs", "-f", "web"]).start();
    eventually("ticks of all three, live", PATIENCE, || {
        (1..=3).all(|n| {
            follow.stdout().lines().filter(|line| line.starts_with(&format!("web.{n}@"))).count() > 5
        })
    });
    follow.signal(rustix::process::Signal::INT);
    assert_eq!(follow.wait(PATIENCE).code, 130);

    // Commands in them.
    for (peer, copy) in [(0, "web.1"), (1, "web.1"), (2, "web.3")] {
        let ran = cli(peer, &["op", "exec", copy, "--", "sh", "-c", "echo $WHO; echo uh >&2; exit 7"]);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "me\n", "uh\n"), "{ran}");
    }
    cli(0, &["op", "exec", "web", "true"]).fails(1, &["means several containers", "web.3"], &["name it"]);
    cli(0, &["op", "exec", "nobody", "true"]).fails(
        1,
        &["there is no container \"nobody\""],
        &["longshore op ps"],
    );

    // A name that is taken is not taken away.
    let again = yard.registry.image(yard.hosts.small_image()).to_string();
    let taken =
        cli(1, &["op", "run", "--name", "web.1", "--on", &view.sub_operations[0].node, &again, "true"]);
    says(&taken, 1, "web.1 is taken");

    // Stopped, started, removed.
    says(&cli(2, &["op", "rm", "web.2"]), 1, "running");
    cli(2, &["op", "stop", "web"]).ok();
    assert_eq!((0..3).map(|number| running(&yard, number)).sum::<usize>(), 0);
    cli(0, &["op", "exec", "web.1", "true"]).fails(1, &["web.1 is not running"], &["longshore op logs"]);
    assert!(!cli(0, &["op", "ps"]).ok().contains("web"), "those that run");
    assert!(cli(0, &["op", "ps", "--all"]).ok().contains("exited"));
    cli(0, &["op", "start", "web.2"]).ok();
    assert_eq!((0..3).map(|number| running(&yard, number)).sum::<usize>(), 1);
    let removed = cli(1, &["op", "rm", "--force", "web", "--format", "json"]);
    let removed: OperationView = serde_json::from_str(removed.ok()).expect("an operation");
    assert_eq!(removed.sub_operations.len(), 3, "{removed:?}");
    assert!((0..3).all(|number| seen(&yard, number).is_empty()));
    cli(0, &["op", "exec", "web.1", "true"]).fails(1, &["there is no container"], &[]);
    cli(0, &["op", "cancel", &view.id]).fails(1, &["has ended already"], &[]);

    // What can not work says why.
    let run_small = |flags: &[&str], command: &[&str]| {
        let args: Vec<&str> = [&["op", "run"], flags, &[again.as_str()], command].concat();
        cli(0, &args)
    };
    says(&run_small(&["--on", "p2"], &["no-such-program"]), 1, "no-such-program");
    says(&run_small(&["--network", "no-such-net", "--on", "p1"], &["true"]), 1, "no-such-net");
    run_small(&["--label", "gpu"], &["true"]).fails(
        1,
        &["no node of the fleet has the label gpu"],
        &["node update"],
    );
    run_small(&["-v", "./here:/there"], &["true"]).fails(2, &["is not a volume"], &[]);
    let missing = yard.registry.image(&yard.hosts.missing_image()).to_string();
    says(&cli(0, &["op", "run", "--on", "p3", &missing]), 1, "not found");
    assert!(
        (0..3).all(|number| seen(&yard, number).is_empty()),
        "what could not be started is not left behind"
    );
}

#[test]
fn a_run_is_kept_up_when_hosts_die_and_come_back() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::alone();
    let mut yard = Yard::of(3, "keep", UNLIMITED);
    // Where it is to go next, the image is already.
    let image = yard.registry.image(yard.hosts.small_image()).clone();
    yard.cli_pull(0, &[], &[&image]).ok();
    let view = run(&yard, 0, &["--name", "web", "--replicas", "3", "--restart-on-failure"]);
    assert!((0..3).all(|number| running(&yard, number) == 1), "{view:?}");

    // A container that is gone, one that was killed by hand: both come again.
    let first = seen(&yard, 0).remove(0);
    engine(&yard, 0, Method::DELETE, &format!("/containers/{}?force=1", first.id));
    eventually("the container that was removed by hand to be replaced", PATIENCE, || {
        (0..3).map(|number| running(&yard, number)).sum::<usize>() == 3
    });
    let second = seen(&yard, 1).remove(0);
    engine(&yard, 1, Method::POST, &format!("/containers/{}/kill", second.id));
    eventually("the container that was killed by hand to run again", PATIENCE, || {
        seen(&yard, 1).iter().any(|container| container.running && container.id == second.id)
    });
    yard.fleet.peers[0].cli(["op", "rm", "--force", "web.2"]).run().fails(
        1,
        &["web.2 is a copy of run", "keeps up"],
        &["longshore op rm"],
    );

    // A node that is told to stop is left its copies: it is back soon.
    let stopped = yard.fleet.follower();
    let before: Vec<Seen> = (0..3).flat_map(|number| seen(&yard, number)).collect();
    assert_eq!(yard.fleet.peers[stopped].terminate(PATIENCE), 0);
    let name = yard.fleet.peers[stopped].name().to_owned();
    let watcher = (0..3).find(|number| *number != stopped).expect("there are three");
    yard.fleet.sees(watcher, &name, NodeState::Suspect, PATIENCE);
    // Longer than it takes to replace the copy of a host that died.
    pause(REPLACED_WITHIN);
    yard.fleet.peers[stopped].restart();
    yard.fleet.settle();
    assert_eq!(
        (0..3).flat_map(|number| seen(&yard, number)).collect::<Vec<_>>(),
        before,
        "nothing was moved"
    );

    // A host dies, peer and engine.
    let dead = yard.fleet.follower();
    let others: Vec<usize> = (0..3).filter(|number| *number != dead).collect();
    yard.fleet.peers[dead].kill9();
    yard.hosts.kill(dead).expect("the engine is killed");
    let watch = Stopwatch::start();
    eventually("the third copy to run elsewhere", PATIENCE, || {
        others.iter().map(|number| running(&yard, *number)).sum::<usize>() == 3
    });
    let took = watch.elapsed();
    println!("the copy of the dead host ran elsewhere after {} ms", took.as_millis());
    assert!(took < REPLACED_WITHIN, "{took:?}");
    let name = yard.fleet.peers[dead].name().to_owned();
    eventually_value("the fleet to know that all run, and where", PATIENCE, || {
        let now = runs(&yard, others[0]);
        let fine = now[0].copies.iter().all(|copy| copy.node != name && copy.state == CopyStateView::Up);
        if fine { Ok(()) } else { Err(format!("{now:?}")) }
    });

    // It comes back: three copies, not four.
    yard.hosts.restart(dead).expect("the engine starts");
    yard.fleet.peers[dead].restart();
    eventually("the copy that was replaced to be removed", PATIENCE, || {
        yard.fleet.peers[dead].is_running() && seen(&yard, dead).is_empty()
    });
    assert_eq!(others.iter().map(|number| running(&yard, *number)).sum::<usize>(), 3);

    // Stopped, started anew, removed.
    let cli = |peer: usize, args: &[&str]| yard.fleet.peers[peer].cli(args.iter().copied()).run();
    let all = || (0..3).map(|number| running(&yard, number)).sum::<usize>();
    cli(others[0], &["op", "stop", "web"]).ok();
    eventually("all copies to be stopped", PATIENCE, || all() == 0);
    cli(others[0], &["op", "start", "web"]).ok();
    eventually("all copies to run again", PATIENCE, || all() == 3);
    eventually("nothing else to be left", PATIENCE, || {
        (0..3).map(|n| seen(&yard, n).len()).sum::<usize>() == 3
    });
    cli(0, &["op", "rm", "web"]).fails(1, &["web is a run"], &["--force"]);
    cli(0, &["op", "rm", "--force", "web"]).ok();
    eventually("all copies to be gone", PATIENCE, || (0..3).all(|number| seen(&yard, number).is_empty()));
    assert!(runs(&yard, 1).is_empty());
}

#[test]
fn what_a_host_left_before_its_disk_was_emptied_goes_though_its_old_name_is_still_there() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let mut yard = Yard::of(3, "emptied", UNLIMITED);
    run(&yard, 0, &["--name", "web", "--replicas", "3", "--restart-on-failure"]);
    let dead = yard.fleet.follower();
    let others: Vec<usize> = (0..3).filter(|number| *number != dead).collect();
    // The peer dies, and its engine lives on with the copy.
    yard.fleet.peers[dead].kill9();
    eventually("the third copy to run elsewhere", PATIENCE, || {
        others.iter().map(|number| running(&yard, *number)).sum::<usize>() == 3
    });
    assert_eq!(running(&yard, dead), 1, "nobody has seen to it");

    let mut spec = yard.fleet.peers[dead].spec.clone();
    let old = std::mem::replace(&mut spec.name, "anew".to_owned());
    std::fs::remove_dir_all(&spec.data_dir).expect("its folder is there");
    yard.fleet.join(spec);
    eventually("what the old one left to be removed", PATIENCE, || seen(&yard, dead).is_empty());
    assert_eq!(others.iter().map(|number| running(&yard, *number)).sum::<usize>(), 3);
    let nodes = yard.fleet.peers[others[0]].http().nodes().expect("nodes").nodes;
    let state = |name: &str| nodes.iter().find(|node| node.name == name).map(|node| node.state);
    assert_eq!((state(&old), state("anew")), (Some(NodeState::Failed), Some(NodeState::Alive)));
}

#[test]
fn a_run_that_ends_well_is_complete_and_one_that_fails_goes_on() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::share();
    let yard = Yard::of(1, "ends", UNLIMITED);
    let image = yard.registry.image(yard.hosts.small_image()).to_string();
    let kept = |name: &str, script: &str| {
        let args = ["op", "run", "--name", name, "--restart-on-failure", &image, "sh", "-c", script];
        yard.fleet.peers[0].cli(args).run().ok();
    };
    kept("job", "exit 0");
    kept("flaky", "echo attempt; exit 3");
    let state = |name: &str| {
        let runs = runs(&yard, 0);
        runs.iter().find(|run| run.name.as_deref() == Some(name)).expect("it is kept").copies[0].state
    };
    eventually("the job to be complete", PATIENCE, || state("job") == CopyStateView::Completed);
    eventually_value("the other to be tried again", PATIENCE, || {
        let said = yard.fleet.peers[0].cli(["op", "logs", "flaky"]).run();
        let attempts = said.ok().lines().count();
        if attempts >= 3 { Ok(()) } else { Err(format!("{attempts} attempts")) }
    });
    assert_eq!(state("flaky"), CopyStateView::Up);
    for name in ["job", "flaky"] {
        yard.fleet.peers[0].cli(["op", "rm", "--force", name]).run().ok();
    }
    eventually("both to be gone", PATIENCE, || seen(&yard, 0).is_empty());
}

#[test]
fn work_of_a_dead_host_goes_to_others() {
    if !have(Tool::Docker) {
        return;
    }
    let _machine = machine::alone();
    let mut yard = Yard::of(3, "moves", 1 << 20);
    let image = yard.registry.image(yard.hosts.large_image()).to_string();
    let dead = yard.fleet.follower();
    let asked = (0..3).find(|number| *number != dead).expect("there are three");
    // Two of the three pull it, for some eight seconds; the dead one among them.
    let label = |peer: usize| {
        let name = yard.fleet.peers[peer].name().to_owned();
        yard.fleet.peers[asked].cli(["node", "update", &name, "--label-add", "pulls=yes"]).run().ok();
    };
    label(dead);
    label(asked);
    let args = ["op", "pull", &image, "--label", "pulls", "--replicas", "2", "--detach"];
    let id = yard.fleet.peers[asked].cli(args).run().ok().trim().to_owned();
    eventually("both to pull", PULL_TIMEOUT, || {
        let view = yard.fleet.peers[asked].http().operation(&id).expect("the operation");
        view.sub_operations.iter().all(|sub| sub.current_bytes > 0)
    });
    let third = (0..3).find(|number| *number != dead && *number != asked).expect("there are three");
    label(third);
    yard.fleet.peers[dead].kill9();
    yard.hosts.kill(dead).expect("the engine is killed");
    let watch = Stopwatch::start();
    let name = yard.fleet.peers[third].name().to_owned();
    let moved = eventually_value("its part to go to the third host", PATIENCE, || {
        let view = yard.fleet.peers[asked].http().operation(&id).map_err(|error| error.to_string())?;
        let taken = view.sub_operations.iter().find(|sub| sub.node == name && sub.attempts > 0).cloned();
        taken.ok_or_else(|| format!("{:?}", view.sub_operations))
    });
    let took = watch.elapsed();
    println!("the part of the dead host was begun elsewhere after {} ms", took.as_millis());
    // The suspicion comes after 0.4 s; then 2 s, and some for the machine of a test.
    assert!(took < Duration::from_millis(3_500), "{took:?}");
    assert!(moved.why.is_some_and(|why| why.contains("moved from")), "it says why");
    yard.registry.set_rate(UNLIMITED);
    let view = yard.wait_ended(asked, &id);
    assert_eq!(view.state, OperationState::Succeeded, "{view:?}");
}
