//! A node from start to end: who it is, what it is made of, and how it stops.
//!
//! `Node::run` is the whole product minus the operating system: everything outside comes in through [`Ports`]. Must never: reach
//! around a port.

mod error;
mod ports;
mod run;
mod start;

pub use error::NodeError;
pub use ports::{
    ApiDoor, Network, NodeOptions, Observer, OpenTables, Ports, ReplicaView, Seed, StartedCommitter,
};
pub use run::{Event, Exit, Node};
pub use start::Start;
