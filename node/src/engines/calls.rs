//! What one node asks of another one's engine, as messages.

use bincode::{Decode, Encode};
use longshore_model::codec;

use crate::docker::{Container, EngineError, ExecSpec, ListedImage, ListedVolume, LogQuery, Stream};
use crate::inventory::Unanswered;
use crate::wire::{Kind, Message};

/// Most bytes of a listing of one node: it has to fit into a message of 4 MiB. Some thousand containers.
pub(crate) const LISTED_BYTES_MAX: usize = 3 << 20;

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum EngineCall {
    Containers,
    Images,
    Volumes,
    /// Opens a stream of what a container wrote.
    Logs {
        container: String,
        query: LogQuery,
    },
    /// Opens a stream of what a command in a container writes.
    Exec {
        container: String,
        command: ExecSpec,
    },
    /// What came on a stream since; waits for a moment if nothing did.
    More {
        stream: u64,
    },
    /// Nobody wants more of it.
    Close {
        stream: u64,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum EngineReply {
    Containers(Listing<Container>),
    Images(Listing<ListedImage>),
    Volumes(Listing<ListedVolume>),
    Opened { stream: u64 },
    Output { pieces: Vec<OutputPiece>, end: Option<StreamEnd> },
    Closed,
    Failed(CallError),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Listing<T> {
    pub(crate) items: Vec<T>,
    /// There are more than fit.
    pub(crate) cut: bool,
    /// None if it is what the engine has.
    pub(crate) last_seen: Option<SeenLast>,
}

/// Of a listing that is what the engine had when it was heard last.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct SeenLast {
    /// By the clock of the node that says so.
    pub(crate) age_ms: u64,
    /// Why the engine was not asked.
    pub(crate) why: String,
}

impl<T: Encode + Clone> Listing<T> {
    pub(crate) fn of(items: &[T]) -> Self {
        let (mut bytes, mut fit) = (Vec::new(), 0);
        for item in items {
            codec::encode_into(item, &mut bytes);
            if bytes.len() > LISTED_BYTES_MAX {
                break;
            }
            fit += 1;
        }
        Self { items: items[..fit].to_vec(), cut: fit < items.len(), last_seen: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) struct OutputPiece {
    pub(crate) stream: Stream,
    pub(crate) bytes: Vec<u8>,
}

/// Why there is no more on a stream.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(crate) enum StreamEnd {
    /// The container, or what it had written, has ended.
    Done,
    /// The command has ended.
    Exit(i64),
    Failed(CallError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub(crate) enum CallErrorKind {
    NotFound,
    /// It is not in the state that this needs.
    Conflict,
    /// As many calls or streams as can be are open.
    Busy,
    /// The node or its engine does not answer.
    Unavailable,
    Other,
}

/// Why a call was not answered. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Encode, Decode)]
#[error("{message}")]
pub(crate) struct CallError {
    pub(crate) kind: CallErrorKind,
    pub(crate) message: String,
}

impl From<EngineError> for CallError {
    fn from(error: EngineError) -> Self {
        let kind = match &error {
            EngineError::NoSuchContainer { .. } | EngineError::NoSuchImage { .. } => CallErrorKind::NotFound,
            EngineError::NotRunning { .. } | EngineError::StillRunning { .. } => CallErrorKind::Conflict,
            EngineError::Unavailable { .. } | EngineError::Interrupted { .. } | EngineError::Disabled => {
                CallErrorKind::Unavailable
            }
            _ => CallErrorKind::Other,
        };
        Self { kind, message: error.to_string() }
    }
}

impl From<Unanswered> for CallError {
    fn from(error: Unanswered) -> Self {
        match error {
            Unanswered::Engine(error) => error.into(),
            late @ Unanswered::Late(_) => {
                Self { kind: CallErrorKind::Unavailable, message: late.to_string() }
            }
        }
    }
}

impl Message for EngineCall {
    const KIND: Kind = Kind::Engine;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn calls_and_replies_are_read_as_they_are_written() {
        let query = LogQuery { follow: true, tail: Some(5), ..LogQuery::default() };
        let call = EngineCall::Logs { container: "web".into(), query };
        wire::tests::survives(&call);
        let piece = OutputPiece { stream: Stream::Stderr, bytes: vec![0, 255] };
        let reply = EngineReply::Output { pieces: vec![piece], end: Some(StreamEnd::Exit(3)) };
        wire::tests::reply_survives(&reply);
    }

    #[test]
    fn a_listing_is_cut_where_a_message_ends() {
        let long = Listing::of(&vec![0_u8; LISTED_BYTES_MAX + 1]);
        assert_eq!((long.items.len(), long.cut), (LISTED_BYTES_MAX, true));
        assert!(!Listing::of(&vec![0_u8; LISTED_BYTES_MAX]).cut);
    }
}
