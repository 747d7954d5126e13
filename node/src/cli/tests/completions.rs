//! What is offered on TAB, and the scripts and pages that are made from the commands.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use clap_complete::engine;

use super::*;
use crate::api::types::OperationState;
use crate::cli::completions::{ANSWER_LIMIT, Asker, NodeAsker, command, global_args, script_of};

/// What is offered for the last of these words.
fn offered(site: &Site, words: &[&str]) -> Vec<String> {
    // A busy machine may take longer than a person at a prompt.
    offered_within(Duration::from_secs(60), site, words)
}

fn offered_within(limit: Duration, site: &Site, words: &[&str]) -> Vec<String> {
    let host = site.socket.to_str().unwrap();
    let words = ["longshore", "--host", host].into_iter().chain(words.iter().copied());
    offered_at(limit, words.map(OsString::from).collect())
}

fn offered_at(limit: Duration, words: Vec<OsString>) -> Vec<String> {
    let asker: Arc<dyn Asker> = Arc::new(NodeAsker { global: global_args(&words), limit });
    let last = words.len() - 1;
    let candidates = engine::complete(&mut command(asker), words, last, None).unwrap();
    candidates.iter().map(|candidate| candidate.get_value().to_str().unwrap().to_owned()).collect()
}

#[test]
fn names_that_are_there_now() {
    let site = Site::new();
    for (id, state) in [
        ("op1", OperationState::Succeeded),
        ("op2", OperationState::Partial),
        ("op3", OperationState::Running),
    ] {
        site.fleet.publish(&crate::api::fake::operation(id, state));
    }
    site.run(&["token", "create"]).ok();
    let names = |words: &[&str]| {
        let offered = offered(&site, words);
        // Flags are offered too, where nothing is typed yet.
        offered.into_iter().filter(|name| !name.starts_with('-')).collect::<Vec<_>>()
    };
    assert_eq!(names(&["node", "inspect", ""]), ["alpha", "beta", "gamma"]);
    assert_eq!(names(&["node", "rm", "be"]), ["beta"]);
    assert_eq!(names(&["op", "pull", "x", "--on", "g"]), ["gamma"]);
    assert_eq!(names(&["op", "pull", "x", "--on=g"]), Vec::<String>::new());
    assert_eq!(offered(&site, &["op", "pull", "x", "--on=g"]), ["--on=gamma"]);
    assert_eq!(names(&["op", "pull", "x", "--zone", ""]), ["east"]);
    assert_eq!(names(&["op", "pull", "x", "--prefer-zone", ""]), ["east"]);
    assert_eq!(names(&["op", "run", "--capability", "os"]), ["os:linux"]);
    assert_eq!(names(&["ring", "plan", "--remove", ""]), ["alpha", "beta", "gamma"]);
    assert_eq!(names(&["group", "inspect", "g"]), ["g1", "g2", "g3", "g4"]);
    assert_eq!(names(&["group", "transfer", "g3", "a"]), ["alpha"]);
    assert_eq!(names(&["op", "inspect", ""]), ["op3", "op2", "op1"]);
    assert_eq!(names(&["op", "cancel", ""]), ["op3"]);
    assert_eq!(names(&["op", "wait", "op9", ""]), ["op3"]);
    assert_eq!(names(&["op", "retry", ""]), ["op2"]);
    assert_eq!(names(&["op", "push", ""]), ["nginx:1.27"], "each once, as engines and people call it");
    assert_eq!(names(&["op", "tag", "nginx:1"]), ["nginx:1.27"]);
    assert_eq!(names(&["op", "logs", ""]), ["shop", "web.1", "web.2"]);
    assert_eq!(names(&["op", "stop", "web.1", "web.2"]), ["web.2"]);
    assert_eq!(names(&["logout", ""]), ["r.example"]);
    assert_eq!(names(&["token", "revoke", ""]), ["t1"]);
    assert_eq!(names(&["api", "/v1/ring/p"]), ["/v1/ring/pause", "/v1/ring/plan"]);
    assert_eq!(names(&["nod"]), ["node"]);
    // Hosts of a node that is yet to be are no nodes of the fleet.
    let before = site.fleet.calls().len();
    assert_eq!(names(&["join", "a"]), Vec::<String>::new());
    assert_eq!(site.fleet.calls().len(), before);
}

