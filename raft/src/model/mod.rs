//! Pure rules of a fleet: who is in it, who votes, who is alive. No I/O, no clock, no randomness.

pub mod detector;
pub mod ids;
pub mod membership;
pub mod ring;
pub mod token;
pub mod voters;
