//! Agreement between nodes: pure models, the openraft glue, and the transport between peers.
//!
//! `model` is pure. `consensus` is the only place that names openraft, `transport` the only one that names quinn.
//! Imports: storage <- raft; within: model <- transport <- consensus.

pub mod consensus;
pub mod model;
pub mod transport;

pub use consensus::runtime::Runtime;
pub use model::ids::{ClientId, FleetId, GroupId, NodeId, ReplicaId};
