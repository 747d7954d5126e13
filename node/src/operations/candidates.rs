//! What this node knows of the others, for the pure rules of `longshore_model`'s placement.

use std::collections::BTreeMap;

use longshore_model::operations::OperationKind;
use longshore_model::operations::placement::{Candidate, Capacity, Miss};
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{EngineFacts, EngineReport, NodeRecord, Standing, WEIGHT_MAX};
use longshore_raft::{NodeId, Runtime};

use crate::core::Core;
use crate::load::ImageName;
use crate::ring::Replicas;

/// A node that could do anything. `open` tells how much each node has to do; `images`, which ones its engine had better have.
pub(crate) fn candidate<R: Runtime>(
    core: &Core<R>,
    record: &NodeRecord,
    open: &BTreeMap<NodeId, u32>,
    images: &[ImageName],
) -> Candidate {
    Candidate {
        node: record.id,
        name: record.profile.name.clone(),
        zone: record.zone().map(str::to_owned),
        labels: record.profile.labels.clone(),
        capacity: record.engine_facts().map(|facts| capacity(facts).bounded()),
        load: core.loads.of(record.id).map(|seen| seen.load),
        has: core.loads.has(record.id, images),
        weight: record.weight().min(WEIGHT_MAX),
        open: open.get(&record.id).copied().unwrap_or(0),
        placed: 0,
        is_suspect: core.peer_state(record.id) == PeerState::Suspect,
        unable: None,
    }
}

fn capacity(facts: &EngineFacts) -> Capacity {
    let EngineFacts { arch, cpus, memory_bytes, capabilities } = facts.clone();
    Capacity { cpus, memory_bytes, arch, capabilities }
}

/// The images that an operation's engines are to have, in the order of its work.
pub(crate) fn images_of(kind: &OperationKind) -> Vec<ImageName> {
    kind.images_used().into_iter().map(ImageName::of).collect()
}

/// How many parts each node was given and has not ended: in the groups that this node has a replica of, or as many as the node says that it is at.
pub(crate) fn open_parts<R: Runtime>(core: &Core<R>, replicas: &Replicas<R>) -> BTreeMap<NodeId, u32> {
    let mut open: BTreeMap<NodeId, u32> = BTreeMap::new();
    for (_, replica) in replicas.all() {
        replica.with_state(|machine| {
            for (_, sub) in machine.operations().open_subs() {
                *open.entry(sub.node).or_default() += 1;
            }
        });
    }
    let members = core.group.with_state(|s| s.membership.members().map(|node| node.id).collect::<Vec<_>>());
    for node in members {
        if let Some(running) =
            core.loads.of(node).map(|seen| seen.load.running).filter(|running| *running > 0)
        {
            let known: &mut u32 = open.entry(node).or_default();
            *known = running.max(*known);
        }
    }
    open
}

/// Why a node gets no work that was not meant for it by name. What goes to all of the nodes goes to those too whose engine does not answer just now:
/// it is tried again for a while.
pub(crate) fn unable(peer: PeerState, node: &NodeRecord, is_for_all: bool) -> Option<Miss> {
    let unfit = |why: &str| Some(Miss::Unfit(why.to_owned()));
    let away = |why: &str| Some(Miss::Away(why.to_owned()));
    match &node.engine {
        _ if node.standing != Standing::Active => unfit("is leaving"),
        _ if !node.is_available() => unfit(&format!("is {}", node.availability.in_words())),
        _ if peer == PeerState::Failed => away("is dead"),
        EngineReport::NotConfigured => unfit("has no Docker engine"),
        EngineReport::Unavailable { .. } if !is_for_all => away("has a Docker engine that does not answer"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use longshore_model::control::ControlState;
    use longshore_raft::model::membership::NodeProfile;

    use super::*;

    #[test]
    fn work_goes_to_engines_that_answer_unless_it_goes_to_all() {
        let node = |engine| {
            let mut state = ControlState::default();
            let profile = NodeProfile {
                name: "alder".into(),
                address: ([127, 0, 0, 1], 7400).into(),
                zone: None,
                region: None,
                labels: Default::default(),
                version: "0.1.0".into(),
                weight: 1024,
            };
            state.membership.admit([1; 32], profile, 0).unwrap();
            NodeRecord { engine, ..state.membership.get(NodeId(1)).unwrap().clone() }
        };
        let down = node(EngineReport::Unavailable { reason: "no socket".into() });
        let able = |peer, node: &NodeRecord, is_for_all| unable(peer, node, is_for_all).is_none();
        assert!(able(PeerState::Suspect, &node(EngineReport::Unknown), false));
        assert!(!able(PeerState::Failed, &node(EngineReport::Unknown), true));
        assert!(!able(PeerState::Alive, &node(EngineReport::NotConfigured), true));
        assert!(able(PeerState::Alive, &down, true));
        assert!(!able(PeerState::Alive, &down, false));
        let leaving = NodeRecord { standing: Standing::Leaving, ..down };
        assert!(!able(PeerState::Alive, &leaving, true));
    }
}
