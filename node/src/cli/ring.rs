//! `longshore ring show | plan | watch | pause | resume | rebalance`.

use std::collections::BTreeMap;

use clap::{ArgGroup, Args, Subcommand};
use comfy_table::Color;

use super::args::{Format, FormatArgs};
use super::error::{CliError, Exit};
use super::output::{self, NONE, Text};
use super::picture;
use super::session::Session;
use crate::api::types::*;

#[derive(Debug, Subcommand)]
pub(super) enum RingCommand {
    /// Show the ring: nodes, who leads which partition, and how even it is
    #[command(after_help = "\
Examples:
  longshore ring show
  longshore ring show --format json")]
    Show(FormatArgs),
    /// Show what would move if nodes came or went; nothing is done
    #[command(after_help = "\
Examples:
  longshore ring plan --add web-4
  longshore ring plan --add web-4:16384:rack-2 --add web-5:16384:rack-3
  longshore ring plan --remove web-1 --format json")]
    Plan(PlanArgs),
    /// Follow changes of the ring until every group is where it should be
    #[command(after_help = "\
Examples:
  longshore ring watch
  longshore ring watch --forever --format json")]
    Watch(WatchArgs),
    /// Begin no more changes; those under way go on
    Pause(FormatArgs),
    /// Begin changes again
    Resume(FormatArgs),
    /// Make a new plan at once; the fleet does so by itself whenever its nodes change
    Rebalance(FormatArgs),
}

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("change").required(true).multiple(true).args(["add", "remove"])))]
pub(super) struct PlanArgs {
    /// A node to add, with its weight (by default the average; usually MiB of memory) and zone; may be repeated
    #[arg(long, value_name = "NAME[:WEIGHT[:ZONE]]", value_parser = checked_node)]
    add: Vec<String>,
    /// A node to remove, by name or id; may be repeated
    #[arg(long, value_name = "NODE")]
    remove: Vec<String>,
    #[command(flatten)]
    format: FormatArgs,
}

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    /// Go on when the ring has settled
    #[arg(long)]
    forever: bool,
    /// How to print it; json: one value a line
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

fn checked_node(text: &str) -> Result<String, String> {
    PlanNode::parse(text).map(|_| text.to_owned()).map_err(|error| error.message)
}

pub(super) async fn ring(session: &mut Session<'_>, command: RingCommand) -> Result<(), CliError> {
    match command {
        RingCommand::Show(args) => {
            let ring = session.client.ring().await?;
            if ring.stale {
                session.terminal.report(STALE);
            }
            session.show(args.format, &ring, render)
        }
        RingCommand::Plan(args) => {
            let plan = session.client.plan_ring(&args.add, &args.remove).await?;
            session.show(args.format.format, &plan, render_plan)
        }
        RingCommand::Watch(args) => watch(session, &args).await,
        RingCommand::Pause(args) => {
            let view = session.client.pause_ring(true).await?;
            session.show(args.format, &view, |view, _| match view.changes_under_way {
                0 => "paused; nothing is under way\n".to_owned(),
                under_way => {
                    format!("paused; {} under way still end\n", output::count(under_way as usize, "change"))
                }
            })
        }
        RingCommand::Resume(args) => {
            let view = session.client.pause_ring(false).await?;
            session.show(args.format, &view, |_, _| "resumed\n".to_owned())
        }
        RingCommand::Rebalance(args) => {
            let view = session.client.rebalance_ring().await?;
            session.show(args.format, &view, render_rebalance)
        }
    }
}

pub(super) const STALE: &str = "note: there is no quorum; this is the node's own copy and may be behind\n";

