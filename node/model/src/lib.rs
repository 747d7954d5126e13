//! Pure domain model: image references, operations, and the control group's state machine.
//!
//! Must never: read a clock, draw randomness, do I/O, or iterate a map with random order. Time is log time, an argument.

pub mod codec;
pub mod control;
pub mod image;
pub mod operations;
