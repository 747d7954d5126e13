//! A process's way to its host's engine: what is asked runs there, not here.
//!
//! A paused process does not hold up what it asked for, and hears of it when it goes on. What a dead one asked for is done all the same.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use longshore_model::image::ImageReference;
use longshore_node::docker::{
    BoxFuture, BuildOrder, Changed, Container, ContainerCall, ContainerEngine, ContextBytes, Credentials,
    EngineError, EngineInfo, ExecSpec, ListedImage, ListedVolume, LocalImage, LogQuery, NewContainer,
    OnChanged, OnProgress, OutputSink,
};
use tokio::sync::{mpsc, oneshot};

use super::{Fake, HostEngine};
use crate::plan::Latency;
use crate::random::draw;
use crate::runtime::{current, sleep_global, spawn_in};

/// Steps that a paused process has not heard of yet; more than a pull has.
const PROGRESS_MAX: usize = 64;
/// From a call about containers to its arrival in the engine, and from there to the reply.
const CALL: Latency = Latency::even(200, 10_000);

type Answer<T> = Result<T, EngineError>;

/// A process's way to the engine.
pub(super) struct Connection {
    pub(super) engine: HostEngine,
    pub(super) incarnation: u64,
}

impl Connection {
    /// Has the engine do `work`, whatever becomes of whoever waits for the reply.
    fn call<T, W>(&self, work: impl FnOnce(Fake) -> W + Send + 'static) -> BoxFuture<'static, Answer<T>>
    where
        T: Send + 'static,
        W: Future<Output = Answer<T>> + Send,
    {
        let engine = self.engine.clone();
        Box::pin(async move {
            let (reply, replied) = oneshot::channel();
            let context = Arc::clone(&engine.shared.context);
            drop(spawn_in(&context, async move {
                sleep_global(engine.latency()).await;
                let done = work(engine.shared.fake.clone()).await;
                sleep_global(engine.latency()).await;
                let _ = reply.send(done);
            }));
            replied.await.unwrap_or_else(|_| Err(interrupted()))
        })
    }

    /// Likewise, for what has an end only when nobody listens any more: the engine notices that.
    fn listen<T, W>(&self, work: impl FnOnce(Fake) -> W + Send + 'static) -> BoxFuture<'static, Answer<T>>
    where
        T: Send + 'static,
        W: Future<Output = Answer<T>> + Send,
    {
        let engine = self.engine.clone();
        Box::pin(async move {
            let (mut reply, replied) = oneshot::channel();
            let context = Arc::clone(&engine.shared.context);
            drop(spawn_in(&context, async move {
                sleep_global(engine.latency()).await;
                let done = tokio::select! {
                    biased;
                    done = work(engine.shared.fake.clone()) => done,
                    () = reply.closed() => return,
                };
                let _ = reply.send(done);
            }));
            replied.await.unwrap_or_else(|_| Err(interrupted()))
        })
    }

    /// Has the engine bring or build an image; tells this process of its progress, as long as it listens.
    async fn bring<W>(
        &self,
        image: ImageReference,
        on_progress: OnProgress,
        work: impl FnOnce(Fake, OnProgress) -> W + Send + 'static,
    ) -> Answer<LocalImage>
    where
        W: Future<Output = Answer<LocalImage>> + Send + 'static,
    {
        let engine = self.engine.clone();
        let context = Arc::clone(&engine.shared.context);
        let (progress, mut steps) = mpsc::channel(PROGRESS_MAX);
        let (reply, mut replied) = oneshot::channel();
        let process = (current(), self.incarnation);
        drop(spawn_in(&context, engine.bring(image, process, progress, reply, work)));
        loop {
            tokio::select! {
                biased;
                Some(step) = steps.recv() => on_progress(step),
                result = &mut replied => break result.unwrap_or_else(|_| Err(interrupted())),
            }
        }
    }
}

impl HostEngine {
    fn latency(&self) -> Duration {
        draw(&mut self.shared.chance.lock().random, &CALL)
    }
}

impl ContainerEngine for Connection {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        self.engine.shared.fake.info()
    }

    fn authorized(&self, _: Credentials) -> Arc<dyn ContainerEngine> {
        // Simulated registries ask nobody who they are.
        Arc::new(Self { engine: self.engine.clone(), incarnation: self.incarnation })
    }

    fn pull(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let image = image.clone();
        Box::pin(async move {
            let of = image.clone();
            let work = move |engine: Fake, tell| async move { engine.pull(&of, tell).await };
            self.bring(image, on_progress, work).await
        })
    }

    fn build(
        &self,
        order: &BuildOrder,
        mut context: ContextBytes,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        let order = order.clone();
        Box::pin(async move {
            // Through the process: one that is paused, or dies, sends nothing.
            let mut pieces = Vec::new();
            while let Some(piece) = context.next().await {
                pieces.push(piece.map_err(|_| interrupted())?);
            }
            let image = order.tags.first().cloned().ok_or_else(interrupted)?;
            let work = move |engine: Fake, tell| async move {
                let context = Box::pin(stream::iter(pieces.into_iter().map(Ok)));
                engine.build(&order, context, tell).await
            };
            self.bring(image, on_progress, work).await
        })
    }

    fn push(
        &self,
        image: &ImageReference,
        on_progress: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.engine.shared.fake.push(image, on_progress)
    }

    fn tag(
        &self,
        source: &ImageReference,
        target: &ImageReference,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        self.engine.shared.fake.tag(source, target)
    }

    fn inspect_image(
        &self,
        image: &ImageReference,
    ) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        self.engine.shared.fake.inspect_image(image)
    }

