//! Which nodes an operation goes to: what this node knows of the others, for the pure rules of `longshore_model`'s placement.

use std::collections::BTreeMap;

use longshore_model::control::ControlState;
use longshore_model::operations::placement::{
    Candidate, LabelRequirement, PlaceError, Places, REQUIREMENTS_MAX, Requirements, check_preference,
    eligible, is_untold,
};
use longshore_model::operations::{LeftOut, Part, SUBS_MAX};
use longshore_raft::model::membership::{CAPABILITY_BYTES_MAX, NodeRecord, PLACE_BYTES_MAX, Standing};
use longshore_raft::{NodeId, Runtime};

use super::views::name_of;
use crate::api::types::*;
use crate::core::Core;
use crate::load::ImageName;
use crate::operations::{candidate, unable};

/// What is known when it is decided where work goes.
#[derive(Debug)]
pub(super) struct Asked<'a> {
    /// How much each node has to do.
    pub(super) open: &'a BTreeMap<NodeId, u32>,
    /// What it was given a moment ago, beside that.
    pub(super) placed: &'a BTreeMap<NodeId, u32>,
    /// The images that its engines had better have.
    pub(super) images: &'a [ImageName],
    /// Decides between nodes that are alike.
    pub(super) lot: u64,
}

/// Who does what, and who does nothing of what is meant for all.
#[derive(Debug, Default)]
pub(super) struct Placed {
    pub(super) parts: Vec<Part>,
    pub(super) left_out: Vec<LeftOut>,
}

/// What of a request says where its work goes.
#[derive(Debug)]
pub(super) struct Wanted {
    strategy: Strategy,
    on: Vec<String>,
    requirements: Requirements,
    replicas: Option<usize>,
    in_turn: bool,
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(ErrorCode::Invalid, message)
}

impl Wanted {
    /// Refuses what contradicts itself.
    pub(super) fn of(request: &OperationRequest) -> Result<Self, ApiError> {
        let OperationRequest {
            strategy,
            on,
            labels,
            zones,
            min_cpus,
            min_memory_bytes,
            min_storage_bytes,
            arch,
            capabilities,
            preferred_zone,
            replicas,
            in_turn,
            ..
        } = request;
        let is_run = matches!(request.action, Action::Run(_));
        let sizes = [min_memory_bytes, min_storage_bytes];
        let asks = min_cpus.is_some() || sizes.iter().any(|size| size.is_some()) || arch.is_some();
        let asks = asks || !capabilities.is_empty() || preferred_zone.is_some();
        let chosen = asks || !labels.is_empty() || !zones.is_empty() || (replicas.is_some() && !is_run);
        if !on.is_empty() && chosen {
            return Err(invalid(
                "either nodes are named, or labels, zones, what hosts have and a number of replicas choose them",
            ));
        }
        if preferred_zone.is_some() && *strategy == Strategy::Replicated && replicas.is_none() {
            let error = invalid("all nodes do it, so that there is nothing to prefer a zone for");
            return Err(error.hint("say how many with --replicas, or add --strategy distributed"));
        }
        let is_local_only = *strategy == Strategy::Local && !action_names_containers(&request.action);
        if is_local_only && on.len() > 1 {
            let error = invalid("the local strategy runs on one node");
            return Err(error.hint("use --strategy replicated for more than one"));
        }
        if replicas.is_some() && *strategy != Strategy::Replicated && !is_run {
            let error = invalid("a number of replicas goes with the replicated strategy only");
            return Err(error.hint("add --strategy replicated"));
        }
        if *replicas == Some(0) {
            return Err(invalid("an operation has one replica at least"));
        }
        if *in_turn && *strategy != Strategy::Distributed {
            let error = invalid("work goes to nodes in turn with the distributed strategy only");
            return Err(error.hint("add --strategy distributed"));
        }
        if on.len() > SUBS_MAX {
            return Err(invalid(format!("{SUBS_MAX} nodes can be named at most")));
        }
        if labels.len().max(zones.len()).max(capabilities.len()) > REQUIREMENTS_MAX {
            return Err(invalid(format!(
                "{REQUIREMENTS_MAX} labels and as many zones and capabilities can be asked for"
            )));
        }
        let long = |name: &&String| name.is_empty() || name.len() > CAPABILITY_BYTES_MAX;
        if let Some(name) = capabilities.iter().find(long) {
            return Err(invalid(format!("{name:?} is not a capability such as runtime:runc")));
        }
        if let Some(zone) = preferred_zone.iter().chain(zones).find(|zone| zone.len() > PLACE_BYTES_MAX) {
            return Err(invalid(format!("{zone:?} is not a zone: it has more than {PLACE_BYTES_MAX} bytes")));
        }
        let labels = labels.iter().map(|text| text.parse::<LabelRequirement>());
        Ok(Self {
            strategy: *strategy,
            on: on.clone(),
            requirements: Requirements {
                labels: labels.collect::<Result<_, _>>().map_err(invalid)?,
                zones: zones.clone(),
                cpus: min_cpus.unwrap_or(0),
                memory_bytes: min_memory_bytes.unwrap_or(0),
                storage_bytes: min_storage_bytes.unwrap_or(0),
                arch: arch.clone(),
                capabilities: capabilities.clone(),
                preferred_zone: preferred_zone.clone(),
            },
            replicas: replicas.map(|replicas| replicas as usize),
            in_turn: *in_turn,
        })
    }