pub(super) fn render(ring: &RingView, colour: bool) -> String {
    let rows = ring.nodes.iter().enumerate().map(|(index, node)| {
        let quota = node.quota.map_or(NONE.to_owned(), |quota| match quota.floor == quota.ceil {
            true => quota.floor.to_string(),
            false => format!("{}-{}", quota.floor, quota.ceil),
        });
        vec![
            picture::letter(index).to_string().into(),
            node.name.as_str().into(),
            output::node_state(node.state),
            node.zone.as_deref().unwrap_or(NONE).into(),
            node.weight.to_string().into(),
            node.replicas.to_string().into(),
            quota.into(),
            node.leaders.to_string().into(),
            moving(node).into(),
        ]
    });
    let head = ["", "NODE", "STATE", "ZONE", "WEIGHT", "REPLICAS", "QUOTA", "LEADERS", "MOVING"];
    let nodes = output::table(&head, rows.collect(), colour);
    format!("{}\n{nodes}\n{}", output::fields(&figures(ring)), picture::render(ring, colour))
}

fn moving(node: &RingNodeView) -> String {
    let parts = [(node.arriving, "in"), (node.leaving, "out"), (node.tombstones, "to destroy")];
    let parts: Vec<String> = parts
        .iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if parts.is_empty() { NONE.to_owned() } else { parts.join(", ") }
}

fn figures(ring: &RingView) -> Vec<(&'static str, String)> {
    let spread = |s: &SpreadView| format!("{} to {} per node, max/mean {:.2}", s.min, s.max, s.max_over_mean);
    let too_few = match ring.replicas == ring.replication {
        true => String::new(),
        false => format!(" ({} were asked for; there are too few nodes)", ring.replication),
    };
    let BalanceView { groups_by_zones, pairs_in_one_zone, nodes_outside_quota, .. } = &ring.balance;
    let zones: Vec<String> = groups_by_zones
        .iter()
        .map(|(zones, groups)| {
            format!(
                "{} in {}",
                output::count(*groups as usize, "group"),
                output::count(*zones as usize, "zone")
            )
        })
        .collect();
    let outside = match nodes_outside_quota {
        0 => String::new(),
        nodes => format!("; not within quota: {}", output::count(*nodes as usize, "node")),
    };
    let mut pairs = vec![
        (
            "ring",
            format!(
                "{} of {} partitions, {} each{too_few}",
                output::count(ring.group_count as usize, "group"),
                ring.partition_count / ring.group_count.max(1),
                output::count(ring.replicas as usize, "replica")
            ),
        ),
        ("state", state(ring)),
        ("epoch", format!("{}, target {}", ring.epoch, ring.target_epoch)),
        ("replicas", spread(&ring.balance.replicas) + &outside),
        ("leaders", spread(&ring.balance.leaders)),
        (
            "zones",
            match ring.nodes.iter().all(|node| node.zone.is_none()) {
                true => "none given (--zone, when a node starts)".to_owned(),
                false => format!(
                    "{}; {} of one group in one zone",
                    zones.join(", "),
                    output::count(*pairs_in_one_zone as usize, "pair")
                ),
            },
        ),
        (
            "last plan",
            format!("{} of {} replicas copied", ring.movement.planned_copies, ring.movement.planned_replicas),
        ),
    ];
    let mut stuck: BTreeMap<&[String], Vec<&str>> = BTreeMap::new();
    for group in ring.groups.iter().filter(|group| !group.stuck_without.is_empty()) {
        stuck.entry(&group.stuck_without).or_default().push(&group.group);
    }
    let stuck: Vec<String> = stuck
        .into_iter()
        .map(|(missing, groups)| format!("{}: {} missing", some(&groups), missing.join(", ")))
        .collect();
    if !stuck.is_empty() {
        pairs.push(("no quorum", shortened(stuck)));
    }
    let failed = ring.groups.iter().filter_map(|group| {
        group.failure.as_ref().map(|why| format!("{}: {}", group.group, output::one_line(why)))
    });
    let failed: Vec<String> = failed.collect();
    if !failed.is_empty() {
        pairs.push(("not open here", shortened(failed)));
    }
    pairs
}

