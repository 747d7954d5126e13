//! What the scripted fleet does with its nodes.

use crate::api::types::*;

pub(super) fn update(view: &mut NodeView, update: NodeUpdate) {
    view.labels.extend(update.label_add);
    view.labels.retain(|key, _| !update.label_rm.contains(key));
    let back = |setting| update.reset.contains(&setting);
    let announced = &view.announced;
    view.weight =
        update.weight.unwrap_or(if back(NodeSetting::Weight) { announced.weight } else { view.weight });
    let place = |set: Option<String>, back: bool, own: &Option<String>, now: &Option<String>| {
        set.or_else(|| if back { own.clone() } else { now.clone() })
    };
    view.zone = place(update.zone, back(NodeSetting::Zone), &announced.zone, &view.zone);
    view.region = place(update.region, back(NodeSetting::Region), &announced.region, &view.region);
    if let Some(state) = update.availability {
        let (by, at_ms) = (Some("alpha".to_owned()), Some(1_700_000_000_000));
        view.availability = AvailabilityView { state, message: update.message, by, at_ms };
    }
}

/// Every part of an operation that has not ended is on its node.
pub(super) fn work(node: &NodeView, operations: &[OperationView]) -> NodeWorkView {
    let subs = operations.iter().flat_map(|o| o.sub_operations.iter().map(move |sub| (o, sub)));
    let is_open =
        |(o, sub): &(&OperationView, &SubOperationView)| !o.state.is_terminal() && sub.node == node.name;
    let part = |(o, sub): (&OperationView, &SubOperationView)| OpenPartView {
        operation: o.id.clone(),
        index: sub.index,
        kind: o.kind.clone(),
        subject: sub.subject.clone(),
        state: sub.state,
    };
    let parts: Vec<OpenPartView> = subs.filter(is_open).map(part).collect();
    NodeWorkView {
        node: node.name.clone(),
        state: node.state,
        availability: node.availability.state,
        open: parts.len() as u32,
        parts,
    }
}

/// Beta has the only copies of two groups.
pub(super) fn loss(name: &str) -> LossView {
    if name != "beta" {
        return LossView { parts: Some(0), ..LossView::default() };
    }
    LossView { groups: vec!["g1".into(), "g5".into()], groups_waiting: vec!["g7".into()], parts: Some(2) }
}
