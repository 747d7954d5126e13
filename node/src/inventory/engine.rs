//! The engine as this node's own parts call it: what a call may have changed is marked before whoever made it hears that it is over.
//!
//! Also when it failed, or was given up: the engine may have done it all the same. And whether the engine answers is noted, whatever it is asked.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::container::MountSource;
use longshore_model::image::ImageReference;
use longshore_raft::Runtime;

use super::Inventory;
use super::pulse::{CHANGE_WITHIN, FIND_WITHIN, LIST_WITHIN};
use crate::docker::*;

/// See the module's docs.
pub(super) struct NotedEngine<R: Runtime> {
    engine: Arc<dyn ContainerEngine>,
    inventory: Arc<Inventory<R>>,
}

/// Marks what a call is about when the call is over.
struct Note<R: Runtime> {
    inventory: Arc<Inventory<R>>,
    about: Vec<Changed>,
}

impl<R: Runtime> Drop for Note<R> {
    fn drop(&mut self) {
        for changed in std::mem::take(&mut self.about) {
            self.inventory.touch(changed);
        }
    }
}

impl<R: Runtime> NotedEngine<R> {
    pub(super) fn new(engine: Arc<dyn ContainerEngine>, inventory: Arc<Inventory<R>>) -> Self {
        Self { engine, inventory }
    }

    fn note(&self, about: Vec<Changed>) -> Note<R> {
        Note { inventory: Arc::clone(&self.inventory), about }
    }

    fn of_container(&self, container: &str) -> Note<R> {
        self.note(vec![Changed::Container(container.to_owned())])
    }

    /// A call whose outcome says whether the engine answers, at the latest after this time.
    fn sensed<'a, T: Send + 'a>(
        &'a self,
        within: impl Into<Option<Duration>>,
        call: BoxFuture<'a, Result<T, EngineError>>,
    ) -> BoxFuture<'a, Result<T, EngineError>> {
        let within = within.into();
        let inventory = &*self.inventory;
        Box::pin(inventory.pulse.sense::<R, _>(within, || inventory.doubt(), call))
    }

    /// Likewise, with what is marked after it.
    fn noted<'a, T: Send + 'a>(
        &'a self,
        note: Note<R>,
        within: impl Into<Option<Duration>>,
        call: BoxFuture<'a, Result<T, EngineError>>,
    ) -> BoxFuture<'a, Result<T, EngineError>> {
        let call = self.sensed(within, call);
        Box::pin(async move {
            let _note = note;
            call.await
        })
    }
}

impl<R: Runtime> ContainerEngine for NotedEngine<R> {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        self.sensed(FIND_WITHIN, self.engine.info())
    }

    fn authorized(&self, credentials: Credentials) -> Arc<dyn ContainerEngine> {
        Arc::new(Self::new(self.engine.authorized(credentials), Arc::clone(&self.inventory)))
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let note = self.note(vec![Changed::Image(image.familiar())]);
        self.noted(note, None, self.engine.pull(image, on_progress))
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.sensed(None, self.engine.push(image, on_progress))
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let note = self.note(vec![Changed::Image(target.familiar())]);
        self.noted(note, CHANGE_WITHIN, self.engine.tag(source, target))
    }

    /// The images that it begins with are pulled on the way; the engine tells of those.
    fn build(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let named = order.tags.iter().map(|tag| Changed::Image(tag.familiar()));
        self.noted(self.note(named.collect()), None, self.engine.build(order, context, on_progress))
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        self.sensed(FIND_WITHIN, self.engine.inspect_image(image))
    }

    /// Of its volumes those with a name of their own are marked; the others the engine tells of.
    fn create(&self, container: &NewContainer) -> BoxFuture<'_, Result<String, EngineError>> {
        let mut about = vec![Changed::Container(container.name.clone())];
        for mount in &container.spec.mounts {
            if let MountSource::Volume(name) = &mount.source {
                about.push(Changed::Volume(name.clone()));
            }
        }
        let mut note = self.note(about);
        let call = self.sensed(CHANGE_WITHIN, self.engine.create(container));
        Box::pin(async move {
            let made = call.await;
            if let Ok(id) = &made {
                // As its event does.
                note.about[0] = Changed::Container(id.clone());
            }
            made
        })
    }

    fn start(&self, container: &str) -> BoxFuture<'_, Result<(), EngineError>> {
        self.noted(self.of_container(container), CHANGE_WITHIN, self.engine.start(container))
    }

    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>> {
        let within = CHANGE_WITHIN + grace.unwrap_or_default();
        self.noted(self.of_container(container), within, self.engine.stop(container, grace))
    }

    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Result<(), EngineError>> {
        self.noted(self.of_container(container), CHANGE_WITHIN, self.engine.remove(container, force))
    }

    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>> {
        self.sensed(FIND_WITHIN, self.engine.inspect_container(container))
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>> {
        self.sensed(LIST_WITHIN, self.engine.list_containers())
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>> {
        self.sensed(LIST_WITHIN, self.engine.list_images())
    }

    fn find_image(&self, image: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>> {
        self.sensed(FIND_WITHIN, self.engine.find_image(image))
    }

    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>> {
        self.sensed(LIST_WITHIN, self.engine.list_volumes())
    }

    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>> {
        self.sensed(FIND_WITHIN, self.engine.find_volume(volume))
    }

    fn watch(&self, on_changed: OnChanged) -> BoxFuture<'_, Result<(), EngineError>> {
        self.engine.watch(on_changed)
    }

    fn logs(
        &self,
        container: &str,
        query: &LogQuery,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        self.sensed(None, self.engine.logs(container, query, output))
    }

    fn exec(
        &self,
        container: &str,
        command: &ExecSpec,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<i64, EngineError>> {
        self.sensed(None, self.engine.exec(container, command, output))
    }
}
