//! Moving a snapshot to another replica: in chunks, a few on the way, no faster than the limit, resumed where the receiver stands.
//!
//! The transfer is named by the blake3 hash of the data, so the same snapshot sent again (after a lost chunk, a lost
//! reply, or by the next leader) goes on where it stopped. Invariant: data is installed only when its hash is right.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use openraft::error::{NetworkError, StreamingError};
use openraft::network::RPCTypes;
use openraft::raft::SnapshotResponse;
use parking_lot::Mutex;

use super::codec::Blob;
use super::config::SNAPSHOT_STEP_TIMEOUT;
use super::link::{Link, LinkError};
use super::runtime::{Instant as _, Runtime};
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
/// Lost chunks that are sent again at once within one attempt; the next one costs a timeout.
const REWINDS_MAX: u32 = 64;
/// Longest time that the receiver may take to install what it has in whole. It is asked again meanwhile.
const INSTALL_TIMEOUT: Duration = Duration::from_secs(50);
/// Wait after a failure; times the failures in a row.
const FAILURE_PAUSE: Duration = Duration::from_millis(100);

type Sent<R> = Result<SnapshotResponse<Types<R>>, StreamingError<Types<R>>>;

/// Sends a snapshot and has it installed.
pub(crate) async fn send<R: Runtime>(
    link: &Link,
    vote: Vote,
    snapshot: Snapshot,
    bytes_per_s: Option<NonZeroU64>,
) -> Sent<R> {
    let data = snapshot.snapshot.clone();
    let hash = R::blocking(move || *blake3::hash(&data).as_bytes()).await;
    let hash = hash.map_err(|e| StreamingError::Network(NetworkError::new(&e)))?;
    let pace = Pace::new(bytes_per_s, snapshot.snapshot.len() as u64);
    let mut sender = Sender::<R> { link, vote, snapshot, hash, furthest: 0, pace };
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

/// Longest time that a limit may make a transfer take: meanwhile the log goes on, and is purged up to the next snapshot. One that takes longer than
/// that would have to begin again, for ever.
const PACED_MAX_S: u64 = 30;
/// Time that is made up for if it was not used: timers are as coarse as that.
const PACE_SLACK: Duration = Duration::from_millis(10);

/// Spreads what is sent over time.
struct Pace<R: Runtime> {
    bytes_per_s: Option<NonZeroU64>,
    /// When the next chunk may go.
    free: R::Instant,
}

impl<R: Runtime> Pace<R> {
    /// For so many bytes in all.
    fn new(bytes_per_s: Option<NonZeroU64>, len: u64) -> Self {
        let least = NonZeroU64::new(len.div_ceil(PACED_MAX_S));
        Self {
            bytes_per_s: bytes_per_s.map(|limit| least.map_or(limit, |least| limit.max(least))),
            free: R::Instant::now(),
        }
    }

    /// Takes its turn for so many bytes: when it comes, if it has not.
    fn turn(&mut self, bytes: u64) -> Option<R::Instant> {
        let bytes_per_s = self.bytes_per_s?;
        let now = R::Instant::now();
        if self.free + PACE_SLACK < now {
            self.free = now;
        }
        let turn = self.free;
        self.free = turn + Duration::from_micros(bytes.saturating_mul(1_000_000) / bytes_per_s);
        (turn > now).then_some(turn)
    }
}

struct Sender<'a, R: Runtime> {
    link: &'a Link,
    vote: Vote,
    snapshot: Snapshot,
    hash: [u8; 32],
    /// Furthest offset the receiver ever asked for: progress is measured by it.
    furthest: u64,
    pace: Pace<R>,
}

