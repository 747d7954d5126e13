//! Output that is being read from this node's engine, in pieces, by whoever asks for more.
//!
//! A stream that nobody asks is closed after a while: who asked may be dead. Must never: hold more of an output than its reader is behind by.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_raft::Runtime;
use longshore_raft::consensus::runtime::Instant as _;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::calls::{CallError, CallErrorKind, OutputPiece, StreamEnd};
use crate::docker::{Output, OutputSink};

/// Most streams of one node at a time.
const STREAMS_MAX: usize = 256;
/// Pieces that wait for their reader, as the engine gave them.
const QUEUED_MAX: usize = 32;
/// How long who asks for more waits if there is none.
const WAIT: Duration = Duration::from_secs(1);
/// About the most bytes of an answer.
const ANSWER_BYTES: usize = 256 << 10;
/// How long a stream is kept that nobody reads.
const UNREAD: Duration = Duration::from_secs(30);

struct Open<R: Runtime> {
    /// Gone while somebody reads.
    reading: Option<Reading>,
    last_read: R::Instant,
    stop: CancellationToken,
}

struct Reading {
    output: mpsc::Receiver<Output>,
    end: oneshot::Receiver<StreamEnd>,
}

struct Table<R: Runtime> {
    open: BTreeMap<u64, Open<R>>,
    next: u64,
}

/// See the module's docs. One per node.
pub(super) struct Streams<R: Runtime> {
    table: Arc<Mutex<Table<R>>>,
}

fn failed(kind: CallErrorKind, message: &str) -> CallError {
    CallError { kind, message: message.to_owned() }
}

impl<R: Runtime> Streams<R> {
    pub(super) fn new() -> Self {
        Self { table: Arc::new(Mutex::new(Table { open: BTreeMap::new(), next: 1 })) }
    }

