//! Arguments, help, exit codes, configuration commands, and how server commands are handed on.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use super::*;
use crate::api::types::{ApiError, ErrorCode};
use crate::cli::Announcer;
use crate::config::keys::KEYS;

#[test]
fn the_arguments_are_consistent() {
    Cli::command().debug_assert();
}

/// Every command that does something, by its words.
fn leaves(command: &clap::Command, path: &str, into: &mut Vec<(String, clap::Command)>) {
    let mut inner = command.get_subcommands().filter(|sub| sub.get_name() != "help").peekable();
    if inner.peek().is_none() {
        into.push((path.trim().to_owned(), command.clone()));
    }
    for sub in inner {
        leaves(sub, &format!("{path} {}", sub.get_name()), into);
    }
}

#[test]
fn every_command_of_the_contract_is_there_and_explained() {
    let mut found = Vec::new();
    leaves(&Cli::command(), "", &mut found);
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(
        names,
        [
            "init",
            "join",
            "run",
            "status",
            "top",
            "node ls",
            "node inspect",
            "node update",
            "node drain",
            "node rm",
            "token create",
            "token ls",
            "token revoke",
            "op pull",
            "op push",
            "op tag",
            "op build",
            "op run",
            "op stop",
            "op start",
            "op rm",
            "op exec",
            "op logs",
            "op ps",
            "op images",
            "op volumes",
            "op runs",
            "op ls",
            "op inspect",
            "op cancel",
            "op retry",
            "op wait",
            "op watch",
            "ring show",
            "ring plan",
            "ring watch",
            "ring pause",
            "ring resume",
            "ring rebalance",
            "group ls",
            "group inspect",
            "group transfer",
            "cache get",
            "cache set",
            "cache del",
            "cache scan",
            "cache bench",
            "login",
            "logout",
            "leave",
            "launch",
            "config show",
            "config check",
            "config default",
            "sim",
            "api",
            "completions",
            "man",
            "version",
        ]
    );
    for (name, command) in &mut found {
        assert!(command.get_about().is_some(), "{name} says nothing of itself");
        let help = command.render_long_help().to_string();
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{name} {} is not explained\n{help}", argument.get_id());
        }
    }
}

