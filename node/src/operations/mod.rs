//! Carries out this node's sub-operations through the container engine.
//!
//! Level-triggered: what to do is read off the replicated state, never remembered from an event, so that a node that restarts or
//! falls behind picks up by itself. Must never: start work without a lease, or go on with it when the lease has ended.

mod attempt;
mod executor;
mod lease;

pub(crate) use executor::Executor;
