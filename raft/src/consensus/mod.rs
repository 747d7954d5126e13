//! Raft groups over openraft: the only module that names it.
//!
//! A [`group::Group`] is one replica: it agrees with its peers on a typed [`machine::StateMachine`], keeps its log in a
//! `LogStore`, its snapshot in [`snapshots::Snapshots`], and talks through the transport. A node has one
//! [`router::Router`], which hands incoming messages to its groups, and one [`monitor::Monitor`], which finds dead peers.

pub(crate) mod codec;
pub mod config;
pub mod group;
pub mod inspect_log;
pub mod inspect_wire;
pub mod machine;
pub mod monitor;
pub mod remote;
pub mod router;
pub mod runtime;
pub mod snapshots;

mod ballots;
mod changes;
mod client;
mod clients;
mod confirm;
mod core;
mod elect;
mod inbox;
mod link;
mod log;
mod network;
mod news;
mod promises;
mod proposer;
mod queue;
mod quiesce;
mod quiesce_leader;
mod reads;
mod route;
mod session;
mod snapshot_transfer;
mod state;
#[cfg(test)]
mod storage_tests;
mod transfer;
mod types;
mod wake;
mod wire;
