//! Containers and runs on the command line.

use super::*;

#[test]
fn a_run_is_submitted_with_what_docker_run_takes() {
    let site = Site::new();
    let args = [
        "op",
        "run",
        "nginx:1.27",
        "--name",
        "web",
        "-p",
        "8080:80",
        "--replicas",
        "3",
        "--restart-on-failure",
        "--memory",
        "64MiB",
        "--cpus",
        "0.5",
        "--detach",
        "sh",
        "-c",
        "exit 1",
    ];
    assert_eq!(site.run(&args).ok(), "op1\n");
    assert_eq!(site.fleet.calls(), ["submit_operation run,nginx:1.27 on"]);
    let bad = run_alone_fails(&["op", "run", "x", "--cpus", "0"]);
    assert!(bad.contains("not a number of processors"), "{bad}");
    let both = run_alone_fails(&["op", "run", "x", "--restart", "always", "--restart-on-failure"]);
    assert!(both.contains("cannot be used with"), "{both}");
}

/// What clap says of a command line that it does not take.
fn run_alone_fails(args: &[&str]) -> String {
    Cli::try_parse_from(std::iter::once("longshore").chain(args.iter().copied())).unwrap_err().to_string()
}

#[test]
fn variables_come_from_files_the_environment_and_flags() {
    let site = Site::new();
    let file = site.folder.path().join("env");
    std::fs::write(&file, "# comment\n\nA=1\n  B=2\nHOME\nNOT_THERE\n").unwrap();
    let file = file.to_str().unwrap();
    site.run(&["op", "run", "x", "--env-file", file, "-e", "A=3", "--detach"]).ok();
    let missing = site.run(&["op", "run", "x", "--env-file", "/no/such/file"]);
    missing.fails(Exit::Usage, "/no/such/file can not be read", "");
    std::fs::write(site.folder.path().join("env"), "A=1\n=2\n").unwrap();
    site.run(&["op", "run", "x", "--env-file", file]).fails(Exit::Usage, "line 2 is not a variable", "");
    site.run(&["op", "run", "x", "-e", "=2"]).fails(Exit::Usage, "--env was given is not a variable", "");
}

#[test]
fn runs_are_changed_and_containers_are_operated_on() {
    let site = Site::new();
    let stopped = site.run(&["op", "stop", "shop"]);
    assert!(stopped.ok().ends_with("run shop: stopped; its containers end\n"), "{stopped:?}");
    site.run(&["op", "stop", "shop", "other", "--detach"]).ok();
    let calls = site.fleet.calls();
    assert_eq!(calls[..2], ["list_runs", "change_run shop Stop"]);
    assert_eq!(calls[4..], ["submit_operation stop,other on"], "{calls:?}");
    site.run(&["op", "rm", "shop"]).fails(Exit::Failed, "shop is a run that the fleet keeps up", "--force");
    assert_eq!(site.run(&["op", "rm", "--force", "shop", "-q"]).ok(), "op-1-2-3\n");
    // What is named on a node is a container.
    site.run(&["op", "rm", "shop", "--on", "alpha", "--detach"]).ok();
    assert_eq!(site.fleet.calls().last().unwrap(), "submit_operation rm,shop on alpha");
}

#[test]
fn listings_name_the_nodes_that_are_missing() {
    let site = Site::new();
    for (args, shown) in [
        (["op", "ps"], "alpha ab12ab12ab12 web.1 nginx:1.27 running"),
        (["op", "images"], "nginx:1.27 cdcdcdcdcdcd 3.00 MiB alpha, beta"),
        (["op", "runs"], "shop nginx:1.27 shop.1 alpha down op-1-2-3 alpha is away"),
        (["op", "volumes"], "alpha data local"),
    ] {
        let ran = site.run(&args);
        let words: Vec<&str> = ran.ok().split_whitespace().collect();
        assert!(words.join(" ").contains(shown), "{ran:?}");
        let warned = ran.stderr.contains("note: gamma is not in this list: the node is dead");
        assert_eq!(warned, args[1] == "ps" || args[1] == "images", "{ran:?}");
        let old = ran.stderr.lines().find(|line| line.starts_with("note: beta is shown as last seen "));
        assert_eq!(old.is_some(), args[1] == "ps", "{ran:?}");
        assert!(
            old.is_none_or(|old| old.ends_with("d ago: no Docker engine at /run/docker.sock")),
            "{ran:?}"
        );
    }
    assert_eq!(site.run(&["op", "images", "-q"]).ok(), "cdcdcdcdcdcd\n");
}

#[test]
fn logs_of_several_containers_have_prefixes() {
    let site = Site::new();
    let ran = site.run(&["op", "logs", "web", "-n", "5"]);
    assert_eq!(ran.ok(), "web.1@alpha | one\nweb.1@alpha | two\nweb.1@alpha | last\n");
    assert_eq!(ran.stderr, "web.2@alpha | uh\n");
    let plain = site.run(&["op", "logs", "web", "--no-prefix"]);
    assert_eq!(plain.ok(), "one\ntwo\nlast");
    assert_eq!(site.fleet.calls()[0], "logs web false Some(5)");
}

#[test]
fn the_exit_code_of_exec_is_the_commands() {
    let site = Site::new();
    let ran = site.run(&["op", "exec", "web.1", "ls", "-l"]);
    assert_eq!((ran.exit, ran.exit.code()), (Exit::Command(3), 3));
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("out\n", "err\n"));
    site.run(&["op", "exec", "web.1", "--", "ls", "--", "-l"]);
    assert_eq!(site.fleet.calls(), ["exec web.1 ls -l", "exec web.1 ls -- -l"]);
}

#[test]
fn passwords_come_from_standard_input_and_are_never_shown() {
    let site = Site::new();
    let ran = site.run_with(&["login", "r.example", "-u", "ci", "--password-stdin"], |_| {}, "s3cret\n");
    assert!(ran.ok().contains("r.example: every node's engine is ci now"), "{ran:?}");
    assert!(!format!("{ran:?}").contains("s3cret"));
    assert_eq!(site.fleet.calls(), ["log_in r.example ci 6"]);
    let listed = site.run(&["login"]);
    assert!(listed.ok().contains("r.example") && listed.ok().contains("alpha"), "{listed:?}");
    assert_eq!(site.run(&["login", "-q"]).ok(), "r.example\n");
    site.run(&["logout", "r.example"]).ok();
    site.run(&["logout", "other"]).fails(Exit::Failed, "no credentials for other", "longshore login");
    // Nobody can be asked for a name.
    site.run(&["login", "r.example"]).fails(Exit::Usage, "nobody to ask for: Username", "flag");
    let flag = run_alone_fails(&["login", "r.example", "--password", "x"]);
    assert!(flag.contains("unexpected argument"), "{flag}");
}
