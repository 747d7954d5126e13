//! What nodes say to each other about how they are, as bytes.

use bincode::{Decode, Encode};
use longshore_model::operations::load::Load;

use super::images::{IMAGES_MAX, ImageName};
use crate::wire::{self, Kind};

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

impl wire::Message for Message {
    const KIND: Kind = Kind::Load;

    fn check(&self) -> Result<(), String> {
        match self {
            Self::Load { .. } => Ok(()),
            Self::Images { names, .. } => wire::at_most(names.len(), IMAGES_MAX, "images"),
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
            wire::tests::survives(&message);
        }
        let largest = wire::encode(&images(IMAGES_MAX)).len();
        assert!(largest < 9 << 10, "{largest} bytes");
        let many = wire::decode::<Message>(&wire::encode(&images(IMAGES_MAX + 1)));
        assert!(many.unwrap_err().contains("1024 are the most"));
    }
}