    /// Where the work may go later.
    pub(super) fn places(&self, me: NodeId, state: &ControlState) -> Result<Places, ApiError> {
        let on = self.on.iter().map(|name| named(me, state, name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Places { on, requirements: self.requirements.clone() })
    }

    /// Where the copies of a run go: with the local strategy all to one node, with the replicated one each to another, else so that the loss of a node
    /// takes as few as can be.
    pub(super) fn copies<R: Runtime>(
        &self,
        core: &Core<R>,
        state: &ControlState,
        asked: &Asked<'_>,
        copies: u32,
    ) -> Result<Placed, ApiError> {
        let number = |placed: Placed| {
            let parts = placed.parts.into_iter().zip(0..).map(|(part, work)| Part { work, ..part });
            Placed { parts: parts.collect(), ..placed }
        };
        match self.strategy {
            Strategy::Local => self.parts(core, state, asked, copies).map(number),
            Strategy::Replicated => self.parts(core, state, asked, 1).map(number),
            Strategy::Distributed => {
                let candidates = self.candidates(core, state, asked, false)?;
                let able =
                    eligible(&candidates, &self.requirements).map_err(place_error)?.drawn_by(asked.lot);
                let parts =
                    if self.in_turn { able.deal(copies) } else { able.spread(copies, &BTreeMap::new()) };
                // There was nothing to choose: it is that node's, come what may.
                let chosen = |part: Part| Part { why: part.why.filter(|_| self.on.len() != 1), ..part };
                Ok(Placed { parts: parts.into_iter().map(chosen).collect(), left_out: Vec::new() })
            }
        }
    }

    /// Whether it goes to all nodes that can do it.
    fn is_for_all(&self) -> bool {
        self.strategy == Strategy::Replicated && self.replicas.is_none()
    }

    /// Whether to wait, not for long: nodes have not told yet whether they meet the requirements, and it is for all of them, or for more than can do it
    /// as far as is known.
    pub(super) fn is_untold<R: Runtime>(&self, core: &Core<R>, state: &ControlState) -> bool {
        let nothing = BTreeMap::new();
        let asked = Asked { open: &nothing, placed: &nothing, images: &[], lot: 0 };
        let Ok(candidates) = self.candidates(core, state, &asked, self.is_for_all()) else { return false };
        let wanted = match self.strategy {
            Strategy::Replicated => self.replicas.unwrap_or(1),
            Strategy::Local | Strategy::Distributed => 1,
        };
        let suffice =
            || eligible(&candidates, &self.requirements).is_ok_and(|able| able.all().len() >= wanted);
        is_untold(&candidates, &self.requirements) && (self.is_for_all() || !suffice())
    }

    fn candidates<R: Runtime>(
        &self,
        core: &Core<R>,
        state: &ControlState,
        asked: &Asked<'_>,
        is_for_all: bool,
    ) -> Result<Vec<Candidate>, ApiError> {
        let named = self.on.iter().map(|name| named(core.me, state, name)).collect::<Result<Vec<_>, _>>()?;
        let is_candidate = |n: &&NodeRecord| named.is_empty() || named.contains(&n.id);
        let candidate = |record: &NodeRecord| Candidate {
            unable: if named.is_empty() {
                // What is for all waits for an engine that is away, if it is known to be one that can do it.
                let waits =
                    is_for_all && (record.engine_facts().is_some() || !self.requirements.ask_for_capacity());
                unable(core.peer_state(record.id), record, waits)
            } else {
                None
            },
            placed: asked.placed.get(&record.id).copied().unwrap_or(0),
            ..candidate(core, record, asked.open, asked.images)
        };
        let candidates: Vec<Candidate> =
            state.membership.members().filter(is_candidate).map(candidate).collect();
        check_preference(&candidates, &self.requirements).map_err(place_error)?;
        Ok(candidates)
    }

    /// Who does which of `works` pieces. Named nodes are taken as they are, dead or alive: their work waits for them.
    pub(super) fn parts<R: Runtime>(
        &self,
        core: &Core<R>,
        state: &ControlState,
        asked: &Asked<'_>,
        works: u32,
    ) -> Result<Placed, ApiError> {
        let Self { strategy, on, requirements, replicas, in_turn } = self;
        let named = on.iter().map(|name| named(core.me, state, name)).collect::<Result<Vec<_>, _>>()?;
        let is_for_all = self.is_for_all();
        if *strategy == Strategy::Local && on.is_empty() && *requirements == Requirements::default() {
            let parts = each_does_all(vec![(self::named(core.me, state, "self")?, None)], works);
            return Ok(Placed { parts, left_out: Vec::new() });
        }
        let candidates = self.candidates(core, state, asked, is_for_all)?;
        let eligible = eligible(&candidates, requirements).map_err(place_error)?.drawn_by(asked.lot);
        let nodes = match (strategy, replicas) {
            (Strategy::Replicated, None) => eligible.all().len(),
            (Strategy::Replicated, Some(count)) => *count,
            (Strategy::Local | Strategy::Distributed, _) => 1,
        };
        if nodes.saturating_mul(works as usize) > SUBS_MAX {
            let message = format!(
                "{works} images on {nodes} nodes are more than the {SUBS_MAX} parts that an operation can have"
            );
            return Err(invalid(message).hint("submit several operations"));
        }
        let parts = match (strategy, replicas) {
            (Strategy::Distributed, _) if *in_turn => eligible.deal(works),
            (Strategy::Distributed, _) => eligible.distribute(works),
            (Strategy::Replicated, None) => {
                each_does_all(eligible.all().into_iter().map(|node| (node, None)).collect(), works)
            }
            (Strategy::Replicated, Some(count)) => chosen(eligible.choose(*count), works)?,
            (Strategy::Local, _) if !on.is_empty() => {
                each_does_all(named.into_iter().map(|node| (node, None)).collect(), works)
            }
            (Strategy::Local, _) => chosen(eligible.choose(1), works)?,
        };
        let left_out = if is_for_all { eligible.left_out() } else { Vec::new() };
        Ok(Placed { parts, left_out })
    }
}

/// Whether it is done where the containers are.
fn action_names_containers(action: &Action) -> bool {
    matches!(action, Action::Stop { .. } | Action::Start { .. } | Action::Rm { .. })
}

fn chosen(nodes: Result<Vec<(NodeId, String)>, PlaceError>, works: u32) -> Result<Vec<Part>, ApiError> {
    let nodes = nodes.map_err(place_error)?;
    Ok(each_does_all(nodes.into_iter().map(|(node, why)| (node, Some(why))).collect(), works))
}

fn each_does_all(nodes: Vec<(NodeId, Option<String>)>, works: u32) -> Vec<Part> {
    let of = |(node, why): (NodeId, Option<String>)| {
        (0..works).map(move |work| Part { node, work, why: why.clone() })
    };
    nodes.into_iter().flat_map(of).collect()
}

fn place_error(error: PlaceError) -> ApiError {
    let hint = match &error {
        PlaceError::UnknownLabel(..) => {
            "`longshore node ls` lists the nodes; `longshore node update NODE --label-add` labels one"
        }
        PlaceError::UnknownZone(..) => "`longshore node ls --format json` tells the zone of each",
        PlaceError::UnknownCapability(..) => "`longshore node inspect NODE` tells what its engine can do",
        error if error.may_pass() => {
            "try again in a moment: nodes tell what they have when they start, and every ten seconds"
        }
        PlaceError::Nobody(_) => "start a node that can, ask for less, or name nodes with --on",
        PlaceError::TooFew { .. } => "ask for fewer replicas, or for less of each",
    };
    ApiError::new(ErrorCode::Conflict, error.to_string()).hint(hint)
}

/// A node by name, id, or `self`, if it takes new work.
pub(super) fn named(me: NodeId, state: &ControlState, name: &str) -> Result<NodeId, ApiError> {
    let found = match name {
        "self" => state.membership.get(me).ok_or_else(|| format!("{me} is no member")),
        _ => state.membership.resolve(name).map_err(|e| e.to_string()),
    };
    let node = found
        .map_err(|why| ApiError::new(ErrorCode::NotFound, why).hint("`longshore node ls` lists the nodes"))?;
    if node.standing != Standing::Active {
        let message = format!("node {} is leaving or has left", name_of(state, node.id));
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    if !node.is_available() {
        let (name, state) = (&node.profile.name, node.availability.in_words());
        // With the way out in the message: callers have hints of their own.
        let message =
            format!("{name} is {state}: `longshore node update {name} --availability active` ends that");
        return Err(ApiError::new(ErrorCode::Conflict, message));
    }
    Ok(node.id)
}

#[cfg(test)]
#[path = "placing_tests.rs"]
mod tests;
