//! `launch`, with a shell script in the place of the nodes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use longshore_raft::consensus::runtime::AsyncRuntime as _;

use super::*;
use crate::cli::args::Command;
use crate::cli::launch::{Plan, PlannedNode};
use crate::cli::session::block_on;

/// Says what it was started with, then behaves as told by a file in its data folder: `dies`, `leaves`, `stubborn`; else
/// it waits for SIGTERM.
const NODE: &str = r#"#!/bin/sh
while [ $# -gt 0 ]; do
  case "$1" in
    --data-dir) dir=$2; shift ;;
    init|join|run) command=$1 ;;
  esac
  shift
done
mkdir -p "$dir"
echo "$command with token $LONGSHORE_JOIN_TOKEN" >> "$dir/starts"
echo "started by $command"
echo "a log line" >&2
touch "$dir/identity.json"
[ -e "$dir/dies" ] && exit 7
# Whoever is ready may be told to stop.
[ -e "$dir/stubborn" ] && trap '' TERM || trap 'echo stopped; exit 0' TERM
echo ready
[ -e "$dir/leaves" ] && exit 0
while :; do sleep 0.02; done
"#;

/// A plan for nodes in the site's folder: `node-1` is where the site's API is served.
fn plan(site: &Site, count: u8) -> Plan {
    let folder = site.folder.path();
    let program = folder.join("node.sh");
    fs::write(&program, NODE).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let node = |number: u8| PlannedNode {
        name: format!("node-{number}"),
        data_dir: if number == 1 { folder.to_owned() } else { folder.join(format!("node-{number}")) },
        address: format!("127.0.0.{number}:7400"),
    };
    Plan { program, nodes: (1..=count).map(node).collect(), common: vec![] }
}

/// Puts a file into a node's folder.
fn put(plan: &Plan, number: usize, name: &str) {
    let dir = &plan.nodes[number - 1].data_dir;
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join(name), "").unwrap();
}

fn starts(plan: &Plan, number: usize) -> String {
    fs::read_to_string(plan.nodes[number - 1].data_dir.join("starts")).unwrap_or_default()
}

/// Runs the plan until its output holds `until`; then asks it to stop.
fn launch(plan: &Plan, until: &'static str) -> (Result<(), CliError>, String, String) {
    let (mut terminal, stdout, stderr) = terminal("");
    let seen = stdout.clone();
    let stop = async move {
        while !seen.text().contains(until) {
            TokioRuntime::sleep(std::time::Duration::from_millis(5)).await;
        }
        Ok("SIGINT")
    };
    let outcome = block_on(plan.carry_out(&mut terminal, stop)).unwrap();
    (outcome, stdout.text(), stderr.text())
}

#[test]
fn what_is_planned() {
    let planned = |args: &[&str]| {
        let cli = Cli::try_parse_from(["longshore", "launch"].iter().chain(args)).unwrap();
        let Command::Launch(args) = &cli.command else { panic!("not a launch") };
        let (terminal, _, _) = terminal("");
        Plan::new(&cli.global, args, &terminal, "/bin/longshore".into()).unwrap()
    };
    let plan = planned(&["--local", "2", "--data-dir", "/d", "--base-port", "7500", "--docker", "none"]);
    let spec = plan.spec(&plan.nodes[1], "join", &[plan.nodes[0].address.clone()], Some("LSJ1-x"));
    let expected = "join 127.0.0.1:7500 --data-dir /d/node-2 --name node-2 --listen 127.0.0.2:7500 \
                    --advertise 127.0.0.2:7500 --api 127.0.0.2:7500 --docker none";
    assert_eq!(spec.args.join(" "), expected, "and no secret among them");
    assert_eq!(spec.variables, [("LONGSHORE_JOIN_TOKEN", "LSJ1-x".to_owned())]);
    // Without --data-dir: not in the folder of this host's own node.
    let plan = planned(&["--local", "1", "--config", "/c.toml"]);
    assert!(plan.nodes[0].data_dir.ends_with("longshore/local/node-1"), "{plan:?}");
    assert_eq!(plan.common, ["--config", "/c.toml"]);
}