    /// Begins one. `produce` writes to the sink that it is given until there is no more.
    pub(super) fn open<F>(&self, produce: impl FnOnce(OutputSink) -> F) -> Result<u64, CallError>
    where
        F: Future<Output = StreamEnd> + Send + 'static,
    {
        let (sink, output) = mpsc::channel(QUEUED_MAX);
        let (ended, end) = oneshot::channel();
        let stop = CancellationToken::new();
        let mut table = self.table.lock();
        if table.open.len() >= STREAMS_MAX {
            let message = format!("{STREAMS_MAX} outputs are being read on this node, the most there can be");
            return Err(failed(CallErrorKind::Busy, &message));
        }
        let id = table.next;
        table.next += 1;
        let open =
            Open { reading: Some(Reading { output, end }), last_read: R::Instant::now(), stop: stop.clone() };
        table.open.insert(id, open);
        drop(table);
        let (produced, watched) = (produce(sink), Arc::clone(&self.table));
        drop(R::spawn(async move {
            let mut produced = Box::pin(produced);
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    end = &mut produced => {
                        let _ = ended.send(end);
                        break;
                    }
                    () = R::sleep(UNREAD) => {}
                }
                if Self::close_unread(&watched, id) {
                    return;
                }
            }
            // What has ended waits to be read, too.
            while !Self::close_unread(&watched, id) {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    () = R::sleep(UNREAD) => {}
                }
            }
        }));
        Ok(id)
    }

    /// Whether it is gone, or has just been given up.
    fn close_unread(table: &Mutex<Table<R>>, id: u64) -> bool {
        let mut table = table.lock();
        let Some(open) = table.open.get(&id) else { return true };
        let unread = open.reading.is_some() && R::Instant::now() >= open.last_read + UNREAD;
        if unread {
            table.open.remove(&id);
        }
        unread
    }

    /// What came since, and whether that was all: then the stream is gone.
    pub(super) async fn more(&self, id: u64) -> Result<(Vec<OutputPiece>, Option<StreamEnd>), CallError> {
        let mut reading = {
            let mut table = self.table.lock();
            let open = table.open.get_mut(&id);
            let open = open.ok_or_else(|| {
                failed(CallErrorKind::NotFound, "the output was not read for long and is closed")
            })?;
            open.reading
                .take()
                .ok_or_else(|| failed(CallErrorKind::Conflict, "the output is being read already"))?
        };
        let (mut pieces, mut bytes, mut is_all) = (Vec::new(), 0, false);
        if let Ok(first) = R::timeout(WAIT, reading.output.recv()).await {
            let mut next = first;
            loop {
                let Some(Output { stream, bytes: piece }) = next else {
                    is_all = true;
                    break;
                };
                bytes += piece.len();
                pieces.push(OutputPiece { stream, bytes: piece.to_vec() });
                if bytes >= ANSWER_BYTES {
                    break;
                }
                next = match reading.output.try_recv() {
                    Ok(piece) => Some(piece),
                    Err(mpsc::error::TryRecvError::Empty) => break,
                    Err(mpsc::error::TryRecvError::Disconnected) => None,
                };
            }
        }
        if is_all {
            let gone = failed(CallErrorKind::Unavailable, "the output was cut off");
            let end = (&mut reading.end).await.unwrap_or(StreamEnd::Failed(gone));
            self.close(id);
            return Ok((pieces, Some(end)));
        }
        let mut table = self.table.lock();
        if let Some(open) = table.open.get_mut(&id) {
            open.reading = Some(reading);
            open.last_read = R::Instant::now();
        }
        Ok((pieces, None))
    }

    pub(super) fn close(&self, id: u64) {
        if let Some(open) = self.table.lock().open.remove(&id) {
            open.stop.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use longshore_raft::consensus::runtime::{AsyncRuntime as _, TokioRuntime};
    use tokio::time::advance;

    use super::*;
    use crate::docker::Stream;

    fn piece(text: &'static str) -> Output {
        Output { stream: Stream::Stdout, bytes: Bytes::from_static(text.as_bytes()) }
    }

    fn text(pieces: &[OutputPiece]) -> String {
        pieces.iter().map(|piece| String::from_utf8_lossy(&piece.bytes)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_is_read_in_order_and_then_the_end() {
        let streams = Streams::<TokioRuntime>::new();
        let id = streams
            .open(|sink| async move {
                sink.send(piece("a")).await.unwrap();
                sink.send(piece("b")).await.unwrap();
                TokioRuntime::sleep(Duration::from_secs(3)).await;
                sink.send(piece("c")).await.unwrap();
                drop(sink);
                StreamEnd::Exit(7)
            })
            .unwrap();
        let (mut all, mut answers) = (String::new(), 0);
        let end = loop {
            let (pieces, end) = streams.more(id).await.unwrap();
            all += &text(&pieces);
            answers += 1;
            if let Some(end) = end {
                break end;
            }
        };
        assert_eq!((all.as_str(), end), ("abc", StreamEnd::Exit(7)));
        assert!(answers >= 4, "who waits is answered each second, too: {answers}");
        assert_eq!(streams.more(id).await.unwrap_err().kind, CallErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_reads_is_closed_and_its_source_dropped() {
        let streams = Streams::<TokioRuntime>::new();
        let (alive, dropped) = oneshot::channel::<()>();
        let id = streams
            .open(|sink| async move {
                let _alive = alive;
                // More than fits: the source waits for its reader.
                loop {
                    sink.send(piece("x")).await.unwrap();
                }
            })
            .unwrap();
        assert!(!streams.more(id).await.unwrap().0.is_empty());
        advance(UNREAD * 2).await;
        assert!(dropped.await.is_err(), "the source is gone");
        assert_eq!(streams.more(id).await.unwrap_err().kind, CallErrorKind::NotFound);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_a_limit_and_closing_makes_room() {
        let streams = Streams::<TokioRuntime>::new();
        let open = || {
            streams.open(|sink| async move {
                sink.closed().await;
                StreamEnd::Done
            })
        };
        let ids: Vec<u64> = (0..STREAMS_MAX).map(|_| open().unwrap()).collect();
        assert_eq!(open().unwrap_err().kind, CallErrorKind::Busy);
        streams.close(ids[3]);
        assert!(open().is_ok());
    }
}
