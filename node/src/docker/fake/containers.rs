//! The containers of the fake: what they are, who runs, what the journal says. Pure: time comes in, nobody is told.
//!
//! Invariant: a container is [`Running`](ContainerState::Running) if and only if the journal's last word on it is that it started.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use longshore_model::container::{MountSource, Protocol};

use super::super::{
    Changed, Container, ContainerState, EngineError, ListedVolume, NewContainer, Output, Stream,
};
use super::container::FakeContainer;
use super::output::Written;
use super::{ARCH, FakeImage, Program};

/// Exit code of what the last signal ended.
pub(super) const KILLED: i64 = 137;
/// What Docker says of containers that ended while it was not there.
const LOST: i64 = 255;
/// Exit code of a program for another processor.
const NO_EXEC: i64 = 1;
/// A container that ends as soon as it starts, and whose policy has no end, is left to its next try after so many.
const RESTARTS_AT_ONCE_MAX: u32 = 3;

/// The beginning or end of a run of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JournalEntry {
    pub what: Happened,
    pub name: String,
    pub id: String,
    pub labels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    Started,
    Ended { code: i64 },
}

/// Called with each entry of the journal, in order.
pub type OnJournal = Arc<dyn Fn(&JournalEntry) + Send + Sync>;

pub(super) type ProgramOf<'a> = &'a (dyn Fn(&NewContainer) -> Program + Send + Sync);

/// What nobody has been told yet.
pub(super) struct Pending {
    pub(super) changes: Vec<Changed>,
    pub(super) entries: Vec<JournalEntry>,
}

pub(super) struct Containers {
    engine: String,
    made_ever: u64,
    pub(super) by_name: BTreeMap<String, FakeContainer>,
    pub(super) journal: Vec<JournalEntry>,
    told: usize,
    changes: Vec<Changed>,
    named_volumes: BTreeSet<String>,
    pub(super) networks: BTreeSet<String>,
    /// Ports that something outside of containers listens on.
    pub(super) occupied: BTreeSet<(u16, Protocol)>,
}

impl fmt::Debug for Containers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.by_name.iter().map(|(name, container)| (name, container.state))).finish()
    }
}

fn missing(key: &str) -> EngineError {
    EngineError::NoSuchContainer { container: key.to_owned() }
}

impl Containers {
    pub(super) fn new(engine: &str) -> Self {
        Self {
            engine: engine.to_owned(),
            made_ever: 0,
            by_name: BTreeMap::new(),
            journal: Vec::new(),
            told: 0,
            changes: Vec::new(),
            named_volumes: BTreeSet::new(),
            networks: ["bridge", "host", "none"].map(str::to_owned).into(),
            occupied: BTreeSet::new(),
        }
    }

    pub(super) fn changed(&mut self, what: Changed) {
        self.changes.push(what);
    }

    pub(super) fn take_pending(&mut self) -> Pending {
        let entries = self.journal[self.told..].to_vec();
        self.told = self.journal.len();
        Pending { changes: std::mem::take(&mut self.changes), entries }
    }

    /// By id or name; else by what an id begins with, if only one does.
    pub(super) fn get(&self, key: &str) -> Result<&FakeContainer, EngineError> {
        let all = || self.by_name.values();
        let exact = all().find(|c| c.id == key).or_else(|| self.by_name.get(key));
        let mut by_prefix = all().filter(|c| !key.is_empty() && c.id.starts_with(key));
        let one = match (by_prefix.next(), by_prefix.next()) {
            (one, None) => one,
            _ => None,
        };
        exact.or(one).ok_or_else(|| missing(key))
    }

    pub(super) fn get_mut(&mut self, key: &str) -> Result<&mut FakeContainer, EngineError> {
        let name = self.get(key)?.made_of.name.clone();
        self.by_name.get_mut(&name).ok_or_else(|| missing(key))
    }

    pub(super) fn view(&self, key: &str) -> Option<Container> {
        self.get(key).ok().map(FakeContainer::view)
    }

    /// By name.
    pub(super) fn views(&self) -> Vec<Container> {
        self.by_name.values().map(FakeContainer::view).collect()
    }

    /// By name.
    pub(super) fn volumes(&self) -> Vec<ListedVolume> {
        let anonymous = self.by_name.values().flat_map(|container| &container.anonymous);
        let names: BTreeSet<&String> = self.named_volumes.iter().chain(anonymous).collect();
        names
            .into_iter()
            .map(|name| ListedVolume { name: name.clone(), driver: "local".to_owned() })
            .collect()
    }

