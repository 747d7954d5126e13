//! Moving a snapshot to another replica: in chunks, a few on the way, resumed where the receiver stands.
//!
//! The transfer is named by the blake3 hash of the data, so the same snapshot sent again (after a lost chunk, a lost
//! reply, or by the next leader) goes on where it stopped. Invariant: data is installed only when its hash is right.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{NetworkError, StreamingError};
use openraft::network::RPCTypes;
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;

use super::codec::Blob;
use super::config::SNAPSHOT_STEP_TIMEOUT;
use super::link::{Link, LinkError};
use super::runtime::Runtime;
use super::types::{Snapshot, Types, Vote};
use super::wire::{GroupBody, Refusal, Reply, SnapshotPart};
use crate::transport::{Lane, TransportError};

/// Bytes of one chunk: small, so that chunks of many transfers take turns and heartbeats pass.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;
/// Chunks on the way at a time: 1 MiB, enough for 100 MB/s at 10 ms.
const CHUNKS_IN_FLIGHT: usize = 16;
/// Largest snapshot that is taken: it is assembled in memory.
pub(crate) const SNAPSHOT_BYTES_MAX: u64 = 1 << 30;
/// Failures in a row, without a byte of progress between, after which the sender leaves it to openraft to try again.
const FAILURES_MAX: u32 = 5;
/// How often the receiver may send the sender back within one attempt.
const REWINDS_MAX: u32 = 16;
/// Wait after a failure; times the failures in a row.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

type Sent<R> = Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>>;

/// Sends a snapshot and has it installed.
pub(crate) async fn send<R: Runtime>(link: &Link, vote: Vote, snapshot: Snapshot) -> Sent<R> {
    let data = snapshot.snapshot.clone();
    let hash = R::spawn_blocking(move || *blake3::hash(&data).as_bytes()).await;
    let hash = hash.map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
    let mut sender = Sender { link, vote, snapshot, hash, furthest: 0 };
    let mut failures = 0;
    loop {
        let before = sender.furthest;
        let error = match sender.attempt().await {
            Ok(vote) => return Ok(SnapshotResponse::new(vote)),
            Err(e) => e,
        };
        failures = if sender.furthest > before { 1 } else { failures + 1 };
        let unreachable = matches!(error, LinkError::Transport(TransportError::Unreachable { .. }));
        if unreachable || failures >= FAILURES_MAX {
            let error = link.rpc_error(error, RPCTypes::InstallSnapshot, SNAPSHOT_STEP_TIMEOUT);
            return Err(error.into());
        }
        R::sleep(FAILURE_PAUSE * failures).await;
    }
}

struct Sender<'a> {
    link: &'a Link,
    vote: Vote,
    snapshot: Snapshot,
    hash: [u8; 32],
    /// Furthest offset the receiver ever asked for: progress is measured by it.
    furthest: u64,
}

impl Sender<'_> {
    /// One try from where the receiver stands to the end. Returns the receiver's vote.
    async fn attempt(&mut self) -> Result<Vote, LinkError> {
        let (vote, last) = ((&self.vote).into(), self.snapshot.meta.last_log_id.as_ref().map(Into::into));
        let (hash, len) = (self.hash, self.snapshot.snapshot.len() as u64);
        let begin = SnapshotPart::Begin { vote, last, hash, len };
        let start = match self.ask(begin, SNAPSHOT_STEP_TIMEOUT).await? {
            Reply::SnapshotNext(offset) => offset,
            Reply::SnapshotDone(vote) | Reply::HigherVote(vote) => return Ok(vote.into()),
            _ => return Err(LinkError::Unexpected),
        };
        self.send_chunks(start).await?;
        let meta = (&self.snapshot.meta).into();
        let install = SnapshotPart::Install { vote, hash, meta };
        match self.ask(install, SNAPSHOT_STEP_TIMEOUT * 10).await? {
            Reply::SnapshotDone(vote) => Ok(vote.into()),
            _ => Err(LinkError::Unexpected),
        }
    }

    async fn send_chunks(&mut self, start: u64) -> Result<(), LinkError> {
        let len = self.snapshot.snapshot.len() as u64;
        self.furthest = self.furthest.max(start);
        let mut next = start;
        let mut waiting = VecDeque::new();
        let mut rewinds = 0;
        loop {
            while next < len && waiting.len() < CHUNKS_IN_FLIGHT {
                let end = len.min(next + CHUNK_BYTES as u64);
                let data = self.snapshot.snapshot.slice(next as usize..end as usize);
                let part = SnapshotPart::Chunk { hash: self.hash, offset: next, data: Blob(data) };
                waiting.push_back((end, self.ask(part, SNAPSHOT_STEP_TIMEOUT)));
                next = end;
            }
            let Some((end, reply)) = waiting.pop_front() else { return Ok(()) };
            match reply.await? {
                Reply::SnapshotNext(offset) if offset == end => self.furthest = self.furthest.max(end),
                // The receiver stands elsewhere: an earlier chunk was lost, or this is a repeat.
                Reply::SnapshotNext(offset) if offset <= len && rewinds < REWINDS_MAX => {
                    rewinds += 1;
                    waiting.clear();
                    next = offset;
                }
                _ => return Err(LinkError::Unexpected),
            }
        }
    }

    fn ask(
        &self,
        part: SnapshotPart,
        timeout: Duration,
    ) -> crate::transport::BoxFuture<Result<Reply, LinkError>> {
        self.link.ask(Lane::Bulk, GroupBody::Snapshot(part), timeout)
    }
}

/// The receiving side: at most one transfer a replica is being assembled.
#[derive(Default)]
pub(crate) struct Receiver(Mutex<Option<Partial>>);

struct Partial {
    hash: [u8; 32],
    len: u64,
    data: Vec<u8>,
}

impl Receiver {
    /// Where to go on; starts over if another transfer was under way.
    pub(crate) fn begin(&self, hash: [u8; 32], len: u64) -> Reply {
        if len > SNAPSHOT_BYTES_MAX {
            let why = format!("a snapshot of {len} bytes is over the limit of {SNAPSHOT_BYTES_MAX}");
            return Reply::Refused(Refusal::Invalid(why));
        }
        let mut partial = self.0.lock();
        match &*partial {
            Some(p) if p.hash == hash && p.len == len => Reply::SnapshotNext(p.data.len() as u64),
            _ => {
                *partial = Some(Partial { hash, len, data: Vec::new() });
                Reply::SnapshotNext(0)
            }
        }
    }

    /// Takes a chunk if it is the next one; says which is wanted either way.
    pub(crate) fn chunk(&self, hash: [u8; 32], offset: u64, chunk: &[u8]) -> Reply {
        let mut partial = self.0.lock();
        let Some(p) = partial.as_mut().filter(|p| p.hash == hash) else {
            return Reply::Refused(Refusal::BrokenPipeline);
        };
        let have = p.data.len() as u64;
        if offset == have && chunk.len() as u64 <= p.len - have {
            p.data.extend_from_slice(chunk);
        }
        Reply::SnapshotNext(p.data.len() as u64)
    }

    /// The assembled data, to be checked against its hash. `None` if it is not complete.
    pub(crate) fn take(&self, hash: [u8; 32]) -> Option<Bytes> {
        let mut partial = self.0.lock();
        let complete = partial.as_ref().is_some_and(|p| p.hash == hash && p.data.len() as u64 == p.len);
        if complete { partial.take().map(|p| p.data.into()) } else { None }
    }
}
