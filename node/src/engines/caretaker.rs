//! Brings the containers that the fleet made on this engine in line with what the log says of them.
//!
//! Level-triggered: it lists what the engine has, asks the log about each container that carries the fleet's labels, and takes one step for each. It
//! does so when it starts (a host that comes back may run what was started elsewhere meanwhile), when the engine tells of an event, when
//! somebody says that something changed, and now and then. The log is asked after the engine, and its answer to one attempt's container only ever
//! goes from "yours" to "not yours"; so what is removed could not have become wanted again.
//! What another member made that shares this engine, and can not be reached, is removed if the log wants it no more: mostly that is this host, before
//! its disk was emptied.
//! Must never: touch a container without the fleet's labels, one that has them under another name than its own, or one that the log does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use longshore_model::container::Origin;
use longshore_model::operations::{CopyNews, OperationCommand, Verdict};
use longshore_model::partition::PartitionId;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::{NodeId, Runtime};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::care::Care;
use crate::core::Core;
use crate::docker::{Container, ContainerEngine, ContainerState, EngineError};
use crate::ring::Front;

/// How often everything is looked at if nothing happens: what was missed is found then.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// Pause after a look that found an engine, or a group, that does not answer.
const AGAIN: Duration = Duration::from_secs(2);
/// How long a group's answer is waited for. One that comes later may say what was true long ago, and another node may have been given the work and
/// started it since; and a group that has no quorum must not hold up the next look.
const JUDGED_WITHIN: Duration = Duration::from_secs(2);
/// Groups asked at a time.
const ASKED_AT_ONCE: usize = 16;
/// Events come in bursts.
const GATHER: Duration = Duration::from_millis(100);
/// Longest pause before a copy is started again that does not stay up.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(60);
/// A copy that was up for so long begins with a short pause again.
const SETTLED: Duration = Duration::from_secs(60);

/// See the module's docs. One per node with an engine.
pub(crate) struct Caretaker<R: Runtime> {
    core: Arc<Core<R>>,
    front: Front<R>,
    engine: Arc<dyn ContainerEngine>,
    care: Arc<Care>,
    stop: CancellationToken,
    restarts: Mutex<BTreeMap<String, Restarts<R>>>,
    /// Containers for which something is being done: one that takes its time to stop holds up no other.
    busy: Mutex<BTreeSet<String>>,
}

/// How often a copy was started again, and when last.
struct Restarts<R: Runtime> {
    count: u32,
    last: R::Instant,
}

/// A container that this node looks after.
struct Ours {
    container: Container,
    origin: Origin,
    /// As whose the log judges it.
    of: NodeId,
}

/// What a look found to do for a container.
struct Found {
    ours: Ours,
    verdict: Verdict,
}

impl<R: Runtime> Caretaker<R> {
    /// `None` if the node has no engine.
    pub(crate) fn new(
        core: Arc<Core<R>>,
        front: Front<R>,
        care: Arc<Care>,
        stop: CancellationToken,
    ) -> Option<Arc<Self>> {
        let engine = core.engine.clone()?;
        let (restarts, busy) = (Mutex::default(), Mutex::default());
        Some(Arc::new(Self { core, front, engine, care, stop, restarts, busy }))
    }

