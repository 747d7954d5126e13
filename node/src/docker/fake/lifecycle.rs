//! How calls about containers go: as they should, or as a script has it; and what tests do to containers behind the port's back.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use longshore_model::container::Protocol;
use longshore_raft::Runtime;

use super::super::{ContainerState, EngineError, NewContainer};
use super::containers::KILLED;
use super::{FakeEngine, Happened, JournalEntry, OnJournal, State, interrupted};

/// Docker's own, for a container that was given none.
const GRACE: Duration = Duration::from_secs(10);

/// The calls that change a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ContainerCall {
    Create,
    Start,
    Stop,
    Remove,
}

/// What becomes of the next call of a kind. Its effect is done or not whatever the caller hears, as with a real engine.
#[derive(Debug, Clone)]
pub enum ContainerScript {
    /// Works: so long before its effect, and so long from then to the reply. Dropped before, it has no effect.
    Works { before: Duration, after: Duration },
    /// Never replies, until it is dropped or the engine goes down.
    Hangs { effect: bool },
    /// Says that it failed. With its effect, that is a lie.
    Fails { effect: bool, error: EngineError },
    /// Has its effect, and the connection breaks before the reply.
    LosesReply,
    /// The engine goes down, before the effect or after it.
    Crashes { effect: bool },
}

impl Default for ContainerScript {
    fn default() -> Self {
        Self::Works { before: Duration::ZERO, after: Duration::ZERO }
    }
}

impl ContainerScript {
    fn has_effect(&self) -> bool {
        match self {
            Self::Works { .. } | Self::LosesReply => true,
            Self::Hangs { effect } | Self::Fails { effect, .. } | Self::Crashes { effect } => *effect,
        }
    }
}

#[derive(Default)]
pub(super) struct Scripts {
    queued: BTreeMap<ContainerCall, VecDeque<ContainerScript>>,
    standing: BTreeMap<ContainerCall, ContainerScript>,
}

impl Scripts {
    fn next(&mut self, call: ContainerCall) -> ContainerScript {
        let queued = self.queued.get_mut(&call).and_then(VecDeque::pop_front);
        queued.or_else(|| self.standing.get(&call).cloned()).unwrap_or_default()
    }
}

/// For tests and simulations: scripts, and what happens to containers by itself.
impl<R: Runtime> FakeEngine<R> {
    /// Scripts for the calls of a kind to come, one each, in order; afterwards the standing one.
    pub fn script_containers(&self, call: ContainerCall, scripts: impl IntoIterator<Item = ContainerScript>) {
        self.state.lock().container_scripts.queued.entry(call).or_default().extend(scripts);
    }

    /// What becomes of calls of a kind that no script was queued for.
    pub fn standing_container_script(&self, call: ContainerCall, script: ContainerScript) {
        self.state.lock().container_scripts.standing.insert(call, script);
    }

    /// Lets a container that runs end by itself. Its restart policy may bring it back at once.
    pub fn exit(&self, container: &str, code: i64) -> Result<(), EngineError> {
        self.change(|state, now_ms| {
            let programs = state.programs.clone();
            // Nobody brings it back while the engine is down.
            state.containers.exit(container, code, state.down.is_none().then_some(&*programs), now_ms)
        })
    }

    pub fn set_health(&self, container: &str, health: Option<&str>) -> Result<(), EngineError> {
        self.change(|state, _| state.containers.set_health(container, health.map(str::to_owned)))
    }

    /// Something outside of containers listens on a port of the host from now on, on all addresses.
    pub fn occupy_port(&self, port: u16, protocol: Protocol) {
        self.state.lock().containers.occupied.insert((port, protocol));
    }

    /// Like `docker network create`.
    pub fn add_network(&self, name: &str) {
        self.state.lock().containers.networks.insert(name.to_owned());
    }

    /// All starts and ends of containers, in order.
    pub fn journal(&self) -> Vec<JournalEntry> {
        self.state.lock().containers.journal.clone()
    }

    /// Is told of each entry of the journal from now on, instead of who was told before.
    pub fn on_journal(&self, on_journal: OnJournal) {
        self.state.lock().on_journal = Some(on_journal);
    }

    /// How often containers of this name were started.
    pub fn times_started(&self, name: &str) -> usize {
        let state = self.state.lock();
        let starts = state.containers.journal.iter().filter(|entry| entry.what == Happened::Started);
        starts.filter(|entry| entry.name == name).count()
    }
}

