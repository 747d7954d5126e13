//! One Longshore node: Docker execution, operations, HTTP API and command line over the raft crate.
//!
//! Imports: storage <- raft <- model <- node. Effects on the outside world are carried out through ports only.

pub mod api;
pub mod cli;
pub mod config;
pub mod docker;
pub mod load;
pub mod logging;
pub mod node;
pub mod system;
mod wire;

mod builds;
mod core;
mod credentials;
mod engines;
mod history;
mod inventory;
mod membership;
mod node_store;
mod operations;
mod ring;
mod service;

pub use node_store::{NodeStoreError, Owner, owner_of};
