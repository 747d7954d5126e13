//! `longshore node ls | inspect | update | drain | rm`.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args, Subcommand, ValueEnum};

use super::args::{FormatArgs, ListArgs};
use super::drain::{self, DrainArgs};
use super::error::{CliError, Exit};
use super::output::{self, NONE, Text};
use super::session::Session;
use crate::api::types::*;
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
    /// Change a node's labels, weight, place, or whether it takes new work
    #[command(after_help = "\
Examples:
  longshore node update web-2 --label-add disk=ssd --label-add tier=1
  longshore node update web-2 --label-rm tier
  longshore node update web-2 --availability pause -m 'disk is slow'
  longshore node update web-2 --weight 8192 --zone rack-7
  longshore node update web-2 --weight auto --zone ''")]
    Update(UpdateArgs),
    /// Take a node out of service: it gets no new work, what it has ends or moves, and others lead instead of it
    ///
    /// Follows until nothing is left for it to do. Its replicas stay, and it answers as before: data moves at `longshore leave`.
    /// It takes new work again with `longshore node update NODE --availability active`. The last node that takes work is not
    /// drained.
    #[command(after_help = "\
Examples:
  longshore node drain web-2
  longshore node drain web-2 --deadline 10m -m 'new disk'
  longshore node drain web-2 --detach")]
    Drain(DrainArgs),
    /// Remove a dead node for good; a living one leaves with `longshore leave`
    #[command(
        alias = "remove",
        after_help = "\
Examples:
  longshore node rm web-3
  longshore node rm n3 --yes
  longshore node rm web-3 --force"
    )]
    Rm {
        /// Name or id
        node: String,
        /// Also one that is alive, or whose data has no other copy; what that loses is told first. Never at the expense of the quorum
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

/// What `--availability` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum AvailabilityChoice {
    /// Takes new work
    Active,
    /// Takes no new work; what it has goes on
    #[value(alias = "paused")]
    Pause,
    /// Takes no new work, and what it has ends or moves; see `longshore node drain`
    #[value(alias = "draining")]
    Drain,
}

/// What `--weight` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WeightChoice {
    Of(u32),
    Auto,
}

fn parse_weight(text: &str) -> Result<WeightChoice, String> {
    match text {
        "auto" => Ok(WeightChoice::Auto),
        _ => text.parse().map(WeightChoice::Of).map_err(|_| format!("{text:?} is neither a number nor auto")),
    }
}

/// An empty one is what the node announces.
fn parse_zone(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { names::check_zone(text).map(|()| text.to_owned()) }
}

fn parse_region(text: &str) -> Result<String, String> {
    if text.is_empty() { Ok(String::new()) } else { names::check_region(text).map(|()| text.to_owned()) }
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("change").required(true).multiple(true))]
pub(super) struct UpdateArgs {
    /// Name, id, or self
    node: String,
    /// Whether it takes new work
    #[arg(long, value_enum, value_name = "WHICH", group = "change")]
    availability: Option<AvailabilityChoice>,
    /// Why, for whoever looks at the node
    #[arg(long, short, value_name = "TEXT", requires = "availability")]
    message: Option<String>,
    /// Set a label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = names::parse_label, group = "change")]
    label_add: Vec<(String, String)>,
    /// Take a label away; may be repeated
    #[arg(long, value_name = "KEY", group = "change")]
    label_rm: Vec<String>,
    /// How much data it holds, relative to other nodes, whatever it announces; 0: none; auto: as it announces
    #[arg(long, value_name = "N|auto", value_parser = parse_weight, group = "change")]
    weight: Option<WeightChoice>,
    /// What fails together with it, whatever it announces; '': as it announces
    #[arg(long, value_name = "ZONE", value_parser = parse_zone, group = "change")]
    zone: Option<String>,
    /// Where it is, whatever it announces; '': as it announces
    #[arg(long, value_name = "REGION", value_parser = parse_region, group = "change")]
    region: Option<String>,
}

