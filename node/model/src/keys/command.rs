//! Commands on keys, and their replies.
//!
//! Replies are small: a group keeps those that a client has not acknowledged, and in every snapshot. So none carries a value.

use bincode::{Decode, Encode};

use super::value::Value;

/// What must hold for a command to be done, at the command's log time. An expired key counts as absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum Condition {
    #[default]
    Always,
    IfAbsent,
    IfPresent,
    /// Compare-and-set: the key exists at this version.
    IfVersion(u64),
}

impl Condition {
    /// Whether it holds for a key at this version (None: absent).
    pub fn holds(self, current: Option<u64>) -> bool {
        match self {
            Self::Always => true,
            Self::IfAbsent => current.is_none(),
            Self::IfPresent => current.is_some(),
            Self::IfVersion(version) => current == Some(version),
        }
    }
}

/// How long a key that is set shall live.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Encode, Decode)]
pub enum Lifetime {
    #[default]
    Forever,
    /// Until the moment that was set before, if any; for ever if the key is new.
    Keep,
    /// Milliseconds of log time from the command's own.
    ForMs(u64),
}

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeyCommand {
    Set {
        namespace: String,
        key: Vec<u8>,
        value: Value,
        lifetime: Lifetime,
        condition: Condition,
    },
    /// Deleting what is absent is done when the condition holds.
    Delete {
        namespace: String,
        key: Vec<u8>,
        condition: Condition,
    },
    /// A new lifetime, from now on (None: for ever), for a key that exists. The version stays: it names the value, and a
    /// compare-and-set by someone else must not fail because its owner keeps the key alive.
    Expire {
        namespace: String,
        key: Vec<u8>,
        ttl_ms: Option<u64>,
        condition: Condition,
    },
}

impl KeyCommand {
    pub fn namespace(&self) -> &str {
        match self {
            Self::Set { namespace, .. } | Self::Delete { namespace, .. } | Self::Expire { namespace, .. } => {
                namespace
            }
        }
    }

    pub fn key(&self) -> &[u8] {
        match self {
            Self::Set { key, .. } | Self::Delete { key, .. } | Self::Expire { key, .. } => key,
        }
    }

    pub fn condition(&self) -> Condition {
        match self {
            Self::Set { condition, .. } | Self::Delete { condition, .. } | Self::Expire { condition, .. } => {
                *condition
            }
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub enum KeyReply {
    Set {
        version: u64,
        /// Version of what was there before, if it had not expired.
        replaced: Option<u64>,
        ttl_ms: Option<u64>,
    },
    Deleted {
        /// The version that the deletion took: above all of the key's before, below all after. None if nothing was there.
        version: Option<u64>,
    },
    Expires {
        version: u64,
        ttl_ms: Option<u64>,
    },
}
