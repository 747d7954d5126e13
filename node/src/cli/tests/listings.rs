//! What status, node and token commands print, to the letter.

use super::*;
use crate::api::types::{ApiError, ErrorCode};

#[test]
fn status() {
    let site = Site::new();
    let expected = "\
fleet:       00112233445566778899aabbccddeeff
node:        n1 (alpha), leader
address:     10.0.0.1:7400
leader:      alpha
nodes:       2 of 3 alive, 3 voting
log:         term 3, committed 42, applied 41
operations:  1 running in this node's groups
engine:      Docker 26.1.5 (API 1.45, x86_64; 4 processors, 8.00 GiB of memory)
version:     0.1.0
up for:      1h 2m
clock skew:  -12 ms at most
warnings:    node gamma is suspected to be dead
";
    assert_eq!(site.run(&["status"]).ok(), expected);
    let json = site.run(&["status", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!((&value["role"], &value["engine"]["state"]), (&"leader".into(), &"ready".into()));
}

#[test]
fn nodes() {
    let site = Site::new();
    let expected = "\
ID    NAME    ROLE     STATE     AVAILABILITY   ADDRESS         ZONE   ENGINE        CPU   MEM   DISK   LAST SEEN
n1*   alpha   leader   alive     active         10.0.0.1:7400   -      26.1.5        7%    25%   75%    now
n2    beta    voter    alive     active         10.0.0.2:7400   east   none          14%   25%   75%    now
n3    gamma   voter    suspect   active         10.0.0.3:7400   -      unavailable   -     -     -      now
";
    assert_eq!(site.run(&["node", "ls"]).ok(), expected);
    assert_eq!(site.run(&["node", "list", "-q"]).ok(), "n1\nn2\nn3\n");
    let json = site.run(&["node", "ls", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(value["nodes"][0]["self"], true);
}

#[test]
fn one_node() {
    let site = Site::new();
    let updated = site.run(&["node", "update", "gamma", "--label-add", "disk=ssd", "--label-add", "a=1=2"]);
    assert_eq!(updated.ok(), "n3 (gamma): a=1=2, disk=ssd\n");
    let expected = "\
id:            n3
name:          gamma
role:          voter
state:         suspect
availability:  active
address:       10.0.0.3:7400
zone:          -
region:        -
weight:        1024
labels:        a=1=2, disk=ssd
engine:        unavailable: no socket
capabilities:  -
load:          -
version:       0.1.0
last seen:     now
joined:        2023-11-14T22:13:20Z
replica:       r3
";
    assert_eq!(site.run(&["node", "inspect", "gamma"]).ok(), expected);
    let expected = "\
capabilities:  arch:amd64, os:linux
load:          7 % of the processors busy, 1 part of operations under way; told now
               6.00 GiB of 8.00 GiB of memory free
               16.0 GiB of 64.0 GiB of disk free
               the engine answers in 12 ms, and has 4 named images
";
    let alpha = site.run(&["node", "inspect", "alpha"]);
    assert!(alpha.ok().contains(expected), "{alpha:?}");
    let updated = site.run(&["node", "update", "gamma", "--label-rm", "a", "--label-rm", "disk"]);
    assert_eq!(updated.ok(), "n3 (gamma): no labels\n");
    for args in [&["node", "inspect", "nobody"][..], &["node", "rm", "nobody"]] {
        site.run(args).fails(Exit::Failed, "there is no node nobody", "longshore node ls");
    }
}

#[test]
fn removal_and_leaving_are_confirmed_on_a_terminal() {
    let site = Site::new();
    let ask = |args: &[&str], stdin| site.run_with(args, |terminal| terminal.stdin_is_terminal = true, stdin);
    for answer in ["\n", "n\n", "", "yess\n"] {
        let ran = ask(&["node", "rm", "gamma"], answer);
        assert!(ran.stderr.starts_with("Remove node gamma from the fleet for good? [y/N] "), "{ran:?}");
        assert_eq!(ran.exit, Exit::Failed, "{answer:?}");
        assert_eq!(ask(&["leave"], answer).exit, Exit::Failed);
    }
    assert_eq!(site.fleet.calls(), Vec::<String>::new());
    assert_eq!(ask(&["node", "rm", "gamma"], "Y\n").ok(), "n3 (gamma) was removed\n");
    assert_eq!(ask(&["node", "rm", "beta", "--yes"], "").ok(), "n2 (beta) was removed\n");
    assert_eq!(site.run(&["node", "rm", "alpha"]).ok(), "n1 (alpha) was removed\n");
    assert_eq!(ask(&["leave"], "yes\n").ok(), "alpha has left the fleet; beta leads now\n");
    site.fleet.fail("leave", [ApiError::new(ErrorCode::Conflict, "the rest would have no quorum")]);
    site.run(&["leave"]).fails(Exit::Failed, "the rest would have no quorum", "");
}

#[test]
fn tokens() {
    let site = Site::new();
    let expected = "\
token:       LSJ1-secret
id:          t1
expires in:  1h
uses:        1

To add a host, run on it:
    longshore join --token LSJ1-secret 10.0.0.1:7400
";
    assert_eq!(site.run(&["token", "create"]).ok(), expected);
    assert_eq!(site.run(&["token", "create", "--ttl", "90s", "--uses", "0", "-q"]).ok(), "LSJ1-secret\n");
    assert_eq!(site.run(&["token", "revoke", "t1"]).ok(), "t1 was revoked\n");
    let expected = "\
ID   STATE     USED              EXPIRES IN
t1   revoked   0 of 1            -
t2   valid     0 of any number   1m 30s
";
    assert_eq!(site.run(&["token", "ls"]).ok(), expected);
    assert_eq!(site.run(&["token", "ls", "-q"]).ok(), "t1\nt2\n");
    site.run(&["token", "revoke", "t9"]).fails(Exit::Failed, "there is no token t9", "longshore token ls");
    let calls = site.fleet.calls();
    assert_eq!(calls[..2], ["create_token Some(3600000) Some(1)", "create_token Some(90000) Some(0)"]);
}
