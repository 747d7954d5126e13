//! A group's applied state: the machine, the exactly-once window, log time and membership, as openraft's state machine.
//!
//! Invariants: entries are applied in log order, each once; log time never goes back; a snapshot holds all of this at one
//! position, and is durable before openraft hears of it (so the log is purged only up to a durable snapshot). One that can not be written, since
//! the disk is full, costs nothing but the log's length: the replica goes on, and it is tried again.
//! Must never: read a clock to decide anything (the clock only lets *reads* estimate the current log time).

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bincode::{Decode, Encode};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use longshore_storage::{StorageError, StreamId};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{Instant as _, OptionalSend};
use parking_lot::RwLock;
use tokio::sync::Mutex;

use super::changes::Changes;
use super::clients::{self, Clients, Verdict};
use super::codec::{self, Blob};
use super::machine::{ApplyContext, LogTime, Queries, StateMachine};
use super::runtime::Runtime;
use super::snapshots::Snapshots;
use super::types::{
    Batch, Entry, LogId, Op, OpReply, Payload, Snapshot, SnapshotMeta, StoredMembership, Types,
};
use super::wire;

/// First byte of a snapshot's data.
const SNAPSHOT_VERSION: u8 = 1;

/// Pause after a snapshot that could not be written.
const SNAPSHOT_PAUSE: Duration = Duration::from_secs(10);

/// A state machine with its type erased, so that openraft is compiled once for all of them.
pub(crate) trait Machine: Send + Sync + 'static {
    /// Applies an encoded command; the reply is encoded too. An error means that the command could not be decoded.
    fn apply(&mut self, at: ApplyContext, command: &[u8]) -> Result<Vec<u8>, String>;
    fn snapshot(&self) -> Vec<u8>;
    fn restore(&self, bytes: &[u8]) -> Result<Box<dyn Machine>, String>;
    /// Answers an encoded query. An error means that it could not be decoded, or that the machine answers none.
    fn answer(&self, now: LogTime, query: &[u8]) -> Result<Vec<u8>, String>;
    fn as_any(&self) -> &dyn Any;
}

/// How a machine answers encoded queries.
type Answering<M> = fn(&M, LogTime, &[u8]) -> Result<Vec<u8>, String>;

pub(crate) struct Typed<M> {
    machine: M,
    answering: Answering<M>,
}

impl<M: StateMachine> Typed<M> {
    /// A machine that answers no queries.
    pub(crate) fn mute(machine: M) -> Self {
        Self { machine, answering: |_, _, _| Err("this group answers no queries".into()) }
    }
}

impl<M: Queries> Typed<M> {
    pub(crate) fn answering(machine: M) -> Self {
        let answering: Answering<M> = |machine, now, query| {
            let query = codec::decode::<M::Query>(query).map_err(|e| e.to_string())?;
            Ok(codec::encode(&machine.query(now, query)))
        };
        Self { machine, answering }
    }
}

impl<M: StateMachine> Machine for Typed<M> {
    fn apply(&mut self, at: ApplyContext, command: &[u8]) -> Result<Vec<u8>, String> {
        let command = codec::decode::<M::Command>(command).map_err(|e| e.to_string())?;
        Ok(codec::encode(&self.machine.apply(at, command)))
    }
    fn snapshot(&self) -> Vec<u8> {
        self.machine.snapshot()
    }
    fn restore(&self, bytes: &[u8]) -> Result<Box<dyn Machine>, String> {
        Ok(Box::new(Typed { machine: M::restore(bytes)?, answering: self.answering }))
    }
    fn answer(&self, now: LogTime, query: &[u8]) -> Result<Vec<u8>, String> {
        (self.answering)(&self.machine, now, query)
    }
    fn as_any(&self) -> &dyn Any {
        &self.machine
    }
}

/// What a snapshot's data holds.
#[derive(Encode, Decode)]
struct Image {
    time: LogTime,
    clients: Clients,
    machine: Blob,
}

pub(crate) struct Applied<R: Runtime> {
    pub(crate) machine: Box<dyn Machine>,
    pub(crate) clients: Clients,
    pub(crate) last: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Of the last entry that is stamped.
    time: LogTime,
    /// A time that it was, from that or from a leader, and when; reads add what has passed since.
    heard: (LogTime, R::Instant),
    /// Commands applied by this process: how busy the group is. Not part of the state.
    pub(crate) commands: u64,
}

impl<R: Runtime> Applied<R> {
    /// The log time that it is now, as far as this replica can tell.
    pub(crate) fn now(&self) -> LogTime {
        longshore_storage::mutant!("log-time-stops-in-an-idle-group" => return self.time);
        let (time, at) = self.heard;
        LogTime(time.0 + at.elapsed().as_millis() as u64)
    }

    fn advance_time(&mut self, to: LogTime) {
        self.time = self.time.max(to);
        // What was said later counts, also back, if this node's clock is fast: errors must not add up. Entries that come late were said
        // before what the leader has told since.
        if to > self.heard.0 {
            self.heard = (to, R::Instant::now());
        }
    }

