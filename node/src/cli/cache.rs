//! `longshore cache get | set | del | scan | bench`.
//!
//! Keys and values are bytes: keys are taken from the command line as they are, values go in and out unchanged.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use bytes::Bytes;
use clap::{Args, Subcommand};
use longshore_model::keys::limits::{SCAN_KEYS_MAX, VALUE_BYTES_MAX};

use super::args::{Format, FormatArgs};
use super::bench::{self, BenchArgs};
use super::error::{CliError, Exit};
use super::output::{self, NONE};
use super::session::Session;
use crate::api::client::ClientError;
use crate::api::types::*;
use crate::config::units::parse_duration;

#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// Print the value of a key, its bytes as they are
    #[command(after_help = "\
Examples:
  longshore cache get config greeting
  longshore cache get images logo.png > logo.png

Exit codes: 1 when there is no such key")]
    Get {
        #[command(flatten)]
        name: KeyArgs,
    },
    /// Set a key
    #[command(after_help = "\
Examples:
  longshore cache set config greeting hello
  longshore cache set images logo.png - < logo.png
  longshore cache set locks deploy web-1 --if-absent --ttl 30s
  longshore cache set config greeting hi --if-version 12")]
    Set(SetArgs),
    /// Delete a key
    #[command(
        alias = "delete",
        after_help = "\
Examples:
  longshore cache del config greeting
  longshore cache del locks deploy --if-version 12"
    )]
    Del(DelArgs),
    /// List keys in order
    #[command(after_help = "\
Examples:
  longshore cache scan config
  longshore cache scan sessions --prefix user: --limit 1000 --format json
  longshore cache scan config -q")]
    Scan(ScanArgs),
    /// Drive load and measure it
    #[command(after_help = "\
Examples:
  longshore cache bench
  longshore cache bench --clients 256 --read-share 0 --duration 30s
  longshore --host a.sock,b.sock cache bench --distribution zipf --format json")]
    Bench(BenchArgs),
}

#[derive(Debug, Clone, Args)]
pub(super) struct KeyArgs {
    /// 1 to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit first
    namespace: String,
    /// 1 to 1024 bytes, as they are
    key: OsString,
}

impl KeyArgs {
    fn into_parts(self) -> (String, Vec<u8>) {
        (self.namespace, self.key.into_vec())
    }
}

