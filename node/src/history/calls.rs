//! What one node asks of another one's history, as messages.

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::codec;
use longshore_model::operations::{Listing, Operation, OperationId};

use super::records::{Moment, Page};

/// First byte of a call, its version included. Consensus has 0xC0 to 0xCF, offers 0xD1 and 0xD2, engines 0xD3 and 0xD4.
pub(crate) const HISTORY_TAG: u8 = 0xD6;

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

impl HistoryCall {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = vec![HISTORY_TAG];
        codec::encode_into(self, &mut bytes);
        bytes.into()
    }

    /// Of a message, its tag included.
    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        match body.split_first() {
            Some((&HISTORY_TAG, call)) => codec::decode(call).map_err(|error| error.to_string()),
            _ => Err("not a call to a history".to_owned()),
        }
    }
}

impl HistoryReply {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::new();
        codec::encode_into(self, &mut bytes);
        bytes.into()
    }

    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        codec::decode(body).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_and_replies_are_read_as_they_are_written() {
        let id: OperationId = "op-1-2-3".parse().unwrap();
        let listing = Listing { kind: Some("pull".into()), limit: 5, ..Listing::default() };
        for call in
            [HistoryCall::Page { listing, before: Some(Moment { unix_ms: 7, id }) }, HistoryCall::Find(id)]
        {
            assert_eq!(HistoryCall::decode(&call.encode()), Ok(call));
        }
        for reply in [HistoryReply::Page(Page::default()), HistoryReply::Unavailable("why".into())] {
            assert_eq!(HistoryReply::decode(&reply.encode()), Ok(reply));
        }
        for bad in [&b""[..], &[0xD3, 0], &[HISTORY_TAG], &[HISTORY_TAG, 99]] {
            assert!(HistoryCall::decode(bad).is_err(), "{bad:?}");
        }
    }
}
