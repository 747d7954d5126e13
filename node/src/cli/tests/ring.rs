//! What ring and group commands print, and how they end.

use std::time::Duration;

use super::*;
use crate::api::fake::progress;
use crate::api::timer::within;
use crate::api::types::{ApiError, ErrorCode};

#[test]
fn the_ring_is_shown() {
    let site = Site::new();
    let ran = site.run(&["ring", "show"]);
    let expected = "\
ring:           32 groups of 8 partitions, 3 replicas each
state:          1 change under way, 1 to copy, 31 of 32 groups in place
epoch:          65, target 2
replicas:       32 to 32 per node, max/mean 1.00
leaders:        10 to 11 per node, max/mean 1.03
zones:          32 groups in 2 zones; 32 pairs of one group in one zone
last plan:      64 of 96 replicas copied
no quorum:      g3: beta, gamma missing
not open here:  g4: it is damaged: block 3

    NODE    STATE     ZONE   WEIGHT   REPLICAS   QUOTA   LEADERS   MOVING
A   alpha   alive     -      1024     32         32      11        -
B   beta    alive     east   1024     32         32      11        -
C   gamma   suspect   -      1024     32         32      10        1 out

  0 AAAAAAAAbbbbbbbb!!!!!!!!AAAAAAAABBBBBBBBCCCCCCCCAAAAAAAABBBBBBBB
";
    assert!(ran.ok().starts_with(expected), "{}", ran.stdout);
    assert!(ran.stdout.lines().all(|line| line.chars().count() <= 80), "{}", ran.stdout);
    let json = site.run(&["ring", "show", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(value["groups"][1]["change"]["stage"], "catching_up");
}

#[test]
fn a_plan_says_what_would_move() {
    let site = Site::new();
    let ran = site.run(&["ring", "plan", "--add", "delta:2048:east", "--remove", "gamma"]);
    let expected = "\
copies:    24 replicas
replicas:  3 per group
max/mean:  1.00
one zone:  32 -> 24 pairs of replicas of one group

NODE    REPLICAS   AFTERWARDS
alpha   32         24
beta    32         24
gamma   32         24
delta   0          24

GROUP   FROM    TO
g1      beta    delta
g2      gamma   delta
";
    assert!(ran.ok().starts_with(expected), "{}", ran.stdout);
    assert_eq!(site.fleet.calls(), ["plan_ring +delta/Some(2048)/Some(\"east\") -gamma"]);
    let failure = ApiError::new(ErrorCode::NotFound, "there is no node x").hint("`longshore node ls` lists");
    site.fleet.fail("plan_ring", [failure]);
    site.run(&["ring", "plan", "--remove", "x"]).fails(Exit::Failed, "there is no node x", "node ls");
}

#[test]
fn orders_to_the_ring() {
    let site = Site::new();
    assert_eq!(site.run(&["ring", "pause"]).ok(), "paused; 1 change under way still end\n");
    assert!(site.run(&["ring", "show"]).ok().contains("state:          paused; 1 change"));
    let nothing = "There is nothing to do: every group is where a new plan would put it.\n";
    assert_eq!(site.run(&["ring", "rebalance"]).ok(), nothing);
    assert_eq!(site.run(&["ring", "resume"]).ok(), "resumed\n");
    assert_eq!(site.fleet.calls()[0], "pause_ring true");
    site.fleet.fail("rebalance_ring", [ApiError::new(ErrorCode::NoQuorum, "nobody leads")]);
    site.run(&["ring", "rebalance"]).fails(Exit::NoQuorum, "nobody leads", "nothing was done");
}

/// Lets the fleet act once the command watches.
fn script(site: &Site) {
    let fleet = site.fleet.clone();
    site.runtime.spawn(async move {
        let watched = std::future::poll_fn(|cx| {
            if fleet.ring_watchers() == 1 {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        });
        within::<TokioRuntime, _>(Duration::from_secs(20), watched).await.expect("it is watched in time");
        fleet.publish_ring(&progress(1, 1));
        fleet.publish_ring(&progress(2, 0));
    });
}

#[test]
fn the_ring_is_watched_until_it_has_settled() {
    let site = Site::new();
    script(&site);
    let expected = "\
g2: gamma -> delta: catching up; it waits for delta to catch up, 120 entries behind
0 replicas copied in 2s, 2 to copy
1 replica copied in 2s, 1 to copy, 0.5 per s, about 2s left
g2: over
settled: every group is where it should be; 2 replicas copied in 2s
";
    assert_eq!(site.run(&["ring", "watch"]).ok(), expected);
    script(&site);
    let json = site.run(&["ring", "watch", "--format", "json"]);
    let lines: Vec<serde_json::Value> =
        json.ok().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[0]["changes"][0]["group"]), (3, &"g2".into()));
}

#[test]
fn a_watch_of_the_ring_that_is_cut_off_fails() {
    let site = Site::serving(FakeFleet::new());
    let fleet = site.fleet.clone();
    site.runtime.spawn(async move {
        while fleet.ring_watchers() == 0 {
            tokio::task::yield_now().await;
        }
        fleet.end_ring_watches();
    });
    site.run(&["ring", "watch"]).fails(Exit::Failed, "the node has stopped", "--host");
}

#[test]
fn groups() {
    let site = Site::new();
    let expected = "\
GROUP   PARTITIONS   LEADER   MEMBERS              HERE                KEYS   BYTES     CHANGE
g1      0-7          alpha    alpha, beta, gamma   leader              1200   600 KiB   -
g2      8-15         beta     alpha, beta, gamma   follower, at rest   1200   600 KiB   +delta -gamma, catching up
g3      16-23        -        alpha, beta, gamma   follower, at rest   -      -         no quorum: beta, gamma missing
g4      24-31        alpha    alpha, beta, gamma   not open            1200   600 KiB   -
";
    assert_eq!(site.run(&["group", "ls", "--keys"]).ok(), expected);
    assert_eq!(site.run(&["group", "list", "-q"]).ok(), "g1\ng2\ng3\ng4\n");
    assert_eq!(site.fleet.calls(), ["list_groups true", "list_groups false"]);
    let expected = "\
group:       g2
partitions:  8 to 15
epoch:       2
leader:      beta
members:     alpha, beta, gamma
change:      +delta -gamma, catching up
             it waits for delta to catch up, 120 entries behind
keys:        1200, 3 with a time to live
bytes:       600 KiB
writes:      5000
here:        r102 (follower), term 4, at rest
log:         last 812, committed 812, applied 812, snapshot -, purged -
voters:      alpha, beta, gamma
learners:    -
";
    assert_eq!(site.run(&["group", "inspect", "g2"]).ok(), expected);
    let stuck = site.run(&["group", "inspect", "3"]);
    assert!(stuck.ok().contains("no quorum:   missing beta, gamma\n"), "{stuck:?}");
    assert!(stuck.stdout.contains("keys:        not known: the group does not answer\n"), "{stuck:?}");
    assert!(site.run(&["group", "inspect", "4"]).ok().contains("not open: it is damaged: block 3\n"));
    site.run(&["group", "inspect", "g99"]).fails(Exit::Failed, "there is no group", "longshore group ls");
}

#[test]
fn leadership_is_transferred() {
    let site = Site::new();
    let moved = site.run(&["group", "transfer", "g7", "beta"]);
    assert_eq!(moved.ok(), "g7 is led by beta now; before it was alpha\n");
    assert_eq!(site.run(&["group", "transfer", "g7", "alpha"]).ok(), "g7 is led by alpha already\n");
    site.run(&["group", "transfer", "g7", "nobody"]).fails(Exit::Failed, "there is no node nobody", "");
}
