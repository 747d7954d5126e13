//! The `longshore-sim` binary.

fn main() {}
