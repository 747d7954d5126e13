//! The contexts that this node has: taken from clients, read for the engine and for other nodes, dropped when they are old and nothing needs them.
//!
//! Which of them builds still need that have not ended, the fleet's records say; they are asked before anything is dropped, and only then. What can
//! not be asked about stays. Must never: drop a context that an open build of this node's clients names, or keep the node from starting.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use longshore_raft::transport::Replier;
use longshore_storage::{
    BlobDigest, BlobError, BlobInfo, BlobLimits, BlobNeeds, BlobReader, BlobRoom, BlobStore, Disk, DiskFloor,
};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::calls::{BuildCall, BuildReply, PIECE_BYTES};
use super::upload::Upload;
use crate::ring::OpenContexts;
use crate::wire;

/// Folder of contexts in the data folder.
const DIR: &str = "contexts";
/// How long a context is kept after its last use, and after the end of the last build that names it.
const KEEP: Duration = Duration::from_secs(3_600);
/// How long it may take from telling a client that a context is here until the build that names it is in the fleet's log.
const SETTLE: Duration = Duration::from_secs(60);
/// How often old ones are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long the fleet's answer about what is needed is not asked for again, and how long it may take.
const NEEDS_HOLD: Duration = Duration::from_secs(2);
const NEEDS_PATIENCE: Duration = Duration::from_secs(10);
/// Most calls of other nodes that are being answered: each holds a piece in memory. And that wait for their turn.
const CALLS_MAX: usize = 16;
const WAITING_MAX: usize = 1_024;
/// Most contexts that are being taken at a time.
const UPLOADS_MAX: usize = 16;

/// Why this node can not keep a context, or read one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContextError {
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// There is no room, and what could make some may be needed.
    #[error(
        "there is no room for it, and which of the contexts here are still needed can not be asked: {why}"
    )]
    Unsure { why: String },
}

/// Asks the fleet which contexts builds need that have not ended.
type AskNeeds = Box<dyn Fn() -> BoxFuture<'static, Result<OpenContexts, String>> + Send + Sync>;

/// When, and why there was no answer if there was none.
type Answered<I> = (I, Result<(), String>);

/// See the module's docs. One per node.
pub(crate) struct Contexts<R: Runtime> {
    disk: Arc<dyn Disk>,
    limits: BlobLimits,
    /// None as long as its folder can not be opened.
    store: Mutex<Option<Arc<BlobStore>>>,
    /// Held while it is being opened.
    opening: Mutex<()>,
    opened: R::Instant,
    ask_needs: OnceLock<AskNeeds>,
    /// When the fleet last answered, or did not, and why.
    asked: tokio::sync::Mutex<Option<Answered<R::Instant>>>,
    calls: Semaphore,
    waiting: Semaphore,
    uploads: Arc<Semaphore>,
}

impl<R: Runtime> Contexts<R> {
    /// `one_bytes`, `all_bytes`: most of one context, and of all. A folder that can not be opened is tried again whenever it is needed.
    pub(crate) fn open(disk: Arc<dyn Disk>, one_bytes: u64, all_bytes: u64, floor: DiskFloor) -> Arc<Self> {
        let this = Self {
            disk,
            limits: BlobLimits { one_bytes, all_bytes, keep: KEEP, settle: SETTLE, floor },
            store: Mutex::default(),
            opening: Mutex::default(),
            opened: R::Instant::now(),
            ask_needs: OnceLock::new(),
            asked: tokio::sync::Mutex::default(),
            calls: Semaphore::new(CALLS_MAX),
            waiting: Semaphore::new(WAITING_MAX),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
        };
        if let Err(error) = this.store(Duration::ZERO) {
            tracing::error!(%error, "build contexts can not be kept; builds wait until they can");
        }
        Arc::new(this)
    }

    /// From where it is known what is needed. Until then nothing is dropped.
    pub(crate) fn ask_needs_of(
        &self,
        ask: impl Fn() -> BoxFuture<'static, Result<OpenContexts, String>> + Send + Sync + 'static,
    ) {
        let _ = self.ask_needs.set(Box::new(ask));
    }

    pub(crate) fn limits(&self) -> BlobLimits {
        self.limits
    }

    pub(crate) fn list(&self) -> Vec<BlobInfo> {
        self.store.lock().as_ref().map(|store| store.list()).unwrap_or_default()
    }

    /// Whether it is there, for a client that may be about to submit a build of it.
    pub(crate) async fn claim(self: &Arc<Self>, digest: BlobDigest) -> Result<Option<BlobInfo>, BlobError> {
        self.with_store(move |store, now| store.claim(digest, now)).await
    }

