//! Pure domain model: image references, operations, keys, and the state machines of the control group and of those with partitions.
//!
//! Must never: read a clock, draw randomness, do I/O, or iterate a map with random order. Time is log time, an argument.

pub mod blocks;
pub mod codec;
pub mod container;
pub mod control;
pub mod image;
pub mod keys;
pub mod operations;
pub mod partition;
