//! The contexts that this node has: taken from clients, read for the engine and for other nodes, dropped when they are old.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::Replier;
use longshore_storage::{
    BlobDigest, BlobError, BlobInfo, BlobLimits, BlobReader, BlobStore, BlobWriter, Disk, StorageResult,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::calls::{BuildCall, BuildReply, PIECE_BYTES};
use crate::wire;

/// Folder of contexts in the data folder.
const DIR: &str = "contexts";
/// How long a context is kept after its last use.
const KEEP: Duration = Duration::from_secs(3_600);
/// How often old ones are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Most calls of other nodes that are being answered: each holds a piece in memory. And that wait for their turn.
const CALLS_MAX: usize = 16;
const WAITING_MAX: usize = 1_024;
/// Most contexts that are being taken at a time.
const UPLOADS_MAX: usize = 16;
/// Bytes that are gathered before they go to the disk.
const WRITTEN_BYTES: usize = 256 << 10;

/// See the module's docs. One per node.
pub(crate) struct Contexts<R: Runtime> {
    store: Arc<BlobStore>,
    opened: R::Instant,
    calls: Semaphore,
    waiting: Semaphore,
    uploads: Arc<Semaphore>,
}

impl<R: Runtime> Contexts<R> {
    /// `one_bytes`, `all_bytes`: most of one context, and of all.
    pub(crate) fn open(disk: Arc<dyn Disk>, one_bytes: u64, all_bytes: u64) -> StorageResult<Arc<Self>> {
        let limits = BlobLimits { one_bytes, all_bytes, keep: KEEP };
        Ok(Arc::new(Self {
            store: Arc::new(BlobStore::open(disk, DIR, limits, Duration::ZERO)?),
            opened: R::Instant::now(),
            calls: Semaphore::new(CALLS_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        }))
    }

    pub(crate) fn limits(&self) -> BlobLimits {
        self.store.limits()
    }

    pub(crate) fn list(&self) -> Vec<BlobInfo> {
        self.store.list()
    }

    /// Whether it is there, and counts as used now.
    pub(crate) async fn find(&self, digest: BlobDigest) -> Result<Option<BlobInfo>, BlobError> {
        let found = self.with_store(move |store, now| store.read(digest, now)).await?;
        Ok(found.map(|reader| BlobInfo { digest, bytes: reader.bytes() }))
    }

    /// Reads it through first: what is damaged is not there.
    pub(crate) async fn read_checked(&self, digest: BlobDigest) -> Result<Option<BlobReader>, BlobError> {
        self.with_store(move |store, now| store.read_checked(digest, now)).await
    }

    /// Begins to take one; none if as many as can be are under way.
    pub(crate) async fn upload(&self) -> Result<Option<Upload<R>>, BlobError> {
        let Ok(place) = Arc::clone(&self.uploads).try_acquire_owned() else { return Ok(None) };
        self.begin().await.map(|upload| Some(Upload { _place: Some(place), ..upload }))
    }

    /// Likewise, of another node.
    pub(super) async fn begin(&self) -> Result<Upload<R>, BlobError> {
        let writer = self.with_store(|store, now| store.begin(now)).await?;
        Ok(Upload { writer: Some(writer), gathered: Vec::new(), opened: self.opened, _place: None })
    }

    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Arc<BlobStore>, Duration) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let (store, now) = (Arc::clone(&self.store), R::Instant::now() - self.opened);
        blocking::<R, _>(move || work(&store, now)).await
    }

    /// Takes a call from another node. Returns at once.
    pub(crate) fn receive(self: &Arc<Self>, body: &Bytes, replier: Replier) {
        let call = match wire::decode::<BuildCall>(body) {
            Ok(call) => call,
            Err(error) => return replier.refuse(error),
        };
        let this = Arc::clone(self);
        drop(R::spawn(async move { replier.reply(wire::encode_reply(&this.answer(call).await)) }));
    }

    pub(super) async fn answer(&self, call: BuildCall) -> BuildReply {
        let busy = || BuildReply::Failed(format!("{WAITING_MAX} calls about build contexts wait there"));
        let Ok(_turn) = self.waiting.try_acquire() else { return busy() };
        // Who asks waits for as long as it likes.
        let Ok(_place) = self.calls.acquire().await else { return busy() };
        let answered = match call {
            BuildCall::Has { digest } => self
                .find(BlobDigest(digest))
                .await
                .map(|found| found.map_or(BuildReply::Missing, |info| BuildReply::Has { bytes: info.bytes })),
            BuildCall::Piece { digest, offset } => {
                let read = move |store: &Arc<BlobStore>, now| {
                    let reader = store.read(BlobDigest(digest), now)?;
                    reader.map(|reader| reader.piece(offset, PIECE_BYTES as usize)).transpose()
                };
                let piece = self.with_store(read).await;
                piece.map(|piece| piece.map_or(BuildReply::Missing, |piece| BuildReply::Piece(piece.into())))
            }
            BuildCall::Doubt { digest } => {
                let checked = self.read_checked(BlobDigest(digest)).await;
                checked.map(|reader| match reader {
                    Some(reader) => BuildReply::Has { bytes: reader.bytes() },
                    None => BuildReply::Missing,
                })
            }
        };
        answered.unwrap_or_else(|error| BuildReply::Failed(error.to_string()))
    }

    /// Drops what is old, until stopped.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken) {
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = R::sleep(SWEEP_EVERY) => {}
            }
            match self.with_store(|store, now| store.sweep(now)).await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "build contexts that nobody used were dropped"),
                Err(error) => tracing::warn!(%error, "old build contexts could not be dropped"),
            }
        }
    }
}

