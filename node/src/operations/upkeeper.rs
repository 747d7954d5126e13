//! What the leader of a group does for work whose node can not do it: open parts go to other nodes, copies that are down are replaced.
//!
//! Level-triggered like the dispatcher. How long a node has not been heard of is this node's own view, and no proof; so what goes elsewhere is what may
//! run twice, or what nobody holds a lease of (the log checks that again), and copies of runs, of which the one that does not count any more
//! is removed by its own node. Must never: change an operation but through the group's log, or move what was given to a node by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use longshore_model::container::{CopyOf, Origin};
use longshore_model::control::ControlState;
use longshore_model::operations::placement::{Candidate, Miss, Places, eligible, lot};
use longshore_model::operations::{
    CopyState, Kept, Move, OperationCommand, OperationKind, OperationReply, Operations, Part, Replaced,
    RunSpec, Strategy, SubKey, SubState, Submission, Upkeep,
};
use longshore_model::partition::PartitionId;
use longshore_raft::consensus::machine::LogTime;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::model::detector::PeerState;
use longshore_raft::model::membership::{EngineReport, NodeRecord, Standing};
use longshore_raft::transport::TransportRef;
use longshore_raft::{GroupId, NodeId, Runtime};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::candidates::{candidate, images_of, open_parts, unable};
use super::farewells::Farewells;
use super::offers::{Offer, Offers};
use crate::core::Core;
use crate::engines::Care;
use crate::load::ImageName;
use crate::ring::{Front, Partitions, Replicas};

/// How often groups are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pings come more often than that from a node that is there.
const SILENT: Duration = Duration::from_millis(400);
/// How long a node is suspected before its open parts go to others.
const MOVE_AFTER: Duration = Duration::from_secs(1);
/// How long a node is suspected before its copies are replaced: they may be running, and a second one costs more than a second pull.
const REPLACE_AFTER: Duration = Duration::from_secs(2);
/// How long an engine may be away before the copies on it are replaced: it may be restarted, or be getting a new version.
const ENGINE_BACK_WITHIN: Duration = Duration::from_secs(45);
/// How often a node is told which copies it should have.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Most moves in one command, and most replacements of one look: the next look goes on.
const MOVES_MAX: usize = 256;
const REPAIRS_MAX: usize = 32;

/// See the module's docs. One per node.
pub(crate) struct Upkeeper<R: Runtime> {
    core: Arc<Core<R>>,
    replicas: Arc<Replicas<R>>,
    front: Front<R>,
    offers: Arc<Offers<R>>,
    farewells: Arc<Farewells<R>>,
    care: Arc<Care>,
    transport: TransportRef,
    /// Nodes that are not heard of, and since when without a break.
    suspects: BTreeMap<NodeId, R::Instant>,
    /// Nodes whose engine does not answer, or that have none, and since when.
    engineless: BTreeMap<NodeId, R::Instant>,
    /// Groups for which something is being proposed.
    proposing: Arc<Mutex<BTreeSet<GroupId>>>,
    tell_next: R::Instant,
}

/// Where a node stands, for what is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Away {
    /// Its engine does not answer: nothing is begun there.
    Engineless,
    /// It is to be emptied, or leaves; what runs there goes on.
    Leaves,
    /// Its open parts are to go.
    Silent,
    /// Its copies are to be replaced, too.
    Gone,
}

/// What is to be proposed for a group.
#[derive(Default)]
struct Todo {
    moves: BTreeMap<PartitionId, Vec<Move>>,
    repairs: Vec<(Submission, Replaced)>,
}

impl<R: Runtime> Upkeeper<R> {
    pub(crate) fn new(
        core: Arc<Core<R>>,
        replicas: Arc<Replicas<R>>,
        offers: Arc<Offers<R>>,
        farewells: Arc<Farewells<R>>,
        care: Arc<Care>,
        transport: TransportRef,
    ) -> Self {
        let front = Front::new(Arc::clone(&core), Arc::clone(&replicas));
        let (suspects, engineless) = (BTreeMap::new(), BTreeMap::new());
        let (proposing, tell_next) = (Arc::default(), R::Instant::now());
        Self {
            core,
            replicas,
            front,
            offers,
            farewells,
            care,
            transport,
            suspects,
            engineless,
            proposing,
            tell_next,
        }
    }

