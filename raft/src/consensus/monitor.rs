//! Heartbeats.