impl<R: Runtime> Sender<'_, R> {
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
        let until = R::Instant::now() + INSTALL_TIMEOUT;
        loop {
            let meta = (&self.snapshot.meta).into();
            let install = SnapshotPart::Install { vote, hash, meta };
            // Only the reply may be lost: what is installed by then says so when it is asked again.
            let late = R::Instant::now() >= until;
            match self.ask(install, SNAPSHOT_STEP_TIMEOUT).await {
                Ok(Reply::SnapshotDone(vote) | Reply::HigherVote(vote)) => return Ok(vote.into()),
                Err(error @ LinkError::Transport(TransportError::NoReply { .. })) if late => {
                    return Err(error);
                }
                Err(LinkError::Transport(TransportError::NoReply { .. })) => {}
                Ok(Reply::SnapshotNext(at)) if at == len && !late => {}
                Ok(_) => return Err(LinkError::Unexpected),
                Err(error) => return Err(error),
            }
            R::sleep(FAILURE_PAUSE).await;
        }
    }

    async fn send_chunks(&mut self, start: u64) -> Result<(), LinkError> {
        let len = self.snapshot.snapshot.len() as u64;
        let (mut next, mut arrived, mut rewinds) = (start, start, 0);
        let mut waiting = FuturesUnordered::new();
        while arrived < len {
            while next < len && waiting.len() < CHUNKS_IN_FLIGHT {
                let end = len.min(next + CHUNK_BYTES as u64);
                if let Some(turn) = self.pace.turn(end - next) {
                    R::sleep_until(turn).await;
                }
                let data = self.snapshot.snapshot.slice(next as usize..end as usize);
                let part = SnapshotPart::Chunk { hash: self.hash, offset: next, data: Blob(data) };
                let (offset, reply) = (next, self.ask(part, SNAPSHOT_STEP_TIMEOUT));
                waiting.push(async move { (offset, end, reply.await) });
                next = end;
            }
            let Some((offset, end, reply)) = waiting.next().await else { return Err(LinkError::Unexpected) };
            match reply {
                Ok(Reply::SnapshotNext(wanted)) if wanted <= len => {
                    arrived = arrived.max(wanted);
                    // The lane keeps order, so what is missing before this chunk is lost.
                    if wanted < offset && wanted == arrived && rewinds < REWINDS_MAX {
                        rewinds += 1;
                        waiting.clear();
                        next = wanted;
                    }
                }
                Ok(_) => return Err(LinkError::Unexpected),
                // Only the reply was lost, if a later one told that the chunk arrived.
                Err(_) if end <= arrived => {}
                Err(e) => return Err(e),
            }
            self.furthest = self.furthest.max(arrived);
        }
        Ok(())
    }

    fn ask(
        &self,
        part: SnapshotPart,
        timeout: Duration,
    ) -> crate::transport::BoxFuture<Result<Reply, LinkError>> {
        self.link.ask(Lane::Bulk, GroupBody::Snapshot(part), timeout)
    }
}

/// The receiving side: at most one transfer a replica is being assembled, and at most one is being installed.
#[derive(Default)]
pub(crate) struct Receiver(Mutex<Received>);

#[derive(Default)]
struct Received {
    partial: Option<Partial>,
    installing: Option<Installing>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Installing {
    hash: [u8; 32],
    len: u64,
}

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
        let mut received = self.0.lock();
        if received.installing == Some(Installing { hash, len }) {
            return Reply::SnapshotNext(len);
        }
        match &received.partial {
            Some(p) if p.hash == hash && p.len == len => Reply::SnapshotNext(p.data.len() as u64),
            _ => {
                received.partial = Some(Partial { hash, len, data: Vec::new() });
                Reply::SnapshotNext(0)
            }
        }
    }

    /// Takes a chunk if it is the next one; says which is wanted either way.
    pub(crate) fn chunk(&self, hash: [u8; 32], offset: u64, chunk: &[u8]) -> Reply {
        let mut received = self.0.lock();
        let Some(p) = received.partial.as_mut().filter(|p| p.hash == hash) else {
            return Reply::Refused(Refusal::BrokenPipeline);
        };
        let have = p.data.len() as u64;
        if offset == have && chunk.len() as u64 <= p.len - have {
            p.data.extend_from_slice(chunk);
        }
        Reply::SnapshotNext(p.data.len() as u64)
    }

    /// The assembled data, to be checked against its hash and installed.
    ///
    /// # Errors
    /// What to answer instead: it is not complete, or is being installed already, or another one is.
    pub(crate) fn take(self: &Arc<Self>, hash: [u8; 32]) -> Result<(Bytes, InstallGuard), Reply> {
        let mut received = self.0.lock();
        if let Some(installing) = received.installing {
            let same = installing.hash == hash;
            return Err(if same {
                Reply::SnapshotNext(installing.len)
            } else {
                Reply::Refused(Refusal::Busy)
            });
        }
        match received.partial.take_if(|p| p.hash == hash && p.data.len() as u64 == p.len) {
            None => Err(Reply::Refused(Refusal::BrokenPipeline)),
            Some(Partial { hash, len, data }) => {
                received.installing = Some(Installing { hash, len });
                Ok((data.into(), InstallGuard(self.clone())))
            }
        }
    }
}