impl UpdateArgs {
    fn update(self) -> NodeUpdate {
        let back = [
            (self.weight == Some(WeightChoice::Auto), NodeSetting::Weight),
            (self.zone.as_deref() == Some(""), NodeSetting::Zone),
            (self.region.as_deref() == Some(""), NodeSetting::Region),
        ];
        let set = |place: Option<String>| place.filter(|place| !place.is_empty());
        NodeUpdate {
            label_add: self.label_add.into_iter().collect(),
            label_rm: self.label_rm,
            availability: self.availability.map(|wanted| match wanted {
                AvailabilityChoice::Active => NodeAvailability::Active,
                AvailabilityChoice::Pause => NodeAvailability::Paused,
                AvailabilityChoice::Drain => NodeAvailability::Draining,
            }),
            message: self.message,
            weight: self.weight.and_then(|weight| match weight {
                WeightChoice::Of(weight) => Some(weight),
                WeightChoice::Auto => None,
            }),
            zone: set(self.zone),
            region: set(self.region),
            reset: back.into_iter().filter(|(back, _)| *back).map(|(_, setting)| setting).collect(),
        }
    }
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
            let node = args.node.clone();
            let update = args.update();
            let updated = session.client.update_node(&node, &update).await;
            let view = updated.map_err(|error| listed(error.into()))?;
            session.print(&format!("{} ({}): {}\n", view.id, view.name, changed(&view, &update)))
        }
        NodeCommand::Drain(args) => drain::drain(session, args).await.map_err(listed),
        NodeCommand::Rm { node, force, yes } => {
            if force {
                let removal =
                    session.client.node_removal(&node).await.map_err(|error| listed(error.into()))?;
                confirm_loss(session, &removal, yes)?;
            } else {
                let question = format!("Remove node {node} from the fleet for good?");
                session.terminal.confirm(&question, yes)?;
            }
            let removed = session.client.remove_node(&node, RemoveQuery { force }).await;
            let RemovedView { node, loss } = removed.map_err(|error| listed(error.into()))?;
            let lost: String = losses(&loss).into_iter().map(|what| format!("  {what}\n")).collect();
            session.print(&format!("{} ({}) was removed\n{lost}", node.id, node.name))
        }
    }
}

/// What an update came to.
fn changed(view: &NodeView, update: &NodeUpdate) -> String {
    let touches = |setting| update.reset.contains(&setting);
    let or_none = |place: &Option<String>| place.clone().unwrap_or_else(|| "none".to_owned());
    let mut parts = Vec::new();
    if update.availability.is_some() {
        parts.push(output::availability(view.availability.state).0);
    }
    if !update.label_add.is_empty() || !update.label_rm.is_empty() {
        parts.push(labels(&view.labels));
    }
    if update.weight.is_some() || touches(NodeSetting::Weight) {
        parts.push(format!("weight {}", view.weight));
    }
    if update.zone.is_some() || touches(NodeSetting::Zone) {
        parts.push(format!("zone {}", or_none(&view.zone)));
    }
    if update.region.is_some() || touches(NodeSetting::Region) {
        parts.push(format!("region {}", or_none(&view.region)));
    }
    parts.join("; ")
}

/// Asks, with what will be lost. A script has to say that it means it.
fn confirm_loss(session: &mut Session<'_>, removal: &RemovalView, yes: bool) -> Result<(), CliError> {
    if !yes && !session.terminal.stdin_is_terminal {
        let message = format!("{} would be removed by force, and nobody is there to ask", removal.name);
        return Err(CliError::new(Exit::Usage, message).hint("give --yes if you mean it"));
    }
    let alive = match removal.state {
        NodeState::Alive | NodeState::Suspect => vec!["it is not known to be dead".to_owned()],
        NodeState::Failed | NodeState::Left => Vec::new(),
    };
    let told: String =
        alive.into_iter().chain(losses(&removal.loss)).map(|what| format!("  {what}\n")).collect();
    let question = format!("{told}Remove node {} from the fleet for good?", removal.name);
    session.terminal.confirm(&question, yes)
}

