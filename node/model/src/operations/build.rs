//! What a build is: an image made by a node's engine, out of a folder that somebody has sent to a node.
//!
//! The folder itself, the *context*, is too large for a log: the record names it by its digest, and says which node has it.

use std::collections::BTreeSet;

use bincode::{Decode, Encode};
use longshore_raft::NodeId;

use crate::image::ImageReference;

/// Most names that an image is given.
pub const TAGS_MAX: usize = 16;
/// Most arguments of a build.
pub const BUILD_ARGS_MAX: usize = 64;
/// Most bytes of all texts of a build: arguments, the name of its Dockerfile, its target.
pub const BUILD_TEXT_BYTES_MAX: usize = 32 << 10;

/// A folder as one payload, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BuildContext {
    /// blake3 of its bytes.
    pub digest: [u8; 32],
    pub bytes: u64,
    /// The node that it was sent to.
    pub holder: NodeId,
}

/// An argument of a Dockerfile. Its value is in the image's history, so it must be no secret.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BuildArg {
    pub name: String,
    pub value: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct BuildSpec {
    pub context: BuildContext,
    /// What the image is called; one at least.
    pub tags: Vec<ImageReference>,
    /// In the context, with `/`.
    pub dockerfile: String,
    pub args: Vec<BuildArg>,
    /// The stage that is wanted; the last one if there is none.
    pub target: Option<String>,
    /// Do every step again.
    pub no_cache: bool,
    /// Ask the registries for images that it begins with, also for those that are there.
    pub pull: bool,
}

/// Why a build can not be what was asked for. The text is shown to people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    #[error("the image of a build needs a name: give one with -t")]
    NoTag,
    #[error("an image can be given {TAGS_MAX} names at most")]
    TooManyTags,
    #[error("{0:?} names a digest: what an image is to be called has a tag, or nothing")]
    Digest(String),
    #[error("{0:?} is not the path of a Dockerfile in its folder")]
    Dockerfile(String),
    #[error("{0:?} is not an argument such as VERSION=3")]
    Arg(String),
    #[error("argument {0} is given twice")]
    Twice(String),
    #[error("a build can have {BUILD_ARGS_MAX} arguments at most")]
    TooManyArgs,
    #[error(
        "the texts of a build (arguments, Dockerfile, target) can have {BUILD_TEXT_BYTES_MAX} bytes at most"
    )]
    TooLong,
    #[error("a build needs a folder, and this one has no bytes")]
    Empty,
}

impl BuildSpec {
    /// The limits, and what an engine would refuse on every host.
    pub fn check(&self) -> Result<(), BuildError> {
        match self.tags.len() {
            0 => return Err(BuildError::NoTag),
            1..=TAGS_MAX => {}
            _ => return Err(BuildError::TooManyTags),
        }
        if let Some(tag) = self.tags.iter().find(|tag| tag.digest().is_some()) {
            return Err(BuildError::Digest(tag.familiar()));
        }
        if self.context.bytes == 0 {
            return Err(BuildError::Empty);
        }
        let leads_in = |part: &str| !matches!(part, "" | "." | "..");
        if self.dockerfile.contains(|c: char| c.is_control()) || !self.dockerfile.split('/').all(leads_in) {
            return Err(BuildError::Dockerfile(self.dockerfile.clone()));
        }
        if self.args.len() > BUILD_ARGS_MAX {
            return Err(BuildError::TooManyArgs);
        }
        let mut names = BTreeSet::new();
        for arg in &self.args {
            if arg.name.is_empty() || arg.name.contains(|c: char| c.is_control() || c.is_whitespace()) {
                return Err(BuildError::Arg(format!("{}={}", arg.name, arg.value)));
            }
            if !names.insert(arg.name.as_str()) {
                return Err(BuildError::Twice(arg.name.clone()));
            }
        }
        match self.text_bytes() > BUILD_TEXT_BYTES_MAX {
            true => Err(BuildError::TooLong),
            false => Ok(()),
        }
    }

    /// Bytes of all its texts, its tags aside.
    pub fn text_bytes(&self) -> usize {
        let args: usize = self.args.iter().map(|arg| arg.name.len() + arg.value.len()).sum();
        args + self.dockerfile.len() + self.target.as_ref().map_or(0, String::len)
    }

    /// For people: the first name of the image.
    pub fn subject(&self) -> String {
        self.tags.first().map_or_else(String::new, ImageReference::familiar)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> BuildSpec {
        BuildSpec {
            context: BuildContext { digest: [1; 32], bytes: 7, holder: NodeId(1) },
            tags: vec!["app:3".parse().unwrap()],
            dockerfile: "Dockerfile".into(),
            args: vec![BuildArg { name: "VERSION".into(), value: "3".into() }],
            target: None,
            no_cache: false,
            pull: false,
        }
    }

    #[test]
    fn what_every_engine_would_refuse_is_refused_before() {
        assert_eq!(spec().check(), Ok(()));
        assert_eq!(BuildSpec { dockerfile: "a/b.Dockerfile".into(), ..spec() }.check(), Ok(()));
        let tag: ImageReference = "app:3".parse().unwrap();
        let pinned: ImageReference = format!("app@sha256:{}", "0".repeat(64)).parse().unwrap();
        let arg = |name: &str, value: &str| BuildArg { name: name.into(), value: value.into() };
        let cases = [
            (BuildSpec { tags: Vec::new(), ..spec() }, BuildError::NoTag),
            (BuildSpec { tags: vec![tag; TAGS_MAX + 1], ..spec() }, BuildError::TooManyTags),
            (BuildSpec { tags: vec![pinned.clone()], ..spec() }, BuildError::Digest(pinned.familiar())),
            (BuildSpec { context: BuildContext { bytes: 0, ..spec().context }, ..spec() }, BuildError::Empty),
            (BuildSpec { args: vec![arg("", "3")], ..spec() }, BuildError::Arg("=3".into())),
            (BuildSpec { args: vec![arg("A", "1"), arg("A", "2")], ..spec() }, BuildError::Twice("A".into())),
            (BuildSpec { args: vec![arg("A", "1"); BUILD_ARGS_MAX + 1], ..spec() }, BuildError::TooManyArgs),
            (BuildSpec { target: Some("x".repeat(BUILD_TEXT_BYTES_MAX + 1)), ..spec() }, BuildError::TooLong),
        ];
        for (spec, error) in cases {
            assert_eq!(spec.check(), Err(error));
        }
        for bad in ["", "/etc/passwd", "../Dockerfile", "a/../../b", "a//b", "./Dockerfile", "a\n"] {
            let refused = BuildSpec { dockerfile: bad.into(), ..spec() }.check();
            assert_eq!(refused, Err(BuildError::Dockerfile(bad.into())));
        }
    }
}
