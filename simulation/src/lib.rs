//! Deterministic simulation: the whole fleet, production code from `Node::run` down, in one thread under virtual time.
//!
//! ```text
//! seed, profile -> plan (an explicit schedule of faults) -> simulate: world of hosts, each running `Node::run` on fake ports
//!                                                             |-> trace (hashed: same seed, same hash)
//!                                                             |-> observations -> checkers -> verdict
//! ```
//!
//! Nothing below this crate knows of it. Must never: draw on the machine's clock, randomness or sockets inside a run.

pub mod batch;
pub mod capsule;
pub mod checkers;
pub mod cli;
pub mod disk;
pub mod engine;
pub mod mutants;
pub mod network;
pub mod observation;
pub mod plan;
pub mod random;
pub mod recorder;
pub mod request;
pub mod result;
pub mod runtime;
pub mod simulate;
pub mod trace;
pub mod workload;
pub mod world;
