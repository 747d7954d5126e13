//! Groups of several replicas in one process, over the memory transport, mostly in virtual time.

mod common;
mod exactly_once;
mod failover;
mod members;
mod power;
mod quiescence;
mod quiescence_faults;
mod quiescence_random;
mod reads;
mod remote;
mod snapshots;
mod storm;
mod traffic;
mod transfer;
mod watching;