#[test]
fn flags_and_variables_in_the_help_are_those_of_the_settings() {
    let help = |name: &str| {
        let mut command = Cli::command();
        command.build();
        let help = command.find_subcommand_mut(name).unwrap().render_long_help().to_string();
        // Lines are wrapped anywhere.
        help.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let (init, run, join) = (help("init"), help("run"), help("join"));
    for key in KEYS.iter().filter(|key| key.flag.is_some()) {
        let text = match key.name.split('.').next() {
            Some("join") => &join,
            // The shape of the ring is fixed when the fleet is made.
            Some("ring") => &init,
            _ => &run,
        };
        let flag = key.flag.unwrap();
        assert!(text.contains(flag), "{flag} is not in the help\n{text}");
        assert!(text.contains(&format!("[env: {}]", key.env)), "{} is not in the help\n{text}", key.env);
    }
}

#[test]
fn mistakes_are_met_with_suggestions() {
    let cases: &[(&[&str], &str)] = &[
        (&["stauts"], "similar subcommand exists: 'status'"),
        (&["nod", "ls"], "similar subcommand exists: 'node'"),
        (&["op", "pul", "x"], "'pull'"),
        (&["op", "tag", "x"], "<NAME>"),
        (&["op", "wait"], "<ID>"),
        (&["op", "ls", "--filter", "pull"], "write kind=KIND"),
        (&["op", "ls", "--filter", "state=done"], "there is no state"),
        (&["op", "pull", "x", "--on", "a", "--zone", "b"], "cannot be used with"),
        (&["op", "pull", "x", "--replicas", "0"], "0 is not in 1.."),
        (&["init", "--nmae", "x"], "similar argument exists: '--name'"),
        (&["node", "ls", "--format", "jsn"], "similar value exists: 'json'"),
        (&["op", "pull"], "<IMAGE>"),
        (&["node", "update", "x"], "--label-add"),
        (&["node", "update", "x", "--label-add", "novalue"], "write key=value"),
        (&["token", "create", "--ttl", "soon"], "is not a duration"),
        (&["op", "ls", "--limit", "1001"], "1001 is not in 1..=1000"),
        (&["ring", "plan"], "--add"),
        (&["ring", "plan", "--add", "n4"], "is not a name for a node"),
        (&["ring", "plan", "--add", "web:heavy"], "is not a weight"),
        (&["ring", "shwo"], "similar subcommand exists: 'show'"),
        (&["group", "transfer", "g1"], "<NODE>"),
        (&["cache", "set", "a", "k"], "<VALUE>"),
        (&["cache", "set", "a", "k", "v", "--ttl", "soon"], "is not a duration"),
        (&["cache", "set", "a", "k", "v", "--ttl", "1s", "--keep-ttl"], "cannot be used with"),
        (&["cache", "set", "a", "k", "v", "--if-absent", "--if-version", "1"], "cannot be used with"),
        (&["cache", "scan", "a", "--limit", "0"], "0 is not in 1..=1000000"),
        (&["cache", "bench", "--clients", "0"], "0 is not in 1..=4096"),
        (&["cache", "bench", "--read-share", "2"], "write a number from 0 to 1"),
        (&["cache", "bench", "--value-size", "2MiB"], "a value has at most 1044480 bytes"),
        (&["cache", "bench", "--duration", "0s"], "measure for more than 0s"),
        (&["launch", "--local", "0"], "0 is not in 1..=99"),
        (&["join", "--token", "a", "--token-file", "b", "c"], "cannot be used with"),
    ];
    for (args, expected) in cases {
        let error = Cli::try_parse_from(std::iter::once(&"longshore").chain(*args)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
        assert!(error.to_string().contains(expected), "{args:?}: {error}");
    }
    let error = Cli::try_parse_from(["longshore", "--help"]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::DisplayHelp, 0));
    assert!(error.to_string().contains("Examples:") && error.to_string().contains("Exit codes:"));
}

#[test]
fn secrets_in_arguments_are_not_in_debug_output() {
    let cli = Cli::try_parse_from(["longshore", "join", "--token", "LSJ1-secret", "one"]).unwrap();
    assert!(!format!("{cli:?}").contains("LSJ1-secret"));
}

#[test]
fn server_commands_get_a_configuration() {
    let server = Recorder::default();
    let run = |args: &[&str], stdin| {
        run_with(
            args,
            &server,
            |terminal| {
                terminal.variables.insert("LONGSHORE_NAME".into(), "from-env".into());
                terminal.variables.insert("LONGSHORE_DATA_DIR".into(), "/data".into());
            },
            stdin,
        )
    };
    run(&["init", "--listen", "127.0.0.3", "--name", "a"], "").ok();
    run(&["join", "--listen", "127.0.0.3", "--token-file", "-", "one", "two:1"], "LSJ1-x\n").ok();
    run(&["--data-dir", "/other", "run", "--listen", "127.0.0.3"], "").fails(
        Exit::Denied,
        "told to fail",
        "do not",
    );
    run(&["run", "--listen", "127.0.0.3"], "").fails(Exit::Denied, "told to fail", "do not");
    let expected =
        ["init a 127.0.0.3:7400", "join from-env LSJ1-x one:7400 two:1", "run /other", "run /data"];
    assert_eq!(*server.0.borrow(), expected);
    for (args, error) in [
        (&["init", "--listen", "x"][..], "--listen: \"x\" is not an address"),
        (&["init", "--name", "no spaces"], "--name: \"no spaces\" is not a name"),
        (&["init", "--log-format", "xml"], "--log-format: \"xml\" is not a log format"),
        (&["init", "--log-level", "loud"], "--log-level: \"loud\" is not a log level"),
        (&["init", "--api", "0.0.0.0:80"], "loopback"),
        (&["join", "--token", "LSJ1-x"], "no node to ask"),
        (&["join", "one"], "no token"),
        (&["init", "--config", "/nowhere/x.toml"], "cannot read /nowhere/x.toml"),
    ] {
        run(args, "").fails(Exit::Usage, error, "");
    }
    assert_eq!(server.0.borrow().len(), expected.len());
}

#[test]
fn announcements() {
    let mut out = Vec::new();
    let mut announcer = Announcer::new(&mut out);
    let address = "192.0.2.1:7400".parse().unwrap();
    announcer.fleet("f00d").unwrap();
    announcer.node("n1", "web-1", address).unwrap();
    announcer.invitation("LSJ1-x", address).unwrap();
    announcer.ready().unwrap();
    let expected = "\
fleet f00d
node n1 (web-1) listening on 192.0.2.1:7400
To add a host, run on it:
    longshore join --token LSJ1-x 192.0.2.1:7400
ready
";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn configuration_commands() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("longshore.toml");
    std::fs::write(&file, "name = \"from-file\"\nzone = \"z1\"\n").unwrap();
    let path = file.to_str().unwrap();
    run_alone(&["config", "check", path]).ok();
    let show = run_with(
        &["config", "show", "--config", path, "--label", "a=1", "--listen", "127.0.0.1"],
        &Recorder::default(),
        |terminal| {
            terminal.variables.insert("LONGSHORE_ZONE".into(), "from-env".into());
            terminal.variables.insert("LONGSHORE_JOIN_TOKEN".into(), "LSJ1-x".into());
            terminal.variables.insert("LONGSHORE_ZON".into(), "x".into());
        },
        "",
    );
    let text = show.ok();
    let line = |key: &str| {
        let line = text.lines().find(|line| line.split_whitespace().next() == Some(key));
        line.unwrap_or_else(|| panic!("no {key} in\n{text}")).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(text.starts_with("KEY"), "{text}");
    assert_eq!(line("name"), format!("name from-file {path}:1"));
    assert_eq!(line("zone"), "zone from-env LONGSHORE_ZONE");
    assert_eq!(line("labels"), "labels a=1 --label");
    assert_eq!(line("api"), "api 127.0.0.1:7400 default");
    assert_eq!(line("advertise"), "advertise 127.0.0.1:7400 default");
    assert_eq!(line("join.token"), "join.token (secret) LONGSHORE_JOIN_TOKEN");
    assert_eq!(line("join.peers"), "join.peers - default");
    assert_eq!(
        show.stderr,
        "warning: the variable LONGSHORE_ZON means nothing; did you mean LONGSHORE_ZONE?\n"
    );
    let json = run_alone(&["config", "show", "--format", "json", "--listen", "127.0.0.1"]);
    let rows: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), KEYS.len());

    std::fs::write(&file, "lissten = \"127.0.0.1\"\n").unwrap();
    run_alone(&["config", "check", path]).fails(Exit::Usage, "did you mean `listen`?", "");
    run_alone(&["status", "--config", path]).fails(Exit::Usage, "did you mean `listen`?", "");

    let default = run_alone(&["config", "default"]);
    std::fs::write(&file, default.ok()).unwrap();
    run_alone(&["config", "check", path]).ok();
}

