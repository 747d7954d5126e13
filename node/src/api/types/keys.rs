//! JSON types of keys, and how bytes are written in JSON.

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Bytes in JSON: `{"text": ...}` when they are UTF-8, `{"base64": ...}` (RFC 4648, section 4) otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BytesView {
    Text(String),
    Base64(String),
}

impl BytesView {
    pub fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Base64(BASE64.encode(bytes)),
        }
    }

    /// None for base64 that is none.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        match self {
            Self::Text(text) => Some(text.clone().into_bytes()),
            Self::Base64(text) => BASE64.decode(text.as_bytes()).ok(),
        }
    }
}

/// What must hold for a change to be done. A key that has expired is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyCondition {
    #[default]
    Always,
    Absent,
    Present,
    /// Compare-and-set: the key exists at this version.
    Version(u64),
}

impl KeyCondition {
    /// Parses `absent`, `present` and `version:N`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a condition; write absent, present or version:N");
        match text {
            "absent" => Ok(Self::Absent),
            "present" => Ok(Self::Present),
            _ => {
                let version = text.strip_prefix("version:").ok_or_else(wrong)?;
                version.parse().map(Self::Version).map_err(|_| wrong())
            }
        }
    }
}

impl std::fmt::Display for KeyCondition {
    /// As [`KeyCondition::parse`] takes it; `always` in place of none.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Absent => f.write_str("absent"),
            Self::Present => f.write_str("present"),
            Self::Version(version) => write!(f, "version:{version}"),
        }
    }
}

/// How long a key that is set shall live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum KeyLifetime {
    #[default]
    Forever,
    /// Until the moment that was set before, if any.
    Keep,
    ForMs(u64),
}

/// A key that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    pub value: bytes::Bytes,
    pub version: u64,
    /// Time left; None: for ever.
    pub ttl_ms: Option<u64>,
}

/// Reply to a key that was set. The version is in the `ETag` header as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeySetView {
    /// Rises with each write of the key, over deletions too.
    pub version: u64,
    /// Version of what was there before; absent if nothing was.
    pub replaced: Option<u64>,
    /// Time left; absent: for ever.
    pub ttl_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyDeletedView {
    /// False: nothing was there.
    pub deleted: bool,
    /// The version that the deletion took.
    pub version: Option<u64>,
}

/// Which keys of a namespace to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KeyScanQuery {
    /// Only keys that begin with this.
    pub prefix: Vec<u8>,
    /// Only keys above this one.
    pub after: Option<Vec<u8>>,
    /// At most so many; default 100, at most 1000.
    pub limit: Option<u32>,
    /// With values.
    pub values: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyEntryView {
    pub key: BytesView,
    pub version: u64,
    /// Time left; absent: for ever.
    pub ttl_ms: Option<u64>,
    /// Absent unless asked for.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<BytesView>,
}

/// Keys in order of their bytes. A page can have fewer keys than asked for, even none, and not be the last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyPageView {
    pub entries: Vec<KeyEntryView>,
    /// What to ask for keys after, for the next page; absent: this is all there is.
    pub next: Option<BytesView>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_text_or_base64_and_come_back() {
        for (bytes, json) in [
            (&b"caf\xc3\xa9"[..], r#"{"text":"café"}"#),
            (b"", r#"{"text":""}"#),
            (b"\xff\x00", r#"{"base64":"/wA="}"#),
        ] {
            let view = BytesView::new(bytes);
            assert_eq!(serde_json::to_string(&view).unwrap(), json);
            let back: BytesView = serde_json::from_str(json).unwrap();
            assert_eq!(back.bytes().as_deref(), Some(bytes));
        }
        assert_eq!(BytesView::Base64("?".into()).bytes(), None);
    }

    #[test]
    fn conditions() {
        for condition in [KeyCondition::Absent, KeyCondition::Present, KeyCondition::Version(u64::MAX)] {
            assert_eq!(KeyCondition::parse(&condition.to_string()), Ok(condition));
        }
        for bad in ["", "always", "version", "version:", "version:-1", "Absent"] {
            assert!(KeyCondition::parse(bad).is_err(), "{bad:?}");
        }
    }
}
