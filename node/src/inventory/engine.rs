//! The engine as this node's own parts call it: what a call may have changed is marked before whoever made it hears that it is over.
//!
//! Also when it failed, or was given up: the engine may have done it all the same.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::container::MountSource;
use longshore_model::image::ImageReference;
use longshore_raft::Runtime;

use super::Inventory;
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

/// Has the inventory doubt its engine when it is dropped, unless it answered.
struct Doubt<'a, R: Runtime>(Option<&'a Inventory<R>>);

impl<R: Runtime> Drop for Doubt<'_, R> {
    fn drop(&mut self) {
        if let Some(inventory) = self.0 {
            inventory.doubt();
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
}

/// A call, with what is marked after it.
fn noted<'a, R: Runtime, T: 'a>(
    note: Note<R>,
    call: BoxFuture<'a, Result<T, EngineError>>,
) -> BoxFuture<'a, Result<T, EngineError>> {
    Box::pin(async move {
        let _note = note;
        call.await
    })
}

impl<R: Runtime> ContainerEngine for NotedEngine<R> {
    /// One that does not answer may not tell of what happens either.
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        Box::pin(async move {
            let mut doubt = Doubt(Some(&*self.inventory));
            let answered = self.engine.info().await;
            if answered.is_ok() {
                doubt.0 = None;
            }
            answered
        })
    }

    fn authorized(&self, credentials: Credentials) -> Arc<dyn ContainerEngine> {
        Arc::new(Self::new(self.engine.authorized(credentials), Arc::clone(&self.inventory)))
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        noted(self.note(vec![Changed::Image(image.familiar())]), self.engine.pull(image, on_progress))
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.engine.push(image, on_progress)
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        noted(self.note(vec![Changed::Image(target.familiar())]), self.engine.tag(source, target))
    }

    /// The images that it begins with are pulled on the way; the engine tells of those.
    fn build(
        &self,
        order: &BuildOrder,
        context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let named = order.tags.iter().map(|tag| Changed::Image(tag.familiar()));
        noted(self.note(named.collect()), self.engine.build(order, context, on_progress))
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        self.engine.inspect_image(image)
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
        let call = self.engine.create(container);
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
        noted(self.of_container(container), self.engine.start(container))
    }

    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>> {
        noted(self.of_container(container), self.engine.stop(container, grace))
    }

    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Result<(), EngineError>> {
        noted(self.of_container(container), self.engine.remove(container, force))
    }

    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>> {
        self.engine.inspect_container(container)
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>> {
        self.engine.list_containers()
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>> {
        self.engine.list_images()
    }

    fn find_image(&self, image: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>> {
        self.engine.find_image(image)
    }

    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>> {
        self.engine.list_volumes()
    }

    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>> {
        self.engine.find_volume(volume)
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
        self.engine.logs(container, query, output)
    }

    fn exec(
        &self,
        container: &str,
        command: &ExecSpec,
        output: OutputSink,
    ) -> BoxFuture<'_, Result<i64, EngineError>> {
        self.engine.exec(container, command, output)
    }
}
