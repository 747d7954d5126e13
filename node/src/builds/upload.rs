//! A context that comes in: bytes are gathered, and room is made for them if there is none.

use std::io;
use std::sync::Arc;

use longshore_raft::Runtime;
use longshore_storage::{BlobDigest, BlobError, BlobInfo, BlobRoom, BlobWriter};
use tokio::sync::OwnedSemaphorePermit;

use super::contexts::{ContextError, Contexts, blocking};

/// Bytes that are gathered before they go to the disk.
pub(super) const WRITTEN_BYTES: usize = 256 << 10;

/// See the module's docs. What is not [finished](Upload::finish) is gone when it is dropped.
pub(crate) struct Upload<R: Runtime> {
    contexts: Arc<Contexts<R>>,
    /// None while a thread has it, and after an error.
    writer: Option<BlobWriter>,
    gathered: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

impl<R: Runtime> Upload<R> {
    pub(super) async fn begin(
        contexts: &Arc<Contexts<R>>,
        room: BlobRoom,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Self, ContextError> {
        let begun = match contexts.with_store(move |store, _| store.begin(room)).await {
            Err(error) if error.is_want_of_room() => {
                contexts.look_at_needs().await.map_err(|why| ContextError::Unsure { why })?;
                contexts.with_store(move |store, _| store.begin(room)).await
            }
            begun => begun,
        };
        let contexts = Arc::clone(contexts);
        Ok(Self { contexts, writer: Some(begun?), gathered: Vec::new(), _place: place })
    }

    pub(crate) async fn push(&mut self, piece: &[u8]) -> Result<(), ContextError> {
        self.gathered.extend_from_slice(piece);
        if self.gathered.len() >= WRITTEN_BYTES { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), ContextError> {
        match self.try_to_write().await {
            Err(error) if error.is_want_of_room() => {
                self.contexts.look_at_needs().await.map_err(|why| ContextError::Unsure { why })?;
                Ok(self.try_to_write().await?)
            }
            written => Ok(written?),
        }
    }

    /// What there was no room for can be written again.
    async fn try_to_write(&mut self) -> Result<(), BlobError> {
        let (mut writer, gathered) = (self.take()?, std::mem::take(&mut self.gathered));
        let work = move || {
            let written = writer.append(&gathered);
            Ok((writer, gathered, written))
        };
        let (writer, gathered, written) = blocking::<R, _>(work).await?;
        match &written {
            Ok(()) => self.writer = Some(writer),
            Err(error) if error.is_want_of_room() => {
                self.writer = Some(writer);
                self.gathered = gathered;
            }
            Err(_) => {}
        }
        written
    }

    fn take(&mut self) -> Result<BlobWriter, BlobError> {
        let source = io::Error::other("an earlier write failed");
        self.writer.take().ok_or(BlobError::Io { context: "writing a build context".to_owned(), source })
    }

    /// Makes it durable. None if it is not the one that was expected.
    pub(crate) async fn finish(
        mut self,
        expected: Option<BlobDigest>,
    ) -> Result<Option<BlobInfo>, ContextError> {
        self.write().await?;
        let (writer, now) = (self.take()?, self.contexts.now());
        Ok(blocking::<R, _>(move || writer.finish(expected, now)).await?)
    }
}
