//! The history of operations: what became of them, for longer than their groups keep it.
//!
//! Every node records the operations that have ended in the groups of which it has a replica, in tables of its own, and gives them out to any node that is
//! asked for what the groups have forgotten. Level-triggered: what the replicas hold is compared with what is recorded, so that a lost table is
//! made anew as far as they reach. Must never: be asked for what a group still has, or be waited for by one.

mod asking;
mod calls;
mod recorder;
mod records;
#[cfg(test)]
mod tests;

pub(crate) use asking::{Histories, merged, reaches_beyond};
pub(crate) use recorder::History;
