//! Pulling, following, and what happens when the node or the user interrupts it.

use std::time::Duration;

use super::*;
use crate::api::client::{Client, Target};
use crate::api::fake::operation;
use crate::api::timer::within;
use crate::api::types::{
    Action, ApiError, ErrorCode, OperationRequest, OperationState, OperationView, Strategy,
};
use crate::cli::args::Format;
use crate::cli::follow::{Pauses, Views, follow_to_end};
use crate::cli::session::{Session, block_on};
use crate::cli::submit::{Submitted, submit};

const IMAGE: &str = "docker.io/library/nginx:1.27";

/// Lets the fleet act beside the command: waits until `count` watches of `op1` are there.
async fn watched(fleet: &FakeFleet, count: usize) {
    let wait = std::future::poll_fn(|cx| {
        if fleet.watchers("op1") == count {
            return std::task::Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        std::task::Poll::Pending
    });
    within::<TokioRuntime, _>(Duration::from_secs(20), wait).await.expect("it is watched in time");
}

fn ended(state: OperationState) -> OperationView {
    let mut view = operation("op1", state);
    view.ended_at_ms = Some(view.submitted_at_ms + 65_000);
    for sub in &mut view.sub_operations {
        sub.ended_at_ms = view.ended_at_ms;
        match sub.state {
            crate::api::types::SubOperationState::Failed => sub.error = Some("it was not found".into()),
            _ => sub.result = Some("sha256:ab".into()),
        }
    }
    view
}

/// Publishes these once the command watches.
fn script(site: &Site, views: Vec<OperationView>) {
    let fleet = site.fleet.clone();
    site.runtime.spawn(async move {
        watched(&fleet, 1).await;
        for view in views {
            fleet.publish(&view);
        }
    });
}

#[test]
fn pulls_in_plain_lines() {
    let site = Site::new();
    script(&site, vec![operation("op1", OperationState::Running), ended(OperationState::Succeeded)]);
    let ran = site.run(&["op", "pull", "nginx:1.27"]);
    let lines: Vec<&str> = ran.ok().lines().collect();
    assert_eq!(lines[0], "operation op1: pull of 1 image on 2 nodes");
    assert_eq!(lines[1], format!("alpha: {IMAGE}: waiting"));
    assert!(lines.contains(&format!("beta: {IMAGE}: done, sha256:ab").as_str()), "{ran:?}");
    assert_eq!(*lines.last().unwrap(), "operation op1 succeeded: 2 of 2 done in 1m 5s");
    assert_eq!(ran.stderr, "");
    assert_eq!(site.fleet.calls()[0], "submit_operation nginx:1.27 on");
}

#[test]
fn failures_have_exit_codes_and_reasons() {
    for (state, exit, summary) in [
        (OperationState::Failed, Exit::Failed, "operation op1 failed: 0 of 2 done, 2 failed in 1m 5s"),
        (OperationState::Partial, Exit::Partial, "operation op1 partial: 1 of 2 done, 1 failed in 1m 5s"),
    ] {
        let reason = format!("beta: {IMAGE}: failed: it was not found");
        let site = Site::new();
        script(&site, vec![ended(state)]);
        let ran = site.run(&["op", "pull", "nginx:1.27", "--on", "alpha", "--on", "beta"]);
        ran.fails(exit, summary, "longshore op inspect op1");
        assert!(ran.stdout.contains(&reason), "{ran:?}");
        assert_eq!(site.fleet.calls()[0], "submit_operation nginx:1.27 on alpha,beta");
        // Followed afterwards; quietly, the reason is with the error.
        let ran = site.run(&["op", "watch", "op1", "-q"]);
        ran.fails(exit, &reason, "");
        assert_eq!(ran.stdout, "op1\n");
    }
}

#[test]
fn json_detached_and_quiet() {
    let site = Site::new();
    script(&site, vec![ended(OperationState::Succeeded)]);
    let ran = site.run(&["op", "pull", "nginx:1.27", "--format", "json"]);
    let view: OperationView = serde_json::from_str(ran.ok()).unwrap();
    assert_eq!((view.id.as_str(), view.state), ("op1", OperationState::Succeeded));
    assert!(ran.stderr.contains("done, sha256:ab"), "{ran:?}");
    assert_eq!(site.run(&["op", "watch", "op1", "-q"]).ok(), "op1\n");

    let ran = site.run(&["op", "pull", "a", "b", "--detach", "--idempotency-key", "k"]);
    assert_eq!(ran.ok(), "op2\n");
    let ran = site.run(&["op", "pull", "a", "b", "--detach", "--idempotency-key", "k", "--format", "json"]);
    let view: OperationView = serde_json::from_str(ran.ok()).unwrap();
    assert_eq!((view.id.as_str(), view.state), ("op2", OperationState::Planned));
    // Without a key, each call is an operation of its own.
    assert_eq!(site.run(&["op", "pull", "a", "--detach"]).ok(), "op3\n");
    assert_eq!(site.run(&["op", "pull", "a", "--detach"]).ok(), "op4\n");
}

#[test]
fn listings_of_operations() {
    let site = Site::new();
    site.fleet.publish(&ended(OperationState::Partial));
    let mut running = operation("op2", OperationState::Running);
    running.submitted_at_ms = u64::MAX;
    site.fleet.publish(&running);
    let table = site.run(&["op", "ls"]);
    let lines: Vec<Vec<&str>> = table.ok().lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0].join(" "), "ID KIND STATE ENDED OF SUBMITTED BY SUBMITTED");
    assert_eq!(lines[1].join(" "), format!("op2 pull running 0 of 2 {IMAGE} alpha now"));
    assert!(lines[2].join(" ").starts_with(&format!("op1 pull partial 2 of 2 {IMAGE} alpha ")), "{table:?}");
    assert_eq!(site.run(&["op", "ls", "--active", "--limit", "7", "-q"]).ok(), "op2\n");
    assert!(site.fleet.calls().contains(&"list_operations Some(7) true".to_owned()));
    let expected = format!(
        "\
id:         op1
session:    nightly
kind:       pull
state:      partial
strategy:   replicated
images:     {IMAGE}
submitted:  2023-11-14T22:13:20Z by alpha
ended:      2023-11-14T22:14:25Z, after 1m 5s

NODE    OF                             STATE       ATTEMPTS   PROGRESS          RESULT
alpha   {IMAGE}   succeeded   1          0 of 2 layers     sha256:ab
beta    {IMAGE}   failed      1          0 of 2 layers     it was not found
"
    );
    let expected = expected
        .replace("of 2 layers     ", "of 2 layers   ")
        .replace("PROGRESS          ", "PROGRESS        ");
    assert_eq!(site.run(&["op", "inspect", "op1"]).ok(), expected);
    site.run(&["op", "inspect", "op9"]).fails(Exit::Failed, "there is no operation op9", "longshore op ls");
    site.run(&["op", "watch", "op9"]).fails(Exit::Failed, "there is no operation op9", "longshore op ls");
}