/// Lets the next snapshot be installed when it goes.
pub(crate) struct InstallGuard(Arc<Receiver>);

impl Drop for InstallGuard {
    fn drop(&mut self) {
        self.0.0.lock().installing = None;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;

    use super::super::runtime::{AsyncRuntime, TokioRuntime};
    use super::super::wire::{self, GroupRequest, Message};
    use super::*;
    use crate::model::ids::{GroupId, NodeId, ReplicaId};
    use crate::transport::{BoxFuture, Transport};

    type Now = <TokioRuntime as AsyncRuntime>::Instant;

    #[tokio::test(start_paused = true)]
    async fn chunks_take_their_turns() {
        let pace = |bytes_per_s, len| Pace::<TokioRuntime>::new(NonZeroU64::new(bytes_per_s), len);
        let start = Now::now();
        let turns = |pace: &mut Pace<TokioRuntime>, count: u64| -> Vec<u64> {
            let turn = |_| pace.turn(32 << 10).unwrap_or(Now::now());
            (0..count).map(turn).map(|turn| (turn - start).as_millis() as u64).collect()
        };
        let (mut limited, mut free) = (pace(64 << 10, 256 << 10), pace(0, 1 << 30));
        assert_eq!(turns(&mut limited, 4), [0, 500, 1000, 1500]);
        assert!((0..4).all(|_| free.turn(1 << 30).is_none()), "no limit, no timers");
        tokio::time::advance(Duration::from_secs(9)).await;
        assert_eq!(turns(&mut limited, 2), [9_000, 9_500], "time that was not used is not saved up");
        let mut large = pace(1, 300 << 20);
        let chunks = (300 << 20) / (32 << 10);
        let last = *turns(&mut large, chunks).last().unwrap();
        assert!((38_000..=39_000).contains(&last), "30 s are the most: {last} ms");
        assert_eq!(pace(7, 0).bytes_per_s, NonZeroU64::new(7));
    }

    /// Takes every chunk, and answers requests to install by a list.
    struct Scripted {
        installs: Mutex<VecDeque<Option<Reply>>>,
        asked: Mutex<Vec<&'static str>>,
    }

    impl Transport for Scripted {
        fn request(
            &self,
            to: NodeId,
            _: Lane,
            body: Bytes,
            timeout: Duration,
        ) -> BoxFuture<Result<Bytes, TransportError>> {
            let Ok(Message::Group(GroupRequest { body: GroupBody::Snapshot(part), .. })) =
                wire::decode_message(&body)
            else {
                panic!("parts of a snapshot only")
            };
            let (name, reply) = match part {
                SnapshotPart::Begin { .. } => ("begin", Some(Reply::SnapshotNext(0))),
                SnapshotPart::Chunk { offset, data, .. } => {
                    ("chunk", Some(Reply::SnapshotNext(offset + data.0.len() as u64)))
                }
                SnapshotPart::Install { .. } => {
                    ("install", self.installs.lock().pop_front().expect("asked too often"))
                }
            };
            self.asked.lock().push(name);
            Box::pin(async move {
                match reply {
                    Some(reply) => Ok(wire::encode_reply(&reply)),
                    None => {
                        TokioRuntime::sleep(timeout).await;
                        Err(TransportError::NoReply { to, reason: "timed out".into() })
                    }
                }
            })
        }
        fn cancel_pending(&self, _: NodeId) {}
        fn set_peers(&self, _: Vec<(NodeId, SocketAddr)>, _: Vec<NodeId>) {}
        fn local_addr(&self) -> SocketAddr {
            unreachable!("nobody asks")
        }
        fn close(&self) -> BoxFuture<()> {
            Box::pin(async {})
        }
    }

    /// Sends 100 bytes; what was asked, and for how many seconds it went on.
    async fn sent(installs: &[Option<Reply>]) -> (bool, Vec<&'static str>, u64) {
        let transport = Arc::new(Scripted {
            installs: Mutex::new(installs.iter().cloned().collect()),
            asked: Mutex::default(),
        });
        let link = Link {
            transport: transport.clone(),
            group: GroupId(1),
            from: ReplicaId(1),
            to: ReplicaId(2),
            node: NodeId(2),
        };
        let snapshot = Snapshot { meta: Default::default(), snapshot: Bytes::from_static(&[7; 100]) };
        let start = Now::now();
        let sent = send::<TokioRuntime>(&link, Vote::new(1, ReplicaId(1)), snapshot, None).await;
        let asked = transport.asked.lock().clone();
        (sent.is_ok(), asked, (Now::now() - start).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_reply_to_the_last_step_costs_one_timeout_and_no_data_is_sent_again() {
        let done = || Some(Reply::SnapshotDone((&Vote::new(1, ReplicaId(1))).into()));
        assert_eq!(sent(&[None, done()]).await, (true, vec!["begin", "chunk", "install", "install"], 5));
        let slowly = [None, Some(Reply::SnapshotNext(100)), Some(Reply::SnapshotNext(100)), done()];
        assert!(sent(&slowly).await.0, "it was being installed");
        let (done, asked, s) = sent(&vec![None; 80]).await;
        assert!(!done && asked.iter().filter(|part| **part == "begin").count() == FAILURES_MAX as usize);
        assert!(s <= u64::from(FAILURES_MAX) * 60, "openraft is told: {s} s");
    }

    const ONE: [u8; 32] = [1; 32];
    const TWO: [u8; 32] = [2; 32];

    #[test]
    fn chunks_are_taken_in_order_and_a_transfer_goes_on_where_it_stopped() {
        let receiver = Arc::new(Receiver::default());
        let refused = |taken: Result<(Bytes, InstallGuard), Reply>| taken.err();
        assert_eq!(receiver.begin(ONE, 10), Reply::SnapshotNext(0));
        assert_eq!(receiver.chunk(ONE, 0, b"abcd"), Reply::SnapshotNext(4));
        assert_eq!(receiver.chunk(ONE, 8, b"ij"), Reply::SnapshotNext(4), "a chunk is missing");
        assert_eq!(receiver.chunk(ONE, 0, b"abcd"), Reply::SnapshotNext(4), "a repeat");
        let unknown = Some(Reply::Refused(Refusal::BrokenPipeline));
        assert_eq!(refused(receiver.take(ONE)), unknown, "not complete");
        assert_eq!(receiver.begin(ONE, 10), Reply::SnapshotNext(4), "the next leader sends the same");
        assert_eq!(receiver.chunk(ONE, 4, b"efghij"), Reply::SnapshotNext(10));
        assert_eq!(receiver.chunk(ONE, 10, b"k"), Reply::SnapshotNext(10), "more than was announced");
        assert_eq!(refused(receiver.take(TWO)), unknown);
        let (data, installing) = receiver.take(ONE).unwrap_or_else(|reply| panic!("{reply:?}"));
        assert_eq!(data, &b"abcdefghij"[..]);
        assert_eq!(refused(receiver.take(ONE)), Some(Reply::SnapshotNext(10)), "it is being installed");
        assert_eq!(receiver.begin(ONE, 10), Reply::SnapshotNext(10), "nothing of it is wanted again");
        assert_eq!(receiver.begin(TWO, 4), Reply::SnapshotNext(0), "the next one may come");
        assert_eq!(refused(receiver.take(TWO)), Some(Reply::Refused(Refusal::Busy)), "one at a time");
        drop(installing);
        assert_eq!(refused(receiver.take(ONE)), unknown, "it was taken");
    }

    #[test]
    fn another_transfer_replaces_an_unfinished_one() {
        let receiver = Receiver::default();
        receiver.begin(ONE, 10);
        receiver.chunk(ONE, 0, b"abcd");
        assert_eq!(receiver.begin(TWO, 4), Reply::SnapshotNext(0));
        assert_eq!(receiver.chunk(ONE, 4, b"efgh"), Reply::Refused(Refusal::BrokenPipeline));
        assert!(matches!(receiver.begin(ONE, SNAPSHOT_BYTES_MAX + 1), Reply::Refused(Refusal::Invalid(_))));
        assert_eq!(
            receiver.chunk(TWO, 0, b"wxyz"),
            Reply::SnapshotNext(4),
            "what was refused replaced nothing"
        );
    }
}
