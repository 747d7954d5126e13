//! The engine of a node that has none: it refuses everything, and not as if it might work later.

use longshore_model::image::ImageReference;

use super::{BoxFuture, ContainerEngine, EngineError, EngineInfo, LocalImage, OnProgress};

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

    fn pull(&self, _: &ImageReference, _: OnProgress) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn push(&self, _: &ImageReference, _: OnProgress) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn tag(&self, _: &ImageReference, _: &ImageReference) -> BoxFuture<'_, Result<LocalImage, EngineError>> {
        disabled()
    }

    fn inspect_image(&self, _: &ImageReference) -> BoxFuture<'_, Result<Option<LocalImage>, EngineError>> {
        disabled()
    }
}