    /// All of this, as a snapshot holds it.
    fn image(&self) -> (SnapshotMeta, Bytes) {
        let image =
            Image { time: self.time, clients: self.clients.clone(), machine: self.machine.snapshot().into() };
        let meta = SnapshotMeta { last_log_id: self.last, last_membership: self.membership.clone() };
        (meta, codec::encode_versioned(SNAPSHOT_VERSION, &image))
    }

    fn apply(&mut self, entry: &Entry) -> Vec<OpReply> {
        assert!(self.last.is_none_or(|last| last < entry.log_id), "{} applied twice or late", entry.log_id);
        self.last = Some(entry.log_id);
        match &entry.payload {
            Payload::Blank => Vec::new(),
            Payload::Membership(m) => {
                self.membership = StoredMembership::new(Some(entry.log_id), m.clone());
                Vec::new()
            }
            Payload::Normal(batch) => self.apply_batch(entry.log_id.index, batch),
        }
    }

    fn apply_batch(&mut self, index: u64, batch: &Batch) -> Vec<OpReply> {
        self.advance_time(batch.time);
        self.commands += batch.ops.len() as u64;
        let time = self.time;
        let context = |position: usize| ApplyContext { index, position: position as u32, time };
        batch.ops.iter().enumerate().map(|(i, op)| self.apply_op(context(i), op)).collect()
    }

    fn apply_op(&mut self, at: ApplyContext, op: &Op) -> OpReply {
        match op {
            Op::Register => {
                let id = clients::client_id(at.index, at.position);
                if self.clients.register(id, at.time) {
                    OpReply::Registered(id)
                } else {
                    OpReply::ClientsFull
                }
            }
            Op::ExpireClients { unseen_since } => OpReply::ClientsExpired(self.clients.expire(*unseen_since)),
            Op::Command { id: None, body } => self.run(at, body),
            Op::Command { id: Some(id), body } => match self.clients.admit(*id, at.time) {
                Verdict::Repeat(Some(reply)) => OpReply::Done(reply),
                Verdict::Repeat(None) => OpReply::ReplyDropped,
                Verdict::Acknowledged => OpReply::Acknowledged,
                Verdict::WindowFull => OpReply::WindowFull,
                Verdict::UnknownClient => OpReply::UnknownClient,
                Verdict::Apply => {
                    let reply = self.run(at, body);
                    longshore_storage::mutant!("apply-twice-on-retry" => return reply);
                    if let OpReply::Done(bytes) = &reply {
                        self.clients.record(*id, bytes.clone());
                    }
                    reply
                }
            },
        }
    }

    fn run(&mut self, at: ApplyContext, body: &[u8]) -> OpReply {
        match self.machine.apply(at, body) {
            Ok(reply) => OpReply::Done(reply.into()),
            Err(why) => OpReply::Undecodable(why),
        }
    }
}

/// The shared handle: openraft applies through one clone, the group reads through another.
pub(crate) struct State<R: Runtime> {
    pub(crate) applied: Arc<RwLock<Applied<R>>>,
    changes: Arc<Changes>,
    snapshots: Arc<dyn Snapshots>,
    stream: StreamId,
    /// Meta of the snapshot in `snapshots`; known once it was looked at, which openraft does first of all. Held while one is
    /// saved: a snapshot that was built slowly must not replace one that was installed meanwhile.
    stored: Arc<Mutex<Option<SnapshotMeta>>>,
    /// When the next one is to be taken at the earliest, since one could not be written.
    not_before: Arc<RwLock<Option<R::Instant>>>,
}

impl<R: Runtime> Clone for State<R> {
    fn clone(&self) -> Self {
        Self {
            applied: self.applied.clone(),
            changes: self.changes.clone(),
            snapshots: self.snapshots.clone(),
            stream: self.stream,
            stored: self.stored.clone(),
            not_before: self.not_before.clone(),
        }
    }
}

impl<R: Runtime> State<R> {
    pub(crate) fn new(
        machine: Box<dyn Machine>,
        changes: Arc<Changes>,
        snapshots: Arc<dyn Snapshots>,
        stream: StreamId,
    ) -> Self {
        let applied = Applied {
            machine,
            clients: Clients::default(),
            last: None,
            membership: StoredMembership::default(),
            time: LogTime(0),
            heard: (LogTime(0), R::Instant::now()),
            commands: 0,
        };
        Self {
            applied: Arc::new(RwLock::new(applied)),
            changes,
            snapshots,
            stream,
            stored: Arc::new(Mutex::new(None)),
            not_before: Arc::default(),
        }
    }

    /// A leader says what log time it is. Entries do not, while the group is at rest, and a replica that was away then knows only theirs: it
    /// would show keys again that have expired.
    pub(crate) fn hear(&self, now: LogTime) {
        // Mostly it is no news, and applying need not wait.
        if now > self.applied.read().now() {
            let mut applied = self.applied.write();
            if now > applied.now() {
                applied.heard = (now, R::Instant::now());
            }
        }
    }

