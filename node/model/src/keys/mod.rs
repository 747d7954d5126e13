//! Strongly consistent keys: the part of a group's state that holds them, its commands, reads and limits.
//!
//! A key lives in the partition that its hash says, ordered there by (namespace, key). Each write gives it a version, which
//! rises for ever, over deletions too. A time to live ends in log time: from then on reads and conditions take the key for
//! absent, and a logged sweep removes it. Must never: let anything but command, state and log time decide.

pub mod command;
pub(crate) mod image;
pub mod limits;
pub mod scan;
mod shard;
pub mod table;
pub mod value;

#[cfg(test)]
mod scan_tests;
#[cfg(test)]
mod table_tests;

pub use command::{Condition, KeyCommand, KeyReply, Lifetime};
pub use limits::KeyError;
pub use scan::{Found, Page, PageEntry, Scan};
pub use table::{KeyStats, Keys, PartitionStats};
pub use value::Value;