    pub(crate) async fn run(mut self, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(LOOK_EVERY) => {}
            }
            let away = self.look_at_nodes();
            let tell = R::Instant::now() >= self.tell_next;
            if tell {
                self.tell_next = R::Instant::now() + TELL_EVERY;
            }
            // What one group is given counts for the next: they all decide in the same moment.
            let mut open = None;
            for (group, replica) in self.replicas.led() {
                if tell {
                    self.tell(&replica);
                }
                self.see_to(group, &replica, &away, &mut open);
            }
        }
    }

    /// Nodes that do not do what they were given.
    fn look_at_nodes(&mut self) -> BTreeMap<NodeId, Away> {
        let now = R::Instant::now();
        let (core, farewells) = (&self.core, &self.farewells);
        let (suspects, engineless) = (&mut self.suspects, &mut self.engineless);
        core.group.with_state(|state| {
            let mut away = BTreeMap::new();
            for node in state.membership.all() {
                let silent_for = match core.peer_state(node.id) {
                    PeerState::Alive => {
                        if suspects.remove(&node.id).is_some() {
                            farewells.forget(node.id);
                        }
                        Duration::ZERO
                    }
                    PeerState::Suspect | PeerState::Failed => {
                        let since = suspects.entry(node.id).or_insert(now);
                        let ago = core.monitor.last_heard_ms(node.id).map(Duration::from_millis);
                        // Heard and silent again between two looks: it was back, and what it said before it went is over.
                        if let Some(heard) = ago.filter(|ago| *ago >= SILENT).map(|ago| now - ago)
                            && heard > *since
                        {
                            farewells.forget(node.id);
                            *since = heard;
                        }
                        now - *since
                    }
                };
                let without_for = match &node.engine {
                    EngineReport::Unavailable { .. } | EngineReport::NotConfigured => {
                        Some(now - *engineless.entry(node.id).or_insert(now))
                    }
                    EngineReport::Ready { .. } | EngineReport::Unknown => {
                        engineless.remove(&node.id);
                        None
                    }
                };
                let how = match node.standing {
                    Standing::Left | Standing::Removed => Away::Gone,
                    _ if silent_for >= REPLACE_AFTER && !farewells.excuses(node.id) => Away::Gone,
                    _ if silent_for >= MOVE_AFTER => Away::Silent,
                    _ if node.is_draining() => Away::Leaves,
                    Standing::Active if without_for.is_some_and(|time| time >= ENGINE_BACK_WITHIN) => {
                        Away::Leaves
                    }
                    Standing::Active if without_for.is_some() => Away::Engineless,
                    Standing::Active | Standing::Leaving => continue,
                };
                away.insert(node.id, how);
            }
            away
        })
    }

    /// Tells nodes which copies they should have, so that they miss those that are gone.
    fn tell(&self, replica: &Partitions<R>) {
        let mut by_node: BTreeMap<NodeId, Vec<Origin>> = BTreeMap::new();
        replica.with_state(|machine| {
            for kept in machine.operations().kept().filter(|kept| !kept.stopped) {
                for (copy, state) in kept.copies.iter().enumerate() {
                    if let Some(previous) = state.previous {
                        by_node.entry(previous.node).or_default();
                    }
                    if let CopyState::Up { token, .. } = state.state {
                        let kept = Some(CopyOf { run: kept.run, copy: copy as u32 });
                        by_node.entry(state.node).or_default().push(Origin { sub: state.part, token, kept });
                    }
                }
            }
        });
        for (node, copies) in by_node {
            if self.core.is_alive(node) {
                self.care.tell::<R>(&self.transport, self.core.me, node, copies);
            }
        }
    }

    fn see_to(
        &self,
        group: GroupId,
        replica: &Partitions<R>,
        away: &BTreeMap<NodeId, Away>,
        open: &mut Option<BTreeMap<NodeId, u32>>,
    ) {
        if self.proposing.lock().contains(&group) {
            return;
        }
        let now = replica.log_time();
        // Most looks find nothing, and need to know no more.
        if !replica.with_state(|machine| has_work(machine.operations(), away, now)) {
            return;
        }
        let open = open.get_or_insert_with(|| open_parts(&self.core, &self.replicas));
        let todo = replica.with_state(|machine| {
            let operations = machine.operations();
            self.core.group.with_state(|state| self.todo(operations, state, away, open, now))
        });
        if todo.moves.is_empty() && todo.repairs.is_empty() {
            return;
        }
        self.proposing.lock().insert(group);
        let (proposing, front, offers) =
            (Arc::clone(&self.proposing), self.front.clone(), Arc::clone(&self.offers));
        let transport = Arc::clone(&self.transport);
        drop(R::spawn(async move {
            propose(&front, &offers, &transport, todo).await;
            proposing.lock().remove(&group);
        }));
    }

    fn todo(
        &self,
        operations: &Operations,
        state: &ControlState,
        away: &BTreeMap<NodeId, Away>,
        open: &mut BTreeMap<NodeId, u32>,
        now: LogTime,
    ) -> Todo {
        let mut todo = Todo::default();
        let mut moves = 0;
        for (key, sub) in operations.open_subs() {
            let operation = operations.get(key.operation).expect("its part is open");
            let may_go = sub.why.is_some() && operation.kind.may_move();
            let goes = match (away.get(&sub.node), &sub.state) {
                (None, _) => false,
                (Some(_), SubState::Assigned { .. }) => true,
                // On a node that is to be emptied it comes to its end.
                (Some(Away::Leaves | Away::Engineless), _) => false,
                (Some(_), _) => sub.is_free(operation.kind.may_run_twice(), now),
            };
            if !may_go || !goes || moves >= MOVES_MAX {
                continue;
            }
            let same = operation.subs.iter().filter(|other| other.work == sub.work).map(|other| other.node);
            let taken: BTreeSet<NodeId> = same.collect();
            let images = images_of(&operation.kind);
            // Of the one piece that moves.
            let images = images.get(sub.work as usize).or(images.first()).map(std::slice::from_ref);
            let fits = |node: &NodeRecord| !taken.contains(&node.id);
            let images = images.unwrap_or_default();
            let candidates = self.candidates(state, &operation.places, away, open, images, fits);
            let Ok(able) = eligible(&candidates, &operation.places.requirements) else { continue };
            let of = lot(&[key.operation.to_string().as_bytes(), &key.index.to_le_bytes()]);
            let Ok(chosen) = able.drawn_by(of).choose(1) else { continue };
            let (to, why) = chosen.into_iter().next().expect("one was asked for");
            let why = format!("moved from {}: {why}", name(state, sub.node));
            *open.entry(to).or_default() += 1;
            moves += 1;
            let of = todo.moves.entry(key.operation.partition).or_default();
            of.push(Move { sub: key, from: sub.node, to, why });
        }
        for kept in operations.kept() {
            for copy in 0..kept.copies.len() {
                if todo.repairs.len() >= REPAIRS_MAX || !needs_replacement(kept, copy, away, now) {
                    continue;
                }
                let has_failed = operations.has_failed(kept.copies[copy].part);
                if let Some(repair) = self.repair(kept, copy as u32, has_failed, state, away, open) {
                    todo.repairs.push(repair);
                }
            }
        }
        todo
    }

    /// Nodes that could take something.
    fn candidates(
        &self,
        state: &ControlState,
        places: &Places,
        away: &BTreeMap<NodeId, Away>,
        open: &BTreeMap<NodeId, u32>,
        images: &[ImageName],
        fits: impl Fn(&NodeRecord) -> bool,
    ) -> Vec<Candidate> {
        let members = state.membership.members();
        let fitting =
            members.filter(|node| (places.on.is_empty() || places.on.contains(&node.id)) && fits(node));
        let candidate = |node: &NodeRecord| {
            let peer = self.core.peer_state(node.id);
            let unable = match away.get(&node.id) {
                Some(_) => Some(Miss::Away("is away".to_owned())),
                None if peer == PeerState::Suspect => Some(Miss::Away("is not heard of".to_owned())),
                None => unable(peer, node, false),
            };
            Candidate { unable, ..candidate(&self.core, node, open, images) }
        };
        fitting.map(candidate).collect()
    }

    /// `has_failed`: the part that was to make the copy did, where it was.
    fn repair(
        &self,
        kept: &Kept,
        copy: u32,
        has_failed: bool,
        state: &ControlState,
        away: &BTreeMap<NodeId, Away>,
        open: &mut BTreeMap<NodeId, u32>,
    ) -> Option<(Submission, Replaced)> {
        let old = &kept.copies[copy as usize];
        let image = [ImageName::of(&kept.spec.container.image)];
        // What failed there would fail there again, and since it has the fewest copies it would be chosen again: a full disk, a port that is taken.
        let elsewhere = |node: &NodeRecord| !has_failed || node.id != old.node;
        let mut candidates = self.candidates(state, &kept.places, away, open, &image, elsewhere);
        if eligible(&candidates, &kept.places.requirements).is_err() {
            candidates = self.candidates(state, &kept.places, away, open, &image, |_| true);
        }
        let able = match eligible(&candidates, &kept.places.requirements) {
            Ok(able) => able.drawn_by(lot(&[kept.run.to_string().as_bytes(), &copy.to_le_bytes()])),
            Err(error) => {
                tracing::debug!(run = %kept.run, copy, %error, "a copy can not be replaced; trying again");
                return None;
            }
        };
        let mut there: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (other, state) in kept.copies.iter().enumerate() {
            let counts = matches!(state.state, CopyState::Starting | CopyState::Up { .. });
            if counts && other as u32 != copy && away.get(&state.node) != Some(&Away::Gone) {
                *there.entry(state.node).or_default() += 1;
            }
        }
        let chosen = able.spread(1, &there).pop()?;
        let cause = match &old.state {
            CopyState::Down { why, .. } => why.clone(),
            _ => format!("{} is away", name(state, old.node)),
        };
        let why = format!("copy {} again ({cause}): {}", copy + 1, chosen.why.unwrap_or_default());
        *open.entry(chosen.node).or_default() += 1;
        let of = CopyOf { run: kept.run, copy };
        let spec = RunSpec {
            container: kept.spec.container.clone(),
            name: Some(kept.spec.container_name(kept.run, copy)),
            copies: 1,
            upkeep: Upkeep::Replaces(of),
        };
        let submission = Submission {
            session: kept.session.clone(),
            kind: OperationKind::Run(Box::new(spec)),
            strategy: Strategy::Distributed,
            places: kept.places.clone(),
            parts: vec![Part { node: chosen.node, work: 0, why: Some(why) }],
            left_out: Vec::new(),
            timeout_ms: kept.timeout_ms,
            submitted_by: self.core.me,
            unix_ms: R::unix_time_ms(),
            retry_of: Some(old.part.operation),
            asked: *blake3::hash(format!("replace {} copy {copy}", kept.run).as_bytes()).as_bytes(),
            key: None,
        };
        Some((submission, Replaced { copy: of, part: old.part }))
    }
}