    pub(crate) async fn run(self: Arc<Self>) {
        let mut pause = Duration::ZERO;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = self.care.changed() => R::sleep(GATHER).await,
                () = R::sleep(pause) => {}
            }
            pause = tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                pause = self.look() => pause,
            };
        }
    }

    /// One look at everything; how long until the next.
    async fn look(self: &Arc<Self>) -> Duration {
        // Before the engine is asked: what is expected was there then.
        let expected = self.care.expected();
        let containers = match self.engine.list_containers().await {
            Ok(containers) => containers,
            Err(error) => {
                tracing::debug!(%error, "the containers can not be looked after");
                return AGAIN;
            }
        };
        let fleet = self.core.fleet.to_string();
        let ours: Vec<Ours> = containers
            .into_iter()
            .filter_map(|container| {
                let of = self.judged_as(&container)?;
                let origin = Origin::of(&container.labels, &container.name, &fleet)?;
                Some(Ours { container, origin, of })
            })
            .collect();
        let ids: BTreeSet<&str> = ours.iter().map(|ours| ours.container.id.as_str()).collect();
        self.restarts.lock().retain(|id, _| ids.contains(id.as_str()));
        self.care.retain(|id| ids.contains(id));
        for ours in ours.iter().filter(|ours| ours.container.state.is_up()) {
            self.care.is_up(&ours.container.id);
        }
        let there: BTreeSet<Origin> = ours.iter().map(|ours| ours.origin).collect();
        for lost in expected.difference(&there) {
            self.say(*lost, CopyNews::Lost { why: "its container is gone".to_owned() }).await;
        }
        if self.judge(ours).await { LOOK_EVERY } else { AGAIN }
    }

    /// Does one step for a container, beside whatever else is done.
    fn begin(self: &Arc<Self>, found: Found) {
        let Ours { container, of, .. } = &found.ours;
        if *of != self.core.me && found.verdict != Verdict::Remove {
            return;
        }
        if !self.busy.lock().insert(container.id.clone()) {
            return;
        }
        let this = Arc::clone(self);
        drop(R::spawn(async move {
            let id = found.ours.container.id.clone();
            let again = tokio::select! {
                biased;
                () = this.stop.cancelled() => None,
                again = this.act(found) => again,
            };
            this.busy.lock().remove(&id);
            if let Some(again) = again {
                R::sleep(again).await;
                this.care.look();
            }
        }));
    }

    fn judged_as(&self, container: &Container) -> Option<NodeId> {
        let is_member = |node| {
            self.core.group.with_state(|state| {
                state.membership.get(node).is_some_and(|record| record.standing.is_member())
            })
        };
        judged_as(Origin::made_by(&container.labels), self.core.me, is_member, |node| {
            self.core.is_alive(node)
        })
    }

    /// Asks the log, and does what each group says as soon as it has; whether all of them did. What is done by an answer must not wait for another
    /// group's.
    async fn judge(self: &Arc<Self>, all: Vec<Ours>) -> bool {
        let mut by_record: BTreeMap<(PartitionId, NodeId), Vec<Ours>> = BTreeMap::new();
        for ours in all {
            by_record.entry((partition_of(&ours.origin), ours.of)).or_default().push(ours);
        }
        let asked = by_record.into_iter().map(|((partition, of), ours)| self.judge_of(partition, of, ours));
        let mut asked = futures_util::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
        let mut all_answered = true;
        while let Some(answered) = asked.next().await {
            all_answered &= answered;
        }
        all_answered
    }

    /// Of one node's containers whose records are in one partition.
    async fn judge_of(self: &Arc<Self>, partition: PartitionId, of: NodeId, ours: Vec<Ours>) -> bool {
        let origins: Vec<Origin> = ours.iter().map(|ours| ours.origin).collect();
        let asked = self.front.verdicts(partition, of, origins);
        let verdicts = match R::timeout(JUDGED_WITHIN, asked).await {
            Ok(Ok(verdicts)) => verdicts,
            Ok(Err(error)) => {
                tracing::debug!(%partition, %error, "whose containers these are can not be asked");
                return false;
            }
            Err(_) => return false,
        };
        for (ours, verdict) in ours.into_iter().zip(verdicts) {
            self.begin(Found { ours, verdict });
        }
        true
    }

    /// One step for one container; when to look again, if it is not all there is to do.
    async fn act(&self, found: Found) -> Option<Duration> {
        let Found { ours: Ours { container, origin, .. }, verdict } = found;
        longshore_storage::mutant!("remove-what-counts" => if verdict == Verdict::Keep && R::unix_time_ms() % 8 == 0 {
            return self.remove(&container).await.err().map(|_| AGAIN);
        });
        if matches!(verdict, Verdict::Leave | Verdict::Keep)
            && let Some(is_stopped) = self.care.fenced(&container.id)
        {
            return self.lift_fence(&container, origin, verdict, is_stopped).await;
        }
        let step = match (verdict, container.state) {
            (Verdict::Wait, _) => return self.care.fenced(&container.id).map(|_| AGAIN),
            (Verdict::Leave, _)
            | (Verdict::Stop, ContainerState::Created | ContainerState::Exited { .. }) => Ok(()),
            (Verdict::Keep | Verdict::Stop, ContainerState::Dead) | (Verdict::Remove, _) => {
                self.remove(&container).await
            }
            (Verdict::Stop, _) => {
                tracing::info!(container = %container.name, "stopping a container: its run is stopped");
                self.engine.stop(&container.id, None).await
            }
            (Verdict::Keep, state) if state.is_up() => Ok(()),
            (Verdict::Keep, ContainerState::Exited { code: 0 })
                if self.care.ended_by_itself(&container.id) =>
            {
                self.say(origin, CopyNews::Completed).await;
                Ok(())
            }
            (Verdict::Keep, _) => return self.start_again(&container, origin).await,
        };
        match step {
            Ok(()) => None,
            Err(error) => {
                tracing::warn!(container = %container.name, %error, "a container could not be looked after; trying again");
                Some(AGAIN)
            }
        }
    }

    /// Starts what was stopped only because the log could not be asked in time. (Its sub-operation may also be under way again; the next
    /// attempt finds it by its name then.)
    async fn lift_fence(
        &self,
        container: &Container,
        origin: Origin,
        verdict: Verdict,
        is_stopped: bool,
    ) -> Option<Duration> {
        // The stop may be on its way still.
        if !is_stopped {
            return Some(AGAIN);
        }
        if !container.state.is_up() {
            tracing::info!(container = %container.name, "starting a container again: the log says that it may run");
            match self.engine.start(&container.id).await {
                Ok(()) => self.care.is_up(&container.id),
                Err(error) if error.is_transient() => return Some(AGAIN),
                Err(error) => {
                    tracing::warn!(container = %container.name, %error, "a container can not be started again");
                    if verdict == Verdict::Keep {
                        self.say(
                            origin,
                            CopyNews::Lost { why: format!("it can not be started again: {error}") },
                        )
                        .await;
                    }
                }
            }
        }
        self.care.unfence(&container.id);
        None
    }

    async fn remove(&self, container: &Container) -> Result<(), EngineError> {
        tracing::info!(container = %container.name, id = %container.id, "removing a container that the fleet wants no more");
        if container.state.is_up() {
            self.engine.stop(&container.id, None).await?;
        }
        self.engine.remove(&container.id, true).await?;
        self.care.unfence(&container.id);
        Ok(())
    }

    /// A copy that should run, and does not: it failed, its engine was started anew, or somebody stopped it by hand.
    async fn start_again(&self, container: &Container, origin: Origin) -> Option<Duration> {
        if let Some(pause) = self.pause_before_start(&container.id) {
            return Some(pause);
        }
        tracing::info!(container = %container.name, "starting a copy again that should run");
        match self.engine.start(&container.id).await {
            Ok(()) => {
                self.care.is_up(&container.id);
                None
            }
            Err(error) if error.is_transient() => Some(AGAIN),
            Err(error) => {
                self.say(origin, CopyNews::Lost { why: format!("it can not be started again: {error}") })
                    .await;
                None
            }
        }
    }

    /// How long it has to wait; if not at all, it counts as started.
    fn pause_before_start(&self, container: &str) -> Option<Duration> {
        let now = R::Instant::now();
        let mut all = self.restarts.lock();
        if let Some(restarts) = all.get_mut(container) {
            if now >= restarts.last + SETTLED + RESTART_PAUSE_MAX {
                restarts.count = 0;
            }
            let pause = (Duration::from_secs(1) * (1 << restarts.count.min(6))).min(RESTART_PAUSE_MAX);
            let due = restarts.last + pause;
            if restarts.count > 0 && now < due {
                return Some(due - now);
            }
        }
        let restarts = all.entry(container.to_owned()).or_insert(Restarts { count: 0, last: now });
        restarts.count += 1;
        restarts.last = now;
        None
    }

    /// Tells the log. What does not arrive is found again with the next look.
    async fn say(&self, origin: Origin, news: CopyNews) {
        let command = OperationCommand::CopyNews { origin, node: self.core.me, news };
        if let Err(error) = self.front.operate(partition_of(&origin), command).await {
            tracing::debug!(%error, "what became of a copy could not be told; trying again");
        }
    }
}

/// Where the record of a container's run is.
fn partition_of(origin: &Origin) -> PartitionId {
    origin.kept.map_or(origin.sub.operation, |copy| copy.run).partition
}

/// As whose a container is judged; none if another member sees to it, which shares this engine. One that can not be reached does not: what the
/// log wants no more of it would stay for as long as it is a member, and this may be its host, under another name since its disk was emptied.
fn judged_as(
    made_by: Option<NodeId>,
    me: NodeId,
    is_member: impl Fn(NodeId) -> bool,
    is_alive: impl Fn(NodeId) -> bool,
) -> Option<NodeId> {
    match made_by {
        Some(node) if node != me && is_member(node) => (!is_alive(node)).then_some(node),
        _ => Some(me),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_other_members_are_theirs_while_they_can_be_reached() {
        let [me, alive, failed, gone] = [1, 2, 3, 4].map(NodeId);
        let judged =
            |made_by| judged_as(made_by, me, |node| node != gone, |node| node != failed && node != gone);
        assert_eq!([judged(None), judged(Some(me)), judged(Some(gone))], [Some(me); 3], "nobody else would");
        assert_eq!((judged(Some(alive)), judged(Some(failed))), (None, Some(failed)));
    }
}
