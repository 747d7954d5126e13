//! What every node told last of how it is, this one included.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_model::operations::load::Load;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::{NodeId, Runtime};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::docker::Changed;
use crate::inventory::Heard;
use crate::wire;

use super::images::ImageName;
use super::messages::{Message, Stamp, WANTS_IMAGES};
use super::pace::{KEPT, Report};
use super::probe::HostSample;

/// In order.
type Images = Arc<[ImageName]>;

/// What is measured anew counts for one part of so many: an engine's answer, and what processors did in five seconds, which says little of what
/// they will do.
const SMOOTHED_OVER: u32 = 4;

/// What is known of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    pub(crate) load: Load,
    /// How long ago it was told.
    pub(crate) age: Duration,
    /// How many names of images its engine has; `None` if it has not told.
    pub(crate) images: Option<usize>,
}

#[derive(Debug)]
struct Told<R: Runtime> {
    load: Option<(Stamp, Load, R::Instant)>,
    images: Option<(Stamp, Images, u64)>,
}

impl<R: Runtime> Default for Told<R> {
    fn default() -> Self {
        Self { load: None, images: None }
    }
}

/// This node, as its parts see it.
#[derive(Debug)]
struct Own<R: Runtime> {
    host: Option<(HostSample, R::Instant)>,
    running: u32,
    engine: Option<Duration>,
    root: EngineRoot,
    images: Images,
}

/// Where this node's engine keeps its images: of that disk a node tells how full it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum EngineRoot {
    /// The engine has not said yet.
    Untold,
    /// There is no engine, or its folder is not on this host.
    Elsewhere,
    At(PathBuf),
}

/// See the module's docs. One per node.
pub(crate) struct Loads<R: Runtime> {
    me: NodeId,
    own: Mutex<Own<R>>,
    others: Mutex<BTreeMap<NodeId, Told<R>>>,
    /// This node is not as it was.
    stirred: Notify,
    /// A node told something, this one included.
    heard: Notify,
    images_changed: Notify,
    /// The engine said where it keeps its images, for the first time.
    root_told: Notify,
}

impl<R: Runtime> Loads<R> {
    pub(crate) fn new(me: NodeId, has_engine: bool) -> Arc<Self> {
        let root = if has_engine { EngineRoot::Untold } else { EngineRoot::Elsewhere };
        let own = Own { host: None, running: 0, engine: None, root, images: Arc::default() };
        Arc::new(Self {
            me,
            own: Mutex::new(own),
            others: Mutex::default(),
            stirred: Notify::new(),
            heard: Notify::new(),
            images_changed: Notify::new(),
            root_told: Notify::new(),
        })
    }

    pub(super) fn take_host(&self, sample: HostSample) {
        let mut own = self.own.lock();
        let before = own.host.as_ref().map_or(sample.cpu_busy, |(before, _)| before.cpu_busy);
        let smoothed = u32::from(before) * (SMOOTHED_OVER - 1) + u32::from(sample.cpu_busy);
        let cpu_busy = (smoothed / SMOOTHED_OVER) as u16;
        own.host = Some((HostSample { cpu_busy, ..sample }, R::Instant::now()));
        drop(own);
        self.stirred.notify_one();
        self.heard.notify_waiters();
    }

