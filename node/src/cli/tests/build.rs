//! `longshore op build` against a scripted fleet: what is sent, when, and how often.

use std::fs;

use super::*;
use crate::api::fake::CONTEXT_MAX_BYTES;
use crate::api::types::{ApiError, ErrorCode};

fn folder(site: &Site, name: &str, bytes: usize) -> String {
    let path = site.folder.path().join(name);
    fs::create_dir_all(&path).unwrap();
    fs::write(path.join("Dockerfile"), "FROM scratch\nCOPY app /\n").unwrap();
    fs::write(path.join("app"), vec![7; bytes]).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_folder_is_sent_once_and_then_built() {
    let site = Site::new();
    let path = folder(&site, "app", 200_000);
    let args = ["op", "build", &path, "-t", "app:1", "-t", "app:2", "--detach", "--on", "beta"];
    let more = ["--build-arg", "A=1", "--build-arg", "FROM_HERE", "--target", "run", "--no-cache"];
    let args: Vec<&str> = args.into_iter().chain(more).collect();
    let here = |terminal: &mut Terminal| {
        terminal.variables = Variables::from([("FROM_HERE".to_owned(), "2".to_owned())]);
    };
    let ran = site.run_with(&args, here, "");
    assert_eq!(ran.ok(), "op1\n");
    assert!(ran.stderr.contains("sent the folder"), "{ran:?}");
    let calls = site.fleet.calls();
    let names: Vec<&str> = calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(names, ["list_contexts", "find_context", "take_context", "submit_operation"]);
    let submitted = "Dockerfile,app:1,app:2,A=1,FROM_HERE=2,Some(\"run\") true false on beta";
    assert!(calls[3].starts_with("submit_operation build,") && calls[3].ends_with(submitted), "{calls:?}");

    let ran = site.run(&["op", "build", &path, "-t", "app:1", "-q", "--detach"]);
    assert_eq!(ran.ok(), "op2\n");
    assert_eq!(ran.stderr, "");
    assert_eq!(site.fleet.calls().iter().filter(|call| call.starts_with("take_context")).count(), 1);
}

#[test]
fn what_is_too_large_is_not_sent_and_what_breaks_off_is_not_submitted() {
    let site = Site::new();
    let large = folder(&site, "large", CONTEXT_MAX_BYTES as usize + 1);
    let ran = site.run(&["op", "build", &large, "-t", "app:1"]);
    ran.fails(Exit::Usage, "app (1.00 MiB)", ".dockerignore");
    // Its files would fit, its headers do not.
    let close = folder(&site, "close", CONTEXT_MAX_BYTES as usize - 100);
    site.run(&["op", "build", &close, "-t", "app:1"]).fails(Exit::Usage, "takes 1.00 MiB", ".dockerignore");
    let small = folder(&site, "small", 10);
    site.fleet.fail("take_context", [ApiError::new(ErrorCode::Busy, "as many as can be")]);
    site.run(&["op", "build", &small, "-t", "app:1"]).fails(Exit::Failed, "as many as can be", "try again");
    assert!(!site.fleet.calls().iter().any(|call| call.starts_with("submit_operation")));
}
