//! Keys from the command line, and the bench against a scripted fleet.

use super::*;
use crate::api::types::{ApiError, ErrorCode};

#[test]
fn keys_are_set_read_and_deleted() {
    let site = Site::new();
    assert_eq!(site.run(&["cache", "set", "cfg", "greeting", "hello"]).ok(), "version 1\n");
    // Nothing is added to the value.
    assert_eq!(site.run(&["cache", "get", "cfg", "greeting"]).ok(), "hello");
    let set = site.run_with(&["cache", "set", "cfg", "blob", "-", "--ttl", "90s"], |_| {}, "a\nb\n");
    assert_eq!(set.ok(), "version 2, expires in 1m 30s\n");
    assert_eq!(site.run(&["cache", "get", "cfg", "blob"]).ok(), "a\nb\n");
    let kept = site.run(&["cache", "set", "cfg", "blob", "x", "--keep-ttl", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(kept.ok()).unwrap();
    assert_eq!(value, serde_json::json!({"version": 3, "replaced": 2, "ttl_ms": 90_000}));
    assert_eq!(site.run(&["cache", "del", "cfg", "blob"]).ok(), "deleted\n");
    assert_eq!(site.run(&["cache", "delete", "cfg", "blob"]).ok(), "there was no such key\n");
    let absent = site.run(&["cache", "get", "cfg", "blob"]);
    absent.fails(Exit::Failed, "there is no key \"blob\" in namespace \"cfg\"", "longshore cache scan cfg");
    assert_eq!(absent.stdout, "");
}

#[test]
fn conditions_that_do_not_hold_say_what_there_is() {
    let site = Site::new();
    site.run(&["cache", "set", "cfg", "k", "v", "--if-absent"]).ok();
    for condition in [&["--if-absent"][..], &["--if-version", "7"]] {
        let args: Vec<&str> = ["cache", "set", "cfg", "k", "v"].iter().chain(condition).copied().collect();
        site.run(&args).fails(Exit::Failed, "does not hold", "--if-version 1 changes it as it is now");
    }
    site.run(&["cache", "set", "cfg", "k", "v2", "--if-version", "1"]).ok();
    site.run(&["cache", "del", "cfg", "k", "--if-version", "1"]).fails(
        Exit::Failed,
        "does not hold",
        "version 2",
    );
    site.run(&["cache", "del", "cfg", "k", "--if-present"]).ok();
    site.run(&["cache", "set", "cfg", "k", "v", "--if-present"]).fails(Exit::Failed, "does not hold", "");
    let calls = site.fleet.calls();
    assert_eq!(calls[0], "set_key cfg k Forever absent");
}

#[test]
fn mistakes_are_told_before_anything_is_sent() {
    let site = Site::new();
    let long = "k".repeat(1025);
    for (namespace, key, error) in [
        ("A", "k", "is not the name of a namespace"),
        ("a", "", "1 to 1024 bytes"),
        ("a", &long, "this one 1025"),
    ] {
        for args in [&["cache", "get", namespace, key][..], &["cache", "del", namespace, key]] {
            site.run(args).fails(Exit::Usage, error, "");
        }
    }
    assert_eq!(site.fleet.calls(), Vec::<String>::new());
    let large: &'static str = Box::leak("x".repeat(1_044_481).into_boxed_str());
    site.run_with(&["cache", "set", "a", "k", "-"], |_| {}, large).fails(
        Exit::Usage,
        "more than the limit of 1044480 bytes",
        "",
    );
    let failure = ApiError::new(ErrorCode::NoQuorum, "group g7 has no leader; those on web-2 are missing");
    site.fleet.fail("get_key", [failure]);
    site.run(&["cache", "get", "a", "k"]).fails(Exit::NoQuorum, "g7", "");
    let twice = ["--host", "/a.sock", "--host", "/b.sock", "cache", "get", "a", "k"];
    run_alone(&twice).fails(Exit::Usage, "give --host once", "");
}

#[test]
fn keys_are_listed_over_pages() {
    let site = Site::new();
    for key in ["a1", "b1", "b2", "b3"] {
        site.run(&["cache", "set", "cfg", key, &format!("value of {key}"), "--ttl", "1h"]).ok();
    }
    let expected = "\
KEY   VERSION   EXPIRES IN
b1    2         1h
b2    3         1h
";
    let scan = site.run(&["cache", "scan", "cfg", "--prefix", "b", "--limit", "2"]);
    assert_eq!(scan.ok(), expected);
    assert!(scan.stderr.contains("there are more keys"), "{scan:?}");
    let values = site.run(&["cache", "scan", "cfg", "--after", "b2", "--values"]);
    assert_eq!(values.ok(), "KEY   VERSION   EXPIRES IN   VALUE\nb3    4         1h           value of b3\n");
    assert_eq!(values.stderr, "");
    assert_eq!(site.run(&["cache", "scan", "cfg", "-q"]).ok(), "a1\nb1\nb2\nb3\n");
    let json = site.run(&["cache", "scan", "cfg", "--limit", "1", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!((&value["entries"][0]["key"]["text"], &value["next"]["text"]), (&"a1".into(), &"a1".into()));
}

#[test]
fn bytes_that_are_no_text_go_in_and_out() {
    use std::ffi::OsString;
    use std::os::unix::ffi::OsStringExt;
    let site = Site::new();
    let (mut terminal, stdout, stderr) = terminal("");
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let host = site.socket.clone().into_os_string();
    let words = ["longshore", "--host"].map(OsString::from).into_iter().chain([host]);
    let set =
        ["cache", "set", "cfg"].map(OsString::from).into_iter().chain([bytes(b"k\xff/"), bytes(b"\xfe\x80")]);
    let cli = Cli::try_parse_from(words.clone().chain(set)).unwrap();
    assert_eq!(run(cli, &mut terminal, &Recorder::default()), Exit::Done, "{}", stderr.text());
    let get = ["cache", "get", "cfg"].map(OsString::from).into_iter().chain([bytes(b"k\xff/")]);
    let cli = Cli::try_parse_from(words.chain(get)).unwrap();
    assert_eq!(run(cli, &mut terminal, &Recorder::default()), Exit::Done, "{}", stderr.text());
    assert_eq!(*stdout.0.lock(), b"version 1\n\xfe\x80");
    let scan = site.run(&["cache", "scan", "cfg", "--values"]);
    assert!(scan.ok().contains("base64:a/8v   1         -            base64:/oA="), "{scan:?}");
}

const BENCH: &[&str] = &["cache", "bench", "--duration", "150ms", "--warm-up", "0s", "--clients", "3"];

#[test]
fn a_bench_counts_what_it_did() {
    let site = Site::new();
    let args = [BENCH, &["--keys", "20", "--fill", "--format", "json", "--value-size", "16"]].concat();
    let ran = site.run(&args);
    let report: serde_json::Value = serde_json::from_str(ran.ok()).unwrap();
    let count = |path: &str| report.pointer(path).unwrap().as_u64().unwrap();
    assert!(count("/reads/count") > 0 && count("/writes/count") > 0, "{report}");
    assert_eq!(count("/operations"), count("/reads/count") + count("/writes/count"));
    assert_eq!(count("/reads_absent"), 0, "every key was filled");
    let by_group: u64 =
        report["writes_by_group"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(by_group, count("/writes/count"));
    assert!(count("/writes/p50_us") <= count("/writes/p99_us"), "{report}");
    assert_eq!(report["errors"], serde_json::json!({}));
    let calls = site.fleet.calls();
    assert_eq!(calls[0], "ring");
    let sets = calls.iter().filter(|call| call.starts_with("set_key bench key-000000")).count() as u64;
    assert!(sets >= 20 + by_group, "{sets}");
}

#[test]
fn a_bench_over_several_nodes_counts_errors_and_goes_on() {
    let (site, other) = (Site::new(), Site::new());
    let busy = || ApiError::new(ErrorCode::Busy, "busy");
    let lost = ApiError::new(ErrorCode::NoQuorum, "no leader");
    other.fleet.fail("set_key", [busy(), busy(), lost]);
    let hosts = format!("{},{}", site.socket.display(), other.socket.display());
    let args = [&["--host", &hosts], BENCH, &["--read-share", "0", "--distribution", "hot"]].concat();
    let ran = run_alone(&args);
    assert!(ran.ok().contains("errors:      busy 2, no_quorum 1\n"), "{ran:?}");
    assert!(ran.stdout.contains("writes in 1 group: "), "{ran:?}");
    for fleet in [&site.fleet, &other.fleet] {
        assert!(fleet.calls().contains(&"set_key bench key-00000000 Forever always".to_owned()));
    }
}

#[test]
fn a_bench_that_can_not_succeed_ends_at_once() {
    let site = Site::new();
    site.fleet.fail("set_key", [ApiError::new(ErrorCode::Denied, "changes are not taken over TCP")]);
    let args =
        ["cache", "bench", "--read-share", "0", "--clients", "1", "--duration", "1h", "--warm-up", "0s"];
    site.run(&args).fails(Exit::Denied, "changes are not taken over TCP", "");
    site.run(&["cache", "bench", "--namespace", "A"]).fails(
        Exit::Usage,
        "is not the name of a namespace",
        "",
    );
}
