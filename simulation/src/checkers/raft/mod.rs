//! The invariants of Raft (Ongaro and Ousterhout, "In Search of an Understanding Consensus Algorithm", figure 3), from what replicas say
//! of themselves and, above all, from what their disks durably hold.
//!
//! Durable logs of different hosts are taken at different moments. Two facts make conclusions certain all the same: once an
//! index was reported committed, a quorum held it *from then on*; and a log that lacks it at any later moment lacked it at
//! that one. Each group is one such history; its replicas have ids that no other group has.

mod commits;
mod elections;
mod logs;
#[cfg(test)]
mod model_tests;
mod states;
#[cfg(test)]
mod tests;

pub use elections::Elections;
pub use logs::Logs;
pub use states::States;

use crate::observation::DurableLog;

/// Indices that a log holds in one form or the other are below this.
fn held_below(log: &DurableLog) -> u64 {
    let last = log.entries.last_key_value().map(|(index, _)| *index);
    last.max(log.snapshot).max(log.purged).map_or(0, |index| index + 1)
}
