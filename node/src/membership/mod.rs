//! Keeps the control group's membership as the records say it should be, admits joiners, and tells the fleet about this node.
//!
//! Must never: change the membership anywhere but on the leader, or hold a decision in memory only: every step can be taken up by
//! the next leader from the state alone.

pub(crate) mod admission;
mod announce;
pub(crate) mod join_protocol;
mod peers;
mod reconcile;

pub(crate) use announce::Announcer;
pub(crate) use peers::follow_members;
pub(crate) use reconcile::Reconciler;
