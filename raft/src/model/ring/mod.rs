//! The ring: which keys belong to which group, and which nodes hold each group. Pure, and part of the control group's state.
//!
//! A key hashes to a slot, 64 slots are a partition, neighbouring partitions are a group, and a table says which replicas on which
//! nodes make up each group, and which should. [`table::Ring`] is that record and its transitions; the other modules work out
//! what to put in it: [`assign`] where replicas should be, [`schedule`] which step to take next, [`leaders`] who should
//! lead. Must never: judge who is alive, look at a clock, or carry anything out. Whoever acts reads the record.

pub mod assign;
pub mod change;
pub mod check;
pub mod error;
mod flow;
pub mod leaders;
pub mod quota;
pub mod schedule;
pub mod show;
pub mod slot;
pub mod table;

#[cfg(test)]
mod assign_tests;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod ring_tests;
#[cfg(test)]
mod test_fleet;

pub use assign::{Layout, NodeSpec};
pub use error::RingError;
pub use slot::{GroupCount, PartitionId, Slot, partition_of, slot_of};
pub use table::{Change, ChangeId, Placement, Plan, Ring, Step};
