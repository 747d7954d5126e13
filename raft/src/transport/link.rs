//! One connection in use: its streams, and the tasks that read and write them.
//!
//! Each node opens its own streams for its requests, one per lane and only when first needed; the answers come back on
//! the same stream. A peer that breaks the rules loses the connection, with a code and one warning. Must never: hold a
//! lane up because of another, or keep reading a lane whose requests are not answered.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use quinn::{ConnectionError, ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::sync::Notify;

use super::Handler;
use super::answers::Answers;
use super::frame::{Batch, Decoder, Frame, Kind, REASON_MAX_BYTES};
use super::lanes::{LANE_HEADER_BYTES, STREAMS, StreamIndex};
use super::peer::{Peer, Why};
use crate::consensus::runtime::Runtime;

/// Most bytes taken from a stream at a time.
const READ_BYTES: usize = 64 << 10;
/// One write of answers takes at most about this much.
const WRITE_BYTES: usize = 256 << 10;

/// Why a connection is closed, as the other side learns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseCode {
    /// The closer is shutting down.
    Shutdown = 1,
    /// The other side is no longer in the fleet.
    Removed = 2,
    /// Another connection between the two is in use.
    Superseded = 3,
    /// The other side broke the protocol.
    Violation = 4,
    /// The other side must show a certificate for this protocol, and did not, or not one that may be here.
    Unauthorised = 5,
    /// Too much is going on; try again.
    Busy = 6,
    /// All is done.
    Done = 7,
}

impl CloseCode {
    pub(super) fn of(error: &ConnectionError) -> Option<Self> {
        use CloseCode::*;
        let ConnectionError::ApplicationClosed(close) = error else { return None };
        let all = [Shutdown, Removed, Superseded, Violation, Unauthorised, Busy, Done];
        all.into_iter().find(|code| u64::from(close.error_code) == *code as u64)
    }
}

pub(super) fn close(connection: &quinn::Connection, code: CloseCode, reason: &str) {
    connection.close((code as u32).into(), reason.as_bytes());
}

impl From<&ConnectionError> for Why {
    fn from(error: &ConnectionError) -> Self {
        let reason = match CloseCode::of(error) {
            Some(CloseCode::Removed) => return Why::Removed,
            Some(CloseCode::Shutdown) => "it is shutting down".into(),
            Some(CloseCode::Superseded) => "it uses another connection".into(),
            Some(CloseCode::Busy) => "it is busy".into(),
            Some(_) | None => format!("connection lost: {error}"),
        };
        Why::Unreachable(reason)
    }
}

pub(super) struct Link {
    /// Grows with every link of this transport.
    pub(super) generation: u64,
    pub(super) connection: quinn::Connection,
    /// Per stream: wakes its writer.
    wakes: [Notify; STREAMS],
    opened: [AtomicBool; STREAMS],
    /// Lanes that the peer has opened.
    claimed: [AtomicBool; STREAMS],
    /// A request waits on a stream that is not open yet.
    open_wanted: Notify,
}

/// Why a stream is no longer read.
enum End {
    /// The connection is gone; whoever runs it knows why.
    Connection,
    Violation(String),
}

impl From<String> for End {
    fn from(what: String) -> Self {
        End::Violation(what)
    }
}

impl Link {
    pub(super) fn new(generation: u64, connection: quinn::Connection) -> Arc<Self> {
        Arc::new(Self {
            generation,
            connection,
            wakes: std::array::from_fn(|_| Notify::new()),
            opened: std::array::from_fn(|_| AtomicBool::new(false)),
            claimed: std::array::from_fn(|_| AtomicBool::new(false)),
            open_wanted: Notify::new(),
        })
    }

    /// A request was queued on `stream`.
    pub(super) fn wake(&self, stream: StreamIndex) {
        if self.opened[stream.get()].load(Ordering::Acquire) {
            self.wakes[stream.get()].notify_one();
        } else {
            self.open_wanted.notify_one();
        }
    }

