//! Operations as people see them: listed, and one in full.

use super::super::output::{self, Text};
use crate::api::types::{BuildView, MissingNode, OperationView, SubOperationView};

/// Images or containers that a listing names; the others are counted.
const ABOUT_MAX: usize = 4;

pub(in crate::cli) fn render_list(operations: &[OperationView], now_ms: u64, colour: bool) -> String {
    let rows = operations.iter().map(|operation| {
        let ended = operation.sub_operations.iter().filter(|sub| sub.ended_at_ms.is_some()).count();
        vec![
            operation.id.as_str().into(),
            operation.kind.as_str().into(),
            output::operation_state(operation.state),
            Text(format!("{ended} of {}", operation.sub_operations.len()), None),
            about(operation).into(),
            operation.submitted_by.as_str().into(),
            output::ago(now_ms.saturating_sub(operation.submitted_at_ms)).into(),
        ]
    });
    let head = ["ID", "KIND", "STATE", "ENDED", "OF", "SUBMITTED BY", "SUBMITTED"];
    output::table(&head, rows.collect(), colour)
}

/// What it is about: images, or containers where those are not made of it.
fn about(operation: &OperationView) -> String {
    let of = if operation.images.is_empty() { &operation.containers } else { &operation.images };
    match of.split_at_checked(ABOUT_MAX) {
        Some((first, rest)) if !rest.is_empty() => format!("{} and {} more", first.join(", "), rest.len()),
        _ => of.join(", "),
    }
}

pub(in crate::cli) fn render(operation: &OperationView, colour: bool) -> String {
    let mut pairs = vec![
        ("id", operation.id.clone()),
        ("session", operation.session.clone()),
        ("kind", operation.kind.clone()),
        ("state", output::operation_state(operation.state).0),
        ("strategy", output::strategy(operation.strategy).to_owned()),
    ];
    for (what, of) in [("images", &operation.images), ("containers", &operation.containers)] {
        if !of.is_empty() {
            pairs.push((what, of.join("\n")));
        }
    }
    if let Some(build) = &operation.build {
        let BuildView { context, context_bytes, holder, dockerfile, args, target } = build;
        let digest = context.get(..12).unwrap_or(context);
        pairs.push(("context", format!("{digest}, {}, sent to {holder}", output::bytes(*context_bytes))));
        pairs.push(("dockerfile", dockerfile.clone()));
        pairs.extend(target.iter().map(|target| ("target", target.clone())));
        if !args.is_empty() {
            pairs.push(("arguments", args.join(", ")));
        }
    }
    let submitted = format!("{} by {}", output::time(operation.submitted_at_ms), operation.submitted_by);
    pairs.push(("submitted", submitted));
    if let Some(of) = &operation.retry_of {
        pairs.push(("retry of", of.clone()));
    }
    if let Some(node) = &operation.cancelled_by {
        pairs.push(("cancelled", format!("at {node}")));
    }
    if let Some(ended_at_ms) = operation.ended_at_ms {
        let took_ms = ended_at_ms.saturating_sub(operation.submitted_at_ms);
        pairs.push(("ended", format!("{}, after {}", output::time(ended_at_ms), output::span(took_ms))));
    }
    if !operation.left_out.is_empty() {
        let lines = operation.left_out.iter().map(|MissingNode { node, why }| format!("{node} {why}"));
        pairs.push(("left out", lines.collect::<Vec<_>>().join("\n")));
    }
    let chosen = operation.sub_operations.iter().any(|sub| sub.why.is_some());
    let rows = operation.sub_operations.iter().map(|sub| {
        let mut row: Vec<Text> = vec![
            sub.node.as_str().into(),
            sub.subject.as_str().into(),
            output::sub_operation_state(sub.state),
            sub.attempts.to_string().into(),
            progress(unit(operation), sub).into(),
            sub.error.as_deref().or(sub.result.as_deref()).unwrap_or(output::NONE).into(),
        ];
        if chosen {
            row.push(sub.why.as_deref().unwrap_or(output::NONE).into());
        }
        row
    });
    let mut head = vec!["NODE", "OF", "STATE", "ATTEMPTS", "PROGRESS", "RESULT"];
    if chosen {
        head.push("CHOSEN FOR");
    }
    format!("{}\n{}", output::fields(&pairs), output::table(&head, rows.collect(), colour))
}

/// What an operation's progress is counted in.
pub(in crate::cli) fn unit(operation: &OperationView) -> &'static str {
    if operation.build.is_some() { "steps" } else { "layers" }
}

/// `2 of 5 layers, 12.0 MiB of 40.0 MiB`; so far as the engine has told. Of a build whose folder is on its way, bytes only.
pub(in crate::cli) fn progress(unit: &str, sub: &SubOperationView) -> String {
    if sub.layers_total == 0 && sub.total_bytes == 0 {
        return output::NONE.to_owned();
    }
    if sub.layers_total == 0 {
        return format!("{} of {}", output::bytes(sub.current_bytes), output::bytes(sub.total_bytes));
    }
    let layers = format!("{} of {} {unit}", sub.layers_done, sub.layers_total);
    if sub.total_bytes == 0 {
        return layers;
    }
    format!("{layers}, {} of {}", output::bytes(sub.current_bytes), output::bytes(sub.total_bytes))
}
