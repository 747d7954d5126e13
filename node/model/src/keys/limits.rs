//! Limits of keys, values and reads, and what people are told at each of them.
//!
//! Whoever takes requests checks with the functions here before it proposes; the state machine checks again, since a command
//! may come from an older or a faulty node.

use bincode::{Decode, Encode};
use longshore_raft::consensus::config::COMMAND_BYTES_MAX;

use super::command::Condition;
use crate::partition::PartitionId;

/// Most bytes of a namespace's name: it is in every command and in URLs.
pub const NAMESPACE_BYTES_MAX: usize = 64;
/// Most bytes of a key: it is kept in memory, in the log, and in cursors of scans.
pub const KEY_BYTES_MAX: usize = 1024;
/// What an encoded command may take beside its value: key, namespace, and numbers of fixed size.
const COMMAND_OVERHEAD_MAX: usize = 4 << 10;
/// Most bytes of a value. A command is one frame of the log and has 1 MiB at most, so a value has that less 4 KiB.
pub const VALUE_BYTES_MAX: usize = COMMAND_BYTES_MAX - COMMAND_OVERHEAD_MAX;
/// Log time counts milliseconds: nothing shorter can be told apart.
pub const TTL_MIN_MS: u64 = 1;
/// Ten years, with three leap days: longer is a mistake in the unit, or should have no TTL.
pub const TTL_MAX_MS: u64 = 3_653 * 24 * 3_600_000;
/// Most keys of one page of a scan: the state is locked for writes while it is put together.
pub const SCAN_KEYS_MAX: usize = 1_000;
/// Most bytes of one page, keys and values: what one answer may take of a connection that others share.
pub const SCAN_BYTES_MAX: usize = 1 << 20;
/// Most keys looked at for one page, so that many expired ones in a row hold no one up. The page then ends early.
pub const SCAN_EXAMINED_MAX: usize = 4_000;
/// Most keys that one sweep removes: about a millisecond of applying, during which the group serves nothing else.
pub const SWEEP_KEYS_MAX: u32 = 1_000;
/// Most bytes of keys that one group holds, as [`KEY_OVERHEAD_BYTES`] counts them. A snapshot is made, sent and installed in
/// memory: at worst three times this, and a quarter of the 1 GiB that a transfer takes.
pub const GROUP_BYTES_MAX: u64 = 256 << 20;

/// Memory of a key beside its bytes and its value's: nodes of the tree, reference counts, the allocator's rounding. Measured at
/// 175 to 220 bytes with glibc once a value was read, the most where keys come in order and leave nodes half full. More than
/// its encoding takes, so that a snapshot is smaller than what is counted.
pub const KEY_OVERHEAD_BYTES: u64 = 224;
/// Memory of the place of an expiring key in the index by time. Measured at 110.
pub const EXPIRY_OVERHEAD_BYTES: u64 = 112;
/// Memory of a namespace in one partition, beside its name: a tree's first node is allocated whole.
pub const NAMESPACE_OVERHEAD_BYTES: u64 = 1024;

const _: () = assert!(KEY_BYTES_MAX + NAMESPACE_BYTES_MAX + 256 < COMMAND_OVERHEAD_MAX);
const _: () = assert!(VALUE_BYTES_MAX + KEY_BYTES_MAX <= SCAN_BYTES_MAX, "every key fits a page");

/// Why nothing was done. Each text says what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode, thiserror::Error)]
pub enum KeyError {
    #[error(
        "{name:?} is not the name of a namespace: use 1 to {NAMESPACE_BYTES_MAX} of a-z, 0-9, '-', '_' and '.', \
         a letter or digit first"
    )]
    NamespaceInvalid {
        /// Cut to a little over the longest that is valid.
        name: String,
    },
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes, this one {len}: {}", match *len {
        0 => "name one",
        _ => "use a shorter one, such as a hash of it",
    })]
    KeyLength { len: u64 },
    #[error("a value has at most {VALUE_BYTES_MAX} bytes, this one {len}: split it over several keys")]
    ValueTooLarge { len: u64 },
    #[error("a time to live is 1 ms to 10 years ({TTL_MAX_MS} ms), not {ttl_ms} ms; leave it out for none")]
    TtlInvalid { ttl_ms: u64 },
    /// Not an error of the caller's: the state is another than it takes it for.
    #[error("{}", condition_text(condition, *current))]
    ConditionFailed {
        condition: Condition,
        /// Version of the key; None if it does not exist or has expired.
        current: Option<u64>,
    },
    #[error("the key does not exist or has expired: set it first")]
    NotFound,
    #[error(
        "the group of this key holds {used_bytes} bytes, and {needed_bytes} more would pass its limit of \
         {GROUP_BYTES_MAX}: delete keys of it, or wait until some expire, and try again"
    )]
    Full { used_bytes: u64, needed_bytes: u64 },
    /// A fault of the node that routed the request, never of the caller.
    #[error(
        "the key belongs to {owner}, but the request was sent to {addressed}: nothing was done; try another node, \
         and report this"
    )]
    WrongPartition { addressed: PartitionId, owner: PartitionId },
    /// Likewise.
    #[error("{partition} is not carried by the group that was asked: try another node, and report this")]
    NotHere { partition: PartitionId },
    #[error("a page has 1 to {SCAN_KEYS_MAX} keys, not {limit}: ask for fewer, and go on after the last one")]
    PageLimit { limit: u64 },
}