    pub(super) fn set_health(&mut self, key: &str, health: Option<String>) -> Result<(), EngineError> {
        let container = self.get_mut(key)?;
        container.health = health;
        let id = container.id.clone();
        self.changed(Changed::Container(id));
        Ok(())
    }

    /// Its id.
    pub(super) fn create(
        &mut self,
        made_of: NewContainer,
        image: FakeImage,
        now_ms: u64,
    ) -> Result<String, EngineError> {
        if self.by_name.contains_key(&made_of.name) {
            return Err(EngineError::NameTaken { name: made_of.name });
        }
        self.made_ever += 1;
        let hash = |what: &str| {
            let text = format!("{} {} {what}", self.engine, self.made_ever);
            blake3::hash(text.as_bytes()).to_hex().to_string()
        };
        let (id, mut anonymous) = (hash("container"), Vec::new());
        for mount in &made_of.spec.mounts {
            let volume = match &mount.source {
                MountSource::Host(_) => continue,
                MountSource::Volume(name) => {
                    self.named_volumes.insert(name.clone());
                    name.clone()
                }
                MountSource::Anonymous => {
                    anonymous.push(hash(&mount.target));
                    hash(&mount.target)
                }
            };
            self.changes.push(Changed::Volume(volume));
        }
        let container = FakeContainer {
            id: id.clone(),
            state: ContainerState::Created,
            run: 0,
            written: Written::default(),
            program: Program::default(),
            image,
            created_unix_ms: now_ms,
            stopped_by_hand: false,
            restarts: 0,
            last_code: 0,
            bound: Vec::new(),
            anonymous,
            health: None,
            made_of,
        };
        self.by_name.insert(container.made_of.name.clone(), container);
        self.changed(Changed::Container(id.clone()));
        Ok(id)
    }

    /// Starts one that is not up, as somebody asks for it.
    pub(super) fn start(
        &mut self,
        key: &str,
        programs: ProgramOf<'_>,
        now_ms: u64,
    ) -> Result<(), EngineError> {
        let container = self.get_mut(key)?;
        if container.state.is_up() {
            return Ok(());
        }
        container.stopped_by_hand = false;
        container.restarts = 0;
        let NewContainer { name, spec, .. } = container.made_of.clone();
        let arch = container.image.arch.clone();
        self.run(&name, programs, now_ms)?;
        if arch == ARCH {
            return Ok(());
        }
        let detail = format!("it is for linux/{arch}, and this host is linux/{ARCH}");
        Err(EngineError::WrongPlatform { image: spec.image.familiar(), detail })
    }

    /// Ports, network, and then its program, as often as it ends at once and is to come back.
    fn run(&mut self, name: &str, programs: ProgramOf<'_>, now_ms: u64) -> Result<(), EngineError> {
        for _ in 0..=RESTARTS_AT_ONCE_MAX {
            let ended = self.run_once(name, programs, now_ms)?;
            let Some(code) = ended else { return Ok(()) };
            if !self.ended(name, code, false) {
                return Ok(());
            }
        }
        // Docker waits ever longer between tries.
        self.get_mut(name)?.state = ContainerState::Restarting;
        Ok(())
    }

    /// Starts its program. The code with which that has ended already, if it has.
    fn run_once(
        &mut self,
        name: &str,
        programs: ProgramOf<'_>,
        now_ms: u64,
    ) -> Result<Option<i64>, EngineError> {
        let bound = self.bind(name)?;
        let container = self.get_mut(name)?;
        let program = match container.image.arch == ARCH {
            true => programs(&container.made_of),
            false => no_exec(),
        };
        container.bound = bound;
        container.state = ContainerState::Running;
        container.run += 1;
        for output in program.output.iter().cloned() {
            container.written.push(output, now_ms);
        }
        let ends = program.ends;
        container.program = program;
        self.note(name, Happened::Started);
        Ok(ends)
    }

    /// A container that is up ends. Whether its policy brings it back.
    fn ended(&mut self, name: &str, code: i64, by_hand: bool) -> bool {
        let Some(container) = self.by_name.get_mut(name) else { return false };
        let running = container.state == ContainerState::Running;
        container.state = ContainerState::Exited { code };
        container.last_code = code;
        container.stopped_by_hand |= by_hand;
        container.bound.clear();
        container.health = None;
        let back = !by_hand && container.comes_back();
        if back {
            container.restarts += 1;
        }
        let id = container.id.clone();
        match running {
            true => self.note(name, Happened::Ended { code }),
            // It waited for its next try.
            false => self.changed(Changed::Container(id)),
        }
        back
    }