    pub(super) fn close(&self, code: CloseCode, reason: &str) {
        close(&self.connection, code, reason);
    }

    fn violation<R: Runtime>(&self, peer: &Peer<R>, what: &str) {
        peer.warn(&format!("closing the connection, since the peer broke the protocol: {what}"));
        self.close(CloseCode::Violation, what);
    }

    fn ended<R: Runtime>(&self, peer: &Peer<R>, end: End) {
        if let End::Violation(what) = end {
            self.violation(peer, &what);
        }
    }

    /// Runs the link until it is gone.
    pub(super) async fn run<R: Runtime>(self: Arc<Self>, peer: Arc<Peer<R>>, handler: Arc<dyn Handler>) {
        let error = loop {
            if let Err(error) = self.open_streams(&peer).await {
                break error;
            }
            tokio::select! {
                biased;
                stream = self.connection.accept_bi() => match stream {
                    Ok((send, recv)) => {
                        drop(R::spawn(self.clone().serve(peer.clone(), handler.clone(), send, recv)));
                    }
                    Err(error) => break error,
                },
                () = self.open_wanted.notified() => {}
            }
        };
        peer.link_lost(self.generation, Why::from(&error));
    }

    /// Opens the streams on which requests wait and that are not open yet.
    async fn open_streams<R: Runtime>(self: &Arc<Self>, peer: &Arc<Peer<R>>) -> Result<(), ConnectionError> {
        for stream in peer.queued_streams() {
            if self.opened[stream.get()].swap(true, Ordering::AcqRel) {
                continue;
            }
            let (send, recv) = self.connection.open_bi().await?;
            prioritise(&send, stream);
            drop(R::spawn(self.clone().write_requests(peer.clone(), stream, send)));
            drop(R::spawn(self.clone().read_answers(peer.clone(), stream, recv)));
        }
        Ok(())
    }