#[test]
fn submissions_with_an_unknown_outcome_are_repeated_under_their_key() {
    let unknown = || ApiError::new(ErrorCode::OutcomeUnknown, "no answer in time");
    let no_quorum = || ApiError::new(ErrorCode::NoQuorum, "no quorum");
    let submissions =
        |site: &Site| site.fleet.calls().iter().filter(|call| call.starts_with("submit")).count();

    let site = Site::new();
    site.fleet.fail("submit_operation", [unknown(), no_quorum()]);
    assert_eq!(site.run(&["op", "pull", "a", "--detach"]).ok(), "op1\n");
    assert_eq!(submissions(&site), 3);

    // Nothing was done: said at once.
    site.fleet.fail("submit_operation", [no_quorum()]);
    site.run(&["op", "pull", "a", "--detach"]).fails(Exit::NoQuorum, "no quorum", "nothing was done");
    // Wrong is wrong, also after an unknown outcome.
    site.fleet.fail("submit_operation", [unknown(), ApiError::new(ErrorCode::Invalid, "bad image")]);
    site.run(&["op", "pull", "a", "--detach"]).fails(Exit::Usage, "bad image", "");
    // What was refused for how things are now may have been done before.
    site.fleet.fail("submit_operation", [unknown(), ApiError::new(ErrorCode::Conflict, "beta is leaving")]);
    let ended = site.run(&["op", "pull", "a", "--detach"]);
    ended.fails(Exit::Failed, "no answer in time", "try again with --idempotency-key");
    // In the end, the key is told.
    site.fleet.fail("submit_operation", (0..6).map(|_| unknown()));
    let client = Client::new(Target::Unix(site.socket.clone()));
    let action = Action::Pull { images: vec!["nginx".into()] };
    let request = OperationRequest::new(action, Strategy::Replicated);
    let request = Submitted::New(Box::new(request));
    let pauses = Pauses { next: Duration::from_millis(1), longest: Duration::from_millis(1) };
    let error = block_on(submit(&client, &request, "k1", pauses)).unwrap().unwrap_err();
    assert_eq!((error.exit, error.message.as_str()), (Exit::Failed, "no answer in time"));
    assert!(error.hint.unwrap().contains("--idempotency-key k1"));
}

