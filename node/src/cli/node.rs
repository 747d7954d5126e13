//! `longshore node ls | inspect | update | rm`.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};

use super::args::{FormatArgs, ListArgs};
use super::error::CliError;
use super::output::{self, NONE, Text};
use super::session::Session;
use crate::api::types::{NodeList, NodeUpdate, NodeView};
use crate::config::names;

#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the fleet's nodes; `*` marks the one that answers
    #[command(
        alias = "list",
        after_help = "\
Examples:
  longshore node ls
  longshore node ls -q
  longshore node ls --format json"
    )]
    Ls(ListArgs),
    /// Show one node
    #[command(after_help = "\
Examples:
  longshore node inspect web-2
  longshore node inspect n3 --format json
  longshore node inspect self")]
    Inspect {
        /// Name, id, or self
        node: String,
        #[command(flatten)]
        format: FormatArgs,
    },
    /// Change a node's labels
    #[command(after_help = "\
Examples:
  longshore node update web-2 --label-add disk=ssd --label-add tier=1
  longshore node update web-2 --label-rm tier")]
    Update(UpdateArgs),
    /// Remove a dead node for good; a living one leaves with `longshore leave`
    #[command(
        alias = "remove",
        after_help = "\
Examples:
  longshore node rm web-3
  longshore node rm n3 --yes"
    )]
    Rm {
        /// Name or id
        node: String,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct UpdateArgs {
    /// Name, id, or self
    node: String,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = names::parse_label, required_unless_present = "label_rm")]
    label_add: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
}

pub(super) async fn node(session: &mut Session<'_>, command: NodeCommand) -> Result<(), CliError> {
    let listed = |error: CliError| error.or_hint("`longshore node ls` lists the nodes");
    match command {
        NodeCommand::Ls(args) => {
            let list = session.client.list_nodes().await?;
            if list.stale {
                session
                    .terminal
                    .report("note: there is no quorum; this is the node's own copy and may be behind\n");
            }
            if args.quiet {
                let ids: String = list.nodes.iter().map(|node| format!("{}\n", node.id)).collect();
                return session.print(&ids);
            }
            session.show(args.format, &list, render_list)
        }
        NodeCommand::Inspect { node, format } => {
            let view = session.client.inspect_node(&node).await.map_err(|error| listed(error.into()))?;
            session.show(format.format, &view, |view, _| render(view))
        }
        NodeCommand::Update(args) => {
            let label_add: BTreeMap<String, String> = args.label_add.into_iter().collect();
            let update = NodeUpdate { label_add, label_rm: args.label_rm };
            let updated = session.client.update_node(&args.node, &update).await;
            let view = updated.map_err(|error| listed(error.into()))?;
            session.print(&format!("{} ({}): {}\n", view.id, view.name, labels(&view.labels)))
        }
        NodeCommand::Rm { node, yes } => {
            let question = format!("Remove node {node} from the fleet for good?");
            session.terminal.confirm(&question, yes)?;
            let view = session.client.remove_node(&node).await.map_err(|error| listed(error.into()))?;
            session.print(&format!("{} ({}) was removed\n", view.id, view.name))
        }
    }
}

pub(super) fn render_list(list: &NodeList, colour: bool) -> String {
    let head = ["ID", "NAME", "ROLE", "STATE", "ADDRESS", "ZONE", "ENGINE", "LAST SEEN"];
    let rows = list.nodes.iter().map(|node| {
        let id = if node.is_self { format!("{}*", node.id) } else { node.id.clone() };
        vec![
            id.into(),
            node.name.as_str().into(),
            output::role(node.role).into(),
            output::node_state(node.state),
            node.address.as_str().into(),
            node.zone.as_deref().unwrap_or(NONE).into(),
            output::engine(&node.engine),
            Text(node.last_seen_ms.map_or(NONE.to_owned(), output::ago), None),
        ]
    });
    output::table(&head, rows.collect(), colour)
}

pub(super) fn render(node: &NodeView) -> String {
    let mut pairs = vec![
        ("id", node.id.clone()),
        ("name", node.name.clone()),
        ("role", output::role(node.role).to_owned()),
        ("state", output::node_state(node.state).0),
        ("address", node.address.clone()),
        ("zone", node.zone.clone().unwrap_or_else(|| NONE.to_owned())),
        ("labels", labels(&node.labels)),
        ("engine", output::engine_in_full(&node.engine)),
        ("version", node.version.clone()),
        ("last seen", node.last_seen_ms.map_or(NONE.to_owned(), output::ago)),
        ("joined", output::time(node.joined_at_ms)),
        ("replica", node.replica.clone().unwrap_or_else(|| NONE.to_owned())),
    ];
    if let Some(skew_ms) = node.clock_skew_ms {
        pairs.push(("clock skew", format!("{skew_ms} ms")));
    }
    output::fields(&pairs)
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "no labels".to_owned();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", output::one_line(value))).collect();
    pairs.join(", ")
}
