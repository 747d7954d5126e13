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
mod tests {
    use futures_util::FutureExt as _;
    use longshore_raft::consensus::runtime::TokioRuntime;
    use tokio::time::advance;

    use super::super::probe::FixedHost;
    use super::*;

    type Known = Loads<TokioRuntime>;

    fn names(texts: &[&str]) -> Vec<ImageName> {
        let mut names: Vec<ImageName> =
            texts.iter().map(|text| ImageName::of(&text.parse().unwrap())).collect();
        names.sort_unstable();
        names
    }

    fn load(running: u32) -> Load {
        let node = Known::new(NodeId(9), false);
        node.take_host(FixedHost::half_free().0);
        node.set_running(running);
        node.own_report().unwrap().load
    }

    fn stamp(incarnation: u64, number: u64) -> Stamp {
        Stamp { incarnation, number }
    }

    #[tokio::test(start_paused = true)]
    async fn the_latest_word_of_each_node_counts_and_not_for_long() {
        let loads = Known::new(NodeId(1), true);
        let other = NodeId(2);
        let running = || loads.of(other).map(|seen| seen.load.running);
        let say = |incarnation, number, running| {
            let message = Message::Load { stamp: stamp(incarnation, number), load: load(running), images: 0 };
            loads.receive(other, &wire::encode(&message)).unwrap();
        };
        assert_eq!(running(), None);
        say(1, 5, 3);
        say(1, 4, 9);
        assert_eq!(running(), Some(3), "what overtook another stands");
        say(2, 1, 4);
        assert_eq!(running(), Some(4), "a later start of the node counts anew");
        advance(KEPT - Duration::from_millis(1)).await;
        assert_eq!(loads.of(other).map(|seen| seen.age), Some(KEPT - Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(running(), None, "too old");
        say(2, 2, 5);
        assert_eq!(running(), Some(5));
        loads.retain(|node| node != other);
        assert_eq!(running(), None);
        assert!(loads.receive(other, &[0xD8, 9]).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_not_be_is_not_taken_from_anybody() {
        let loads = Known::new(NodeId(1), false);
        let mad =
            Load { running: u32::MAX, memory_free_bytes: u64::MAX, disk_free_bytes: u64::MAX, ..load(0) };
        let message = Message::Load { stamp: stamp(1, 1), load: mad, images: 0 };
        loads.receive(NodeId(2), &message.encode()).unwrap();
        assert_eq!(loads.of(NodeId(2)).unwrap().load, mad.bounded());
        assert_ne!(mad.bounded(), mad);
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_was_started_anew_is_known_at_once() {
        let loads = Known::new(NodeId(1), true);
        let other = NodeId(2);
        let say = |incarnation, number| {
            let message = Message::Load { stamp: stamp(incarnation, number), load: load(0), images: 0 };
            loads.receive(other, &message.encode()).unwrap();
            (loads.start_of(other), loads.stirred().now_or_never().is_some())
        };
        assert_eq!(loads.start_of(other), None);
        assert_eq!(say(1, 0), (Some(1), true));
        assert_eq!(say(1, 1), (Some(1), false));
        assert_eq!(say(2, 0), (Some(2), true), "it is looked at whom to tell");
        assert_eq!(say(1, 9), (Some(2), false), "what came late is of the start before");
        loads.retain(|node| node != other);
        assert_eq!((loads.start_of(other), say(2, 1)), (None, (Some(2), true)));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_does_not_know_the_images_asks_for_them() {
        let loads = Known::new(NodeId(1), true);
        let other = NodeId(2);
        let mut number = 0;
        let mut say = |message: fn(Stamp, Vec<ImageName>) -> Message, names: &[ImageName]| {
            number += 1;
            loads.receive(other, &wire::encode(&message(stamp(1, number), names.to_vec()))).unwrap()
        };
        let report: fn(Stamp, Vec<ImageName>) -> Message =
            |stamp, names| Message::Load { stamp, load: load(0), images: ImageName::hash_of(&names) };
        let images: fn(Stamp, Vec<ImageName>) -> Message = |stamp, names| Message::Images { stamp, names };
        let (first, second) = (names(&["a", "b:1"]), names(&["a"]));
        let asked = names(&["b:1", "a", "c"]);
        assert_eq!(say(report, &first)[..], [WANTS_IMAGES]);
        assert_eq!(loads.has(other, &asked), [false; 3], "not told yet");
        assert!(say(images, &first).is_empty() && say(report, &first).is_empty());
        let has = |asked: &[ImageName]| loads.has(other, asked).iter().filter(|has| **has).count();
        assert_eq!((has(&asked), has(&first), has(&[])), (2, 2, 0));
        assert_eq!(loads.of(other).unwrap().images, Some(2));
        assert_eq!(say(report, &second)[..], [WANTS_IMAGES]);
        say(images, &second);
        assert_eq!(has(&asked), 1);
        advance(KEPT).await;
        assert_eq!(has(&asked), 0, "nothing is known of it any more");
    }

    #[tokio::test(start_paused = true)]
    async fn this_node_is_what_its_parts_say() {
        let loads = Known::new(NodeId(1), true);
        let seen = || loads.of(NodeId(1));
        loads.set_running(2);
        assert_eq!((seen(), loads.own_report()), (None, None), "the host was not asked yet");
        let host = FixedHost::half_free().0;
        loads.take_host(host);
        let busy = || seen().unwrap().load.cpu_busy;
        assert_eq!(busy(), 250);
        loads.take_host(HostSample { cpu_busy: 1_000, ..host });
        assert_eq!(busy(), 437, "a moment says little");
        let engine = || seen().unwrap().load.engine_ms;
        assert_eq!((seen().unwrap().load.running, engine()), (2, None));
        let ms = Duration::from_millis;
        loads.engine_answered(ms(40), Path::new("/var/lib/docker"));
        loads.engine_answered(ms(80), Path::new("/var/lib/docker"));
        assert_eq!((engine(), loads.engine_root()), (Some(50), EngineRoot::At("/var/lib/docker".into())));
        loads.engine_answered(ms(50), Path::new(""));
        assert_eq!(loads.engine_root(), EngineRoot::Elsewhere);
        loads.engine_silent();
        assert_eq!(engine(), None);
        loads.take_own_images(names(&["a"]));
        assert_eq!(loads.has(NodeId(1), &names(&["a"])), [true]);
        assert_eq!(loads.own_report().unwrap().images, ImageName::hash_of(&names(&["a"])));
        advance(KEPT).await;
        assert_eq!((seen(), loads.own_report()), (None, None), "a host that does not answer");
    }
}
