//! Availability, draining, and removal by force, as people see them.

use std::time::Duration;

use super::*;
use crate::api::fake::operation;
use crate::api::timer::Stopwatch;
use crate::api::types::{ApiError, ErrorCode, OperationState, OperationView, SubOperationState};

#[test]
fn what_is_updated_is_said() {
    let site = Site::new();
    let update = |args: &[&str]| site.run(&[&["node", "update", "beta"], args].concat()).ok().to_owned();
    assert_eq!(update(&["--availability", "pause", "-m", "slow disk"]), "n2 (beta): paused\n");
    assert_eq!(
        update(&["--weight", "7", "--zone", "west", "--region", "south"]),
        "n2 (beta): weight 7; zone west; region south\n"
    );
    let table = site.run(&["node", "ls"]);
    assert!(table.ok().contains("n2    beta    voter    alive     paused         10.0.0.2:7400   west"));
    let shown = site.run(&["node", "inspect", "beta"]);
    for line in [
        "availability:  paused, by order at alpha, 2023-11-14T22:13:20Z\n               slow disk\n",
        "zone:          west (it announces east)\n",
        "region:        south (it announces north)\n",
        "weight:        7 (it announces 1024)\n",
    ] {
        assert!(shown.ok().contains(line), "{line}\n{}", shown.stdout);
    }
    assert_eq!(
        update(&[
            "--weight",
            "auto",
            "--zone",
            "",
            "--region=",
            "--availability",
            "active",
            "--label-add",
            "a=b"
        ]),
        "n2 (beta): active; a=b; weight 1024; zone east; region north\n"
    );
}

#[test]
fn an_update_needs_something_to_update() {
    let wrong = |args: &[&str]| {
        let args = [&["longshore", "node"][..], args].concat();
        Cli::try_parse_from(args).expect_err("it is wrong").to_string()
    };
    assert!(wrong(&["update", "beta"]).contains("--availability <WHICH>"));
    assert!(wrong(&["update", "beta", "-m", "why"]).contains("--availability"));
    assert!(wrong(&["update", "beta", "--availability", "gone"]).contains("active, pause, drain"));
    assert!(wrong(&["update", "beta", "--weight", "much"]).contains("neither a number nor auto"));
    assert!(wrong(&["update", "beta", "--zone", "a b"]).contains("is not a zone"));
    assert!(wrong(&["update", "beta", "--region", "a b"]).contains("is not a region"));
    assert!(wrong(&["drain", "beta", "--detach", "--deadline", "1m"]).contains("cannot be used with"));
}

#[test]
fn a_drain_ends_when_nothing_is_left_and_says_so() {
    let site = Site::new();
    let ran = site.run(&["node", "drain", "beta", "-m", "new disk"]);
    assert_eq!(ran.ok(), "beta is drained: nothing is open on it\n");
    assert_eq!(ran.stderr, "beta is being drained; Ctrl-C stops following only\n");
    let calls = ["update_node beta", "node_work n2", "node_work n2"];
    assert_eq!(site.fleet.calls(), calls, "one empty look may have come too early");
    let detached = site.run(&["node", "drain", "beta", "--detach"]);
    assert_eq!(detached.ok(), "n2 (beta) is being drained\n");
    assert_eq!(site.fleet.calls().len(), 4);
    site.run(&["node", "drain", "nobody"]).fails(Exit::Failed, "no node nobody", "longshore node ls");
    let last = "beta is the last node that takes work";
    site.fleet.fail("update_node", [ApiError::new(ErrorCode::Conflict, last)]);
    site.run(&["node", "drain", "beta"]).fails(Exit::Failed, last, "");
}

#[test]
fn a_drain_waits_for_work_that_is_open() {
    let site = Site::new();
    site.fleet.publish(&operation("op-1-2-0", OperationState::Running));
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| site.run(&["node", "drain", "beta"]));
        let looks = || site.fleet.calls().iter().filter(|call| *call == "node_work n2").count();
        until("it was looked at twice", || looks() >= 2);
        assert!(!drain.is_finished());
        site.fleet.publish(&operation("op-1-2-0", OperationState::Succeeded));
        let ran = drain.join().unwrap();
        assert_eq!(ran.ok(), "beta is drained: nothing is open on it\n");
        assert!(ran.stderr.ends_with("1 part of operations is open on beta\n"), "told once: {}", ran.stderr);
    });
}

