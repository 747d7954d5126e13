//! The control group's state machine: the fleet's identity, its members, join tokens, the ring and, until they
//! move to it, operations.
//!
//! Invariants: deterministic; total (a bad command is a [`Refusal`], never a panic); secrets are kept only as hashes, except the
//! authority's key, which every member needs in order to admit others, and what is sealed with a key made of that. Must never: decide who is alive.

pub mod command;
pub mod credentials;
pub mod led;
pub mod ring;
pub mod state;
pub mod token;

pub use command::*;
pub use credentials::{CredentialRecord, Credentials};
pub use led::{Led, LedGroups, Office};
pub use ring::{RingCommand, RingShape, node_spec};
pub use state::ControlState;
pub use token::{TokenRecord, TokenState};
