//! Engines of the whole fleet: what nodes ask of each other's, and the care for the containers that the fleet made.
//!
//! [`Desk`] answers for this node's engine, [`Engines`] asks any node's, [`Caretaker`] brings what this engine runs in line with what the log says.
//! Must never: make a container (that is an operation's, under its lease), or touch one that is not the fleet's unless a person named it.

mod calls;
mod care;
mod caretaker;
mod desk;
mod fleet;
mod streams;

pub(crate) use calls::{
    CallError, CallErrorKind, EngineCall, EngineReply, Listing, OutputPiece, SeenLast, StreamEnd,
};
pub(crate) use care::Care;
pub(crate) use caretaker::Caretaker;
pub(crate) use desk::Desk;
pub(crate) use fleet::{EngineStream, Engines};
