//! An engine in memory that follows scripts: slow, hanging, failing, lying, crashing in the middle, forgetting images.
//!
//! Owns a registry's contents, the local images, the containers, and a journal of what ran. Time comes from the runtime parameter,
//! so under a simulated runtime a pull of an hour takes no time and always the same course. Must never hold its lock while it calls
//! whoever listens.

mod builds;
mod container;
mod containers;
mod lifecycle;
mod output;
mod ports;
mod pulls;
mod questions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;
use longshore_raft::Runtime;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

use containers::{Containers, Pending};
pub use containers::{Happened, JournalEntry, OnJournal};
use lifecycle::Scripts;
pub use lifecycle::{ContainerCall, ContainerScript};
pub use output::{Commands, Executed, Program, Programs, WRITTEN_BYTES_MAX};
pub use pulls::{FakeImage, PullCounts, PullScript};
use pulls::{found, listed, pulled};
pub use questions::Asked;

use super::*;

/// Processor of the fake's host.
const ARCH: &str = "amd64";

struct State {
    info: EngineInfo,
    down: Option<EngineError>,
    /// Counts the times the engine went down: what began in an earlier life is lost.
    life: u64,
    full: bool,
    still: bool,
    asked: Asked,
    registry: BTreeMap<ImageReference, FakeImage>,
    /// Registries that ask for a name and a password.
    protected: BTreeMap<String, (String, String)>,
    local: BTreeMap<ImageReference, FakeImage>,
    scripts: VecDeque<PullScript>,
    standing: PullScript,
    counts: BTreeMap<ImageReference, PullCounts>,
    containers: Containers,
    container_scripts: Scripts,
    programs: Programs,
    commands: Commands,
    watchers: BTreeMap<u64, OnChanged>,
    watchers_ever: u64,
    on_journal: Option<OnJournal>,
}

impl State {
    /// An error if the disk is full.
    fn room(&self) -> Result<(), EngineError> {
        match self.full {
            true => Err(EngineError::DiskFull { detail: "no space left on device".to_owned() }),
            false => Ok(()),
        }
    }
}

/// Cheap to clone; clones are the same engine.
pub struct FakeEngine<R: Runtime> {
    state: Arc<Mutex<State>>,
    went_down: Arc<Notify>,
    /// Woken by every change of a container or of what it has written.
    stirred: Arc<Notify>,
    credentials: Option<Credentials>,
    _runtime: PhantomData<fn() -> R>,
}

impl<R: Runtime> fmt::Debug for FakeEngine<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        write!(f, "FakeEngine({}, {:?})", state.info.name, state.containers)
    }
}

impl<R: Runtime> Clone for FakeEngine<R> {
    fn clone(&self) -> Self {
        Self {
            state: self.state.clone(),
            went_down: self.went_down.clone(),
            stirred: self.stirred.clone(),
            credentials: self.credentials.clone(),
            _runtime: PhantomData,
        }
    }
}

impl<R: Runtime> FakeEngine<R> {
    /// An engine that is up, with an empty registry and without containers.
    pub fn new(name: &str) -> Self {
        let info = EngineInfo {
            version: "20.10.24".to_owned(),
            api_version: "1.41".to_owned(),
            os: "linux".to_owned(),
            arch: ARCH.to_owned(),
            name: name.to_owned(),
            cpus: 4,
            memory_bytes: 8 << 30,
            root_dir: "/var/lib/docker".to_owned(),
            runtimes: vec!["runc".to_owned()],
            storage_driver: "overlay2".to_owned(),
            cgroup_version: "2".to_owned(),
        };
        let state = State {
            info,
            down: None,
            life: 0,
            full: false,
            still: false,
            asked: Asked::default(),
            registry: BTreeMap::new(),
            protected: BTreeMap::new(),
            local: BTreeMap::new(),
            scripts: VecDeque::new(),
            standing: PullScript::default(),
            counts: BTreeMap::new(),
            containers: Containers::new(name),
            container_scripts: Scripts::default(),
            programs: Arc::new(|_| Program::default()),
            commands: Arc::new(output::echo),
            watchers: BTreeMap::new(),
            watchers_ever: 0,
            on_journal: None,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            went_down: Arc::default(),
            stirred: Arc::default(),
            credentials: None,
            _runtime: PhantomData,
        }
    }

    /// The engine dies: what is under way is interrupted, later calls find nothing at the socket. Local images stay. Containers run on, as
    /// those of Docker do, until the engine is back.
    pub fn crash(&self) {
        self.fail_with(unavailable());
    }

    /// The host goes down, with the engine and all containers. [`restart`](Self::restart) brings the engine back.
    pub fn power_loss(&self) {
        self.change(|state, _| state.containers.lose_power());
        self.crash();
    }

    /// Like [`crash`](Self::crash), with this error for later calls.
    pub fn fail_with(&self, error: EngineError) {
        let mut state = self.state.lock();
        state.down = Some(error);
        state.life += 1;
        drop(state);
        self.went_down.notify_waiters();
    }

    /// The engine is up again. As Docker does, it ends the containers that ran on without it, and starts those whose policy says so, among
    /// them with `always` or `on-failure` some that were stopped by hand. Without effect on one that is up.
    pub fn restart(&self) {
        self.change(|state, now_ms| {
            if state.down.take().is_some() {
                let programs = state.programs.clone();
                state.containers.engine_starts(&*programs, now_ms);
            }
        });
    }

    /// Whether nothing answers at the socket.
    pub fn is_down(&self) -> bool {
        self.state.lock().down.is_some()
    }

