//! The messages that nodes send each other beside those of consensus: a first byte that says of what kind one is, and then its coding.
//!
//! Owns which kinds there are, and how much of a node's memory a message from another one may take. Must never: know what a message means.

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::codec;

/// Most bytes that a message takes once it is read. A message has 4 MiB at most (`Lane::max_body_bytes`), and what it lists takes some times
/// as much in memory as on the wire.
const READ_BYTES_MAX: usize = 64 << 20;

/// What a message is about: its first byte, its version included. Consensus has 0xC0 to 0xCF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Work for a node.
    Offers = 0xD1,
    /// Work that is not wanted any more.
    Recall = 0xD2,
    /// A question to a node's engine.
    Engine = 0xD3,
    /// Copies that a node should have.
    Care = 0xD4,
    /// A node stops, and will be back. Nothing follows.
    Farewell = 0xD5,
    /// A question to a node's history.
    History = 0xD6,
    /// A question about a build's context.
    Build = 0xD7,
    /// How loaded a node is.
    Load = 0xD8,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::Offers,
        Self::Recall,
        Self::Engine,
        Self::Care,
        Self::Farewell,
        Self::History,
        Self::Build,
        Self::Load,
    ];

    /// `None` if it is none of these: consensus may know it.
    pub(crate) fn of(message: &[u8]) -> Option<Self> {
        let tag = *message.first()?;
        Self::ALL.into_iter().find(|kind| *kind as u8 == tag)
    }
}

/// What is sent as a message of its own, not as a reply to one.
pub(crate) trait Message: Encode + Decode<()> {
    const KIND: Kind;

    /// An error if it lists more than it may, or makes no sense.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

pub(crate) fn encode<M: Message>(message: &M) -> Bytes {
    let mut bytes = vec![M::KIND as u8];
    codec::encode_into(message, &mut bytes);
    bytes.into()
}

/// Reads a message, its first byte included. Errors are for logs.
pub(crate) fn decode<M: Message>(message: &[u8]) -> Result<M, String> {
    if Kind::of(message) != Some(M::KIND) {
        return Err(format!("not a message of the kind {:?}", M::KIND));
    }
    let read: M = read(&message[1..])?;
    read.check()?;
    Ok(read)
}

/// Whoever asked knows of what kind a reply is, so it does not say.
pub(crate) fn encode_reply<T: Encode>(reply: &T) -> Bytes {
    let mut bytes = Vec::new();
    codec::encode_into(reply, &mut bytes);
    bytes.into()
}

/// Errors are for logs.
pub(crate) fn decode_reply<T: Decode<()>>(reply: &[u8]) -> Result<T, String> {
    read(reply)
}

/// For [`Message::check`] of a list.
pub(crate) fn at_most(listed: usize, max: usize, what: &str) -> Result<(), String> {
    match listed <= max {
        true => Ok(()),
        false => Err(format!("{listed} {what} in one message, {max} are the most")),
    }
}

fn read<T: Decode<()>>(bytes: &[u8]) -> Result<T, String> {
    let (value, used) = codec::decode_first::<T, READ_BYTES_MAX>(bytes).map_err(|error| error.to_string())?;
    match bytes.len() - used {
        0 => Ok(value),
        left => Err(format!("{left} bytes are left over after the message")),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::fmt::Debug;

    use super::*;

    /// That a message is read as it was written, and nothing that is not one.
    pub(crate) fn survives<M: Message + Debug + PartialEq>(message: &M) {
        let mut bytes = encode(message).to_vec();
        assert_eq!(decode::<M>(&bytes).as_ref(), Ok(message));
        let other = Kind::ALL.into_iter().find(|kind| *kind != M::KIND).unwrap() as u8;
        let tag = std::mem::replace(&mut bytes[0], other);
        assert!(decode::<M>(&bytes).unwrap_err().contains("not a message of the kind"));
        bytes[0] = tag;
        bytes.push(0);
        assert!(decode::<M>(&bytes).unwrap_err().contains("1 bytes are left over"));
        for short in [&[][..], &[tag]] {
            assert!(decode::<M>(short).is_err());
        }
    }

    pub(crate) fn reply_survives<T: Encode + Decode<()> + Debug + PartialEq>(reply: &T) {
        assert_eq!(decode_reply::<T>(&encode_reply(reply)).as_ref(), Ok(reply));
    }

    #[derive(Debug, PartialEq, Encode, Decode)]
    struct Words(Vec<[u8; 16]>);

    impl Message for Words {
        const KIND: Kind = Kind::Care;

        fn check(&self) -> Result<(), String> {
            at_most(self.0.len(), 2, "words")
        }
    }

    #[test]
    fn messages_are_read_as_they_are_written_within_their_limits() {
        survives(&Words(vec![[7; 16]; 2]));
        let three = encode(&Words(vec![[7; 16]; 3]));
        assert_eq!(decode::<Words>(&three), Err("3 words in one message, 2 are the most".to_owned()));
        reply_survives(&Some(7_u64));
    }

    #[test]
    fn a_length_that_lies_takes_no_memory() {
        let mut bytes = vec![Kind::Care as u8];
        let claimed = READ_BYTES_MAX / 16 + 1;
        codec::encode_into(&(claimed as u64), &mut bytes);
        assert!(
            decode::<Words>(&bytes).unwrap_err().contains("LimitExceeded"),
            "before anything is allocated"
        );
    }

    #[test]
    fn every_kind_is_known_by_its_first_byte() {
        for kind in Kind::ALL {
            assert_eq!(Kind::of(&[kind as u8, 1]), Some(kind));
        }
        for other in [&[][..], &[0xC0], &[0xCF], &[0xD0], &[0xD9]] {
            assert_eq!(Kind::of(other), None);
        }
    }
}
