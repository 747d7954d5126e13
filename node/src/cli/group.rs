//! `longshore group ls | inspect | transfer`.

use clap::{Args, Subcommand};
use comfy_table::Color;

use super::args::{FormatArgs, ListArgs};
use super::error::CliError;
use super::output::{self, NONE, Text};
use super::ring;
use super::session::Session;
use crate::api::types::*;

#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List the groups that carry the ring's partitions, and this node's replicas of them
    #[command(
        alias = "list",
        after_help = "\
Examples:
  longshore group ls
  longshore group ls --keys
  longshore group ls -q"
    )]
    Ls(GroupListArgs),
    /// Show one group, with its keys and bytes
    #[command(after_help = "\
Examples:
  longshore group inspect g7
  longshore group inspect 7 --format json")]
    Inspect {
        /// Id, as `longshore group ls` shows it
        group: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Hand a group's leadership to another of its members; the fleet may even it out again
    #[command(after_help = "\
Examples:
  longshore group transfer g7 web-2")]
    Transfer {
        /// Id, as `longshore group ls` shows it
        group: String,
        /// Name or id of the node that is to lead it
        #[arg(value_name = "NODE")]
        to: String,
        #[command(flatten)]
        format: FormatArgs,
    },
}

#[derive(Debug, Args)]
pub(super) struct GroupListArgs {
    /// Also ask every group for its keys and bytes; that wakes those at rest
    #[arg(long)]
    keys: bool,
    #[command(flatten)]
    list: ListArgs,
}

pub(super) async fn group(session: &mut Session<'_>, command: GroupCommand) -> Result<(), CliError> {
    let listed = |error: CliError| error.or_hint("`longshore group ls` lists the groups");
    match command {
        GroupCommand::Ls(args) => {
            let list = session.client.list_groups(GroupQuery { keys: args.keys }).await?;
            if list.stale {
                session.terminal.report(ring::STALE);
            }
            if args.list.quiet {
                let ids: String =
                    list.groups.iter().map(|group| format!("{}\n", group.placement.group)).collect();
                return session.print(&ids);
            }
            session.show(args.list.format, &list, |list, colour| render_list(list, args.keys, colour))
        }
        GroupCommand::Inspect { group, format } => {
            let view = session.client.inspect_group(&group).await.map_err(|error| listed(error.into()))?;
            session.show(format.format, &view, |view, _| render(view))
        }
        GroupCommand::Transfer { group, to, format } => {
            let request = TransferRequest { to };
            let moved = session.client.transfer_group(&group, &request).await;
            let moved = moved.map_err(|error| listed(error.into()))?;
            session.show(format.format, &moved, |moved, _| match &moved.from {
                Some(from) if *from == moved.to => {
                    format!("{} is led by {to} already\n", moved.group, to = moved.to)
                }
                Some(from) => {
                    format!("{} is led by {to} now; before it was {from}\n", moved.group, to = moved.to)
                }
                None => format!("{} is led by {} now\n", moved.group, moved.to),
            })
        }
    }
}

fn role(replica: &ReplicaView) -> &'static str {
    match replica.role {
        ReplicaRole::Leader => "leader",
        ReplicaRole::Follower => "follower",
        ReplicaRole::Candidate => "candidate",
        ReplicaRole::Learner => "learner",
        ReplicaRole::Stopped => "stopped",
    }
}

/// This node's part in a group.
fn here(group: &GroupView) -> Text {
    match (&group.replica, &group.placement.failure) {
        (Some(replica), _) if replica.fatal.is_some() => Text("stopped".into(), Some(Color::Red)),
        (Some(replica), _) if replica.at_rest => format!("{}, at rest", role(replica)).into(),
        (Some(replica), _) => role(replica).into(),
        (None, Some(_)) => Text("not open".into(), Some(Color::Red)),
        (None, None) => NONE.into(),
    }
}

/// With the columns of keys and bytes, or without.
pub(super) fn render_list(list: &GroupList, keys: bool, colour: bool) -> String {
    let rows = list.groups.iter().map(|group| {
        let placement = &group.placement;
        let PartitionsView { first, last } = placement.partitions;
        let mut row = vec![
            placement.group.as_str().into(),
            format!("{first}-{last}").into(),
            placement.leader.as_deref().unwrap_or(NONE).into(),
            placement.members.join(", ").into(),
            here(group),
        ];
        if keys {
            let held = group.keys.map(|held| (held.keys.to_string(), output::bytes(held.bytes)));
            let (keys, bytes) = held.unwrap_or_else(|| (NONE.to_owned(), NONE.to_owned()));
            row.extend([keys.into(), bytes.into()]);
        }
        row.push(ring::change(placement));
        row
    });
    let mut head = vec!["GROUP", "PARTITIONS", "LEADER", "MEMBERS", "HERE"];
    head.extend(["KEYS", "BYTES"].into_iter().filter(|_| keys));
    head.push("CHANGE");
    output::table(&head, rows.collect(), colour)
}

pub(super) fn render(group: &GroupView) -> String {
    let placement = &group.placement;
    let PartitionsView { first, last } = placement.partitions;
    let or_none = |names: &[String]| if names.is_empty() { NONE.to_owned() } else { names.join(", ") };
    let mut pairs = vec![
        ("group", placement.group.clone()),
        ("partitions", format!("{first} to {last}")),
        ("epoch", placement.epoch.to_string()),
        ("leader", placement.leader.clone().unwrap_or_else(|| "none known".to_owned())),
        ("members", or_none(&placement.members)),
    ];
    if placement.target != placement.members {
        pairs.push(("should be on", or_none(&placement.target)));
    }
    if let Some(change) = &placement.change {
        let waits = format!("it waits for {}", output::one_line(&change.waits_for));
        pairs.push(("change", format!("{}\n{waits}", ring::change(placement).0)));
    }
    if !placement.stuck_without.is_empty() {
        pairs.push(("no quorum", format!("missing {}", placement.stuck_without.join(", "))));
    }
    pairs.push(match &group.keys {
        Some(keys) => ("keys", format!("{}, {} with a time to live", keys.keys, keys.expiring)),
        None => ("keys", "not known: the group does not answer".to_owned()),
    });
    if let Some(keys) = &group.keys {
        pairs.push(("bytes", output::bytes(keys.bytes)));
        pairs.push(("writes", keys.writes.to_string()));
    }
    if let Some(why) = &placement.failure {
        pairs.push(("here", format!("not open: {}", output::one_line(why))));
    }
    if let Some(replica) = &group.replica {
        let index = |index: Option<u64>| index.map_or(NONE.to_owned(), |index| index.to_string());
        let at_rest = if replica.at_rest { ", at rest" } else { "" };
        pairs.extend([
            ("here", format!("{} ({}), term {}{at_rest}", replica.id, role(replica), replica.term)),
            (
                "log",
                format!(
                    "last {}, committed {}, applied {}, snapshot {}, purged {}",
                    index(replica.last_index),
                    index(replica.committed_index),
                    index(replica.applied_index),
                    index(replica.snapshot_index),
                    index(replica.purged_index)
                ),
            ),
            ("voters", or_none(&replica.voters)),
            ("learners", or_none(&replica.learners)),
        ]);
        if let Some(fatal) = &replica.fatal {
            pairs.push(("stopped", output::one_line(fatal)));
        }
    }
    output::fields(&pairs)
}