impl<R: Runtime> FakeEngine<R> {
    pub(super) async fn create_container(&self, made_of: NewContainer) -> Result<String, EngineError> {
        let create = |state: &mut State, now_ms| {
            state.room()?;
            let image = state.local.get(&made_of.spec.image).cloned();
            let missing = || EngineError::NoSuchImage { image: made_of.spec.image.familiar() };
            let image = image.ok_or_else(missing)?;
            state.containers.create(made_of, image, now_ms)
        };
        let (script, life) = self.enter(ContainerCall::Create).await?;
        let created = self.change_in_life(life, create);
        self.leave(script, life).await?;
        created
    }

    pub(super) async fn start_container(&self, key: String) -> Result<(), EngineError> {
        let (script, life) = self.enter(ContainerCall::Start).await?;
        let started = self.change_in_life(life, |state, now_ms| {
            state.room()?;
            let programs = state.programs.clone();
            state.containers.start(&key, &*programs, now_ms)
        });
        self.leave(script, life).await?;
        started
    }

    pub(super) async fn stop_container(
        &self,
        key: String,
        grace: Option<Duration>,
    ) -> Result<(), EngineError> {
        let (script, life) = self.enter(ContainerCall::Stop).await?;
        let stopped = self.stop_in_life(&key, grace, life).await;
        self.leave(script, life).await?;
        stopped
    }

    /// Politely first; whoever does not heed that is killed when its time is up.
    async fn stop_in_life(&self, key: &str, grace: Option<Duration>, life: u64) -> Result<(), EngineError> {
        let waits = self.change_in_life(life, |state, now_ms| {
            let container = state.containers.get(key)?;
            let own = container.made_of.spec.stop_grace_s.map(|s| Duration::from_secs(s.into()));
            let (id, run, grace) = (container.id.clone(), container.run, grace.or(own).unwrap_or(GRACE));
            if container.state != ContainerState::Running || grace.is_zero() {
                return state.containers.stopped(key, KILLED).map(|()| None);
            }
            let ended = state.containers.terminate(key, now_ms)?;
            Ok((!ended).then_some((id, run, grace)))
        })?;
        let Some((id, run, grace)) = waits else { return Ok(()) };
        let goes_on = move |state: &State| {
            let container = state.containers.get(&id).ok()?;
            (container.run == run && container.state.is_up()).then_some(container.id.clone())
        };
        let still_up = goes_on.clone();
        let gone = self.eventually(move |state| still_up(state).is_none().then_some(()));
        // Whether it ended in time, the look below tells.
        let _ = self.unless_down(life, R::timeout(grace, gone)).await?;
        self.change_in_life(life, |state, _| match goes_on(state) {
            Some(id) => state.containers.stopped(&id, KILLED),
            None => Ok(()),
        })
    }

    pub(super) async fn remove_container(&self, key: String, force: bool) -> Result<(), EngineError> {
        let (script, life) = self.enter(ContainerCall::Remove).await?;
        let removed = self.change_in_life(life, |state, _| state.containers.remove(&key, force));
        self.leave(script, life).await?;
        removed
    }

    /// What the script has in store before the effect.
    async fn enter(&self, call: ContainerCall) -> Result<(ContainerScript, u64), EngineError> {
        let (script, life) = {
            let mut state = self.up()?;
            (state.container_scripts.next(call), state.life)
        };
        match &script {
            ContainerScript::Works { before, .. } => self.pass(life, *before).await?,
            unlucky if !unlucky.has_effect() => self.leave(unlucky.clone(), life).await?,
            _ => {}
        }
        Ok((script, life))
    }

    /// What it has in store after it. Only a script that works comes back without an error.
    async fn leave(&self, script: ContainerScript, life: u64) -> Result<(), EngineError> {
        match script {
            ContainerScript::Works { after, .. } => self.pass(life, after).await,
            ContainerScript::Hangs { .. } => self.unless_down(life, std::future::pending()).await,
            ContainerScript::Fails { error, .. } => Err(error),
            ContainerScript::LosesReply => Err(interrupted()),
            ContainerScript::Crashes { .. } => {
                self.crash();
                Err(interrupted())
            }
        }
    }

    /// Lets time pass; without any, nobody gets a turn between.
    async fn pass(&self, life: u64, time: Duration) -> Result<(), EngineError> {
        match time.is_zero() {
            true => self.unless_down(life, std::future::ready(())).await,
            false => self.unless_down(life, R::sleep(time)).await,
        }
    }

    fn change_in_life<T>(
        &self,
        life: u64,
        change: impl FnOnce(&mut State, u64) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.change(|state, now_ms| match state.life == life {
            true => change(state, now_ms),
            false => Err(interrupted()),
        })
    }
}
