//! Commands that there are not.

use std::ffi::OsString;

use clap::{ColorChoice, CommandFactory};

use super::*;
use crate::cli::suggest::{HABITS, colour, parse};

fn words(args: &[&str]) -> Vec<OsString> {
    std::iter::once("longshore").chain(args.iter().copied()).map(OsString::from).collect()
}

#[test]
fn unknown_commands_lead_to_known_ones() {
    for (args, expected) in [
        // clap's own: the same place, spelled alike.
        (&["nodes"][..], "similar subcommand exists: 'node'"),
        (&["nodes", "ls"], "similar subcommand exists: 'node'"),
        (&["stauts"], "similar subcommand exists: 'status'"),
        (&["node", "lst"], "similar subcommands exist: 'ls', 'list'"),
        (&["op", "ls", "--activ"], "similar argument exists: '--active'"),
        // Habits from elsewhere.
        (&["containers"], "did you mean `longshore op ps`?"),
        (&["node", "containers"], "did you mean `longshore op ps`?"),
        (&["SERVICE"], "did you mean `longshore op runs`?"),
        (&["ps"], "did you mean `longshore op ps`?"),
        (&["images"], "did you mean `longshore op images`?"),
        // One level deeper, named so or nearly so.
        (&["pull", "nginx"], "did you mean `longshore op pull`?"),
        (
            &["ls"],
            "did you mean `longshore node ls` or `longshore token ls` or `longshore op ls` or `longshore group ls`?",
        ),
        (&["transfr", "g1"], "did you mean `longshore group transfer`?"),
        (&["remove"], "did you mean `longshore node rm` or `longshore op rm`?"),
    ] {
        let error = parse(words(args)).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{args:?}");
        assert!(error.to_string().contains(expected), "{args:?}: {error}");
        assert_eq!(error.to_string().matches("tip:").count(), 1, "{args:?}: {error}");
    }
    let error = parse(words(&["xyzzy"])).unwrap_err().to_string();
    assert!(error.contains("unrecognized subcommand 'xyzzy'") && !error.contains("tip:"), "{error}");
    parse(words(&["node", "ls"])).unwrap();
}

#[test]
fn habits_lead_to_commands_that_there_are() {
    let command = Cli::command();
    for (habit, paths) in HABITS {
        assert!(command.find_subcommand(habit).is_none(), "{habit} is a command now");
        for path in *paths {
            let commands = path.split(' ').take_while(|word| !word.starts_with('-'));
            commands.fold(&command, |inner, word| {
                inner.find_subcommand(word).unwrap_or_else(|| panic!("{habit}: there is no {path}"))
            });
        }
    }
}

#[test]
fn help_and_errors_follow_the_choice_of_colour() {
    for (args, expected) in [
        (&["--color", "never", "x"][..], ColorChoice::Never),
        (&["x", "--color=always"], ColorChoice::Always),
        (&["x", "--color", "auto"], ColorChoice::Auto),
        (&["x", "--color"], ColorChoice::Auto),
        (&["sim", "--", "--color=never"], ColorChoice::Auto),
    ] {
        assert_eq!(colour(&words(args)), expected, "{args:?}");
    }
}