#[test]
fn a_deadline_that_passes_says_what_is_left_and_that_the_node_stays_drained() {
    let site = Site::new();
    site.fleet.publish(&operation("op-1-2-0", OperationState::Running));
    let ran = site.run(&["node", "drain", "beta", "--deadline", "1s"]);
    let says = "the deadline of 1s has passed, and 1 part of operations is open on beta: op-1-2-0 (pull \
                docker.io/library/nginx:1.27, running); beta stays drained";
    ran.fails(Exit::Failed, says, "longshore node update beta --availability active");
    assert!(site.run(&["node", "inspect", "beta"]).ok().contains("availability:  draining"));
    site.fleet.fail("node_work", [ApiError::new(ErrorCode::NoQuorum, "group g3 has no quorum")]);
    let ran = site.run(&["node", "drain", "beta", "--deadline", "0s"]);
    ran.fails(Exit::Failed, "what is open on beta is not known; beta stays drained", "longshore node drain");
    assert!(ran.stderr.contains("note: group g3 has no quorum; trying again\n"), "{}", ran.stderr);
}

#[test]
fn a_drain_that_somebody_ends_is_told() {
    let site = Site::new();
    site.fleet.publish(&operation("op-1-2-0", OperationState::Running));
    std::thread::scope(|scope| {
        let drain = scope.spawn(|| site.run(&["node", "drain", "beta"]));
        until("it is followed", || site.fleet.calls().iter().any(|call| call == "node_work n2"));
        site.run(&["node", "update", "beta", "--availability", "active"]).ok();
        let ran = drain.join().unwrap();
        ran.fails(Exit::Failed, "beta is no longer being drained", "longshore node inspect beta");
    });
}

#[test]
fn ctrl_c_stops_following_only() {
    let site = Site::new();
    site.fleet.publish(&operation("op-1-2-0", OperationState::Running));
    let (mut terminal, _, stderr) = terminal("");
    let host = site.socket.to_str().unwrap().to_owned();
    let ran = super::super::session::block_on(async {
        let client = super::super::session::Client::new(crate::api::client::Target::parse(&host).unwrap());
        // Pressed as soon as the node was looked at.
        let fleet = Arc::clone(&site.fleet);
        let interrupt = Box::pin(std::future::poll_fn(move |cx| {
            if fleet.calls().iter().any(|call| call == "node_work n2") {
                return std::task::Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }));
        let mut session =
            super::super::session::Session { client, others: Vec::new(), terminal: &mut terminal, interrupt };
        super::super::drain::follow(&mut session, "n2", "beta", None).await
    });
    assert_eq!(ran.unwrap().unwrap_err().exit, Exit::Interrupted);
    assert!(stderr.text().ends_with("The drain goes on. Follow it with: longshore node drain beta\n"));
    assert!(!site.fleet.calls().iter().any(|call| call.starts_with("update_node")), "nothing was changed");
}

#[test]
fn removal_by_force_asks_with_what_will_be_lost_and_lists_it() {
    let site = Site::new();
    let lost = "  lost for good: what g1, g5 held, of which too few replicas are left; their keys and operations are out of \
                use\n  out of use until nodes that cannot be reached are back: g7\n  2 parts of operations were open on it, \
                and fail\n";
    site.run(&["node", "rm", "beta", "--force"]).fails(Exit::Usage, "nobody is there to ask", "--yes");
    let ask = |answer| {
        let args = ["node", "rm", "beta", "--force"];
        site.run_with(&args, |terminal| terminal.stdin_is_terminal = true, answer)
    };
    let refused = ask("n\n");
    assert_eq!(refused.exit, Exit::Failed);
    let question =
        format!("  it is not known to be dead\n{lost}Remove node beta from the fleet for good? [y/N] ");
    assert!(refused.stderr.starts_with(&question), "{}", refused.stderr);
    assert!(!site.fleet.calls().iter().any(|call| call.starts_with("remove_node")));
    let removed = ask("y\n");
    assert_eq!(removed.ok(), format!("n2 (beta) was removed\n{lost}"));
    assert_eq!(site.run(&["node", "rm", "gamma", "--force", "--yes"]).ok(), "n3 (gamma) was removed\n");
    assert!(site.fleet.calls().contains(&"remove_node gamma by force".to_owned()));
}

#[test]
fn leaving_waits_for_work_as_long_as_it_is_told_and_says_what_it_left() {
    let site = Site::new();
    assert_eq!(site.run(&["leave"]).ok(), "alpha has left the fleet; beta leads now\n");
    let open = |id: &str| {
        let mut view: OperationView = operation(id, OperationState::Running);
        view.sub_operations[0].state = SubOperationState::Running;
        view
    };
    site.fleet.publish(&open("op-1-2-0"));
    let left = site.run(&["leave", "--deadline", "10m"]);
    assert_eq!(left.ok(), "alpha has left the fleet; beta leads now\n");
    assert_eq!(
        left.stderr,
        "warning: 1 part of operations was still open on it, and fails: op-1-2-0 (pull docker.io/library/nginx:1.27, \
         running)\n"
    );
    assert_eq!(site.fleet.calls(), ["leave 60000", "leave 600000"]);
}

/// Waits for a condition that another thread brings about.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let since = Stopwatch::<TokioRuntime>::start();
    while !is_so() {
        assert!(since.elapsed() < Duration::from_secs(30), "{what}: not within 30 s");
        std::thread::yield_now();
    }
}