    /// Resolves when the next word of any node comes, this one included.
    pub(crate) fn heard(&self) -> Notified<'_> {
        self.heard.notified()
    }

    /// How many attempts are under way here.
    pub(crate) fn set_running(&self, running: u32) {
        if std::mem::replace(&mut self.own.lock().running, running) != running {
            self.stirred.notify_one();
        }
    }

    /// The engine gave a short answer, and said in which folder it keeps its images.
    pub(crate) fn engine_answered(&self, took: Duration, root: &Path) {
        let mut own = self.own.lock();
        own.engine =
            Some(own.engine.map_or(took, |usual| (usual * (SMOOTHED_OVER - 1) + took) / SMOOTHED_OVER));
        let root = if root.is_absolute() { EngineRoot::At(root.to_owned()) } else { EngineRoot::Elsewhere };
        if std::mem::replace(&mut own.root, root) == EngineRoot::Untold {
            self.root_told.notify_one();
        }
    }

    /// The engine gave none.
    pub(crate) fn engine_silent(&self) {
        self.own.lock().engine = None;
    }

    pub(super) fn engine_root(&self) -> EngineRoot {
        self.own.lock().root.clone()
    }

    /// Resolves when the engine has said it for the first time.
    pub(super) async fn root_told(&self) {
        self.root_told.notified().await;
    }

    /// Takes word of the engine: its images may be others.
    pub(crate) fn hear(&self, heard: &Heard) {
        match heard {
            Heard::Changed(Changed::Everything | Changed::Image(_)) => self.images_changed.notify_one(),
            Heard::Changed(Changed::Container(_) | Changed::Volume(_)) | Heard::BrokeOff => {}
        }
    }

    pub(super) async fn images_changed(&self) {
        self.images_changed.notified().await;
    }

    /// In order.
    pub(super) fn take_own_images(&self, names: Vec<ImageName>) {
        self.own.lock().images = names.into();
        self.stirred.notify_one();
    }

    pub(super) fn own_images(&self) -> Images {
        Arc::clone(&self.own.lock().images)
    }

    pub(super) async fn stirred(&self) {
        self.stirred.notified().await;
    }

    /// This node, unless its host has not been asked for too long: a disk hangs.
    pub(super) fn own_report(&self) -> Option<Report> {
        let own = self.own.lock();
        let (load, _) = own_load(&own)?;
        Some(Report { load, images: ImageName::hash_of(&own.images) })
    }

    /// Takes a message from another node, its tag included; the reply to it.
    pub(crate) fn receive(&self, from: NodeId, body: &[u8]) -> Result<Bytes, String> {
        let message = wire::decode::<Message>(body)?;
        let mut others = self.others.lock();
        let told = others.entry(from).or_default();
        match message {
            Message::Load { stamp, load, images } => {
                if told.load.as_ref().is_none_or(|(last, ..)| last.incarnation < stamp.incarnation) {
                    // Started anew, it knows nothing of this node.
                    self.stirred.notify_one();
                }
                if told.load.as_ref().is_none_or(|(last, ..)| *last < stamp) {
                    told.load = Some((stamp, load.bounded(), R::Instant::now()));
                    self.heard.notify_waiters();
                }
                let knows = told.images.as_ref().is_some_and(|(.., hash)| *hash == images);
                Ok(if knows { Bytes::new() } else { Bytes::from_static(&[WANTS_IMAGES]) })
            }
            Message::Images { stamp, mut names } => {
                if told.images.as_ref().is_none_or(|(last, ..)| *last < stamp) {
                    names.sort_unstable();
                    let hash = ImageName::hash_of(&names);
                    told.images = Some((stamp, names.into(), hash));
                }
                Ok(Bytes::new())
            }
        }
    }

    /// Forgets nodes that are gone.
    pub(super) fn retain(&self, is_member: impl Fn(NodeId) -> bool) {
        self.others.lock().retain(|node, _| is_member(*node));
    }

    /// Which start of a node told last; `None` if none has.
    pub(super) fn start_of(&self, node: NodeId) -> Option<u64> {
        self.others.lock().get(&node)?.load.as_ref().map(|(stamp, ..)| stamp.incarnation)
    }

    /// What is known of a node; `None` if that is nothing, or too old.
    pub(crate) fn of(&self, node: NodeId) -> Option<Sighting> {
        self.seen(node).map(|(load, age, images)| Sighting { load, age, images: images.map(|i| i.len()) })
    }

    /// Which of these images a node's engine has. One that has not told has none.
    pub(crate) fn has(&self, node: NodeId, images: &[ImageName]) -> Vec<bool> {
        if images.is_empty() {
            return Vec::new();
        }
        let there = self.seen(node).and_then(|(.., images)| images);
        let is_there = |name: &ImageName| there.as_ref().is_some_and(|t| t.binary_search(name).is_ok());
        images.iter().map(is_there).collect()
    }

    fn seen(&self, node: NodeId) -> Option<(Load, Duration, Option<Images>)> {
        if node == self.me {
            let own = self.own.lock();
            let (load, age) = own_load(&own)?;
            return Some((load, age, Some(Arc::clone(&own.images))));
        }
        let others = self.others.lock();
        let told = others.get(&node)?;
        let (_, load, at) = told.load.as_ref()?;
        let age = R::Instant::now() - *at;
        (age < KEPT).then(|| (*load, age, told.images.as_ref().map(|(_, names, _)| Arc::clone(names))))
    }
}

fn own_load<R: Runtime>(own: &Own<R>) -> Option<(Load, Duration)> {
    let (host, at) = own.host.as_ref()?;
    let age = R::Instant::now() - *at;
    let load = Load {
        cpu_busy: host.cpu_busy,
        memory_bytes: host.memory_bytes,
        memory_free_bytes: host.memory_free_bytes,
        disk_bytes: host.disk_bytes,
        disk_free_bytes: host.disk_free_bytes,
        running: own.running,
        engine_ms: own.engine.map(|took| u32::try_from(took.as_millis()).unwrap_or(u32::MAX)),
    };
    (age < KEPT).then_some((load, age))
}

#[cfg(test)]
#[path = "loads_tests.rs"]
mod tests;