/// A copy that is down and due, or on a node that is away; of which no part is open, which would be moved.
fn needs_replacement(kept: &Kept, copy: usize, away: &BTreeMap<NodeId, Away>, now: LogTime) -> bool {
    let node = kept.copies[copy].node;
    match away.get(&node) {
        Some(Away::Gone | Away::Leaves) if kept.is_up(copy) => !kept.stopped,
        _ => kept.is_due(copy, now),
    }
}

/// Whether there is anything to look at closer; most looks find nothing.
fn has_work(operations: &Operations, away: &BTreeMap<NodeId, Away>, now: LogTime) -> bool {
    (!away.is_empty() && operations.open_subs().any(|(_, sub)| away.contains_key(&sub.node)))
        || operations
            .kept()
            .any(|kept| (0..kept.copies.len()).any(|copy| needs_replacement(kept, copy, away, now)))
}

fn name(state: &ControlState, node: NodeId) -> String {
    state.membership.get(node).map_or_else(|| node.to_string(), |n| n.profile.name.clone())
}

async fn propose<R: Runtime>(front: &Front<R>, offers: &Offers<R>, transport: &TransportRef, todo: Todo) {
    for (partition, moves) in todo.moves {
        let to: Vec<(NodeId, SubKey)> = moves.iter().map(|moved| (moved.to, moved.sub)).collect();
        match front.operate(partition, OperationCommand::Relocate { moves }).await {
            Ok(OperationReply::Relocated(count)) => {
                tracing::info!(%partition, count, "work of nodes that are away was moved")
            }
            Ok(other) => tracing::error!(?other, "a move got a reply that is none"),
            Err(error) => tracing::debug!(%partition, %error, "work could not be moved; trying again"),
        }
        // Which of them went, the log says when they are claimed.
        for (node, sub) in to {
            offers.send(transport, node, vec![Offer { sub, wait_ms: 0 }]);
        }
    }
    for (submission, replaced) in todo.repairs {
        let (partition, node) = (replaced.copy.run.partition, submission.parts[0].node);
        let command = OperationCommand::Repair { submission: Box::new(submission), replaced };
        match front.operate(partition, command).await {
            Ok(OperationReply::Repaired(Some(Ok(operation)))) => {
                tracing::info!(run = %replaced.copy.run, copy = replaced.copy.copy, %operation, %node, "a copy is being replaced");
                offers.send(transport, node, vec![Offer { sub: SubKey { operation, index: 0 }, wait_ms: 0 }]);
            }
            Ok(other) => tracing::debug!(?other, "a copy was not replaced"),
            Err(error) => tracing::debug!(%error, "a copy could not be replaced; trying again"),
        }
    }
}
