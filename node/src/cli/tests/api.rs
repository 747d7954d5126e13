//! `longshore api`: requests as they are written, replies as they come, errors with their exit codes and hints.

use super::*;
use crate::api::types::{ApiError, ErrorCode, OperationState};

#[test]
fn replies_are_printed_as_they_are() {
    let site = Site::new();
    let nodes = site.run(&["api", "/v1/nodes"]);
    let value: serde_json::Value = serde_json::from_str(nodes.ok()).unwrap();
    assert_eq!(value["nodes"][0]["name"], "alpha");
    assert_eq!(nodes.stdout.lines().count(), 1);
    // A leading slash may be missing, and the method may stand first.
    for args in [&["api", "v1/nodes"][..], &["api", "get", "/v1/nodes"], &["api", "-X", "GET", "v1/nodes"]] {
        assert_eq!(site.run(args).ok(), nodes.stdout, "{args:?}");
    }
    let read = site.run_with(&["api", "/v1/nodes"], |terminal| terminal.stdout_is_terminal = true, "");
    assert!(read.ok().starts_with("{\n  \"nodes\": [\n"), "{read:?}");
    let with_head = site.run(&["api", "-i", "/v1/nodes/beta"]);
    let (head, body) = with_head.ok().split_once("\n\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 200 OK\n") && head.contains("\ncontent-type: application/json\n"),
        "{head}"
    );
    assert!(head.contains("\nx-request-id: ") && body.contains("\"beta\""), "{head}\n{body}");
}

#[test]
fn fields_make_a_body_or_a_query() {
    let site = Site::new();
    site.run(&["api", "/v1/tokens", "-F", "ttl_ms=60000", "-F", "uses=3"]).ok();
    site.run(&["api", "PATCH", "/v1/nodes/beta", "-F", "label_add={\"disk\": \"ssd\"}"]).ok();
    site.run(&["api", "-X", "GET", "/v1/operations", "-F", "limit=7", "-F", "active=true"]).ok();
    site.run(&["api", "-X", "GET", "/v1/operations?active=true", "-f", "limit=8"]).ok();
    assert_eq!(
        site.fleet.calls(),
        [
            "create_token Some(60000) Some(3)",
            "update_node beta",
            "list_operations Some(7) true",
            "list_operations Some(8) true"
        ]
    );
    assert!(site.run(&["node", "inspect", "beta"]).ok().contains("disk=ssd"));
    let request = r#"{"action": {"kind": "pull", "images": ["a:1"]}, "strategy": "local"}"#;
    let submit = ["api", "/v1/operations", "-H", "Idempotency-Key: k", "--input", "-"];
    let first = site.run_with(&submit, |_| {}, request);
    let again = site.run_with(&submit, |_| {}, request);
    assert!(
        first.ok().contains("\"id\":\"op1\"") && again.ok() == first.stdout,
        "the header was not sent: {again:?}"
    );
    let file = site.folder.path().join("value");
    std::fs::write(&file, b"\x00\xff raw").unwrap();
    let put = ["api", "-X", "PUT", "/v1/keys/images/logo", "--input", file.to_str().unwrap()];
    site.run(&put).ok();
    assert!(site.run(&["api", "/v1/keys/images?values=true"]).ok().contains("base64"), "bytes were changed");
}

#[test]
fn watches_are_printed_to_their_end() {
    let site = Site::new();
    site.fleet.publish(&crate::api::fake::operation("op1", OperationState::Succeeded));
    let watched = site.run(&["api", "/v1/operations/op1/watch"]);
    assert!(watched.ok().ends_with("}\n") && watched.stdout.contains("\"succeeded\""), "{watched:?}");

    // One that goes on: its first line is there before it ends, and its last one is an error.
    site.fleet.publish(&crate::api::fake::operation("op2", OperationState::Running));
    let fleet = site.fleet.clone();
    let stdout = Buffer::default();
    let seen = stdout.clone();
    let end = site.runtime.spawn_blocking(move || {
        while !seen.text().contains("\"running\"") {
            std::thread::yield_now();
        }
        fleet.end_watches("op2", Some(ApiError::new(ErrorCode::NoQuorum, "the quorum is lost")));
    });
    let ran = site.run_with(
        &["api", "/v1/operations/op2/watch"],
        |terminal| terminal.stdout = Box::new(stdout.clone()),
        "",
    );
    ran.fails(Exit::NoQuorum, "the quorum is lost", "longshore node ls");
    assert_eq!(stdout.text().lines().count(), 2);
    site.runtime.block_on(end).unwrap();
}