async fn blocking<R: Runtime, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match R::blocking(work).await {
        Ok(done) => done,
        Err(source) => Err(BlobError::Io { context: "the disk's thread ended".to_owned(), source }),
    }
}

/// A context that comes in. What is not [finished](Upload::finish) is gone when it is dropped.
pub(crate) struct Upload<R: Runtime> {
    /// None while a thread has it, and after an error.
    writer: Option<BlobWriter>,
    gathered: Vec<u8>,
    opened: R::Instant,
    _place: Option<OwnedSemaphorePermit>,
}

impl<R: Runtime> Upload<R> {
    pub(crate) async fn push(&mut self, piece: &[u8]) -> Result<(), BlobError> {
        self.gathered.extend_from_slice(piece);
        if self.gathered.len() >= WRITTEN_BYTES { self.write().await } else { Ok(()) }
    }

    async fn write(&mut self) -> Result<(), BlobError> {
        let (mut writer, gathered) = (self.take()?, std::mem::take(&mut self.gathered));
        let writer = blocking::<R, _>(move || writer.append(&gathered).map(|()| writer)).await?;
        self.writer = Some(writer);
        Ok(())
    }

    fn take(&mut self) -> Result<BlobWriter, BlobError> {
        let source = io::Error::other("an earlier write failed");
        self.writer.take().ok_or(BlobError::Io { context: "writing a build context".to_owned(), source })
    }

    /// Makes it durable. None if it is not the one that was expected.
    pub(crate) async fn finish(
        mut self,
        expected: Option<BlobDigest>,
    ) -> Result<Option<BlobInfo>, BlobError> {
        self.write().await?;
        let (writer, now) = (self.take()?, R::Instant::now() - self.opened);
        blocking::<R, _>(move || writer.finish(expected, now)).await
    }
}

#[cfg(test)]
mod tests {
    use longshore_raft::consensus::runtime::TokioRuntime;
    use longshore_storage::MemDisk;

    use super::*;

    fn contexts() -> Arc<Contexts<TokioRuntime>> {
        Contexts::open(Arc::new(MemDisk::new()), 4 << 20, 8 << 20).unwrap()
    }

    #[tokio::test]
    async fn what_is_sent_is_told_of_and_read_in_pieces() {
        let contexts = contexts();
        let bytes: Vec<u8> = (0..1_500_000_u32).map(|n| (n % 251) as u8).collect();
        let mut upload = contexts.upload().await.unwrap().unwrap();
        for piece in bytes.chunks(10_007) {
            upload.push(piece).await.unwrap();
        }
        let BlobInfo { digest, bytes: length } = upload.finish(None).await.unwrap().unwrap();
        assert_eq!(length, bytes.len() as u64);
        let has = contexts.answer(BuildCall::Has { digest: digest.0 }).await;
        assert_eq!(has, BuildReply::Has { bytes: length });
        let mut read = Vec::new();
        while read.len() < bytes.len() {
            let call = BuildCall::Piece { digest: digest.0, offset: read.len() as u64 };
            let BuildReply::Piece(piece) = contexts.answer(call).await else { panic!("it is there") };
            read.extend(piece);
        }
        assert_eq!(read, bytes);
        assert_eq!(contexts.answer(BuildCall::Has { digest: [0; 32] }).await, BuildReply::Missing);
    }

    #[tokio::test]
    async fn there_are_limits_and_what_is_given_up_leaves_nothing() {
        let contexts = contexts();
        let mut places = Vec::new();
        for _ in 0..UPLOADS_MAX {
            places.push(contexts.upload().await.unwrap().expect("a place"));
        }
        assert!(contexts.upload().await.unwrap().is_none());
        places.pop();
        let mut upload = contexts.upload().await.unwrap().expect("a place again");
        let error = loop {
            if let Err(error) = upload.push(&[0; 100_000]).await {
                break error;
            }
        };
        assert!(matches!(error, BlobError::TooLarge { limit } if limit == 4 << 20), "{error}");
        assert!(upload.push(&[0; WRITTEN_BYTES]).await.is_err(), "it is of no use any more");
        drop((places, upload));
        assert!(contexts.list().is_empty());
    }
}