    /// Whether it is there, and counts as used now.
    pub(super) async fn find(self: &Arc<Self>, digest: BlobDigest) -> Result<Option<BlobInfo>, BlobError> {
        let found = self.with_store(move |store, now| store.read(digest, now)).await?;
        Ok(found.map(|reader| BlobInfo { digest, bytes: reader.bytes() }))
    }

    /// Reads it through first: what is damaged is not there.
    pub(crate) async fn read_checked(
        self: &Arc<Self>,
        digest: BlobDigest,
    ) -> Result<Option<BlobReader>, BlobError> {
        self.with_store(move |store, now| store.read_checked(digest, now)).await
    }

    /// Begins to take one of a client; none if as many as can be are under way. `announced`: how long it will be, if that is known. Beside what is
    /// needed there is always room left for a context that this node has to build: else two nodes that are full of contexts for each other's builds
    /// would wait for each other.
    pub(crate) async fn upload(
        self: &Arc<Self>,
        announced: Option<u64>,
    ) -> Result<Option<Upload<R>>, ContextError> {
        let Ok(place) = Arc::clone(&self.uploads).try_acquire_owned() else { return Ok(None) };
        let room = BlobRoom { bytes: announced, spare_bytes: self.limits.one_bytes, is_claimed: true };
        Upload::begin(self, room, Some(place)).await.map(Some)
    }

    /// Likewise, one of so many bytes of another node.
    pub(super) async fn fetched(self: &Arc<Self>, bytes: u64) -> Result<Upload<R>, ContextError> {
        Upload::begin(self, BlobRoom { bytes: Some(bytes), ..BlobRoom::default() }, None).await
    }

    /// Time since this was opened, which is the store's clock.
    pub(super) fn now(&self) -> Duration {
        R::Instant::now() - self.opened
    }

    /// Blocks.
    fn store(&self, now: Duration) -> Result<Arc<BlobStore>, BlobError> {
        if let Some(store) = &*self.store.lock() {
            return Ok(Arc::clone(store));
        }
        let _turn = self.opening.lock();
        if let Some(store) = &*self.store.lock() {
            return Ok(Arc::clone(store));
        }
        let store = Arc::new(BlobStore::open(Arc::clone(&self.disk), DIR, self.limits, now)?);
        *self.store.lock() = Some(Arc::clone(&store));
        Ok(store)
    }

    pub(super) async fn with_store<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<BlobStore>, Duration) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let (this, now) = (Arc::clone(self), self.now());
        blocking::<R, _>(move || work(&this.store(now)?, now)).await
    }

    /// Asks the fleet which contexts are needed, unless that was just done, and tells the store. An error says why nobody knows.
    pub(super) async fn look_at_needs(self: &Arc<Self>) -> Result<(), String> {
        let mut asked = self.asked.lock().await;
        if let Some((_, answer)) = asked.as_ref().filter(|(at, _)| R::Instant::now() - *at < NEEDS_HOLD) {
            return answer.clone();
        }
        let answer = self.ask_needs().await;
        *asked = Some((R::Instant::now(), answer.clone()));
        answer
    }

    async fn ask_needs(self: &Arc<Self>) -> Result<(), String> {
        let as_of = self.now();
        let ask = self.ask_needs.get().ok_or("this node is still starting")?;
        let answered = R::timeout(NEEDS_PATIENCE, ask()).await;
        let open = answered.map_err(|_| "the fleet does not answer in time".to_owned())??;
        let as_set = |digests: BTreeSet<[u8; 32]>| digests.into_iter().map(BlobDigest).collect();
        let needs = BlobNeeds { as_of, pinned: as_set(open.held), wanted: as_set(open.elsewhere) };
        let told = self.with_store(move |store, _| {
            store.set_needs(needs);
            Ok(())
        });
        told.await.map_err(|error| error.to_string())
    }

    /// Drops what is old and not needed. How many.
    async fn sweep(self: &Arc<Self>) -> Result<usize, ContextError> {
        if !self.with_store(|store, now| Ok(store.has_old(now))).await? {
            return Ok(0);
        }
        self.look_at_needs().await.map_err(|why| ContextError::Unsure { why })?;
        Ok(self.with_store(|store, now| store.sweep(now)).await?)
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

    pub(super) async fn answer(self: &Arc<Self>, call: BuildCall) -> BuildReply {
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
            match self.sweep().await {
                Ok(0) => {}
                Ok(dropped) => tracing::info!(dropped, "build contexts that nobody used were dropped"),
                Err(error) => tracing::warn!(%error, "old build contexts could not be dropped"),
            }
        }
    }
}

pub(super) async fn blocking<R: Runtime, T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    match R::blocking(work).await {
        Ok(done) => done,
        Err(source) => Err(BlobError::Io { context: "the disk's thread ended".to_owned(), source }),
    }
}

#[cfg(test)]
#[path = "contexts_tests.rs"]
mod tests;
