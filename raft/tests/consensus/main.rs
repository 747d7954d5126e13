//! Groups of several replicas in one process, over the memory transport, mostly in virtual time.

mod common;
mod exactly_once;
mod failover;
mod members;
mod power;
mod reads;
mod remote;
mod rest;
mod rest_faults;
mod snapshots;
mod storm;
mod watching;