/// What goes with a node, one line each.
fn losses(loss: &LossView) -> Vec<String> {
    let mut lines = Vec::new();
    if !loss.groups.is_empty() {
        lines.push(format!(
            "lost for good: what {} held, of which too few replicas are left; their keys and operations are out of use",
            loss.groups.join(", ")
        ));
    }
    if !loss.groups_waiting.is_empty() {
        lines.push(format!(
            "out of use until nodes that cannot be reached are back: {}",
            loss.groups_waiting.join(", ")
        ));
    }
    match loss.parts {
        Some(0) => {}
        Some(parts) => {
            let parts = output::count(parts as usize, "part");
            lines.push(format!("{parts} of operations were open on it, and fail"));
        }
        None => lines.push("how many parts of operations were open on it is not known".to_owned()),
    }
    lines
}

pub(super) fn render_list(list: &NodeList, colour: bool) -> String {
    let head = [
        "ID",
        "NAME",
        "ROLE",
        "STATE",
        "AVAILABILITY",
        "ADDRESS",
        "ZONE",
        "ENGINE",
        "CPU",
        "MEM",
        "DISK",
        "LAST SEEN",
    ];
    let rows = list.nodes.iter().map(|node| {
        let id = if node.is_self { format!("{}*", node.id) } else { node.id.clone() };
        let [cpu, memory, disk] = output::used(node.load.as_ref());
        vec![
            id.into(),
            node.name.as_str().into(),
            output::role(node.role).into(),
            output::node_state(node.state),
            output::availability(node.availability.state),
            node.address.as_str().into(),
            node.zone.as_deref().unwrap_or(NONE).into(),
            output::engine(&node.engine),
            cpu.into(),
            memory.into(),
            disk.into(),
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
        ("availability", availability(&node.availability)),
        ("address", node.address.clone()),
        ("zone", place(&node.zone, &node.announced.zone)),
        ("region", place(&node.region, &node.announced.region)),
        ("weight", weight(node)),
        ("labels", labels(&node.labels)),
        ("engine", output::engine_in_full(&node.engine)),
        ("capabilities", capabilities(&node.engine)),
        ("load", load(node.load.as_ref())),
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

/// With who said so, when and why.
fn availability(view: &AvailabilityView) -> String {
    let mut text = output::availability(view.state).0;
    if let (Some(by), Some(at_ms)) = (&view.by, view.at_ms) {
        text.push_str(&format!(", by order at {by}, {}", output::time(at_ms)));
    }
    if let Some(message) = &view.message {
        text.push_str(&format!("\n{}", output::one_line(message)));
    }
    text
}

/// What operations can ask for with --capability.
fn capabilities(engine: &EngineView) -> String {
    match engine {
        EngineView::Ready { capabilities, .. } if !capabilities.is_empty() => {
            output::one_line(&capabilities.join(", "))
        }
        _ => NONE.to_owned(),
    }
}

fn load(load: Option<&LoadView>) -> String {
    let Some(load) = load else { return NONE.to_owned() };
    let left = |free, all| format!("{} of {}", output::bytes(free), output::bytes(all));
    let parts = output::count(load.running as usize, "part");
    let mut text = format!(
        "{} % of the processors busy, {parts} of operations under way; told {}\n{} of memory free\n{} of disk free",
        load.cpu_busy_percent,
        output::ago(load.age_ms),
        left(load.memory_free_bytes, load.memory_bytes),
        left(load.disk_free_bytes, load.disk_bytes)
    );
    if let Some(ms) = load.engine_ms {
        text.push_str(&format!("\nthe engine answers in {ms} ms"));
        if let Some(images) = load.images {
            text.push_str(&format!(", and has {}", output::count(images as usize, "named image")));
        }
    }
    text
}

fn place(counts: &Option<String>, announced: &Option<String>) -> String {
    let or_none = |place: &Option<String>| place.clone().unwrap_or_else(|| NONE.to_owned());
    match counts == announced {
        true => or_none(counts),
        false => format!("{} (it announces {})", or_none(counts), or_none(announced)),
    }
}

fn weight(node: &NodeView) -> String {
    match node.weight == node.announced.weight {
        true => node.weight.to_string(),
        false => format!("{} (it announces {})", node.weight, node.announced.weight),
    }
}

fn labels(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "no labels".to_owned();
    }
    let pairs: Vec<String> =
        labels.iter().map(|(key, value)| format!("{key}={}", output::one_line(value))).collect();
    pairs.join(", ")
}
