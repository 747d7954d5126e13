//! Pure domain model: image references, operations, and the control group's state machine. No I/O, no clock, no randomness.

pub mod image;