    fn create(&self, container: &NewContainer) -> BoxFuture<'_, Answer<String>> {
        let container = container.clone();
        let host = self.engine.clone();
        self.call(
            move |engine| async move { host.change(ContainerCall::Create, engine.create(&container)).await },
        )
    }

    fn start(&self, container: &str) -> BoxFuture<'_, Answer<()>> {
        let container = container.to_owned();
        let host = self.engine.clone();
        self.call(
            move |engine| async move { host.change(ContainerCall::Start, engine.start(&container)).await },
        )
    }

    fn stop(&self, container: &str, grace: Option<Duration>) -> BoxFuture<'_, Answer<()>> {
        let container = container.to_owned();
        let host = self.engine.clone();
        self.call(move |engine| async move {
            host.change(ContainerCall::Stop, engine.stop(&container, grace)).await
        })
    }

    fn remove(&self, container: &str, force: bool) -> BoxFuture<'_, Answer<()>> {
        let container = container.to_owned();
        let host = self.engine.clone();
        self.call(move |engine| async move {
            host.change(ContainerCall::Remove, engine.remove(&container, force)).await
        })
    }

    fn inspect_container(&self, container: &str) -> BoxFuture<'_, Answer<Option<Container>>> {
        let container = container.to_owned();
        self.call(|engine| async move { engine.inspect_container(&container).await })
    }

    fn list_containers(&self) -> BoxFuture<'_, Answer<Vec<Container>>> {
        self.call(|engine| async move { engine.list_containers().await })
    }

    fn list_images(&self) -> BoxFuture<'_, Answer<Vec<ListedImage>>> {
        self.call(|engine| async move { engine.list_images().await })
    }

    fn find_image(&self, image: &str) -> BoxFuture<'_, Answer<Option<ListedImage>>> {
        let image = image.to_owned();
        self.call(|engine| async move { engine.find_image(&image).await })
    }

    fn list_volumes(&self) -> BoxFuture<'_, Answer<Vec<ListedVolume>>> {
        self.call(|engine| async move { engine.list_volumes().await })
    }

    fn find_volume(&self, volume: &str) -> BoxFuture<'_, Answer<Option<ListedVolume>>> {
        let volume = volume.to_owned();
        self.call(|engine| async move { engine.find_volume(&volume).await })
    }

    fn watch(&self, on_changed: OnChanged) -> BoxFuture<'_, Answer<()>> {
        // Unbounded: a paused process misses nothing.
        let (changes, mut changed) = mpsc::unbounded_channel::<Changed>();
        let mut ended = self.listen(|engine| async move {
            let tell = Arc::new(move |change| {
                let _ = changes.send(change);
            });
            engine.watch(tell).await
        });
        Box::pin(async move {
            loop {
                tokio::select! {
                    biased;
                    Some(change) = changed.recv() => on_changed(change),
                    ended = &mut ended => break ended,
                }
            }
        })
    }

    fn logs(&self, container: &str, query: &LogQuery, output: OutputSink) -> BoxFuture<'_, Answer<()>> {
        let (container, query) = (container.to_owned(), query.clone());
        self.listen(|engine| async move { engine.logs(&container, &query, output).await })
    }

    fn exec(&self, container: &str, command: &ExecSpec, output: OutputSink) -> BoxFuture<'_, Answer<i64>> {
        let (container, command) = (container.to_owned(), command.clone());
        self.call(|engine| async move { engine.exec(&container, &command, output).await })
    }
}

pub(super) fn interrupted() -> EngineError {
    EngineError::Interrupted {
        endpoint: "simulated".to_owned(),
        detail: "the connection was closed before the reply was complete".to_owned(),
    }
}
