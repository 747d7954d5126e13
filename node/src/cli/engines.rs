//! `longshore op ps | images | volumes | runs`: what all engines have.

use std::collections::BTreeMap;

use clap::Args;
use longshore_raft::Runtime as _;

use super::args::ListArgs;
use super::error::CliError;
use super::output::{self, NONE, Text};
use super::session::{Runtime, Session};
use crate::api::types::{
    ContainerStateView, ContainerView, CopyStateView, ImageView, MissingNode, RunView, StaleNode, VolumeView,
};

/// Digits of an id that are shown.
const ID_DIGITS: usize = 12;

#[derive(Debug, Args)]
pub(super) struct EngineListArgs {
    /// This node only, by name, id, or self
    #[arg(long, value_name = "NODE")]
    on: Option<String>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Args)]
pub(super) struct PsArgs {
    /// Those too that do not run
    #[arg(long, short)]
    all: bool,
    #[command(flatten)]
    engines: EngineListArgs,
}

pub(super) async fn ps(session: &mut Session<'_>, args: PsArgs) -> Result<(), CliError> {
    let EngineListArgs { on, list } = args.engines;
    let mut listed = session.client.list_containers(on.as_deref()).await?;
    let is_up = |c: &ContainerView| {
        use ContainerStateView::{Paused, Restarting, Running};
        matches!(c.state, Running | Paused | Restarting)
    };
    listed.containers.retain(|container| args.all || is_up(container));
    warn(session, &listed.stale, &listed.missing);
    if list.quiet {
        let ids: String = listed.containers.iter().map(|c| format!("{}\n", short(&c.id))).collect();
        return session.print(&ids);
    }
    let now_ms = Runtime::unix_time_ms();
    session.show(list.format, &listed, |listed, colour| render_containers(&listed.containers, now_ms, colour))
}

pub(super) async fn images(session: &mut Session<'_>, args: EngineListArgs) -> Result<(), CliError> {
    let listed = session.client.list_images(args.on.as_deref()).await?;
    warn(session, &listed.stale, &listed.missing);
    if args.list.quiet {
        let ids: std::collections::BTreeSet<&str> =
            listed.images.iter().map(|image| short(&image.id)).collect();
        let ids: String = ids.into_iter().map(|id| format!("{id}\n")).collect();
        return session.print(&ids);
    }
    session.show(args.list.format, &listed, |listed, colour| render_images(&listed.images, colour))
}

pub(super) async fn volumes(session: &mut Session<'_>, args: EngineListArgs) -> Result<(), CliError> {
    let listed = session.client.list_volumes(args.on.as_deref()).await?;
    warn(session, &listed.stale, &listed.missing);
    if args.list.quiet {
        let names: String = listed.volumes.iter().map(|volume| format!("{}\n", volume.name)).collect();
        return session.print(&names);
    }
    session.show(args.list.format, &listed, |listed, colour| render_volumes(&listed.volumes, colour))
}

pub(super) async fn runs(session: &mut Session<'_>, list: ListArgs) -> Result<(), CliError> {
    let runs = session.client.list_runs().await?;
    if list.quiet {
        let ids: String = runs.iter().map(|run| format!("{}\n", run.id)).collect();
        return session.print(&ids);
    }
    session.show(list.format, &runs, |runs, colour| render_runs(runs, colour))
}

fn warn(session: &mut Session<'_>, stale: &[StaleNode], missing: &[MissingNode]) {
    let now_ms = Runtime::unix_time_ms();
    for StaleNode { node, as_of_ms, why } in stale {
        let ago = output::ago(now_ms.saturating_sub(*as_of_ms));
        session.terminal.report(&format!("note: {node} is shown as last seen {ago}: {why}\n"));
    }
    for MissingNode { node, why } in missing {
        session.terminal.report(&format!("note: {node} is not in this list: {why}\n"));
    }
}

/// The first digits of an id, without its `sha256:`.
fn short(id: &str) -> &str {
    let digits = id.strip_prefix("sha256:").unwrap_or(id);
    digits.get(..ID_DIGITS).unwrap_or(digits)
}

