//! `longshore status`.

use super::args::FormatArgs;
use super::error::CliError;
use super::output;
use super::session::Session;
use crate::api::types::StatusView;

pub(super) async fn status(session: &mut Session<'_>, args: FormatArgs) -> Result<(), CliError> {
    let status = session.client.status().await?;
    session.show(args.format, &status, |status, _| render(status))
}

pub(super) fn render(status: &StatusView) -> String {
    let mut pairs = vec![
        ("fleet", status.fleet.clone()),
        ("node", format!("{} ({}), {}", status.node_id, status.name, output::role(status.role))),
        ("address", status.address.clone()),
        ("leader", status.leader.clone().unwrap_or_else(|| "none known".to_owned())),
        (
            "nodes",
            format!("{} of {} alive, {} voting", status.nodes_alive, status.nodes_total, status.voters),
        ),
        (
            "log",
            format!(
                "term {}, committed {}, applied {}",
                status.term, status.committed_index, status.applied_index
            ),
        ),
        ("operations", format!("{} running in this node's groups", status.operations_running)),
        ("engine", output::engine_in_full(&status.engine)),
        ("version", status.version.clone()),
        ("up for", output::span(status.uptime_ms)),
    ];
    if let Some(skew_ms) = status.clock_skew_max_ms {
        pairs.push(("clock skew", format!("{skew_ms} ms at most")));
    }
    let warnings: Vec<String> = status.warnings.iter().map(|warning| output::one_line(warning)).collect();
    if !warnings.is_empty() {
        pairs.push(("warnings", warnings.join("\n")));
    }
    output::fields(&pairs)
}
