//! Requests from one peer on one stream, between their delivery and their answers' being written.
//!
//! Invariant: every request that was admitted is answered exactly once; its [`Replier`] sees to that. Reading stops while
//! too much is unanswered, so that a peer cannot fill this node's memory.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::Replier;
use super::frame::{Batch, Kind, reason_bytes};
use super::lanes::StreamIndex;

#[derive(Debug)]
pub(super) struct Answers {
    stream: StreamIndex,
    state: Mutex<State>,
    /// Wakes the writer: there are answers, or none will come any more.
    ready: Notify,
    /// Wakes the reader: there is room again.
    room: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<(u64, Kind, Bytes)>,
    ready_bytes: usize,
    /// Requests whose answers are not yet written.
    open: usize,
    /// Bytes of the requests that are with the handler.
    open_bytes: usize,
    closed: bool,
}

impl Answers {
    pub(super) fn new(stream: StreamIndex) -> Arc<Self> {
        Arc::new(Self { stream, state: Mutex::default(), ready: Notify::new(), room: Notify::new() })
    }

    /// Waits until there is room for a request of `len` bytes, and takes it. `None` when the stream is closed.
    pub(super) async fn admit(self: &Arc<Self>, id: u64, len: usize) -> Option<Replier> {
        let limits = self.stream.limits();
        loop {
            {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                if state.open < limits.requests && (state.open == 0 || state.open_bytes + len <= limits.bytes)
                {
                    state.open += 1;
                    state.open_bytes += len;
                    let answers = self.clone();
                    return Some(Replier::new(move |result| answers.answer(id, len, result)));
                }
            }
            self.room.notified().await;
        }
    }

    /// Moves answers into `batch`, at most about `max_bytes` of them.
    pub(super) fn take(&self, batch: &mut Batch, max_bytes: usize) {
        let mut state = self.state.lock();
        let before = state.open;
        while batch.len() < max_bytes {
            let Some((id, kind, body)) = state.ready.pop_front() else { break };
            state.ready_bytes -= body.len();
            state.open -= 1;
            batch.push(kind, 0, id, body);
        }
        if state.open < before {
            self.room.notify_one();
        }
    }

    /// Resolves when there may be answers to take.
    pub(super) async fn wait_ready(&self) {
        self.ready.notified().await;
    }

    /// The connection is gone: answers that still come are dropped.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        state.ready.clear();
        state.ready_bytes = 0;
        drop(state);
        self.room.notify_one();
    }

    fn answer(&self, id: u64, request_bytes: usize, result: Result<Bytes, String>) {
        let (mut kind, mut body) = match result {
            Ok(body) => (Kind::Reply, body),
            Err(reason) => (Kind::Refusal, reason_bytes(reason)),
        };
        let mut state = self.state.lock();
        state.open_bytes -= request_bytes;
        self.room.notify_one();
        if state.closed {
            return;
        }
        let (limit, max_queued) = (self.stream.max_body_bytes(), self.stream.limits().bytes);
        // What the handler did stands, so neither case may look like a refusal.
        if body.len() > limit {
            let reason =
                format!("the reply of {} bytes is over the lane's limit of {limit} bytes", body.len());
            (kind, body) = (Kind::NoReply, reason_bytes(reason));
        } else if state.ready_bytes + body.len() > max_queued {
            let reason = format!("{} bytes of replies already wait on this lane", state.ready_bytes);
            (kind, body) = (Kind::NoReply, reason_bytes(reason));
        }
        state.ready_bytes += body.len();
        state.ready.push_back((id, kind, body));
        drop(state);
        self.ready.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::super::Lane;
    use super::*;

    fn taken(answers: &Answers) -> usize {
        let mut batch = Batch::default();
        answers.take(&mut batch, usize::MAX);
        batch.len()
    }

    #[test]
    fn reading_stops_at_the_limit_and_goes_on_once_an_answer_is_written() {
        let answers = Answers::new(StreamIndex::of(Lane::Bulk));
        let limits = StreamIndex::of(Lane::Bulk).limits();
        let admit = |id| answers.admit(id, 1).now_or_never();
        let mut repliers: Vec<_> =
            (0..limits.requests as u64).map(|id| admit(id).unwrap().unwrap()).collect();
        assert!(admit(99).is_none());
        repliers.pop().unwrap().reply(Bytes::new());
        assert!(admit(99).is_none(), "the answer is not written yet");
        assert!(taken(&answers) > 0);
        assert!(admit(99).unwrap().is_some());
    }

    #[test]
    fn bytes_with_the_handler_are_limited_but_one_request_always_fits() {
        let answers = Answers::new(StreamIndex::of(Lane::Heartbeat));
        let limit = StreamIndex::of(Lane::Heartbeat).limits().bytes;
        let first = answers.admit(1, limit + 1).now_or_never().unwrap().unwrap();
        assert!(answers.admit(2, 1).now_or_never().is_none());
        drop(first);
        assert!(answers.admit(2, 1).now_or_never().unwrap().is_some());
    }

    #[test]
    fn dropped_late_and_oversized_answers() {
        let answers = Answers::new(StreamIndex::of(Lane::Heartbeat));
        let admit = |id| answers.admit(id, 0).now_or_never().unwrap().unwrap();
        drop(admit(1));
        admit(2).reply(vec![0; Lane::Heartbeat.max_body_bytes() + 1].into());
        let kinds: Vec<Kind> = answers.state.lock().ready.iter().map(|(_, kind, _)| *kind).collect();
        assert_eq!(kinds, [Kind::Refusal, Kind::NoReply]);
        let late = admit(3);
        answers.close();
        late.reply(Bytes::new());
        assert_eq!(taken(&answers), 0);
        assert!(answers.admit(4, 0).now_or_never().unwrap().is_none());
    }
}