    /// Its program ends by itself; its policy may bring it back at once, if an engine is there for that.
    pub(super) fn exit(
        &mut self,
        key: &str,
        code: i64,
        engine: Option<ProgramOf<'_>>,
        now_ms: u64,
    ) -> Result<(), EngineError> {
        let container = self.get(key)?;
        let name = container.made_of.name.clone();
        if container.state != ContainerState::Running {
            return Err(EngineError::NotRunning { container: name });
        }
        match engine {
            None => self.ended_unseen(&name, code),
            Some(programs) if self.ended(&name, code, false) => self.run(&name, programs, now_ms)?,
            Some(_) => {}
        }
        Ok(())
    }

    /// Somebody asks it to end: whether it does, and how.
    pub(super) fn terminate(&mut self, key: &str, now_ms: u64) -> Result<bool, EngineError> {
        let container = self.get_mut(key)?;
        let Some(code) = container.program.on_term else { return Ok(false) };
        for output in std::mem::take(&mut container.program.last_words) {
            container.written.push(output, now_ms);
        }
        self.stopped(key, code)?;
        Ok(true)
    }

    /// Somebody ends it.
    pub(super) fn stopped(&mut self, key: &str, code: i64) -> Result<(), EngineError> {
        let container = self.get(key)?;
        if container.state.is_up() {
            // One that waits for its next try keeps the code of the last.
            let code = if container.state == ContainerState::Running { code } else { container.last_code };
            let name = container.made_of.name.clone();
            self.ended(&name, code, true);
        }
        Ok(())
    }

    pub(super) fn remove(&mut self, key: &str, force: bool) -> Result<(), EngineError> {
        let Ok(container) = self.get(key) else { return Ok(()) };
        let name = container.made_of.name.clone();
        if container.state.is_up() && !force {
            return Err(EngineError::StillRunning { container: name });
        }
        self.stopped(&name, KILLED)?;
        if let Some(removed) = self.by_name.remove(&name) {
            self.changes.extend(removed.anonymous.into_iter().map(Changed::Volume));
            self.changed(Changed::Container(removed.id));
        }
        Ok(())
    }

    /// All that run end where they are. Nobody restarts them: the engine is gone too.
    pub(super) fn lose_power(&mut self) {
        for name in self.names(|container| container.state == ContainerState::Running) {
            self.ended_unseen(&name, LOST);
        }
    }

    /// What a starting engine does: it ends those that it finds running, and starts those that are to come back.
    pub(super) fn engine_starts(&mut self, programs: ProgramOf<'_>, now_ms: u64) {
        for name in self.names(|container| container.state.is_up()) {
            self.ended_unseen(&name, LOST);
        }
        // One that was never started does not begin now.
        let back = |c: &FakeContainer| matches!(c.state, ContainerState::Exited { .. }) && c.comes_back();
        for name in self.names(back) {
            // Who finds no port or network any more stays as it is.
            let _ = self.run(&name, programs, now_ms);
        }
    }

    /// It ends while no engine is there to restart it.
    pub(super) fn ended_unseen(&mut self, key: &str, code: i64) {
        let Ok(container) = self.get(key) else { return };
        let (name, restarts) = (container.made_of.name.clone(), container.restarts);
        self.ended(&name, code, false);
        if let Some(container) = self.by_name.get_mut(&name) {
            container.restarts = restarts;
        }
    }

    fn names(&self, of: impl Fn(&FakeContainer) -> bool) -> Vec<String> {
        let found = self.by_name.iter().filter(|(_, container)| of(container));
        found.map(|(name, _)| name.clone()).collect()
    }

    fn note(&mut self, name: &str, what: Happened) {
        if let Some(container) = self.by_name.get(name) {
            let (id, labels) = (container.id.clone(), container.labels());
            self.changed(Changed::Container(id.clone()));
            self.journal.push(JournalEntry { what, name: name.to_owned(), id, labels });
        }
    }
}

/// What the kernel makes of a program for another processor.
fn no_exec() -> Program {
    let bytes = "exec /bin/sh: exec format error\n".into();
    let output = vec![Output { stream: Stream::Stdout, bytes }];
    Program { output, ends: Some(NO_EXEC), ..Program::default() }
}