    async fn write_requests<R: Runtime>(
        self: Arc<Self>,
        peer: Arc<Peer<R>>,
        stream: StreamIndex,
        mut send: SendStream,
    ) {
        let mut closed = pin!(self.connection.closed());
        let mut batch = Batch::default();
        batch.push_raw(&stream.header());
        while peer.take(&self, stream, &mut batch) {
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    _ = &mut closed => return,
                    () = self.wakes[stream.get()].notified() => continue,
                }
            }
            match send.write_all_chunks(batch.chunks()).await {
                Ok(()) => batch.clear(),
                Err(WriteError::Stopped(_)) => return self.violation(&peer, "it stopped reading a lane"),
                Err(_) => return,
            }
        }
    }

    async fn read_answers<R: Runtime>(
        self: Arc<Self>,
        peer: Arc<Peer<R>>,
        stream: StreamIndex,
        recv: RecvStream,
    ) {
        let mut frames = Frames::new(recv, stream.max_body_bytes());
        let end = loop {
            match frames.next().await {
                Ok(frame) => {
                    if let Err(what) = peer.answered(&self, stream, frame) {
                        break End::Violation(what);
                    }
                }
                Err(end) => break end,
            }
        };
        self.ended(&peer, end);
    }

    /// Serves a stream that the peer opened.
    async fn serve<R: Runtime>(
        self: Arc<Self>,
        peer: Arc<Peer<R>>,
        handler: Arc<dyn Handler>,
        send: SendStream,
        mut recv: RecvStream,
    ) {
        let stream = match self.claim_stream(&mut recv).await {
            Ok(stream) => stream,
            Err(end) => return self.ended(&peer, end),
        };
        prioritise(&send, stream);
        let answers = Answers::new(stream);
        drop(R::spawn(self.clone().write_answers(peer.clone(), answers.clone(), send)));
        let end = self.deliver_requests(&peer, handler, stream, &answers, recv).await;
        self.ended(&peer, end);
    }

    /// Reads which lane a stream carries; each may come once.
    async fn claim_stream(&self, recv: &mut RecvStream) -> Result<StreamIndex, End> {
        let mut header = [0u8; LANE_HEADER_BYTES];
        recv.read_exact(&mut header).await.map_err(|e| match e {
            ReadExactError::ReadError(ReadError::ConnectionLost(_)) => End::Connection,
            _ => End::Violation("a stream without a lane".into()),
        })?;
        let stream =
            StreamIndex::from_header(header).ok_or_else(|| format!("an unknown lane {header:02x?}"))?;
        if self.claimed[stream.get()].swap(true, Ordering::AcqRel) {
            return Err(End::Violation(format!("a second stream for {stream:?}")));
        }
        Ok(stream)
    }

    async fn deliver_requests<R: Runtime>(
        &self,
        peer: &Peer<R>,
        handler: Arc<dyn Handler>,
        stream: StreamIndex,
        answers: &Arc<Answers>,
        recv: RecvStream,
    ) -> End {
        let mut frames = Frames::new(recv, stream.max_body_bytes());
        let mut last_id = 0;
        loop {
            let frame = match frames.next().await {
                Ok(frame) => frame,
                Err(end) => return end,
            };
            if frame.kind != Kind::Request {
                return End::Violation("an answer where requests belong".into());
            }
            if frame.id <= last_id {
                return End::Violation(format!("request {} after request {last_id}", frame.id));
            }
            last_id = frame.id;
            let Some(lane) = stream.lane(frame.key) else {
                return End::Violation(format!("key {} on {stream:?}", frame.key));
            };
            let Some(replier) = answers.admit(frame.id, frame.body.len()).await else {
                return End::Connection;
            };
            if !peer.deliver(self, stream, || handler.on_request(peer.id, lane, frame.body, replier)) {
                return End::Connection;
            }
        }
    }

    async fn write_answers<R: Runtime>(
        self: Arc<Self>,
        peer: Arc<Peer<R>>,
        answers: Arc<Answers>,
        mut send: SendStream,
    ) {
        let mut closed = pin!(self.connection.closed());
        let mut batch = Batch::default();
        loop {
            answers.take(&mut batch, WRITE_BYTES);
            if batch.is_empty() {
                tokio::select! {
                    biased;
                    _ = &mut closed => break,
                    () = answers.wait_ready() => continue,
                }
            }
            match send.write_all_chunks(batch.chunks()).await {
                Ok(()) => batch.clear(),
                Err(WriteError::Stopped(_)) => {
                    self.violation(&peer, "it stopped reading answers");
                    break;
                }
                Err(_) => break,
            }
        }
        answers.close();
    }
}

fn prioritise(send: &SendStream, stream: StreamIndex) {
    // A stream that is closed already needs no priority; whoever writes to it will see.
    let _ = send.set_priority(stream.priority());
}

/// The frames of a stream.
struct Frames {
    recv: RecvStream,
    decoder: Decoder,
    chunk: Bytes,
}

impl Frames {
    fn new(recv: RecvStream, max_body_bytes: usize) -> Self {
        let limit = max_body_bytes.max(REASON_MAX_BYTES);
        Self { recv, decoder: Decoder::new(limit), chunk: Bytes::new() }
    }

    /// The next frame. Lanes last as long as their connection, so that an end is always an error.
    async fn next(&mut self) -> Result<Frame, End> {
        loop {
            if let Some(frame) = self.decoder.next(&mut self.chunk).map_err(|e| e.to_string())? {
                return Ok(frame);
            }
            self.chunk = match self.recv.read_chunk(READ_BYTES, true).await {
                Ok(Some(chunk)) => chunk.bytes,
                Ok(None) if self.decoder.at_boundary() => {
                    return Err(End::Violation("it ended a lane".into()));
                }
                Ok(None) => return Err(End::Violation("it ended a lane within a frame".into())),
                Err(ReadError::ConnectionLost(_)) => return Err(End::Connection),
                Err(error) => return Err(End::Violation(format!("it broke a lane off: {error}"))),
            };
        }
    }
}
