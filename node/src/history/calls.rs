//! What one node asks of another one's history, as messages.

use bincode::{Decode, Encode};
use longshore_model::operations::{Listing, Operation, OperationId};

use super::records::{Moment, Page};
use crate::wire::{Kind, Message};

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum HistoryCall {
    /// The operations that a listing asks for (but for its own `before`), from a moment on.
    Page {
        listing: Listing,
        before: Option<Moment>,
    },
    Find(OperationId),
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum HistoryReply {
    Page(Page),
    Found(Option<Box<Operation>>),
    /// Why there is no answer: for logs.
    Unavailable(String),
}

impl Message for HistoryCall {
    const KIND: Kind = Kind::History;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire;

    #[test]
    fn calls_and_replies_are_read_as_they_are_written() {
        let id: OperationId = "op-1-2-3".parse().unwrap();
        let listing = Listing { kind: Some("pull".into()), limit: 5, ..Listing::default() };
        for call in
            [HistoryCall::Page { listing, before: Some(Moment { unix_ms: 7, id }) }, HistoryCall::Find(id)]
        {
            wire::tests::survives(&call);
        }
        for reply in [HistoryReply::Page(Page::default()), HistoryReply::Unavailable("why".into())] {
            wire::tests::reply_survives(&reply);
        }
    }
}