#[derive(Debug, Args)]
pub(super) struct SetArgs {
    #[command(flatten)]
    name: KeyArgs,
    /// The value; `-` reads it from standard input
    value: OsString,
    /// How long it shall live
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, conflicts_with = "keep_ttl")]
    ttl: Option<Duration>,
    /// Let it live as long as it was to before
    #[arg(long)]
    keep_ttl: bool,
    /// Only if the key does not exist
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key exists
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key exists at this version
    #[arg(long, value_name = "N", group = "condition")]
    if_version: Option<u64>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct DelArgs {
    #[command(flatten)]
    name: KeyArgs,
    /// Only if the key exists
    #[arg(long, group = "condition")]
    if_present: bool,
    /// Only if the key exists at this version
    #[arg(long, value_name = "N", group = "condition")]
    if_version: Option<u64>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct ScanArgs {
    /// 1 to 64 of a-z, 0-9, '-', '_' and '.', a letter or digit first
    namespace: String,
    /// Only keys that begin with this
    #[arg(long, value_name = "BYTES")]
    prefix: Option<OsString>,
    /// Only keys above this one
    #[arg(long, value_name = "KEY")]
    after: Option<OsString>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    limit: u32,
    /// With values
    #[arg(long)]
    values: bool,
    /// How to print it
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// Print keys only, their bytes as they are, one a line
    #[arg(long, short, conflicts_with_all = ["format", "values"])]
    quiet: bool,
}

fn condition(absent: bool, present: bool, version: Option<u64>) -> KeyCondition {
    match (absent, present, version) {
        (true, _, _) => KeyCondition::Absent,
        (_, true, _) => KeyCondition::Present,
        (_, _, Some(version)) => KeyCondition::Version(version),
        _ => KeyCondition::Always,
    }
}

pub(super) async fn cache(session: &mut Session<'_>, command: CacheCommand) -> Result<(), CliError> {
    match command {
        CacheCommand::Get { name } => {
            let (namespace, key) = name.into_parts();
            match session.client.get_key(&namespace, &key).await? {
                Some(found) => session.terminal.print_bytes(&found.value),
                None => Err(no_such_key(&namespace, &key)),
            }
        }
        CacheCommand::Set(args) => set(session, args).await,
        CacheCommand::Del(args) => {
            let (namespace, key) = args.name.into_parts();
            let condition = condition(false, args.if_present, args.if_version);
            let deleted = session.client.delete_key(&namespace, &key, condition).await.map_err(changed)?;
            session.show(args.format.format, &deleted, |view, _| {
                (if view.deleted { "deleted\n" } else { "there was no such key\n" }).to_owned()
            })
        }
        CacheCommand::Scan(args) => scan(session, args).await,
        CacheCommand::Bench(args) => bench::bench(session, args).await,
    }
}

fn no_such_key(namespace: &str, key: &[u8]) -> CliError {
    let key = output::one_line(&String::from_utf8_lossy(key));
    CliError::new(
        Exit::Failed,
        format!("there is no key {key:?} in namespace {namespace:?}, or it has expired"),
    )
    .hint(format!("`longshore cache scan {namespace}` lists the keys"))
}

/// A change that was not done, or of which that is not known.
fn changed(error: ClientError) -> CliError {
    let current = match &error {
        ClientError::Api { error, .. } => error.current_version,
        _ => None,
    };
    match current {
        Some(version) => CliError::from(error)
            .or_hint(format!("it is at version {version}; --if-version {version} changes it as it is now")),
        None => error.into(),
    }
}

async fn set(session: &mut Session<'_>, args: SetArgs) -> Result<(), CliError> {
    let (namespace, key) = args.name.into_parts();
    let value = match args.value.to_str() {
        Some("-") => session.terminal.read_value(VALUE_BYTES_MAX)?,
        _ => args.value.into_vec(),
    };
    let lifetime = match (args.keep_ttl, args.ttl) {
        (true, _) => KeyLifetime::Keep,
        (_, Some(ttl)) => KeyLifetime::ForMs(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
        _ => KeyLifetime::Forever,
    };
    let condition = condition(args.if_absent, args.if_present, args.if_version);
    let set = session.client.set_key(&namespace, &key, Bytes::from(value), lifetime, condition).await;
    session.show(args.format.format, &set.map_err(changed)?, |view, _| {
        let ttl = view.ttl_ms.map_or(String::new(), |ms| format!(", expires in {}", output::span(ms)));
        format!("version {}{ttl}\n", view.version)
    })
}

async fn scan(session: &mut Session<'_>, args: ScanArgs) -> Result<(), CliError> {
    let mut query = KeyScanQuery {
        prefix: args.prefix.map(OsString::into_vec).unwrap_or_default(),
        after: args.after.map(OsString::into_vec),
        limit: None,
        values: args.values,
    };
    let mut all = KeyPageView { entries: Vec::new(), next: None };
    loop {
        let left = args.limit - all.entries.len() as u32;
        query.limit = Some(left.min(SCAN_KEYS_MAX as u32));
        let page = session.client.scan_keys(&args.namespace, &query).await?;
        all.entries.extend(page.entries.into_iter().take(left as usize));
        let next = page.next.as_ref().and_then(BytesView::bytes);
        all.next = page.next;
        // A page that gets no further would be asked for for ever.
        if next.is_none() || next == query.after || all.entries.len() as u32 >= args.limit {
            break;
        }
        query.after = next;
    }
    if args.quiet {
        let mut keys = Vec::new();
        for entry in &all.entries {
            keys.extend(entry.key.bytes().unwrap_or_default());
            keys.push(b'\n');
        }
        return session.terminal.print_bytes(&keys);
    }
    session.show(args.format, &all, render_page)?;
    if all.next.is_some() && args.format == Format::Table {
        session
            .terminal
            .report("note: there are more keys; go on with --after LAST-KEY, or a larger --limit\n");
    }
    Ok(())
}

/// Bytes that are not UTF-8 are shown as base64, and said to be.
fn shown(bytes: &BytesView) -> String {
    match bytes {
        BytesView::Text(text) => text.clone(),
        BytesView::Base64(text) => format!("base64:{text}"),
    }
}

/// Characters of a value that a table shows: with a short key, a line of a terminal.
const VALUE_CHARS: usize = 40;

pub(super) fn render_page(page: &KeyPageView, colour: bool) -> String {
    let with_values = page.entries.iter().any(|entry| entry.value.is_some());
    let mut head = vec!["KEY", "VERSION", "EXPIRES IN"];
    head.extend(with_values.then_some("VALUE"));
    let rows = page.entries.iter().map(|entry| {
        let ttl = entry.ttl_ms.map_or(NONE.to_owned(), output::span);
        let mut row = vec![shown(&entry.key).into(), entry.version.to_string().into(), ttl.into()];
        if with_values {
            let value = entry.value.as_ref().map_or(NONE.to_owned(), shown);
            let cut = value.chars().count() > VALUE_CHARS;
            let text: String = value.chars().take(VALUE_CHARS).collect();
            row.push((text + if cut { "..." } else { "" }).into());
        }
        row
    });
    output::table(&head, rows.collect(), colour)
}
