//! What nodes say to each other about how they are, as bytes.

use bincode::{Decode, Encode};
use bytes::Bytes;
use longshore_model::codec;
use longshore_model::operations::load::Load;

use super::images::{IMAGES_MAX, ImageName};

/// First byte of a message, its version included. Offers have 0xD1 and 0xD2, engines 0xD3 and 0xD4, farewells 0xD5, the history 0xD6.
pub(crate) const LOAD_TAG: u8 = 0xD8;
/// The reply of one that does not know which images are there: it is told then.
pub(super) const WANTS_IMAGES: u8 = 1;

/// Which start of its node a message is from, and which it is of that: what overtook another is known by that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Encode, Decode)]
pub(super) struct Stamp {
    pub(super) incarnation: u64,
    pub(super) number: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub(super) enum Message {
    Load {
        stamp: Stamp,
        load: Load,
        /// Hash of the images that are there; see [`ImageName::hash_of`].
        images: u64,
    },
    /// Only to those who asked.
    Images { stamp: Stamp, names: Vec<ImageName> },
}

impl Message {
    pub(super) fn encode(&self) -> Bytes {
        let mut message = vec![LOAD_TAG];
        codec::encode_into(self, &mut message);
        message.into()
    }

    /// With its tag.
    pub(super) fn decode(body: &[u8]) -> Result<Self, String> {
        let message = match body.split_first() {
            Some((&LOAD_TAG, message)) => codec::decode(message).map_err(|error| error.to_string())?,
            _ => return Err("not word of a node's load".to_owned()),
        };
        match &message {
            Self::Images { names, .. } if names.len() > IMAGES_MAX => {
                Err(format!("{} images in one message, {IMAGES_MAX} are the most", names.len()))
            }
            _ => Ok(message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_and_nonsense_does_not() {
        let stamp = Stamp { incarnation: 3, number: 7 };
        let load = Load {
            cpu_busy: 1,
            memory_bytes: 2,
            memory_free_bytes: 3,
            disk_bytes: 4,
            disk_free_bytes: 5,
            running: 6,
            engine_ms: Some(7),
        };
        let images = |count: usize| Message::Images { stamp, names: vec![ImageName(9); count] };
        for message in [Message::Load { stamp, load, images: 8 }, images(0), images(IMAGES_MAX)] {
            assert_eq!(Message::decode(&message.encode()), Ok(message));
        }
        let largest = images(IMAGES_MAX).encode().len();
        assert!(largest < 9 << 10, "{largest} bytes");
        assert!(Message::decode(&images(IMAGES_MAX + 1).encode()).unwrap_err().contains("1024 are the most"));
        let mut long = images(1).encode().to_vec();
        long.push(0);
        for bad in [&b""[..], &[0xD3, 0], &[LOAD_TAG], &[LOAD_TAG, 99], &long] {
            assert!(Message::decode(bad).is_err(), "{bad:?}");
        }
    }
}