#[test]
fn watching_goes_on_over_a_restart() {
    let site = Site::new();
    site.fleet.publish(&operation("op1", OperationState::Running));
    let fleet = site.fleet.clone();
    site.runtime.spawn(async move {
        watched(&fleet, 1).await;
        // The node stops; a moment later it is there again, but has not caught up.
        let lost = ApiError::new(ErrorCode::NoQuorum, "no leader yet");
        fleet.fail("watch_operation", [lost]);
        fleet.end_watches("op1", None);
        watched(&fleet, 1).await;
        fleet.publish(&ended(OperationState::Succeeded));
    });
    // Without a quorum nothing can be inspected, but watched.
    site.fleet.fail("inspect_operation", [ApiError::new(ErrorCode::NoQuorum, "no quorum")]);
    let ran = site.run(&["op", "watch", "op1"]);
    assert!(ran.ok().ends_with("operation op1 succeeded: 2 of 2 done in 1m 5s\n"), "{ran:?}");
    assert_eq!(ran.stderr, "note: the node has stopped; trying again\n", "once");
}

#[test]
fn ctrl_c_leaves_the_operation_running() {
    let site = Site::new();
    let running = operation("op1", OperationState::Running);
    site.fleet.publish(&running);
    let (mut terminal, stdout, stderr) = terminal("");
    let fleet = site.fleet.clone();
    let error = block_on(async {
        let client = Client::new(Target::Unix(site.socket.clone()));
        let views = Views::of(client.clone(), "op1".into(), None);
        let interrupt = Box::pin(async move { watched(&fleet, 1).await });
        let mut session = Session { client, others: vec![], terminal: &mut terminal, interrupt };
        follow_to_end(&mut session, running, views, Format::Table, false).await
    })
    .unwrap()
    .unwrap_err();
    assert_eq!((error.exit, error.message.as_str()), (Exit::Interrupted, ""));
    assert_eq!(stderr.text(), "The operation goes on. Follow it with: longshore op watch op1\n");
    assert!(stdout.text().starts_with("operation op1: pull"), "{}", stdout.text());
}

#[test]
fn ctrl_c_while_submitting_says_where_to_look() {
    let site = Site::serving(FakeFleet::gated());
    let (mut terminal, _, stderr) = terminal("");
    let fleet = site.fleet.clone();
    let cli = Cli::try_parse_from(["longshore", "op", "pull", "a"]).unwrap();
    let crate::cli::args::Command::Op(crate::cli::op::OpCommand::Pull(args)) = cli.command else {
        panic!("not a pull")
    };
    let submitted = std::future::poll_fn(move |cx| {
        if fleet.calls().is_empty() {
            cx.waker().wake_by_ref();
            return std::task::Poll::Pending;
        }
        std::task::Poll::Ready(())
    });
    let error = block_on(async {
        let mut session = Session {
            others: vec![],
            client: Client::new(Target::Unix(site.socket.clone())),
            terminal: &mut terminal,
            interrupt: Box::pin(submitted),
        };
        crate::cli::submit::pull(&mut session, args).await
    })
    .unwrap()
    .unwrap_err();
    assert_eq!(error.exit, Exit::Interrupted);
    assert!(stderr.text().contains("longshore op ls"), "{}", stderr.text());
}

#[test]
fn other_kinds_and_ends_of_operations() {
    let site = Site::new();
    script(&site, vec![ended(OperationState::Succeeded)]);
    site.run(&["op", "push", "nginx:1.27", "--on", "alpha"]).ok();
    assert_eq!(site.fleet.calls()[0], "submit_operation push,nginx:1.27 on alpha");
    let tagged = site.run(&["op", "tag", "nginx:1.27", "web:1", "web:2", "--detach"]);
    assert_eq!(tagged.ok(), "op2\n");
    assert!(site.fleet.calls().contains(&"submit_operation tag,nginx:1.27,web:1,web:2 on".to_owned()));

    let cancelled = site.run(&["op", "cancel", "op2"]);
    assert_eq!(cancelled.ok(), "operation op2 cancelled: 0 of 2 done, 2 cancelled\n");
    site.run(&["op", "watch", "op2"]).fails(
        Exit::Failed,
        "operation op2 cancelled",
        "longshore op inspect op2",
    );
    assert!(site.run(&["op", "inspect", "op2"]).ok().contains("cancelled:  at alpha"));
    assert_eq!(site.run(&["op", "retry", "op2", "--detach"]).ok(), "op3\n");
    assert!(site.run(&["op", "inspect", "op3"]).ok().contains("retry of:   op2"));

    // The worst of all that are waited for, and all of them are.
    let mut partial = ended(OperationState::Partial);
    partial.id = "op3".into();
    site.fleet.publish(&partial);
    assert_eq!(site.run(&["op", "wait", "op1"]).ok(), "op1\n");
    let waited = site.run(&["op", "wait", "op3", "op1"]);
    waited.fails(Exit::Partial, "operation op3 partial", "");
    assert_eq!(waited.stdout, "op3\nop1\n");
    site.run(&["op", "wait", "op3", "op2"]).fails(Exit::Failed, "operation op2 cancelled", "");
}