/// The first few, and how many more.
fn some(names: &[&str]) -> String {
    const NAMES_MAX: usize = 4;
    match names.split_at_checked(NAMES_MAX) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => names.join(", "),
    }
}

/// Lines for people: the rest is in the JSON.
fn shortened(mut lines: Vec<String>) -> String {
    const LINES_MAX: usize = 8;
    if lines.len() > LINES_MAX {
        let rest = lines.len() - LINES_MAX;
        lines.truncate(LINES_MAX);
        lines.push(format!("and {rest} more; see `longshore group ls`"));
    }
    lines.join("\n")
}

fn state(ring: &RingView) -> String {
    let MovementView { copies_left, groups_in_place, changes_under_way, .. } = ring.movement;
    let paused = if ring.paused { "paused; " } else { "" };
    let stuck = ring.groups.iter().filter(|group| !group.stuck_without.is_empty()).count();
    if ring.settled && stuck > 0 {
        return format!("{paused}nothing to move; {} without a quorum", output::count(stuck, "group"));
    }
    if ring.settled {
        return format!("{paused}settled");
    }
    format!(
        "{paused}{} under way, {} to copy, {groups_in_place} of {} in place",
        output::count(changes_under_way as usize, "change"),
        copies_left,
        output::count(ring.group_count as usize, "group"),
    )
}

fn moves_table(moves: &[MoveView], colour: bool) -> String {
    let rows = moves.iter().map(|one| {
        let name = |node: &Option<String>| Text(node.clone().unwrap_or_else(|| NONE.to_owned()), None);
        vec![one.group.as_str().into(), name(&one.from), name(&one.to)]
    });
    output::table(&["GROUP", "FROM", "TO"], rows.collect(), colour)
}

pub(super) fn render_plan(plan: &RingPlanView, colour: bool) -> String {
    let anyway = match plan.copies_anyway {
        0 => String::new(),
        copies => format!(", {copies} of which are to be made anyway"),
    };
    let change = |before: String, after: String| {
        if before == after { before } else { format!("{before} -> {after}") }
    };
    let balance = |spread: &SpreadView| format!("{:.2}", spread.max_over_mean);
    let summary = output::fields(&[
        ("copies", format!("{}{anyway}", output::count(plan.copies as usize, "replica"))),
        (
            "replicas",
            change(plan.replicas_before.to_string(), plan.replicas_after.to_string()) + " per group",
        ),
        ("max/mean", change(balance(&plan.balance_before), balance(&plan.balance_after))),
        (
            "one zone",
            change(plan.pairs_in_one_zone_before.to_string(), plan.pairs_in_one_zone_after.to_string())
                + " pairs of replicas of one group",
        ),
    ]);
    let rows = plan.nodes.iter().map(|node| {
        vec![node.name.as_str().into(), node.before.to_string().into(), node.after.to_string().into()]
    });
    let nodes = output::table(&["NODE", "REPLICAS", "AFTERWARDS"], rows.collect(), colour);
    if plan.moves.is_empty() {
        return format!("{summary}\n{nodes}\nNothing would move.\n");
    }
    format!("{summary}\n{nodes}\n{}", moves_table(&plan.moves, colour))
}

pub(super) fn render_rebalance(view: &RebalanceView, colour: bool) -> String {
    let paused =
        if view.paused { "The ring is paused: `longshore ring resume` lets it begin.\n" } else { "" };
    let to_copy = output::count(view.copies as usize, "replica");
    match (view.changed, view.moves.is_empty()) {
        (false, true) => "There is nothing to do: every group is where a new plan would put it.\n".to_owned(),
        (false, false) => format!("The plan stays as it is; {to_copy} still to copy.\n{paused}"),
        (true, true) => format!("Target {} is new, and moves nothing.\n", view.target_epoch),
        (true, false) => {
            let moves = moves_table(&view.moves, colour);
            format!("Target {} is new: {to_copy} to copy.\n{paused}\n{moves}", view.target_epoch)
        }
    }
}