    /// Whether nothing can be written any more: pulls, new containers and starts fail.
    pub fn set_disk_full(&self, full: bool) {
        self.state.lock().full = full;
    }

    /// The state of an engine that is up.
    fn up(&self) -> Result<MutexGuard<'_, State>, EngineError> {
        let state = self.state.lock();
        match &state.down {
            Some(error) => Err(error.clone()),
            None => Ok(state),
        }
    }

    /// Changes the state at a time (milliseconds since 1970), and tells whoever listens.
    fn change<T>(&self, change: impl FnOnce(&mut State, u64) -> T) -> T {
        let mut state = self.state.lock();
        let changed = change(&mut state, R::unix_time_ms());
        let Pending { changes, entries } = state.containers.take_pending();
        let watchers: Vec<OnChanged> = state.watchers.values().cloned().collect();
        let on_journal = state.on_journal.clone();
        drop(state);
        if let Some(on_journal) = on_journal {
            entries.iter().for_each(|entry| on_journal(entry));
        }
        for change in changes {
            watchers.iter().for_each(|watcher| watcher(change.clone()));
        }
        self.stirred.notify_waiters();
        changed
    }

    fn change_if_up<T>(
        &self,
        change: impl FnOnce(&mut State, u64) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        self.change(|state, now_ms| match &state.down {
            Some(error) => Err(error.clone()),
            None => change(state, now_ms),
        })
    }

    /// Waits, unless the engine of this `life` goes down first.
    async fn unless_down<T>(
        &self,
        life: u64,
        wait: impl Future<Output = T> + Send,
    ) -> Result<T, EngineError> {
        let mut went_down = std::pin::pin!(self.went_down.notified());
        // Registered before looking, or a crash between the two would be missed.
        went_down.as_mut().enable();
        if self.state.lock().life != life {
            return Err(interrupted());
        }
        tokio::select! {
            biased;
            () = went_down => Err(interrupted()),
            waited = wait => Ok(waited),
        }
    }

    /// Waits until `look` finds something; it is asked again after each change.
    async fn eventually<T: Send>(&self, mut look: impl FnMut(&State) -> Option<T> + Send) -> T {
        loop {
            let mut stirred = std::pin::pin!(self.stirred.notified());
            stirred.as_mut().enable();
            if let Some(found) = look(&self.state.lock()) {
                return found;
            }
            stirred.await;
        }
    }

    async fn watch_changes(&self, on_changed: OnChanged) -> Result<(), EngineError> {
        let (life, watching) = {
            let mut state = self.up()?;
            state.watchers_ever += 1;
            let number = state.watchers_ever;
            state.watchers.insert(number, on_changed.clone());
            (state.life, Watching { state: self.state.clone(), number })
        };
        on_changed(Changed::Everything);
        let ended = self.unless_down(life, std::future::pending()).await;
        drop(watching);
        ended
    }
}

/// Ends the telling when it is dropped.
struct Watching {
    state: Arc<Mutex<State>>,
    number: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.state.lock().watchers.remove(&self.number);
    }
}

fn unavailable() -> EngineError {
    EngineError::Unavailable {
        endpoint: "fake".to_owned(),
        detail: "nothing listens on the socket".to_owned(),
    }
}

fn interrupted() -> EngineError {
    EngineError::Interrupted {
        endpoint: "fake".to_owned(),
        detail: "the connection was closed before the reply was complete".to_owned(),
    }
}

impl<R: Runtime> ContainerEngine for FakeEngine<R> {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        Box::pin(self.answer(|state| state.info.clone()))
    }

    fn authorized(&self, credentials: Credentials) -> Arc<dyn ContainerEngine> {
        Arc::new(Self { credentials: Some(credentials), ..self.clone() })
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        Box::pin(self.pull_image(image.clone(), on_progress))
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        Box::pin(self.push_image(image.clone(), on_progress))
    }

    fn build(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        Box::pin(self.build_image(order.clone(), context, on_progress))
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let (source, target) = (source.clone(), target.clone());
        Box::pin(async move { self.tag_image(&source, target) })
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        let image = image.clone();
        Box::pin(async move { Ok(self.up()?.local.get(&image).map(pulled)) })
    }

    fn create(&self, container: &NewContainer) -> BoxFuture<'_, Result<String, EngineError>> {
        Box::pin(self.create_container(container.clone()))
    }

    fn start(&self, container: &str) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.start_container(container.to_owned()))
    }

    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.stop_container(container.to_owned(), grace))
    }

    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.remove_container(container.to_owned(), force))
    }

    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>> {
        let container = container.to_owned();
        Box::pin(self.thing(move |state| state.containers.view(&container)))
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>> {
        Box::pin(self.list(|state| state.containers.views()))
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>> {
        Box::pin(self.list(|state| listed(&state.local)))
    }

    fn find_image(&self, image: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>> {
        let image = image.to_owned();
        Box::pin(self.thing(move |state| found(&state.local, &image)))
    }

    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>> {
        Box::pin(self.list(|state| state.containers.volumes()))
    }

    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>> {
        let volume = volume.to_owned();
        Box::pin(
            self.thing(move |state| {
                state.containers.volumes().into_iter().find(|found| found.name == volume)
            }),
        )
    }

    fn watch(&self, on_changed: OnChanged) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.watch_changes(on_changed))
    }

    fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.tell_output(container.to_owned(), query.clone(), output))
    }

    fn exec(
        &self,
        container: &str,
        command: &ExecSpec,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<i64, EngineError>> {
        Box::pin(self.execute(container.to_owned(), command.clone(), output))
    }
}