#[test]
fn errors_end_as_those_of_other_commands() {
    let site = Site::new();
    for (code, exit) in [
        (ErrorCode::NotFound, Exit::Failed),
        (ErrorCode::Denied, Exit::Denied),
        (ErrorCode::NoQuorum, Exit::NoQuorum),
        (ErrorCode::Busy, Exit::Failed),
        (ErrorCode::TooLarge, Exit::Usage),
    ] {
        site.fleet.fail("status", [ApiError::new(code, "told to fail")]);
        let ran = site.run(&["api", "/v1/status"]);
        ran.fails(exit, "error: told to fail", "");
        assert!(ran.stdout.contains("\"message\":\"told to fail\""), "a script gets the body: {ran:?}");
    }
    // What is missing may be a node, and then the endpoint is right.
    let ran = site.run(&["api", "--verbose", "/v1/nodes/nobody"]);
    ran.fails(Exit::Failed, "there is no node nobody", "");
    assert!(!ran.stderr.contains("did you mean") && ran.stderr.contains("request: "), "{ran:?}");
    // 503, and not one of our errors.
    site.run(&["api", "/readyz"]).fails(Exit::Failed, "the node answered 503 Service Unavailable", "");
    site.run(&["api", "POST", "/v1/tokens"]).fails(Exit::Usage, "the body must be JSON", "content-type");
}

#[test]
fn mistyped_endpoints_and_methods_have_hints() {
    let site = Site::new();
    for (path, hint) in [
        ("/v1/nodse", "did you mean /v1/nodes?"),
        ("nodes", "did you mean /v1/nodes?"),
        ("/v1/node/beta", "did you mean /v1/nodes/beta?"),
        ("/v1/operation/op1/wach", "did you mean /v1/operations/op1/watch?"),
        ("/v1/statsu?x=1", "did you mean /v1/status?"),
        ("/nothing/of/the/kind/at/all", "`longshore api /v1/openapi.json` lists the endpoints"),
    ] {
        site.run(&["api", path]).fails(Exit::Failed, "there is no /", hint);
    }
    site.run(&["api", "/v1/leave"]).fails(
        Exit::Usage,
        "GET is not a method of /v1/leave",
        "it takes POST: longshore api -X POST /v1/leave",
    );
    assert_eq!(site.fleet.calls(), Vec::<String>::new());
}

#[test]
fn requests_that_cannot_be_are_not_sent() {
    let site = Site::new();
    for (args, error, hint) in [
        (&["api", "http://127.0.0.1:7400/v1/nodes"][..], "is not the path of an endpoint", "--host"),
        (&["api", "/v1/nodes/a b"], "is not the path of an endpoint", "%20"),
        (&["api", "/v1/nodes#x"], "is not the path of an endpoint", "%23"),
        (&["api", "-X", "G ET", "/v1/nodes"], "is not a method", "PATCH"),
        (&["api", "/v1/tokens", "-F", "uses=1", "-F", "uses=2"], "the field \"uses\" is given twice", "-F"),
        (&["api", "/v1/tokens", "--input", "/nowhere/x"], "cannot read /nowhere/x", ""),
    ] {
        site.run(args).fails(Exit::Usage, error, hint);
    }
    for (args, expected) in [
        (&["api", "/v1/x", "-F", "a=text"][..], "for a string write -f a=..."),
        (&["api", "/v1/x", "-f", "novalue"], "write KEY=VALUE"),
        (&["api", "/v1/x", "-H", "novalue"], "write NAME: VALUE"),
        (&["api", "/v1/x", "-H", "content-length: 5"], "cannot be chosen"),
        (&["api", "/v1/x", "-f", "a=b", "--input", "-"], "cannot be used with"),
        (&["api", "-X", "GET", "POST", "/v1/x"], "cannot be used with"),
    ] {
        let error = Cli::try_parse_from(std::iter::once(&"longshore").chain(args)).unwrap_err();
        assert!(error.exit_code() == 2 && error.to_string().contains(expected), "{args:?}: {error}");
    }
    assert_eq!(site.fleet.calls(), Vec::<String>::new());
}