    /// Index of the last entry applied, and a hash of all that the log decided up to there. Equal at equal indexes on every
    /// replica: what they are compared by.
    pub(crate) fn digest(&self) -> (Option<u64>, [u8; 32]) {
        let applied = self.applied.read();
        let (meta, data) = applied.image();
        let mut hasher = blake3::Hasher::new();
        hasher.update(&wire::encode_snapshot_meta(&meta)).update(&data);
        (applied.last.map(|last| last.index), *hasher.finalize().as_bytes())
    }

    /// Makes a snapshot durable, unless one that reaches as far is durable already.
    async fn save(&self, meta: &SnapshotMeta, data: &Bytes) -> Result<(), io::Error> {
        let mut stored = self.stored.lock().await;
        if stored.as_ref().is_some_and(|s| s.last_log_id >= meta.last_log_id) {
            return Ok(());
        }
        let (snapshots, stream, data) = (self.snapshots.clone(), self.stream, data.clone());
        let encoded = wire::encode_snapshot_meta(meta);
        let saved = R::blocking(move || snapshots.save(stream, &encoded, &data)).await?;
        saved.map_err(io::Error::other)?;
        *stored = Some(meta.clone());
        Ok(())
    }
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("snapshot: {what}"))
}

impl<R: Runtime> RaftStateMachine<Types<R>> for State<R> {
    type SnapshotData = Bytes;
    type SnapshotBuilder = Builder<R>;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.applied.read();
        Ok((applied.last, applied.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types<R>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(next) = entries.next().await {
            let (entry, responder) = next?;
            let replies = self.applied.write().apply(&entry);
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        self.changes.bump();
        Ok(())
    }

    async fn try_create_snapshot_builder(&mut self, force: bool) -> Option<Builder<R>> {
        let waits = self.not_before.read().is_some_and(|at| R::Instant::now() < at);
        if waits && !force {
            return None;
        }
        Some(self.get_snapshot_builder().await)
    }

    async fn get_snapshot_builder(&mut self) -> Builder<R> {
        let (meta, data) = self.applied.read().image();
        Builder { state: self.clone(), meta, data }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, data: Bytes) -> Result<(), io::Error> {
        let image: Image = codec::decode_versioned(SNAPSHOT_VERSION, &data).map_err(invalid)?;
        let machine = self.applied.read().machine.restore(&image.machine).map_err(invalid)?;
        // At a restart openraft hands back what `get_current_snapshot` read; that is not saved again.
        self.save(meta, &data).await?;
        let mut applied = self.applied.write();
        applied.machine = machine;
        applied.clients = image.clients;
        applied.last = meta.last_log_id;
        applied.membership = meta.last_membership.clone();
        applied.advance_time(image.time);
        drop(applied);
        self.changes.bump();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let (snapshots, stream) = (self.snapshots.clone(), self.stream);
        let loaded: Result<_, StorageError> = R::blocking(move || snapshots.load(stream)).await?;
        let Some(stored) = loaded.map_err(io::Error::other)? else { return Ok(None) };
        let meta = wire::decode_snapshot_meta(&stored.meta).map_err(invalid)?;
        *self.stored.lock().await = Some(meta.clone());
        Ok(Some(Snapshot { meta, snapshot: stored.data }))
    }
}

/// A snapshot that was taken in memory and is to be made durable.
pub(crate) struct Builder<R: Runtime> {
    state: State<R>,
    meta: SnapshotMeta,
    data: Bytes,
}

impl<R: Runtime> RaftSnapshotBuilder<Types<R>> for Builder<R> {
    type SnapshotData = Bytes;

    /// The one before if this one can not be written: an error would end the replica, and nothing of it is lost.
    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let snapshot = Snapshot { meta: self.meta.clone(), snapshot: self.data.clone() };
        longshore_storage::mutant!("purge-past-the-snapshot" => {
            let (state, late) = (self.state.clone(), snapshot.clone());
            drop(R::spawn(async move {
                R::sleep(Duration::from_secs(2)).await;
                let _ = state.save(&late.meta, &late.snapshot).await;
            }));
            return Ok(snapshot)
        });
        let Err(error) = self.state.save(&self.meta, &self.data).await else { return Ok(snapshot) };
        let pause_s = SNAPSHOT_PAUSE.as_secs();
        tracing::error!(
            group = self.state.stream.group,
            %error,
            "a snapshot could not be written, and the log grows until one can; is the disk full? Trying again in {pause_s} s"
        );
        *self.state.not_before.write() = Some(R::Instant::now() + SNAPSHOT_PAUSE);
        let meta = self.state.stored.lock().await.clone().unwrap_or_default();
        Ok(Snapshot { meta, snapshot: Bytes::new() })
    }
}