fn container_state(container: &ContainerView) -> Text {
    use comfy_table::Color;
    let (text, colour) = match container.state {
        ContainerStateView::Created => ("created".to_owned(), None),
        ContainerStateView::Running => match container.health.as_deref() {
            Some("healthy") | None => ("running".to_owned(), Some(Color::Green)),
            Some(health) => (format!("running, {health}"), Some(Color::Yellow)),
        },
        ContainerStateView::Paused => ("paused".to_owned(), Some(Color::Yellow)),
        ContainerStateView::Restarting => ("restarting".to_owned(), Some(Color::Yellow)),
        ContainerStateView::Exited => match container.exit_code.unwrap_or(0) {
            0 => ("exited".to_owned(), None),
            code => (format!("exited with {code}"), Some(Color::Red)),
        },
        ContainerStateView::Dead => ("dead".to_owned(), Some(Color::Red)),
    };
    Text(text, colour)
}

fn render_containers(containers: &[ContainerView], now_ms: u64, colour: bool) -> String {
    let rows = containers.iter().map(|container| {
        let made_by = container.run.as_deref().or(container.operation.as_deref());
        vec![
            container.node.as_str().into(),
            short(&container.id).into(),
            container.name.as_str().into(),
            container.image.as_str().into(),
            container_state(container),
            match container.ports.is_empty() {
                true => NONE.into(),
                false => container.ports.join(", ").into(),
            },
            output::ago(now_ms.saturating_sub(container.created_at_ms)).into(),
            made_by.unwrap_or(NONE).into(),
        ]
    });
    let head = ["NODE", "ID", "NAME", "IMAGE", "STATE", "PORTS", "CREATED", "OPERATION"];
    output::table(&head, rows.collect(), colour)
}

/// One row for an image, whichever nodes have it.
fn render_images(images: &[ImageView], colour: bool) -> String {
    let mut by_id: BTreeMap<(String, &str), (u64, Vec<&str>)> = BTreeMap::new();
    for image in images {
        let tags = if image.tags.is_empty() { NONE.to_owned() } else { image.tags.join(", ") };
        let (size, nodes) = by_id.entry((tags, &image.id)).or_insert((image.size_bytes, Vec::new()));
        *size = image.size_bytes.max(*size);
        nodes.push(&image.node);
    }
    let rows = by_id.into_iter().map(|((tags, id), (size, nodes))| -> Vec<Text> {
        vec![tags.into(), short(id).into(), output::bytes(size).into(), nodes.join(", ").into()]
    });
    output::table(&["IMAGE", "ID", "SIZE", "NODES"], rows.collect(), colour)
}

fn render_volumes(volumes: &[VolumeView], colour: bool) -> String {
    let rows = volumes.iter().map(|volume| -> Vec<Text> {
        vec![volume.node.as_str().into(), volume.name.as_str().into(), volume.driver.as_str().into()]
    });
    output::table(&["NODE", "VOLUME", "DRIVER"], rows.collect(), colour)
}

fn copy_state(state: CopyStateView) -> Text {
    use comfy_table::Color;
    let (text, colour) = match state {
        CopyStateView::Starting => ("starting", Some(Color::Yellow)),
        CopyStateView::Up => ("up", Some(Color::Green)),
        CopyStateView::Unheard => ("not heard of", Some(Color::Yellow)),
        CopyStateView::Down => ("down", Some(Color::Red)),
        CopyStateView::Completed => ("completed", None),
    };
    Text(text.to_owned(), colour)
}

pub(super) fn render_runs(runs: &[RunView], colour: bool) -> String {
    let rows = runs.iter().flat_map(|run| {
        run.copies.iter().map(|copy| {
            let state = match run.stopped {
                true => Text("stopped".to_owned(), None),
                false => copy_state(copy.state),
            };
            vec![
                run.name.as_deref().unwrap_or(&run.id).into(),
                run.image.as_str().into(),
                copy.container.as_str().into(),
                copy.node.as_str().into(),
                state,
                copy.operation.as_str().into(),
                copy.why.as_deref().unwrap_or(NONE).into(),
            ]
        })
    });
    let head = ["RUN", "IMAGE", "CONTAINER", "NODE", "STATE", "OPERATION", "WHY"];
    output::table(&head, rows.collect(), colour)
}