#[test]
fn a_node_that_does_not_answer_has_no_names() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.sock");
    let words = ["longshore", "--host", nowhere.to_str().unwrap(), "op", "inspect", "op"];
    assert_eq!(offered_at(ANSWER_LIMIT, words.map(OsString::from).to_vec()), Vec::<String>::new());
    let words = ["longshore", "--host", "https://not-served:1", "op", "inspect", "op"];
    assert_eq!(offered_at(ANSWER_LIMIT, words.map(OsString::from).to_vec()), Vec::<String>::new());
    // One that takes the question and never answers is given up.
    let site = Site::serving(FakeFleet::gated());
    assert_eq!(offered_within(ANSWER_LIMIT, &site, &["op", "inspect", "op"]), Vec::<String>::new());
    assert_eq!(site.fleet.calls(), ["list_operations Some(100) false"]);
}

#[test]
fn the_words_say_which_node_is_asked() {
    let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
    let global = global_args(&words("longshore --host=a.sock node --data-dir /d --config c.toml inspect "));
    assert_eq!((global.host, global.data_dir.as_deref()), (vec!["a.sock".to_owned()], Some("/d")));
    assert_eq!(global.config, Some("c.toml".into()));
    assert!(global_args(&words("longshore node inspect --host")).host.is_empty());
}

#[test]
fn scripts_call_this_program() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let script = script_of(shell, "longshore");
        assert_eq!(script.contains("COMP_WORDBREAKS"), shell == "bash", "{script}");
        assert!(script.contains("LONGSHORE_COMPLETE") && !script.contains("/here"), "{shell}: {script}");
        // Not found on the PATH: from anywhere.
        assert!(script_of(shell, "target/longshore").contains("/here/target/longshore"), "{shell}");
        let printed = run_alone(&["completions", shell]);
        assert!(printed.ok().contains("LONGSHORE_COMPLETE"), "{printed:?}");
    }
    let error = Cli::try_parse_from(["longshore", "completions", "bsh"]).unwrap_err().to_string();
    assert!(error.contains("similar value exists: 'bash'"), "{error}");
}

#[test]
fn pages_of_all_commands() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("share/man1");
    let written = run_alone(&["man", dir.to_str().unwrap()]);
    let names: std::collections::BTreeSet<String> = std::fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(written.ok(), format!("{} pages written into {}\n", names.len(), dir.display()));
    for name in ["longshore.1", "longshore-op.1", "longshore-op-pull.1", "longshore-top.1", "longshore-sim.1"]
    {
        assert!(names.contains(name), "no {name} in {names:?}");
    }
    assert!(!names.iter().any(|name| name.contains("help")), "{names:?}");
    let page = std::fs::read_to_string(dir.join("longshore-op-pull.1")).unwrap();
    for line in [
        ".TH longshore-op-pull 1",
        ".SH EXAMPLES",
        "\\fBlongshore op pull nginx:1.27 \\-\\-label disk=ssd \\-\\-zone north\\fR",
        "longshore op pull",
    ] {
        assert!(page.contains(line), "no {line:?} in\n{page}");
    }
    assert_eq!(page.matches(".ds Aq '").count(), 1, "{page}");
    let top = run_alone(&["man"]);
    assert_eq!(top.ok(), std::fs::read_to_string(dir.join("longshore.1")).unwrap());
    assert!(top.stdout.contains(".SH \"EXIT STATUS\""), "{}", top.stdout);
    std::fs::write(folder.path().join("file"), "").unwrap();
    let file = folder.path().join("file");
    run_alone(&["man", file.to_str().unwrap()]).fails(Exit::Failed, "cannot write pages into", "a folder");
}
