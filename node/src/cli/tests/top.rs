//! `longshore top` off a terminal.

use super::*;
use crate::api::types::{ApiError, ErrorCode, OperationState};

#[test]
fn one_picture_as_text() {
    let site = Site::new();
    site.fleet.publish(&crate::api::fake::operation("op1", OperationState::Running));
    let expected = "\
longshore  fleet 00112233  quorum  leader alpha, term 3  seen from alpha
nodes 2 of 3 alive, 3 voting  groups 32, 1 without quorum, 1 moving  0 cmd/s
node gamma is suspected to be dead
";
    let ran = site.run(&["--color", "always", "top", "--once"]);
    assert!(ran.ok().starts_with(expected), "{ran:?}");
    for line in [
        "\nalpha*  alive    leader  26.1.5 ",
        "\ngamma   suspect  voter ",
        "─ 2 Groups not healthy (32) ─",
        "\nop1  pull  running  [",
    ] {
        assert!(ran.stdout.contains(line), "no {line:?} in\n{}", ran.stdout);
    }
    assert!(ran.stdout.lines().all(|line| line == line.trim_end()) && !ran.stdout.contains("q quit"));
    let mut calls = site.fleet.calls();
    calls.sort();
    assert_eq!(calls, ["list_nodes", "list_operations Some(100) true", "ring", "status"]);
}

#[test]
fn a_part_that_fails_leaves_the_rest() {
    let site = Site::new();
    site.fleet.fail("list_operations", [ApiError::new(ErrorCode::NoQuorum, "there is no quorum")]);
    let ran = site.run(&["top", "--once"]);
    assert!(ran.ok().contains("operations are not known: there is no quorum"), "{ran:?}");
    assert!(ran.stdout.contains("not known yet") && ran.stdout.contains("gamma"), "{ran:?}");
}

#[test]
fn without_a_terminal_or_a_node_it_says_what_to_do() {
    let site = Site::new();
    site.run(&["top"]).fails(Exit::Usage, "there is no terminal", "`longshore top --once`");
    let dumb = |terminal: &mut Terminal| {
        terminal.stdin_is_terminal = true;
        terminal.stdout_is_terminal = true;
        terminal.variables.insert("TERM".into(), "dumb".into());
    };
    site.run_with(&["top"], dumb, "").fails(Exit::Usage, "there is no terminal", "longshore status");
    assert_eq!(site.fleet.calls(), Vec::<String>::new());
    for args in [&["top", "--once"][..], &["top"]] {
        let host = ["--host", "/nowhere/x.sock"];
        let args: Vec<&str> = host.iter().chain(args).copied().collect();
        let ran = run_with(
            &args,
            &Recorder::default(),
            |terminal| (terminal.stdin_is_terminal, terminal.stdout_is_terminal) = (true, true),
            "",
        );
        ran.fails(Exit::Failed, "no longshore is running at unix:///nowhere/x.sock", "longshore run");
        assert!(!ran.stdout.contains('\u{1b}'), "the screen was not touched: {ran:?}");
    }
}