fn condition_text(condition: &Condition, current: Option<u64>) -> String {
    let is = match current {
        Some(version) => format!("the key exists, at version {version}"),
        None => "the key does not exist or has expired".to_owned(),
    };
    let wanted = match condition {
        Condition::Always => "nothing was asked of it".to_owned(),
        Condition::IfAbsent => "the write was to be done only if it did not".to_owned(),
        Condition::IfPresent => "the write was to be done only if it did".to_owned(),
        Condition::IfVersion(version) => format!("the write was to be done only at version {version}"),
    };
    format!("{is}, and {wanted}: read it again, and decide anew")
}

/// Whether `name` can be a namespace's. The first character is restricted so that `.`, `..` and options of a command line
/// can not be taken for names.
pub fn check_namespace(name: &str) -> Result<(), KeyError> {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let valid = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_' | b'.');
    if first && name.len() <= NAMESPACE_BYTES_MAX && name.bytes().all(valid) {
        return Ok(());
    }
    Err(KeyError::NamespaceInvalid { name: name.chars().take(NAMESPACE_BYTES_MAX + 1).collect() })
}

pub fn check_key(key: &[u8]) -> Result<(), KeyError> {
    match key.len() {
        1..=KEY_BYTES_MAX => Ok(()),
        len => Err(KeyError::KeyLength { len: len as u64 }),
    }
}

pub fn check_value(value: &[u8]) -> Result<(), KeyError> {
    match value.len() {
        0..=VALUE_BYTES_MAX => Ok(()),
        len => Err(KeyError::ValueTooLarge { len: len as u64 }),
    }
}

pub fn check_ttl(ttl_ms: u64) -> Result<(), KeyError> {
    match ttl_ms {
        TTL_MIN_MS..=TTL_MAX_MS => Ok(()),
        _ => Err(KeyError::TtlInvalid { ttl_ms }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_namespaces() {
        let longest = "n".repeat(NAMESPACE_BYTES_MAX);
        for good in ["a", "7", "a-b_c.d", "sessions", longest.as_str()] {
            assert_eq!(check_namespace(good), Ok(()), "{good}");
        }
        let long = "n".repeat(NAMESPACE_BYTES_MAX + 1);
        for bad in ["", ".", "..", "-x", "_x", "A", "a b", "a/b", "é", "a\0", long.as_str()] {
            assert_eq!(check_namespace(bad), Err(KeyError::NamespaceInvalid { name: bad.into() }));
        }
        let Err(KeyError::NamespaceInvalid { name }) = check_namespace(&"é".repeat(100_000)) else {
            panic!()
        };
        assert!(name.len() <= 4 * (NAMESPACE_BYTES_MAX + 1), "what is refused is not carried along whole");
    }

    #[test]
    fn every_limit_holds_at_its_edge() {
        assert!(check_key(&[0]).is_ok() && check_key(&[0; KEY_BYTES_MAX]).is_ok());
        assert_eq!(check_key(&[]), Err(KeyError::KeyLength { len: 0 }));
        assert_eq!(check_key(&[0; KEY_BYTES_MAX + 1]), Err(KeyError::KeyLength { len: 1025 }));
        assert!(check_value(&[]).is_ok() && check_value(&vec![0; VALUE_BYTES_MAX]).is_ok());
        let over = VALUE_BYTES_MAX + 1;
        assert_eq!(check_value(&vec![0; over]), Err(KeyError::ValueTooLarge { len: over as u64 }));
        assert!(check_ttl(TTL_MIN_MS).is_ok() && check_ttl(TTL_MAX_MS).is_ok());
        for ttl_ms in [0, TTL_MAX_MS + 1, u64::MAX] {
            assert_eq!(check_ttl(ttl_ms), Err(KeyError::TtlInvalid { ttl_ms }));
        }
    }

    #[test]
    fn a_text_says_what_is_and_what_to_do() {
        let failed = |condition, current| KeyError::ConditionFailed { condition, current };
        let table = [
            (
                failed(Condition::IfVersion(5), Some(7)),
                "at version 7, and the write was to be done only at version 5",
            ),
            (
                failed(Condition::IfAbsent, Some(7)),
                "exists, at version 7, and the write was to be done only if it did not",
            ),
            (
                failed(Condition::IfPresent, None),
                "does not exist or has expired, and the write was to be done only if it did:",
            ),
            (
                KeyError::Full { used_bytes: 9, needed_bytes: 2 },
                "holds 9 bytes, and 2 more would pass its limit of 268435456: delete keys",
            ),
            (KeyError::TtlInvalid { ttl_ms: 0 }, "1 ms to 10 years (315619200000 ms), not 0 ms"),
            (KeyError::ValueTooLarge { len: 2_000_000 }, "at most 1044480 bytes, this one 2000000: split it"),
            (KeyError::KeyLength { len: 0 }, "1 to 1024 bytes, this one 0"),
            (KeyError::PageLimit { limit: 0 }, "1 to 1000 keys, not 0"),
            (
                KeyError::NamespaceInvalid { name: "A".into() },
                "\"A\" is not the name of a namespace: use 1 to 64",
            ),
            (KeyError::NotFound, "set it first"),
        ];
        for (error, expected) in table {
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
