//! Image references by the distribution grammar (github.com/distribution/reference), normalised the way Docker does it.
//!
//! Owns what a reference is and how it is written. Must never touch the network, nor guess at what the user meant.
//!
//! Invariants of an [`ImageReference`]: every part satisfies the grammar; there is a tag or a digest or both; parsing its
//! full spelling, or its familiar one, gives the same reference again.

mod parse;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use bincode::de::{BorrowDecode, BorrowDecoder, Decode, Decoder};
use bincode::enc::write::Writer;
use bincode::enc::{Encode, Encoder};
use bincode::error::{DecodeError, EncodeError};
use serde::{Deserialize, Serialize};

/// The registry of references that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// What `docker.io` was called in old references; normalised away.
const LEGACY_DEFAULT_REGISTRY: &str = "index.docker.io";
/// Where the default registry keeps repositories written as one bare word.
const OFFICIAL_PREFIX: &str = "library/";
/// The tag of references that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest reference, counted in its shortest spelling: so what is valid when written `nginx` stays valid when written
/// out as `docker.io/library/nginx:latest`. No reference of at most this length, as given, is ever too long.
pub const MAX_REFERENCE_LENGTH: usize = 255;
/// Longest tag. Source: the grammar, `[\w][\w.-]{0,127}`.
pub const MAX_TAG_LENGTH: usize = 128;

/// A valid, normalised reference: always with a registry, and a tag or a digest or both.
///
/// `Display` and serde write it in full (`docker.io/library/nginx:latest`); [`familiar`](Self::familiar) as people do.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageReference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

impl ImageReference {
    /// Host, with the port if there is one, such as `docker.io` or `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path below the registry, such as `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// `algorithm:hex`, such as `sha256:6c3c...`.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Registry and repository without tag or digest: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The short spelling that Docker shows: `nginx:latest`, `a/b:1`, `localhost:5000/x:latest`. Parses to the same reference.
    pub fn familiar(&self) -> String {
        let mut text = self.familiar_name();
        self.push_tag_and_digest(&mut text);
        text
    }

    fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        if let Some(official) = self.repository.strip_prefix(OFFICIAL_PREFIX)
            && !official.contains('/')
        {
            return official.to_owned();
        }
        // Such as docker.io/a.b/c: without the registry, a.b would be taken for one.
        match self.repository.split_once('/') {
            Some((first, _)) if parse::names_a_registry(first) => self.name(),
            _ => self.repository.clone(),
        }
    }

    /// What `Display` writes, piece by piece.
    fn pieces(&self) -> impl Iterator<Item = &str> {
        let tag = self.tag.as_deref().into_iter().flat_map(|tag| [":", tag]);
        let digest = self.digest.as_deref().into_iter().flat_map(|digest| ["@", digest]);
        [&*self.registry, "/", &*self.repository].into_iter().chain(tag).chain(digest)
    }

    fn push_tag_and_digest(&self, text: &mut String) {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest);
        }
    }

    /// Length of the shortest text that parses to this reference.
    fn shortest_length(&self) -> usize {
        let familiar = self.familiar().len();
        let implied = self.digest.is_none() && self.tag.as_deref() == Some(DEFAULT_TAG);
        if implied { familiar - (1 + DEFAULT_TAG.len()) } else { familiar }
    }
}

impl fmt::Display for ImageReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if f.width().is_none() && f.precision().is_none() {
            return self.pieces().try_for_each(|piece| f.write_str(piece));
        }
        f.pad(&self.pieces().collect::<String>())
    }
}

impl FromStr for ImageReference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse::reference(text)
    }
}

impl TryFrom<String> for ImageReference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<ImageReference> for String {
    fn from(reference: ImageReference) -> String {
        reference.to_string()
    }
}

/// As the text that `Display` writes, which is not made for it: a snapshot holds tens of thousands of references.
impl Encode for ImageReference {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> Result<(), EncodeError> {
        let len: usize = self.pieces().map(str::len).sum();
        (len as u64).encode(encoder)?;
        self.pieces().try_for_each(|piece| encoder.writer().write(piece.as_bytes()))
    }
}

/// Validates again: bytes from a peer or a disk make no reference that a user could not have written.
impl<Context> Decode<Context> for ImageReference {
    fn decode<D: Decoder<Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        let text = String::decode(decoder)?;
        text.parse().map_err(|error: ReferenceError| DecodeError::OtherString(error.to_string()))
    }
}

impl<'de, Context> BorrowDecode<'de, Context> for ImageReference {
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(decoder: &mut D) -> Result<Self, DecodeError> {
        Self::decode(decoder)
    }
}

/// Why a text is no image reference. The caller corrects the text; `at` counts characters from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("an image reference is missing; write one such as nginx:latest")]
    Empty,
    #[error("the image reference has {length} characters; at most {MAX_REFERENCE_LENGTH} are allowed")]
    TooLong { length: usize },
    #[error("image reference {reference:?}: character {found:?} at {at} is never part of one")]
    Character { reference: String, at: usize, found: char },
    #[error("image reference {reference:?} is written like a URL; leave out {scheme:?}")]
    Scheme { reference: String, scheme: String },
    #[error(
        "{reference:?} is an image id, not a name; write the repository, with @sha256:... to fix the contents"
    )]
    Identifier { reference: String },
    #[error(
        "image reference {reference:?}: the repository must be in lower case; did you mean {suggestion:?}?"
    )]
    Uppercase { reference: String, suggestion: String },
    /// One part breaks the grammar.
    #[error("image reference {reference:?}: {part} is wrong at {at}: {reason}")]
    Part { reference: String, part: Part, at: usize, reason: &'static str },
}

/// The parts of a reference, left to right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Registry,
    Repository,
    Tag,
    Digest,
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Registry => "the registry",
            Self::Repository => "the repository",
            Self::Tag => "the tag",
            Self::Digest => "the digest",
        })
    }
}
