//! `longshore man [DIR]`: manual pages, made from the commands' own help.

use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::args::Cli;
use super::error::{CliError, Exit};
use super::output;
use super::terminal::Terminal;

#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Where the pages of all commands go; without it, the page of longshore itself goes to standard output
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(super) fn man(args: ManArgs, terminal: &mut Terminal) -> Result<(), CliError> {
    let pages =
        pages().map_err(|error| CliError::new(Exit::Failed, format!("a page cannot be made: {error}")))?;
    let Some(dir) = args.dir else {
        let (_, page) = pages.last().expect("the command itself has a page");
        return terminal.print_bytes(page);
    };
    write(&dir, &pages).map_err(|error| {
        CliError::new(Exit::Failed, format!("cannot write pages into {}: {error}", dir.display()))
            .hint("name a folder that you may write to, such as ~/.local/share/man/man1")
    })?;
    terminal.print(&format!("{} written into {}\n", output::count(pages.len(), "page"), dir.display()))
}

fn write(dir: &Path, pages: &[(String, Vec<u8>)]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    pages.iter().try_for_each(|(name, page)| std::fs::write(dir.join(name), page))
}

/// File names and pages, that of the whole command last.
fn pages() -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add_pages(&command, &mut pages)?;
    Ok(pages)
}

fn add_pages(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> io::Result<()> {
    for inner in command.get_subcommands().filter(|inner| inner.get_name() != "help") {
        add_pages(inner, pages)?;
    }
    let man = Man::new(command.clone())
        .manual("Longshore")
        .source(format!("longshore {}", super::version::VERSION));
    let mut parts = vec![
        part(|to| man.render_title(to))?,
        part(|to| man.render_name_section(to))?,
        part(|to| man.render_synopsis_section(to))?,
        part(|to| man.render_description_section(to))?,
        part(|to| man.render_options_section(to))?,
    ];
    if command.get_subcommands().next().is_some() {
        parts.push(part(|to| man.render_subcommands_section(to))?);
    }
    if let Some(text) = command.get_after_help() {
        parts.push(sections(&text.to_string()).render().into_bytes());
    }
    // What makes apostrophes plain stands before each part; once is enough.
    let preamble = Roff::new().render().into_bytes();
    let mut page = preamble.clone();
    parts.iter().for_each(|part| page.extend(part.strip_prefix(&preamble[..]).unwrap_or(part)));
    pages.push((man.get_filename(), page));
    Ok(())
}

fn part(render: impl FnOnce(&mut dyn io::Write) -> io::Result<()>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    render(&mut bytes)?;
    Ok(bytes)
}

/// What stands after the help of a command, as sections: examples with their lines as they are, exit codes, and the rest.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::new();
    for paragraph in text.split("\n\n") {
        if let Some(lines) = paragraph.strip_prefix("Examples:\n") {
            roff.control("SH", ["EXAMPLES"]).control("nf", []);
            for line in lines.lines() {
                roff.text([bold(line.trim_start())]);
            }
            roff.control("fi", []);
        } else if let Some(codes) = paragraph.strip_prefix("Exit codes: ") {
            roff.control("SH", ["EXIT STATUS"]).text([roman(codes)]);
        } else {
            roff.control("SH", ["NOTES"]).text([roman(paragraph)]);
        }
    }
    roff
}