#[test]
fn the_first_is_made_and_the_rest_join() {
    let site = Site::new();
    let plan = plan(&site, 3);
    let (outcome, stdout, stderr) = launch(&plan, "3 of 3 nodes are ready");
    outcome.unwrap();
    assert_eq!(starts(&plan, 1), "init with token \n");
    assert_eq!(starts(&plan, 2), "join with token LSJ1-secret\n");
    assert_eq!(starts(&plan, 3), "join with token LSJ1-secret\n");
    assert_eq!(site.fleet.calls(), ["create_token Some(600000) Some(2)"]);
    for number in 1..=3 {
        let lines = ["ready", "stopped"].map(|word| format!("node-{number} | {word}\n"));
        assert!(lines.iter().all(|line| stdout.contains(line)), "{stdout}");
        assert!(stderr.contains(&format!("node-{number} | a log line\n")), "{stderr}");
    }
    assert!(stderr.contains("SIGINT: stopping all nodes"), "{stderr}");

    // Once more: all have state.
    let (outcome, _, _) = launch(&plan, "3 of 3 nodes are ready");
    outcome.unwrap();
    for number in 1..=3 {
        assert!(starts(&plan, number).ends_with("run with token \n"), "{}", starts(&plan, number));
    }
    assert_eq!(site.fleet.calls().len(), 1);
}

#[test]
fn more_nodes_join_those_with_state() {
    let site = Site::new();
    let plan = plan(&site, 3);
    put(&plan, 1, "identity.json");
    put(&plan, 2, "identity.json");
    launch(&plan, "3 of 3 nodes are ready").0.unwrap();
    assert_eq!(starts(&plan, 1), "run with token \n");
    assert_eq!(starts(&plan, 2), "run with token \n");
    assert_eq!(starts(&plan, 3), "join with token LSJ1-secret\n");
}

#[test]
fn a_death_ends_all_loudly() {
    let site = Site::new();
    let plan = plan(&site, 3);
    put(&plan, 3, "dies");
    let (outcome, stdout, _) = launch(&plan, "never said");
    let error = outcome.unwrap_err();
    assert_eq!((error.exit, error.message.as_str()), (Exit::Failed, "node-3 died: exit status: 7"));
    assert!(stdout.contains("node-1 | stopped") && stdout.contains("node-2 | stopped"), "{stdout}");
}

#[test]
fn a_node_that_leaves_is_told_and_the_rest_goes_on() {
    let site = Site::new();
    let plan = plan(&site, 2);
    put(&plan, 2, "leaves");
    let (outcome, stdout, stderr) = launch(&plan, "nodes are ready");
    outcome.unwrap();
    assert!(stdout.contains("node-1 | stopped"), "{stdout}");
    assert!(stdout.contains("node-2 | ready"), "{stdout} {stderr}");
    // The last one to leave ends it.
    put(&plan, 1, "leaves");
    let (outcome, _, stderr) = launch(&plan, "never said");
    outcome.unwrap();
    assert!(stderr.contains("node-1 has stopped") && stderr.contains("node-2 has stopped"), "{stderr}");
}

#[test]
fn a_program_that_cannot_be_started() {
    let site = Site::new();
    let plan = Plan { program: "/nowhere/longshore".into(), ..plan(&site, 1) };
    let (outcome, _, _) = launch(&plan, "never said");
    assert!(outcome.unwrap_err().message.contains("cannot start node-1"));
}

#[test]
fn a_stubborn_node_is_killed() {
    let site = Site::new();
    let plan = plan(&site, 1);
    put(&plan, 1, "stubborn");
    let (mut terminal, stdout, stderr) = terminal("");
    let seen = stdout.clone();
    let stop = async move {
        while !seen.text().contains("1 of 1 nodes are ready") {
            TokioRuntime::sleep(std::time::Duration::from_millis(5)).await;
        }
        // From here on time is the test's: the ten seconds of patience pass at once.
        tokio::time::pause();
        Ok("SIGTERM")
    };
    block_on(plan.carry_out(&mut terminal, stop)).unwrap().unwrap();
    let stderr = stderr.text();
    assert!(stderr.contains("node-1 does not stop; killing it\n"), "{stderr}");
    assert!(stderr.contains("node-1 died: signal: 9 (SIGKILL)\n"), "{stderr}");
}