async fn watch(session: &mut Session<'_>, args: &WatchArgs) -> Result<(), CliError> {
    let mut watch = session.client.watch_ring(RingWatchQuery { forever: args.forever }).await?;
    let mut lines = WatchLines::default();
    let mut settled = false;
    loop {
        let view = tokio::select! {
            biased;
            () = &mut session.interrupt => return Err(CliError::quiet(Exit::Interrupted)),
            view = watch.next() => view?,
        };
        let Some(view) = view else { break };
        settled = view.settled;
        let text = match args.format {
            Format::Json => serde_json::to_string(&view).expect("plain structs encode as JSON") + "\n",
            Format::Table => lines.update(&view),
        };
        session.print(&text)?;
    }
    if settled && !args.forever {
        return Ok(());
    }
    Err(CliError::new(Exit::Failed, "the node has stopped")
        .hint("try again, or name another node with --host"))
}

/// What changed since the last view, in lines.
#[derive(Debug, Default)]
pub(super) struct WatchLines {
    /// What was said of each group last.
    said: BTreeMap<String, String>,
    copies: Option<(u32, u32)>,
}

impl WatchLines {
    pub(super) fn update(&mut self, view: &RingProgressView) -> String {
        let mut text = String::new();
        let mut now = BTreeMap::new();
        for RingChangeView { group, change } in &view.changes {
            let names = |nodes: &[String]| if nodes.is_empty() { NONE.to_owned() } else { nodes.join(", ") };
            // A damaged copy is replaced where it is.
            let anew = if change.from == change.to { " (anew)" } else { "" };
            let (from, to) = (names(&change.from), names(&change.to));
            let what = format!("{from} -> {to}{anew}: {}", stage(change.stage));
            if self.said.get(group) != Some(&what) {
                text.push_str(&format!(
                    "{group}: {what}; it waits for {}\n",
                    output::one_line(&change.waits_for)
                ));
            }
            now.insert(group.clone(), what);
        }
        for group in self.said.keys().filter(|group| !now.contains_key(*group)) {
            text.push_str(&format!("{group}: over\n"));
        }
        self.said = now;
        let copies = (view.copies_done, view.copies_left);
        if self.copies.replace(copies) != Some(copies) || view.settled {
            text.push_str(&summary(view));
        }
        text
    }
}

fn summary(view: &RingProgressView) -> String {
    let elapsed = output::span(view.elapsed_ms);
    let done = output::count(view.copies_done as usize, "replica");
    if view.settled {
        return format!("settled: every group is where it should be; {done} copied in {elapsed}\n");
    }
    let left = match view.copies_per_s > 0.0 {
        true => {
            let ms = f64::from(view.copies_left) / view.copies_per_s * 1000.0;
            format!(", {:.1} per s, about {} left", view.copies_per_s, output::span(ms as u64))
        }
        false => String::new(),
    };
    let paused = if view.paused { "paused; " } else { "" };
    format!("{paused}{done} copied in {elapsed}, {} to copy{left}\n", view.copies_left)
}

fn stage(stage: ChangeStage) -> &'static str {
    match stage {
        ChangeStage::Waiting => "held up",
        ChangeStage::UnderWay => "under way",
        ChangeStage::Adding => "adding",
        ChangeStage::CatchingUp => "catching up",
        ChangeStage::ChangingVoters => "changing voters",
        ChangeStage::Finishing => "finishing",
    }
}

/// A group's change in a cell.
pub(super) fn change(placement: &PlacementView) -> Text {
    match &placement.change {
        _ if !placement.stuck_without.is_empty() => {
            Text(format!("no quorum: {} missing", placement.stuck_without.join(", ")), Some(Color::Red))
        }
        None => NONE.into(),
        Some(change) => Text(
            format!("+{} -{}, {}", change.to.join(" +"), change.from.join(" -"), stage(change.stage)),
            Some(Color::Cyan),
        ),
    }
}