#[test]
fn versions() {
    assert_eq!(run_alone(&["version"]).ok(), format!("longshore {}\n", env!("CARGO_PKG_VERSION")));
    let json = run_alone(&["version", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_str(json.ok()).unwrap();
    assert_eq!(value["version"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn nodes_that_cannot_be_reached() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nowhere.sock");
    run_alone(&["--host", nowhere.to_str().unwrap(), "status"]).fails(
        Exit::Failed,
        "no longshore is running at unix://",
        "longshore run",
    );
    let data_dir = folder.path().to_str().unwrap();
    run_alone(&["status", "--data-dir", data_dir]).fails(Exit::Failed, "/longshore.sock", "longshore run");
    run_alone(&["--host", "https://x:1", "status"]).fails(Exit::Usage, "https is not served", "");
    let by_variable = run_with(
        &["status"],
        &Recorder::default(),
        |terminal| drop(terminal.variables.insert("LONGSHORE_HOST".into(), "http://127.0.0.1:1".into())),
        "",
    );
    by_variable.fails(Exit::Failed, "no longshore is running at http://127.0.0.1:1", "--host");
}

#[test]
fn errors_have_their_exit_codes() {
    let site = Site::new();
    for (code, exit) in [
        (ErrorCode::Invalid, Exit::Usage),
        (ErrorCode::NotFound, Exit::Failed),
        (ErrorCode::Conflict, Exit::Failed),
        (ErrorCode::Denied, Exit::Denied),
        (ErrorCode::NoQuorum, Exit::NoQuorum),
        (ErrorCode::OutcomeUnknown, Exit::Failed),
        (ErrorCode::Busy, Exit::Failed),
        (ErrorCode::TooLarge, Exit::Usage),
        (ErrorCode::Internal, Exit::Failed),
    ] {
        site.fleet.fail("status", [ApiError::new(code, "told to fail")]);
        let ran = site.run(&["status"]);
        ran.fails(exit, "error: told to fail", "");
        assert!(!ran.stderr.contains("request: "), "{ran:?}");
    }
    let codes = [
        Exit::Done,
        Exit::Failed,
        Exit::Usage,
        Exit::Denied,
        Exit::NoQuorum,
        Exit::Partial,
        Exit::Interrupted,
    ];
    assert_eq!(codes.map(Exit::code), [0, 1, 2, 3, 4, 5, 130]);
    site.fleet.fail("status", [ApiError::new(ErrorCode::Denied, "no").hint("so")]);
    let ran = site.run(&["--color", "always", "--verbose", "status"]);
    assert!(ran.stderr.starts_with("\x1b[1;31merror:\x1b[0m no\n\x1b[1;36mhint:\x1b[0m so\n"), "{ran:?}");
    assert!(ran.stderr.contains("request:"), "{ran:?}");
}

#[test]
fn colour_only_where_it_is_wanted() {
    let site = Site::new();
    let coloured = |args: &[&str], is_terminal: bool, variable: Option<(&str, &str)>| {
        let ran = site.run_with(
            args,
            |terminal| {
                terminal.stdout_is_terminal = is_terminal;
                terminal.variables.extend(variable.map(|(name, value)| (name.to_owned(), value.to_owned())));
            },
            "",
        );
        ran.ok().contains('\u{1b}')
    };
    assert!(!coloured(&["node", "ls"], false, None));
    assert!(coloured(&["node", "ls"], true, None));
    assert!(!coloured(&["node", "ls"], true, Some(("NO_COLOR", "1"))));
    assert!(coloured(&["node", "ls"], true, Some(("NO_COLOR", ""))));
    assert!(!coloured(&["node", "ls"], true, Some(("TERM", "dumb"))));
    assert!(!coloured(&["--color", "never", "node", "ls"], true, None));
    assert!(coloured(&["node", "ls", "--color", "always"], false, Some(("NO_COLOR", "1"))));
}
