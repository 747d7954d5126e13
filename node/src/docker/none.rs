//! The engine of a node that has none: it refuses everything, and not as if it might work later.

use std::sync::Arc;
use std::time::Duration;

use longshore_model::image::ImageReference;

use super::*;

/// Stands for `--docker none`.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoEngine;

fn disabled<T: Send + 'static>() -> BoxFuture<'static, Result<T, EngineError>> {
    Box::pin(std::future::ready(Err(EngineError::Disabled)))
}

impl ContainerEngine for NoEngine {
    fn info(&self) -> BoxFuture<'_, Result<EngineInfo, EngineError>> {
        disabled()
    }

    fn authorized(&self, _: Credentials) -> Arc<dyn ContainerEngine> {
        Arc::new(*self)
    }

    fn pull(&self, _: &ImageReference, _: OnProgress) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn push(&self, _: &ImageReference, _: OnProgress) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn build(
        &self,
        _: &BuildOrder,
        _: ContextBytes,
        _: OnProgress,
    ) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn tag(&self, _: &ImageReference, _: &ImageReference) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn inspect_image(&self, _: &ImageReference) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        disabled()
    }

    fn create(&self, _: &NewContainer) -> BoxFuture<'_, Result<String, EngineError>> {
        disabled()
    }

    fn start(&self, _: &str) -> BoxFuture<'_, Result<(), EngineError>> {
        disabled()
    }

    fn stop(&self, _: &str, _: Option<Duration>) -> BoxFuture<'_, Result<(), EngineError>> {
        disabled()
    }

    fn remove(&self, _: &str, _: bool) -> BoxFuture<'_, Result<(), EngineError>> {
        disabled()
    }

    fn inspect_container(&self, _: &str) -> BoxFuture<'_, Result<Option<Container>, EngineError>> {
        disabled()
    }

    fn list_containers(&self) -> BoxFuture<'_, Result<Vec<Container>, EngineError>> {
        disabled()
    }

    fn list_images(&self) -> BoxFuture<'_, Result<Vec<ListedImage>, EngineError>> {
        disabled()
    }

    fn find_image(&self, _: &str) -> BoxFuture<'_, Result<Option<ListedImage>, EngineError>> {
        disabled()
    }

    fn list_volumes(&self) -> BoxFuture<'_, Result<Vec<ListedVolume>, EngineError>> {
        disabled()
    }

    fn find_volume(&self, _: &str) -> BoxFuture<'_, Result<Option<ListedVolume>, EngineError>> {
        disabled()
    }

    fn watch(&self, _: OnChanged) -> BoxFuture<'_, Result<(), EngineError>> {
        disabled()
    }

    fn logs(&self, _: &str, _: &LogQuery, _: OutputSink) -> BoxFuture<'_, Result<(), EngineError>> {
        disabled()
    }

    fn exec(&self, _: &str, _: &ExecSpec, _: OutputSink) -> BoxFuture<'_, Result<i64, EngineError>> {
        disabled()
    }
}
